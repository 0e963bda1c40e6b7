"""RLOO: what TRL's trainer is given and gives back."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command import call
from tests.online import LENGTH, online_flags, online_settings, prompts
from tests.tiny import TEMPLATE
from workflow_scripts.align import online, rloo
from workflow_scripts.common import reward_columns, reward_rules
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.templates import tokenise_prompt


def rloo_settings(**changed: object) -> dict:
    own = {"beta": 0.05, "num_generations": 4, "per_device_batch": 8, "max_steps": 2, "warmup": 0.0}
    return online_settings(**(own | changed))


def run_rloo(model: Path, settings: dict, folder: Path, rows: int = 12) -> Path:
    call(rloo.main, *online_flags(model, prompts(rows), settings, folder, LENGTH))
    return folder


@pytest.fixture
def asked(monkeypatch) -> list[tuple[list[dict], list[list[int]], list[str], list[float]]]:
    """What the reward is asked: (rows, answers' tokens, texts read, rewards), one entry a call."""
    calls, texts = [], []
    own_scorer, own_length = online.scorer, reward_rules.length_reward

    def length(replies, words):
        texts.append(replies)
        return own_length(replies, words)

    def scorer(*arguments):
        score = own_scorer(*arguments)

        def spy(rows, answers):
            found = score(rows, answers)
            calls.append((rows, answers, texts[-1], found.rewards))
            return found

        return spy

    monkeypatch.setattr(reward_rules, "length_reward", length)
    monkeypatch.setattr(online, "scorer", scorer)
    return calls


def test_two_steps_change_the_weights_and_write_what_other_methods_write(tiny_model, tmp_path):
    folder = run_rloo(tiny_model, rloo_settings(), tmp_path)
    manifest = read_json(folder / "manifest.json")
    assert manifest["steps"] == 2
    assert manifest["counts"].pop("read") == manifest["counts"].pop("kept") == 12
    assert not any(manifest["counts"].values())
    assert sha256_of(tiny_model / "model.safetensors") != manifest["files"]["model/model.safetensors"]
    load_policy(folder / "model")
    rows = read_json(folder / "curve.json")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["kl"] == 0 != rows[1]["kl"]
    assert 0 < rows[0]["reward"] <= 1
    assert read_json(folder / "cost.json")["tokens"] > 0
    assert not (folder / "model/training_args.bin").exists()


def test_the_reward_reads_the_decoded_answers_to_each_prompt(tiny_model, tmp_path, asked):
    run_rloo(tiny_model, rloo_settings(), tmp_path)
    tokenizer = load_tokenizer(tiny_model)
    assert len(asked) == 2
    for rows, answers, texts, found in asked:
        assert len(rows) == len(answers) == len(texts) == 8
        assert [row["id"] for row in rows[:4]] == [rows[0]["id"]] * 4 != [row["id"] for row in rows[4:]]
        for answer, text, reward in zip(answers, texts, found, strict=True):
            assert 0 < len(answer) <= 8
            assert text == tokenizer.decode(answer, skip_special_tokens=True).strip()
            assert reward == pytest.approx(min(1, len(text.split()) / 6), abs=1e-6)
    assert len(set(asked[0][2])) > 4  # siblings are sampled, not repeated


def test_the_model_reads_the_templates_tokens_and_no_second_bos(tiny_model, tmp_path, monkeypatch):
    seen, own = [], rloo.TokenPromptsTrainer._generate_single_turn

    def spy(self, prompt_ids, *more):
        seen.extend(prompt_ids)
        return own(self, prompt_ids, *more)

    monkeypatch.setattr(rloo.TokenPromptsTrainer, "_generate_single_turn", spy)
    run_rloo(tiny_model, rloo_settings(), tmp_path)
    tokenizer = load_tokenizer(tiny_model)
    whole = [tokenise_prompt(row["messages"], TEMPLATE, tokenizer)[-64:] for row in prompts(12)]
    assert len(seen) == 16
    assert all(prompt in whole for prompt in seen)


def test_the_settings_reach_the_trainer(tiny_model, tmp_path, monkeypatch):
    trainers, own = [], rloo.train
    monkeypatch.setattr(rloo, "train", lambda trainer, work: trainers.append(trainer) or own(trainer, work))
    settings = rloo_settings(temperature=0.7, top_p=0.9, clip=0.3, beta=0.01, num_generations=2)
    run_rloo(tiny_model, settings | {"max_new_tokens": 5}, tmp_path)
    [trainer] = trainers
    drawn = trainer.generation_config
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens) == (0.7, 0.9, 0, 5)
    assert (trainer.beta, trainer.num_generations, trainer.temperature) == (0.01, 2, 0.7)
    assert trainer.epsilon_low == trainer.epsilon_high == 0.3
    assert not trainer.use_vllm
    assert trainer.args.report_to == []


