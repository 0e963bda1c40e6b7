"""What follows from a watch: its prompts and flags, what it makes stale, where it is told, and which are refused."""

import json

import pytest

from tests.plans import EVERY_KEY, changed, config_of, planned, told
from tests.studies import put
from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan import index, prompts, resources, training
from workflow_scripts.report.index import entry_of
from workflow_scripts.report.results import chosen_notes
from workflow_scripts.report.scores import chosen_by
from workflow_scripts.study.checking import examine
from workflow_scripts.study.sampling import Sampling
from workflow_scripts.study.watch import Watch

PLAN = planned(EVERY_KEY)
RESULTS = "results/every-key"
REWARDED = {"annotation": "judged", "split": "validation", "metric": "final_reward"}


def test_a_watch_has_a_prompt_set_of_its_own_that_nobody_owes():
    assert {"watch-dpo", "watch-simpo"} <= prompts.prompt_sets(PLAN).keys()
    assert prompts.prompts_kind(PLAN, "watch-dpo") == "turns"
    assert prompts.prompts_file(PLAN, "watch-dpo") == "data/clean/every-key/tutored/rows/validation.jsonl"
    assert prompts.prompts_file(PLAN, "watch-simpo") == "data/clean/every-key/ranked/rows/validation.jsonl"
    assert prompts.prompts_flags(PLAN, "watch-simpo") == ["--limit", "9"]
    drawn = told(prompts.sampling(PLAN, "watch-dpo"))
    assert (drawn["beams"], drawn["repetition_penalty"], drawn["max_new_tokens"]) == (2, 2.5, 128)
    assert training.watched(PLAN) == ["tiny.sft.dpo", "tiny.sft.simpo"]


def test_a_training_is_told_all_of_its_watch_and_no_more():
    settings = told(training.watching_settings(PLAN, "tiny.sft.simpo"))
    assert settings["template"] == told(prompts.answering_settings(PLAN, "tiny.sft.simpo"))["template"]
    assert settings["rewards"].keys() == {"own", "other", "words"}
    handed = settings.keys() - {"template", "context", "rewards"}
    drawn = set(Sampling.model_fields)
    assert handed | drawn | {"annotation", "dataset", "split", "limit"} == Watch.model_fields.keys()
    assert told(training.watching_settings(PLAN, "tiny.sft.dpo"))["rewards"] is None
    assert told(training.watching_settings(PLAN, "tiny.sft")) is None


def test_what_measures_its_answers_is_pinned_where_it_is_a_library():
    assert "nltk" in training.pinned(PLAN, "tiny.sft.dpo")
    assert "nltk" not in training.pinned(PLAN, "tiny.sft.simpo")
    assert {"torch", "trl"} <= training.pinned(PLAN, "tiny.sft").keys()


def test_its_files_are_flags_and_their_manifests_inputs():
    assert training.watch_flags(PLAN, "tiny.sft.simpo") == [
        "--watch-prompts",
        "$RESULTS/prompts/watch-simpo.json",
        "--watch-fit-rows",
        "$CLEAN/ranked/rows/train.jsonl",
    ]
    assert training.watch_flags(PLAN, "tiny.sft.dpo")[2:] == []
    assert training.watch_flags(PLAN, "tiny.sft") == training.watch_inputs(PLAN, "tiny.sft") == []
    assert training.watch_inputs(PLAN, "tiny.sft.simpo")[:3] == [
        f"{RESULTS}/prompts/watch-simpo.json",
        "data/clean/every-key/ranked/manifest.json",
        f"{RESULTS}/reward_models/rm/manifest.json",
    ]


def test_a_study_that_is_cut_short_watches_fewer_prompts():
    assert prompts.prompts_flags(changed(EVERY_KEY, {"limit": 4}), "watch-simpo") == ["--limit", "4"]


def test_where_curves_are_tracked_makes_nothing_stale():
    tracked, plain = PLAN, changed(EVERY_KEY, {"training_resources": {}})
    assert (resources.sinks(tracked), resources.sinks(plain)) == ("tensorboard", "")
    asked = [resources.asked(plan.study.training_resources) for plan in (tracked, plain)]
    assert asked[0] == asked[1]
    assert index.study_digest(tracked) == index.study_digest(plain)
    for policy in plain.trained():
        assert training.training_settings(tracked, policy) == training.training_settings(plain, policy)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watch", "refused"),
    [
        (
            REWARDED | {"split": "test"},
            r"benchmarks\.\w+ asks ranked/test: a policy that is chosen by its test",
        ),
        (
            {"dataset": "tutored", "split": "test", "metric": "meteor"},
            r"runs\.pro\.watch\.split: benchmarks\.labels asks tutored/test",
        ),
        (REWARDED | {"split": "nowhere"}, r"runs\.pro\.watch\.split: no split"),
        (REWARDED | {"annotation": "brought"}, "new answers have no given rewards"),
        (
            REWARDED | {"metric": "p_valid"},
            r"watch\.metric: no column of annotation 'judged' is called 'p_valid'",
        ),
        (REWARDED | {"dataset": "ranked"}, "names either an annotation"),
        ({"split": "validation", "metric": "meteor"}, "names either an annotation"),
        ({"dataset": "ranked", "split": "validation", "metric": "metoer"}, "did you mean 'meteor'"),
        ({"dataset": "ranked", "split": "validation", "metric": "exact_labels"}, "compares the labels"),
        (REWARDED | {"max_new_tokens": 8192}, r"watch\.max_new_tokens: 8192 leaves a prompt no room"),
        (REWARDED | {"beams": 2, "temperature": 0.5}, "beams are searched for one answer"),
        (
            {"dataset": "ranked", "split": "validation", "metric": "meteor", "wordnet": "no/where"},
            "no such file",
        ),
    ],
)
def test_a_watch_that_cannot_be_or_must_not_be_is_refused_before_anything_runs(watch, refused):
    with pytest.raises(PlumblineError, match=refused):
        changed(EVERY_KEY, {"runs.pro.watch": watch})


