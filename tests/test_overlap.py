"""The overlap of benchmarks with training sets: which n-grams count, whose text is read, and a slow count beside it."""

import json
import random
import re
import sys
from pathlib import Path

import pytest

from workflow_scripts.clean import overlap
from workflow_scripts.clean.overlap import find_overlap, item_text, read_items, row_text, words_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_jsonl

SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def conversation(*texts: str, **more) -> dict:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"id": "x", "group": "x", "messages": messages} | more


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def overlap_of(folder: Path, items: dict[str, str], rows: list[dict], **settings) -> dict[str, dict]:
    training = {"set": [write(folder / "rows.jsonl", rows)]}
    return find_overlap(items, training, **({"sizes": [13, 8]} | settings))["sets"]["set"]["items"]


def test_words_are_runs_of_letters_and_digits_whatever_their_case_and_marks():
    assert (
        words_of("The CELL's 2 walls:\n\t(rigid_ness) — Größe!")
        == "the cell s 2 walls rigid ness größe".split()
    )


def test_shares_are_counted_as_a_slow_count_counts_them(tmp_path):
    draw = random.Random(3)
    texts = [draw.choices("abc", k=draw.choice([3, 5, 7, 8, 10, 13, 25, 30])) for _ in range(60)]
    items = {f"item {number}": " ".join(words) for number, words in enumerate(texts)}
    copied = [" ".join(words[2:17]) for words in texts[::3]]
    rows = [conversation(" ".join(draw.choices("abc", k=20)), text) for text in copied]
    joined = [" " + " ".join(message["content"] for message in row["messages"]) + " " for row in rows]
    expected = {}
    for name, words in zip(items, texts, strict=True):
        for size, shortest in (("13", 8), ("8", 5)):
            length = min(int(size), len(words))
            grams = [" ".join(words[at : at + length]) for at in range(len(words) - length + 1)]
            hits = [gram for gram in grams if any(f" {gram} " in row for row in joined)]
            expected[name, size] = len(hits) / len(grams) if len(words) >= shortest else 0.0
    found = overlap_of(tmp_path, items, rows)
    shares = {(name, size): found.get(name, {}).get(size, 0.0) for name, size in expected}
    assert shares == pytest.approx(expected, abs=1e-6)
    partial = [name for (name, size), share in expected.items() if size == "13" and 0 < share < 1]
    assert len(partial) > 2
    assert 10 < len(found) < 50


def test_one_long_run_of_words_is_a_13_gram_and_little_of_the_item(tmp_path):
    words = SENTENCE.split()
    item = " ".join(["Before,", *words[:13], *(f"w{n}" for n in range(20))])
    found = overlap_of(tmp_path, {"q": item}, [conversation("x " + " ".join(words).upper(), "y")])
    assert found == {"q": {"13": round(1 / 22, 6), "8": round(6 / 27, 6), "match": " ".join(words[:13])}}
    assert overlap_of(tmp_path, {"q": item}, [conversation(" ".join(words[:7]), "y")]) == {}


def test_a_short_item_is_one_n_gram_if_it_is_long_enough_to_mean_something(tmp_path):
    rows = [conversation(SENTENCE, "fine")]
    words = SENTENCE.split()
    for length, expected in ((4, None), (5, (0.0, 1.0)), (7, (0.0, 1.0)), (8, (1.0, 1.0)), (12, (1.0, 1.0))):
        item = " ".join(words[2 : 2 + length])
        found = overlap_of(tmp_path, {"q": item}, rows)
        expected = {} if expected is None else {"q": {"13": expected[0], "8": expected[1]}}
        assert {name: {size: each[size] for size in ("13", "8")} for name, each in found.items()} == expected
    counts = find_overlap({"four": "a b c d", "five": "a b c d e"}, {}, [13, 8])
    assert counts == {"benchmark items": 2, "items without n-grams": {"13": 2, "8": 1}, "sets": {}}


@pytest.mark.parametrize(
    "row",
    [
        conversation(SENTENCE),
        conversation("What?", SENTENCE),
        conversation("one two three four five six seven", SENTENCE.split("seven ")[1]),
        conversation(
            "What?", candidates=[{"content": "no", "rewards": {}}, {"content": SENTENCE, "rewards": {}}]
        ),
        conversation("What?", answers=["no", SENTENCE], rewards=[1, 0]),
        conversation("What?", chosen=SENTENCE, rejected="no"),
        conversation("What?", chosen="no", rejected=SENTENCE),
        conversation("What?", reference=SENTENCE),
    ],
)
def test_all_that_a_policy_reads_of_a_row_is_training_text(row, tmp_path):
    assert overlap_of(tmp_path, {"q": SENTENCE}, [row])["q"]["13"] == 1.0


