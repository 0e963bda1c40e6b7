"""What a rule hands to a script: settings as JSON, flags as words."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel


def as_json(value: Any, in_order: bool = False) -> str:
    """Return settings as the one-line JSON that the scripts take; its keys are sorted, unless their order matters."""
    return json.dumps(value, sort_keys=not in_order)


def settings(
    part: BaseModel, keys: Iterable[str] | None = None, drop: Iterable[str] = (), **more: Any
) -> str:
    """Return a part of the study as JSON: some of its keys, or all but some, with more beside them."""
    return as_json(chosen(part, keys, drop) | more)


def chosen(part: BaseModel, keys: Iterable[str] | None = None, drop: Iterable[str] = ()) -> dict[str, Any]:
    """Return some keys of a part of the study, or all but some, as in its YAML."""
    values = part.model_dump(by_alias=True)
    without = set(drop)
    return {key: values[key] for key in (values if keys is None else keys) if key not in without}


def flag_words(flags: Mapping[str, Any]) -> list[str]:
    """Return the words of those flags that have a value."""
    return [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]


def one_of(names: Iterable[str]) -> str:
    """Return a wildcard constraint that matches exactly these names, and nothing if there are none."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"
