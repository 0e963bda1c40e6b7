"""Token rows: every conversation is kept or rejected with its reason, and counted."""

import json

import pyarrow.parquet
import pytest
import yaml

from workflow_scripts.common import templates
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import IGNORED, tokenise_conversation, tokenise_reply
from workflow_scripts.common.turns import turns_of
from workflow_scripts.sft import tokenise
from workflow_scripts.sft.tokenise import cut_blocks, spread, tokenise_rows

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TEMPLATES = yaml.safe_load(stream)
TEMPLATE = TEMPLATES["tutor"]


def talk(name, *words):
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": word} for place, word in enumerate(words)]
    return {"id": name, "group": name, "messages": messages, "meta": {}}


ROWS = [
    talk("short", "Why?", "No."),
    talk("long", "Name two gases.", "Good! Now say why. " * 8),
    talk("late", "What is osmosis? " * 12, "Yes"),
    talk("marked", "Is </s> the end?", "No."),
    talk("marking", "Is it the end?", "It is </s>"),
    talk("two", "Why?", "Good!", "What is it?", "Yes"),
]


def settings_of(**changed):
    own = {"objective": "it", "im_mask": "paper", "template": TEMPLATE, "history_turns": None}
    return {"max_tokens": 64, "overflow": "cut"} | own | changed


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


@pytest.mark.parametrize(
    ("overflow", "reasons"),
    [
        ("cut", {"late": "nothing to learn"}),
        ("reject", {"late": "too long", "long": "too long"}),
    ],
)
def test_every_row_is_kept_or_rejected_with_its_reason(tokenizer, overflow, reasons):
    kept, rejected, _ = tokenise_rows(ROWS, tokenizer, settings_of(overflow=overflow))
    marked = dict.fromkeys(["marked", "marking"], "special token in content")
    assert {row["id"]: row["reason"] for row in rejected} == reasons | marked
    assert [row["id"] for row in kept] == [row["id"] for row in ROWS if row["id"] not in reasons | marked]
    assert len(kept) + len(rejected) == len(ROWS)


def test_a_row_of_exactly_the_limit_is_whole_and_one_more_is_too_long(tokenizer):
    size = len(tokenise_conversation(ROWS[1]["messages"], TEMPLATE, tokenizer).input_ids)
    for overflow in ("cut", "reject"):
        kept, rejected, _ = tokenise_rows(
            ROWS[1:2], tokenizer, settings_of(max_tokens=size, overflow=overflow)
        )
        assert (len(kept[0]["input_ids"]), rejected) == (size, [])
    _, rejected, _ = tokenise_rows(ROWS[1:2], tokenizer, settings_of(max_tokens=size - 1, overflow="reject"))
    assert rejected == [{"id": "long", "reason": "too long", "detail": f"{size} tokens, at most {size - 1}"}]


def test_a_cut_row_is_the_beginning_of_the_whole(tokenizer):
    whole = tokenise_conversation(ROWS[1]["messages"], TEMPLATE, tokenizer)
    kept, _, _ = tokenise_rows(ROWS[1:2], tokenizer, settings_of())
    assert kept[0]["input_ids"] == whole.input_ids[:64]
    assert kept[0]["labels"] == whole.labels[:64]
    assert any(label != IGNORED for label in kept[0]["labels"])


def test_a_conversation_teaches_each_of_its_replies(tokenizer):
    kept, _, _ = tokenise_rows(ROWS[-1:], tokenizer, settings_of())
    learned = [label for label in kept[0]["labels"] if label != IGNORED]
    assert tokenizer.decode(learned) == " Good!</s> Yes</s>"


def test_with_a_limited_history_each_turn_is_a_row_with_the_loss_on_its_reply(tokenizer):
    conversation = talk("three", "Why?", "Good!", "What is it?", "No.", "Name two.", "Yes")
    rows = spread([conversation, ROWS[0]], 1)
    assert [row["id"] for row in rows] == ["three#0", "three#1", "three#2", "short#0"]
    assert rows[:3] == turns_of(conversation, 1)
    kept, rejected, _ = tokenise_rows(rows, tokenizer, settings_of(history_turns=1))
    assert rejected == []
    for row, turn in zip(kept, rows, strict=True):
        prompt, reply = tokenise_reply(turn["messages"], turn["reference"], TEMPLATE, tokenizer)
        assert row["input_ids"] == prompt + reply
        assert row["labels"] == [IGNORED] * len(prompt) + reply
        learned = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(learned) == f" {turn['reference']}</s>"
    assert "Good" not in tokenizer.decode(kept[2]["input_ids"]), "out of the window"


