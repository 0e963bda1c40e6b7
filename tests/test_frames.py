"""Results, curves and answers as data frames: what the columns hold, and that nothing is made up."""

import json
import math
from pathlib import Path

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report import frames
from workflow_scripts.report.results import COLUMNS, FEWER
from workflow_scripts.report.spreadsheets import write_table

ROWS = [
    {"policy": "m", "seed": 1, "seeds": 1, "metric": "acc", "value": 0.25, "n": 4, "higher_is_better": True},
    {"policy": "m.sft", "seed": 1, "seeds": 1, "metric": "acc", "value": 0.5, "higher_is_better": True},
    {"policy": "m.sft", "seed": "all", "seeds": 2, "metric": "acc", "value": 0.75, "higher_is_better": True}
    | {"baseline": "m", "difference": 0.5, "than_baseline": "better", "p_value": 0.01},
    {"policy": "m.sft", "seed": "all", "seeds": 2, "metric": "length", "value": "", "note": "=refused"},
]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path) -> Path:
    home = tmp_path / "results" / "toy"
    home.mkdir(parents=True)
    write_table(home / "results_full.csv", COLUMNS, ROWS)
    write_table(home / "results.csv", FEWER, ROWS)
    return home


def test_results_are_typed_and_say_which_rows_stand_for_their_policy(folder):
    frame = frames.results(folder)
    assert list(frame.columns) == [*COLUMNS, "headline"] and len(frame) == 4
    assert frame.value.dtype == float and math.isnan(frame.value[3]) and frame.n[0] == 4.0
    assert list(frame.seed) == ["1", "1", "all", "all"]
    assert list(frame.higher_is_better) == [True, True, True, None]
    assert list(frame.headline) == [True, False, True, True]
    assert frame[frame.than_baseline == "better"].policy.tolist() == ["m.sft"]
    assert frame.note[3] == "=refused"  # as it was before a spreadsheet was kept from running it


def test_the_small_table_is_read_where_it_is_all_there_is(folder):
    (folder / "results_full.csv").unlink()
    frame = frames.results(str(folder))
    assert list(frame.columns) == [*[name for name in COLUMNS if name in FEWER], "headline"]
    assert frame.value[2] == 0.75


def test_a_folder_without_a_table_or_that_is_none_is_told(tmp_path):
    (tmp_path / "toy").mkdir()
    with pytest.raises(PlumblineError, match=r"no results\.csv yet"):
        frames.results(tmp_path / "toy")
    for read in (frames.results, frames.curves, frames.samples):
        with pytest.raises(PlumblineError, match="no such folder"):
            read(tmp_path / "nowhere")


def test_curves_are_points_by_policy_and_seed_and_of_reward_models(folder):
    points = [
        {"step": 5, "train_loss": 2.0, "tokens": 10, "grad_norm": 1.5},
        {"step": 5, "answers": [{"id": "a", "text": "so"}]},
        {"step": 10, "validation_loss": 1.5},
    ]
    for seed in (1, 2):
        path = folder / f"policies/m.sft/seed-{seed}/curve.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(points))
    (folder / "reward_models/rm").mkdir(parents=True)
    (folder / "reward_models/rm/curve.json").write_text('[{"step": 1, "train_loss": NaN}]')
    frame = frames.curves(folder)
    assert list(frame.columns) == [*frames.OF_CURVES, "grad_norm"]
    assert list(zip(frame.policy, frame.step, strict=True)) == [
        ("m.sft", 5), ("m.sft", 10), ("m.sft", 5), ("m.sft", 10), ("reward_models/rm", 1),
    ]  # fmt: skip
    assert frame.seed.tolist()[:4] == [1, 1, 2, 2] and frame.seed.isna().tolist()[4]
    assert frame.train_loss[0] == 2.0 and math.isnan(frame.train_loss[1]) and frame.validation_loss[1] == 1.5


def test_curves_of_a_study_without_trainings_are_empty(folder):
    frame = frames.curves(folder)
    assert len(frame) == 0 and list(frame.columns) == list(frames.OF_CURVES)


def answered(folder: Path) -> None:
    prompts = [
        {"id": "a", "group": "g", "followups": ["And?"], "reference": ["So.", "Yes."]}
        | {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Why?"}]},
        {"id": "b", "group": "h", "text": "def f():", "followups": [], "reference": None},
    ]
    write_lines(folder / "prompts/quiz.jsonl", prompts)
    own = {"sample": 0, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 7}
    rows = [
        own | {"id": "a", "turn": 0, "text": "Because."},
        own | {"id": "a", "turn": 1, "text": "No."},
        own | {"id": "b", "turn": 0, "text": "return", "finish_reason": "length"},
    ]
    home = folder / "policies/m.sft/seed-2"
    write_lines(home / "generations/quiz.jsonl", rows)
    write_lines(home / "generations/pairs-own.jsonl", rows[:1])
    verdicts = [
        {"id": "a", "turn": 0, "sample": 0, "rating": 7, "text": "good"},
        {"id": "a", "turn": 0, "sample": 0, "rating": 8, "text": "better", "draw": 1},
        {"id": "a", "turn": 1, "sample": 0, "rating": None, "failed": "no number", "text": "hm"},
    ]
    write_lines(home / "verdicts/quiz.jsonl", verdicts)


def test_samples_are_every_answer_beside_what_was_asked_and_what_the_judge_gave(folder):
    answered(folder)
    frame = frames.samples(folder, "quiz")
    assert list(frame.columns) == frames.OF_SAMPLES and len(frame) == 3
    assert set(frame.policy) == {"m.sft"} and set(frame.seed) == {2} and set(frame.benchmark) == {"quiz"}
    assert frame.asked.tolist() == ["Why?", "And?", "def f():"]
    assert frame.group.tolist() == ["g", "g", "h"]
    assert [text if isinstance(text, str) else None for text in frame.reference] == ["So.", "Yes.", None]
    assert frame.text.tolist() == ["Because.", "No.", "return"]
    assert frame.verdict[0] == 7.5  # the mean of two draws
    assert frame.verdict.isna().tolist() == [False, True, True]  # one that failed is no number
    assert frame.verdict_text.tolist()[:2] == ["good", "hm"]


def test_samples_of_all_sets_hold_those_whose_prompts_are_not_there(folder):
    answered(folder)
    frame = frames.samples(folder)
    assert frame.benchmark.tolist() == ["pairs-own", "quiz", "quiz", "quiz"]
    assert frame.asked.isna()[0] and frame.text[0] == "Because."
