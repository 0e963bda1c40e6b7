"""Tutor scores: labels, the form of replies, and that no turn is ever lost."""

import json
import sys

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.common.tutor_reply import ACTION, EVALUATION, STATE, format_reply
from workflow_scripts.report.statistics.cells import read_cell
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.score import tutor

SETTINGS = {"fidelity": "paper", "skip_first_turn": True}


def reply(evaluation="b", action="3", state="y", subproblem="What is light?", spoken="Good."):
    values = (evaluation, action, state, subproblem, spoken)
    return dict(zip((EVALUATION, ACTION, STATE, "Subproblem", "Tutorbot"), values, strict=True))


def prompt(name, turn, gold):
    reference = [format_reply(gold, "json")]
    return {
        "id": name,
        "group": "g",
        "messages": [],
        "followups": [],
        "reference": reference,
        "meta": {"turn": turn},
    }


def answer(name, text, **extra):
    return {"id": name, "sample": 0, "turn": 0, "text": text, "finish_reason": "stop", **extra}


def cells_of(prompts, texts, **settings):
    answers = {row["id"]: answer(row["id"], text) for row, text in zip(prompts, texts, strict=True)}
    cells = tutor.score(prompts, answers, SETTINGS | settings)
    return {(cell["subset"], cell["metric"]): cell for cell in cells}


@pytest.mark.parametrize("reply_format", ["json", "python"])
def test_gold_replies_score_1_and_empty_ones_0(reply_format):
    prompts = [
        prompt("c#0", 0, reply("g", "12", "x")),
        prompt("c#1", 1, reply()),
        prompt("c#2", 2, reply("a", "1")),
    ]
    golds = [format_reply(json.loads(row["reference"][0]), reply_format) for row in prompts]
    gold, empty = cells_of(prompts, golds), cells_of(prompts, [""] * 3)
    for name in gold:
        if name[1] == "macro_f1":
            for cells, expected in ((gold, 1.0), (empty, 0.0)):
                assert point_estimate([read_cell(cells[name], "here")]) == expected
        elif name == ("reply", "valid_json"):
            assert set(gold[name]["columns"]["value"]) == {1.0 if reply_format == "json" else 0.0}
            assert set(empty[name]["columns"]["value"]) == {0.0}
        else:
            assert set(gold[name]["columns"]["value"]) == {1.0}, name
            assert name == ("reply", "finished") or set(empty[name]["columns"]["value"]) == {0.0}, name


def failing(name, turn, solution, evaluation="a"):
    row = prompt(name, turn, reply(evaluation, {"a": "1", "c": "4", "b": "3"}[evaluation], "x"))
    return row | {"meta": {"turn": turn, "solutions": [None] * turn + [solution]}}


def test_the_give_away_rate_goes_by_the_words_of_replies_to_failed_attempts_and_by_no_label():
    prompts = [
        failing("c#1", 1, "Answer B"),
        failing("c#2", 2, "the cell wall", "c"),
        failing("c#3", 3, "answer C", "b"),  # a right answer: nothing to give away
        failing("c#4", 4, None),  # a row that brings no solution here
        prompt("d#1", 1, reply("a", "1", "x")),  # a row that brings none at all
    ]
    told = format_reply(reply("a", "1", "x", spoken="No. It is answer b!"), "json")  # labels deny it
    cells = cells_of(prompts, [told, "It is the wall of the cell.", "answer C", "answer C", "x"])
    cell = cells["reply", "give_away"]
    assert dict(zip(cell["items"], cell["columns"]["value"], strict=True)) == {"c#1": 1.0, "c#2": 0.0}
    assert cell["higher_is_better"] is False and cell["bounds"] == [0.0, 1.0]


def test_gold_replies_give_away_what_the_experts_do_and_empty_ones_nothing():
    kept = failing("c#1", 1, "answer A")
    given = failing("c#2", 2, "answer A")
    given["reference"] = [format_reply(reply("a", "2", "y", spoken="It is answer A."), "json")]
    rows = [kept, given]
    rates = [
        cells_of(rows, texts)["reply", "give_away"]["columns"]["value"]
        for texts in ([row["reference"][0] for row in rows], ["", ""])
    ]
    assert rates == [[0.0, 1.0], [0.0, 0.0]]


