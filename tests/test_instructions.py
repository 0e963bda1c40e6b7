"""Instruction rows in the words of the Tulu mixtures, and what else those mixtures make of their sources."""

import json
import random
from collections import Counter

import pytest

from tests.cleaning import cleaning
from tests.plans import EVERY_KEY, changed, told
from workflow_scripts.clean.clean import clean_files
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.plan import cleaning as planned_cleaning
from workflow_scripts.study.checking import examine
from workflow_scripts.study.datasets import OTHER_ASSISTANTS
from workflow_scripts.study.instructions import InstructionTemplates

OWN = InstructionTemplates().model_dump()
TWO = {
    "with_input": [
        {"text": "{instruction}|{input}", "reply": "{output}", "weight": 3.0},
        {"text": "{input}|{instruction}", "reply": "<{output}>", "weight": 1.0},
    ],
    "without_input": [
        {"text": "A {instruction}", "reply": "{output}", "weight": 1.0},
        {"text": "B {instruction}", "reply": "\n{output}", "weight": 1.0},
    ],
}


def cleaned(tmp_path, rows, **rules):
    """Return what the kept rows say, as texts, and the manifest."""
    raw = tmp_path / "raw.jsonl"
    raw.write_text("\n".join(map(json.dumps, rows)))
    whole = {"group_by": "conversation", "split": {"order": "file", "quotas": {"train": 10_000}}} | rules
    clean_files([str(raw)], cleaning(**whole), str(tmp_path / "rows"), str(tmp_path / "manifest.json"))
    found = read_jsonl(tmp_path / "rows/train.jsonl")
    return [[message["content"] for message in row["messages"]] for row in found], read_json(
        tmp_path / "manifest.json"
    )


def instructions(count, **more):
    return [{"instruction": f" Add {n}.\n", "input": "", "output": f" {n} "} | more for n in range(count)]


# --- templates --------------------------------------------------------------------------------------------------------


def test_each_instruction_is_put_by_a_template_that_one_generator_draws_in_the_order_of_the_rows(tmp_path):
    rows = instructions(3) + instructions(3, input=" x ")
    found, _ = cleaned(tmp_path, rows, schema="alpaca", instruction_templates=TWO, seed=5)
    draws, wanted = random.Random(5), []
    for n in (0, 1, 2):
        (letter, gap) = draws.choices([("A", ""), ("B", "\n")], weights=[1.0, 1.0])[0]
        wanted.append([f"{letter} Add {n}.", f"{gap}{n}"])
    for n in (0, 1, 2):
        first = draws.choices([True, False], weights=[3.0, 1.0])[0]
        wanted.append([f"Add {n}.|x", f"{n}"] if first else [f"x|Add {n}.", f"<{n}>"])
    assert found == wanted
    assert cleaned(tmp_path, rows, schema="alpaca", instruction_templates=TWO, seed=6)[0] != found


def test_templates_are_drawn_as_often_as_their_weights_say(tmp_path):
    rows = instructions(2000, input="x")
    found, _ = cleaned(tmp_path, rows, schema="alpaca", instruction_templates=TWO)
    assert 1400 < sum(prompt.startswith("Add") for prompt, _ in found) < 1600


def test_what_an_instruction_says_in_braces_stays(tmp_path):
    rows = [{"instruction": "Fill {input} and {output}.", "input": "{instruction}", "output": "{input}"}]
    ((prompt, reply),), _ = cleaned(tmp_path, rows, schema="alpaca", instruction_templates=TWO)
    assert prompt in ("Fill {input} and {output}.|{instruction}", "{instruction}|Fill {input} and {output}.")
    assert reply in ("{input}", "<{input}>")


