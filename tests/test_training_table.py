"""The training table says when a run overfits, and only then."""

import csv
import json

from tests.command import call
from workflow_scripts.common.files import write_json
from workflow_scripts.report import training
from workflow_scripts.report.training import summarise


def curve(train: list[float], validation: list[float]) -> list[dict]:
    rows = [{"step": step, "train_loss": loss} for step, loss in enumerate(train, 1)]
    return rows + [{"step": step, "validation_loss": loss} for step, loss in enumerate(validation, 1)]


FALLING = [3.0, 2.0, 1.5, 1.0, 0.5, 0.4]


def test_validation_that_rises_while_training_falls_is_a_warning():
    row = summarise(curve(FALLING, [2.0, 1.0, 1.5]), None)
    assert (row["best_step"], row["validation_loss_best"], row["validation_loss_last"]) == (2, 1.0, 1.5)
    assert "overfits" in row["warning"]
    assert "step 2" in row["warning"]


def test_validation_that_falls_to_the_end_is_none():
    assert "warning" not in summarise(curve(FALLING, [2.0, 1.5, 1.0]), None)


def test_a_rise_within_the_noise_is_none():
    assert "warning" not in summarise(curve(FALLING, [2.0, 1.0, 1.009]), None)


def test_a_loss_below_zero_has_its_noise_too():
    assert "warning" in summarise(curve(FALLING, [-1.0, -2.0, -1.0]), None)
    assert "warning" not in summarise(curve(FALLING, [-1.0, -2.0, -1.99]), None)


def test_a_run_that_keeps_its_best_checkpoint_does_not_overfit():
    row = summarise(curve(FALLING, [2.0, 1.0, 1.5]), kept_step=2)
    assert row["kept_step"] == 2
    assert "warning" not in row


def test_both_losses_rising_is_divergence_not_overfitting():
    assert "warning" not in summarise(curve(FALLING[::-1], [1.0, 2.0, 3.0]), None)


def test_the_table_has_a_row_per_run_and_prints_its_warnings(tmp_path, capsys):
    runs = []
    write_json(tmp_path / "rows", {"counts": {"kept": 8, "rejected": 1, "cut": 0, "ends_lost": 0}})
    for name, validation in (("m.a", [2.0, 1.0, 1.5]), ("m.b", [2.0, 1.0])):
        write_json(tmp_path / f"{name}.curve", curve(FALLING, validation))
        write_json(tmp_path / f"{name}.manifest", {"steps": 6, "kept_share": 0.67})
        files = {part: str(tmp_path / f"{name}.{part}") for part in ("curve", "manifest")}
        files["learned_from"] = str(tmp_path / "rows")
        if name == "m.b":
            write_json(tmp_path / "pairs", {"counts": {"read": 4921, "kept": 3462, "share_kept": 0.7035}})
            files["pairs"] = str(tmp_path / "pairs")
        runs.append({"policy": name, "seed": 1, "method": "sft", **files})
    output = tmp_path / "training.csv"
    call(training.main, "--settings", json.dumps({"runs": runs}), "--output", output)
    rows = list(csv.DictReader(output.open()))
    assert [row["policy"] for row in rows] == ["m.a", "m.b"]
    rejected = "learned without 1 of 9 rows, which were rejected as they were tokenised"
    assert rows[0]["warning"].startswith("overfits") and rows[0]["warning"].endswith(f"; {rejected}")
    assert rows[1]["warning"] == rejected
    assert rows[0]["kept_share"] == "0.67"
    assert [row["pair_yield"] for row in rows] == ["", "0.7035"]
    assert [rows[0][name] for name in ("rows", "rows_rejected", "rows_cut", "ends_lost")] == [
        "8",
        "1",
        "0",
        "0",
    ]
    assert capsys.readouterr().out.startswith("warning: m.a (seed 1) overfits")


def test_what_was_watched_stands_in_the_table_where_something_was_and_only_there(tmp_path, capsys):
    runs = []
    write_json(tmp_path / "rows", {"counts": {"kept": 8, "rejected": 0, "cut": 0, "ends_lost": 0}})
    looks = [
        {"step": step, "watch": value, "watch_cut": 0.5} for step, value in ((1, 0.25), (2, 0.75), (3, 0.5))
    ]
    watched = {
        "metric": "final_reward",
        "best": "max",
        "step": 2,
        "value": 0.75,
        "error": 0.125,
        "prompts": 8,
    }
    for name, more in (("m.a", {}), ("m.b", {"best_step": 2, "watched": watched})):
        # Its losses alone would say that what is kept overfits.
        write_json(tmp_path / f"{name}.curve", curve(FALLING, [1.0, 2.0, 3.0]) + (looks if more else []))
        write_json(tmp_path / f"{name}.manifest", {"steps": 6} | more)
        files = {part: str(tmp_path / f"{name}.{part}") for part in ("curve", "manifest")}
        runs.append(
            {"policy": name, "seed": 1, "method": "sft", "learned_from": str(tmp_path / "rows")} | files
        )
    found = []
    for some in (runs[:1], runs):
        call(training.main, "--settings", json.dumps({"runs": some}), "--output", tmp_path / "training.csv")
        with open(tmp_path / "training.csv", newline="") as stream:
            found.append(list(csv.DictReader(stream)))
    assert not [column for column in found[0][0] if "watch" in column]
    one, two = found[1]
    assert {column: two[column] for column in training.WATCHED} == {
        "watched": "final_reward",
        "watched_first": "0.25",
        "watched_best": "0.75",
        "watched_last": "0.5",
        "watched_kept": "0.75",
        "watched_error": "0.125",
    }
    assert (two["kept_step"], one["watched"]) == ("2", "")
    assert "overfits" in one["warning"]
    assert two["warning"].startswith("was watched by rewards that read 0.5 of its answers without the start")


def test_what_an_online_run_earned_stands_beside_what_it_lost():
    row = summarise(
        [{"step": step, "reward": reward} for step, reward in enumerate([0.1, 0.3, 0.5, 0.7])], None
    )
    assert (row["reward_first"], row["reward_last"]) == (0.2, 0.6)
    assert "train_loss_first" not in row


def test_rewards_that_did_not_read_answers_whole_are_a_warning(tmp_path, capsys):
    earned = [{"step": step, "train_loss": 1.0, "reward": 0.5 + step, "texts_cut": 0.25} for step in (1, 2)]
    files = {"curve": earned, "manifest": {"steps": 2}, "learned_from": {"counts": {"kept": 4}}}
    for name, content in files.items():
        write_json(tmp_path / f"{name}.json", content)
    entry = {"policy": "m.a", "seed": 1, "method": "ppo"} | {
        name: str(tmp_path / f"{name}.json") for name in files
    }
    flags = ["--settings", json.dumps({"runs": [entry]}), "--output", str(tmp_path / "training.csv")]
    call(training.main, *flags)
    [row] = csv.DictReader((tmp_path / "training.csv").open())
    assert row["warning"] == (
        "was trained by rewards that read 0.25 of its answers without the start of their text; raise their max_tokens"
    )
    assert row["warning"] in capsys.readouterr().out


def test_a_logged_value_that_is_no_finite_number_is_left_out_and_counted():
    broken = curve(FALLING, [2.0, float("nan"), 1.0])
    row = summarise(broken, None)
    assert (row["validation_loss_best"], row["best_step"]) == (1.0, 3)
    assert training.not_finite(broken) == (
        "logged values that are no finite number are left out: 1 of validation_loss"
    )
    assert training.not_finite(curve(FALLING, [2.0])) is None
