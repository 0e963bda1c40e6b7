"""A study's `limit`: every split, prompt set and task is cut to it, and what is shared with the whole study is not."""

import pytest

from tests.plans import DEFAULT, EVERY_KEY, changed, planned, told
from workflow_scripts.plan import cleaning, prompts, scoring, sources, training


def limits(plan) -> dict[str, set[int | None]]:
    """Return {which scripts: the limits that they are told}; a prompt set without the flag has None."""
    asked = {}
    for name in prompts.prompt_sets(plan):
        flags = prompts.prompts_flags(plan, name)
        asked[name] = int(flags[flags.index("--limit") + 1]) if "--limit" in flags else None
    cleaned = [
        told(cleaning.dataset_settings(plan, name))["split"]["limit"] for name in cleaning.cleaned(plan)
    ]
    measured = [
        told(scoring.measuring_settings(plan, name, "gold"))
        for name in scoring.scored_from(plan, "likelihoods")
    ]
    harness = [told(scoring.harness_settings(plan, name)) for name in scoring.scored_from(plan, "model")]
    return {
        "cleaning": set(cleaned),
        "prompts": {limit for name, limit in asked.items() if not name.startswith(("values-", "runs-"))},
        "likelihoods": {settings["limit"] for settings in measured if "limit" in settings},
        "harness": {settings["limit"] for settings in harness},
    }


@pytest.mark.parametrize("name", [DEFAULT, EVERY_KEY])
def test_a_limit_cuts_every_split_and_benchmark(name):
    cut = limits(changed(name, {"limit": 3, "study": "cut"}))
    assert cut == {
        "cleaning": {3},
        "prompts": {3},
        "likelihoods": {3} if name == EVERY_KEY else set(),  # the default study measures no split
        "harness": {3},
    }


def test_without_one_each_part_has_its_own_and_a_smaller_one_stays():
    assert limits(planned(DEFAULT)) == {
        "cleaning": {None},
        "prompts": {None},
        "likelihoods": set(),
        "harness": {None},
    }
    assert limits(changed(DEFAULT, {"benchmarks.tutor.limit": 2, "limit": 3}))["prompts"] == {2, 3}


def test_no_training_that_is_cut_short_warms_up():
    plan = changed(DEFAULT, {"limit": 3})
    assert {told(training.training_settings(plan, policy))["warmup"] for policy in plan.trained()} == {0.0}


def test_sources_and_base_models_are_those_of_the_whole_study():
    whole, cut = planned(DEFAULT), changed(DEFAULT, {"limit": 3, "study": "cut"})
    assert sources.sources(cut) == sources.sources(whole)
    assert sources.models(cut) == sources.models(whole)
