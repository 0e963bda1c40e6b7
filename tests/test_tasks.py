"""Leftover Lunch's published files: what becomes of a row, which are drawn, how long they are, and where they go."""

import json

import pandas
import pytest

from tests.cleaning import cleaning
from tests.raw_rows import fault_of, open_all, ranked
from workflow_scripts.clean.clean import clean_files
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl

EOS = "<|endoftext|>"


def texts(opened):
    return [(turn["role"], turn["content"]) for turn in opened.turns], opened.candidates[0]["content"]


def cleaned(tmp_path, files, **rules):
    """Return ({split: rows}, rejected rows, the manifest) of files {name: rows}."""
    for name, rows in files.items():
        write_jsonl(tmp_path / name, rows)
    inputs = [str(tmp_path / name) for name in files]
    clean_files(inputs, cleaning(**rules), str(tmp_path / "rows"), str(tmp_path / "manifest.json"))
    manifest = read_json(tmp_path / "manifest.json")
    splits = {split: read_jsonl(tmp_path / "rows" / f"{split}.jsonl") for split in manifest["splits"]}
    return splits, read_jsonl(tmp_path / "rows" / "rejected.jsonl"), manifest


def reasons(rejected):
    found = {}
    for entry in rejected:
        found[entry["reason"]] = found.get(entry["reason"], 0) + 1
    return found


# --- what a row becomes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "row", "prompt", "reply"),
    [
        ("reddit_comments", {"parent_text": "Hi?", "text": "Ho.", "score": -9}, "Hi?", "Ho."),
        (
            "atomic",
            {"head": " PersonX eats ", "relation": "xWant", "tail": "to rest"},
            "<head> PersonX eats </head> <relation> xWant </relation> [GEN] ",
            "to rest",
        ),
        ("xsum", {"document": "Long.", "target": "Short."}, "Long.TL;DR:", "Short."),
        ("xsum", {"document": "Long.", "summary": "Short."}, "Long.TL;DR:", "Short."),
        ("cnn_dailymail", {"article": "Long.", "highlights": "Short."}, "Summarize: Long.", "Short."),
        ("imdb", {"text": "a b c d e", "label": 0}, "a b", "c d e"),
        (
            "iwslt2017",
            {"translation": {"en": "Why?", "de": "Warum?"}},
            "translate English to German: Why?",
            "Warum?",
        ),
        ("iwslt2017", {"en": "Why?", "de": "Warum?"}, "translate English to German: Why?", "Warum?"),
        (
            "common_gen",
            {"concepts": ["dog", "run"], "target": "The dog runs."},
            "generate a sentence with: dog run.",
            "The dog runs.",
        ),
    ],
)
def test_a_published_row_becomes_the_prompt_and_the_reply_of_the_source(schema, row, prompt, reply):
    assert texts(ranked(schema, row)) == ([("user", prompt)], reply)


def test_the_same_row_prepared_and_as_published_is_the_same_prompt():
    """So a study learns the same whether it reads the files of the source's script or the published ones."""
    said = {"knowledge": "Cats purr. ", "history": ["Hi.", "Hello.", "Cats?"], "response": " They purr."}
    raw = ranked("wizard_of_wikipedia", said)
    text = f"Knowledge: Cats purr.{EOS}Hi.{EOS}Hello.{EOS}Cats?{EOS}"
    prepared = ranked("rewarded", {"prompt_or_input_text": text, "references": f"They purr.{EOS}"})
    assert texts(raw) == texts(prepared)
    assert (raw.system, raw.meta["knowledge"]) == (prepared.system, prepared.meta["knowledge"])


def test_an_event_brings_what_the_critic_thought_of_it_where_it_was_asked():
    row = {"head": "PersonX eats", "relation": "xWant", "tail": "to rest", "split": "train"}
    assert ranked("atomic", row).candidates[0]["rewards"] == {}
    assert ranked("atomic", row | {"p_valid_model": 0.75}).candidates[0]["rewards"] == {"p_valid": 0.75}
    assert fault_of("atomic", row | {"p_valid_model": "high"}) == "reward is not a finite number"


def test_each_reply_of_the_wizard_is_a_row_with_what_was_said_before_and_the_others_are_counted():
    def wizard(text, **checked):
        return {"speaker": "0_Wizard", "text": text, "checked_sentence": checked}

    apprentice = {"speaker": "1_Apprentice", "text": "Cats?"}
    dialog = [
        wizard("Hello.", k="Cats are."),
        apprentice,
        wizard("They purr.", k="Cats purr."),
        apprentice | {"text": "Why?"},
        wizard("Who knows.", no_passages_used="no_passages_used"),
        apprentice | {"text": "So?"},
        wizard("Hm."),
        apprentice | {"text": "And?"},
        wizard("They sleep.", k="Cats sleep.", other="not used"),
    ]
    opened = open_all("wizard_of_wikipedia", {"dialog": dialog, "chosen_topic": "Cat"})
    assert [fault and fault.reason for _, fault in opened] == [
        "nothing was said before",
        None,
        "no passage used",
        "no knowledge",
        None,
    ]
    first, last = opened[1][0], opened[4][0]
    assert texts(first) == ([("assistant", "Hello."), ("user", "Cats?")], "They purr.")
    assert last.system == "Knowledge: Cats sleep."
    assert [turn["content"] for turn in last.turns][-4:] == ["Who knows.", "So?", "Hm.", "And?"]


