"""A training that is watched: every method, what it keeps, and that looking alters nothing."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from tests.command import call
from tests.launching import command_of, deepspeed, train
from tests.offline import annotated, write_rewarded
from tests.online import LENGTH, online_flags, online_settings, ppo_settings, prompts
from tests.resuming import (
    RESUMED,
    kill_once_checkpointed,
    leave_a_half_written_checkpoint,
)
from tests.tiny import (
    TEMPLATE,
    align_flags,
    conversations,
    pairs,
    preference_settings,
    settings_of,
    sft_flags,
    training_flags,
    write_reference,
    write_tokens,
)
from tests.watched import watch_flags, watching
from workflow_scripts.align import dpo, nll, ppo, rloo
from workflow_scripts.common import reward_rules
from workflow_scripts.common.answer_measures import MEASURES
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.reward_rules import length_reward
from workflow_scripts.common.training.watching import Watch, mean_and_error, measurable, since_best
from workflow_scripts.common.tutor_reply import ACTION, EVALUATION, FIELDS, STATE
from workflow_scripts.generate.engine import TransformersEngine
from workflow_scripts.sft import train as sft_train

EVERY = {"max_steps": 6, "epochs": 6, "evaluate_every": 2, "checkpoint_every": 4, "per_device_batch": 2}
SETTINGS = {
    "engine": {"name": "transformers", "precision": "float32", "gpu_memory_share": 0.9},
    "trust_remote_code": False,
}


def sft_command(model: Path, folder: Path, held_out: int = 4, **settings: object) -> tuple[str, list[str]]:
    tokens = folder.parent / "tokens"
    if not tokens.exists():
        tokens.mkdir()
        write_tokens(model, conversations(12), conversations(12 + held_out)[12:], tokens)
    return "sft.train", sft_flags(model, tokens, settings_of(**(EVERY | settings)), folder)


def dpo_command(model: Path, folder: Path, **settings: object) -> tuple[str, list[str]]:
    stored = folder.parent / "stored"
    if not stored.exists():
        stored.mkdir()
        write_reference(model, pairs(9), stored)
    return "align.dpo", align_flags(model, stored, preference_settings(**(EVERY | settings)), folder)


def nll_command(model: Path, folder: Path, **settings: object) -> tuple[str, list[str]]:
    stored = folder.parent / "rewarded"
    if not stored.exists():
        stored.mkdir()
        write_rewarded(model, stored, annotated(8))
    own = settings_of(**(EVERY | {"sampling": "none", "padding_free": False} | settings))
    files = ["--rewarded", str(stored / "rows.parquet"), "--rewarded-manifest", str(stored / "manifest.json")]
    return "align.nll", [*training_flags(model, own, folder), *files]


def ppo_command(model: Path, folder: Path, **settings: object) -> tuple[str, list[str]]:
    own = ppo_settings(**(EVERY | {"per_device_batch": 4} | settings))
    return "align.ppo", online_flags(model, prompts(12), own, folder, LENGTH)


def rloo_command(model: Path, folder: Path, **settings: object) -> tuple[str, list[str]]:
    own = online_settings(**(EVERY | {"num_generations": 2, "beta": 0.05} | settings))
    return "align.rloo", online_flags(model, prompts(12), own, folder, LENGTH)


MAINS = {
    "sft.train": sft_train.main,
    "align.dpo": dpo.main,
    "align.nll": nll.main,
    "align.ppo": ppo.main,
    "align.rloo": rloo.main,
}
COMMANDS = {
    "sft": sft_command,
    "dpo": dpo_command,
    "nll": nll_command,
    "ppo": ppo_command,
    "rloo": rloo_command,
}


def run_watched(method: str, model: Path, folder: Path, watch: list[str], **settings: object) -> Path:
    """Train a method in this process; return the folder it wrote into."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    module, flags = COMMANDS[method](model, folder, **settings)
    call(MAINS[module], *flags, *watch)
    return folder


def points(folder: Path) -> list[dict]:
    """Return the points of a curve that something was watched at."""
    return [row for row in read_json(folder / "curve.json") if "watch" in row]


def points_with_answers(folder: Path) -> list[list[dict]]:
    """Return what was answered at each look."""
    return [row["answers"] for row in read_json(folder / "curve.json") if "answers" in row]


def answers_of(model: Path, count: int) -> list[str]:
    """Return what a policy answers to the watched prompts, by the engine that answers benchmarks."""
    tokenizer = load_tokenizer(model)
    watch = Watch(
        argparse.Namespace(
            **{"watch": watching(), "seed": 1, "parent": model, "watch_fit_rows": None},
            watch_prompts=model.parent.parent / "w/watch.json",
        ),
        tokenizer,
    )
    engine = TransformersEngine(model, tokenizer, SETTINGS)
    asked = [row["prompt"] for row in watch.rows]
    found = dict(
        engine.answer(asked, watch.sampling, TEMPLATE["assistant"].get("end", ""), 1, [True] * len(asked))
    )
    return [found[place].text for place in range(count)]


