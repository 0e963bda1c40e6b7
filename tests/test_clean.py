"""Cleaning loses nothing in silence: what comes in is kept, or counted with its reason, or an error."""

import ast
import json
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cleaning import cleaning
from tests.good_rows import GOOD
from workflow_scripts.clean import clean, selecting, turns
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.tutor_reply import ACTION, EVALUATION, FIELDS, STATE, parse_reply

TUTOR = cleaning(
    system_prompt="You are a tutor.",
    drop_fields=["Thoughts of Tutorbot"],
    replace_na={EVALUATION: "g", ACTION: "12", STATE: "w"},
    min_messages=3,
    max_chars=5000,
    split={"seed": 42, "quotas": {"train": 1000}, "per_file": True},
)


def reply(evaluation="b", action="3", state="x", **more):
    values = ("It is so.", evaluation, action, state, "What?", "Say more.")
    return json.dumps(dict(zip(("Thoughts of Tutorbot", *FIELDS), values, strict=True)) | more)


def talk(question="Why do leaves look green?", turns=2, **row):
    """Return a raw row of so many exchanges."""
    first = f'Instructions to Act as a Tutorbot: be kind. Student: "\nQ. {question}'
    messages = []
    for n in range(turns):
        messages.append({"from": "human", "value": first if n == 0 else f"Answer {n}."})
        messages.append({"from": "gpt", "value": reply("g", "12") if n == 0 else reply()})
    return {"id": "identity_7", "conversations": messages} | row


class Cleaned:
    """What one run wrote."""

    def __init__(self, folder):
        self.splits = {
            path.stem: [json.loads(line) for line in path.open(encoding="utf-8")]
            for path in sorted((folder / "clean").glob("*.jsonl"))
        }
        self.rejected = self.splits.pop("rejected")
        self.kept = [row for rows in self.splits.values() for row in rows]
        self.manifest = json.loads((folder / "manifest.json").read_text())

    @property
    def reasons(self):
        return Counter((entry["level"], entry["reason"]) for entry in self.rejected)


def clean_into(folder, paths, rules):
    clean.clean_files(
        [str(path) for path in paths], cleaning(**rules), str(folder / "clean"), str(folder / "manifest.json")
    )
    return Cleaned(folder)


@pytest.fixture
def clean_rows(tmp_path):
    def apply(*files, lines=False, **rules):
        paths = []
        for number, rows in enumerate(files, 1):
            paths.append(tmp_path / f"bio-{number}.json")
            text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
            paths[-1].write_text(text, encoding="utf-8")
        return clean_into(tmp_path, paths, TUTOR | rules)

    return apply


def test_a_conversation_becomes_what_the_source_makes_of_it(clean_rows):
    result = clean_rows([talk()])
    (row,) = result.kept
    assert row["id"] == "1:identity_7" and row["group"] == "why do leaves look green?"
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert row["messages"][0]["content"] == "You are a tutor."
    assert row["messages"][1]["content"] == "Q. Why do leaves look green?"
    assert list(parse_reply(row["messages"][2]["content"])) == list(FIELDS)
    assert not result.rejected


def test_reply_formats_are_json_python_and_untouched(clean_rows):
    (kept,) = clean_rows([talk()], reply_format="python").kept
    text = kept["messages"][2]["content"]
    assert text == str(parse_reply(text)) and text.startswith("{'Evaluation")
    (kept,) = clean_rows([talk()], reply_format="raw").kept
    assert kept["messages"][2]["content"] == reply("g", "12")


def test_not_applicable_labels_become_g_12_w(clean_rows):
    row = talk()
    row["conversations"][1]["value"] = reply("N/A", "N/A", "N/A")
    result = clean_rows([row])
    read = parse_reply(result.kept[0]["messages"][2]["content"])
    assert (read[EVALUATION], read[ACTION], read[STATE]) == ("g", "12", "w")
    assert sum(result.manifest["notes"].values()) == 3


def test_a_label_written_as_a_number_or_with_space_is_the_label(clean_rows):
    row = talk()
    row["conversations"][3]["value"] = reply(**{ACTION: 3, EVALUATION: " b "})
    read = parse_reply(clean_rows([row]).kept[0]["messages"][4]["content"])
    assert (read[EVALUATION], read[ACTION]) == ("b", "3")


@pytest.mark.parametrize(
    ("said", "written"),
    [  # a Python dict with three label fields stays, its keys in their order, its values as they came
        (reply("q"), None),
        (reply(action="13"), None),
        (str(dict(reversed(json.loads(reply()).items()))), None),
        (str({EVALUATION: " b", ACTION: 3, STATE: ["x"]}), None),
        (str({STATE: "x", EVALUATION: "N/A", ACTION: "N/A"}), {STATE: "x", EVALUATION: "g", ACTION: "12"}),
        (str(json.loads(reply()) | {"Tutorbot": None, "more": {1, 2}}), None),
    ],
)
def test_lenient_labels_keep_what_the_published_program_keeps(clean_rows, said, written):
    row = talk(turns=3)
    row["conversations"][3]["value"] = said
    result = clean_rows([row], lenient_labels=True, reply_format="python")
    [kept], expected = result.kept, written or ast.literal_eval(said)
    expected.pop("Thoughts of Tutorbot", None)
    assert kept["messages"][4]["content"] == str(expected)
    assert len(kept["messages"]) == 7 and not result.rejected
    strict = clean_rows([row], reply_format="python", min_messages=2)
    assert (len(strict.kept[0]["messages"]) == 7) == (said.startswith("{'Tutorbot"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Good!", "unparsable reply"),
        ("[1]", "unparsable reply"),
        (reply(more=None), "unparsable reply"),  # JSON's null is no Python literal
        (str({EVALUATION: "a", ACTION: "1"}), f"reply lacks '{STATE}'"),
        (str(json.loads(reply()) | {"more": {1, 2}}), "reply cannot be written as JSON"),
    ],
)
def test_lenient_labels_cut_where_the_published_program_cuts(clean_rows, said, reason):
    row = talk(turns=3)
    row["conversations"][3]["value"] = said
    result = clean_rows([row], lenient_labels=True, min_messages=2)
    assert [len(kept["messages"]) for kept in result.kept] == [3]
    assert ("turn", reason) in result.reasons


