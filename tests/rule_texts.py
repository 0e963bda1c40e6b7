"""What the texts of the rules say: their wildcards, what of the plan they call, what their commands are told."""

import ast
import importlib
import re
from typing import Any, NamedTuple

from tests.workflow import ROOT

SMK = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("rules/*.smk"))}
SMK["Snakefile"] = (ROOT / "Snakefile").read_text(encoding="utf-8")
# A name in the rules that stands for an expression, on its own line.
CONSTANTS = {
    name: value
    for text in SMK.values()
    for name, value in re.findall(r"^([A-Z_]+) = (.+(?:\n[ )}].*)*)", text, re.MULTILINE)
}


# Flags whose JSON comes from the plan. How judges are reached, `--access`, comes from the environment.
JSON_FLAGS = ("settings", "judge", "sampling", "rewards", "before", "watch", "backend")


class Rule(NamedTuple):
    """What the text of a rule says."""

    wildcards: frozenset[str]
    """Of its outputs, or of its log where it has none."""
    functions: dict[str, frozenset[str]]
    """Of the plan, as `module.function`, that it hands its wildcards to: {function: what it is given beside}."""
    shell: str
    """Its command, with each constant replaced by what it stands for."""
    told: dict[str, str]
    """{a flag that takes JSON: the expression in its params that stands for it}."""
    stored: bool
    """Whether a shared store keeps what it makes."""


def spelled_out(text: str) -> str:
    """Return text with each constant replaced by the expression that it stands for."""
    for _ in range(4):
        text = re.sub(r"\b[A-Z][A-Z_]+\b", lambda name: CONSTANTS.get(name[0], name[0]), text)
    return text


def section(body: str, *names: str) -> str:
    found = re.findall(rf"^    (?:{'|'.join(names)}):(.*\n(?:(?:        .*|)\n)*)", body, re.MULTILINE)
    return "".join(found)


def rules_in(text: str) -> dict[str, Rule]:
    """Return the rules of a file by name."""
    found = {}
    for start in re.finditer(r"^(?:rule|checkpoint) (\w+):\n", text, re.MULTILINE):
        body = re.split(r"^\S", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        wildcards = frozenset(re.findall(r"\{([a-z]+)\}", spelled_out(section(body, "output"))))
        given = section(body, "input", "params") + spelled_out(section(body, "resources", "threads"))
        handed = re.findall(r"\b(?:by|of_table)\((\w+\.\w+)([^()]*)\)", given)
        fixed = {name: frozenset(re.findall(r"(\w+)=", rest)) for name, rest in handed}
        shell, params = spelled_out(section(body, "shell")), section(body, "params")
        flags = set(re.findall(rf"--({'|'.join(JSON_FLAGS)})\b", shell))
        told = {flag: re.search(rf"^ +{flag}=(.+),$", params, re.MULTILINE)[1] for flag in flags}
        found[start[1]] = Rule(wildcards, fixed, shell, told, "    cache: STORED\n" in body)
    return found


RULES = {name: rule for text in SMK.values() for name, rule in rules_in(text).items()}


def modules() -> dict[str, str]:
    """Return {what the rules call a module of the plan: its name}."""
    found = {}
    for node in ast.parse(re.sub(r"^(?!from|import).*$", "", SMK["common.smk"], flags=re.MULTILINE)).body:
        if isinstance(node, ast.ImportFrom) and node.module == "workflow_scripts.plan":
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found


def function_of(name: str) -> Any:
    """Return the function or the constant of the plan that the rules call `module.name`."""
    module, function = name.split(".")
    return getattr(importlib.import_module(f"workflow_scripts.plan.{modules()[module]}"), function)
