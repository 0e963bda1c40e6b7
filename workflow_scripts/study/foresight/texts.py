"""Plain texts (schema `text`) where questions and answers are wanted."""

from collections.abc import Iterator

from workflow_scripts.study.datasets import TEXTS, schemas_of
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.study import Study


def texts_without_questions(study: Study) -> Iterator[Finding]:
    """Find what asks, rewards or pairs rows without a question: only a run with objective: lm may read them."""
    reading = [
        (f"{section}.{name}", getattr(part, "dataset", None))
        for section, name, part in study.parts(
            "reward_models", "annotations", "pairs", "values", "benchmarks"
        )
    ]
    reading += [(f"runs.{name}.watch", run.watch.dataset) for name, run in study.runs.items() if run.watch]
    for name, source in study.sources.items():
        rows = source.synthesise.rows if source.synthesise else None
        reading.append((f"sources.{name}.synthesise.rows", rows.dataset if rows else None))
    for path, dataset in reading:
        if dataset in study.datasets and set(schemas_of(study, dataset)) & set(TEXTS):
            yield wrong(
                f"{path}.dataset",
                f"{dataset!r} has plain texts (schema text), which are no question and no answer: a run with "
                "objective: lm learns them, and nothing else reads them",
            )
