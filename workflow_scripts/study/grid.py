"""A run's `grid`: a run for every combination of some values, each checked as if it stood in the run itself.

Each is called by its values, without dots, which join the names of a lineage: learning_rate 5e-4 and beta 0.05 make
`lr5e-4-beta5e-2`. A number is its digits and a power of ten, so no two numbers have one name; a mapping is the names of
what is in it.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from workflow_scripts.study.basics import NAME
from workflow_scripts.study.messages import nearest, shown

MOST_MEMBERS = 100  # runs of one grid
NEVER = ("method", "parent", "grid")  # keys that say what run it is


def number_name(number: float) -> str:
    """Return a number without a dot: 3, 5e-4, 125e-1."""
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    text = "".join(map(str, digits))
    exponent = int(exponent)
    whole = f"{text}{'0' * exponent}" if 0 <= exponent < 6 else f"{text}e{exponent}"
    return f"{'-' if sign else ''}{whole}"


def short_keys(keys: list[str]) -> dict[str, str]:
    """Return what stands for each key before a number: the first letters of its words, or all where two have them."""
    initials = {
        key: "".join(word[0] for word in key.split("_") if word) if "_" in key else key for key in keys
    }
    return {
        key: short if list(initials.values()).count(short) == 1 else key for key, short in initials.items()
    }


def value_name(key: str, short: str, value: Any) -> str | None:
    """Return the name of a key with a value; None for one that makes no part of a name."""
    if value is None or isinstance(value, bool):
        return f"{'no' if not value else 'with'}_{key}"
    if isinstance(value, int | float):
        return f"{short}{number_name(value)}" if math.isfinite(value) else None
    if isinstance(value, str):
        return value if re.fullmatch(NAME, value) else None
    if isinstance(value, Mapping) and value and all(isinstance(inner, str) for inner in value):
        within = short_keys(sorted(value))
        names = [value_name(inner, short, value[inner]) for inner, short in within.items()]
        return "-".join(names) if None not in names else None
    return None


def refusal(location: tuple[str | int, ...], text: str, value: Any) -> InitErrorDetails:
    """Return a mistake of ours at a place in a run."""
    told = PydanticCustomError("value_error", "{text}", {"text": text})
    return InitErrorDetails(type=told, loc=location, input=value)


def faults_of(kind: type[BaseModel], run: dict) -> list[Any]:
    """Return what the schema has against a run."""
    try:
        kind.model_validate(run)
    except ValidationError as error:
        return error.errors()
    return []


def moved(error: Any, location: tuple[str | int, ...]) -> InitErrorDetails:
    """Return one of the schema's mistakes at another place."""
    return InitErrorDetails(
        type=error["type"], loc=location, input=error["input"], ctx=error.get("ctx") or {}
    )


def malformed(kind: type[BaseModel], grid: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Find keys that a method has not, lists that are none or hold nothing, and more runs than are sane."""
    allowed = [key for key in kind.model_fields if key not in NEVER]
    for key, values in grid.items():
        if key not in allowed:
            text = f"no key to try values of: {kind.__name__} has none of this name, or it says which run this is"
            yield refusal(("grid", key), f"{text}{nearest(key, allowed)}", values)
        elif not isinstance(values, list) or not values:
            yield refusal(("grid", key), f"must be a list of values, not {shown(values)}", values)
    lists = [values for values in grid.values() if isinstance(values, list)]
    count = math.prod(map(len, lists))
    if count > MOST_MEMBERS:
        yield refusal(
            ("grid",), f"makes {count} runs, one for every combination; at most {MOST_MEMBERS}", dict(grid)
        )


def misnamed(grid: dict[str, list]) -> Iterator[InitErrorDetails]:
    """Find values that make no part of a name, or one that another has."""
    for key, values in grid.items():
        names = [value_name(key, "", value) for value in values]
        for index, name in enumerate(names):
            if name is None:
                text = f"{shown(values[index])} has no short name: write a run of its own for it"
                yield refusal(("grid", key, index), text, values[index])
            elif name in names[:index]:
                text = f"{shown(values[index])} stands there twice, or another value has its name"
                yield refusal(("grid", key, index), text, values[index])


def refused_values(kind: type[BaseModel], own: dict, grid: dict[str, list]) -> list[InitErrorDetails]:
    """Return what the schema has against the run without its grid, and against each value alone."""
    firsts = own | {key: values[0] for key, values in grid.items()}
    found = [
        moved(error, error["loc"])
        for error in faults_of(kind, firsts)
        if error["loc"][:1] and error["loc"][0] not in grid
    ]
    for key, values in grid.items():
        for index, value in enumerate(values):
            found += [
                moved(error, ("grid", key, index, *error["loc"][1:]))
                for error in faults_of(kind, firsts | {key: value})
                if error["loc"][:1] == (key,)
            ]
    return found


def members_of(kind: type[BaseModel], own: dict, grid: dict[str, list]) -> dict[str, Any]:
    """Return the runs of a grid by what stands behind its name; ValidationError for combinations that do not go."""
    short, members, found = short_keys(list(grid)), {}, []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        name = "-".join(str(value_name(key, short[key], value)) for key, value in chosen.items())
        try:
            members[name] = kind.model_validate(own | chosen)
        except ValidationError as error:
            told = ", ".join(f"{key} {shown(value)}" for key, value in chosen.items())
            text = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
            found.append(refusal(("grid",), f"{told}: {text}", chosen))
    if not found and len(members) < math.prod(map(len, grid.values())):
        found.append(refusal(("grid",), "two combinations have one name: make them runs of their own", grid))
    if found:
        raise ValidationError.from_exception_data(kind.__name__, found)
    return members


def with_members(
    kind: type[BaseModel], run: Any, handler: Callable[[Any], Any]
) -> tuple[Any, dict[str, Any]]:
    """Return a run as the schema accepts it, and the runs of its grid, {} without one.

    A key of the grid may be left out of the run; what stands there is not looked at.
    """
    grid = run.get("grid") if isinstance(run, dict) else None
    if not isinstance(grid, dict) or not grid or not all(isinstance(key, str) for key in grid):
        return handler(run), {}
    own = {key: value for key, value in run.items() if key != "grid" and key not in grid}
    found = list(malformed(kind, grid)) or refused_values(kind, own, grid) or list(misnamed(grid))
    if found:
        raise ValidationError.from_exception_data(kind.__name__, found)
    in_order = {key: grid[key] for key in kind.model_fields if key in grid}  # however it is written
    members = members_of(kind, own, in_order)
    firsts = {key: values[0] for key, values in grid.items()}
    return handler(own | firsts | {"grid": grid}), members
