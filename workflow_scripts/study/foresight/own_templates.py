"""Where `template: tokenizer` would not be the model's own any more."""

from collections.abc import Iterator

from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.lineage import Policy
from workflow_scripts.study.study import Study
from workflow_scripts.study.templates import OWN, asked_in


def own_after_another(study: Study, policies: dict[str, Policy]) -> Iterator[Finding]:
    """Find runs that name the model's own template, though what they start from was saved with another."""
    told = set()
    for policy in policies.values():
        run = study.runs.get(policy.run or "")
        if run is None or policy.run in told:
            continue
        for key in ("template", "asked_in"):
            if getattr(run, key, None) != OWN:
                continue
            before = asked_in(study, policies, policy.parent or "")
            if before != OWN:
                told.add(policy.run)
                yield wrong(
                    f"runs.{policy.run}.{key}",
                    f"{OWN} is the template that the model's tokenizer brings along, and {policy.parent} speaks "
                    f"{before}, which has taken its place: give models.{policy.model} the template {OWN}, or name "
                    "another here",
                )
