"""A training whose loss, gradient or weights are not finite ends at that step, saves nothing, and says where."""

import json
import math
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.command import call
from tests.launching import command_of, run
from tests.online import ppo_settings, run_ppo
from tests.tiny import (
    align_flags,
    conversations,
    own_settings,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    training_flags,
    write_reference,
    write_tokens,
)
from workflow_scripts.align.fit_value import fit
from workflow_scripts.annotate import train_reward
from workflow_scripts.common import diverged
from workflow_scripts.common.diverged import Diverged, divergence_of, hand_on, note_text
from workflow_scripts.common.files import read_json, read_jsonl, write_json, write_jsonl, write_manifest
from workflow_scripts.common.training.trainer import LARGEST, are_finite
from workflow_scripts.report.training import learned_nothing

torch = pytest.importorskip("torch")
NOTE = {"step": 3, "learning_rate": 0.5, "quantity": "the loss is", "whose": "training"}


@pytest.fixture(scope="module")
def stored(tiny_model, tmp_path_factory) -> Path:
    return write_reference(tiny_model, pairs(12), tmp_path_factory.mktemp("reference"))


def with_a_broken_row(stored: Path, folder: Path, place: int) -> Path:
    """Copy a reference, one of whose rows has a log-prob that is no number."""
    folder.mkdir()
    rows = pyarrow.parquet.read_table(stored / "rows.parquet").to_pylist()
    rows[place]["reference_chosen"][0] = math.nan
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    write_manifest(folder / "manifest.json", [folder / "rows.parquet"], counts={"tokens": 1})
    return folder


def assert_nothing_was_saved(folder: Path) -> None:
    assert not (folder / "manifest.json").exists()
    assert not (folder / "model").exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fine_tune_at_an_absurd_rate_is_refused_with_its_step_and_rate(tiny_model, tmp_path, precision):
    tokens = write_tokens(tiny_model, conversations(8), conversations(2), tmp_path / "tokens")
    settings = settings_of(learning_rate=1e30, warmup=0.0, precision=precision)
    with pytest.raises(
        Diverged, match=r"training diverged at step 1 \(learning rate 1e\+30\): weights are not"
    ):
        run_sft(tiny_model, tokens, settings, tmp_path / "hot")
    assert_nothing_was_saved(tmp_path / "hot")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_preference_run_that_explodes_is_refused_and_its_curve_is_true_until_then(
    tiny_model, stored, tmp_path, precision
):
    settings = preference_settings(learning_rate=1000, epochs=8, precision=precision)
    with pytest.raises(Diverged) as found:
        run_align("dpo", tiny_model, stored, settings, tmp_path / "hot")
    assert 1 < found.value.note["step"] <= 24
    assert 0 < found.value.note["learning_rate"] <= 1000
    assert found.value.curve
    assert all(math.isfinite(row["train_loss"]) for row in found.value.curve)
    assert_nothing_was_saved(tmp_path / "hot")


def test_a_loss_that_is_no_number_in_one_of_several_passes_is_noticed(tiny_model, stored, tmp_path):
    broken = with_a_broken_row(stored, tmp_path / "broken", 5)
    settings = preference_settings(batch_size=12, per_device_batch=2, log_every=100, warmup=0.0)
    with pytest.raises(Diverged, match=r"at step 1 .*the loss is not finite"):
        run_align("dpo", tiny_model, broken, settings, tmp_path / "run")
    assert_nothing_was_saved(tmp_path / "run")


def test_a_run_that_is_resumed_diverges_at_the_step_it_did(tiny_model, stored, tmp_path, capsys):
    settings = preference_settings(learning_rate=50, epochs=8, checkpoint_every=1)
    steps = []
    for folder in ("first", "again"):
        with pytest.raises(Diverged) as found:
            run_align("dpo", tiny_model, stored, settings, tmp_path / folder, tmp_path / "work")
        steps.append(found.value.note["step"])
    assert "resuming from" in capsys.readouterr().out
    assert steps[0] == steps[1]