def test_prompts_that_make_no_whole_step_are_told_of(tiny_model, tmp_path, capsys):
    settings = rloo_settings(
        num_generations=2, max_new_tokens=4, max_steps=1
    )  # 8 answers a step, to 4 prompts
    for drop_last, said in ((False, "warning: TRL makes whole steps alone"), (True, "drop_last")):
        run_rloo(tiny_model, settings | {"drop_last": drop_last}, tmp_path / str(drop_last), rows=5)
        assert f"{said}: 1 of 5 prompts are left out of each epoch" in capsys.readouterr().out


def test_answers_are_drawn_and_learned_without_dropout_unless_it_is_asked_for(
    tiny_model, tmp_path, monkeypatch
):
    trainers, own = [], rloo.train
    monkeypatch.setattr(rloo, "train", lambda trainer, work: trainers.append(trainer) or own(trainer, work))
    for name, dropout in (("null", None), ("asked", 0.5)):
        settings = rloo_settings(num_generations=2, max_new_tokens=4, max_steps=1, dropout=dropout)
        run_rloo(tiny_model, settings, tmp_path / name)
    shares = [trainer.model.model.layers[0].self_attn.attention_dropout for trainer in trainers]
    assert shares == [0.0, 0.5]
    assert not any(trainer.ref_model.training for trainer in trainers)


def test_the_templates_own_end_ends_an_answer_and_is_saved_beside_the_parents_ends(
    tiny_model, tmp_path, asked
):
    template = TEMPLATE | {"assistant": TEMPLATE["assistant"] | {"end": "a"}}
    model = shutil.copytree(tiny_model, tmp_path / "own")
    tokenizer = load_tokenizer(model)
    own = tokenizer.convert_tokens_to_ids("a")
    tokenizer.add_tokens(["a"])  # now nothing merges with it, and it can be an end
    tokenizer.save_pretrained(model)
    folder = run_rloo(model, rloo_settings(template=template, batch_size=32, max_steps=1), tmp_path)
    answers = [answer for _, batch, _, _ in asked for answer in batch]
    assert any(answer[-1] == own and len(answer) < 8 for answer in answers)
    assert not any(own in answer[:-1] for answer in answers)
    saved = read_json(folder / "model/generation_config.json")["eos_token_id"]
    assert np.ravel(saved).tolist() == [tokenizer.eos_token_id, own]


def test_an_answer_without_an_end_is_charged_what_is_set():
    class Setup:
        prompts, ends = ({"id": "p0"}, {"id": "p1"}), [2]

        @staticmethod
        def score(rows, answers):
            return online.Scores([float(row["id"][1]) for row in rows], 0.5)

    logged = []
    asked = {"completion_ids": [[5, 2], [5, 6], [7, 2]], "place": [1, 1, 0], "prompts": []}
    asked["log_metric"] = lambda *metric: logged.append(metric)
    assert rloo.reward_of(Setup, 0.0)(**asked) == [1.0, 1.0, 0.0]
    assert rloo.reward_of(Setup, 0.3)(**asked) == [1.0, 0.7, 0.0]
    assert logged == [("texts_cut", 0.5)] * 2


def test_a_reward_that_is_no_number_ends_the_run_with_the_prompts_id(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(reward_rules, "length_reward", lambda replies, words: np.full(len(replies), np.nan))
    with pytest.raises(PlumblineError, match=r"c\d#0.*long.*nan"):
        run_rloo(tiny_model, rloo_settings(), tmp_path)


def test_batches_that_hold_no_whole_group_and_too_few_prompts_are_refused(tiny_model, tmp_path):
    with pytest.raises(PlumblineError, match="num_generations"):
        run_rloo(tiny_model, rloo_settings(num_generations=3), tmp_path)
    with pytest.raises(PlumblineError, match="1 usable prompts, and a step asks 2"):
        run_rloo(tiny_model, rloo_settings(), tmp_path, rows=1)


class Killed(BaseException):
    pass


def test_rloo_killed_and_run_again_ends_with_the_bytes_of_an_unbroken_run(
    tiny_model, tmp_path, monkeypatch, capsys
):
    settings = rloo_settings(max_steps=5, checkpoint_every=1, batch_size=8, per_device_batch=4)
    unbroken = run_rloo(tiny_model, settings, tmp_path / "unbroken")
    calls, own = [], reward_rules.length_reward

    def dies(replies, words):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return own(replies, words)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(reward_rules, "length_reward", dies)
        run_rloo(tiny_model, settings, tmp_path / "resumed")
    torch.manual_seed(99)
    capsys.readouterr()
    resumed = run_rloo(tiny_model, settings, tmp_path / "resumed")
    printed = capsys.readouterr().out
    assert "resuming from" in printed
    assert printed.count("{'loss'") == 2  # and not from the start again
    for name in ("model/model.safetensors", "manifest.json", "curve.json"):
        assert sha256_of(resumed / name) == sha256_of(unbroken / name), name


def test_answers_that_a_reward_does_not_read_whole_are_told_of_in_the_curve(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        reward_columns, "cut_for", lambda turns, settings: [True] + [False] * (len(turns) - 1)
    )
    rows = read_json(run_rloo(tiny_model, rloo_settings(), tmp_path) / "curve.json")
    assert [row["texts_cut"] for row in rows] == [1 / 8] * 2
