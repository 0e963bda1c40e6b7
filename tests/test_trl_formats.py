"""The shapes of rows that TRL documents are read, each as text and as messages, and ShareGPT's and Alpaca's beside."""

import json

import pytest

from tests.cleaning import cleaned_files


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
SKY, BLUE, GREEN = "What color is the sky?", "It is blue.", "It is green."
TALK = [(SKY, BLUE)]
RANKED = [("user", SKY), ("> ", BLUE), ("> ", GREEN)]
PLAIN = [("user", "The sky is"), ("> ", " blue."), ("> ", " green.")]
ROWS = {
    "language modelling": ("text", {"text": "The sky is blue."}, [("text", "The sky is blue.")]),
    "language modelling, messages": (
        "messages",
        {"messages": [user(SKY), assistant(BLUE)]},
        [("user", SKY), ("assistant", BLUE)],
    ),
    "prompt-completion": (
        "prompt_completion",
        {"prompt": "The sky is", "completion": " blue."},
        [("user", "The sky is"), ("assistant", " blue.")],
    ),
    "prompt-completion, messages": (
        "prompt_completion",
        {"prompt": [SYSTEM, user(SKY)], "completion": [assistant(BLUE)]},
        [("system", "Be brief."), ("user", SKY), ("assistant", BLUE)],
    ),
    "preference": ("preferences", {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, PLAIN),
    "preference, implicit": (
        "preferences",
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        PLAIN,
    ),
    "preference, messages": (
        "preferences",
        {"prompt": [user(SKY)], "chosen": [assistant(BLUE)], "rejected": [assistant(GREEN)]},
        RANKED,
    ),
    "preference, messages, implicit": (
        "preferences",
        {"chosen": [user(SKY), assistant(BLUE)], "rejected": [user(SKY), assistant(GREEN)]},
        RANKED,
    ),
    "preference, transcripts": (
        "preferences",
        {
            "chosen": f"\n\nHuman: {SKY}\n\nAssistant: {BLUE}",
            "rejected": f"\n\nHuman: {SKY}\n\nAssistant: {GREEN}",
        },
        RANKED,
    ),
    "unpaired preference": (
        "labelled",
        {"prompt": "The sky is", "completion": " blue.", "label": True},
        PLAIN[:2],
    ),
    "unpaired preference, messages": (
        "labelled",
        {"prompt": [user(SKY)], "completion": [assistant(BLUE)], "label": False},
        RANKED[:2],
    ),
    "unpaired preference, one list": (
        "labelled",
        {"messages": [user(SKY), assistant(BLUE)], "label": True},
        RANKED[:2],
    ),
    "ShareGPT": (
        "sharegpt",
        {
            "conversations": [{"from": "human", "value": SKY}, {"from": "gpt", "value": BLUE}],
            "system": "Be brief.",
            "tools": "[]",
        },
        [("system", "Be brief."), ("user", SKY), ("assistant", BLUE)],
    ),
    "Alpaca": (
        "alpaca",
        {"instruction": SKY, "input": "", "output": BLUE, "system": "Be brief.", "history": [["Hm?", "Ah."]]},
        [("system", "Be brief."), ("user", "Hm?"), ("assistant", "Ah."), ("user", SKY), ("assistant", BLUE)],
    ),
}


def cleaned(folder, schema, *rows, **rules):
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cleaned_files(folder, file, schema=schema, **rules)


@pytest.mark.parametrize("shape", ROWS)
def test_every_documented_shape_is_read(tmp_path, shape):
    schema, row, expected = ROWS[shape]
    manifest, written = cleaned(tmp_path, schema, row)
    (found,) = written["train"]
    said = [(message["role"], message["content"]) for message in found["messages"]]
    assert [*said, *(("> ", reply["content"]) for reply in found.get("candidates", []))] == expected
    assert not [note for note in manifest["notes"] if note.startswith("key not read")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "replies"),
    [
        ("The sky is blue.", "The sky is black.", "The sky is", [" blue.", " black."]),  # no part of a word
        ("The sky is blue", "The sky is", "The sky", [" is blue", " is"]),  # nor all of a reply
        ("天空是蓝色的", "天空是绿色的", "天空是", ["蓝色的", "绿色的"]),
        ("It is so: yes", "It is so: no", "It is so:", [" yes", " no"]),
    ],
)
def test_what_two_texts_share_is_the_prompt_in_whole_words(tmp_path, chosen, rejected, prompt, replies):
    manifest, written = cleaned(tmp_path, "preferences", {"chosen": chosen, "rejected": rejected})
    (row,) = written["train"]
    assert row["messages"] == [user(prompt)]
    assert [reply["content"] for reply in row["candidates"]] == replies
    assert manifest["notes"] == {"prompts that are what chosen and rejected begin with": 1}


def test_two_texts_that_share_nothing_have_no_prompt(tmp_path):
    good = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    manifest, _ = cleaned(
        tmp_path, "preferences", good, {"chosen": "Yes.", "rejected": "No."}, {"chosen": "A", "rejected": "A"}
    )
    assert manifest["rejected"] == {
        "row: no prompt": {"entries": 2, "turns": 0},
    }


def test_tools_that_are_described_are_counted_as_not_read(tmp_path):
    row = ROWS["ShareGPT"][1] | {"tools": '[{"name": "search"}]'}
    manifest, _ = cleaned(tmp_path, "sharegpt", row)
    assert manifest["notes"] == {"key not read: tools": 1}