def test_two_rows_are_not_one_text(tmp_path):
    first, second = SENTENCE.split(" seven ")
    assert overlap_of(tmp_path, {"q": SENTENCE}, [conversation(first + " seven"), conversation(second)]) == {
        "q": {"13": 0.0, "8": 0.125, "match": "eight nine ten eleven twelve thirteen fourteen fifteen"}
    }


def test_what_many_items_share_is_their_format(tmp_path):
    instruction = "choose the one right answer and write its letter and nothing else at all"
    items = {f"q{n}": f"{instruction} {' '.join(f'{word}{n}' for word in 'uvwxyz')}" for n in range(4)}
    rows = [conversation(instruction, "a"), conversation(items["q2"], "b")]
    assert set(overlap_of(tmp_path, items, rows)) == set(items)
    found = overlap_of(tmp_path, items, rows, common=3)
    assert set(found) == {"q2"}
    assert found["q2"]["13"] == found["q2"]["8"] == 1.0
    assert set(overlap_of(tmp_path, items, rows, common=4)) == set(items)


def test_a_prompt_s_text_is_what_is_asked_and_expected_and_no_history():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "old question"},
        {"role": "assistant", "content": "old answer"},
        {"role": "user", "content": "question"},
    ]
    row = {
        "id": 7,
        "group": "g",
        "messages": messages,
        "followups": ["and then?"],
        "reference": ["gold", "more"],
    }
    assert item_text(row, "x") == ("7", "question\ngold\nand then?\nmore")
    assert item_text(row | {"reference": None}, "x") == ("7", "question\nand then?")
    code = {"id": "HumanEval/0", "text": "def f():", "followups": [], "reference": ["    return 1"]}
    assert item_text(code, "x") == ("HumanEval/0", "def f():\n    return 1")
    assert item_text({"item": "arc/3", "text": "Why?"}, "x") == ("arc/3", "Why?")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: item_text({"id": "a"}, "p.jsonl:3"), "p.jsonl:3: an item needs"),
        (lambda: row_text("{", "r.jsonl:2"), "r.jsonl:2: not JSON"),
        (lambda: row_text('{"text": "a"}', "r.jsonl:2"), "r.jsonl:2: a training row needs 'messages'"),
    ],
)
def test_a_row_of_another_kind_is_named(call, message):
    with pytest.raises(PlumblineError, match=re.escape(message)):
        call()


def run(folder: Path, *more: str) -> dict:
    items = [{"item": "a", "text": SENTENCE}]
    prompts = [{"id": "b", "group": "b", "messages": [{"role": "user", "content": SENTENCE + " more"}]}]
    paths = write(folder / "items.jsonl", items), write(folder / "prompts.jsonl", prompts)
    arguments = ["overlap", "--items", *map(str, paths), "--output", str(folder / "overlap.json")]
    before, sys.argv = sys.argv, [*arguments, "--settings", '{"sizes": [8, 13]}', *more]
    try:
        overlap.main()
    finally:
        sys.argv = before
    return json.loads((folder / "overlap.json").read_text())


def test_several_files_of_items_and_several_training_sets_of_several_files(tmp_path):
    sft = write(tmp_path / "sft.jsonl", [conversation("hello", "world")])
    more = write(tmp_path / "more=1.jsonl", [conversation(SENTENCE, "world")])
    found = run(tmp_path, "--training", f"sft={sft}", f"sft={more}", f"empty={sft}")
    assert found["benchmark items"] == 2
    assert {name: sorted(each["items"]) for name, each in found["sets"].items()} == {
        "sft": ["a", "b"],
        "empty": [],
    }
    assert run(tmp_path)["sets"] == {}
    with pytest.raises(PlumblineError, match=r"--training sft: write NAME=ROWS.jsonl"):
        run(tmp_path, "--training", "sft")
    with pytest.raises(PlumblineError, match=r"none.jsonl: no such file"):
        run(tmp_path, "--training", f"sft={tmp_path / 'none.jsonl'}")


def test_an_item_is_named_once(tmp_path):
    path = write(tmp_path / "items.jsonl", [{"item": "a", "text": "x"}] * 2)
    with pytest.raises(PlumblineError, match=r"items.jsonl:2: item 'a' is there twice"):
        overlap.read_items([path])


def test_a_problem_asked_at_several_temperatures_is_one_item(tmp_path):
    rows = [
        {"id": f"P/0@{t}", "group": "P/0", "text": "def f():", "reference": ["return 1"]} for t in (0.1, 0.7)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    assert read_items([tmp_path / "prompts.jsonl"]) == {"P/0": "def f():\nreturn 1"}
