"""How long rows may be that a study does not say: no longer than the context of the models that read them."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.lineage import known_policies, models_under
from workflow_scripts.study.part import Part
from workflow_scripts.study.study import Study

PROMPT = 0.75  # of a context: what a prompt is cut to, as the defaults have it
LITTLE_ROOM = 64  # tokens for a prompt and its template


def settle_lengths(study: Study, folder: Path) -> Iterator[Finding]:
    """Lower the defaults that are more than the shortest context under a part; what the study says stays."""
    policies = known_policies(study)
    if policies is None:
        return  # parents are wrong, which is said elsewhere
    for section, name, part in study.parts("reward_models", "values", "runs", "pairs", "benchmarks"):
        contexts = {
            model: study.models[model].context
            for model in models_under(study, policies, section, name)
            if model in study.models and study.models[model].context  # else its files are not there
        }
        if not contexts:
            continue
        shortest = min(contexts, key=lambda model: contexts[model])
        lowered = answers_within(contexts[shortest], part) | rows_within(contexts[shortest], part)
        if lowered:
            told = ", ".join(f"{key} {value}" for key, value in lowered.items())
            yield doubt(f"{section}.{name}", f"{told}: the context of {shortest} is {contexts[shortest]}")


def answers_within(context: int, part: Part) -> dict[str, int]:
    """Let answers leave a prompt room, where a part leaves to a default how long they are; return what was set."""
    longest = part.longest_answer()
    if longest is None or "max_new_tokens" in part.model_fields_set or context - longest >= LITTLE_ROOM:
        return {}
    return put(part, max_new_tokens=context - int(context * PROMPT))


def rows_within(context: int, part: Part) -> dict[str, int]:
    """Let rows fit a context, where a part leaves to defaults how long they are; return what was set."""
    row, said = part.longest_row(), part.model_fields_set
    if row is None or row.tokens <= context:
        return {}
    lowered, room = {}, context
    if hasattr(part, "max_tokens"):
        if "max_tokens" in said or ("max_prompt_tokens" in said and part.max_prompt_tokens >= context):
            return {}
        lowered["max_tokens"] = context
        room = int(context * PROMPT)
    elif row.keys != "max_prompt_tokens":  # answers follow
        room = context - part.max_new_tokens
    if hasattr(part, "max_prompt_tokens") and "max_prompt_tokens" not in said and room > 0:
        lowered["max_prompt_tokens"] = min(part.max_prompt_tokens, room)
    return put(part, **lowered)


def put(part: Part, **values: int) -> dict[str, int]:
    """Give a part other values, and return them."""
    for key, value in values.items():
        setattr(part, key, value)
    return values
