"""Write docs/config.md and docs/config.schema.json from the study's schema; `--check` fails where they differ.

The page is made from the JSON schema, so what the two files say is what `check_study` enforces. Keys that parts have
from a common class stand once in the page, under that class. Not covered: rules between keys (a name that must exist,
keys that exclude each other); those are in the error messages.
"""

import argparse
import inspect
import json
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file
from workflow_scripts.study.basics import PATTERNS, Strict
from workflow_scripts.study.mistakes import models_in
from workflow_scripts.study.study import Study

INTRODUCTION = """# What a study holds

A study is one YAML file: `config.yaml`, `studies/*.yaml`, or your own. It is checked whole before anything is
planned: every mistake is named with the path to the value and what is allowed there. To check one by hand:

    make check-study STUDY=studies/mine.yaml

Editors that know JSON Schema complete and check a study as you type, with this as its first line:

    # yaml-language-server: $schema=../docs/config.schema.json

After each key stand its type and its default; a key without a default is **required**. Lengths of text are tokens
unless a key says otherwise; shares are from 0 to 1. Keys that several parts share are listed once, under a part of
their own, and the parts that have them name it. This page and the schema are made from `workflow_scripts/study/` by
`python -m workflow_scripts.study.config_docs`.
"""


def title_of(reference: str) -> str:
    """Return the name of the part a `$ref` points to."""
    return reference.rsplit("/", 1)[-1]


def link(part: str) -> str:
    """Return a link to a part's heading."""
    return f"[{part}](#{part.lower()})"


def plain(number: float) -> str:
    """Return a number without needless zeros: 0.5, 1, 4294967296."""
    return f"{int(number)}" if number == int(number) else f"{number:g}"


def bounds_of(schema: dict) -> str:
    """Return what a number or a text must satisfy, or nothing."""
    words = {"exclusiveMinimum": ">", "minimum": "≥", "maximum": "≤", "exclusiveMaximum": "<"}
    return " and ".join(f"{sign} {plain(schema[key])}" for key, sign in words.items() if key in schema)


def mapping_of(schema: dict) -> tuple[str, dict] | None:
    """Return (what the keys of a mapping are, the schema of its values), or None if it is no mapping."""
    if schema.get("type") != "object":
        return None
    if "patternProperties" in schema:
        return "name", next(iter(schema["patternProperties"].values()))
    allowed = schema.get("propertyNames", {}).get("enum")
    values = schema.get("additionalProperties")
    keys = either([f"`{key}`" for key in allowed]) if allowed else "name"
    return keys, values if isinstance(values, dict) else {}


def either(choices: list[str]) -> str:
    """Return "a, b or c"."""
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)


def type_of(schema: dict, many: bool = False) -> str:
    """Return a JSON schema's type in words, with links to other parts; `many` asks for the plural."""
    if "$ref" in schema:
        return link(title_of(schema["$ref"]))
    if "const" in schema or "enum" in schema:
        return either([f"`{value}`" for value in schema.get("enum", [schema.get("const")])])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return either(list(dict.fromkeys(type_of(part, many) for part in schema[choice])))
    if mapping := mapping_of(schema):
        return f"mapping of {mapping[0]} to {type_of(mapping[1])}"
    if schema.get("type") == "array":
        return f"list of {type_of(schema['items'], many=True)}"
    if schema.get("pattern") in PATTERNS:
        return PATTERNS[schema["pattern"]].split(",")[0].split(" of letters")[0].removeprefix("a ")
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    name = words.get(schema.get("type", ""), schema.get("type", "anything"))
    plural = "s" if many and name in ("whole number", "number", "text") else ""
    return f"{name}{plural} {bounds_of(schema)}".strip()


def default_of(key: str, schema: dict, required: list[str]) -> str:
    """Return a key's default as it would be written in YAML, or that it is required."""
    if key in required:
        return "**required**"
    default = schema.get("default")
    if isinstance(default, dict) and default and "$ref" in schema:
        return "all defaults"
    if isinstance(default, list) and default and "$ref" in schema.get("items", {}):
        return f"{len(default)} of our own"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def places_in(schema: dict, path: str) -> list[tuple[str, str]]:
    """Return (part, path) for each part that a key's schema refers to."""
    if "$ref" in schema:
        return [(title_of(schema["$ref"]), path)]
    if mapping := mapping_of(schema):
        return places_in(mapping[1], f"{path}.NAME")
    if schema.get("type") == "array":
        return places_in(schema["items"], f"{path}[]")
    return [
        place for key in ("anyOf", "oneOf") for part in schema.get(key, []) for place in places_in(part, path)
    ]


def lines_of(part: dict, keys: list[str], parts: dict[str, dict]) -> list[str]:
    """Return a line for each of some keys of a part; a key without a text of its own has that of the part it holds."""
    lines = []
    # What a study must hold may stand in the study it extends.
    required = part.get("required") or part.get("anyOf", [{}])[0].get("required", [])
    for key in keys:
        schema = part["properties"][key]
        held = [parts[name].get("description", "") for name, _ in places_in(schema, key)]
        meaning = " ".join((schema.get("description") or " ".join(held)).split())
        default = default_of(key, schema, required)
        if default == "`null`" and "anyOf" in schema:  # so it may be null: the default says so
            schema = {"anyOf": [choice for choice in schema["anyOf"] if choice.get("type") != "null"]}
        lines.append(f"- `{key}` ({type_of(schema)}, {default}): {meaning}")
    return lines