def test_faithdial_is_read_as_its_own_file_and_as_the_hubs_table_has_it():
    reply = {"history": ["Hi.", "Yes?", "Cats?"], "knowledge": "Cats purr.", "response": "They purr."}
    more = {"original_response": "Cats bark.", "BEGIN": ["Hallucination"], "VRM": ["Ack."]}
    ((flat, _),) = open_all("faithdial", reply | more | {"dialog_idx": 3})
    ((nested, _),) = open_all("faithdial", {"dialog_idx": 3, "utterances": [reply | more]})
    assert flat.turns == nested.turns and flat.candidates == nested.candidates
    assert flat.unread == {"original_response", "BEGIN", "VRM", "dialog_idx"}


def test_an_utterance_of_daily_dialog_is_a_row_once_five_were_said():
    said = [f"{letter} ." for letter in "ABCDEFG"]
    opened = open_all("daily_dialog", {"dialog": [f" {text} " for text in said], "act": [1] * 7})
    assert [[turn["content"] for turn in one.turns] for one, _ in opened] == [said[0:5], said[1:6]]
    assert [one.candidates[0]["content"] for one, _ in opened] == said[5:]
    assert opened[0][0].turns[-1]["role"] == "user"
    assert [fault.reason for _, fault in open_all("daily_dialog", {"dialog": said[:5]})] == [
        "no conversation in the row"
    ]


@pytest.mark.parametrize(
    ("schema", "row", "reason"),
    [
        ("reddit_comments", {"parent_text": "Hi?", "text": None}, "text is not a string"),
        ("wizard_of_wikipedia", {"dialog": [{"speaker": "Bot", "text": "Hi."}]}, "unknown role"),
        ("wizard_of_wikipedia", {"dialog": [{"speaker": "0_Wizard", "text": 3}]}, "text is not a string"),
        ("wizard_of_wikipedia", {"dialog": ["Hi."]}, "turn is not an object"),
        ("faithdial", {"utterances": [{"knowledge": "K", "history": []}]}, "missing field 'response'"),
        ("daily_dialog", {"dialog": ["Hi.", 3]}, "text is not a string"),
        ("common_gen", {"concepts": "dog run", "target": "So."}, "'concepts' is not a list"),
        ("common_gen", {"concepts": [1], "target": "So."}, "text is not a string"),
        ("iwslt2017", {"translation": "Why?"}, "'translation' is not an object"),
    ],
)
def test_a_published_row_that_is_not_one_says_why(schema, row, reason):
    assert fault_of(schema, row) == reason


# --- which rows are drawn ---------------------------------------------------------------------------------------------


def comments(count):
    rows = [{"id": f"c{n}", "parent_text": f"Is it {n}?", "text": f"It is {n}."} for n in range(count)]
    rows[3]["text"], rows[5]["parent_text"], rows[8]["text"] = None, "", "NA"
    return rows


def test_a_sample_is_the_one_that_pandas_draws_in_its_order(tmp_path):
    rows = comments(60)
    sample = {"rows": 20, "seed": 901, "columns": ["parent_text", "text"]}
    split = {"order": "file", "quotas": {"test": 4, "validation": 5, "train": 100}}
    pandas.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    rules = cleaning(schema="reddit_comments", sample=sample, split=split)
    clean_files([str(tmp_path / "a.csv")], rules, str(tmp_path / "rows"), str(tmp_path / "m.json"))
    manifest = read_json(tmp_path / "m.json")
    splits = {name: read_jsonl(tmp_path / "rows" / f"{name}.jsonl") for name in split["quotas"]}
    frame = pandas.read_csv(tmp_path / "a.csv").dropna(subset=["parent_text", "text"])
    assert len(frame) == 57
    drawn = [f"1:{name}" for name in frame.sample(20, random_state=901)["id"]]
    found = [[row["id"] for row in splits[split]] for split in ("test", "validation", "train")]
    assert found == [drawn[:4], drawn[4:9], drawn[9:]]
    assert manifest["notes"] == {
        "rows left out with nothing in 'parent_text'": 1,
        "rows left out with nothing in 'text'": 2,
        "rows not drawn": 37,
    }
    assert manifest["counts"]["a.csv"]["rows"] == {"read": 20, "kept": 20, "rejected": 0}