def test_a_special_token_in_a_reply_of_its_own_row_is_rejected(tokenizer):
    kept, rejected, _ = tokenise_rows(spread([ROWS[4]], 1), tokenizer, settings_of(history_turns=1))
    assert (kept, rejected[0]["detail"]) == ([], "</s>")


def test_a_template_s_end_that_is_no_token_in_a_content_is_rejected(tokenizer):
    template = TEMPLATE | {"assistant": TEMPLATE["assistant"] | {"end": "No."}}
    rows = [talk("ending", "Is No. an end?", "Yes"), talk("other", "Why?", "Yes")]
    kept, rejected, _ = tokenise_rows(rows, tokenizer, settings_of(template=template))
    assert [row["id"] for row in kept] == ["other"]
    assert [(row["id"], row["detail"]) for row in rejected] == [("ending", "No.")]


def test_without_a_limit_the_rows_are_the_conversations():
    assert spread(ROWS, None) is ROWS


IM = {"objective": "im", "overflow": "reject", "max_tokens": 200}


def learned_of(row, tokenizer):
    """Return the learned stretches of a row, as text."""
    stretches, going = [], False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        if label != IGNORED:
            stretches[-1:] = [stretches[-1] + [token]] if going else [*stretches[-1:], [token]]
        going = label != IGNORED
    return [tokenizer.decode(stretch) for stretch in stretches]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"objective": "it"}, [" Good!</s>", " Yes</s>"]),
        ({"im_mask": "paper"}, ["Why?", " Good!</s>", "What is it?", " Yes</s>"]),
        (
            {"im_mask": "code"},
            ["Why?\n\nTutorbot: Good!</s>\nStudent: What is it?\n\nTutorbot: Yes</s>"],
        ),
    ],
)
def test_objectives_learn_replies_contents_or_all_but_the_first_header(tokenizer, changed, expected):
    kept, _, _ = tokenise_rows(ROWS[-1:], tokenizer, settings_of(**(IM | changed)))
    assert learned_of(kept[0], tokenizer) == expected
    assert tokenizer.decode(kept[0]["input_ids"]).startswith("<s>Student: Why?")


def test_instruction_modelling_learns_the_prompts_of_turns_too(tokenizer):
    for mask, expected in (
        ("paper", [["Why?", " Good!</s>"], ["Why?", " Good!</s>", "What is it?", " Yes</s>"]]),
        (
            "code",
            [
                ["Why?\n\nTutorbot: Good!</s>"],
                ["Why?\n\nTutorbot: Good!</s>\nStudent: What is it?\n\nTutorbot: Yes</s>"],
            ],
        ),
    ):
        kept, rejected, _ = tokenise_rows(
            spread(ROWS[-1:], 1), tokenizer, settings_of(**IM, im_mask=mask, history_turns=1)
        )
        assert rejected == []
        assert [learned_of(row, tokenizer) for row in kept] == expected


def unlearned(*places):
    """Return the talk of two exchanges with these messages marked as context alone."""
    row = talk("marked", "Why?", "Good!", "What is it?", "Yes")
    for place in places:
        row["messages"][place]["learn"] = False
    return row


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"objective": "it"}, [" Yes</s>"]),
        ({"im_mask": "paper"}, ["Why?", "What is it?", " Yes</s>"]),
        ({"im_mask": "code"}, ["Why?\n\nTutorbot:", "\nStudent: What is it?\n\nTutorbot: Yes</s>"]),
    ],
)
def test_a_turn_of_no_weight_is_context_under_every_objective(tokenizer, changed, expected):
    kept, _, _ = tokenise_rows([unlearned(1)], tokenizer, settings_of(**(IM | changed)))
    whole, _, _ = tokenise_rows([unlearned()], tokenizer, settings_of(**(IM | changed)))
    assert learned_of(kept[0], tokenizer) == expected
    assert kept[0]["input_ids"] == whole[0]["input_ids"]


