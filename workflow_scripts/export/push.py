"""An exported folder to a model hub: HF_ENDPOINT says which, HF_TOKEN who is asking. The token is never shown."""

import os
import re
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def ready_to_push(repository: str) -> Any:
    """Return the hub's client; PlumblineError before anything is written where it could not be used."""
    if not REPOSITORY.fullmatch(repository):
        raise PlumblineError(f"PUSH={repository}: a repository is owner/name, of letters, digits and . _ -")
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise PlumblineError("PUSH needs a token that may write: set HF_TOKEN in the environment")
    from huggingface_hub import HfApi  # here: who does not push waits for none of it

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)


def push(hub: Any, repository: str, folder: Path, policy: str) -> str:
    """Upload a folder, into a new repository that is private or into one that is there; return what was done."""
    token = hub.token
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        private = hub.repo_info(repository).private
        done = hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"Upload {policy} as exported by Plumbline"
        )
    except Exception as error:  # of the hub, of the way there, or of the library: all end the same way
        said = str(error).replace(token, "…") or type(error).__name__
        raise PlumblineError(
            f"{repository}: the upload failed: {said.strip()}; the folder is whole in {folder}: mend what is said, and "
            "upload it by hand, or export it anew"
        ) from None
    seen = "private" if private else "public: it was there before"
    return f"uploaded to {repository} ({seen}), commit {done.oid}"
