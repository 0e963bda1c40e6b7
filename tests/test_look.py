"""A look at data before there is a study: what is in it, what becomes of it, what a model learns; lines that paste."""

import json

import pytest
import yaml

from tests.tiny_model import make_tiny_model
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.look import look
from workflow_scripts.look.look import columns_in, flow, histogram
from workflow_scripts.look.tokens import Speech
from workflow_scripts.study.checking import examine
from workflow_scripts.study.templates import bundled_templates

ROWS = "id,question,answer\n" + "".join(f"{n},What is {n}?,It is {n}.\n" for n in range(20)) + "20,Why?,\n"


def told(capsys, *flags: str) -> str:
    look.main(list(flags))
    return capsys.readouterr().out


def test_a_look_says_columns_shape_losses_lengths_and_first_rows(tmp_path, capsys):
    (tmp_path / "qa.csv").write_text(ROWS)
    text = told(capsys, "--data", str(tmp_path / "qa.csv"), "--columns", "prompt=question,completion=answer")
    for words in (
        "columns: id (text), question (text), answer (text)",
        "prompt_completion (prompt: question, completion: answer), 21 rows in",
        "kept: 20 rows; rejected, or cut: 2",
        "1 × empty message (first: line 22)",
        "4 to 7       ######################################## 20",
        "half have at most 6 words",
        "[user] What is 0?\n[assistant] It is 0.",
    ):
        assert words in text, text


def test_what_is_to_be_pasted_is_a_dataset_of_a_study(tmp_path, capsys):
    (tmp_path / "q a.csv").write_text(ROWS)
    text = told(capsys, "--data", f"{tmp_path}/q a.csv", "--columns", "prompt=question,completion=answer")
    pasted = yaml.safe_load(text.partition("in a study:\n")[2])
    pasted["datasets"]["data"].pop("split")
    config = {
        "study": "pasted",
        "sources": {"weights": {"places": [{"hf": {"repo": "a/b", "revision": "0" * 40}}]}},
        "models": {"tiny": {"source": "weights", "template": "plain", "context": 128}},
    }
    found = examine(config | pasted, folder=tmp_path)
    assert found.wrong == [] and found.study.datasets["data"].data_schema == "prompt_completion"


def test_a_look_at_what_fits_no_shape_says_what_would_help(tmp_path):
    (tmp_path / "qa.csv").write_text(ROWS)
    with pytest.raises(PlumblineError, match=r"perhaps columns: \{prompt: question, completion: answer\}"):
        look.main(["--data", str(tmp_path / "qa.csv")])
    with pytest.raises(PlumblineError, match="no such file or folder"):
        look.main(["--data", str(tmp_path / "none.csv")])


def test_of_a_large_file_the_first_rows_are_looked_at_and_that_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(look, "LARGE", 100)
    monkeypatch.setattr(look, "FIRST", 5)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Why {n}?", "completion": "So."}) + "\n" for n in range(50))
    )
    text = told(capsys, "--data", str(tmp_path / "rows.jsonl"))
    assert "large; looked at are its first 5 rows" in text and "kept: 5 rows" in text


def test_both_answers_of_a_preference_are_shown(tmp_path, capsys):
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    text = told(capsys, "--data", str(tmp_path / "rows.jsonl"))
    assert "[user] Why?\n[answer 1] So.\n[answer 2] No." in text


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    return Speech(load_tokenizer(folder), bundled_templates()["vicuna"], 64)


SAID = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def test_what_a_fine_tuning_learns_is_marked_and_nothing_else(speech):
    marked = speech.marked({"messages": SAID})
    learned = marked.partition("«")[2].partition("»")[0]
    assert learned.strip() == "So.</s>" and "Why?" in marked.partition("«")[0] and marked.count("«") == 1
    ranked = {"messages": SAID[:1], "candidates": [{"content": "So."}, {"content": "No."}]}
    assert speech.marked(ranked) == marked
    assert speech.marked({"text": "So it is."}) == "«So it is.»"
    assert speech.length({"messages": SAID}) == len(speech.tokens({"messages": SAID}).input_ids)


def test_a_histogram_has_a_bar_for_each_doubling():
    lines = histogram([1, 2, 3, 3, 100], "words")
    assert [line.split()[0] + " " + line.split()[-1] for line in lines[:3]] == ["1 1", "2 3", "64 1"]
    assert lines[-1] == "  half have at most 3 words, 95 % at most 100, the longest 100"


@pytest.mark.parametrize(
    "value", ["a b", "no", "x: y", "#", "1", "", "-", "{a}", "[x", "a,b", "é'\"", "true"]
)
def test_a_value_on_one_line_is_the_same_in_yaml(value):
    for whole in (value, {"a": value, "b": [1.5, value]}):
        assert yaml.safe_load(flow(whole)) == whole


def test_columns_are_pairs():
    assert columns_in("prompt=question, completion=a b") == {"prompt": "question", "completion": "a b"}
    with pytest.raises(PlumblineError, match="COLUMNS=prompt: write COLUMNS=prompt=question"):
        columns_in("prompt")
