"""Adopted policies: whose weights are taken as they are found, in place of a training, and from which folder."""

import os
from pathlib import Path

from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.policies import remote_code, template
from workflow_scripts.plan.words import as_json

READ = (".safetensors", ".json", ".model", ".txt", ".jinja", ".py")  # by the ends of their names


def adopted(plan: Plan) -> list[str]:
    """Return the policies whose weights are adopted."""
    return list(plan.study.adopt)


def checkpoint(plan: Plan, policy: str, seed: int | str) -> str:
    """Return the folder that a policy's weights are taken from."""
    folders = plan.study.adopt[policy]
    return folders[str(seed)] if isinstance(folders, dict) else folders


def checkpoint_files(plan: Plan, policy: str, seed: int | str) -> list[str]:
    """Return the files of a checkpoint, by which an adopted policy is stale: a look at the disk."""
    folder = Path(checkpoint(plan, policy, seed))
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    files = [folder / name for name in names if name.endswith(READ) and not name.startswith(".")]
    return [str(path) for path in files if path.is_file()]


def checkpoint_name(plan: Plan, policy: str, seed: int | str) -> str:
    """Return what a checkpoint is called where it comes from, wherever that is on this machine."""
    return Path(checkpoint(plan, policy, seed)).name


def adopting_settings(plan: Plan, policy: str) -> str:
    """Return how an adopted policy is spoken to, as JSON."""
    return as_json({"template": template(plan, policy), "trust_remote_code": remote_code(plan, policy)})