def test_rows_without_solutions_have_no_give_away_rate():
    assert ("reply", "give_away") not in cells_of([prompt("c#1", 1, reply("a", "1", "x"))], [""])


def test_first_turns_count_for_form_and_not_for_labels():
    prompts = [prompt("c#0", 0, reply()), prompt("c#1", 1, reply())]
    cells = cells_of(prompts, ["", ""])
    assert cells["evaluation", "accuracy"]["items"] == ["c#1"]
    assert cells["reply", "exact_labels"]["items"] == ["c#1"]
    assert cells["reply", "valid_json"]["items"] == ["c#0", "c#1"]
    kept = cells_of(prompts, ["", ""], skip_first_turn=False)
    assert kept["evaluation", "accuracy"]["items"] == ["c#0", "c#1"]


def test_one_wrong_label_costs_its_field_and_the_exact_match():
    cells = cells_of([prompt("c#1", 1, reply())], [format_reply(reply(action="1"), "json")])
    assert cells["evaluation", "accuracy"]["columns"]["value"] == [1.0]
    assert cells["action", "accuracy"]["columns"]["value"] == [0.0]
    assert cells["action", "macro_f1"]["columns"] == {"gold": ["3"], "predicted": ["1"]}
    assert cells["reply", "exact_labels"]["columns"]["value"] == [0.0]


@pytest.mark.parametrize(("fidelity", "expected"), [("paper", 1.0), ("code", 0.0)])
def test_blanks_around_a_label_matter_to_the_code_alone(fidelity, expected):
    cells = cells_of(
        [prompt("c#1", 1, reply())], [format_reply(reply(evaluation=" b"), "json")], fidelity=fidelity
    )
    assert cells["evaluation", "accuracy"]["columns"]["value"] == [expected]
    assert cells["evaluation", "macro_f1"]["fidelity"] == fidelity


def test_a_number_as_label_is_read_as_its_text():
    cells = cells_of([prompt("c#1", 1, reply())], [format_reply(reply(action=3), "json")])
    assert cells["action", "accuracy"]["columns"]["value"] == [1.0]


@pytest.mark.parametrize(
    ("text", "valid", "parsed"),
    [
        (format_reply(reply(), "json"), 1.0, 1.0),
        (format_reply(reply(), "python"), 0.0, 1.0),
        (format_reply(reply(), "json") + " Student: ok", 0.0, 0.0),
        (format_reply(reply(action=3), "json"), 0.0, 1.0),
        (format_reply(reply(spoken=" "), "json"), 0.0, 1.0),
        ('{"Tutorbot": "Hi"}', 0.0, 0.0),
        ("[" * 100_000, 0.0, 0.0),
        ("null", 0.0, 0.0),
    ],
)
def test_what_counts_as_valid_json_and_as_parsed(text, valid, parsed):
    cells = cells_of([prompt("c#1", 1, reply())], [text])
    assert cells["reply", "valid_json"]["columns"]["value"] == [valid]
    assert cells["reply", "parsed"]["columns"]["value"] == [parsed]


NULL = json.dumps(reply(subproblem=None))
NONE = str(reply(subproblem=None))


@pytest.mark.parametrize(
    ("fidelity", "text", "right", "parsed"),
    [
        ("code", NULL, 0.0, 0.0),  # no Python literal: the published program takes all its labels for empty
        ("code", NONE, 1.0, 1.0),  # a literal, whose labels are there
        ("paper", NULL, 0.0, 0.0),  # in either notation nothing is said there
        ("paper", NONE, 0.0, 0.0),
        ("code", json.dumps(reply() | {"more": True}), 0.0, 0.0),
        ("paper", json.dumps(reply() | {"more": True}), 1.0, 1.0),
        ("paper", json.dumps(reply() | {"more": None}), 1.0, 1.0),
    ],
)
def test_null_in_a_reply_is_counted_as_the_code_or_as_no_reply(fidelity, text, right, parsed):
    cells = cells_of([prompt("c#1", 1, reply())], [text], fidelity=fidelity)
    assert cells["action", "accuracy"]["columns"]["value"] == [right]
    assert cells["reply", "parsed"]["columns"]["value"] == [parsed]
    assert cells["action", "macro_f1"]["columns"]["predicted"] == ["3" if right else ""]


