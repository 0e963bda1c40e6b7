"""CLASS's tables: a problem becomes a question and its steps, a mock dialogue a dialogue, and all else is told."""

import csv
import json

import pytest

from tests.cleaning import cleaned_files
from tests.good_rows import CLASS, PROBLEM, REPLY, STEP
from workflow_scripts.common.errors import PlumblineError


def write_table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def problem_row(number, **changed):
    problem = {
        "Problem": f"Why {number}?",
        **{key: PROBLEM[key] for key in ("Facts", "SubProblems", "Solution")},
    }
    return CLASS | {"problems": json.dumps(problem | changed, indent=4)}


def cleaned_table(folder, rows, schema):
    path = write_table(folder / "problems.csv", rows)
    return cleaned_files(folder, path, schema=schema, group_by="conversation", split={"order": "file"})


def test_a_problem_is_asked_and_its_steps_are_the_reply_as_json_in_the_rows_own_order(tmp_path):
    manifest, files = cleaned_table(tmp_path, [problem_row(0)], "class_problems")
    (row,) = files["train"]
    assert [message["content"] for message in row["messages"]] == [
        "Why 0?",
        json.dumps({key: PROBLEM[key] for key in ("Facts", "SubProblems", "Solution")}, indent=4),
    ]
    assert row["id"] == "1:identity_1000"
    assert {key: row["meta"][key] for key in CLASS} == CLASS | {"section_learning_objs": "Name them."}
    assert manifest["notes"] == {}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ('{"Problem": "Why?" "Facts": []}', "problem is not JSON"),
        ("[" * 5000, "problem is not JSON"),
        ("[]", "problem is not an object"),
        (json.dumps({"Problem": "Why?", "Facts": [], "Solution": "So."}), "missing field 'SubProblems'"),
        (json.dumps(PROBLEM | {"SubProblems": [STEP, 3]}), "'SubProblems' is not a list of steps"),
        (json.dumps(PROBLEM | {"SubProblems": []}), "'SubProblems' is not a list of steps"),
        (json.dumps(PROBLEM | {"SubProblems": [{"Question": "Why?"}]}), "missing field 'Answer'"),
        (json.dumps(PROBLEM | {"Facts": [1]}), "text is not a string"),
        (json.dumps(PROBLEM | {"Solution": None}), "text is not a string"),
        ("", "problem is not JSON"),
    ],
)
def test_a_problem_that_cannot_be_read_is_rejected_with_its_reason_and_its_line(tmp_path, cell, reason):
    rows = [problem_row(0), CLASS | {"problems": cell}, problem_row(2)]
    manifest, files = cleaned_table(tmp_path, rows, "class_problems")
    assert [row["id"] for row in files["train"]] == ["1:identity_1000", "1:identity_1002"]
    (entry,) = files["rejected"]
    line = 2 + sum(row.count("\n") + 1 for row in [rows[0]["problems"] + rows[0]["section_learning_objs"]])
    assert (entry["reason"], entry["index"], entry["line"]) == (reason, 1, line)
    assert manifest["rejected"] == {f"row: {reason}": {"entries": 1, "turns": 0}}


def test_the_other_spelling_of_the_steps_is_read_and_counted_and_other_keys_are_told(tmp_path):
    odd = json.loads(problem_row(0)["problems"])
    odd["Subproblems"] = odd.pop("SubProblems")
    odd["Level"] = "hard"
    odd["Subproblems"][0] = STEP | {"Time": "1 min"}
    rows = [CLASS | {"problems": json.dumps(odd)}, problem_row(1)]
    manifest, files = cleaned_table(tmp_path, rows, "class_problems")
    assert "SubProblems" in json.loads(files["train"][0]["messages"][1]["content"])
    assert manifest["notes"] == {
        "'Subproblems' read as 'SubProblems'": 1,
        "key not read: problems.Level": 1,
        "key not read: problems.Subproblems.Time": 1,
    }


def dialogue_row(number, write=json.dumps, **changed):
    said = [{"Student": f"Q. Why {number}?"} | json.loads(REPLY), {"Student": "Hm."} | json.loads(REPLY)]
    return problem_row(number) | {"conversation": write(said)} | changed


def test_a_mock_dialogue_is_read_whether_it_is_json_or_python(tmp_path):
    rows = [dialogue_row(0), dialogue_row(1, write=str)]
    manifest, files = cleaned_table(tmp_path, rows, "class_dialogues")
    assert [row["id"] for row in files["train"]] == ["1:identity_0", "1:identity_1"]
    for number, row in enumerate(files["train"]):
        said = [message["content"] for message in row["messages"]]
        assert said[::2] == [f"Q. Why {number}?", "Hm."] and json.loads(said[1]) == json.loads(REPLY)
    assert manifest["notes"] == {}


def test_a_dialogue_that_does_not_say_its_problem_is_given_it(tmp_path):
    said = [{"Student": "Help me."} | json.loads(REPLY), {"Student": "Hm."} | json.loads(REPLY)]
    manifest, files = cleaned_table(
        tmp_path, [dialogue_row(0, conversation=json.dumps(said))], "class_dialogues"
    )
    assert files["train"][0]["messages"][0]["content"] == "Q. Why 0?\n\nHelp me."
    assert manifest["notes"] == {"problem put before the student's first words": 1}


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ("[{}]", "missing field 'Student'"),
        ("{}", "'conversation' holds no list"),
        ("[3]", "turn is not an object"),
        ("I am sorry.", "'conversation' holds no list"),
    ],
)
def test_a_dialogue_that_was_never_written_is_rejected_with_its_reason(tmp_path, conversation, reason):
    rows = [dialogue_row(0), dialogue_row(1, conversation=conversation)]
    manifest, _ = cleaned_table(tmp_path, rows, "class_dialogues")
    assert manifest["rejected"] == {f"row: {reason}": {"entries": 1, "turns": 0}}


def test_a_table_without_the_column_says_so(tmp_path):
    with pytest.raises(PlumblineError, match="missing field 'problems'"):
        cleaned_table(tmp_path, [CLASS], "class_problems")
