"""What a study defines: its policies by lineage, and for which seeds they exist."""

import graphlib
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from workflow_scripts.study.methods import Run
    from workflow_scripts.study.study import Study

CALIBRATION = ("gold", "empty")  # scored beside the policies
MOST_POLICIES = 2000
LONGEST_LINEAGE = 200  # characters: it is the name of a folder


class Policy(BaseModel):
    """A model that can speak: its parent plus one method (both None for a base model)."""

    name: str
    model: str
    parent: str | None = None
    run: str | None = None
    method: str | None = None


def parents_of(run: "Run") -> list[str]:
    """Return the models and runs that a run starts from."""
    return [run.parent] if isinstance(run.parent, str) else run.parent


def policies_of(study: "Study") -> dict[str, Policy]:
    """Return every policy by lineage name, parents before children, in the order of the study."""
    policies = {name: Policy(name=name, model=name) for name in study.models}
    lineages = {name: [name] for name in study.models}

    def expand(name: str) -> list[str]:
        if name not in lineages:
            run = study.runs[name]
            lineages[name] = []
            for lineage in [lineage for parent in parents_of(run) for lineage in expand(parent)]:
                child = f"{lineage}.{name}"
                model = policies[lineage].model
                policies[child] = Policy(name=child, model=model, parent=lineage, run=name, method=run.method)
                lineages[name].append(child)
        return lineages[name]

    for name in study.runs:
        expand(name)
    return policies


def seeds_of(study: "Study", policy: Policy) -> list[int]:
    """Return the seeds a policy may exist for: a base model is one thing, a trained one exists per seed."""
    return study.all_seeds() if policy.parent else study.first_seeds()[:1]


def cycles_of(study: "Study") -> list[list[str]]:
    """Return each cycle of parents as the runs along it, the first one repeated at the end."""
    cycles: dict[frozenset, list[str]] = {}
    done: set[str] = set()
    for name in study.runs:
        path: list[str] = []
        due = [iter([name])]  # what is still to be followed: of the whole, then of each run on the path
        while due:
            step = next(due[-1], None)
            if step is None:
                due.pop()
                done.update(path[-1:])
                del path[-1:]
            elif step in path:
                cycle = [*path[path.index(step) :], step]
                cycles.setdefault(frozenset(cycle), cycle)
            elif step in study.runs and step not in done:
                path.append(step)
                due.append(iter(parents_of(study.runs[step])))
    return list(cycles.values())


def extent_of(study: "Study") -> tuple[int, int]:
    """Return (how many policies a study without cycles defines, the length of the longest lineage name)."""
    parents = {name: parents_of(run) for name, run in study.runs.items()}
    count = dict.fromkeys(study.models, 1)
    length = {name: len(name) for name in study.models}
    for name in graphlib.TopologicalSorter(parents).static_order():
        if name in parents:
            count[name] = sum(count[parent] for parent in parents[name])
            length[name] = max(length[parent] for parent in parents[name]) + 1 + len(name)
    return sum(count.values()), max(length.values())


def has_lineages(study: "Study") -> bool:
    """Tell whether every run descends from a model: lineages exist only where every parent does."""
    known = study.models.keys() | study.runs.keys()
    return not cycles_of(study) and all(
        parents_of(run) and known.issuperset(parents_of(run)) for run in study.runs.values()
    )


def known_policies(study: "Study") -> dict[str, Policy] | None:
    """Return the policies of a study, or None where parents are wrong or there are too many."""
    if not has_lineages(study):
        return None
    count, length = extent_of(study)
    return policies_of(study) if count <= MOST_POLICIES and length <= LONGEST_LINEAGE else None


def models_under(study: "Study", policies: dict[str, Policy], section: str, name: str) -> list[str]:
    """Return the base models that read the rows of a part, and answer its prompts.

    Those under the policies that a run makes; of pairs and values, under those of the runs that use them; a benchmark
    is put to all, and a reward model is trained from one.
    """
    if section == "benchmarks":
        return list(study.models)
    if section == "reward_models":
        return [study.reward_models[name].parent]
    runs = {run for run, part in study.runs.items() if (section, name) in part.uses()}
    if section == "runs":
        runs.add(name)
    under = {policy.model for policy in policies.values() if policy.run in runs}
    return [model for model in study.models if model in under]
