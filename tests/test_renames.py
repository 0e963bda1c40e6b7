"""Columns that files call otherwise than a schema does are read under the schema's names."""

import json

import pytest

from tests.cleaning import cleaned_files
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.clean.reading import RawRow
from workflow_scripts.clean.rows import renamed
from workflow_scripts.plan import cleaning
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.study.checking import examine
from workflow_scripts.study.reading import read_yaml

ROWS = [
    {"id": "a", "question": "What is a leaf?", "answers": {"text": ["An organ.", "A blade."], "at": [3]}},
    {"id": "b", "question": "What is a root?", "answers": {"text": ["Another organ."]}},
]


def read(tmp_path, rows, **rules):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cleaned_files(tmp_path, file, schema="prompt_completion", **rules)


def row_of(**value):
    return RawRow(0, 1, value, None)


def test_columns_are_read_under_the_names_that_the_schema_has_nested_ones_by_dots(tmp_path):
    names = {"prompt": "question", "completion": "answers.text.0"}
    manifest, written = read(tmp_path, ROWS, renames=names)
    said = [[message["content"] for message in row["messages"]] for row in written["train"]]
    assert sorted(said) == [["What is a leaf?", "An organ."], ["What is a root?", "Another organ."]]
    assert sorted(row["id"] for row in written["train"]) == ["1:a", "1:b"]
    # What of the object is not read is counted, and only that.
    assert manifest["notes"] == {"key not read: answers": 1}


def test_the_renamed_column_wins_and_the_other_counts_as_not_read(tmp_path):
    rows = [{"prompt": "not this", "question": "this?", "completion": "Yes."}]
    manifest, written = read(tmp_path, rows, renames={"prompt": "question"})
    assert written["train"][0]["messages"][0]["content"] == "this?"
    assert manifest["notes"] == {"key not read: prompt": 1}


def test_a_column_that_is_not_there_is_a_mistake_of_the_row_with_its_name(tmp_path):
    rows = [*ROWS, {"id": "c", "answers": {"text": ["No question."]}}]
    manifest, written = read(tmp_path, rows, renames={"prompt": "question", "completion": "answers.text.0"})
    assert manifest["rejected"] == {"row: missing column 'question'": {"entries": 1, "turns": 0}}
    assert written["rejected"][0]["detail"] == "columns: {prompt: question}"


@pytest.mark.parametrize(
    ("value", "names", "found"),
    [
        ({"a": 1, "b": 2}, {"a": "b", "b": "a"}, {"a": 2, "b": 1}),  # two change places
        ({"x.y": 1, "x": {"y": 2}}, {"a": "x.y"}, {"a": 1, "x": {"y": 2}}),  # a column called so whole
        ({"x": {"y": 1, "z": 2}}, {"a": "x.y"}, {"a": 1, "x": {"z": 2}}),
        ({"x": {"y": 1, "z": 2}}, {"a": "x.y", "b": "x.z"}, {"a": 1, "b": 2}),
        ({"x": 1}, {"a": "x", "b": "x"}, {"a": 1, "b": 1}),
    ],
)
def test_names_are_looked_up_in_the_row_as_it_came(value, names, found):
    before = json.dumps(value)
    row = renamed(row_of(**value), names)
    assert (row.value, row.fault, row.unread) == (found, None, frozenset())
    assert json.dumps(value) == before


@pytest.mark.parametrize("name", ["x.y.z", "x.9", "x.list.2", "none", ""])
def test_a_name_that_leads_nowhere_is_a_fault(name):
    row = renamed(row_of(x={"y": 1, "list": [1, 2]}), {"a": name})
    assert row.fault.reason == f"missing column '{name}'"


def test_a_label_that_a_table_of_text_calls_otherwise_is_a_truth():
    row = row_of(prompt="Why?", completion="So.", good="False")
    assert renamed(row, {"label": "good"}).value["label"] is False
    assert renamed(row_of(good="yes"), {"label": "good"}).value["label"] == "yes"
    assert renamed(row_of(a="true"), {"completion": "a"}).value["completion"] == "true"


def test_a_study_hands_over_names_of_columns_and_columns_of_files_apart():
    study = read_yaml(ROOT / "tests/tutoring.yaml")
    file = study["datasets"]["tutor"]["files"][0]
    columns = {"conversations": "talk", file: ["talk", "id"]}
    plan = plan_of(examine(put(study, "datasets.tutor.columns", columns)).study)
    handed = json.loads(cleaning.dataset_settings(plan, "tutor"))
    assert (handed["renames"], handed["columns"]) == ({"conversations": "talk"}, {file: ["talk", "id"]})
    wrong = examine(put(study, "datasets.tutor.columns", {"no.csv": ["talk"]})).wrong
    assert any("'no.csv'" in line for line in wrong), wrong
