"""Saying what the schema found wrong with a study: the path to the value as it stands in the YAML, and what is allowed.

Only what checks a study imports this module.
"""

import re
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag

from workflow_scripts.study.basics import PATTERNS
from workflow_scripts.study.benchmarks import Benchmark
from workflow_scripts.study.judges import Judge
from workflow_scripts.study.messages import named, nearest, shown
from workflow_scripts.study.methods import Run
from workflow_scripts.study.study import Study

TAGGED = ("runs", "judges", "benchmarks")  # sections whose entries are told apart by method or kind
PLAIN = {
    "a valid number": "a number",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid list": "a list",
}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the schema classes inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def tag_of(model: type[BaseModel]) -> str | None:
    """Return the method or kind of a run, judge or benchmark class, if it has one."""
    field = model.model_fields.get("method") or model.model_fields.get("kind")
    values = get_args(field.annotation) if field else ()
    return values[0] if values else None


def is_tagged_union(annotation: Any) -> bool:
    """Tell whether a type is a union whose kinds a function tells apart, their tags in brackets."""
    return any(isinstance(part, Discriminator) for part in getattr(annotation, "__metadata__", ()))


def descend(annotation: Any, step: str | int) -> Any:
    """Return the type one step of an error's location further down; None where the schema ends."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return descend(parts[0], step)
    if origin in (Union, UnionType):
        for part in parts:
            if get_origin(part) is Annotated and Tag(str(step)) in part.__metadata__:
                return part.__origin__
        classes = models_in(annotation)
        if len(classes) > 1 and (tagged := next((p for p in parts if is_tagged_union(p)), None)):
            return descend(tagged, step)
        if len(classes) > 1:
            return {tag_of(model): model for model in classes}.get(step)
        return next((found for part in parts if (found := descend(part, step)) is not None), None)
    if origin is dict:
        return parts[1]
    if origin is list:
        return parts[0]
    for key, field in annotation.model_fields.items() if models_in(annotation) else ():
        if step in (key, field.alias):
            return field.annotation
    return None


def schema_place(location: Iterable[str | int]) -> tuple[str | int, ...]:
    """Return where the schema has what stands at a location: of a value in a run's grid it is the run's own key."""
    steps = tuple(location)
    if len(steps) > 5 and steps[0] == "runs" and steps[3] == "grid":
        return (*steps[:3], steps[4], *steps[6:])
    return steps


def keys_at(location: Iterable[str | int]) -> list[str]:
    """Return the keys allowed at a place in the study."""
    annotation: Any = Study
    for step in schema_place(location):
        annotation = descend(annotation, step)
    return sorted(
        {field.alias or key for model in models_in(annotation) for key, field in model.model_fields.items()}
    )


def steps_of(location: Iterable[str | int]) -> list[str | int]:
    """Return an error's location as it stands in the YAML: without method, kind and the like."""
    steps = [step for step in location if step != "[key]" and not re.fullmatch(r"\([a-z]+\)", str(step))]
    if len(steps) > 2 and steps[0] in TAGGED:
        del steps[2]
    if len(steps) > 3 and steps[0] == "runs" and steps[2] == "parent":
        del steps[3]  # which side of `str | list[str]` was tried
    if len(steps) > 3 and steps[0] == "policies" and steps[2] == "answers":
        del steps[3]  # of a file, or files by benchmark
    if len(steps) > 2 and steps[0] == "adopt":
        del steps[2]  # of a folder, or folders by seed
    return steps


def path_of(location: Iterable[str | int]) -> str:
    """Return an error's location as a message shows it: a.b[0].c."""
    steps = steps_of(location)
    return "".join(f"[{step}]" if isinstance(step, int) else f".{named(step)}" for step in steps).lstrip(".")