def test_a_sample_of_all_rows_is_the_rows_in_another_order_and_a_broken_line_is_still_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*(json.dumps(row) for row in comments(12)), "broken", ""]))
    rules = cleaning(
        schema="reddit_comments",
        sample={"rows": None, "seed": 1, "columns": ["text", "parent_text"]},
        split={"order": "file", "quotas": {"train": 100}},
    )
    clean_files([str(path)], rules, str(tmp_path / "rows"), str(tmp_path / "m.json"))
    kept = [row["meta"]["index"] for row in read_jsonl(tmp_path / "rows" / "train.jsonl")]
    assert sorted(kept) == [0, 1, 2, 4, 6, 7, 9, 10, 11] != kept
    (told,) = read_jsonl(tmp_path / "rows" / "rejected.jsonl")
    assert (told["reason"], told["line"]) == ("not JSON", 13)


# --- how long they may be ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a tokenizer of words."""
    from tests.heads import save_tokenizer

    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path, eos_token="</s>", pairs=True)
    return str(path)


def test_the_words_of_a_whole_row_are_counted_with_an_end_token_to_each_text(tmp_path, folder):
    rows = [
        {"parent_text": "you are rude", "text": "good bad"},
        {"parent_text": "you are", "text": "good bad"},
    ]
    limits = {"tokenizer": folder, "row": 6, "history": None}
    splits, rejected, _ = cleaned(tmp_path, {"a.jsonl": rows}, schema="reddit_comments", token_limits=limits)
    assert [row["messages"][0]["content"] for row in splits["train"]] == ["you are"]
    assert [(entry["reason"], entry["detail"]) for entry in rejected] == [
        ("longer than 6 tokens", "7 tokens")
    ]


def test_the_oldest_messages_go_until_the_history_fits_and_are_counted(tmp_path, folder):
    said = ["a cell is", "box of life", "you are kind"]
    rows = [{"knowledge": "good good good good", "history": said, "response": "bad"}]
    rows.append({"knowledge": "good", "history": ["a cell is box of life good bad"], "response": "bad"})
    limits = {"tokenizer": folder, "row": None, "history": 7}
    splits, rejected, manifest = cleaned(tmp_path, {"a.jsonl": rows}, schema="faithdial", token_limits=limits)
    (row,) = splits["train"]
    assert [message["content"] for message in row["messages"]] == [
        "Knowledge: good good good good",
        *said[1:],
    ]
    assert reasons(rejected) == {"history longer than it may be": 1, "last message longer than 7 tokens": 1}
    assert manifest["counts"]["a.jsonl"]["turns"] == {"read": 6, "kept": 3, "rejected": 3}
    limits["history"] = 11  # three times three words and two end tokens between them
    splits, rejected, _ = cleaned(tmp_path, {"a.jsonl": rows}, schema="faithdial", token_limits=limits)
    assert len(splits["train"]) == 2 and rejected == []


def test_the_tokens_of_gpt_2s_two_files_are_counted_and_a_folder_without_any_is_named(tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    from workflow_scripts.clean.lengths import count_tokens

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["a cell is a box of life"] * 9, vocab_size=280, show_progress=False)
    trained.save_model(str(tmp_path))
    text = "a box of cells"
    assert count_tokens(text, str(tmp_path)) == len(trained.encode(text).ids) > 3
    (tmp_path / "merges.txt").rename(tmp_path / "gone.txt")
    with pytest.raises(PlumblineError, match=r"neither tokenizer\.json nor vocab\.json and merges"):
        count_tokens(text, f"{tmp_path}/")


def test_white_space_becomes_one_space(tmp_path):
    rows = [{"parent_text": " a\n\n b ", "text": "c\t d"}]
    splits, _, _ = cleaned(tmp_path, {"a.jsonl": rows}, schema="reddit_comments", collapse_whitespace=True)
    (row,) = splits["train"]
    assert (row["messages"][0]["content"], row["candidates"][0]["content"]) == ("a b", "c d")


# --- where they go ----------------------------------------------------------------------------------------------------


def talk(name, count):
    return [{"id": f"{name}{n}", "parent_text": f"Is {name} {n}?", "text": "So."} for n in range(count)]


def test_quotas_and_files_together_fill_splits_file_by_file(tmp_path):
    both = ["liked.jsonl", "disliked.jsonl"]
    split = {
        "order": "file",
        "per_file": True,
        "quotas": {"test": 2, "validation": 3, "train": 100},
        "by_file": {"test": both, "validation": both, "train": ["liked.jsonl"]},
    }
    files = {"liked.jsonl": talk("a", 9), "disliked.jsonl": talk("b", 9)}
    splits, rejected, _ = cleaned(tmp_path, files, schema="reddit_comments", split=split)
    found = {name: [row["id"].split(":")[1] for row in rows] for name, rows in splits.items()}
    assert found == {
        "test": ["a0", "a1", "b0", "b1"],
        "validation": ["a2", "a3", "a4", "b2", "b3", "b4"],
        "train": ["a5", "a6", "a7", "a8"],
    }
    assert reasons(rejected) == {"over quota": 4}