def test_a_validation_loss_that_is_no_number_never_chooses_what_is_kept(tiny_model, stored, tmp_path):
    rows = pyarrow.parquet.read_table(stored / "rows.parquet").to_pylist()
    rows[3]["split"] = "validation"
    (tmp_path / "split").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "split/rows.parquet")
    broken = with_a_broken_row(tmp_path / "split", tmp_path / "broken", 3)
    settings = preference_settings(keep="best", evaluate_every=1)
    with pytest.raises(Diverged, match="the validation loss is not finite"):
        run_align("dpo", tiny_model, broken, settings, tmp_path / "run")
    assert_nothing_was_saved(tmp_path / "run")


def test_two_processes_end_together_though_one_alone_saw_it_and_the_study_has_a_note(
    tiny_model, stored, tmp_path
):
    broken = with_a_broken_row(stored, tmp_path / "broken", 5)
    settings = preference_settings(batch_size=4, per_device_batch=2, epochs=3)
    flags = align_flags(tiny_model, broken, settings, tmp_path / "run")
    done = run(command_of("workflow_scripts.align.dpo", [*flags, "--note-divergence"]))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (done.stdout + done.stderr).count("error: training diverged at step") == 2
    note = divergence_of(tmp_path / "run/manifest.json")
    assert note["quantity"] == "the loss is"
    assert not list((tmp_path / "run/model").iterdir())
    assert len(read_json(tmp_path / "run/curve.json")) == note["step"] - 1


def test_by_hand_the_command_ends_with_a_status_of_its_own_and_no_traceback(tiny_model, stored, tmp_path):
    flags = align_flags(
        tiny_model, stored, preference_settings(learning_rate=1e30, warmup=0.0), tmp_path / "hot"
    )
    done = run(command_of("workflow_scripts.align.dpo", flags, None))
    assert done.returncode == diverged.STATUS == 3
    assert "Traceback" not in done.stderr
    assert "error: training diverged at step 1 (learning rate 1e+30)" in done.stderr
    assert_nothing_was_saved(tmp_path / "hot")


