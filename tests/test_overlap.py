"""The overlap of benchmarks with training sets: which n-grams count, whose text is read, and a slow count beside it."""

import json
import random
import re
import sys
import unicodedata
from pathlib import Path

import pytest

from workflow_scripts.clean import overlap
from workflow_scripts.clean.overlap import Item, find_overlap, read_item, read_items, read_row, words_of
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


def overlap_of(folder: Path, items: dict[str, str | Item], rows: list[dict], **settings) -> dict[str, dict]:
    training = {"set": [write(folder / "rows.jsonl", rows)]}
    items = {name: item if isinstance(item, Item) else Item(item) for name, item in items.items()}
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
    assert found == {
        "q": {"13": round(1 / 22, 6), "8": round(6 / 27, 6), "exact": "", "match": " ".join(words[:13])}
    }
    assert overlap_of(tmp_path, {"q": item}, [conversation(" ".join(words[:7]), "y")]) == {}


def test_a_short_item_is_one_n_gram_if_it_is_long_enough_to_mean_something(tmp_path):
    rows = [conversation(SENTENCE, "fine")]
    words = SENTENCE.split()
    for length, expected in ((4, None), (5, (0.0, 1.0)), (7, (0.0, 1.0)), (8, (1.0, 1.0)), (12, (1.0, 1.0))):
        item = " ".join(words[2 : 2 + length])
        found = overlap_of(tmp_path, {"q": item}, rows)
        expected = {} if expected is None else {"q": {"13": expected[0], "8": expected[1]}}
        assert {name: {size: each[size] for size in ("13", "8")} for name, each in found.items()} == expected
    counts = find_overlap({"four": Item("a b c d"), "five": Item("a b c d e")}, {}, [13, 8])
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
        "q": {
            "13": 0.0,
            "8": 0.125,
            "exact": "",
            "match": "eight nine ten eleven twelve thirteen fourteen fifteen",
        }
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
    assert read_item(row, "x") == ("7", Item("question\ngold\nand then?\nmore", "", "g"))
    assert read_item(row | {"reference": None}, "x") == ("7", Item("question\nand then?", "", "g"))
    code = {"id": "HumanEval/0", "text": "def f():", "followups": [], "reference": ["    return 1"]}
    assert read_item(code, "x") == ("HumanEval/0", Item("def f():\n    return 1", "def f():"))
    assert read_item({"item": "arc/3", "text": "Why?"}, "x") == ("arc/3", Item("Why?", "Why?"))
    alone = row | {"messages": [messages[0], messages[3]]}
    assert read_item(alone, "x")[1].question == "question"


def test_the_items_of_a_loss_are_the_split_s_conversations(tmp_path):
    row = conversation("What is it?", SENTENCE) | {"id": "1:row_3", "group": "what is it?"}
    row["messages"].insert(0, {"role": "system", "content": "Be kind."})
    assert read_item(row, "x") == ("1:row_3", Item(f"What is it?\n{SENTENCE}", "", "what is it?"))
    pair = conversation("Why?") | {
        "id": "1:a",
        "group": "1:a",
        "original": "A hint.",
        "altered": "The answer.",
    }
    assert read_item(pair, "x") == ("1:a", Item("Why?\nA hint.\nThe answer.", "Why?"))
    later = pair | {"messages": [*conversation("Who?", "You.")["messages"], *pair["messages"]]}
    assert read_item(later, "x") == ("1:a", Item("Why?\nA hint.\nThe answer."))
    found = overlap_of(tmp_path, dict([read_item(row, "x")]), [row])
    text = "what is it one two three four five six seven eight nine ten"
    assert found["1:row_3"] == {"13": 1.0, "8": 1.0, "exact": "group", "match": text}