def test_a_turn_of_no_weight_is_context_in_turns_of_their_own_too(tokenizer):
    turns = spread([unlearned(1)], 1)
    assert [turn["id"] for turn in turns] == ["marked#1"]
    for changed, expected in (
        ({"objective": "it"}, [" Yes</s>"]),
        ({"im_mask": "paper"}, ["Why?", "What is it?", " Yes</s>"]),
    ):
        kept, _, _ = tokenise_rows(turns, tokenizer, settings_of(**(IM | changed), history_turns=1))
        assert learned_of(kept[0], tokenizer) == expected


def test_a_turn_of_no_weight_is_context_in_blocks_and_a_block_of_context_alone_is_rejected(tokenizer):
    plain = tokenizer("Why?\nGood!\nWhat is it?\nYes", add_special_tokens=False)["input_ids"]
    lm = settings_of(objective="lm", max_tokens=len(plain))
    (block,), rejected, _ = cut_blocks([unlearned(1, 3)], tokenizer, lm)
    assert block["input_ids"] == plain and rejected == []
    learned = tokenizer.decode([label for label in block["labels"] if label != IGNORED])
    assert "Good" not in learned and "Yes" not in learned and "What is it?" in learned
    kept, rejected, _ = cut_blocks([unlearned(0, 1, 2, 3), unlearned()], tokenizer, lm)
    assert [row["id"] for row in kept] == ["block-1"]
    assert rejected == [{"id": "block-0", "reason": "nothing to learn", "detail": "context alone"}]


def test_instruction_modelling_rejects_special_tokens_and_learns_from_a_cut_prompt(tokenizer):
    kept, rejected, _ = tokenise_rows(
        ROWS, tokenizer, settings_of(**(IM | {"overflow": "cut", "max_tokens": 64}))
    )
    assert [row["id"] for row in rejected] == ["marked", "marking"]
    late = kept[[row["id"] for row in kept].index("late")]
    assert (len(late["labels"]), late["labels"][-1]) == (64, late["input_ids"][-1])


@pytest.mark.parametrize("size", [17, 23, 65])
def test_blocks_are_all_texts_one_after_the_other_with_no_template(tokenizer, size):
    kept, rejected, _ = cut_blocks(ROWS, tokenizer, settings_of(objective="lm", max_tokens=size))
    texts = ["\n".join(message["content"] for message in row["messages"]) for row in ROWS]
    texts = [text for text in texts if "</s>" not in text]
    stream = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert [row["id"] for row in rejected[:2]] == ["marked", "marking"]
    whole = len(stream) // size
    assert [row["input_ids"] for row in kept] == [
        stream[place * size : (place + 1) * size] for place in range(whole)
    ]
    assert [row["id"] for row in kept] == [f"block-{place}" for place in range(whole)]
    assert all(row["labels"] == row["input_ids"] for row in kept)
    left = len(stream) - whole * size
    assert left > 0
    detail = f"{left} tokens, a block has {size}"
    assert rejected[2:] == [{"id": "remainder", "reason": "shorter than a block", "detail": detail}]
    text = tokenizer.decode(stream)
    assert not set(stream) & set(tokenizer.all_special_ids)
    assert text.startswith("Why?\nNo.Name two gases.\nGood! Now say why. ")
    assert "Student" not in text


def test_blocks_that_come_out_even_leave_nothing_over(tokenizer):
    size = len(tokenizer("Why?\nNo.")["input_ids"])
    kept, rejected, _ = cut_blocks(ROWS[:1] * 3, tokenizer, settings_of(objective="lm", max_tokens=size))
    assert (len(kept), rejected) == (3, [])


def test_blocks_are_counted_as_pieces_and_take_conversations_whole(tmp_path, tiny_model):
    run_main(tmp_path, tiny_model, {"train": ROWS}, objective="lm", max_tokens=17, history_turns=1)
    counts = read_json(tmp_path / "manifest.json")["counts"]["train"]
    blocks = pyarrow.parquet.read_table(tmp_path / "out/train.parquet").to_pylist()
    rejected = read_jsonl(tmp_path / "out/rejected.jsonl")
    assert [row["id"] for row in rejected] == ["marked", "marking", "remainder"]
    assert (counts["kept"], counts["rejected"]) == (len(blocks), 3)
    assert counts["read"] == counts["kept"] + counts["rejected"]
    assert counts["tokens"] == counts["learned_tokens"] == 17 * len(blocks)
    expected, _, _ = cut_blocks(ROWS, load_tokenizer(tiny_model), settings_of(max_tokens=17))
    assert blocks == expected


