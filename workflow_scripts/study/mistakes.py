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


def keys_at(location: Iterable[str | int]) -> list[str]:
    """Return the keys allowed at a place in the study."""
    annotation: Any = Study
    for step in location:
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
    return steps


def path_of(location: Iterable[str | int]) -> str:
    """Return an error's location as a message shows it: a.b[0].c."""
    steps = steps_of(location)
    return "".join(f"[{step}]" if isinstance(step, int) else f".{named(step)}" for step in steps).lstrip(".")


def bounds_at(location: tuple[str | int, ...]) -> str:
    """Return the bounds of the number at a place in the study, as " > 0", or nothing."""
    annotation: Any = Study
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
    """Return how to write a number that YAML has read as text, or nothing if it is none."""
    try:
        float(text)
    except ValueError:
        return ""
    mantissa, mark, exponent = text.strip().lower().partition("e")
    if not mark:
        return " (a number, in quotes: leave them out)"
    dotted = mantissa if "." in mantissa else f"{mantissa}.0"
    signed = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f" (YAML reads this as text: write {dotted}e{signed})"


def spell(error: dict) -> str:
    """Return one pydantic error as `path: what is wrong and what is allowed`."""
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    path = path_of(error["loc"])
    if kind == "extra_forbidden":
        keys = keys_at(error["loc"][:-1])
        return f"{path}: unknown key{nearest(error['loc'][-1], keys)} (allowed here: {', '.join(keys)})"
    if kind == "invalid_key":
        return f"{path}: a key must be text, in quotes if need be"
    if kind == "missing":
        return f"{path}: is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        tags = [tag_of(model) for model in models_in({"method": Run, "kind": Judge | Benchmark}[key])]
        if kind == "union_tag_invalid":
            tags = re.findall(r"'([^']+)'", context["expected_tags"])
            return f"{path}.{key}: no {key} {shown(found[key])}{nearest(found[key], tags)} (allowed: {', '.join(tags)})"
        part = {"runs": Run, "judges": Judge, "benchmarks": Benchmark}[error["loc"][0]]
        tags = [tag_of(model) for model in models_in(part)]
        return f"{path}: needs {key} (one of: {', '.join(tags)})"
    if found is None:
        return f"{path}: has no value: give one, or leave the key out"
    if kind == "string_pattern_mismatch":
        return f"{path}: must be {PATTERNS[context['pattern']]}, not {shown(found)}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{path}: must be a mapping (key: value), not {shown(found)}"
    if "list[str]" in error["loc"] or error["loc"][-1:] == ("str",):
        return f"{path}: must be a name or a list of names, not {shown(found)}"
    if kind == "string_too_short":
        return f"{path}: must not be empty"
    if kind == "string_too_long":
        return f"{path}: must have at most {context['max_length']} characters, not {len(found)}"
    if kind == "too_short":
        return f"{path}: must have at least {context['min_length']}, not {shown(found)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    for word, plain in PLAIN.items():
        message = message.replace(word, plain)
    if kind == "value_error":
        return f"{path}: {message}"
    if kind == "finite_number":
        return f"{path}: must be a finite number, not {shown(found)}"
    hint = ""
    if kind in ("float_type", "int_type"):
        message += bounds_at(error["loc"])
    if isinstance(found, str):
        hint = (
            nearest(found, re.findall(r"'([^']+)'", context["expected"])) if kind == "literal_error" else ""
        )
        hint = hint or (number_hint(found) if kind in ("float_type", "int_type") else "")
    return f"{path}: {message}, not {shown(found)}{hint}"