def test_what_lenient_labels_let_pass_is_counted(clean_rows):
    row = talk(turns=4)
    row["conversations"][3]["value"] = reply("q", "13")
    row["conversations"][5]["value"] = str({EVALUATION: "b", ACTION: "3", STATE: "x"})
    assert clean_rows([row], lenient_labels=True).manifest["notes"] == {
        f"kept with a label not in the table of '{EVALUATION}'": 1,
        f"kept with a label not in the table of '{ACTION}'": 1,
        "kept without some of its text": 1,
    }


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"Evaluation', "unparsable reply"),
        ('{"Evaluation of Student Response": "a"}', f"reply lacks '{ACTION}'"),
        (reply("q"), f"label not in the table of '{EVALUATION}'"),
        (reply(action="13"), f"label not in the table of '{ACTION}'"),
        (reply(state=None), f"label not in the table of '{STATE}'"),
        (reply(**{EVALUATION: True}), f"label not in the table of '{EVALUATION}'"),
        (reply(**{ACTION: float("nan")}), f"label not in the table of '{ACTION}'"),
        (reply(Tutorbot=["nested", ["list"]]), "reply field is not text"),
        (reply(Tutorbot="\ud800"), "lone surrogate"),
        (reply(Extra=3), "reply field is not text"),
        (5, "text is not a string"),
        (None, "text is not a string"),
        (["nested"], "text is not a string"),
        ("", "empty message"),
        ("\udfff", "lone surrogate"),
        ("x" * 6000, "longer than 5000 characters"),
        ("[" * 4000, "unparsable reply"),
    ],
)
def test_an_unusable_turn_cuts_the_conversation_there(clean_rows, broken, reason):
    row = talk(turns=4)
    row["conversations"][5]["value"] = broken
    result = clean_rows([row])
    assert len(result.kept[0]["messages"]) == 1 + 4
    # The student's turn before the cut has lost its answer and goes too.
    assert result.reasons == {("turn", reason): 1, ("turn", "conversation ends on the student"): 1}
    assert result.manifest["counts"]["bio-1.json"]["turns"] == {"read": 8, "kept": 4, "rejected": 4}


def test_without_truncation_an_unusable_turn_rejects_the_conversation(clean_rows):
    row = talk(turns=4)
    row["conversations"][5]["value"] = "{"
    result = clean_rows([row, talk("Another?")], truncate_at_unparsable=False)
    assert len(result.kept) == 1 and result.reasons == {("row", "unparsable reply"): 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (None, "row is not an object"),
        (float("nan"), "row is not an object"),
        ([[[]]], "row is not an object"),
        ("text", "row is not an object"),
        ({}, "missing field 'conversations'"),
        ({"conversations": "text"}, "'conversations' is not a list"),
        ({"conversations": None}, "'conversations' is not a list"),
        ({"conversations": []}, "fewer than 3 messages"),
        (talk(turns=1), "fewer than 3 messages"),
        ({"conversations": [[], 3, None]}, "fewer than 3 messages"),
        ({"conversations": talk()["conversations"][1:]}, "fewer than 3 messages"),
    ],
)
def test_an_unusable_row_is_counted_with_its_reason(clean_rows, row, reason):
    result = clean_rows([talk("Fine?"), row])
    assert ("row", reason) in result.reasons
    assert (result.rejected[-1]["file"], result.rejected[-1]["index"]) == ("bio-1.json", 1)
    assert result.manifest["counts"]["bio-1.json"]["rows"] == {"read": 2, "kept": 1, "rejected": 1}


def test_a_conversation_without_a_question_is_rejected(clean_rows):
    row = talk()
    row["conversations"][0]["value"] = "Instructions. Student: "
    result = clean_rows([row, talk()])
    assert result.reasons == {("row", "no question behind the instructions"): 1}


def test_a_conversation_that_ends_on_the_student_loses_that_turn(clean_rows):
    row = talk()
    row["conversations"].append({"from": "human", "value": "Still there?"})
    result = clean_rows([row])
    assert result.kept[0]["messages"][-1]["role"] == "assistant"
    assert result.reasons == {("turn", "conversation ends on the student"): 1}


def test_roles_that_do_not_alternate_or_are_unknown_cut_the_conversation(clean_rows):
    twice, unknown, nameless = talk("A?", turns=3), talk("B?", turns=3), talk("C?", turns=3)
    twice["conversations"][4]["from"] = "gpt"
    unknown["conversations"][4]["from"] = {"a": 1}
    del nameless["conversations"][4]["from"]
    result = clean_rows([twice, unknown, nameless])
    assert [len(row["messages"]) for row in result.kept] == [5, 5, 5]
    assert result.reasons == {
        ("turn", "roles do not alternate"): 1,
        ("turn", "unknown role"): 1,
        ("turn", "missing field 'from'"): 1,
    }


def test_ids_are_unique_and_made_up_where_missing(clean_rows):
    names = ["x", "x", None, [1], 4, "\ud800", "y" * 999]
    ids = [row["id"] for row in clean_rows([talk(f"Q{n}?", id=name) for n, name in enumerate(names)]).kept]
    assert sorted(ids) == sorted(["1:x", "1:x~1", "1:row_2", "1:row_3", "1:4", "1:row_5", "1:row_6"])


def test_identical_conversations_are_kept_once_over_all_files(clean_rows):
    result = clean_rows([talk(id="a"), talk("Else?")], [talk(id="b")])
    assert len(result.kept) == 2
    (entry,) = result.rejected
    assert entry["file"] == "bio-2.json" and entry["reason"] == "duplicate" and entry["detail"] == "of 1:a"
    assert entry["turns"] == 4 and set(entry) >= {"file", "index", "line", "level", "reason", "detail"}