def test_a_split_that_is_called_test_is_refused_though_nothing_asks_it():
    values = {"datasets.chatted.split": {"by_file": {"sft": ["first rows.jsonl"], "test": ["second.jsonl"]}}}
    values |= {
        "runs.chat": "DROP",
        "runs.pro.watch": {"dataset": "chatted", "split": "test", "metric": "words"},
    }
    with pytest.raises(PlumblineError, match="'test' is kept for the end"):
        changed(EVERY_KEY, values)


def test_a_mixture_is_watched_as_what_it_is_made_of():
    watch = {"dataset": "mixed", "split": "validation", "metric": "words"}
    values = {"datasets.mixed": {"mixture": {"tutored": 0.5}}, "runs.pro.watch": watch}
    assert prompts.prompts_file(changed(EVERY_KEY, values), "watch-pro").endswith(
        "/mixed/rows/validation.jsonl"
    )
    with pytest.raises(PlumblineError, match=r"benchmarks\.labels asks mixed/test: a policy that is chosen"):
        changed(EVERY_KEY, values | {"runs.pro.watch": watch | {"split": "test"}})
    with pytest.raises(PlumblineError, match="compares the labels"):
        changed(
            EVERY_KEY,
            values
            | {
                "datasets.mixed": {"mixture": {"ranked": 0.5}},
                "runs.pro.watch": watch | {"metric": "exact_labels"},
            },
        )
    learned = {"runs.sft.watch": watch | {"split": "sft"}}
    config = config_of(EVERY_KEY)
    for key, value in ({"datasets.mixed": {"mixture": {"tutored": 0.5}}} | learned).items():
        config = put(config, key, value)
    assert any(
        line.startswith("runs.sft.watch.split: 'sft' is what")
        for line in examine(config, folder=ROOT / "tests").doubts
    )


def test_the_best_by_what_is_watched_needs_no_rows_to_validate_on():
    with pytest.raises(PlumblineError, match="needs a validation split or a watch"):
        changed(EVERY_KEY, {"runs.ppo.keep": "best"})
    plan = changed(EVERY_KEY, {"runs.ppo.keep": "best", "runs.ppo.watch": REWARDED})
    assert plan.run("tiny.sft.ppo").watch.metric == "final_reward"


def test_a_watch_of_what_is_learned_is_a_doubt():
    config = put(config_of(EVERY_KEY), "runs.ppo.watch", REWARDED | {"split": "train"})
    assert [
        line
        for line in examine(config, folder=ROOT / "tests").doubts
        if line.startswith("runs.ppo.watch.split: 'train' is what")
    ]


def test_a_benchmark_is_not_called_as_the_prompts_of_a_watch_are():
    benchmark = {"kind": "tutor", "dataset": "tutored", "split": "test"}
    with pytest.raises(PlumblineError, match=r"the prompts of runs\.dpo have this name"):
        changed(EVERY_KEY, {"benchmarks.watch-dpo": benchmark})


# --- what the table says ----------------------------------------------------------------------------------------------


def test_the_table_says_which_step_of_a_policy_was_chosen_and_by_what(tmp_path):
    cells = {entry["policy"]: entry for entry in json.loads(index.index_entries(PLAN))["cells"]}
    # dpo is watched, and keeps its last step all the same.
    among_others = ["tiny.choice", "tiny.tried-best"]
    found = [name for name, cell in cells.items() if "chosen" in cell]
    assert sorted(found) == sorted([*among_others, "tiny.sft.simpo"])
    manifest = f"{RESULTS}/policies/tiny.sft.simpo/seed-1/manifest.json"
    assert manifest in index.chosen_policies(PLAN)
    benchmark = json.loads(index.index_entries(PLAN))["benchmarks"][0]
    assert entry_of(cells["tiny.sft.simpo"], benchmark)["chosen"] == manifest
    assert "chosen" not in entry_of(cells["tiny.sft"], benchmark)

    watched = {"metric": "final_reward", "best": "max", "step": 20, "value": 0.5, "error": 0.1, "prompts": 9}
    (tmp_path / "manifest.json").write_text(json.dumps({"steps": 40, "best_step": 20, "watched": watched}))
    said = chosen_by({"chosen": str(tmp_path / "manifest.json")})
    assert said == (
        "step 20 of 40 is kept, chosen by final_reward (0.5) of its answers to 9 validation prompts"
    )
    assert chosen_by({}) == ""
    (tmp_path / "manifest.json").write_text(json.dumps({"diverged": "at step 2"}))
    assert chosen_by({"chosen": str(tmp_path / "manifest.json")}) == ""
    assert chosen_notes([{"seed": 1, "chosen": said}]) == [said]
    two = [{"seed": 1, "chosen": said}, {"seed": 2, "chosen": ""}]
    assert chosen_notes(two) == [f"seed 1: {said}"]
