"""A look at data before there is a study: what is in it, what becomes of it, what a model learns; lines that paste."""

import json

import pytest
import yaml
from huggingface_hub import constants

from tests.hub_server import ask_at, hub_server
from tests.tiny_model import make_tiny_model
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.look import look, new
from workflow_scripts.look.look import columns_in, flow, histogram
from workflow_scripts.look.tokens import Speech
from workflow_scripts.study.checking import examine
from workflow_scripts.study.settling import lock
from workflow_scripts.study.settling.lock import JOB
from workflow_scripts.study.templates import bundled_templates

ROWS = "id,question,answer\n" + "".join(f"{n},What is {n}?,It is {n}.\n" for n in range(20)) + "20,Why?,\n"


@pytest.fixture(autouse=True)
def asked_by_hand(monkeypatch):
    monkeypatch.delenv(JOB, raising=False)


def told(capsys, *flags: str) -> str:
    look.main(list(flags))
    return capsys.readouterr().out


def test_a_look_says_columns_shape_losses_lengths_and_first_rows(tmp_path, capsys):
    (tmp_path / "qa.csv").write_text(ROWS)
    text = told(capsys, "--data", str(tmp_path / "qa.csv"), "--columns", "prompt=question,completion=answer")
    for words in (
        "columns: id (text), question (text), answer (text)",
        "prompt_completion (prompt: question, completion: answer), 21 rows in",
        "kept: 20 rows; rejected: 1",
        "1 × empty message (a turn; first: line 22)",
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
    (tmp_path / "qa.csv").write_text(ROWS.replace("question", "asked of us", 1))
    with pytest.raises(PlumblineError, match=r"columns: \{prompt: QUESTION, completion: ANSWER\}"):
        look.main(["--data", str(tmp_path / "qa.csv")])
    with pytest.raises(PlumblineError, match="no such file or folder"):
        look.main(["--data", str(tmp_path / "none.csv")])


def test_columns_that_are_called_otherwise_are_taken_for_what_they_usually_mean_and_that_is_said(
    tmp_path, capsys
):
    (tmp_path / "qa.csv").write_text(ROWS)
    text = told(capsys, "--data", str(tmp_path / "qa.csv"))
    assert (
        "taken by their names: the columns question for the prompt, answer for the completion; COLUMNS=…"
        in text
    )
    pasted = yaml.safe_load(text.partition("in a study:\n")[2])
    assert pasted["datasets"]["data"]["columns"] == {"prompt": "question", "completion": "answer"}


def test_of_a_large_file_the_first_rows_are_looked_at_and_that_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(look, "LARGE", 100)
    monkeypatch.setattr(look, "FIRST", 5)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Why {n}?", "completion": "So."}) + "\n" for n in range(50))
    )
    text = told(capsys, "--data", str(tmp_path / "rows.jsonl"))
    assert "large; looked at are its first 5 rows" in text and "kept: 5 rows" in text


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(lock, "ROOT", tmp_path / "repository")
    files = {
        "train-0.csv": "".join(["question,answer\n", *(f"What is {n}?,It is {n}.\n" for n in range(90))]),
        "train-1.csv": "question,answer\nWhat is two?,It is 2.\nWhat is three?,It is 3.\n",
        "test.csv": "question,answer\nWhy?,So.\n",
    }
    with hub_server() as hub:
        ask_at(hub.url, monkeypatch)
        hub.put("datasets/own/qa", {name: text.encode() for name, text in files.items()})
        yield hub


def test_of_a_hub_the_smallest_file_of_the_split_is_looked_at_and_that_is_said(hub, capsys):
    asked = ("--data", "own/qa", "--columns", "prompt=question,completion=answer")
    text = told(capsys, *asked, "--hf-split", "train")
    for words in (
        "prompt_completion (prompt: question, completion: answer)",
        "looked at is the smallest of 2 files of the split: train-1.csv",
        "kept: 2 rows; rejected: 0",
        "[user] What is two?\n[assistant] It is 2.",
    ):
        assert words in text, text
    pasted = yaml.safe_load(text.partition("in a study:\n")[2])["datasets"]["data"]
    assert (pasted["hf"], pasted["hf_split"]) == ("own/qa", "train")
    assert not any("train-0" in path for path in hub.asked)
    assert "kept: 1 rows" in told(capsys, *asked, "--hf-split", "test")