def render_schema() -> str:
    """Return docs/config.schema.json.

    A study that extends another may leave out anything and give parts in part, so of that one only the first keys are
    checked here; `check_study` checks it whole, on top of the other.
    """
    whole = Study.model_json_schema()
    parts = whole.pop("$defs")
    partial = {"properties": dict.fromkeys(whole["properties"], True), "additionalProperties": False}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": parts,
        "if": {"required": ["extends"]},
        "then": partial,
        "else": whole,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class Entry(NamedTuple):
    """A part of the page: its class, and where it stands in a study (nowhere: other parts have their keys from it)."""

    model: type[Strict]
    places: list[str]


def own_keys(model: type) -> list[str]:
    """Return the keys that a class adds to those it has from others, or sets another default for."""
    own = inspect.get_annotations(model)
    fields = getattr(model, "model_fields", {})
    return [field.alias or key for key, field in fields.items() if key in own]


def shared_with(model: type) -> list[type[Strict]]:
    """Return the nearest classes with keys of their own that a class has all keys of."""
    found: list[type[Strict]] = []
    for base in model.__bases__:
        found += [base] if own_keys(base) else shared_with(base)
    return list(dict.fromkeys(found))


def entries_of(schema: dict) -> dict[str, Entry]:
    """Return the parts of a study by name, in the order they are first met in; after those they share keys with."""
    parts, classes = {"Study": schema, **schema["$defs"]}, {"Study": Study}
    entries: dict[str, Entry] = {}

    def enter(model: type[Strict], *places: str) -> None:
        for base in shared_with(model):
            enter(base)
        entry = entries.setdefault(model.__name__, Entry(model, []))
        entry.places.extend(place for place in places if place not in entry.places)

    def walk(name: str, path: str) -> None:
        enter(classes[name], path)
        inside = [field.annotation for field in classes[name].model_fields.values()]
        classes.update({model.__name__: model for each in inside for model in models_in(each)})
        for key, value in parts[name].get("properties", {}).items():
            for part, place in places_in(value, f"{path}.{key}".lstrip(".")):
                walk(part, place)

    walk("Study", "")
    return entries


def listed(parts: list[str]) -> str:
    """Return links to parts: A, B and C."""
    links = [link(part) for part in parts]
    return " and ".join([", ".join(links[:-1]), links[-1]] if len(links) > 1 else links)


def contents(entries: dict[str, Entry]) -> list[str]:
    """Return the table of contents: for each section of a study its parts, after those they share keys with."""
    sections: dict[str, list[str]] = {key: [] for key in own_keys(Study)}
    waiting: list[str] = []
    for name, entry in entries.items():
        if name == "Study":
            continue
        waiting.append(name)
        if entry.places:
            sections[entry.places[0].split(".")[0].split("[")[0]] += waiting
            waiting = []
    lines = [f"- `{key}`: {', '.join(map(link, parts))}" for key, parts in sections.items() if parts]
    return ["The sections of a [study](#study), and their parts:", "", *lines, ""]


def introduced(entry: Entry, tag: str, heirs: list[str]) -> str:
    """Return what stands above a part's keys: where it is, what it is, and which keys it shares.

    tag: the key that tells it from other parts in its place (`method: dpo`), or nothing.
    """
    where = ", ".join(f"`{place}`" for place in entry.places if place)
    told = f" with {tag}" if tag else ""
    sentences = [f"At {where}{told}."] if where else []
    sentences += [f"Shared by {listed(heirs)}."] if not entry.places else []
    sentences.append(" ".join((inspect.getdoc(entry.model) or "").split()))
    bases = [base.__name__ for base in shared_with(entry.model)]
    sentences += [f"It has all keys of {listed(bases)}."] if bases else []
    return " ".join(sentences)


def render_page() -> str:
    """Return docs/config.md: the study's own keys, then each part in the order in which it is first met."""
    schema = Study.model_json_schema()
    entries = entries_of(schema)
    lines = [INTRODUCTION, *contents(entries)]
    for name, entry in entries.items():
        heirs = [other for other, each in entries.items() if entry.model in shared_with(each.model)]
        own = schema if name == "Study" else schema["$defs"].get(name) or entry.model.model_json_schema()
        tags = {
            key: own["properties"][key]["const"] for key in own_keys(entry.model) if key in ("kind", "method")
        }
        tag = "".join(f"`{key}: {value}`" for key, value in tags.items())
        keys = [key for key in own_keys(entry.model) if key not in tags]
        lines += [f"## {name}", "", introduced(entry, tag, heirs), ""]
        if keys:
            lines += [*lines_of(own, keys, schema["$defs"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def stale_files(pages: dict[Path, str]) -> list[Path]:
    """Return the files that do not hold what they should."""
    return [
        path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is not up to date"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the two files")
    arguments = parser.parse_args(argv)
    folder = arguments.docs
    pages = {folder / "config.md": render_page(), folder / "config.schema.json": render_schema()}
    stale = stale_files(pages)
    if arguments.check and stale:
        raise PlumblineError(
            f"not up to date: {', '.join(map(str, stale))}; run python -m workflow_scripts.study.config_docs"
        )
    for path in stale:
        with finished_file(path) as temporary:
            temporary.write_text(pages[path], encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    run(main)
