"""Which splits a fine-tuning learns from that does not say: of data without a split `sft`, `train`."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.methods.sft import Sft
from workflow_scripts.study.study import Study


def settle_splits(study: Study, folder: Path) -> Iterator[Finding]:
    """Take `train` where a run leaves its split to the default, and the data have none by that name; validate on
    nothing where they have no split `validation` and the run asks for none."""
    for name, run in study.runs.items():
        if not isinstance(run, Sft) or run.dataset not in study.datasets:
            continue
        splits = study.datasets[run.dataset].splits(study)
        if "split" not in run.model_fields_set and run.split not in splits and "train" in splits:
            run.split = "train"
            yield doubt(f"runs.{name}", f"learns from split train: {run.dataset} has no split sft")
        if "validation" not in run.model_fields_set and run.validation not in splits:
            run.validation = None
            yield doubt(f"runs.{name}", f"validates on nothing: {run.dataset} has no split validation")
