"""From a policy's answers to a trained policy, on the tiny model: rewards, pairs, then DPO, PRO, and best of n."""

import json

import pyarrow.parquet
import pytest

from tests.command import call
from tests.tiny import (
    TEMPLATE,
    distance,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    training_flags,
    weights_of,
    write_reference,
)
from tests.tiny_model import ANSWERS, QUESTIONS
from workflow_scripts.align import pro, tokenise_ranked
from workflow_scripts.annotate import answers
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import IGNORED
from workflow_scripts.common.user_functions import digests_of
from workflow_scripts.pairs import samples
from workflow_scripts.sft import tokenise

LENGTHS = {"max_prompt_tokens": 160, "max_tokens": 256}
TOKENS = {"max_tokens": 256, "overflow": "cut", "history_turns": None, "objective": "it", "im_mask": "paper"}
TOKENS |= {"it_mask": "reply", "lm_text": "plain", "lm_rows": None, "template": TEMPLATE}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with pairs of answers that a user's function has ranked: it wants many letters e."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "mine.py").write_text(
        "def score(reply, reference):\n    return reply.count('e') - reference.count('e')\n"
    )
    prompts = [
        {
            "id": f"p{number}#0",
            "group": f"p{number}",
            "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            "followups": [],
            "reference": ["ee"],
            "meta": {"turn": 0},
        }
        for number in range(6)
    ]
    told = [
        {"id": prompt["id"], "turn": 0, "sample": sample, "text": ANSWERS[(number + sample) % len(ANSWERS)]}
        for number, prompt in enumerate(prompts)
        for sample in range(4)
    ]
    write_jsonl(folder / "prompts.jsonl", prompts)
    write_jsonl(folder / "generations.jsonl", told)
    write_jsonl(folder / "fit.jsonl", [])
    mine = {"function": f"{folder}/mine.py:score", "weight": 1.0}
    mine["code"] = digests_of(mine["function"])
    flags = ["--prompts", folder / "prompts.jsonl", "--generations", folder / "generations.jsonl"]
    flags += ["--fit-rows", folder / "fit.jsonl", "--settings", json.dumps({"rewards": {"mine": mine}})]
    flags += ["--output", folder / "rewarded.jsonl", "--manifest", folder / "rewarded.json"]
    call(answers.main, *flags)
    settings = {"take": "all", "margin": 1.0, "validation_share": 0.2, "seed": 1}
    flags = ["--rewarded", folder / "rewarded.jsonl", "--settings", json.dumps(settings)]
    flags += ["--ranked", folder / "ranked.jsonl", "--rejected", folder / "rejected.jsonl"]
    call(samples.main, *flags, "--output", folder / "pairs.jsonl", "--manifest", folder / "manifest.json")
    return folder


def test_pairs_prefer_what_the_function_rewards(made):
    pairs = read_jsonl(made / "pairs.jsonl")
    assert pairs
    assert all(pair["chosen"].count("e") > pair["rejected"].count("e") for pair in pairs)
    assert {pair["split"] for pair in pairs} == {"train", "validation"}
    for row in read_jsonl(made / "ranked.jsonl"):
        assert row["rewards"] == sorted(row["rewards"], reverse=True)
        assert row["rewards"][0] == row["answers"][0].count("e") - 2


def test_dpo_learns_from_them(tiny_model, made, tmp_path):
    stored = write_reference(tiny_model, read_jsonl(made / "pairs.jsonl"), tmp_path)
    (tmp_path / "out").mkdir()
    trained = run_align("dpo", tiny_model, stored, preference_settings(max_steps=2), tmp_path / "out")
    assert distance(weights_of(tiny_model), weights_of(trained)) > 0
    assert any("validation_loss" in row for row in read_json(tmp_path / "out/curve.json"))


def test_pro_learns_from_their_order(tiny_model, made, tmp_path):
    flags = ["--ranked", made / "ranked.jsonl", "--parent", tiny_model]
    flags += [
        "--settings",
        json.dumps(LENGTHS | {"template": TEMPLATE}),
        "--output",
        tmp_path / "rows.parquet",
    ]
    flags += ["--rejected", tmp_path / "rejected.jsonl", "--manifest", tmp_path / "rows.json"]
    call(tokenise_ranked.main, *flags)
    settings = settings_of(sft_weight=0.05, candidates=None, gaps="clamped", max_steps=2)
    flags = training_flags(tiny_model, settings, tmp_path)
    call(pro.main, *flags, "--ranked", tmp_path / "rows.parquet", "--ranked-manifest", tmp_path / "rows.json")
    assert read_json(tmp_path / "manifest.json")["steps"] == 2


def test_fine_tuning_on_the_best_learns_each_chosen_answer_once_and_its_reply_alone(
    tiny_model, made, tmp_path
):
    flags = ["--pairs", made / "pairs.jsonl", "--tokenizer", tiny_model, "--settings", json.dumps(TOKENS)]
    call(tokenise.main, *flags, "--output", tmp_path, "--manifest", tmp_path / "manifest.json")
    pairs = read_jsonl(made / "pairs.jsonl")
    chosen = {
        split: {(pair["group"], pair["chosen"]) for pair in pairs if pair["split"] == split}
        for split in ("train", "validation")
    }
    counts = read_json(tmp_path / "manifest.json")["counts"]
    assert {split: counts[split]["kept"] for split in counts} == {
        name: len(rows) for name, rows in chosen.items()
    }
    assert counts["train"]["kept"] < sum(pair["split"] == "train" for pair in pairs)
    tokenizer = load_tokenizer(tiny_model)
    rows = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
    learned = [[label for label in row["labels"] if label != IGNORED] for row in rows]
    said = {tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in learned}
    assert said == {text for _, text in chosen["train"]}
    (tmp_path / "out").mkdir()
    trained = run_sft(tiny_model, tmp_path, settings_of(max_steps=2), tmp_path / "out")
    assert distance(weights_of(tiny_model), weights_of(trained)) > 0