@pytest.mark.parametrize(
    ("schema", "row"),
    [
        ("alpaca", {"instruction": "Add.", "input": "1", "output": "2", "history": [["Hm?", "Well."]]}),
        ("dolly", {"instruction": "Add.", "context": "1", "response": "2"}),
        ("self_instruct", {"instruction": "Add.", "input": "1", "output": "2"}),
        ("super_ni", {"Definition": ["Add."], "Instances": [{"input": "1", "output": ["2"]}]}),
        ("unnatural_instructions", {"instruction": "Add.", "instances": [{"input": "1", "output": "2"}]}),
        ("wizardlm", {"instruction": "Add.", "input": "1", "output": "2"}),
    ],
)
def test_every_schema_of_instructions_is_put_by_templates(tmp_path, schema, row):
    (texts,), _ = cleaned(tmp_path, [row], schema=schema, instruction_templates=TWO)
    assert texts[-2:] in (["Add.|1", "2"], ["1|Add.", "<2>"])
    assert texts[:-2] == (["Hm?", "Well."] if schema == "alpaca" else [])


def test_one_question_in_other_words_is_in_one_group(tmp_path):
    rows = instructions(1) * 8 + [task(4, 2)] * 2
    for schema, these, rule in (
        ("alpaca", rows[:8], None),
        ("super_ni", rows[8:], {"zero_shot": 2, "few_shot": 1}),
    ):
        few_shot = rule and rule | {"examples": 1}
        words = {"instruction_templates": OWN, "few_shot": few_shot, "duplicates": "keep"}
        cleaned(tmp_path, these, schema=schema, group_by="question", **words)
        found = read_jsonl(tmp_path / "rows/train.jsonl")
        assert len({row["messages"][0]["content"] for row in found}) > len({row["group"] for row in found})
        plain = {"Add 0."} if schema == "alpaca" else {f"Double it. i{n}" for n in range(4)}
        assert {row["group"] for row in found} <= {each.casefold() for each in plain}


def test_our_own_templates_are_fourteen_and_fourteen_with_the_published_weights():
    weights = [0.05] * 9 + [0.1] * 3 + [0.2]
    assert {key: len(found) for key, found in OWN.items()} == {"with_input": 14, "without_input": 14}
    for found in OWN.values():
        assert sorted(each["weight"] for each in found) == sorted([*weights, 0.05])
        assert len({each["text"] for each in found}) == 14
    assert [each["reply"] for each in OWN["without_input"] if each["reply"] != "{output}"] == ["\n{output}"]


def test_a_published_file_comes_out_again_of_its_words_and_its_seed(tmp_path):
    """The rows of AlpaGasus are Alpaca's in drawn words: the draws of `random.seed(42)`, one a row."""
    rows = instructions(400) + instructions(400, input="x")
    found, _ = cleaned(tmp_path, rows, schema="alpaca", instruction_templates=OWN, seed=42)
    random.seed(42)
    for row, (prompt, _) in zip(rows, found, strict=True):
        choices = OWN["with_input" if row["input"] else "without_input"]
        text = random.choices(choices, weights=[each["weight"] for each in choices])[0]["text"]
        assert prompt == text.replace("{instruction}", row["instruction"].strip()).replace("{input}", "x")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("with_input", [{"text": "{instruction}"}], "with_input[0].text needs {input}"),
        ("without_input", [{"text": "say it"}], "without_input[0].text needs {instruction}"),
        ("with_input", [{"text": "{instruction}{input}", "reply": "yes"}], "needs {output}"),
        ("with_input", [], "must have at least 1"),
    ],
)
def test_a_template_that_would_lose_a_part_of_a_row_is_refused(key, value, message):
    wrong = refused({"instruction_templates": {key: value}, "schema": "alpaca"})
    assert any(message in line for line in wrong), wrong


def refused(keys):
    study = config()
    study["datasets"]["d"] |= keys
    return examine(study).wrong


def config():
    place = {"https": {"files": {"a.json": "https://example.org/a"}}}
    dataset = {"source": "s", "files": ["a.json"], "schema": "alpaca", "split": {"quotas": {"train": 9}}}
    return {
        "study": "s",
        "sources": {"s": {"files": {"a.json": None}, "places": [place]}},
        "models": {"m": {"source": "s", "template": "tulu", "context": 64}},
        "datasets": {"d": dataset},
    }


@pytest.mark.parametrize("key", ["instruction_templates", "few_shot", "top_replies"])
def test_words_for_rows_of_another_schema_are_in_doubt(key):
    study = config()
    study["datasets"]["d"] |= {key: 1 if key == "top_replies" else {}, "schema": "lima"}
    assert any(f"datasets.d.{key}: is read of rows of schema" in line for line in examine(study).doubts)


