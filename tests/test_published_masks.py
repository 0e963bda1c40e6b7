"""What Instruction Modelling's published program learns from, written anew here, against our masks by the key `code`.

That program joins messages by Tulu's tags, strips the whole, and finds where messages end by tokenising what comes
before (Shi et al. 2024). Nothing of it is ours: the masks here come from lengths of prefixes, ours from characters.
"""

import pytest
import yaml

from tests.families import FAITHFUL
from workflow_scripts.common import templates
from workflow_scripts.common.templates import IGNORED
from workflow_scripts.sft.tokenise import tokenise_rows

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TEMPLATES = yaml.safe_load(stream)

TALKS = [
    ["What is a cell?", "A unit of life."],
    ["What is a cell?", "A unit of life.", "And a virus?", "Not a cell."],
    [" What is\n a cell? ", "\nA unit\n", "And?", "Not.", "Why?", "It lives on others.\n\n"],
]
ROWS = [
    {
        "id": f"{number}{system}",
        "messages": [
            *([{"role": "system", "content": "Be brief."}] if system else []),
            *({"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)),
        ],
    }
    for number, texts in enumerate(TALKS)
    for system in (False, True)
]


def tokens_of(text, tokenizer):
    """Return the ids of a text behind BOS, where the tokenizer has one, as Llama's puts it there."""
    return tokenizer((tokenizer.bos_token or "") + text, add_special_tokens=False)["input_ids"]


def tulu(messages, tokenizer):
    ends = {"system": "\n", "user": "\n", "assistant": f"{tokenizer.eos_token}\n"}
    return "".join(f"<|{each['role']}|>\n{each['content'].strip()}{ends[each['role']]}" for each in messages)


def published(messages, tokenizer, instructions):
    """Return (ids, labels) as published: of replies, or with `instructions` of all but BOS and the first header."""
    ids = tokens_of(tulu(messages, tokenizer).strip(), tokenizer)
    labels = list(ids)
    if instructions:
        header = len(tokens_of(f"<|{messages[0]['role']}|>\n", tokenizer))
        return ids, [IGNORED] * header + labels[header:]
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            continue
        start = len(tokens_of(tulu(messages[:place], tokenizer), tokenizer)) if place else 0
        before = tulu(messages[: place + 1], tokenizer)
        if messages[place + 1]["role"] == "assistant":
            before += "<|assistant|>\n"
        end = len(tokens_of(before, tokenizer))
        labels[start:end] = [IGNORED] * (end - start)
    return ids, labels


def ours(rows, tokenizer, **changed):
    settings = {"objective": "it", "im_mask": "code", "it_mask": "after", "history_turns": None}
    settings |= {"max_tokens": 4096, "overflow": "reject", "template": TEMPLATES["tulu"]} | changed
    kept, rejected, _ = tokenise_rows(rows, tokenizer, settings)
    assert not rejected
    return [(row["input_ids"], row["labels"]) for row in kept]


@pytest.mark.parametrize("objective", ["it", "im"])
@pytest.mark.parametrize("family", ["Llama 2", "byte level"])
def test_tokens_and_labels_are_those_of_the_published_program(family, objective):
    tokenizer = FAITHFUL[family]
    expected = [published(row["messages"], tokenizer, objective == "im") for row in ROWS]
    assert ours(ROWS, tokenizer, objective=objective) == expected


def test_the_paper_does_not_learn_the_break_after_a_reply():
    tokenizer = FAITHFUL["byte level"]
    [(_, code)], [(_, paper)] = (ours(ROWS[2:3], tokenizer, it_mask=mask) for mask in ("after", "reply"))
    learned = [tokenizer.decode([one]) for one, other in zip(code, paper, strict=False) if one != other]
    assert learned == ["\n"]


def joined(prompt, completion, tokenizer, instructions):
    """Return (ids, labels) of a prompt with its completion, as the published program joins and masks them."""
    white = (" ", "\n", "\t")
    space = "" if prompt.endswith(white) or completion.startswith(white) else " "
    ids = tokens_of(prompt + space + completion + tokenizer.eos_token, tokenizer)
    behind = len(tokens_of(prompt, tokenizer))
    return ids, list(ids) if instructions else [IGNORED] * behind + ids[behind:]


@pytest.mark.parametrize("family", ["Llama 2", "byte level"])
def test_prompts_and_completions_are_joined_and_masked_as_published(family):
    tokenizer = FAITHFUL[family]
    pairs = [
        ("What is a cell?", "A unit"),
        ("What is a cell?\n", "A unit"),
        ("A cell:", "\nlife"),
        ("Why", "So"),
    ]
    rows = [
        {
            "id": prompt,
            "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}],
        }
        for prompt, completion in pairs
    ]
    plain = {"template": TEMPLATES["plain"]}
    for mask in ("reply", "after"):
        expected = [joined(*pair, tokenizer, False) for pair in pairs]
        assert ours(rows, tokenizer, it_mask=mask, **plain) == expected
    for mask in ("paper", "code"):
        # What stands first is never predicted, whatever its label.
        expected = [(ids, labels[1:]) for ids, labels in (joined(*pair, tokenizer, True) for pair in pairs)]
        found = ours(rows, tokenizer, objective="im", im_mask=mask, **plain)
        assert [(ids, labels[1:]) for ids, labels in found] == expected
