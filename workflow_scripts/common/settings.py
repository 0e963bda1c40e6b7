"""Reading what a rule hands to a script as `--settings`: the keys that the script takes, and the type of each.

A script writes its keys down as a TypedDict. None of them has a default there: the study's schema has it, and a rule
hands over every key. So a key that is missing, unknown or of another type is a mistake of ours, and is named.
"""

import json
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from workflow_scripts.common.errors import PlumblineError

STRICT = ConfigDict(extra="forbid", strict=True)


def settings_of(kind: Any) -> Callable[[str], Any]:
    """Return what reads a script's settings, for argparse's `type`: from JSON to a dict of the TypedDict `kind`.

    The dict is as it was written, a number neither rounded nor turned. PlumblineError, with the path to each key, if
    one is missing, is not among those of `kind`, or has another type.
    """
    adapter = TypeAdapter(with_config(STRICT)(kind))  # and so are the dicts inside it

    def read(text: str) -> Any:
        try:
            adapter.validate_json(text)
        except ValidationError as error:
            raise PlumblineError("\n".join(f"settings{said(item)}" for item in error.errors())) from None
        return json.loads(text)

    return read


def said(error: Any) -> str:
    """Return where a setting is wrong, and what is wrong with it."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
    return f"{path}: {error['msg']}"
