"""A last look before the first job: templates whose end is no token of a model that was fetched or prepared before."""

from pathlib import Path

from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.sources import base_model, source_folder
from workflow_scripts.study.messages import mistakes
from workflow_scripts.study.template_ends import FILES, added_tokens, lacking


def tokens_here(plan: Plan, name: str) -> frozenset[str] | None:
    """Return the added tokens of a base model, from its own folder or its source's; None where neither is here yet."""
    model = plan.study.models[name]
    folders = [f"{base_model(plan, name)}/model"]
    if model.format == "hf":
        folders.append(f"{source_folder(plan, model.source)}/files")
    for folder in map(Path, folders):
        files = {file: folder / file for file in FILES if (folder / file).is_file()}
        if FILES[0] in files:
            return added_tokens(files)
    return None


def check_ends(plan: Plan, origin: str) -> None:
    """Raise PlumblineError that names every template whose end a model on this machine has not."""
    found = [finding.text for finding in lacking(plan.study, lambda name: tokens_here(plan, name))]
    if found:
        raise mistakes(origin, found)
