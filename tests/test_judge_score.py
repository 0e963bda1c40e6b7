"""What the scores from 0 to 100 promise."""

import subprocess
import sys

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.score.judge_score import score
from workflow_scripts.score.verdicts import values_of

PROMPTS = [{"id": f"p{number}#0", "group": f"p{number}", "followups": []} for number in range(4)]
GENERATIONS = [{"id": row["id"], "sample": 0, "turn": 0, "text": "x"} for row in PROMPTS]
VERDICTS = [row | {"rating": rating} for row, rating in zip(GENERATIONS, [85, 0, 100, None], strict=True)]


def cells(verdicts=VERDICTS, generations=GENERATIONS):
    found = score(PROMPTS, values_of(PROMPTS, generations, verdicts, "rating", "verdicts.jsonl"))
    return {cell["metric"]: cell for cell in found}


def test_the_score_is_the_mean_over_the_replies_that_could_be_read():
    cell = cells()["score"]
    assert cell["columns"]["value"] == [85, 0, 100]
    assert (cell["items"], cell["groups"]) == (["p0#0", "p1#0", "p2#0"], ["p0", "p1", "p2"])
    assert (cell["estimator"], cell["higher_is_better"]) == ("mean", True)


def test_what_the_published_mean_leaves_out_is_counted():
    cell = cells()["failed"]
    assert cell["columns"]["value"] == [0, 0, 0, 1] and len(cell["items"]) == 4
    assert cell["higher_is_better"] is False


def test_an_item_is_the_mean_over_its_samples():
    more = [row | {"sample": 1} for row in GENERATIONS]
    found = cells([*VERDICTS, *(row | {"rating": 50} for row in more)], GENERATIONS + more)
    assert found["score"]["columns"]["value"] == [67.5, 25, 75, 50]
    assert found["failed"]["columns"]["value"] == [0, 0, 0, 0.5]


def test_without_any_verdict_there_is_no_score():
    assert list(cells([row | {"rating": None} for row in VERDICTS])) == ["failed"]


def test_answers_and_verdicts_match_one_to_one():
    for wrong in (VERDICTS[:-1], [*VERDICTS, VERDICTS[0]], [*VERDICTS, VERDICTS[0] | {"id": "p9#0"}]):
        with pytest.raises(PlumblineError, match="judge again"):
            cells(wrong)


def test_the_command_line_writes_a_score_file_without_torch(tmp_path):
    for name, rows in (("prompts", PROMPTS), ("generations", GENERATIONS), ("verdicts", VERDICTS)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    flags = [f"--{name}={tmp_path / name}.jsonl" for name in ("prompts", "generations", "verdicts")]
    flags += ["--settings", '{"benchmark": "mine"}', "--output", str(tmp_path / "scores.json")]
    code = (
        "import sys, runpy; sys.argv = ['score', *sys.argv[1:]]\n"
        "runpy.run_module('workflow_scripts.score.judge_score', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *flags], check=True)
    written = read_json(tmp_path / "scores.json")
    assert written["benchmark"] == "mine"
    assert [cell["metric"] for cell in written["cells"]] == ["score", "failed"]