def bounds_at(location: tuple[str | int, ...]) -> str:
    """Return the bounds of the number at a place in the study, as " > 0", or nothing."""
    annotation: Any = Study
    location = schema_place(location)
    for step in location[:-1]:
        annotation = descend(annotation, step)
    fields = [model.model_fields.get(str(location[-1])) for model in models_in(annotation)]
    limits = [limit for field in fields if field for limit in field.metadata]
    signs = {"gt": ">", "ge": "≥", "le": "≤", "lt": "<"}
    words = [
        f"{sign} {getattr(limit, name):g}"
        for limit in limits
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    return f" {' and '.join(words)}" if words else ""


def number_hint(text: str) -> str:
    """Return how to write a number that stands there as text, or nothing if it is none."""
    try:
        float(text)
    except ValueError:
        return ""
    return " (a number, in quotes: leave them out)"


def spell(error: dict) -> str:
    """Return one pydantic error as `path: what is wrong and what is allowed`."""
    path = path_of(error["loc"])
    if error["type"] == "union_tag_invalid":
        key = error["ctx"]["discriminator"].strip("'")
        return f"{path}.{key}: {unknown_kind(key, error)}"
    return f"{path}: {fault_of(error)}"


def unknown_kind(key: str, error: dict) -> str:
    """Return the sentence for a method or a kind that there is not."""
    found, kinds = error["input"][key], quoted(error["ctx"]["expected_tags"])
    return f"no {key} {shown(found)}{nearest(found, kinds)} (allowed: {', '.join(kinds)})"


def missing_kind(error: dict) -> str:
    """Return the sentence for a part that does not say which method or kind it is."""
    part = {"runs": Run, "judges": Judge, "benchmarks": Benchmark}[error["loc"][0]]
    kinds = [tag_of(model) for model in models_in(part)]
    key = error["ctx"]["discriminator"].strip("'")
    return f"needs {key} (one of: {', '.join(kinds)})"


def unknown_key(error: dict) -> str:
    """Return the sentence for a key that there is not."""
    keys = keys_at(error["loc"][:-1])
    return f"unknown key{nearest(error['loc'][-1], keys)} (allowed here: {', '.join(keys)})"


def quoted(text: str) -> list[str]:
    """Return what stands in single quotes in pydantic's own words."""
    return re.findall(r"'([^']+)'", text)


def fault_of(error: dict) -> str:
    """Return what is wrong with a value, and what is allowed, without its path."""
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(error)
    if kind == "invalid_key":
        return "a key must be text, in quotes if need be"
    if kind == "missing":
        return "is required"
    if kind == "union_tag_not_found":
        return missing_kind(error)
    if found is None:
        return "has no value: give one, or leave the key out"
    if kind == "string_pattern_mismatch":
        return f"must be {PATTERNS[context['pattern']]}, not {shown(found)}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a mapping (key: value), not {shown(found)}"
    if "list[str]" in error["loc"] or error["loc"][-1:] == ("str",):
        return f"must be a name or a list of names, not {shown(found)}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters, not {len(found)}"
    if kind == "too_short":
        return f"must have at least {context['min_length']}, not {shown(found)}"
    if kind == "finite_number":
        return f"must be a finite number, not {shown(found)}"
    if kind == "value_error":
        return in_our_words(error)
    return of_another_type(error)


def in_our_words(error: dict) -> str:
    """Return what pydantic says, in the words that the rest of the messages have."""
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    for word, plain in PLAIN.items():
        message = message.replace(word, plain)
    return message


def of_another_type(error: dict) -> str:
    """Return the sentence for a value that is no number, no text, none of the words there are …, with a hint."""
    kind, found, hint = error["type"], error["input"], ""
    message = in_our_words(error)
    if kind in ("float_type", "int_type"):
        message += bounds_at(error["loc"])
        hint = number_hint(found) if isinstance(found, str) else ""
    if kind == "literal_error" and isinstance(found, str):
        hint = nearest(found, quoted(error["ctx"]["expected"]))
    return f"{message}, not {shown(found)}{hint}"
