"""What the MT-Bench scores promise."""

import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.score.mt_bench import ratings_of, score

PROMPTS = [
    {"id": name, "group": name, "messages": [], "followups": ["more"], "meta": {"category": category}}
    for name, category in (("1", "writing"), ("2", "writing"), ("3", "math"))
]
RATINGS = {("1", 0): 8, ("1", 1): 6, ("2", 0): 3, ("2", 1): None, ("3", 0): 10, ("3", 1): 1}
GENERATIONS = [{"id": name, "sample": 0, "turn": turn, "text": "x"} for name, turn in RATINGS]
VERDICTS = [row | {"rating": rating} for row, rating in zip(GENERATIONS, RATINGS.values(), strict=True)]
DATA = Path(__file__).parents[1] / "data" / "bundled"


def cells(generations=GENERATIONS, verdicts=VERDICTS):
    found = score(PROMPTS, ratings_of(PROMPTS, generations, verdicts, "verdicts.jsonl"))
    return {(cell["subset"], cell["metric"]): cell for cell in found}


def mean(cell):
    return sum(cell["columns"]["value"]) / len(cell["items"])


def test_means_are_those_of_the_published_table():
    """FastChat's show_result drops score -1 and averages over (model, turn), then over the model."""
    frame = pandas.DataFrame(
        [{"turn": turn, "score": -1 if rating is None else rating} for (_, turn), rating in RATINGS.items()]
    )
    frame = frame[frame["score"] != -1]
    found = cells()
    assert mean(found["turn1", "rating"]) == frame[frame["turn"] == 0]["score"].mean() == 7
    assert mean(found["turn2", "rating"]) == frame[frame["turn"] == 1]["score"].mean() == 3.5
    assert mean(found["overall", "rating"]) == pytest.approx(frame["score"].mean()) == pytest.approx(5.6)


def test_each_category_has_its_mean_and_questions_are_the_groups():
    found = cells()
    assert mean(found["writing", "rating"]) == pytest.approx(17 / 3)
    assert mean(found["math", "rating"]) == 5.5
    assert found["overall", "rating"]["items"] == ["1#1", "1#2", "2#1", "3#1", "3#2"]
    assert found["overall", "rating"]["groups"] == ["1", "1", "2", "3", "3"]
    assert found["turn1", "rating"]["items"] == ["1", "2", "3"]


def test_a_failed_verdict_is_in_no_mean_but_counted():
    cell = cells()["overall", "failed"]
    assert cell["columns"]["value"] == [0, 0, 0, 1, 0, 0]
    assert cell["higher_is_better"] is False
    assert len(cells()["turn2", "rating"]["items"]) == 2


def test_an_item_is_the_mean_over_its_samples():
    more = [row | {"sample": 1} for row in GENERATIONS]
    verdicts = VERDICTS + [row | {"rating": 10} for row in more]
    found = cells(GENERATIONS + more, verdicts)
    assert found["turn1", "rating"]["columns"]["value"] == [9, 6.5, 10]
    assert found["turn2", "rating"]["columns"]["value"] == [8, 10, 5.5]
    assert found["overall", "failed"]["columns"]["value"] == [0, 0, 0, 0.5, 0, 0]


def test_a_mean_of_no_verdicts_is_left_out():
    verdicts = [row | {"rating": None} if row["turn"] else row for row in VERDICTS]
    found = cells(verdicts=verdicts)
    assert ("turn2", "rating") not in found and ("turn1", "rating") in found


@pytest.mark.parametrize(
    ("generations", "verdicts", "message"),
    [
        (GENERATIONS, VERDICTS[:-1], "turn 1, sample 0 of '3'; judge again"),
        (GENERATIONS[:-1], VERDICTS, "judge again"),
        (GENERATIONS, [*VERDICTS, VERDICTS[0]], "judge again"),
        (GENERATIONS[:-1], VERDICTS[:-1], "turn 1 of '3'.*generate again"),
    ],
)
def test_answers_and_verdicts_match_one_to_one(generations, verdicts, message):
    with pytest.raises(PlumblineError, match=message):
        cells(generations, verdicts)


def test_the_command_line_writes_a_score_file_without_torch(tmp_path):
    for name, rows in (("prompts", PROMPTS), ("generations", GENERATIONS), ("verdicts", VERDICTS)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    flags = [
        part
        for name in ("prompts", "generations", "verdicts")
        for part in (f"--{name}", str(tmp_path / f"{name}.jsonl"))
    ]
    flags += ["--settings", '{"benchmark": "mine"}', "--output", str(tmp_path / "scores.json")]
    code = (
        "import sys, runpy; sys.argv = ['score', *sys.argv[1:]]\n"
        "runpy.run_module('workflow_scripts.score.mt_bench', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *flags], check=True)
    written = read_json(tmp_path / "scores.json")
    assert written["benchmark"] == "mine" and len(written["cells"]) == 6


def test_the_bundled_questions_have_the_eight_categories_and_two_turns_each():
    rows = read_jsonl(DATA / "mt_bench_biology.jsonl")
    assert pandas.Series([row["category"] for row in rows]).value_counts().to_dict() == dict.fromkeys(
        "writing roleplay reasoning math coding extraction stem humanities".split(), 2
    )
    assert all(len(row["turns"]) == len(row["reference"]) == 2 for row in rows)
    assert len({row["question_id"] for row in rows}) == 16
    assert (DATA / "mt_bench_biology.jsonl").read_text().isascii()
