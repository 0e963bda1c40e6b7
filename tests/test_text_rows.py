"""Plain texts are learned by language modelling: cleaned, split, tokenised, trained; nothing else reads them."""

import json

import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.cleaning import cleaned_files
from tests.command import call
from tests.studies import put
from tests.tiny import TEMPLATE, run_sft, settings_of
from tests.workflow import ROOT
from workflow_scripts.common.decoding import opening
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.plan import cleaning
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.sft import tokenise
from workflow_scripts.sft.texts import tokenise_texts
from workflow_scripts.study.checking import examine
from workflow_scripts.study.reading import read_yaml

SETTINGS = {
    "objective": "lm", "im_mask": "paper", "it_mask": "reply", "lm_text": "plain", "lm_rows": None, "max_tokens": 24,
    "overflow": "cut", "history_turns": None, "template": TEMPLATE,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def text_row(name: str, text: str) -> dict:
    return {"id": name, "group": name, "messages": [{"role": "text", "content": text}], "meta": {}}


def clean(folder, texts: list, **rules):
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return cleaned_files(folder, file, schema="text", **rules)


def test_texts_are_cleaned_split_and_counted_like_all_rows(tmp_path):
    texts = [f"Leaf number {n} is green." for n in range(20)]
    manifest, written = clean(
        tmp_path, [*texts, texts[3], "LEAF  number 4 is green.", "", None, "As an AI I cannot."],
        reject_phrases=["as an ai"], split={"quotas": {}, "shares": {"train": 0.5, "test": 0.5}},
    )  # fmt: skip
    assert manifest["rejected"] == {
        "row: empty message": {"entries": 1, "turns": 1},
        "row: text is not a string": {"entries": 1, "turns": 1},
        "row: refused phrase": {"entries": 1, "turns": 1},
        "row: duplicate": {"entries": 1, "turns": 1},
    }
    groups = [{row["group"] for row in written[name]} for name in ("train", "test")]
    assert (
        not groups[0] & groups[1] and sum(map(len, groups)) == 20
    )  # the one in capitals is where its like is
    assert all(len(row["messages"]) == 1 and row["messages"][0]["role"] == "text" for row in written["train"])
    assert all(len(group) < 80 for group in groups[0])  # no text is its own group's name


def test_a_text_is_bos_words_and_end_and_every_token_of_it_is_learned(tokenizer):
    kept, rejected, counts = tokenise_texts([text_row("a", "Why </s> is it so?")], tokenizer, 64, "cut")
    ids = kept[0]["input_ids"]
    start = opening(tokenizer)  # BOS, where the tokenizer puts one
    assert ids[: len(start)] == start and ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1  # what the text spells of it is text
    (plain,), _, _ = tokenise_texts([text_row("b", "Why is it so?")], tokenizer, 64, "cut")
    assert tokenizer.decode(plain["input_ids"][len(start) : -1]).strip() == "Why is it so?"
    assert kept[0]["labels"] == ids and not rejected and counts == {"texts_split": 0}


@pytest.mark.parametrize("overflow", ["cut", "split"])
@pytest.mark.parametrize("words", [5, 22, 23, 24, 47, 100])
def test_a_long_text_becomes_rows_that_lose_no_token(tokenizer, overflow, words):
    rows = [text_row("long", "Say. " * words), text_row("short", "Hm.")]
    whole = {row["id"]: tokenise_texts([row], tokenizer, 10**6, overflow)[0][0]["input_ids"] for row in rows}
    kept, rejected, counts = tokenise_texts(rows, tokenizer, 24, overflow)
    assert all(2 <= len(row["input_ids"]) <= 24 for row in kept)
    for name, tokens in whole.items():
        assert [token for row in kept if row["id"].startswith(name) for token in row["input_ids"]] == tokens
    assert counts["texts_split"] == (len(whole["long"]) > 24) and rejected == []


def test_a_long_text_can_be_refused_and_is_counted(tokenizer):
    kept, rejected, _ = tokenise_texts([text_row("long", "Say. " * 90)], tokenizer, 24, "reject")
    assert kept == [] and [(row["id"], row["reason"]) for row in rejected] == [("long", "too long")]


def test_a_tiny_model_learns_texts(tiny_model, tmp_path, capsys):
    _, written = clean(tmp_path, ["The cat sat on the mat. " * (1 + n % 3) for n in range(8)] + ["Dogs run."],
                       duplicates="keep", group_by="conversation")  # fmt: skip
    assert len(written["train"]) == 9
    flags = ["--tokenizer", tiny_model, "--settings", json.dumps(SETTINGS)]
    flags += ["--splits", f"train={tmp_path}/clean/train.jsonl", f"validation={tmp_path}/clean/train.jsonl"]
    call(
        tokenise.main,
        *flags,
        "--output",
        tmp_path / "tokens",
        "--manifest",
        tmp_path / "tokens/manifest.json",
    )
    counts = read_json(tmp_path / "tokens/manifest.json")["counts"]["train"]
    assert (
        counts["tokens"] == counts["learned_tokens"] and counts["rejected"] == 0 and counts["texts_split"] > 0
    )
    assert f"{counts['texts_split']} of 9 texts became several rows" in capsys.readouterr().err
    rows = pyarrow.parquet.read_table(tmp_path / "tokens/train.parquet").to_pylist()
    assert sum(row["input_ids"][0] == rows[0]["input_ids"][0] for row in rows) >= 9
    own = settings_of(epochs=6, learning_rate=5e-3, pack_tokens=24, max_steps=None)
    trained = run_sft(tiny_model, tmp_path / "tokens", own, tmp_path / "trained")

    def loss_of(folder) -> float:
        model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
        ids = torch.tensor([rows[0]["input_ids"]])
        with torch.no_grad():
            return model(input_ids=ids, labels=ids).loss.item()

    assert loss_of(trained) < loss_of(tiny_model) - 0.1


# --- the check --------------------------------------------------------------------------------------------------------


def study_with_texts(**run) -> dict:
    study = read_yaml(ROOT / "tests/tutoring.yaml")
    source = {
        "files": {"t.jsonl": None},
        "places": [{"https": {"files": {"t.jsonl": "https://example.org/t"}}}],
    }
    corpus = {
        "source": "t",
        "files": ["t.jsonl"],
        "schema": "text",
        "split": {"train": 0.9, "validation": 0.1},
    }
    read = {"method": "sft", "parent": "tiny", "dataset": "corpus", "split": "train", "objective": "lm"}
    read |= {"learning_rate": 1e-4, "max_tokens": 256, "pack_tokens": 256}
    return put(put(put(study, "sources.t", source), "datasets.corpus", corpus), "runs.read", read | run)


def test_a_run_on_texts_is_fine_and_no_question_is_kept_apart_for_them():
    found = examine(study_with_texts())
    assert found.wrong == []
    assert cleaning.apart_folders(plan_of(found.study)) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("runs.read.objective", "it", "runs.read.objective: 'corpus' has plain texts"),
        ("runs.read.objective", "im", "take objective: lm"),
        ("runs.read.lm_rows", 9, "runs.read.lm_rows: plain texts"),
        ("datasets.corpus.system_prompt", "Hm.", "datasets.corpus.system_prompt: a plain text"),
        ("benchmarks.of", {"kind": "loss", "dataset": "corpus", "split": "validation"}, "benchmarks.of.dataset"),
        ("annotations.of", {"dataset": "corpus", "splits": ["train"], "fit_split": "train",
                            "rewards": {"l": {"rule": "length"}}}, "annotations.of.dataset: 'corpus' has plain texts"),
        ("datasets.both", {"mixture": {"corpus": 1.0, "tutor": 1.0}}, "differ in plain texts"),
        ("runs.read.watch", {"dataset": "corpus", "split": "validation", "metric": "words"}, "runs.read.watch.dataset"),
    ],
)  # fmt: skip
def test_texts_where_questions_are_wanted_are_a_mistake(path, value, said):
    wrong = examine(put(study_with_texts(), path, value)).wrong
    assert any(said in line for line in wrong), wrong


def test_rows_of_texts_stand_in_files_as_others_do(tmp_path):
    _, written = clean(tmp_path, ["One.", "Two."])
    assert written["train"] == read_jsonl(tmp_path / "clean/train.jsonl")
    assert {key for row in written["train"] for key in row} == {"id", "group", "messages", "meta"}