def test_a_new_study_of_a_hubs_data_has_no_mistake_and_a_lock(hub, tmp_path, capsys):
    study = tmp_path / "own.yaml"
    asked = ("--data", "own/qa", "--columns", "prompt=question,completion=answer", "--hf-split", "train")
    new.main(["--study", str(study), *asked, "--model", "stories15m"])
    assert (tmp_path / lock.LOCK).is_file() and "hf: own/qa" in study.read_text()


def test_a_missing_file_is_not_looked_for_on_a_hub_nor_given_a_hubs_keys(tmp_path):
    with pytest.raises(PlumblineError, match="no such file"):
        look.main(["--data", "data/qa.csv"])
    (tmp_path / "qa.csv").write_text(ROWS)
    with pytest.raises(PlumblineError, match="HF_SPLIT is of a hub"):
        look.main(["--data", str(tmp_path / "qa.csv"), "--hf-split", "train"])


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
    text = {"id": "a", "messages": [{"role": "text", "content": "So it is."}]}
    assert speech.marked(text) == "«So it is.</s>»"
    assert speech.length({"messages": SAID}) == len(speech.tokens({"messages": SAID}).input_ids)


def test_a_histogram_has_a_bar_for_each_doubling():
    lines = histogram([1, 2, 3, 3, 100], "words")
    assert [line.split()[0] + " " + line.split()[-1] for line in lines[:3]] == ["1 1", "2 3", "64 1"]
    assert lines[-1] == "  half have at most 3 words, 95 % at most 100, the longest 100"


@pytest.mark.parametrize(
    "value", ["a b", "no", "x: y", "#", "1", "", "-", "{a}", "[x", "a,b", "é'\"", "true", 2e-5, 0.1]
)
def test_a_value_on_one_line_is_the_same_in_yaml(value):
    for whole in (value, {"a": value, "b": [1.5, value]}):
        assert yaml.safe_load(flow(whole)) == whole


def test_columns_are_pairs():
    assert columns_in("prompt=question, completion=a b") == {"prompt": "question", "completion": "a b"}
    with pytest.raises(PlumblineError, match="COLUMNS=prompt: write COLUMNS=prompt=question"):
        columns_in("prompt")


ROWS_OF = {
    "prefs.jsonl": "".join(
        json.dumps({"prompt": f"Why {n}?", "chosen": "So.", "rejected": "No."}) + "\n" for n in range(20)
    ),
    "qa.csv": "prompt,completion\n" + "".join(f"What is {n}?,It is {n}.\n" for n in range(20)),
    "book.txt": "".join(f"It was {n} o'clock.\n" for n in range(20)),
    "chats.jsonl": "".join(json.dumps({"messages": [SAID[0], SAID[1]], "id": n}) + "\n" for n in range(20)),
}


@pytest.mark.parametrize("name", ROWS_OF)
def test_a_new_study_is_short_and_has_no_mistake(tmp_path, capsys, name):
    (tmp_path / name).write_text(ROWS_OF[name])
    make_tiny_model(tmp_path / "model")
    flags = ["--data", f"{tmp_path}/{name}", "--model", f"{tmp_path}/model", "--template", "vicuna"]
    new.main(["--study", f"{tmp_path}/my study.yaml", *flags])
    text = (tmp_path / "my study.yaml").read_text()
    assert len(text.splitlines()) <= 25 and text.startswith("study: my-study\n")
    assert "no mistakes" in (said := capsys.readouterr().out) or "fine" in said
    assert (
        "base.dpo  dpo of base" if "prefs" in name else "base.sft  sft of base"
    ) in said and "datasets.own: " in said
    with pytest.raises(PlumblineError, match="is there already"):
        new.main(["--study", f"{tmp_path}/my study.yaml", *flags])
    assert "«" in told(capsys, *flags)


def test_a_new_study_wants_a_model(tmp_path):
    with pytest.raises(PlumblineError, match="MODEL: name a model's folder"):
        new.main(["--study", f"{tmp_path}/mine.yaml", "--data", "x.csv"])