def test_a_question_without_the_marker_is_kept_and_counted(clean_rows):
    row = talk()
    row["conversations"][0]["value"] = "Q. Bare?"
    result = clean_rows([row])
    assert result.kept[0]["messages"][1]["content"] == "Q. Bare?"
    assert result.manifest["notes"] == {"first message without the marker 'Student:'": 1}


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('Instructions. Student: "\nQ. Why?', "Q. Why?"),
        ("Say Student: twice. Student: \nQ. Why?", "Q. Why?"),
        ("Rules. Student: \nQ. What does Student: mean?", "Q. What does Student: mean?"),
        ("Rules. Student: Why?", "Why?"),
        ("Rules.\nQ. Why?", "Rules.\nQ. Why?"),
    ],
)
def test_instructions_up_to_their_last_student_marker_are_removed(text, question):
    assert turns.split_question(text)[0] == question


def test_one_problem_is_one_group_however_it_is_spaced_or_explained():
    texts = ("Q. Why  green? Facts: a. b.", "Q. why green?", "Why\nGREEN? Facts: c.")
    assert {turns.problem_key(text) for text in texts} == {"why green?"}
    assert turns.group_of("Q. A? Facts: x", "1:a", "question") != turns.group_of("Q. A?", "1:a", "question")
    assert turns.group_of("Q. A?", "1:a", "conversation") == "1:a"


@pytest.mark.parametrize("order", ["shuffled", "file"])
def test_quotas_that_groups_leave_short_are_said(clean_rows, capsys, order):
    # Two problems of one question each, and four conversations of the first: its split is over quota, the other short.
    rows = [talk("Why?", 2 + number) for number in range(4)] + [talk("How?")]
    split = {"seed": 42, "order": order, "quotas": {"sft": 3, "test": 3}}
    result = clean_rows(rows, split=split | {"per_file": True})
    sizes = {name: len(result.splits[name]) for name in ("sft", "test")}
    assert sorted(sizes.values()) == [1, 3]
    (short,) = (name for name, size in sizes.items() if size == 1)
    assert result.manifest["short_of_quotas"] == {short: {"bio-1.json": 1}}  # one is over quota in the other
    assert (
        f"groups leave quotas short: {short} has room for 1 more of bio-1.json\n" in capsys.readouterr().err
    )
    result = clean_rows(rows, split=split | {"per_file": False})
    assert result.manifest["short_of_quotas"] == {short: {"": 1}}
    assert f"{short} has room for 1 more\n" in capsys.readouterr().err
    whole = clean_rows(rows, split={"quotas": {"train": 50}, "per_file": False})
    assert whole.manifest["short_of_quotas"] == {}
    assert "quotas" not in capsys.readouterr().err


def test_splits_share_no_problem_over_all_files_and_stay_within_their_quotas_per_file(clean_rows):
    split = {"seed": 42, "quotas": {"sft": 8, "preference": 8, "test": 4}, "per_file": True}
    files = [
        [talk(f"Question {g}?", turns=2 + k + 2 * f) for g in range(20) for k in range(2)] for f in range(3)
    ]
    result = clean_rows(*files, split=split)
    groups = {name: {row["group"] for row in rows} for name, rows in result.splits.items()}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values()))
    for name, rows in result.splits.items():
        quota = split["quotas"][name]
        assert Counter(row["meta"]["file"] for row in rows) == {f"bio-{n}.json": quota for n in (1, 2, 3)}
    assert result.reasons == {("row", "over quota"): 60}


def test_groups_are_dealt_in_proportion_to_the_quotas():
    assert selecting.apportion(10, {"a": 200, "b": 200, "c": 150}) == {"a": 4, "b": 3, "c": 3}
    assert selecting.apportion(11, {"a": 200, "b": 200, "c": 150}) == {"a": 4, "b": 4, "c": 3}
    dealt = selecting.deal_groups(map(str, range(110)), {"a": 200, "b": 200, "c": 150}, 42)
    assert Counter(dealt.values()) == {"a": 40, "b": 40, "c": 30}


@pytest.mark.parametrize("quotas", [{"train": 1, "test": 1}, {"train": 0}])
def test_too_few_problems_for_the_splits_is_refused(clean_rows, quotas):
    with pytest.raises(PlumblineError, match=r"split 'train' got no conversation: 1 groups|every quota is 0"):
        clean_rows([talk()], split={"seed": 1, "quotas": quotas, "per_file": True})


def test_the_same_input_gives_the_same_bytes_and_another_seed_another_split(clean_rows, tmp_path):
    written = []
    rows = [talk(f"Question {g}?", turns=2 + k) for g in range(10) for k in range(2)]
    for seed in (42, 42, 43):
        clean_rows(rows, split={"seed": seed, "quotas": {"a": 50, "b": 50}, "per_file": False})
        written.append((tmp_path / "manifest.json").read_bytes())
    assert written[0] == written[1] != written[2]


def test_groups_held_out_for_another_dataset_are_rejected(clean_rows, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"group": "who?"}) + "\n")
    result = clean_rows([talk("Who?"), talk("How?")], exclude_groups_of=[str(tmp_path / "pairs.jsonl")])
    assert [row["group"] for row in result.kept] == ["how?"]
    assert result.reasons == {("row", "group held out for another dataset"): 1}


def pair(first=("a", "1"), second=("a", "2"), question="Why?"):
    row = talk(question)
    row["conversations"][3]["value"] = reply(*first)
    row["conversations"].append({"from": "gpt", "value": reply(*second)})
    return row