# --- few-shot prompts -------------------------------------------------------------------------------------------------


def task(instances, examples):
    return {
        "Definition": ["Double it. "],
        "Positive Examples": [
            {"input": f"e{n} ", "output": f"o{n}", "explanation": "So."} for n in range(examples)
        ],
        "Instances": [
            {"id": f"t-{n}", "input": f"i{n}", "output": [f"r{n}", "other"]} for n in range(instances)
        ],
    }


def test_a_task_is_asked_without_and_with_worked_examples(tmp_path):
    rule = {"zero_shot": 3, "few_shot": 2, "examples": 2}
    found, manifest = cleaned(tmp_path, [task(9, 4)], schema="super_ni", few_shot=rule, seed=1)
    draws = random.Random(1)
    drawn = draws.sample(range(9), k=5)
    plain = [[f"Double it. \n\ni{n}", f"r{n}"] for n in drawn[:3]]
    worked = []
    for n in drawn[3:]:
        first, second = draws.sample(range(4), k=2)
        shown = "".join(f"Input:\ne{each}\nOutput:\no{each}\n\n" for each in (first, second))
        worked.append([f"Double it.\n\n{shown}Input:\ni{n}\nOutput:\n", f"r{n}"])
    assert found == plain + worked
    notes = manifest["notes"]
    assert notes["instances of a task that few_shot leaves out"] == 4
    assert notes["key not read: Positive Examples.explanation"] == 1


@pytest.mark.parametrize(("examples", "shown"), [(0, 0), (1, 1), (2, 2)])
def test_a_task_of_few_instances_and_examples_has_all_of_them(tmp_path, examples, shown):
    rule = {"zero_shot": 1, "few_shot": 9, "examples": 2}
    found, manifest = cleaned(tmp_path, [task(3, examples)], schema="super_ni", few_shot=rule)
    assert [prompt.count("Input:\n") for prompt, _ in found] == [0, shown + 1, shown + 1]
    assert not any("few_shot" in note for note in manifest["notes"])


def test_without_few_shot_every_instance_is_asked_as_before(tmp_path):
    found, _ = cleaned(tmp_path, [task(5, 4)], schema="super_ni")
    assert found == [[f"Double it. \n\ni{n}", f"r{n}"] for n in range(5)]


# --- trees, talks, and who is named -----------------------------------------------------------------------------------


def said(role, text, *replies, quality=None):
    labels = {} if quality is None else {"quality": {"value": quality, "count": 3}}
    return {"role": role, "text": text, "labels": labels, "replies": list(replies)}


TREE = {
    "message_tree_id": "t",
    "prompt": said(
        "prompter",
        "Q",
        said("assistant", "unrated"),
        said("assistant", "good", quality=0.8),
        said("assistant", "best", said("prompter", "And?", said("assistant", "Then.")), quality=0.9),
        said("assistant", "poor", quality=0.1),
    ),
}


@pytest.mark.parametrize(
    ("top", "ends", "left_out"),
    [
        (None, ["unrated", "good", "Then.", "poor"], 0),
        (1, ["Then."], 3),
        (2, ["Then.", "good"], 2),
        (9, ["Then.", "good", "poor", "unrated"], 0),
    ],
)
def test_of_a_tree_the_best_replies_are_followed_if_so_ruled(tmp_path, top, ends, left_out):
    found, manifest = cleaned(tmp_path, [TREE], schema="oasst1", top_replies=top)
    assert [texts[-1] for texts in found] == ends
    assert manifest["notes"].get("replies that top_replies leaves out", 0) == left_out


def test_a_talk_that_the_assistant_opens_begins_with_the_user_if_so_ruled(tmp_path):
    turns = [("gpt", "Hello!"), ("gpt", "Anybody?"), ("human", "Why?"), ("gpt", "So.")]
    rows = [{"conversations": [{"from": who, "value": text} for who, text in turns]}]
    found, manifest = cleaned(tmp_path, rows, schema="sharegpt", skip_to_user=True)
    assert found == [["Why?", "So."]]
    assert manifest["rejected"] == {"turn: before the user's first turn": {"entries": 1, "turns": 2}}
    with pytest.raises(Exception, match="nothing is left"):
        cleaned(tmp_path, rows, schema="sharegpt")


