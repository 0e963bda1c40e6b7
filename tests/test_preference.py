"""What the judged preferences promise."""

import subprocess
import sys

import pytest

from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.generate.calibrate import calibration_answers
from workflow_scripts.score.judging.answers import judge_all
from workflow_scripts.score.judging.questions import against_references, questions_of
from workflow_scripts.score.preference import by_order, score
from workflow_scripts.score.verdicts import values_of

PROMPTS = [
    {
        "id": f"p{number}#0",
        "group": f"p{number}",
        "messages": [{"role": "user", "content": f"Question {number}?"}],
        "followups": [],
        "reference": [f"Answer {number}."],
    }
    for number in range(5)
]
GENERATIONS = [{"id": row["id"], "sample": 0, "turn": 0, "text": "x"} for row in PROMPTS]
VERDICTS = [
    row | {"preference": value, "order": None}
    for row, value in zip(GENERATIONS, [1, 0.5, 0, 1, None], strict=True)
]


def cells(verdicts=VERDICTS, generations=GENERATIONS):
    told, keys = by_order(verdicts), ("preference", "agreement", "first_preferred")
    values = [values_of(PROMPTS, generations, told, key, "verdicts.jsonl") for key in keys]
    return {cell["metric"]: cell for cell in score(PROMPTS, *values)}


def mean(cell):
    return sum(cell["columns"]["value"]) / len(cell["items"])


def test_a_tie_is_half_a_win_and_the_three_shares_add_up():
    found = cells()
    assert mean(found["win_rate"]) == (1 + 0.5 + 0 + 1) / 4
    shares = [mean(found[name]) for name in ("wins", "ties", "losses")]
    assert shares == [0.5, 0.25, 0.25] and sum(shares) == 1
    better = [found[name]["higher_is_better"] for name in ("win_rate", "wins", "ties", "losses")]
    assert better == [True, True, None, False]


def test_how_a_judge_holds_to_itself_is_told_of_pairs_it_was_asked_about():
    orders = [[1, 1], [1, 0], [0.5, 0], [0.5, 0.5], None]
    verdicts = [
        row | {"preference": 0.5, "order": order, "text": ["a", "b"]}
        for row, order in zip(VERDICTS, orders, strict=True)
    ]
    del verdicts[3]["text"]  # equal answers: nobody was asked
    verdicts[4]["preference"] = None
    found = cells(verdicts)
    assert found["agreement"]["items"] == found["first_preferred"]["items"] == ["p0#0", "p1#0", "p2#0"]
    assert found["agreement"]["columns"]["value"] == [1, 0, 0]
    assert found["first_preferred"]["columns"]["value"] == [0.5, 1, 0.75]
    assert found["agreement"]["higher_is_better"] is None
    assert "agreement" not in cells()  # a rule has no orders


def test_a_failed_verdict_is_in_no_rate_but_counted():
    found = cells()
    assert found["failed"]["columns"]["value"] == [0, 0, 0, 0, 1]
    assert all(len(found[name]["items"]) == 4 for name in ("win_rate", "wins", "ties", "losses"))


def test_a_skipped_prompt_is_in_no_number():
    verdicts = [*VERDICTS[:2], VERDICTS[2] | {"preference": None, "skipped": True}, *VERDICTS[3:]]
    found = cells(verdicts)
    assert found["win_rate"]["items"] == ["p0#0", "p1#0", "p3#0"]
    assert found["failed"]["items"] == ["p0#0", "p1#0", "p3#0", "p4#0"]


def test_the_mean_over_samples_counts_each_samples_outcome():
    more = [row | {"sample": 1} for row in GENERATIONS]
    found = cells([*VERDICTS, *(row | {"preference": 0} for row in more)], GENERATIONS + more)
    assert found["win_rate"]["columns"]["value"] == [0.5, 0.25, 0, 0.5, 0]
    assert found["wins"]["columns"]["value"] == [0.5, 0, 0, 0.5, 0]
    assert found["losses"]["columns"]["value"] == [0.5, 0.5, 1, 0.5, 1]


@pytest.mark.parametrize(("policy", "win_rate"), [("gold", 0.5), ("empty", 0.0)])
def test_the_reference_itself_ties_and_saying_nothing_loses(policy, win_rate):
    generations = calibration_answers(PROMPTS, 1, policy)
    questions = against_references(questions_of(PROMPTS, generations, "generations"))
    verdicts = judge_all(
        questions,
        "preference",
        {"skip": [], "prompt": None, "verdict": None},
        {"kind": "rule", "name": "length", "rule": "length"},
        None,
        None,
    )
    assert mean(cells(verdicts, generations)["win_rate"]) == win_rate


def test_the_command_line_writes_a_score_file_without_torch_and_says_what_was_skipped(tmp_path):
    verdicts = [*VERDICTS[:4], VERDICTS[4] | {"skipped": True}]
    for name, rows in (("prompts", PROMPTS), ("generations", GENERATIONS), ("verdicts", verdicts)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    flags = [f"--{name}={tmp_path / name}.jsonl" for name in ("prompts", "generations", "verdicts")]
    flags += ["--settings", '{"benchmark": "mine"}', "--output", str(tmp_path / "scores.json")]
    code = (
        "import sys, runpy; sys.argv = ['score', *sys.argv[1:]]\n"
        "runpy.run_module('workflow_scripts.score.preference', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *flags], check=True)
    written = read_json(tmp_path / "scores.json")
    assert (written["benchmark"], written["skipped"], len(written["cells"])) == ("mine", 1, 5)