def test_a_perplexity_row_keeps_its_context_and_both_replies(clean_rows):
    rows = [pair(), pair(("c", "4"), ("c", "5"), "How?"), pair(("b", "3"), ("a", "2"), "Who?"), talk(), 3]
    result = clean_rows(rows, schema="tutorbot_pairs")
    first, second = result.splits["pairs"]
    assert first["messages"][-1] == {"role": "user", "content": "Answer 1."} and first["group"] == "why?"
    assert parse_reply(first["original"])[ACTION] == "1" and parse_reply(first["altered"])[ACTION] == "2"
    assert (second["meta"]["original_action"], second["meta"]["altered_action"]) == ("4", "5")
    assert result.reasons == {
        ("row", "actions are not 1 and 2 or 4 and 5"): 1,
        ("row", "roles do not alternate"): 1,
        ("row", "row is not an object"): 1,
    }


def test_a_perplexity_row_keeps_its_own_instructions_unless_given_others(clean_rows):
    (row,) = clean_rows([pair()], schema="tutorbot_pairs", system_prompt=None).splits["pairs"]
    assert row["messages"][0]["role"] == "user"
    assert row["messages"][0]["content"].startswith("Instructions to")
    (row,) = clean_rows([pair()], schema="tutorbot_pairs").splits["pairs"]
    assert [message["content"] for message in row["messages"][:2]] == ["You are a tutor.", "Q. Why?"]


def test_a_system_message_is_kept_in_every_kind_of_row_or_counted_where_ours_takes_its_place(clean_rows):
    own = {"from": "system", "value": "Own."}
    for schema, row in (("tutorbot", talk()), ("tutorbot_pairs", pair())):
        row["conversations"].insert(0, own)
        result = clean_rows([row], schema=schema, system_prompt=None)
        (kept,) = next(iter(result.splits.values()))
        assert kept["messages"][0] == {"role": "system", "content": "Own."}
        assert kept["messages"][1]["role"] == "user" and not result.manifest["notes"]
        result = clean_rows([row], schema=schema)
        (kept,) = next(iter(result.splits.values()))
        assert kept["messages"][0]["content"] == "You are a tutor."
        assert [message["role"] for message in kept["messages"]].count("system") == 1
        assert result.manifest["notes"] == {"system message replaced by system_prompt": 1}


def test_chat_rows_keep_their_own_system_message_unless_given_another(clean_rows):
    chat = [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi?"}]
    row = {"messages": [*chat, {"role": "assistant", "content": "Hello."}]}
    plain = {"schema": "messages", "min_messages": 2}
    (kept,) = clean_rows([row], lines=True, system_prompt=None, **plain).kept
    assert kept["messages"] == row["messages"] and kept["group"] == "hi?"
    (kept,) = clean_rows([row], lines=True, **plain).kept
    assert kept["messages"][0]["content"] == "You are a tutor."
    result = clean_rows([row, {"messages": [{"role": "system", "content": 3}]}], lines=True, **plain)
    assert result.reasons == {("row", "text is not a string"): 1}


def test_alpaca_rows_become_one_exchange(clean_rows):
    rows = [
        {"instruction": "Name it.", "input": "A cat.", "output": "Cat."},
        {"instruction": "Name a prime.", "input": "", "output": "Seven."},
        {"instruction": "Name a king.", "output": ""},
        {"instruction": 3, "output": "x"},
        {"instruction": "No answer."},
    ]
    result = clean_rows(rows, schema="alpaca", system_prompt=None, min_messages=2)
    asked = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in result.kept}
    assert asked == {"Name it.\n\nA cat.": "Cat.", "Name a prime.": "Seven."}
    assert {row["meta"]["input"] for row in result.kept} == {"A cat.", ""}
    assert result.manifest["counts"]["bio-1.json"]["rows"] == {"read": 5, "kept": 2, "rejected": 3}


def test_each_bad_line_is_one_rejection_that_names_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    huge = json.dumps({"conversations": "x" * 10_000_000})
    lines = [json.dumps(talk()), "", '{"a": ', huge, "[" * 4000, "9" * 4900, json.dumps(talk("Else?"))]
    path.write_text("\n".join(lines))
    result = clean_into(tmp_path, [path], TUTOR)
    assert [(entry["line"], entry["reason"]) for entry in result.rejected] == [
        (3, "not JSON"),
        (4, "longer than 5000 characters"),
        (5, "not JSON"),
        (6, "not JSON"),
    ]
    assert len(result.kept) == 2 and all(len(entry["detail"]) <= 200 for entry in result.rejected)


def test_a_ten_megabyte_value_in_an_array_is_one_rejected_turn(clean_rows):
    row = talk(turns=3)
    row["conversations"][4]["value"] = "x" * 10_000_000
    assert clean_rows([row]).reasons == {("turn", "longer than 5000 characters"): 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no rows"),
        (b" \n\n", "holds no rows"),
        (b"[]", "holds no rows"),
        (b'[{"id": 1},\n {"id": ]', r"raw.json:2:9: broken JSON array"),
        (b"[\n" * 100_000, r"raw.json:101: not readable as JSON \(nested too deeply\)"),
        (b'[\n"caf\xe9"]', r"raw.json:2: not UTF-8 \(.*byte 0xe9 at offset 6\)"),
        (b"\xff\xfe[\x00]\x00", "holds no rows"),
        (b'{"a": 1}\n' + "{}".encode("utf-16-le") * 9, "UTF-16 without a byte order mark|binary file"),
        (b"not json\nat all", r"nothing is left of .*not JSON \(2\)"),
        (b'{"other": 1}', "nothing is left.*missing field 'conversations'"),
    ],
    ids=[
        "empty",
        "blank",
        "no rows",
        "broken",
        "deep",
        "latin-1",
        "utf-16",
        "no mark",
        "prose",
        "other schema",
    ],
)
def test_an_unreadable_file_is_a_clear_error_without_a_traceback(tmp_path, monkeypatch, data, message):
    (tmp_path / "raw.json").write_bytes(data)
    flags = [
        "--inputs",
        tmp_path / "raw.json",
        "--output",
        tmp_path / "clean",
        "--manifest",
        tmp_path / "m.json",
    ]
    monkeypatch.setattr(sys, "argv", ["clean", *map(str, flags), "--settings", json.dumps(TUTOR)])
    with pytest.raises(SystemExit, match=message):
        run(clean.main)
    assert not (tmp_path / "clean").exists() and not (tmp_path / "m.json").exists()


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(PlumblineError, match="no such file"):
        clean_into(tmp_path, [tmp_path / "none.json"], TUTOR)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "raw.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([talk()]).encode())
    assert len(clean_into(tmp_path, [tmp_path / "raw.json"], TUTOR).kept) == 1


