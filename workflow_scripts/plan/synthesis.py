"""Sources that a model writes: what is asked of whom, what rows are made of, which benchmarks they keep clear of.

A written source is the study's own: it rests on its rows, its judges and its benchmarks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.overlap import items_file, items_input
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.prompts import dataset_of
from workflow_scripts.plan.sources import source_file, source_manifest
from workflow_scripts.plan.words import as_json, settings
from workflow_scripts.study.datasets import Dataset
from workflow_scripts.study.judges import Judge
from workflow_scripts.study.mixtures import Mixture
from workflow_scripts.study.synthesis import WRITTEN, Synthesis


def all_written(plan: Plan) -> list[str]:
    """Return the sources that a model writes."""
    return [name for name, part in plan.study.sources.items() if part.synthesise]


def synthesis(plan: Plan, written: str) -> Synthesis:
    return plan.study.sources[written].synthesise


def writer(plan: Plan, written: str) -> Judge:
    return plan.study.judges[synthesis(plan, written).judge]


# --- what is written about --------------------------------------------------------------------------------------------


def written_about(plan: Plan, written: str) -> list[str]:
    """Return the file of the rows that are written about, none where there are none."""
    rows = synthesis(plan, written).rows
    if rows is None:
        return []
    if rows.dataset:
        return [plan.layout.rows(rows.dataset, rows.split)]
    return [source_file(plan, rows.source, rows.file)]


def about_words(plan: Plan, written: str) -> list[Word]:
    return [plan.layout.word(path) for path in written_about(plan, written)]


def about_input(plan: Plan, written: str) -> list[str]:
    """Return what the rows that are written about are stale by."""
    rows = synthesis(plan, written).rows
    if rows is None:
        return []
    if rows.dataset:
        return [f"{plan.layout.clean(rows.dataset)}/manifest.json"]
    return [source_manifest(plan, rows.source)]


# --- what is asked ----------------------------------------------------------------------------------------------------


def recorded(plan: Plan, written: str) -> list[str]:
    """Return the file of recorded replies, if there is one."""
    return [file] if (file := writer(plan, written).recordings()) else []


def writer_settings(plan: Plan, written: str) -> str:
    """Return what the model's replies depend on, as JSON."""
    judge = writer(plan, written)
    return settings(judge, keys=judge.verdict_keys, name=synthesis(plan, written).judge)


def asking(plan: Plan, written: str) -> dict[str, Any]:
    part = synthesis(plan, written)
    keys = ("prompt_as", "count", "samples", "limit", "seed")
    wordings = {
        name: {"prompt": wording.prompt, "system": wording.system}
        for name, wording in part.wordings().items()
    }
    asked = {name for key, name in part.row_fields()}
    return {key: getattr(part, key) for key in keys} | {
        "wordings": wordings,
        "cleaned": part.rows is not None and part.rows.dataset is not None,
        "needs": sorted(asked),
    }


def writing_settings(plan: Plan, written: str) -> str:
    """Return what is asked, as JSON."""
    return as_json(asking(plan, written))


def made_of(plan: Plan, written: str) -> dict[str, dict[str, Any]]:
    """Return what a row is made of, by variant."""
    return {name: dict(wording.into or {}) for name, wording in synthesis(plan, written).wordings().items()}


def written_settings(plan: Plan, written: str) -> str:
    """Return how rows are made of replies, as JSON."""
    judge = writer(plan, written)
    keys = ("answer", "min_chars", "max_chars", "differs_from", "reject_phrases")
    return settings(
        synthesis(plan, written),
        keys=keys,
        into=made_of(plan, written),
        writer={"model": judge.model, "version": judge.version},
    )


# --- what rows keep clear of ------------------------------------------------------------------------------------------


def files_of(part: Dataset | Mixture) -> set[str]:
    """Return the sources whose files a dataset is made of: its rows', and its passages'."""
    if isinstance(part, Mixture):
        return set()
    return {part.source, *([part.retrieve.source] if part.retrieve else [])}


def datasets_before(part: Dataset | Mixture) -> set[str]:
    """Return the datasets that a dataset is made after: those it is mixed of, or keeps groups out of."""
    return (
        set(part.mixture)
        if isinstance(part, Mixture)
        else {held.split("/")[0] for held in part.exclude_groups_of}
    )


