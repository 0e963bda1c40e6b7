"""Which chat templates a study can name, and which of them its policies learn in and are asked in."""

import functools
from typing import TYPE_CHECKING

import yaml

from workflow_scripts.common.code import ROOT
from workflow_scripts.study.lineage import Policy, known_policies

if TYPE_CHECKING:
    from workflow_scripts.study.methods import Run
    from workflow_scripts.study.study import Study


OWN = "tokenizer"  # names the chat template that a model's own tokenizer brings along


def all_templates(study: "Study") -> dict[str, dict]:
    """Return the templates that come with Plumbline, the study's own, and that of each model's tokenizer, by name."""
    own = {name: template.model_dump(exclude_unset=True) for name, template in study.templates.items()}
    return bundled_templates() | own | {OWN: {"own": True}}


@functools.cache
def bundled_templates() -> dict[str, dict]:
    """Return the templates that come with Plumbline, by name."""
    return yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text(encoding="utf-8"))


def asked_in(study: "Study", policies: dict[str, Policy], name: str) -> str:
    """Return the name of the template that a policy is asked in: that of the last in its lineage which names one."""
    policy = policies[name]
    if policy.parent is None:
        return study.models[policy.model].template
    return study.runs[policy.run or ""].own_template() or asked_in(study, policies, policy.parent)


def learned_in(study: "Study", policies: dict[str, Policy], name: str) -> str:
    """Return the name of the template that a policy learns in: its own, or its parent's."""
    policy = policies[name]
    run = study.runs[policy.run or ""]
    own = run.learned_template() if run.learns_from == "tokens" else None
    return own or asked_in(study, policies, policy.parent or "")


def learned_templates(study: "Study", run: "Run") -> list[dict]:
    """Return the templates that the policies of a run learn in; none where lineages or names are wrong."""
    policies, known = known_policies(study) or {}, all_templates(study)
    own = [name for name, policy in policies.items() if policy.run and study.runs[policy.run] is run]
    names = dict.fromkeys(learned_in(study, policies, name) for name in own)
    return [known[name] for name in names if name in known]