@pytest.mark.parametrize("method", COMMANDS)
def test_each_method_keeps_the_policy_whose_answers_are_the_best(tiny_model, tmp_path, method):
    """What is kept answers, by the engine of the benchmarks, what the curve says was answered at its step."""
    watch = watch_flags(tmp_path / "w")
    folder = run_watched(method, tiny_model, tmp_path / "run", watch, keep="best", learning_rate=3e-3)
    found, manifest = points(folder), read_json(folder / "manifest.json")
    assert [row["step"] for row in found] == [2, 4, 6]
    best = max(found, key=lambda row: row["watch"])
    assert manifest["best_step"] == manifest["watched"]["step"] == best["step"]
    assert manifest["watched"]["value"] == best["watch"]
    assert manifest["watched"]["metric"] == "final_reward"
    assert best["watch_n"] == manifest["watched"]["prompts"] == 6
    said = answers_of(folder / "model", 6)
    earned = length_reward(said, 6)
    assert best["watch"] == pytest.approx(earned.mean(), abs=1e-5)
    assert best["watch_error"] == pytest.approx(np.std(earned, ddof=1) / 6**0.5, abs=1e-5)
    rows = [row for row in read_json(folder / "curve.json") if "answers" in row]
    [shown] = [row["answers"] for row in rows if row["step"] == best["step"]]
    assert [answer["text"] for answer in shown] == said[:2]
    assert [answer["worth"] for answer in shown] == pytest.approx(earned[:2].tolist(), abs=1e-6)


@pytest.mark.parametrize("method", COMMANDS)
def test_looking_alters_nothing(tiny_model, tmp_path, method):
    """Not even where the answers are drawn, and the training draws numbers too."""
    plain = run_watched(method, tiny_model, tmp_path / "plain", [])
    drawn = {"temperature": 1.0, "samples": 2}
    watched = run_watched(
        method, tiny_model, tmp_path / "watched", watch_flags(tmp_path / "w", sampling=drawn)
    )
    for name in ("model/model.safetensors", "model/config.json", "model/generation_config.json"):
        assert sha256_of(plain / name) == sha256_of(watched / name)
    unseen = [
        {name: value for name, value in row.items() if not name.startswith(("watch", "answers"))}
        for row in read_json(watched / "curve.json")
    ]
    assert [row for row in unseen if row.keys() != {"step"}] == read_json(plain / "curve.json")
    assert len(points(watched)) == 3


