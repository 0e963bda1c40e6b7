"""A study that chooses its number of seeds as it runs: what is asked first, and the plan that follows from the choice.

A plan of such a study has every seed that there may be, as rules are patterns of any. What gathers over seeds is given
the plan of those that were chosen, which only the run knows (`chosen_plan`), and what is wanted in any case the plan of
the first (`first_plan`). Of a study that names its seeds all of these are the one plan.
"""

import functools
from pathlib import Path

from workflow_scripts.common.files import read_json
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.plan.words import as_json
from workflow_scripts.study.seeds import SeedsUntil


def grows(plan: Plan) -> bool:
    """Tell whether the number of seeds is chosen as the study runs."""
    return isinstance(plan.study.seeds, SeedsUntil)


def seeds_file(plan: Plan) -> list[str]:
    """Return the file of the chosen seeds, where they are chosen."""
    return [plan.layout.chosen_seeds] if grows(plan) else []


def deciding(plan: Plan) -> list[str]:
    """Return the policies whose first seeds decide: the one that is named, or all that have seeds."""
    named = plan.study.seeds.policy
    return [named] if named else [name for name, policy in plan.policies.items() if policy.parent]


def deciding_scores(plan: Plan) -> list[str]:
    """Return the score files that decide, by policy, then by seed."""
    benchmark = plan.study.seeds.cell().benchmark
    return [
        plan.layout.scores(policy, seed, benchmark)
        for policy in deciding(plan)
        for seed in plan.study.first_seeds()
    ]


def choice_settings(plan: Plan) -> str:
    """Return how the number of seeds is chosen, as JSON."""
    asked = plan.study.seeds
    return as_json(
        {
            "on": asked.cell().model_dump(),
            "until": asked.until,
            "at_most": asked.at_most,
            "policies": deciding(plan),
            "seeds": plan.study.first_seeds(),
            "confidence": plan.study.report.confidence,
        }
    )


@functools.cache
def plan_with(plan: Plan, count: int) -> Plan:
    """Return the plan of a study that has so many seeds."""
    seeds = plan.study.seeds.model_copy(update={"at_most": count})
    return plan_of(plan.study.model_copy(update={"seeds": seeds}))


def first_plan(plan: Plan) -> Plan:
    """Return the plan of what is wanted whatever number is chosen."""
    return plan_with(plan, plan.study.seeds.first) if grows(plan) else plan


def chosen_plan(plan: Plan, file: Path | str) -> Plan:
    """Return the plan of the seeds that a file says were chosen."""
    return plan_with(plan, len(read_json(file)["seeds"]))


def chosen_words(file: Path | str) -> str:
    """Return why so many seeds were chosen, in a sentence."""
    return read_json(file)["words"]


def plan_at_hand(plan: Plan) -> Plan:
    """Return the plan of the seeds that were chosen already, else of the first: what can be counted now."""
    if grows(plan) and Path(plan.layout.chosen_seeds).is_file():
        return chosen_plan(plan, plan.layout.chosen_seeds)
    return first_plan(plan)
