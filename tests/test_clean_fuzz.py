"""Two thousand hostile rows, the same every time: cleaning keeps them, counts them, or says what is wrong."""

import json
import random

import pytest

from tests.cleaning import cleaning
from tests.mutants import KEYS, line_of, mutant
from workflow_scripts.clean import clean
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl

EACH = 80  # mutants of a schema: 2 080 in all
ROWS = 8  # in a file
FIELDS = (
    "Evaluation of Student Response",
    "Action Based on Evaluation",
    "Subproblem State",
    "Subproblem",
    "Tutorbot",
)
REPLY = json.dumps(dict(zip(FIELDS, ("g", "12", "w", "What?", "Say more."), strict=True)))

FIRST, SECOND = (REPLY.replace('"12"', f'"{action}"') for action in "12")


def talk(*texts, role="role", text="content", names=("user", "assistant")):
    return [{role: names[place % 2], text: words} for place, words in enumerate(texts)]


def shared(*texts):
    return talk(*texts, role="from", text="value", names=("human", "gpt"))


ALPACA = {
    "instruction": "Why?",
    "input": "it",
    "output": "So.",
    "system": "Be.",
    "history": [["Hm?", "Well."]],
}
HH = {"prefix": [["<|prompter|>Why?", "<|assistant|>"]] * 2, "suffix": ["Yes.", "No."], "reward": [1.5, -0.5]}
TREE = {"role": "prompter", "text": "Why?", "replies": [{"role": "assistant", "text": "So.", "replies": []}]}
GOOD = {
    "tutorbot": [{"conversations": shared("Student: Q. Why?", REPLY, "Hm.", REPLY)}],
    "tutorbot_pairs": [
        {"conversations": [*shared("Student: Q. Why?", REPLY, "Hm.", FIRST), shared("", SECOND)[1]]}
    ],
    "messages": [{"messages": [{"role": "system", "content": "Be."}, *talk("Why?", "So.", "And?", "Then.")]}],
    "prompt_completion": [
        {"prompt": "Why?", "completion": "So."},
        {"prompt": talk("Why?"), "completion": "So."},
    ],
    "super_ni": [{"Definition": ["Add."], "Instances": [{"input": "1", "output": ["2"]}]}],
    "cot": [{"inputs": "Why?", "targets": "So."}],
    "flan_v2": [{"inputs": "Why?", "targets": "So."}],
    "dolly": [{"instruction": "Why?", "context": "it", "response": "So."}],
    "self_instruct": [ALPACA],
    "unnatural_instructions": [
        {"instruction": "Add.", "instances": [{"input": "1", "constraints": "In words.", "output": "two"}]}
    ],
    "alpaca": [ALPACA],
    "sharegpt": [{"conversations": shared("Why?", "So."), "system": "Be."}],
    "baize": [{"input": "[|Human|] Why? [|AI|] So. [|Human|]"}],
    "oasst1": [{"message_tree_id": "t", "prompt": TREE}],
    "lima": [{"conversations": ["Why?", "So."]}],
    "wizardlm": [ALPACA, {"conversations": shared("Why?", "So.")}],
    "open_orca": [{"system_prompt": "Be.", "question": "Why?", "response": "So."}],
    "hard_coded": [{"Prompt": "Why?", "Output": "So."}],
    "science": [{"input": "Why?", "output": "So.", "dataset": "d"}],
    "hh": [HH],
    "rewarded": [
        {
            "prompt_or_input_text": "Knowledge: k<|endoftext|>Why?<|endoftext|>",
            "references": "So.<|endoftext|>",
            "meta_data": {"a": 1},
            "reward_components": {"depth": 0.5},
        }
    ],
    "preferences": [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {
            "prompt": talk("Why?"),
            "chosen": talk("Why?", "So."),
            "rejected": talk("Why?", "No."),
            "score_chosen": 8.0,
            "score_rejected": 3,
        },
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
    ],
    "alpaca_preferences": [ALPACA | {"chosen": "So.", "rejected": "No."}],
    "sharegpt_preferences": [
        {"conversations": shared("Why?"), "chosen": shared("", "So.")[1], "rejected": shared("", "No.")[1]}
    ],
    "judged_pairs": [{"instruction": "Why?", "output_1": "So.", "output_2": "No.", "preference": 1}],
    "labelled": [{"prompt": "Why?", "completion": "So.", "label": True}, ALPACA | {"kto_tag": False}],
}


KEYS += (
    "conversations",
    "messages",
    "prompt",
    "chosen",
    "rejected",
    "score_chosen",
    "sft_index",
    "meta",
    "\ud800",
    "",
)


RULES = [
    {},
    {"url_token": "<url>", "reject_phrases": ["İ"], "max_words": 50},
    {"truncate_at_unparsable": False, "group_by": "conversation", "reject_colon": True},
    {
        "group_by": "question",
        "system_prompt": "Sys.",
        "subset": {"rows": 5, "by": "length_ratio", "ratio": 1.0},
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_no_row_however_hostile_is_lost_or_ends_in_a_traceback(tmp_path, schema):
    rng = random.Random(f"11 {schema}")
    total = 0
    for number in range(EACH // ROWS):
        rows = [mutant(rng.choice(GOOD[schema]), rng) for _ in range(ROWS)]
        as_lines = rng.random() < 0.7
        lines = [line_of(row, rng) for row in rows] if as_lines else [json.dumps(rows)]
        # The one good row lets the file be more than an error.
        text = "\n".join([*lines, json.dumps(GOOD[schema][0])]) if as_lines else lines[0]
        raw = tmp_path / f"{number}.json"
        raw.write_bytes(text.encode("utf-8", "surrogatepass"))
        rules = cleaning(**{"schema": schema, "max_chars": 20_000} | rng.choice(RULES))
        total += len(rows)
        try:
            clean.clean_files([str(raw)], rules, str(tmp_path / "clean"), str(tmp_path / "manifest.json"))
        except PlumblineError as error:
            assert str(error)
            continue
        manifest = read_json(tmp_path / "manifest.json")
        (counts,) = manifest["counts"].values()
        found = {path.stem: read_jsonl(path) for path in (tmp_path / "clean").glob("*.jsonl")}
        dropped = [entry for entry in found.pop("rejected") if entry["level"] == "row"]
        kept = [row for rows in found.values() for row in rows]
        assert counts["rows"] == {
            "read": len(kept) + len(dropped),
            "kept": len(kept),
            "rejected": len(dropped),
        }
        assert counts["rows"]["read"] >= (len(lines) if as_lines else len(rows))
        for row in kept:
            assert row["messages"] and all(isinstance(said["content"], str) for said in row["messages"])
            assert all(isinstance(reply["content"], str) for reply in row.get("candidates", []))
    assert total == EACH


def test_the_mutants_are_two_thousand_of_every_schema_there_is():
    assert set(GOOD) == set(SCHEMAS) and len(GOOD) * EACH >= 2000


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_good_row_of_every_schema_is_kept_with_every_key_read(tmp_path, schema):
    for number, row in enumerate(GOOD[schema]):
        raw = tmp_path / f"{number}.jsonl"
        raw.write_text(json.dumps(row))
        rules = cleaning(schema=schema)
        clean.clean_files([str(raw)], rules, str(tmp_path / "clean"), str(tmp_path / "manifest.json"))
        assert not [note for note in read_json(tmp_path / "manifest.json")["notes"] if note.startswith("key")]