def made_from(plan: Plan, written: str) -> tuple[set[str], set[str]]:
    """Return (datasets, sources) that rest on a written source, straight or through others, itself among them."""
    study = plan.study
    datasets: set[str] = set()
    sources: set[str] = {written}
    while True:
        more = {
            name
            for name, part in study.datasets.items()
            if sources & files_of(part) or datasets & datasets_before(part)
        }
        abouts = {name: synthesis(plan, name).rows for name in all_written(plan)}
        further = {
            name
            for name, rows in abouts.items()
            if rows and (rows.source in sources or rows.dataset in datasets)
        }
        if more <= datasets and further <= sources:
            return datasets, sources
        datasets, sources = datasets | more, sources | further


def kept_clear_of(plan: Plan, written: str) -> list[str]:
    """Return the benchmarks whose items must not be written: all but those on rows that a model wrote.

    Those would have to be written first, and of two sources each would wait for the other.
    """
    if not synthesis(plan, written).decontaminate:
        return []
    own = [made_from(plan, name) for name in all_written(plan)]
    datasets, sources = (set().union(*parts) for parts in zip(*own, strict=True))
    return [
        name
        for name, part in plan.study.benchmarks.items()
        if dataset_of(plan, part) not in datasets and getattr(part, "source", None) not in sources
    ]


def items_inputs(plan: Plan, written: str) -> list[str]:
    return [items_input(plan, name) for name in kept_clear_of(plan, written)]


def items_words(plan: Plan, written: str) -> list[Word]:
    return [plan.layout.word(f"{name}={items_file(plan, name)}") for name in kept_clear_of(plan, written)]


# --- what it will take ------------------------------------------------------------------------------------------------


def lineage(plan: Plan, written: str) -> list[str]:
    """Return the written sources that a source's rows come of as they stand, the first of them first, and itself."""
    rows = synthesis(plan, written).rows
    before = rows.source if rows else None
    if before is None or not plan.study.sources[before].synthesise:
        return [written]
    return [*lineage(plan, before), written]


def first_words(plan: Plan, written: str) -> list[Word]:
    """Return the files that the first of a lineage writes about."""
    return about_words(plan, lineage(plan, written)[0])


def first_input(plan: Plan, written: str) -> list[str]:
    return about_input(plan, lineage(plan, written)[0])


def writings_before(plan: Plan, written: str) -> str:
    """Return the writings that a source's rows come of, as JSON."""
    return as_json(
        {
            "writings": [
                {
                    "settings": asking(plan, name),
                    "max_tokens": writer(plan, name).max_completion_tokens or writer(plan, name).max_tokens,
                    "into": made_of(plan, name),
                    "written": plan.layout.with_variables(source_file(plan, name, WRITTEN)),
                }
                for name in lineage(plan, written)[:-1]
            ]
        }
    )


def used(plan: Plan) -> list[str]:
    """Return the written sources that a dataset, a model or a benchmark has its files from, straight or not."""
    study = plan.study
    taken = {
        part.source
        for part in [*study.models.values(), *study.benchmarks.values()]
        if hasattr(part, "source")
    }
    found = []
    for name in all_written(plan):
        datasets, sources = made_from(plan, name)
        if datasets or sources & taken:
            found.append(name)
    return found


def written_behind(plan: Plan, rows: Iterable[str]) -> list[str]:
    """Return the written sources that rows, each dataset/split, rest on."""
    datasets = {name.partition("/")[0] for name in rows}
    return [name for name in all_written(plan) if made_from(plan, name)[0] & datasets]


def countable(plan: Plan, waiting: Sequence[str]) -> list[str]:
    """Return the written sources whose requests can be counted while others, `waiting`, are not there yet.

    The rows of a dataset have to be there; those of a writing before this one are stood in for.
    """
    found = []
    for name in all_written(plan):
        rows = synthesis(plan, lineage(plan, name)[0]).rows
        needed = [other for other in waiting if rows and rows.dataset in made_from(plan, other)[0]]
        if not needed:
            found.append(name)
    return found


def writing_plans(plan: Plan, waiting: Sequence[str]) -> list[dict[str, Any]]:
    """Return one entry per written source whose requests can be counted."""
    return [
        {
            "policy": "",
            "seed": "",
            "benchmark": f"sources.{name}",
            "judge": synthesis(plan, name).judge,
            "file": plan.layout.writing(name),
        }
        for name in countable(plan, waiting)
    ]