def test_an_account_that_does_not_add_up_is_never_written():
    ledger = clean.Ledger()
    ledger.rows_read["f"] = 1
    with pytest.raises(AssertionError, match="rows do not add up"):
        ledger.balance([])


# --- the settings of the other sources -------------------------------------------------------------------------------

PLAIN = {"schema": "alpaca", "system_prompt": None, "min_messages": 2}


def ask(instruction, output="So.", **more):
    return {"instruction": instruction, "input": "", "output": output} | more


def asked(rows):
    return [row["messages"][0]["content"] for row in rows]


def test_in_file_order_quotas_are_filled_as_the_rows_come(clean_rows):
    split = {"seed": 1, "quotas": {"train": 3, "test": 2, "validation": 5}, "order": "file"}
    rows = [ask(f"Q{n}?") for n in range(8)]
    result = clean_rows(rows, split=split, **PLAIN)
    assert {name: asked(found) for name, found in result.splits.items()} == {
        "train": ["Q0?", "Q1?", "Q2?"],
        "test": ["Q3?", "Q4?"],
        "validation": ["Q5?", "Q6?", "Q7?"],
    }


def test_in_file_order_duplicates_go_first_and_no_group_crosses_a_split(clean_rows):
    split = {"seed": 1, "quotas": {"train": 3, "test": 2}, "order": "file"}
    rows = [
        ask("A?"),
        ask("A?"),
        ask("B?"),
        ask("A?", "Else."),
        ask("b?", "Again."),
        ask("C?"),
        ask("D?"),
        ask("E?"),
    ]
    result = clean_rows(rows, split=split, **PLAIN)
    assert asked(result.splits["train"]) == ["A?", "B?", "A?"] and asked(result.splits["test"]) == [
        "C?",
        "D?",
    ]
    assert result.reasons == {
        ("row", "duplicate"): 1,
        ("row", "group is in another split"): 1,
        ("row", "over quota"): 1,
    }


def test_in_file_order_each_file_fills_its_own_quotas_if_they_count_per_file(clean_rows):
    split = {"quotas": {"train": 1, "test": 1}, "order": "file", "per_file": True}
    result = clean_rows([ask("A?"), ask("B?")], [ask("C?"), ask("B?", "Else.")], split=split, **PLAIN)
    assert asked(result.splits["train"]) == ["A?", "C?"] and asked(result.splits["test"]) == ["B?", "B?"]


def test_files_can_be_the_splits_and_a_group_stays_in_the_split_listed_first(clean_rows):
    by_file = {"train": ["bio-3.json", "bio-1.json"], "test": ["bio-2.json"]}
    files = [[ask("A?"), ask("B?")], [ask("b?", "Else."), ask("C?"), ask("D?")], [ask("C?"), ask("E?")]]
    result = clean_rows(*files, split={"by_file": by_file}, **PLAIN)
    assert sorted(asked(result.splits["train"])) == ["A?", "B?", "C?", "E?"]
    assert asked(result.splits["test"]) == ["D?"]
    lost = {(entry["file"], entry["reason"]) for entry in result.rejected}
    assert lost == {("bio-2.json", "group is in another split"), ("bio-2.json", "duplicate")}


def test_files_in_folders_can_be_the_splits_too(tmp_path):
    rows = {"a/rows.jsonl": "A?", "b/rows.jsonl": "B?", "b/more.jsonl": "C?", "rows.jsonl": "D?"}
    for name, question in rows.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
        path.write_text(json.dumps({"messages": said}) + "\n")
    by_file = {"train": ["a/rows.jsonl", "b/more.jsonl"], "test": ["rows.jsonl", "b/rows.jsonl"]}
    settings = cleaning(schema="messages", split={"by_file": by_file})
    inputs = [str(tmp_path / "files" / name) for name in rows]
    clean.clean_files(inputs, settings, str(tmp_path / "out"), str(tmp_path / "manifest.json"))
    splits = {split: read_jsonl(tmp_path / "out" / f"{split}.jsonl") for split in by_file}
    questions = {split: [row["messages"][0]["content"] for row in found] for split, found in splits.items()}
    assert questions == {"train": ["A?", "C?"], "test": ["D?", "B?"]}