# Common sentences, each of more than 13 characters of its script, and the words they are taken apart into.
SPACELESS = {
    "Chinese": "细胞是所有生物体结构和功能的基本单位",
    "Japanese": "細胞はすべての生物の構造と機能の基本単位です",
    "Thai": "เซลล์เป็นหน่วยพื้นฐานของสิ่งมีชีวิตทุกชนิด",
    "Lao": "ຈຸລັງແມ່ນຫົວໜ່ວຍພື້ນຖານຂອງສິ່ງທີ່ມີຊີວິດ",
    "Khmer": "កោសិកាគឺជាឯកតាមូលដ្ឋាននៃសារពាង្គកាយមានជីវិត",
    "Burmese": "ဆဲလ်သည်သက်ရှိအားလုံး၏အခြေခံယူနစ်ဖြစ်သည်",
}


@pytest.mark.parametrize("language", SPACELESS)
def test_text_without_spaces_is_found_as_text_with_spaces_is(language, tmp_path):
    text = SPACELESS[language]
    words = words_of(text)
    assert "".join(words) == unicodedata.normalize("NFKC", text).replace("၏", "") and len(words) >= 13
    found = overlap_of(tmp_path, {"q": text}, [conversation(f"GPT: {text}!", "ok")])
    assert (found["q"]["13"], found["q"]["8"]) == (1.0, 1.0)
    turned = "".join(reversed(words))
    assert overlap_of(tmp_path, {"q": text}, [conversation(turned, "ok")]) == {}


def test_a_short_question_without_spaces_is_no_n_gram_but_found_whole(tmp_path):
    found = overlap_of(
        tmp_path, {"q": Item("天空为什么", "天空为什么")}, [conversation("天空为什么？", "因为")]
    )
    assert found["q"] == {"13": 0.0, "8": 1.0, "exact": "whole", "match": "天 空 为 什 么"}
    assert overlap_of(tmp_path, {"q": "天空"}, [conversation("天空为什么？", "因为")]) == {}


def test_words_of_several_scripts_in_one_text_are_told_apart():
    assert words_of("GPT4是什么? ＡＢＣ ﾃｽﾄ") == ["gpt4", "是", "什", "么", "abc", "テ", "ス", "ト"]
    assert words_of("ที่นี่ 2 か\u3099") == ["ที่", "นี่", "2", "が"]
    assert words_of("Gro\u0308ße 한국어 문장") == ["größe", "한국어", "문장"]


def test_an_item_is_found_by_its_group_s_key_whatever_its_words(tmp_path):
    row = conversation("What is ATP?", "A carrier.") | {"id": "2:row_9#1", "group": "what is atp?"}
    item = {"id": "1:row_4#2", "group": "what is atp?", "followups": [], "reference": ["It stores energy."]}
    item["messages"] = [
        *conversation("What is ATP?", "Think.")["messages"],
        {"role": "user", "content": "I do not know."},
    ]
    found = overlap_of(tmp_path, dict([read_item(item, "x")]), [row])
    assert found == {"1:row_4#2": {"13": 0.0, "8": 0.0, "exact": "group", "match": "what is atp?"}}


def test_groups_that_are_names_of_rows_are_no_keys(tmp_path):
    row = conversation("Why?", "So.") | {"id": "1:row_0", "group": "1:row_0"}
    item = {
        "id": "1:row_0#0",
        "group": "1:row_0",
        "messages": [{"role": "user", "content": "Who?"}],
        "followups": [],
    }
    assert overlap_of(tmp_path, dict([read_item(item, "x")]), [row]) == {}
    question = {"id": "81", "group": "81", "text": "Write a poem.", "followups": []}
    assert overlap_of(tmp_path, dict([read_item(question, "x")]), [row | {"id": "81#0", "group": "81"}]) == {}


