"""The values that any part of a study may hold: names, paths, numbers within bounds; unknown keys are mistakes."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME, COMMIT, PIN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$", r"^[0-9a-f]{40}$", r"^([0-9a-f]{64}|git:[0-9a-f]{40})$"
PYPI, NPM = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", r"^(@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*$"
REPOSITORY = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$"
VERSION = r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATTERNS = {
    NAME: "a name of letters, digits, _ and - (dots join the names of a lineage)",
    COMMIT: "a full commit hash, 40 hex digits: a branch or a tag can move",
    PIN: "a sha256 (64 hex digits), git:… with an object id (40), or null",
    PYPI: "a package's name, of letters, digits, dots, _ and -",
    NPM: "a package's name, @scope/name or name, in lower case",
    REPOSITORY: "a repository's name, owner/name",
    VERSION: "a version, of letters, digits and . _ + ! -",
    VARIABLE: "the name of an environment variable, of letters, digits and _",
}
LONGEST_NAME = 100  # characters of a name: several make the name of a file
LONGEST_FILE = (
    200  # bytes of a file's name: what is unfinished has more at its end, and 255 is all there can be
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def plain_path(path: str) -> str:
    """Return a path that a job can get as an argument, and Snakemake as an input; ValueError for any other."""
    if not path or CONTROL.search(path):
        raise ValueError(f"must be a path in one line of text, not {path!r}")
    refuse_long(path)
    if path.startswith("-"):
        raise ValueError(f"reads as an option: write ./{path}")
    if "{" in path or "}" in path:
        raise ValueError(f"has braces, which Snakemake takes for wildcards: rename {path!r}")
    return path


def refuse_long(path: str) -> None:
    """Raise ValueError for a path that has a name no file can have."""
    longest = max(len(part.encode(errors="surrogatepass")) for part in path.split("/"))
    if longest > LONGEST_FILE:
        raise ValueError(f"has a name of {longest} bytes; at most {LONGEST_FILE}")


def plain_name(name: str) -> str:
    """Return a file's name that stays in the folder it is put into or looked for; ValueError for any other."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(f"must stay in its folder: relative, without .. and backslashes, not {name!r}")
    if CONTROL.search(name):
        raise ValueError(f"must be a file's name in one line of text, not {name!r}")
    refuse_long(name)
    return name


Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
RepositoryPath = Annotated[str, AfterValidator(plain_path)]
FileName = Annotated[str, AfterValidator(plain_name)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
SomeShare = Annotated[float, Field(gt=0, le=1)]  # none at all would leave nothing
PartShare = Annotated[float, Field(ge=0, lt=1)]  # all of it would leave nothing
Words = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Strict(BaseModel):
    """A part of the study: unknown keys are mistakes, and text is never read as a number."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def said(self) -> set[str]:
        """Return the keys that say something else than their default: a study written out whole is the same study."""
        fields = type(self).model_fields
        return {
            key
            for key in self.model_fields_set
            if getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }


Fidelity = Literal["paper", "code"]