def test_a_limit_cuts_every_split_and_counts_what_it_cuts(clean_rows):
    split = {"quotas": {"train": 3, "test": 1}, "order": "file", "limit": 2}
    result = clean_rows([ask("A?"), ask("B?"), ask("C?"), ask("D?")], split=split, **PLAIN)
    assert asked(result.splits["train"]) == ["A?", "B?"] and asked(result.splits["test"]) == ["D?"]
    assert result.reasons == {("row", "over limit"): 1}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by_file": {"train": ["bio-1.json"]}}, "name every file in exactly one split"),
        (
            {"by_file": {"train": ["bio-1.json", "bio-2.json"], "test": ["bio-2.json"]}},
            "in exactly one split",
        ),
        ({"by_file": {"train": ["bio-1.json"], "test": ["bio-2.json"]}}, "split 'test' got no conversation"),
        ({"quotas": {"train": 1}, "order": "backwards"}, "'backwards' is not one of shuffled, file"),
        ({"quotas": {"train": 5, "test": 1}, "order": "file"}, "split 'test' got no conversation"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(clean_rows, split, message):
    with pytest.raises(PlumblineError, match=message):
        clean_rows([ask("A?")], [ask("a?", "Else.")], split=split, **PLAIN)


def test_a_subset_is_the_first_rows_random_ones_or_those_of_a_length_ratio(clean_rows):
    # Words asked over words answered: 1/4, 2/4, 3/4, … 8/4.
    rows = [ask(" ".join(f"w{n}{k}" for k in range(n)), "one two three four") for n in range(1, 9)]

    def kept(**subset):
        result = clean_rows(rows, subset=subset, split={"order": "file"}, **PLAIN)
        assert result.reasons == {("row", "outside the subset"): len(rows) - 3}
        return [len(text.split()) for text in asked(result.kept)]

    assert kept(rows=3, by="first") == [1, 2, 3]
    assert kept(rows=3, by="length_ratio", ratio=1.25) == [4, 5, 6]
    assert (
        kept(rows=3, by="random", seed=1)
        == kept(rows=3, by="random", seed=1)
        != kept(rows=3, by="random", seed=2)
    )
    with pytest.raises(PlumblineError, match="'last' is not one of first, random, length_ratio"):
        kept(rows=3, by="last")


def test_a_refused_phrase_rejects_its_row_in_any_case_but_not_for_our_own_system_prompt(clean_rows):
    rows = [ask("Who are you?", "I am CHATBOT-3."), ask("How?"), ask("Chatbot-3, who?")]
    rules = PLAIN | {"reject_phrases": ["ChatBot-3"], "system_prompt": "You are ChatBot-3."}
    result = clean_rows(rows, **rules)
    assert [row["messages"][1]["content"] for row in result.kept] == ["How?"]
    assert result.reasons == {("row", "refused phrase"): 2}
    own = {"messages": [{"role": "system", "content": "Be ChatBot-3."}, *result.kept[0]["messages"][1:]]}
    rules = {"schema": "messages", "system_prompt": None, "min_messages": 2, "reject_phrases": ["ChatBot-3"]}
    assert clean_rows([own, {"messages": own["messages"][1:]}], **rules).reasons == {
        ("row", "refused phrase"): 1
    }


def test_a_message_of_too_many_words_rejects_its_row(clean_rows):
    rows = [ask("A b c?"), ask("A b c d?"), ask("Why?", "A b c d.")]
    result = clean_rows(rows, max_words=3, **PLAIN)
    assert asked(result.kept) == ["A b c?"] and result.reasons == {("row", "longer than 3 words"): 2}


def test_web_addresses_are_replaced_and_counted(clean_rows):
    row = ask("See (https://a.b/c?d=1) and www.e.org.", "Go to http://f.g/h_(i)?")
    result = clean_rows([row], url_token=r"\1", **PLAIN)
    (kept,) = result.kept
    assert kept["messages"][0]["content"] == r"See (\1) and \1"
    assert kept["messages"][1]["content"] == r"Go to \1(i)?"
    assert kept["meta"]["instruction"] == kept["messages"][0]["content"]
    assert result.manifest["notes"] == {"web addresses replaced": 3}


def test_an_address_in_a_structured_reply_leaves_it_a_reply(clean_rows):
    row = talk()
    row["conversations"][3]["value"] = reply(Tutorbot="Look at https://a.b/c")
    (kept,) = clean_rows([row], url_token="<url>").kept
    assert parse_reply(kept["messages"][4]["content"])["Tutorbot"] == "Look at <url>"


def ranked(prompt, good="Yes.", bad="No.", **more):
    prefix = [f"<|prompter|>{prompt}", "<|assistant|>"]
    return {"prefix": [prefix, prefix], "suffix": [good, bad], "reward": [1.5, -0.5]} | more


HH = {"schema": "hh", "system_prompt": None, "min_messages": 2}


def test_a_ranked_row_keeps_its_candidates_and_is_told_apart_by_them(clean_rows):
    rows = [
        ranked("Why?"),
        ranked("Why?"),
        ranked("Why?", bad="Perhaps."),
        ranked("How?", reward=[1.0, float("nan")]),
    ]
    result = clean_rows(rows, **HH)
    assert len(result.kept) == 2 and {row["group"] for row in result.kept} == {"why?"}
    first = next(row for row in result.kept if row["id"] == "1:row_0")
    assert first["messages"] == [{"role": "user", "content": "Why?"}]
    assert first["candidates"] == [
        {"content": "Yes.", "rewards": {"rm": 1.5}},
        {"content": "No.", "rewards": {"rm": -0.5}},
    ]
    assert result.reasons == {("row", "duplicate"): 1, ("row", "reward is not a finite number"): 1}
    assert result.manifest["splits"]["train"]["turns"] == 6


def test_the_question_of_a_ranked_row_is_its_whole_prompt_and_its_problem_the_first_message(clean_rows):
    row = ranked("Q. Why? Facts: one.<|assistant|>Guess.<|prompter|>Because?")
    (kept,) = clean_rows([row], group_by="question", **HH).kept
    assert kept["group"] == "q. why? facts: one. guess. because?"
    (kept,) = clean_rows([row], group_by="problem", **HH).kept
    assert kept["group"] == "why?"


def test_the_rules_on_words_hold_for_candidates_too(clean_rows):
    rows = [
        ranked("A?", bad="See https://a.b"),
        ranked("B?", bad="No, fool."),
        ranked("C?", good="One two three."),
    ]
    result = clean_rows(rows, url_token="<url>", reject_phrases=["fool"], max_words=2, **HH)
    assert [row["candidates"][1]["content"] for row in result.kept] == ["See <url>"]
    assert result.reasons == {("row", "refused phrase"): 1, ("row", "longer than 2 words"): 1}


def test_knowledge_stays_behind_our_system_prompt(clean_rows):
    eos = "<|endoftext|>"
    row = {
        "id": 3,
        "prompt_or_input_text": f"Knowledge: Cats purr.{eos}Do cats purr?{eos}",
        "references": f"They do.{eos}",
        "meta_data": {"file": "theirs"},
        "reward_components": {"faithdial": 0.9, "final_reward": 0.9},
    }
    rules = {"schema": "rewarded", "min_messages": 2, "system_prompt": "Be kind."}
    (kept,) = clean_rows([row], **rules).kept
    assert kept["messages"][0]["content"] == "Be kind.\n\nKnowledge: Cats purr."
    assert kept["id"] == "1:3" and kept["candidates"] == [
        {"content": "They do.", "rewards": {"faithdial": 0.9}}
    ]
    assert kept["meta"]["knowledge"] == "Cats purr." and kept["meta"]["file"] == "bio-1.json"


def tree(name, *replies):
    replies = [{"role": "assistant", "text": text, "replies": []} for text in replies]
    return {"message_tree_id": name, "prompt": {"role": "prompter", "text": f"{name}?", "replies": replies}}


@pytest.mark.parametrize(
    ("group_by", "groups"), [("conversation", {"1:t", "1:u"}), ("question", {"t?", "u?"})]
)
def test_the_paths_of_a_tree_are_rows_of_one_group(clean_rows, group_by, groups):
    rules = {"schema": "oasst1", "system_prompt": None, "min_messages": 2, "group_by": group_by}
    result = clean_rows([tree("t", "A", "B", ""), tree("u", "C")], split={"order": "file"}, **rules)
    assert [row["id"] for row in result.kept] == ["1:t/0", "1:t/1", "1:u/0"]
    assert {row["group"] for row in result.kept} == groups
    assert result.manifest["counts"]["bio-1.json"]["rows"] == {"read": 4, "kept": 3, "rejected": 1}
    assert result.manifest["notes"] == {"rows that hold several conversations": 2}
    assert {entry.get("part") for entry in result.rejected} == {2}


def test_a_file_that_is_one_object_over_several_lines_is_one_row(tmp_path):
    task = {
        "Definition": ["Add."],
        "Instances": [{"input": f"{n}+1", "output": [f"{n + 1}"]} for n in range(3)],
    }
    (tmp_path / "task.json").write_text(json.dumps(task, indent=1))
    rules = TUTOR | {
        "schema": "super_ni",
        "system_prompt": None,
        "min_messages": 2,
        "split": {"order": "file"},
    }
    result = clean_into(tmp_path, [tmp_path / "task.json"], rules)
    assert [row["id"] for row in result.kept] == ["1:row_0/0", "1:row_0/1", "1:row_0/2"]


def test_an_unknown_schema_is_refused_with_those_there_are(clean_rows):
    with pytest.raises(PlumblineError, match=r"'excel' is not one of tutorbot, .*alpaca_preferences"):
        clean_rows([talk()], schema="excel")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
replies = st.builds(
    reply,
    st.sampled_from(["a", "g", "N/A", "q", None, 3]),
    st.sampled_from(["1", "12", "N/A", 4, "99", True]),
    st.sampled_from(["w", "x", "N/A", ""]),
)
any_turn = st.fixed_dictionaries(
    {},
    optional={
        "from": st.sampled_from(["human", "gpt", "system"]) | anything,
        "value": replies | st.text(max_size=30) | anything,
    },
)


@st.composite
def damaged_rows(draw, schema):
    """A good row of a schema with up to two of its turns or fields replaced."""
    row = json.loads(json.dumps(draw(st.sampled_from(GOOD[schema]))))
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(sorted(row)))
        if isinstance(row[key], list) and row[key] and draw(st.booleans()):
            row[key][draw(st.integers(0, len(row[key]) - 1))] = draw(any_turn | anything)
        else:
            row[key] = draw(anything)
    return row