def test_a_reward_model_that_diverges_says_that_it_is_one(tiny_model, tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", pairs(10))
    write_manifest(tmp_path / "pairs.json", [tmp_path / "pairs.jsonl"])
    settings = settings_of(learning_rate=1e30, warmup=0.0, validation_share=0.2, max_tokens=128)
    flags = training_flags(tiny_model, own_settings(train_reward.Settings, settings), tmp_path / "hot")
    flags += ["--pairs", str(tmp_path / "pairs.jsonl"), "--pairs-manifest", str(tmp_path / "pairs.json")]
    with pytest.raises(Diverged, match="the reward model's training diverged at step 1"):
        call(train_reward.main, *flags)
    assert_nothing_was_saved(tmp_path / "hot")


def test_a_value_function_that_diverges_says_that_it_is_one():
    states, rewards = [torch.randn(3, 4) for _ in range(8)], torch.rand(8)
    states[2][0] = math.nan
    settings = {
        "heads": 1,
        "dropout": 0.0,
        "max_value": 1.0,
        "learning_rate": 0.1,
        "batch_size": 4,
        "epochs": 2,
    }
    with pytest.raises(Diverged, match="the value function's training diverged at step"):
        fit(states, rewards, [0, 1, 2, 3, 4, 5], [6, 7], settings, 1)


def test_ppo_at_an_absurd_rate_is_refused(tiny_model, tmp_path):
    with pytest.raises(Diverged, match="training diverged at step 1"):
        run_ppo(tiny_model, ppo_settings(learning_rate=1e30), tmp_path)
    assert_nothing_was_saved(tmp_path)


def test_weights_that_cannot_be_squared_count_as_not_finite():
    fine = torch.full((3,), LARGEST / 2)
    assert are_finite([fine, torch.zeros(0)])
    for bad in (math.nan, math.inf, -math.inf, 1e30):
        assert not are_finite([fine, torch.tensor([1.0, bad])])


# --- handing a divergence on --------------------------------------------------------------------------------------


def handed(*flags: object) -> int:
    try:
        call(diverged.main, *flags)
    except SystemExit as ended:
        return ended.code
    return 0


def test_a_note_goes_from_a_manifest_to_every_output_of_the_next_job(tmp_path):
    write_json(tmp_path / "manifest.json", {"files": {}, "counts": {}})
    hand_on(NOTE, [tmp_path / "model", tmp_path / "parent/manifest.json"])
    outputs = [
        tmp_path / name for name in ("out/rows.jsonl", "out/rows.parquet", "out/folder", "out/a.b.json")
    ]
    inputs = [tmp_path / "manifest.json", tmp_path / "parent/manifest.json"]
    assert handed("--inputs", *inputs, "--outputs", *outputs) == 0
    assert divergence_of(outputs[3]) == NOTE
    assert read_json(outputs[3])["refused"] == note_text(NOTE)
    assert outputs[2].is_dir()
    assert outputs[0].read_bytes() == outputs[1].read_bytes() == b""


def test_a_note_goes_through_a_job_that_has_no_manifest(tmp_path):
    hand_on(NOTE, [tmp_path / "manifest.json"])
    verdicts, score = tmp_path / "verdicts.jsonl", tmp_path / "score.json"
    assert handed("--inputs", tmp_path / "manifest.json", "--outputs", verdicts) == 0
    assert len(read_jsonl(verdicts)) == 1
    assert handed("--inputs", verdicts, "--outputs", score) == 0
    assert read_json(score)["refused"].startswith("training diverged at step 3 (learning rate 0.5)")


def test_a_child_and_an_opponent_know_whose_training_it_was(tmp_path):
    hand_on(NOTE, [tmp_path / "manifest.json"])
    ancestor = "an ancestor's training"
    child = [tmp_path / "child/model", tmp_path / "child/curve.json", tmp_path / "child/manifest.json"]
    assert handed("--whose", ancestor, "--inputs", tmp_path / "manifest.json", "--outputs", *child) == 0
    assert divergence_of(child[2])["whose"] == ancestor
    assert read_json(child[1]) == []
    reward = NOTE | {"whose": "the reward model's training"}
    hand_on(reward, [tmp_path / "reward.json"])
    assert handed("--whose", ancestor, "--inputs", tmp_path / "reward.json", "--outputs", *child) == 0
    assert divergence_of(child[2]) == reward


def test_what_is_whole_is_not_touched_and_the_job_runs(tmp_path):
    write_json(tmp_path / "manifest.json", {"files": {}, "note": 'the word "diverged" alone is none'})
    write_jsonl(tmp_path / "rows.jsonl", [{"id": "a", "text": '"diverged"'}])
    (tmp_path / "broken.json").write_text('{"diverged"')
    write_json(tmp_path / "other.json", {"diverged": True})
    inputs = [
        tmp_path / name for name in ("manifest.json", "rows.jsonl", "broken.json", "other.json", "none.json")
    ]
    assert handed("--inputs", *inputs, "--outputs", tmp_path / "out.json") == 1
    assert not (tmp_path / "out.json").exists()
    assert handed("--inputs", "--outputs", tmp_path / "out.json") == 1


# --- models that are dead ------------------------------------------------------------------------------------------


def curve(losses: list[float], gradients: list[float]) -> list[dict]:
    return [
        {"step": step, "train_loss": loss, "grad_norm": gradient}
        for step, (loss, gradient) in enumerate(zip(losses, gradients, strict=True), 1)
    ]


def test_a_run_without_a_gradient_or_whose_loss_never_moves_is_warned_of():
    assert "the gradient was 0 in every logged step" in learned_nothing(curve([0.7, 0.6], [0.0, 0.0]))
    assert "the loss was 0.693147 in all 3 logged steps" in learned_nothing(curve([0.693147] * 3, [1e-9] * 3))
    assert learned_nothing(curve([0.7, 0.6, 0.6], [0.0, 1e-9, 0.0])) is None
    assert learned_nothing(curve([0.7, 0.7], [1.0, 1.0])) is None  # two alike may be chance
    online = [row | {"reward": 0.1 * row["step"]} for row in curve([0.0] * 5, [0.2] * 5)]
    assert learned_nothing(online) is None


def test_a_gradient_too_small_for_six_decimals_is_none_the_less_one(tiny_model, stored, tmp_path):
    run_align("dpo", tiny_model, stored, preference_settings(beta=1e-9), tmp_path / "run")
    rows = read_json(tmp_path / "run/curve.json")
    assert all(0 < row["grad_norm"] < 1e-6 for row in rows if "train_loss" in row)
    assert "the loss was" in learned_nothing(rows)
    assert json.dumps(rows)
