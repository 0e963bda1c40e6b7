"""How long rows may be that a study does not say: no longer than the context of the models that read them."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.lineage import known_policies, models_under
from workflow_scripts.study.part import Part
from workflow_scripts.study.study import Study

PROMPT = 0.75  # of a row: what its prompt is cut to, as the defaults have it


def settle_lengths(study: Study, folder: Path) -> Iterator[Finding]:
    """Lower the defaults that are more than the shortest context under a part; what the study says stays."""
    policies = known_policies(study)
    if policies is None:
        return  # parents are wrong, which is said elsewhere
    for section, name, part in study.parts("reward_models", "values", "runs", "pairs", "benchmarks"):
        row = part.longest_row()
        contexts = {
            model: study.models[model].context
            for model in (models_under(study, policies, section, name) if row else [])
            if model in study.models and study.models[model].context  # else its files are not there
        }
        if not contexts or min(contexts.values()) >= row.tokens:
            continue
        shortest = min(contexts, key=lambda model: contexts[model])
        lowered = lowered_to(contexts[shortest], part)
        for key, value in lowered.items():
            setattr(part, key, value)
        if lowered:
            told = ", ".join(f"{key} {value}" for key, value in lowered.items())
            yield doubt(f"{section}.{name}", f"{told}: the context of {shortest} is {contexts[shortest]}")


def lowered_to(context: int, part: Part) -> dict[str, int]:
    """Return what those keys of a part are to be that say how long its rows are and that it leaves to defaults."""
    said, room = part.model_fields_set, context
    lowered: dict[str, int] = {}
    if hasattr(part, "max_tokens"):
        if "max_tokens" in said or ("max_prompt_tokens" in said and part.max_prompt_tokens >= context):
            return {}
        lowered["max_tokens"] = context
        room = int(context * PROMPT)
    elif part.longest_row().keys != "max_prompt_tokens":  # answers follow
        room = context - part.max_new_tokens
    if hasattr(part, "max_prompt_tokens") and "max_prompt_tokens" not in said and room > 0:
        lowered["max_prompt_tokens"] = min(part.max_prompt_tokens, room)
    return lowered
