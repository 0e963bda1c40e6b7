"""Policies from elsewhere: who answers their prompts, from which file or endpoint, and what they have no cell for."""

from typing import Any

from workflow_scripts.common.files import digest
from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import Plan, outside_cells
from workflow_scripts.plan.prompts import answered
from workflow_scripts.plan.words import chosen, settings
from workflow_scripts.study.judges import Judge

NO_WEIGHTS = "has no likelihoods and no weights here: it comes as answers alone"


def asked(plan: Plan) -> list[str]:
    """Return the policies that an endpoint answers for."""
    return [name for name, part in plan.study.policies.items() if part.judge is not None]


def given(plan: Plan) -> list[str]:
    """Return the policies whose answers are ready."""
    return [name for name in plan.study.policies if name not in asked(plan)]


def answerer(plan: Plan, policy: str) -> Judge:
    return plan.study.judges[plan.study.policies[policy].judge]


def answerer_settings(plan: Plan, policy: str) -> str:
    """Return what an endpoint's answers depend on beside the prompts and their sampling, as JSON."""
    judge = answerer(plan, policy)
    return settings(judge, keys=judge.verdict_keys, name=plan.study.policies[policy].judge)


def recorded(plan: Plan, policy: str) -> list[str]:
    """Return the file of an endpoint's recorded replies, if there is one."""
    return [file] if (file := answerer(plan, policy).recordings()) else []


def asked_cells(plan: Plan) -> list[tuple[str, int, str]]:
    """Return every (policy, seed, prompt set) that an endpoint answers."""
    names = asked(plan)
    return [
        (name, seed, prompts)
        for name, seed in outside_cells(plan)
        if name in names
        for prompts in answered(plan)
    ]


def answers_files(plan: Plan, policy: str) -> list[str]:
    """Return the files of a policy's ready answers, each once."""
    found = [plan.study.policies[policy].file_for(name) for name in answered(plan)]
    return list(dict.fromkeys(filter(None, found)))


def answers_file(plan: Plan, policy: str, prompts: str) -> list[str]:
    """Return the file of a policy's ready answers to a prompt set, if there is one."""
    return [file] if (file := plan.study.policies[policy].file_for(prompts)) else []


def answers_words(plan: Plan, policy: str, prompts: str) -> list[Word]:
    """Return the flag that names the file of a policy's ready answers, as words; none where there is none."""
    return [
        word
        for file in answers_file(plan, policy, prompts)
        for word in (Word("--answers"), plan.layout.word(file))
    ]


def no_cell(plan: Plan, policy: str) -> str:
    """Return why a benchmark that reads likelihoods or weights has no value for a policy from elsewhere."""
    return f"{policy} {NO_WEIGHTS}"


def outside_facts(plan: Plan, policy: str) -> dict[str, Any]:
    """Return digests of what a policy from elsewhere is; what it rests on beside are files."""
    part = plan.study.policies[policy]
    if part.judge is None:
        return {}
    judge = answerer(plan, policy)
    return {"answered_by": judge.model, "endpoint": digest(chosen(judge, judge.verdict_keys))[:12]}
