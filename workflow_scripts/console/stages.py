"""The stages of the workflow in their order, and the stage of each rule: a file of rules/ is a stage."""

import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INCLUDED = re.compile(r'^include: "rules/(\w+)\.smk"', re.MULTILINE)
RULE = re.compile(r"^(?:rule|checkpoint) (\w+):", re.MULTILINE)
ELSE = "targets"  # the rules of the Snakefile itself, which make nothing


@functools.cache
def stages_of_rules(root: Path = ROOT) -> dict[str, str]:
    """Return {rule: its stage}, in the order in which the Snakefile names the stages."""
    found = {}
    for stage in INCLUDED.findall((root / "Snakefile").read_text(encoding="utf-8")):
        text = (root / "rules" / f"{stage}.smk").read_text(encoding="utf-8")
        found |= dict.fromkeys(RULE.findall(text), stage)
    return found


def stage_of(rule: str) -> str:
    """Return the stage of a rule."""
    return stages_of_rules().get(rule, ELSE)


def in_order(stages: set[str]) -> list[str]:
    """Return stages in the order of the workflow."""
    known = list(dict.fromkeys(stages_of_rules().values()))
    return [stage for stage in [*known, ELSE] if stage in stages]