def test_a_label_that_is_none_is_no_label_in_the_code():
    cells = cells_of([prompt("c#1", 1, reply())], [str(reply(state=None))], fidelity="code")
    assert cells["state", "macro_f1"]["columns"]["predicted"] == [""]
    assert cells["action", "macro_f1"]["columns"]["predicted"] == ["3"]


def test_gold_labels_that_cannot_be_compared_with_are_left_out_of_the_labels_and_said():
    odd = [reply(state="yz"), reply(action=3), {**reply(), "Tutorbot": None}]
    prompts = [prompt(f"c#{place}", place, gold) for place, gold in enumerate([reply(), *odd], 1)]
    cells = cells_of(prompts, [format_reply(reply(), "json")] * 4)
    assert cells["state", "accuracy"]["items"] == ["c#1"]
    assert cells["reply", "parsed"]["items"] == [row["id"] for row in prompts]
    note = "3 of 4 turns not scored: no gold labels to compare with"
    assert all(
        ("note" in cell) == (name[1] in ("accuracy", "macro_f1", "exact_labels"))
        for name, cell in cells.items()
    )
    assert cells["action", "macro_f1"]["note"] == note
    with pytest.raises(PlumblineError, match="no turn to score"):
        cells_of(prompts[1:], [""] * 3)


def test_a_reply_cut_at_the_token_limit_is_not_finished():
    row = answer("c#1", "", finish_reason="length")
    cells = tutor.score([prompt("c#1", 1, reply())], {"c#1": row}, SETTINGS)
    assert next(cell for cell in cells if cell["metric"] == "finished")["columns"]["value"] == [0.0]


def test_a_prompt_set_of_first_turns_alone_is_refused():
    with pytest.raises(PlumblineError, match="no turn to score"):
        cells_of([prompt("c#0", 0, reply())], [""])


def test_a_gold_reply_that_does_not_parse_is_named():
    broken = prompt("c#1", 1, reply()) | {"reference": ["oops"]}
    with pytest.raises(PlumblineError, match=r"c#1: its reference lacks Evaluation"):
        cells_of([broken], [""])


def run_command(monkeypatch, tmp_path, rows):
    prompts = [prompt("c#1", 1, reply()), prompt("c#2", 2, reply())]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    write_jsonl(tmp_path / "generations.jsonl", rows)
    flags = {"prompts": "prompts.jsonl", "generations": "generations.jsonl", "output": "tutor.json"}
    argv = [part for name, file in flags.items() for part in (f"--{name}", str(tmp_path / file))]
    monkeypatch.setattr(sys, "argv", ["tutor", *argv, "--settings", json.dumps(SETTINGS)])
    tutor.main()
    return read_json(tmp_path / "tutor.json")


def test_the_command_writes_every_turn_of_every_cell(monkeypatch, tmp_path):
    text = format_reply(reply(), "json")
    scores = run_command(monkeypatch, tmp_path, [answer("c#2", text), answer("c#1", "")])
    assert scores["benchmark"] == "tutor"
    assert len(scores["cells"]) == 10
    assert all(cell["items"] == ["c#1", "c#2"] and cell["groups"] == ["g", "g"] for cell in scores["cells"])
    assert scores["cells"][0]["columns"]["value"] == [0.0, 1.0]


def test_a_missing_answer_is_an_error_that_names_its_prompt(monkeypatch, tmp_path):
    with pytest.raises(PlumblineError, match="no answer to 'c#2'"):
        run_command(monkeypatch, tmp_path, [answer("c#1", "")])


def test_two_samples_of_a_turn_are_refused(monkeypatch, tmp_path):
    rows = [answer("c#1", ""), answer("c#2", ""), answer("c#2", "", sample=1)]
    with pytest.raises(PlumblineError, match="2 samples of 'c#2'"):
        run_command(monkeypatch, tmp_path, rows)