def test_a_fine_tuning_without_rows_to_validate_on_keeps_the_best_by_its_watch(tiny_model, tmp_path):
    settings = {"held_out": 0, "learning_rate": 3e-3, "log_every": 1}
    watch = watch_flags(tmp_path / "w")
    folder = run_watched("sft", tiny_model, tmp_path / "run", watch, keep="best", **settings)
    found = points(folder)
    assert [row["step"] for row in found] == [2, 4, 6]
    best = max(found, key=lambda row: row["watch"])
    assert read_json(folder / "manifest.json")["best_step"] == best["step"]
    assert best["watch"] == pytest.approx(length_reward(answers_of(folder / "model", 6), 6).mean(), abs=1e-5)
    rows = read_json(folder / "curve.json")
    assert not any("validation_loss" in row for row in rows)
    plain = run_watched("sft", tiny_model, tmp_path / "plain", [], **settings)
    losses = [
        [row for row in each if "train_loss" in row] for each in (rows, read_json(plain / "curve.json"))
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_watched_answers_end_before_a_stop_string(tiny_model, tmp_path):
    plain = run_watched("dpo", tiny_model, tmp_path / "plain", watch_flags(tmp_path / "w"))
    [said] = [answer["text"] for answer in points_with_answers(plain)[0][:1]]
    stop = said[2:5]
    flags = watch_flags(tmp_path / "s", sampling={"stop": [stop]})
    stopped = run_watched("dpo", tiny_model, tmp_path / "stopped", flags)
    assert points_with_answers(stopped)[0][0]["text"] == said[: said.index(stop)]
    assert points(stopped)[0]["watch_unfinished"] < points(plain)[0]["watch_unfinished"]


def test_what_is_drawn_at_a_step_is_drawn_anew_at_the_next_and_again_by_another_run(tiny_model, tmp_path):
    flags = watch_flags(tmp_path / "w", sampling={"temperature": 1.0})
    runs = [run_watched("dpo", tiny_model, tmp_path / name, flags, learning_rate=1e-9) for name in "ab"]
    shown = [[row["answers"] for row in read_json(run / "curve.json") if "answers" in row] for run in runs]
    texts = [[answer["text"] for answer in look] for look in shown[0]]
    assert shown[0] == shown[1]
    assert texts[0] != texts[1]  # of a policy that has not moved


def test_the_best_may_be_the_least(tiny_model, tmp_path):
    flags = watch_flags(tmp_path / "w", best="min", metric="words", rewards=None)
    folder = run_watched("dpo", tiny_model, tmp_path / "run", flags, keep="best", learning_rate=3e-3)
    values = [row["watch"] for row in points(folder)]
    assert read_json(folder / "manifest.json")["watched"]["value"] == min(values)
    assert len(set(values)) > 1


@pytest.mark.parametrize("method", ["sft", "dpo", "nll"])
def test_a_watched_run_that_was_killed_ends_with_the_bytes_of_an_unbroken_one(
    tiny_model, tmp_path, capsys, method
):
    settings = RESUMED | {"evaluate_every": 4, "keep": "best", "patience": 3}
    if method == "nll":
        settings |= {"epochs": 8}
    flags = watch_flags(tmp_path / "w", sampling={"temperature": 0.7})
    unbroken = run_watched(method, tiny_model, tmp_path / "unbroken", flags, **settings)
    capsys.readouterr()
    module, own = COMMANDS[method](tiny_model, tmp_path / "resumed", **settings)
    # keep: best saves at each validation, and patience counts from before the kill.
    kill_once_checkpointed(f"workflow_scripts.{module}", [*own, *flags], tmp_path / "resumed/work", after=8)
    leave_a_half_written_checkpoint(tmp_path / "resumed/work")
    resumed = run_watched(method, tiny_model, tmp_path / "resumed", flags, **settings)
    printed = capsys.readouterr().out
    assert "resuming from" in printed
    for name in ("model/model.safetensors", "manifest.json", "curve.json"):
        assert sha256_of(resumed / name) == sha256_of(unbroken / name), name


class Killed(BaseException):
    pass


def test_ppo_that_is_watched_and_killed_ends_with_the_bytes_of_an_unbroken_run(
    tiny_model, tmp_path, monkeypatch, capsys
):
    settings = {
        "max_steps": 7,
        "evaluate_every": 2,
        "checkpoint_every": 3,
        "keep": "best",
        "learning_rate": 3e-3,
    }
    flags = watch_flags(tmp_path / "w", metric="words", rewards=None)
    unbroken = run_watched("ppo", tiny_model, tmp_path / "unbroken", flags, **settings)
    calls, own = [], reward_rules.length_reward

    def reward(replies, words):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return own(replies, words)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(reward_rules, "length_reward", reward)
        run_watched("ppo", tiny_model, tmp_path / "resumed", flags, **settings)
    capsys.readouterr()
    resumed = run_watched("ppo", tiny_model, tmp_path / "resumed", flags, **settings)
    assert "checkpoint-3" in capsys.readouterr().out
    for name in ("model/model.safetensors", "manifest.json", "curve.json"):
        assert sha256_of(resumed / name) == sha256_of(unbroken / name), name
    assert [row["step"] for row in points(resumed)] == [2, 4, 6, 7]


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_patience_is_with_what_is_watched(tiny_model, tmp_path, method):
    flags = watch_flags(tmp_path / "w")
    settings = {"keep": "best", "patience": 2, "learning_rate": 1e-12, "evaluate_every": 1}
    folder = run_watched(method, tiny_model, tmp_path / "run", flags, **settings)
    assert [row["step"] for row in points(folder)] == [1, 2, 3]
    manifest = read_json(folder / "manifest.json")
    assert (manifest["steps"], manifest["best_step"]) == (3, 1)


@pytest.mark.parametrize(
    ("method", "parallel"),
    [("dpo", "ddp"), ("dpo", "fsdp"), pytest.param("dpo", "zero3", marks=deepspeed), ("ppo", "ddp")],
)
def test_processes_that_share_the_prompts_see_what_one_sees(tiny_model, tmp_path, method, parallel):
    """Seven prompts on two processes in batches of two: one of them has a batch less, and has to pass all the same."""
    flags = watch_flags(tmp_path / "w", count=7, sampling={"batch_size": 2}, shown=7)
    settings = {"per_device_batch": 2, "batch_size": 4, "max_steps": 4, "keep": "best"}
    if method == "ppo":
        settings |= {"top_p": 1e-6, "ppo_epochs": 1}  # whose answers nothing else decides
    module, own = COMMANDS[method](tiny_model, tmp_path / "one", **settings)
    call(MAINS[module], *own, *flags)
    _, shared = COMMANDS[method](tiny_model, tmp_path / "two", **settings)
    train(command_of(f"workflow_scripts.{module}", [*shared, *flags], parallel))
    one, two = (read_json(tmp_path / name / "curve.json") for name in ("one", "two"))
    assert [row["answers"] for row in two if "answers" in row] == [
        row["answers"] for row in one if "answers" in row
    ]
    assert points(tmp_path / "two") == points(tmp_path / "one")
    assert (
        read_json(tmp_path / "two/manifest.json")["watched"]
        == read_json(tmp_path / "one/manifest.json")["watched"]
    )
    told = [
        [(row["step"], row["rows"], row["tokens"]) for row in rows if "tokens" in row] for rows in (one, two)
    ]
    assert told[0] == told[1]


def test_a_reward_that_reads_less_than_the_whole_and_answers_without_an_end_are_counted(tiny_model, tmp_path):
    folder = run_watched("dpo", tiny_model, tmp_path / "run", watch_flags(tmp_path / "w"))
    for row in points(folder):
        assert row["watch_unfinished"] == 1.0  # eight tokens end none of them
        assert row["watch_cut"] == 0.0


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(tiny_model, tmp_path):
    with pytest.raises(PlumblineError, match=r"watch\.max_new_tokens 8 fills the context of 8"):
        run_watched("dpo", tiny_model, tmp_path / "run", watch_flags(tmp_path / "w", context=8))


def test_the_best_needs_rows_or_a_watch(tiny_model, tmp_path):
    with pytest.raises(PlumblineError, match="validation rows or a watch"):
        run_watched("ppo", tiny_model, tmp_path / "run", [], keep="best")


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_error_of_a_mean_is_that_of_groups():
    values = [1.0, 2.0, 4.0, 7.0]
    mean, error = mean_and_error(values, ["a", "b", "c", "d"])
    assert (mean, error) == (3.5, pytest.approx(np.std(values, ddof=1) / 2))
    # Two groups: s² = 2/1 · ((−2.5 − 1.5)² + (0.5 + 3.5)²) / 16 = 4.
    assert mean_and_error(values, ["a", "a", "b", "b"]) == (3.5, pytest.approx(2.0))
    assert mean_and_error(values, ["a"] * 4) == (3.5, None)


def test_the_first_of_equal_values_is_the_best():
    assert since_best([1.0, 3.0, 3.0, 2.0], "max") == 2
    assert since_best([1.0, 3.0, 1.0], "min") == 2
    assert since_best([1.0], "max") == 0


def test_the_measures_are_those_of_the_scorers():
    gold = json.dumps({EVALUATION: "a", ACTION: "1", STATE: "x"})
    prompt = {
        "id": "p",
        "reference": [gold],
        "meta": {},
        "messages": [{"role": "user", "content": "Say why."}],
    }
    said = json.dumps({EVALUATION: "a ", ACTION: "2", STATE: "x"})
    found = {name: kind.of(None)(prompt, said) for name, kind in MEASURES.items() if kind.labels}
    assert found == {"evaluation_accuracy": 1, "action_accuracy": 0, "state_accuracy": 1, "exact_labels": 0}
    plain = prompt | {"reference": ["Because it is so."]}
    assert MEASURES["meteor"].of(None)(plain, "Because it is so.") > 0.9
    assert MEASURES["meteor"].of(None)(plain, "No") == 0
    assert MEASURES["coverage"].of(None)(plain, "Say why") == 1.0
    assert MEASURES["words"].of(None)(plain, "one two three") == 3.0
    assert MEASURES["distinct_2_per_answer"].of(None)(plain, "a b a b") == pytest.approx(2 / 3)
    with pytest.raises(PlumblineError, match="p: has no reference"):
        MEASURES["meteor"].of(None)(prompt | {"reference": None}, "No")
    with pytest.raises(PlumblineError, match="its reference lacks"):
        MEASURES["exact_labels"].of(None)(plain, said)


def test_prompts_without_gold_labels_are_left_out_as_the_scorer_leaves_them_out(capsys):
    whole = dict.fromkeys(FIELDS, "text") | {EVALUATION: "a", ACTION: "1", STATE: "x"}
    rows = [
        {"id": str(place), "reference": [json.dumps(gold)]}
        for place, gold in enumerate([whole, whole | {EVALUATION: "none"}, whole])
    ]
    labels = watching(metric="exact_labels", rewards=None)
    assert [row["id"] for row in measurable(rows, labels)] == ["0", "2"]
    assert "1 of 3 watched prompts are left out: no gold labels" in capsys.readouterr().err
    assert measurable(rows, watching(metric="words", rewards=None)) == rows
    with pytest.raises(PlumblineError, match=r"watch\.metric exact_labels: no prompt has gold labels"):
        measurable(rows[1:2], labels)
    # An answer in which a field is null says nothing there, and is no reply: nothing of it is right.
    nothing = json.dumps(whole | {STATE: None})
    assert MEASURES["evaluation_accuracy"].of(None)(rows[0], nothing) == 0
    assert MEASURES["evaluation_accuracy"].of(None)(rows[0], json.dumps(whole)) == 1
