"""What the AlpacaEval scores promise."""

import subprocess
import sys
from pathlib import Path

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.score.alpaca_eval import score

PROMPTS = [{"id": str(number), "group": f"g{number}"} for number in range(4)]
LENGTHS = {"0": 10, "1": 20, "2": 30, "3": 40}
VERDICTS = [
    {"id": str(number), "turn": 0, "sample": 0, "preference": preference, "order": None}
    for number, preference in enumerate([1, 0.5, 0, None])
]
DATA = Path(__file__).parents[1] / "data" / "bundled"


def cells(verdicts=VERDICTS):
    return {cell["metric"]: cell for cell in score(PROMPTS, LENGTHS, verdicts, "verdicts.jsonl")}


def test_the_win_rate_is_the_mean_preference_of_the_verdicts_there_are():
    cell = cells()["win_rate"]
    assert cell["columns"]["value"] == [1, 0.5, 0]
    assert cell["items"] == ["0", "1", "2"] and cell["groups"] == ["g0", "g1", "g2"]
    assert cell["higher_is_better"] is True


def test_a_failed_verdict_is_counted():
    assert cells()["failed"]["columns"]["value"] == [0, 0, 0, 1]
    assert cells()["failed"]["higher_is_better"] is False


def test_length_covers_every_answer_and_is_neither_good_nor_bad():
    assert cells()["length"]["columns"]["value"] == [10, 20, 30, 40]
    assert cells()["length"]["higher_is_better"] is None


def test_an_item_is_the_mean_over_its_samples():
    found = cells(VERDICTS + [row | {"sample": 1, "preference": 1} for row in VERDICTS])
    assert found["win_rate"]["columns"]["value"] == [1, 0.75, 0.5, 1]
    assert found["failed"]["columns"]["value"] == [0, 0, 0, 0.5]


def test_without_any_verdict_there_is_no_win_rate():
    assert list(cells([row | {"preference": None} for row in VERDICTS])) == ["length", "failed"]


def test_a_prompt_without_a_verdict_or_a_verdict_without_a_prompt_is_an_error():
    with pytest.raises(PlumblineError, match="no verdict on '3'"):
        cells(VERDICTS[:3])
    with pytest.raises(PlumblineError, match="'9', which is not asked"):
        cells([*VERDICTS, VERDICTS[0] | {"id": "9"}])


def test_the_command_line_writes_a_score_file_without_torch(tmp_path):
    generations = [
        {"id": row["id"], "sample": 0, "turn": 0, "text": "x" * LENGTHS[row["id"]], "finish_reason": "stop"}
        for row in PROMPTS
    ]
    for name, rows in (("prompts", PROMPTS), ("generations", generations), ("verdicts", VERDICTS)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    flags = [
        part
        for name in ("prompts", "generations", "verdicts")
        for part in (f"--{name}", str(tmp_path / f"{name}.jsonl"))
    ]
    flags += ["--settings", '{"benchmark": "mine"}', "--output", str(tmp_path / "scores.json")]
    code = (
        "import sys, runpy; sys.argv = ['score', *sys.argv[1:]]\n"
        "runpy.run_module('workflow_scripts.score.alpaca_eval', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *flags], check=True)
    written = read_json(tmp_path / "scores.json")
    assert written["benchmark"] == "mine"
    assert [cell["metric"] for cell in written["cells"]] == ["win_rate", "length", "failed"]
    assert written["cells"][1]["columns"]["value"] == [10, 20, 30, 40]


def test_the_bundled_instructions_are_forty_distinct_ones_with_answers():
    rows = read_jsonl(DATA / "alpaca_biology.jsonl")
    assert len({row["instruction"] for row in rows}) == 40
    assert all(
        row["output"] and row["dataset"] == "bundled" and row["generator"] == "reference" for row in rows
    )
    assert (DATA / "alpaca_biology.jsonl").read_text().isascii()