def events(count, **more):
    return [
        {"head": f"PersonX eats {n}", "relation": "xWant", "tail": "to rest"} | more for n in range(count)
    ]


def test_a_column_says_where_rows_go_and_a_test_split_asks_each_prompt_once(tmp_path):
    known = [*events(3, split="train"), *events(9, split="val")[3:6], *events(20, split="test")[19:]]
    other = [
        {"head": "PersonX sings", "relation": "xNeed", "tail": "a song"},
        {"head": "PersonX sings", "relation": "xNeed", "tail": "a voice"},
        {"head": "PersonX sings", "relation": "ObjectUse", "tail": "a piano"},
    ]
    split = {
        "order": "file",
        "quotas": {"train": 1000, "validation": 2, "test": 1000},
        "by_file": {"train": ["10x.jsonl"], "validation": ["10x.jsonl"], "test": ["2020.jsonl"]},
        "by_column": {
            "train": {"split": ["train"]},
            "validation": {"split": ["val"]},
            "test": {"relation": ["xNeed", "xWant"]},
        },
        "distinct": ["test"],
    }
    files = {"10x.jsonl": known, "2020.jsonl": other}
    splits, rejected, manifest = cleaned(tmp_path, files, schema="atomic", group_by="question", split=split)
    assert manifest["short_of_quotas"] == {}  # what stayed out, no split with room may have
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3, "validation": 2, "test": 1}
    assert splits["test"][0]["candidates"][0]["content"] == "a song"
    assert reasons(rejected) == {
        "no split may have it": 2,
        "over quota": 1,
        "prompt stands in the split already": 1,
    }
    del split["quotas"], split["order"]
    split |= {"quotas": {}}
    again, rejected, _ = cleaned(tmp_path, files, schema="atomic", group_by="question", split=split)
    assert {name: len(rows) for name, rows in again.items()} == {"train": 3, "validation": 3, "test": 1}
    assert reasons(rejected) == {"no split may have it": 2, "prompt stands in the split already": 1}


def test_a_column_of_numbers_is_compared_as_it_is_written(tmp_path):
    rows = [{"text": f"a {n} film ends", "label": n % 2} for n in range(6)]
    split = {"order": "file", "quotas": {"train": 9}, "by_column": {"train": {"label": [1]}}}
    splits, rejected, _ = cleaned(tmp_path, {"a.jsonl": rows}, schema="imdb", split=split)
    assert [row["meta"]["label"] for row in splits["train"]] == [1, 1, 1]
    assert reasons(rejected) == {"no split may have it": 3}


def test_a_column_of_a_row_with_several_replies_says_where_each_goes(tmp_path):
    rows = [
        {
            "split": split,
            "utterances": [
                {"knowledge": "Cats purr.", "history": [f"{split} {n}?"], "response": "They purr."}
                for n in range(2)
            ],
        }
        for split in ("train", "test", "other")
    ]
    rule = {
        "order": "file",
        "quotas": {"train": 9, "test": 9},
        "by_column": {"train": {"split": ["train"]}, "test": {"split": ["test"]}},
    }
    splits, rejected, manifest = cleaned(tmp_path, {"a.jsonl": rows}, schema="faithdial", split=rule)
    assert {name: [row["messages"][-1]["content"] for row in found] for name, found in splits.items()} == {
        "train": ["train 0?", "train 1?"],
        "test": ["test 0?", "test 1?"],
    }
    assert reasons(rejected) == {"no split may have it": 2} and manifest["short_of_quotas"] == {}


def test_a_table_without_names_of_columns_is_told_them(tmp_path):
    (tmp_path / "test.tsv").write_text("PersonX sings\txNeed\ta song\nPersonX eats\txWant\tto rest\nbroken\n")
    columns = {"test.tsv": ["head", "relation", "tail"]}
    rules = cleaning(schema="atomic", columns=columns)
    clean_files([str(tmp_path / "test.tsv")], rules, str(tmp_path / "rows"), str(tmp_path / "m.json"))
    tails = [row["candidates"][0]["content"] for row in read_jsonl(tmp_path / "rows" / "train.jsonl")]
    assert sorted(tails) == ["a song", "to rest"]
    (told,) = read_jsonl(tmp_path / "rows" / "rejected.jsonl")
    assert (told["detail"], told["line"]) == ("1 cells for 3 columns", 3)