def test_rows_that_name_another_assistant_are_rejected_if_so_ruled(tmp_path):
    plan = changed(EVERY_KEY, {"datasets.chatted.reject_other_assistants": True})
    settings = told(planned_cleaning.dataset_settings(plan, "chatted"))
    assert settings["reject_phrases"] == list(OTHER_ASSISTANTS)
    assert "reject_other_assistants" not in settings
    names = ["ChatGPT", "gpt-3.5", "GPT 4", "an openai model", "Claude", "bard", "OpenAssistant", "chat GPT"]
    rows = [{"inputs": "Who are you?", "targets": f"I am {name}."} for name in names]
    rows.append({"inputs": "Who are you?", "targets": "A model."})
    found, _ = cleaned(tmp_path, rows, schema="cot", reject_phrases=settings["reject_phrases"])
    assert found == [["Who are you?", "A model."]]


# --- rows kept as they came -------------------------------------------------------------------------------------------


def test_rows_said_twice_and_replies_that_say_nothing_stay_if_so_ruled(tmp_path):
    rows = [{"inputs": "Why?", "targets": text} for text in ("So.", "So.", "", " ")]
    assert cleaned(tmp_path, rows, schema="cot")[0] == [["Why?", "So."]]
    found, manifest = cleaned(tmp_path, rows, schema="cot", duplicates="keep", empty_replies="keep")
    assert found == [["Why?", "So."], ["Why?", "So."], ["Why?", ""], ["Why?", " "]]
    assert manifest["rejected"] == {}
    ids = [row["id"] for row in read_jsonl(tmp_path / "rows/train.jsonl")]
    assert len(set(ids)) == 4
    asked = [{"inputs": "", "targets": "So."}, *rows]
    assert (
        len(cleaned(tmp_path, asked, schema="cot", empty_replies="keep")[0]) == 3
    )  # a prompt must say something


def test_a_share_of_the_rows_is_the_first_of_each_source_in_proportion(tmp_path):
    sources = ["flan"] * 50 + ["cot"] * 30 + ["lima"] * 5
    random.Random(1).shuffle(sources)
    rows = [
        {
            "dataset": source,
            "messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": source}],
        }
        for n, source in enumerate(sources)
    ]
    subset = {"share": 0.2, "by": "source"}
    found, manifest = cleaned(tmp_path, rows, schema="messages", subset=subset)
    assert Counter(source for _, source in found) == {
        "flan": 10,
        "cot": 6,
        "lima": 1,
    }  # int(85 × 0.2) = 17 by shares
    for source in ("flan", "cot"):
        everything = [n for n, each in enumerate(sources) if each == source]
        taken = [int(n) for n, each in found if each == source]
        assert taken == everything[: len(taken)]
    assert manifest["rejected"] == {"row: outside the subset": {"entries": 68, "turns": 136}}
    rows = read_jsonl(tmp_path / "rows/train.jsonl")
    assert all(row["meta"]["dataset"] == row["messages"][1]["content"] for row in rows)


def test_what_rounding_leaves_of_a_share_goes_to_the_first_rows_without_room(tmp_path):
    rows = [
        {
            "dataset": source,
            "messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "So."}],
        }
        for n, source in enumerate("abcabcabc")
    ]
    found, _ = cleaned(tmp_path, rows, schema="messages", subset={"rows": 4, "by": "source"})
    assert [n for n, _ in found] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("by", ["first", "random", "length_ratio"])
def test_every_subset_can_be_a_share(tmp_path, by):
    rows = [{"inputs": f"{n}", "targets": "So."} for n in range(20)]
    subset = {"share": 0.25, "by": by, "ratio": 1.0 if by == "length_ratio" else None}
    assert len(cleaned(tmp_path, rows, schema="cot", subset=subset)[0]) == 5


@pytest.mark.parametrize("subset", [{}, {"rows": 3, "share": 0.5}])
def test_a_subset_has_one_size(subset):
    assert "datasets.d.subset: has either rows or share" in refused({"subset": subset})
