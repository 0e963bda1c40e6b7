"""The training sets of Instruction Modelling that are fetched from elsewhere: a row of each is read, put and masked.

AlpaGasus's rows are Dolly's in drawn words. The three sets that LESS selects (Xia et al. 2024) are lines of Tulu's
files of FLAN v2, chain-of-thought, Dolly and OpenAssistant, as they stood there.
"""

import json

import pytest
import yaml

from tests.cleaning import cleaning
from workflow_scripts.clean.clean import clean_files
from workflow_scripts.common import templates
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import IGNORED, encode, render
from workflow_scripts.sft.tokenise import tokenise_row

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TULU = yaml.safe_load(stream)["tulu"]


def row(dataset, name, *texts):
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
    return {"dataset": dataset, "id": name, "messages": messages}


SETS = {
    "alpagasus_9k_dolly": row(
        "alpagasus_9k_dolly", "alpagasus_9k_17", "Task: Name a gas.\n\n", "Oxygen is a gas."
    ),
    "bbh_icl": row("cot", "cot_42", "Q: Is it so?\nOptions:\n- yes\n- no\nA:", "It is. The answer is yes."),
    "mmlu_chat": row("oasst1", "oasst1_7", "Why?", "So.", "And then?", "No more."),
    "tydiqa": row("flan_v2", "flan_v2_9", "Here is a text. What is it?\n", "A text"),
}


def read(tmp_path, name):
    raw = tmp_path / f"{name}.jsonl"
    raw.write_text(json.dumps(SETS[name]) + "\n")
    rules = cleaning(schema="messages", group_by="conversation", duplicates="keep", empty_replies="keep")
    clean_files([str(raw)], rules, str(tmp_path / "rows"), str(tmp_path / "manifest.json"))
    (kept,) = read_jsonl(tmp_path / "rows/train.jsonl")
    return kept, read_json(tmp_path / "manifest.json")


@pytest.mark.parametrize("name", SETS)
def test_a_row_is_read_whole_with_every_key(tmp_path, name):
    kept, manifest = read(tmp_path, name)
    assert kept["messages"] == SETS[name]["messages"]
    assert kept["meta"]["dataset"] == SETS[name]["dataset"] and kept["id"] == f"1:{SETS[name]['id']}"
    assert manifest["notes"] == {} and manifest["rejected"] == {}


@pytest.mark.parametrize("name", SETS)
def test_a_row_is_put_in_the_tulu_format_and_its_replies_or_all_of_it_learned(tmp_path, tiny_model, name):
    kept, _ = read(tmp_path, name)
    tokenizer = load_tokenizer(tiny_model)
    said = [message["content"].strip() for message in kept["messages"]]
    turns = [
        f"<|{message['role']}|>\n{text}" + ("</s>\n" if message["role"] == "assistant" else "\n")
        for message, text in zip(kept["messages"], said, strict=True)
    ]
    learned = {
        ("it", "paper"): "".join(f"{text}</s>" for text in said[1::2]),
        ("im", "paper"): "".join(f"{q}{a}</s>" for q, a in zip(said[::2], said[1::2], strict=True)),
        ("im", "code"): "".join(turns).removeprefix("<|user|>\n").rstrip("\n"),
    }
    for (objective, mask), wanted in learned.items():
        settings = {"objective": objective, "im_mask": mask, "it_mask": "reply", "template": TULU}
        tokens = tokenise_row(kept, tokenizer, settings)
        text, spans = render(kept["messages"], TULU, tokenizer)
        ids, offsets = encode(text, tokenizer, spans)
        assert text == f"<s>{''.join(turns)}"
        whole = (
            ids[:-1] if (objective, mask) == ("im", "code") else ids
        )  # published rows end with the end token
        assert tokens.input_ids == whole
        places = [place for place, label in zip(offsets, tokens.labels, strict=False) if label != IGNORED]
        assert "".join(text[start:end] for start, end in places) == wanted
