"""Write docs/config.md and docs/config.schema.json from the study's schema; `--check` fails where they differ.

The tables are made from the JSON schema, so what the two files say is what `check_study` enforces. Not covered: rules
between keys (a name that must exist, keys that exclude each other); those are in the error messages.
"""

import argparse
import json
from pathlib import Path

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file
from workflow_scripts.study.basics import PATTERNS
from workflow_scripts.study.study import Study

INTRODUCTION = """# What a study holds

A study is one YAML file: `config.yaml`, `studies/*.yaml`, or your own. It is checked whole before anything is
planned: every mistake is named with the path to the value and what is allowed there. To check one by hand:

    make check-study STUDY=studies/mine.yaml

Editors that know JSON Schema complete and check a study as you type, with this as its first line:

    # yaml-language-server: $schema=../docs/config.schema.json

Keys without a default must be given. Lengths of text are tokens unless a key says otherwise; shares are from 0 to 1.
This page and the schema are made by `python -m workflow_scripts.study.config_docs` from
`workflow_scripts/study/`.
"""


def title_of(reference: str) -> str:
    """Return the name of the part a `$ref` points to."""
    return reference.rsplit("/", 1)[-1]


def link(part: str) -> str:
    """Return a link to a part's heading."""
    return f"[{part}](#{part.lower()})"


def bounds_of(schema: dict) -> str:
    """Return what a number or a text must satisfy, or nothing."""
    words = {"exclusiveMinimum": ">", "minimum": "≥", "maximum": "≤", "exclusiveMaximum": "<"}
    return " and ".join(f"{sign} {schema[key]:g}" for key, sign in words.items() if key in schema)


def mapping_of(schema: dict) -> tuple[str, dict] | None:
    """Return (what the keys of a mapping are, the schema of its values), or None if it is no mapping."""
    if schema.get("type") != "object":
        return None
    if "patternProperties" in schema:
        return "name", next(iter(schema["patternProperties"].values()))
    allowed = schema.get("propertyNames", {}).get("enum")
    values = schema.get("additionalProperties")
    return (
        " or ".join(f"`{key}`" for key in allowed) if allowed else "name",
        values if isinstance(values, dict) else {},
    )


def type_of(schema: dict, many: bool = False) -> str:
    """Return a JSON schema's type in words, with links to other parts; `many` asks for the plural."""
    if "$ref" in schema:
        return link(title_of(schema["$ref"]))
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(type_of(part, many) for part in schema[choice]))
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
    """Return a key's default as it would be written in YAML, or that it must be given."""
    if key in required:
        return "**must be given**"
    default = schema.get("default")
    if isinstance(default, dict) and default and "$ref" in schema:
        return "all defaults"
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


def table_of(part: dict, parts: dict[str, dict]) -> list[str]:
    """Return a part's keys as a Markdown table; a key without a text of its own has that of the part it holds."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    # What a study must hold may stand in the study it extends.
    required = part.get("required") or part.get("anyOf", [{}])[0].get("required", [])
    for key, schema in part.get("properties", {}).items():
        held = [parts[name].get("description", "") for name, _ in places_in(schema, key)]
        meaning = " ".join((schema.get("description") or " ".join(held)).split())
        cells = (f"`{key}`", type_of(schema), default_of(key, schema, required), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


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


def render_page() -> str:
    """Return docs/config.md: the study's own keys, then each part in the order in which it is first met."""
    schema = Study.model_json_schema()
    parts = {"Study": schema, **schema["$defs"]}
    paths: dict[str, list[str]] = {}

    def walk(name: str, path: str) -> None:
        paths.setdefault(name, []).append(path)
        for key, value in parts[name].get("properties", {}).items():
            for part, place in places_in(value, f"{path}.{key}".lstrip(".")):
                walk(part, place)

    walk("Study", "")
    lines = [INTRODUCTION]
    for name, where in paths.items():
        text = " ".join(parts[name].get("description", "").split())
        at = ", ".join(f"`{path}`" for path in where if path)
        lines += [f"## {name}", "", f"At {at}. {text}" if at else text, "", *table_of(parts[name], parts), ""]
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