@pytest.mark.parametrize(
    ("item", "row", "found"),
    [
        (Item("Why is it blue?\nScattering.", "Why is it blue?"), conversation("why is it BLUE", "No idea."), True),
        (Item("Why is it blue?\nScattering."), conversation("Why is it blue?", "Scattering."), True),
        (Item("Why is it blue?\nScattering."), conversation("Why is it blue?", "No idea."), False),
        (Item("Blue why", "Blue why"), conversation("Why blue", "Blue: why is it?"), False),
        (Item("Hi.\nYes.", ""), conversation("Hi.", candidates=[{"content": "No."}, {"content": "Yes."}]), True),
        (Item("Hi.\nYes.", ""), conversation("Hi.", chosen="Yes.", rejected="No."), True),
        (Item("a b c d", "a b c d"), conversation("x", "y", "a b c d", "z"), True),
    ],
)  # fmt: skip
def test_an_item_too_short_for_n_grams_is_found_where_it_stands_whole(item, row, found, tmp_path):
    expected = {"q": "whole"} if found else {}
    assert {
        name: each["exact"] for name, each in overlap_of(tmp_path, {"q": item}, [row]).items()
    } == expected


def test_a_question_that_many_items_ask_is_their_format(tmp_path):
    items = {f"q{n}": Item(f"True or false?\nword{n}", "True or false?") for n in range(4)}
    rows = [conversation("True or false?", "False.")]
    assert len(overlap_of(tmp_path, items, rows, common=4)) == 4
    assert overlap_of(tmp_path, items, rows, common=3) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: read_item({"id": "a"}, "p.jsonl:3"), "p.jsonl:3: an item needs"),
        (lambda: read_row("{", "r.jsonl:2"), "r.jsonl:2: not JSON"),
        (lambda: read_row('{"text": "a"}', "r.jsonl:2"), "r.jsonl:2: a training row needs 'messages'"),
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
    before, sys.argv = sys.argv, [*arguments, "--settings", '{"sizes": [8, 13], "common": null}', *more]
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
    assert read_items([tmp_path / "prompts.jsonl"]) == {"P/0": Item("def f():\nreturn 1", "def f():")}


def whole(item: str, said: str) -> bool:
    """Tell whether an item is found as a whole in a training row that says something."""
    items = {"q": overlap.Item(item, item)}
    row = overlap.Row([said, "Yes."], ["user", "assistant"], "")
    grams = overlap.grams_of(items, [13, 8], 10)
    found = overlap.overlapping_items(items, grams, overlap.find_in([row], grams))
    return found.get("q", {}).get("exact") == "whole"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("किताब हिन्दी में", ["किताब", "हिन्दी", "में"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("الْعَقْلُ", ["الْعَقْلُ"]),
        ("con\u00adtam\u200dination", ["contamination"]),
    ],
)
def test_marks_and_unseen_characters_do_not_cut_a_word(text, words):
    assert overlap.words_of(text) == words


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("What is 3 + 2?", "What is 3 - 2?"),
        ("12*4", "12/4"),
        ("Is x < y?", "Is x > y?"),
        ("किताब", "कताब"),
        ("∑ ∫", "∑ ∏"),
        ("😀", "😢"),
    ],
)
def test_what_differs_in_a_sign_is_another_question(item, said):
    assert not whole(item, said)
    assert whole(item, item)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("What is 3 + 2?", "what is  3 + 2"),
        ("Say: *hello* - now!", "say hello, now"),
        ("Hello 😀", "hello"),
        ("Ｗｈａｔ？", "what"),
        ("다음은 무엇입니까", "다음은 무엇입니까?"),
    ],
)
def test_marks_of_writing_alone_make_no_other_question(item, said):
    assert whole(item, said)


def test_a_question_without_words_is_found_with_its_reply_and_alone():
    items = {"q": overlap.Item("???\nCan you say that more clearly?", "???")}
    grams = overlap.grams_of(items, [13, 8], 10)
    for said in (["Hello", "Yes.", "???", "Can you say that more clearly?"], ["???", "No."]):
        row = overlap.Row(said, ["user", "assistant"] * (len(said) // 2), "")
        found = overlap.overlapping_items(items, grams, overlap.find_in([row], grams))
        assert found["q"]["exact"] == "whole"
