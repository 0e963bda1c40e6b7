"""Rounds: a run that goes on from itself, written out as that many runs, each the child of the one before."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.lineage import parents_of
from workflow_scripts.study.pairs import OwnPairs
from workflow_scripts.study.study import Study


def settle_rounds(study: Study, folder: Path) -> Iterator[Finding]:
    """Write out every run of several rounds: NAME becomes NAME-1, NAME-2 …, and whoever names NAME gets the last.

    Each round's parent, which is its reference and whose answers its pairs are made of, is the round before.
    """
    chains: dict[str, list[str]] = {}
    for name, run in study.runs.items():
        rounds = getattr(run, "rounds", None)
        if rounds is None:
            continue
        path, names = f"runs.{name}.rounds", [f"{name}-{number}" for number in range(1, rounds + 1)]
        part = study.pairs.get(run.pairs)
        if taken := [each for each in names if each in study.runs or each in study.models]:
            yield wrong(path, f"the rounds are called {', '.join(names)}, and {taken[0]!r} is there already")
        elif name in parents_of(run):
            yield wrong(f"runs.{name}.parent", f"a cycle of parents ({name} → {name})")
        elif part is not None and not isinstance(part, OwnPairs):
            yield wrong(
                path,
                f"{run.pairs!r} has the same pairs in each round: rounds are for pairs of a policy's own answers "
                "(from: samples, from: mistakes); take more epochs",
            )
        else:
            chains[name] = names
    if not chains:
        return
    runs = {}
    for name, run in study.runs.items():
        for before, each in zip([None, *chains.get(name, [])], chains.get(name, [name]), strict=False):
            values = {"rounds": None} if name in chains else {}
            runs[each] = run.model_copy(
                update=values | {"parent": before or renamed_parents(run, chains)}, deep=True
            )
    study.runs = runs
    rename_policies(study, chains)
    for name, names in chains.items():
        yield doubt(f"runs.{name}.rounds", f"makes the runs {', '.join(names)}; {name} stands for the last")


def renamed_parents(run, chains: dict[str, list[str]]) -> str | list[str]:
    """Return a run's parents, the last round in place of a run of several."""
    names = [chains[parent][-1] if parent in chains else parent for parent in parents_of(run)]
    return names[0] if isinstance(run.parent, str) else names


def rename_policies(study: Study, chains: dict[str, list[str]]) -> None:
    """Write out the rounds in every lineage that the study names: tiny.sft.dpo is tiny.sft.dpo-1.dpo-2 …"""

    def whole(policy: str | None) -> str | None:
        steps = [chains.get(step, [step]) for step in policy.split(".")] if policy else []
        return ".".join(step for part in steps for step in part) if policy else policy

    study.report.baseline = whole(study.report.baseline)
    for entry in study.report.published:
        entry.policy = whole(entry.policy)
    for benchmark in study.benchmarks.values():
        if getattr(benchmark, "opponent", None):
            benchmark.opponent = whole(benchmark.opponent)
