"""Which splits of a study's datasets are learned from, asked, validated on and watched."""

from collections.abc import Iterator

from workflow_scripts.study.datasets import made_of
from workflow_scripts.study.study import Study

Rows = tuple[str, str]  # (dataset, split)


def learned_splits(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield (path of what learns, dataset, split) of all training data."""
    return splits_of(study, "reward_models", "values", "runs")


def tested_splits(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield (path of the benchmark, dataset, split) of all splits that are asked."""
    return splits_of(study, "benchmarks")


def watched_splits(study: Study) -> Iterator[tuple[str, str, str, str]]:
    """Yield (name of the run, path of its watch, dataset, split) of all that is watched, where there is the dataset."""
    for name, run in study.runs.items():
        rows = run.watch.rows(study) if run.watch else None
        if rows and rows[0] in study.datasets:
            yield name, f"runs.{name}.watch", *rows


def validated_splits(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield (path of the run, dataset, split) of all splits that are only validated on."""
    for name, run in study.runs.items():
        pairs = study.pairs.get(getattr(run, "pairs", None) or "")
        split = getattr(run, "validation", None) or getattr(pairs, "validation", None)
        rows = run.rows(study)
        if split and rows and rows[0] in study.datasets:
            yield f"runs.{name}", rows[0], split


def splits_of(study: Study, *sections: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, dataset, split) of the parts of these sections that read a split, where there is such a dataset."""
    for section, name, part in study.parts(*sections):
        rows = part.rows(study)
        if rows and rows[0] in study.datasets:
            yield f"{section}.{name}", *rows


def learned_rows(study: Study) -> set[Rows]:
    """Return the (dataset, split) that something learns from, of a mixture those that it is mixed of."""
    return parts_of(study, ((dataset, split) for _, dataset, split in learned_splits(study)))


def held_out_rows(study: Study) -> set[Rows]:
    """Return the (dataset, split) that are asked, validated on or watched, and that nothing learns from."""
    read = [(dataset, split) for _, dataset, split in tested_splits(study)]
    read += [(dataset, split) for _, dataset, split in validated_splits(study)]
    read += [(dataset, split) for _, _, dataset, split in watched_splits(study)]
    return parts_of(study, read) - learned_rows(study)


def parts_of(study: Study, rows: Iterator[Rows] | list[Rows]) -> set[Rows]:
    """Return rows with each mixture's in place of it those that it is mixed of."""
    return {(part, split) for dataset, split in rows for part in made_of(study, dataset)}
