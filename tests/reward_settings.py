"""Settings of rewards as the rules hand them over: every key of the schema, with some of them changed."""

from workflow_scripts.study.rewards import GivenReward, RuleReward


def rule_reward(rule: str, **changed: object) -> dict:
    """Return the settings of a rule's reward."""
    return RuleReward(rule=rule, **changed).handed()


def given_reward(name: str, **changed: object) -> dict:
    """Return the settings of a reward that rows bring."""
    return GivenReward(given=name, **changed).model_dump()
