"""A model that is trained and asked in its own chat template: prepared, tokenised, trained, aligned and answered."""

import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.family_templates import DATED, FAMILIES, THINKING
from tests.generation import SETTINGS, rows_of
from tests.prepared import prepare
from tests.tiny import (
    conversations,
    pairs,
    preference_settings,
    run_align,
    run_sft,
    settings_of,
    write_reference,
    write_tokens,
)
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import IGNORED, reply_end, tokenise_prompt
from workflow_scripts.generate.answer import fitted_prompt

OWN = {"own": True}
SHORT = {"max_steps": 1, "warmup": 0.0}


def with_template(model: Path, folder: Path, source: str) -> Path:
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return folder


@pytest.fixture
def prepared(tiny_model, tmp_path, monkeypatch) -> Path:
    """The tiny model, prepared to speak its own template, which ends replies with its end token."""
    monkeypatch.setattr("tests.tiny.TEMPLATE", OWN)
    source = with_template(tiny_model, tmp_path / "source", FAMILIES["zephyr"])
    prepare(source, tmp_path / "prepared", format="hf", template=OWN)
    return tmp_path / "prepared"


def test_a_model_keeps_its_own_template_through_training_and_is_asked_in_it(prepared, tmp_path):
    assert load_tokenizer(prepared).chat_template == FAMILIES["zephyr"]
    rows = conversations(6)
    tokens = write_tokens(prepared, rows, conversations(2), tmp_path / "tokens")
    policy = run_sft(prepared, tokens, settings_of(**SHORT), tmp_path / "sft")
    stored = write_reference(policy, pairs(4), tmp_path / "reference")
    aligned = run_align("dpo", policy, stored, preference_settings(**SHORT), tmp_path / "dpo")
    for folder in (policy, aligned):
        tokenizer = load_tokenizer(folder)
        assert tokenizer.chat_template == FAMILIES["zephyr"]
        assert reply_end(OWN, tokenizer) == "</s>"
        [row] = rows_of(["Name two gases."])
        asked = fitted_prompt(row, [], SETTINGS | {"template": OWN}, tokenizer, 200).ids
        messages = row["messages"]
        assert asked == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert asked == tokenise_prompt(messages, OWN, tokenizer)
    learned = pyarrow.parquet.read_table(tokens / "train.parquet").to_pylist()
    tokenizer = load_tokenizer(prepared)
    for row, conversation in zip(learned, rows, strict=True):
        said = tokenizer.apply_chat_template(conversation["messages"], return_dict=False)
        assert row["input_ids"] == said
        replies = [message for message in conversation["messages"] if message["role"] == "assistant"]
        text = "".join(f"{message['content']}</s>" for message in replies)
        assert tokenizer.decode([label for label in row["labels"] if label != IGNORED]) == text


def test_rows_that_its_template_refuses_are_counted_and_left_out(prepared, tmp_path, capsys):
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    model = with_template(prepared, tmp_path / "bare", source + FAMILIES["zephyr"])
    rows = conversations(6)
    rows[0]["messages"] = rows[0]["messages"][1:]
    tokens = write_tokens(model, rows, [], tmp_path / "tokens")
    counts = read_json(tokens / "manifest.json")["counts"]["train"]
    assert (counts["read"], counts["kept"], counts["rejected"]) == (6, 1, 5)
    rejected = read_jsonl(tokens / "rejected.jsonl")
    assert {row["reason"] for row in rejected} == {"not in the model's own chat template"}
    assert "(no system); leave such rows out, or name another template" in rejected[0]["detail"]
    assert "not in the model's own chat template (5)" in capsys.readouterr().err
    cut = write_tokens(model, rows, [], tmp_path / "split", limit=250, overflow="split")
    assert read_json(cut / "manifest.json")["counts"]["train"]["rejected"] == 5
    tokenizer, asked = load_tokenizer(model), rows_of(["Why?"])[0]
    asked["messages"] = [{"role": "system", "content": "Be brief."}, *asked["messages"]]
    with pytest.raises(PlumblineError, match=r"^prompt q0: .*\(no system\)"):
        fitted_prompt(asked, [], SETTINGS | {"template": OWN}, tokenizer, 200)


def test_preparing_a_model_refuses_a_template_that_cannot_be_learned_from(tiny_model, tmp_path, capsys):
    dated = with_template(tiny_model, tmp_path / "dated", DATED.replace("<|im_end|>", "</s>"))
    with pytest.raises(PlumblineError, match="writes today's date"):
        prepare(dated, tmp_path / "one", format="hf", template=OWN)
    with pytest.raises(PlumblineError, match="has no chat template of its own; name one"):
        prepare(tiny_model, tmp_path / "two", format="hf", template=OWN)
    thinking = with_template(tiny_model, tmp_path / "thinking", THINKING.replace("<|im_end|>", "</s>"))
    prepare(thinking, tmp_path / "three", format="hf", template=OWN)
    assert "warning: conversations with several exchanges are refused" in capsys.readouterr().err
