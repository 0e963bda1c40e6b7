"""Which datasets have passages written into their rows, and what these are made of."""

from workflow_scripts.common.code import pins
from workflow_scripts.plan.cleaning import apart_folder, bare, cleaned, kept_apart
from workflow_scripts.plan.plan import TORCH, Plan
from workflow_scripts.plan.sources import source_file, source_folder, source_manifest
from workflow_scripts.plan.words import settings
from workflow_scripts.study.retrieval import Retrieval

READ_AS_PATHS = ("source", "file", "embed_source")


def retrieving(plan: Plan) -> list[str]:
    """Return the datasets whose rows get passages."""
    return [name for name in cleaned(plan) if plan.study.datasets[name].retrieve]


def _part(plan: Plan, dataset: str) -> Retrieval:
    part = plan.study.datasets[dataset].retrieve
    assert part
    return part


def cleaned_rows(plan: Plan, dataset: str) -> str:
    """Return the manifest of a dataset's rows before they get passages."""
    before = apart_folder(plan, dataset) if dataset in kept_apart(plan) else bare(dataset)
    return f"{plan.layout.clean(before)}/manifest.json"


def retrieved_from(plan: Plan, dataset: str) -> list[str]:
    """Return what passages are stale by beside the rows: the manifests of their source and of the encoder's."""
    part = _part(plan, dataset)
    return [source_manifest(plan, name) for name in (part.source, part.embed_source) if name]


def passages_file(plan: Plan, dataset: str) -> str:
    part = _part(plan, dataset)
    return source_file(plan, part.source, part.file)


def retrieval_settings(plan: Plan, dataset: str) -> str:
    """Return how passages are found and written, as JSON, the encoder's folder in place of its source."""
    part = _part(plan, dataset)
    folder = part.embed_source and f"{source_folder(plan, part.embed_source)}/files"
    return settings(part, drop=READ_AS_PATHS, embedder=folder)


def retrieval_pins(plan: Plan, dataset: str) -> dict[str, str]:
    """Return the packages whose version alters which passages are found."""
    return pins(*TORCH) if _part(plan, dataset).embed_source else pins("scikit-learn")
