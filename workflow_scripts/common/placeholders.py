"""Texts with {placeholders}, and values in which such texts stand, filled in from the fields of a row.

A placeholder is a field's name, or a path into one: {problem.Hint}, {turns.0}. {{ and }} are braces. Not covered:
conversions and formats ({field!r}, {field:>9}), which are refused.
"""

import json
from collections.abc import Callable, Iterator
from string import Formatter
from typing import Any

ValueOf = Callable[[str], Any]


def names_in(template: str) -> list[str]:
    """Return the placeholders of a text, in order; ValueError where its braces cannot be read."""
    names = []
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces") from None
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name.strip() or name != name.strip():
            raise ValueError(f"{{{name}}} is no field's name; write {{{{ and }}}} for braces")
        names.append(name)
    return names


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts that stand in a value, however deep, its keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)


def look_up(path: str, fields: dict[str, Any]) -> Any:
    """Return what a placeholder names; KeyError where there is nothing. A field may have dots in its own name."""
    if path in fields:
        return fields[path]
    found: Any = fields
    for step in path.split("."):
        if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, dict) and step in found:
            found = found[step]
        else:
            raise KeyError(path)
    return found


def text_of(value: Any) -> str:
    """Return a field's value as it stands in a text: nothing for null, JSON for what is no text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def filled_text(template: str, value_of: ValueOf) -> str:
    """Return a text with its placeholders filled in."""
    return "".join(
        literal + (text_of(value_of(name)) if name is not None else "")
        for literal, name, _, _ in Formatter().parse(template)
    )


def filled(template: Any, value_of: ValueOf) -> Any:
    """Return a value with every text in it filled in; one that is a placeholder alone becomes the field's own value."""
    if isinstance(template, dict):
        return {key: filled(part, value_of) for key, part in template.items()}
    if isinstance(template, list):
        return [filled(part, value_of) for part in template]
    if not isinstance(template, str):
        return template
    names = names_in(template)
    return value_of(names[0]) if names and template == f"{{{names[0]}}}" else filled_text(template, value_of)
