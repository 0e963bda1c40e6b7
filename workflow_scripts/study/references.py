"""Every name in a study looked up, and what its names come to: lineages, folders and files, of which no two are one."""

from collections.abc import Iterable, Iterator

from workflow_scripts.study.lineage import (
    LONGEST_LINEAGE,
    MOST_POLICIES,
    cycles_of,
    extent_of,
    has_lineages,
)
from workflow_scripts.study.messages import shown
from workflow_scripts.study.names import Names
from workflow_scripts.study.policies import names_of_adopted
from workflow_scripts.study.seeds import SeedsUntil
from workflow_scripts.study.study import Study

# of what a policy answers or learns from beside its name, and room for seed, ending and what is unfinished
LONGEST_TOGETHER = 215


def references(study: Study, lost: Iterable[str] = ()) -> list[str]:
    """Return a sentence for each name in the study that refers to nothing, or to two things.

    `lost` names parts that were left out for mistakes of their own: nobody is wrong to name them.
    """
    need = Names(study, lost)
    for section, name, part in study.parts():
        part.names(f"{section}.{name}", need)
    study.report.names("report", need)
    if isinstance(study.seeds, SeedsUntil):
        study.seeds.names("seeds", need)
    names_of_adopted(need)
    prompts_of_one_name(need)
    for cycle in cycles_of(study):
        need.refuse(f"runs.{cycle[0]}.parent", f"a cycle of parents ({' → '.join(cycle)})")
    if has_lineages(study):
        lengths_of_names(need)
    return need.wrong


def prompts_of_one_name(need: Names) -> None:
    """Refuse a benchmark that is called as the prompts of pairs, of a value head or of a run are."""
    for name in need.study.benchmarks:
        for prefix, section in {
            "pairs": "pairs",
            "values": "values",
            "runs": "runs",
            "watch": "runs",
        }.items():
            own = name.removeprefix(f"{prefix}-")
            if name != own and own in getattr(need.study, section):
                need.refuse(f"benchmarks.{name}", f"the prompts of {section}.{own} have this name")


def lengths_of_names(need: Names) -> None:
    """Refuse more policies, and longer names of them, than there can be folders and files."""
    count, length = extent_of(need.study)
    if count > MOST_POLICIES:
        need.refuse(
            "runs",
            f"define {shown(count)} policies, one for each parent of each parent; at most {MOST_POLICIES}",
        )
    if length > LONGEST_LINEAGE:
        need.refuse(
            "runs",
            f"a lineage has a name of {length} characters, which is that of its folder; at most "
            f"{LONGEST_LINEAGE}: fewer generations, or shorter names",
        )
        return
    length = max([length, *(len(part.row(name)) for name, part in need.study.again.items())])
    beside = named_beside_policies(need.study)
    path, longest = max(beside, key=lambda found: len(found[1]), default=("", ""))
    if length + len(longest) > LONGEST_TOGETHER:
        need.refuse(
            path,
            f"{length} characters of the longest lineage and {len(longest)} of this make the name of a file; "
            f"at most {LONGEST_TOGETHER} together: shorten one",
        )


def named_beside_policies(study: Study) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of what stands beside a policy's name in the names of files."""
    for name in study.benchmarks:
        yield f"benchmarks.{name}", name
    for name in study.pairs:
        yield f"pairs.{name}", f"pairs-{name}"
    for name, run in study.runs.items():
        if found := run.file_beside():
            key, text = found
            yield f"runs.{name}.{key}", text
