"""Where things are: each path once, inside its study's folders, and the same whether names or wildcards stand in it."""

import inspect
import os
import subprocess

import pytest

from workflow_scripts.plan.layout import JUDGES, MODELS, SOURCES, TASKS, Layout

LAYOUT = Layout("s")
SPEAKING = ("variables", "with_variables", "word", "in_shell", "cost_in_shell", "answered_in_shell")
PLACES = {
    name: list(inspect.signature(method).parameters)
    for name, method in inspect.getmembers(LAYOUT, inspect.ismethod)
    if name not in SPEAKING and not name.startswith("_")
}


def place(name: str, say: str = "{}") -> str:
    """Return a place whose every name is that of its parameter, put into `say`."""
    return getattr(LAYOUT, name)(*(say.format(parameter) for parameter in PLACES[name]))


def test_the_places_that_these_tests_look_at_are_those_of_the_layout():
    assert {"policy", "answers", "scores", "own_pairs", "advantages", "log"} <= PLACES.keys()
    assert not {name for name, parameters in PLACES.items() if not parameters}


@pytest.mark.parametrize("name", PLACES)
def test_everything_of_a_study_is_in_its_own_folders(name):
    assert place(name).startswith(("results/s/", "data/clean/s/"))
    assert not place(name).startswith((SOURCES, MODELS, TASKS, JUDGES))


@pytest.mark.parametrize("name", PLACES)
def test_a_rules_pattern_with_names_put_in_is_the_path(name):
    pattern = place(name, say="{{{}}}")
    assert pattern.format(**{parameter: f"{parameter}-1" for parameter in PLACES[name]}) == place(
        name, "{}-1"
    )


@pytest.mark.parametrize("name", PLACES)
def test_every_name_makes_another_path(name):
    parameters = PLACES[name]
    paths = {
        getattr(LAYOUT, name)(*("x" if at == changed else "y" for at in parameters)) for changed in parameters
    }
    assert len(paths) == len(parameters)


def test_no_two_things_are_in_one_place():
    assert len({place(name) for name in PLACES}) == len(PLACES)


def test_a_seed_stands_alike_as_a_number_and_as_a_wildcard():
    assert LAYOUT.policy("m.sft", 3) == LAYOUT.policy("m.sft", "3") == "results/s/policies/m.sft/seed-3"


def test_rows_stand_beside_their_manifests():
    assert LAYOUT.prompt_rows("quiz") == LAYOUT.prompts("quiz") + "l"
    assert LAYOUT.answer_rows("m", 1, "quiz") == LAYOUT.answers("m", 1, "quiz") + "l"
    assert LAYOUT.reward_rows("m", 1, "quiz") == LAYOUT.rewards("m", 1, "quiz") + "l"


def test_a_log_without_wildcards_is_named_after_its_rule():
    assert LAYOUT.log("build_table") == "results/s/logs/build_table.log"
    assert LAYOUT.log("train_sft", "m-1") == "results/s/logs/train_sft/m-1.log"
    assert LAYOUT.cost("train_sft", "m-1") == "results/s/costs/train_sft/m-1.json"


# --- in shell lines ---------------------------------------------------------------------------------------------


def test_a_variable_stands_for_each_folder_of_the_study_and_for_no_other():
    assert LAYOUT.with_variables(LAYOUT.rows("d", "test")) == "$CLEAN/d/rows/test.jsonl"
    assert LAYOUT.with_variables(LAYOUT.prompts("quiz")) == "$RESULTS/prompts/quiz.json"
    assert LAYOUT.with_variables("work/s/train/m-1") == "$WORK/train/m-1"
    for other in ("results/s2/prompts/quiz.json", "results/s", "data/sources/x", "x/results/s/prompts"):
        assert LAYOUT.with_variables(other) == other


@pytest.mark.parametrize("name", ['été\'s "rows" (1) [a] * $HOME `x`', "plain", "a b"])
def test_a_word_arrives_in_bash_as_the_path_it_is(name):
    path = LAYOUT.rows("d", name)
    for text in (path, f"train={path}", f"data/sources/{name}"):
        line = f"printf %s {LAYOUT.word(text)}"
        done = subprocess.run(
            ["bash", "-c", line],
            env=LAYOUT.variables() | {"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == text


def test_a_word_names_the_study_by_its_variable_alone_so_that_studies_share_jobs():
    for study in ("s", "another"):
        layout = Layout(study)
        assert layout.word(f"train={layout.rows('d', 'train')}") == "train=$CLEAN/d/rows/train.jsonl"


def test_a_jobs_cost_and_answers_are_named_by_its_quoted_wildcards():
    assert LAYOUT.cost_in_shell("train_sft", "policy", "seed") == (
        "$RESULTS/costs/train_sft/{wildcards.policy:q}-{wildcards.seed:q}.json"
    )
    assert LAYOUT.answered_in_shell("pairs-{pairs}") == (
        "--prompts $RESULTS/prompts/pairs-{wildcards.pairs:q}.jsonl --generations"
        " $RESULTS/policies/{wildcards.policy:q}/seed-{wildcards.seed:q}/generations/pairs-{wildcards.pairs:q}.jsonl"
    )