def test_less_text_than_a_block_is_an_error_with_its_reason(tmp_path, tiny_model):
    with pytest.raises(PlumblineError, match=r"no row can be learned from.*shorter than a block"):
        run_main(tmp_path, tiny_model, {"train": ROWS[:1]}, objective="lm", max_tokens=64)


def run_main(folder, model, splits, **changed):
    for name, rows in splits.items():
        write_jsonl(folder / f"{name}.in", rows)
    flags = ["--splits", *(f"{name}={folder / name}.in" for name in splits), "--tokenizer", model]
    flags += ["--settings", json.dumps(settings_of(**changed)), "--output", folder / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["step", *map(str, flags), "--manifest", str(folder / "manifest.json")])
        tokenise.main()


@pytest.mark.parametrize(("history", "read"), [(None, 6), (1, 7)])
def test_counts_in_are_kept_plus_rejected(tmp_path, tiny_model, history, read):
    run_main(tmp_path, tiny_model, {"train": ROWS, "validation": ROWS[:1]}, history_turns=history)
    counts = read_json(tmp_path / "manifest.json")["counts"]
    assert {name: (each["read"], each["kept"] + each["rejected"]) for name, each in counts.items()} == {
        "train": (read, read),
        "validation": (1, 1),
    }
    rejected = read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert [row["split"] for row in rejected] == ["train"] * counts["train"]["rejected"] == ["train"] * 3
    for name, each in counts.items():
        rows = pyarrow.parquet.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist()
        assert len(rows) == each["kept"]
        assert sum(len(row["input_ids"]) for row in rows) == each["tokens"]
        assert sum(label != IGNORED for row in rows for label in row["labels"]) == each["learned_tokens"]


def test_equal_inputs_give_equal_manifests(tmp_path, tiny_model):
    found = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run_main(tmp_path / name, tiny_model, {"train": ROWS})
        found.add((tmp_path / name / "manifest.json").read_bytes())
    assert len(found) == 1


def test_a_split_of_which_nothing_is_left_is_an_error_with_reasons(tmp_path, tiny_model):
    with pytest.raises(PlumblineError, match=r"no row can be learned from.*special token in content"):
        run_main(tmp_path, tiny_model, {"train": ROWS[3:5]})
    assert not (tmp_path / "manifest.json").exists()


# --- replies that say nothing ----------------------------------------------------------------------------------------


OF_ANY_TOKENIZER = [name for name, part in TEMPLATES.items() if "{eos}" in part["assistant"].get("end", "")]


@pytest.mark.parametrize("name", OF_ANY_TOKENIZER)
@pytest.mark.parametrize("said", ["", " \n"])
def test_an_empty_reply_teaches_what_ends_it_and_nothing_else(tokenizer, name, said):
    """What stands between the header and the words (a space, in some templates) is the model's to say, too."""
    template = TEMPLATES[name]
    messages = talk("empty", "Why?", said if template["strip"] else "")["messages"]
    whole, labels = tokenise_conversation(messages, template, tokenizer)
    learned = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(learned).strip() == tokenizer.eos_token
    prompt, reply = tokenise_reply(messages[:1], messages[1]["content"], template, tokenizer)
    assert reply == learned and prompt == whole[: len(prompt)]


def test_an_empty_reply_in_a_template_without_an_end_has_nothing_to_learn(tokenizer):
    bare = TEMPLATE | {"assistant": {"before": "\nTutor:", "after": ""}}
    kept, rejected, _ = tokenise_rows([talk("empty", "Why?", "")], tokenizer, settings_of(template=bare))
    assert kept == [] and [row["reason"] for row in rejected] == ["nothing to learn"]
    assert tokenise_reply(talk("empty", "Why?")["messages"], "", bare, tokenizer)[1] == []


def test_an_empty_reply_among_others_is_learned_to_its_end_under_every_objective(tokenizer):
    row = talk("two", "Why?", "", "What is it?", "Yes")
    ends = {}
    for objective in ("it", "im"):
        kept, rejected, _ = tokenise_rows([row], tokenizer, settings_of(objective=objective))
        assert rejected == []
        ends[objective] = kept[0]["labels"].count(tokenizer.eos_token_id)
    assert ends == {"it": 2, "im": 2}