UNLIKE = {schema.read: name for name, schema in SCHEMAS.items()}.values()


# Of schemas that share a function one is tried.
@pytest.mark.parametrize("schema", ["tutorbot", *UNLIKE])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), lines=st.booleans())
def test_whatever_comes_in_is_kept_or_rejected_or_a_clear_error(tmp_path_factory, schema, data, lines):
    row = damaged_rows(schema) | st.fixed_dictionaries({"conversations": st.lists(any_turn, max_size=6)})
    rows = data.draw(st.lists(row | anything, min_size=1, max_size=6))
    folder = tmp_path_factory.mktemp("fuzz")
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
    (folder / "raw.json").write_text(text)
    try:
        rules = {"schema": schema, "min_messages": 2, "url_token": "<url>", "max_words": 50}
        result = clean_into(folder, [folder / "raw.json"], TUTOR | rules)
    except PlumblineError:
        return
    (counts,) = result.manifest["counts"].values()
    dropped = sum(entry["level"] == "row" for entry in result.rejected)
    assert counts["rows"] == {
        "read": len(result.kept) + dropped,
        "kept": len(result.kept),
        "rejected": dropped,
    }
    last = {"conversation": "assistant", "text": "text"}.get(SCHEMAS[schema].kind, "user")
    assert all(row["messages"][-1]["role"] == last for row in result.kept)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(min_size=1, max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_at_all_end_in_a_clear_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "raw.json").write_bytes(data)
    with pytest.raises(PlumblineError):
        clean_into(folder, [folder / "raw.json"], TUTOR)


# --- keys ------------------------------------------------------------------------------------------------------------

CHAT = {"schema": "messages", "system_prompt": None, "min_messages": 2, "truncate_at_unparsable": True}


def chat(*texts, **more):
    names = ("user", "assistant")
    return {"messages": [{"role": names[n % 2], "content": text} for n, text in enumerate(texts)]} | more


def test_duplicates_and_empty_replies_are_kept_where_it_is_asked_and_counted(clean_rows):
    rows = [
        chat("A?", "So."),
        chat("A?", "So."),
        chat("B?", ""),
        chat("C?", " ", "And?", "Then."),
        chat("", "So."),
    ]
    kept = clean_rows(rows, **CHAT)
    assert asked(kept.kept) == ["A?"]
    asked_for = CHAT | {"duplicates": "keep", "empty_replies": "keep", "group_by": "conversation"}
    result = clean_rows(rows, split={"order": "file"}, **asked_for)
    assert asked(result.kept) == ["A?", "A?", "B?", "C?"]
    assert [message["content"] for message in result.kept[3]["messages"]] == ["C?", " ", "And?", "Then."]
    assert result.manifest["notes"] == {
        "duplicates kept": 1,
        "empty replies kept, which teach the end token alone": 2,
    }
    assert result.reasons[("turn", "empty message")] == 1  # the user's


