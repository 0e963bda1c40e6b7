"""What a model hub says of a repository: its commit, and its files with what pins them. HF_ENDPOINT and HF_TOKEN are
honoured; a token that lies elsewhere on this machine is not sent."""

import fnmatch
import os
from collections.abc import Callable
from typing import Literal, NamedTuple

from workflow_scripts.download.transfer import TIMEOUT, Unavailable, patient, reasons_for, refusal
from workflow_scripts.download.unpack import refuse_unsafe_name

# What a hub repository taken whole may hold. Pickles and code are never fetched.
WHOLE = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "tokenizer*")
NEVER = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack", "*.py")

REPOSITORIES: dict[
    str, Callable
] = {  # by an hf place's `repo_type`: what the hub is asked about a repository with
    "model": lambda api: api.model_info,
    "dataset": lambda api: api.dataset_info,
}
RepoType = Literal["model", "dataset"]


class HubFile(NamedTuple):
    """A file of a repository: its size in bytes, sha256 (of large ones alone) and git object id, where the hub says."""

    name: str
    size: int | None
    sha256: str | None
    git: str | None

    @property
    def pin(self) -> str | None:
        """What pins it as a study's sources are pinned, or None where the hub does not say."""
        return self.sha256 or (f"git:{self.git}" if self.git and len(self.git) == 40 else None)


class Listing(NamedTuple):
    """A repository at a commit: the commit's 40 hex digits, and all files."""

    commit: str
    files: list[HubFile]


def refuse_offline() -> None:
    """Raise Unavailable where this machine's hub client is told not to ask."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise Unavailable("HF_HUB_OFFLINE is set")


def token() -> str:
    """Return the token that the hub is asked with, empty where there is none."""
    return os.environ.get("HF_TOKEN", "").strip()


def list_repository(repo: str, repo_type: RepoType, revision: str, pause: float = 1.0) -> Listing:
    """Return a repository's files at a branch, tag or commit; Unavailable with the reason where the hub gives none."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=constants.ENDPOINT, token=token() or False)
    ask = REPOSITORIES[repo_type](api)
    what = f"the hub's list of {repo}"
    for attempt in patient(pause):
        with attempt, reasons_for(what):
            try:
                info = ask(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
            except HfHubHTTPError as error:
                raise refusal(what, error.response) from error
            except (OSError, ValueError, KeyError) as error:
                raise Unavailable(f"{what}: {type(error).__name__}") from error
    return Listing(
        info.sha or "",
        [
            HubFile(entry.rfilename, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in info.siblings or []
        ],
    )


def taken_whole(files: list[HubFile], where: str) -> list[HubFile]:
    """Return the files of a repository that is taken whole; Unavailable for a name that could leave its folder."""
    wanted = []
    for file in files:
        base = file.name.rsplit("/", 1)[-1]
        if _fits(base, WHOLE) and not _fits(base, NEVER):
            refuse_unsafe_name(file.name, where)
            wanted.append(file)
    if not wanted:
        raise Unavailable(f"{where} holds no file of a kind that is fetched ({' '.join(WHOLE)})")
    return wanted


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)