def test_an_empty_reply_that_is_context_is_not_counted_as_one_that_teaches(clean_rows):
    row = chat("A?", "", "And?", "So.")
    row["messages"][1]["weight"] = 0
    assert clean_rows([row], **CHAT | {"empty_replies": "keep"}).manifest["notes"] == {}


def test_a_key_nobody_reads_is_counted_by_rows_and_told_on_the_console(clean_rows, capsys):
    rows = [
        chat("A?", "So.", tools="[]", source="web"),
        chat("B?", "So.", source="web"),
        chat("C?", "So.", source=""),
    ]
    rows[0]["messages"][0] |= {"name": "Ann", "tool_calls": None}
    rows[0]["messages"][1] |= {"name": "Bot"}
    result = clean_rows(rows, **CHAT)
    assert result.manifest["notes"] == {
        "key not read: source": 2,
        "key not read: tools": 1,
        "key not read: turn.name": 1,
    }
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "rows: 3 read, 3 kept, 0 rejected",
        "turns: 6 read, 6 kept, 0 rejected",
        "keys not read: source (in 2 rows), tools (in 1 row), turn.name (in 1 row)",
    ]


def test_the_console_tells_all_that_the_manifest_counts(clean_rows, capsys):
    rows = [ask("See www.a.b"), ask("See www.a.b"), ask("Why?", "")]
    result = clean_rows(rows, url_token="<url>", **PLAIN)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "rows: 3 read, 1 kept, 2 rejected, duplicate (1), fewer than 2 messages (1)"
    assert told[1].startswith("turns: 6 read, 2 kept, 4 rejected; conversations cut: ")
    assert told[2] == f"notes: web addresses replaced ({result.manifest['notes']['web addresses replaced']})"


def test_keys_of_every_row_s_own_do_not_swell_the_account(clean_rows):
    rows = [chat(f"Q{n}?", "So.", **{f"key {n}" * 30: 1, "\ud800": 2}) for n in range(60)]
    notes = clean_rows(rows, **CHAT).manifest["notes"]
    assert len(notes) == 41 and notes["key not read: \\ud800"] == 60 and notes["key not read: 21 others"] == 1
    assert max(map(len, notes)) < 120


@pytest.mark.parametrize(
    "turn",
    [
        {"tool_calls": [{"id": "1"}]},
        {"function_call": {"name": "weather"}},
        {"content": None, "tool_calls": [{"id": "1"}]},
        {"content": [{"type": "text", "text": "Let me see."}, {"type": "tool_use", "name": "weather"}]},
        {"role": "tool", "tool_call_id": "1"},
        {"role": "function"},
        {"role": "observation"},
    ],
)
def test_a_row_that_calls_a_tool_is_rejected_whole_and_never_cut(clean_rows, turn):
    row = chat("A?", "So.", "How warm is it?", "Let me look that up.", "And?", "It is 21.")
    row["messages"][3] |= turn
    for truncate in (True, False):
        result = clean_rows([row, chat("B?", "So.")], **CHAT | {"truncate_at_unparsable": truncate})
        assert asked(result.kept) == ["B?"] and result.reasons == {("row", "calls a tool"): 1}


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False}]
)
def test_a_turn_of_no_weight_stays_as_context_that_is_not_learned(clean_rows, mark):
    row = chat("A?", "Wrong.", "Sure?", "Right.")
    row["messages"][1] |= mark
    row["messages"][3] |= {key: 1 for key in mark}
    result = clean_rows([row], **CHAT)
    (kept,) = result.kept
    assert [said.get("learn", True) for said in kept["messages"]] == [True, False, True, True]
    if "weight" in mark:
        assert result.manifest["notes"] == {}


def test_a_weight_between_is_refused_and_a_row_of_none_has_nothing_to_teach(clean_rows):
    half, none = chat("A?", "So."), chat("B?", "So.")
    half["messages"][1]["weight"] = 0.5
    none["messages"][1]["weight"] = 0
    result = clean_rows([half, none, chat("C?", "So.")], **CHAT)
    assert result.reasons[("turn", "weight is neither 0 nor 1")] == 1
    assert result.reasons[("row", "no turn to learn from")] == 1 and asked(result.kept) == ["C?"]


def test_labelled_answers_to_one_prompt_name_it_and_stay_on_one_side(clean_rows):
    rows = [{"prompt": f"Q{n % 3}?", "completion": f"A{n}.", "label": n % 2 == 0} for n in range(12)]
    rules = {"schema": "labelled", "system_prompt": None, "min_messages": 2, "group_by": "conversation"}
    result = clean_rows(rows, split={"quotas": {"train": 50, "test": 50}}, **rules)
    prompts = {name: {row["meta"]["prompt"] for row in found} for name, found in result.splits.items()}
    assert len(result.kept) == 12 and prompts["train"].isdisjoint(prompts["test"])
    assert set().union(*prompts.values()) == {"1:row_0", "1:row_1", "1:row_2"}


def test_shuffled_rows_are_dealt_alike_whatever_the_order_of_the_quotas(clean_rows):
    quotas = {"train": 4, "test": 2, "more": 3}
    rows = [ask(f"{letter}?") for letter in "ABCDEFGHIJK"]
    one = clean_rows(rows, split={"quotas": quotas}, **PLAIN)
    other = clean_rows(rows, split={"quotas": dict(sorted(quotas.items()))}, **PLAIN)
    assert {split: asked(one.splits[split]) for split in quotas} == {
        split: asked(other.splits[split]) for split in quotas
    }
