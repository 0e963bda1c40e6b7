"""Repositories of a hub by branch: resolved once into study.lock, which is enough from then on, and asked by no job."""

import json
import socket

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from tests.hub_server import ask_at, hub_server
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan import sources
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.study.checking import examine
from workflow_scripts.study.settling import lock
from workflow_scripts.study.settling.lock import JOB, LOCK, entry_of

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train_prefs
    path: data/train_prefs-*
  - split: test_prefs
    path: data/test_prefs-*
- config_name: other
  data_files: other/*.jsonl
---
# Rows
"""


def parquet(*rows: dict) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue().to_pybytes()


def pair(number: int) -> dict:
    asked = {"role": "user", "content": f"Why {number}?"}
    return {
        "prompt": f"Why {number}?",
        "chosen": [asked, {"role": "assistant", "content": "So."}],
        "rejected": [asked, {"role": "assistant", "content": "No."}],
    }


FILES = {
    "README.md": CARD.encode(),
    "data/train_prefs-00000-of-00002.parquet": parquet(*map(pair, range(5))),
    "data/train_prefs-00001-of-00002.parquet": parquet(*map(pair, range(5, 9))),
    "data/test_prefs-00000-of-00001.parquet": parquet(pair(9)),
    "other/rows.jsonl": b'{"prompt": "Why?", "completion": "So."}\n',
    "code.py": b"raise SystemExit\n",
}
TRAIN = [name for name in FILES if "train_prefs" in name]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in (JOB, "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(lock, "ROOT", tmp_path / "repository")
    with hub_server() as hub:
        ask_at(hub.url, monkeypatch)
        hub.put("datasets/own/prefs", FILES)
        yield hub


@pytest.fixture
def nowhere(monkeypatch):
    with socket.socket() as taken:  # bound but not listening
        taken.bind(("127.0.0.1", 0))
        ask_at(f"http://127.0.0.1:{taken.getsockname()[1]}", monkeypatch)
        yield


def study_with(**keys) -> dict:
    return {
        "study": "own",
        "sources": {"weights": {"places": [{"hf": {"repo": "a/b", "revision": "0" * 40}}]}},
        "models": {"tiny": {"source": "weights", "template": "plain", "context": 128}},
        "datasets": {"prefs": {"hf": "own/prefs", **keys}},
    }


def looked_at(folder, **keys):
    return examine(study_with(**keys), folder=folder)


def test_a_split_of_a_branch_is_its_files_at_a_commit_with_their_pins(hub, tmp_path):
    entry = entry_of(tmp_path, "dataset", "own/prefs", "main", split="train_prefs")
    assert entry.commit == hub.branches["datasets/own/prefs"]["main"]
    assert list(entry.files) == TRAIN and entry.found == {"split": "train_prefs", "smallest": TRAIN[1]}
    assert all(len(pin) == 64 for pin in entry.files.values())
    other = entry_of(tmp_path, "dataset", "own/prefs", "main", config="other")
    assert list(other.files) == ["other/rows.jsonl"] and other.found["split"] == "train"
    assert other.files["other/rows.jsonl"].startswith("git:")


def test_a_study_gets_a_source_at_the_commit_and_what_its_rows_are(hub, tmp_path):
    found = looked_at(tmp_path, hf_split="train_prefs")
    commit = hub.branches["datasets/own/prefs"]["main"]
    assert found.wrong == []
    assert found.said == [
        f"datasets.prefs: preference (chosen, rejected, prompt), schema preferences, split train_prefs of "
        f"own/prefs@{commit[:10]} (main): {', '.join(TRAIN)}"
    ]
    part, source = found.study.datasets["prefs"], found.study.sources["prefs"]
    assert (part.data_schema, part.group_by, part.files) == ("preferences", "question", TRAIN)
    assert part.split.by_file == {"train": TRAIN}
    place = source.places[0].hf
    assert (place.repo, place.revision, place.repo_type) == ("own/prefs", commit, "dataset")
    plan = plan_of(found.study)
    assert (
        json.loads(sources.source_settings(plan, sources.source_key(plan, "prefs")))["files"] == source.files
    )


def test_the_lock_is_enough_when_the_branch_has_moved_and_when_there_is_no_network(
    hub, nowhere, tmp_path, monkeypatch
):
    ask_at(hub.url, monkeypatch)
    first = looked_at(tmp_path, hf_split="train_prefs").study
    hub.put("datasets/own/prefs", FILES | {TRAIN[0]: parquet(pair(1))})
    hub.asked.clear()
    assert looked_at(tmp_path, hf_split="train_prefs").study == first and hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv(JOB, "yes")
    assert looked_at(tmp_path, hf_split="train_prefs").study == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv(JOB)
    (tmp_path / LOCK).unlink()
    assert looked_at(tmp_path, hf_split="train_prefs").study.sources != first.sources


def test_a_lock_is_sorted_and_keeps_what_other_studies_of_the_folder_named(hub, tmp_path):
    hub.put("datasets/a/rows", {"rows.csv": b"prompt,completion\nWhy?,So.\n"})
    entry_of(tmp_path, "dataset", "own/prefs", split="train_prefs")
    text = (tmp_path / LOCK).read_text()
    entry_of(tmp_path, "dataset", "a/rows")
    assert [row["repo"] for row in json.loads((tmp_path / LOCK).read_text())["repositories"]] == [
        "a/rows",
        "own/prefs",
    ]
    (tmp_path / LOCK).unlink()
    entry_of(tmp_path, "dataset", "own/prefs", split="train_prefs")
    assert (tmp_path / LOCK).read_text() == text


def test_a_job_asks_no_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv(JOB, "yes")
    (line,) = looked_at(tmp_path, hf_split="train_prefs").wrong
    assert "has no entry for dataset 'own/prefs' at 'main', split 'train_prefs'" in line and hub.asked == []
    monkeypatch.delenv(JOB)
    entry_of(tmp_path, "dataset", "own/prefs", split="train_prefs")
    monkeypatch.setenv(JOB, "yes")
    (line,) = looked_at(tmp_path, hf_split="train_prefs").wrong
    assert "does not say what its rows are" in line


def test_a_shape_that_is_named_spares_no_look_but_a_schema_does(hub, tmp_path):
    assert looked_at(tmp_path, hf_split="train_prefs", schema="preferences").wrong == []
    assert not any(name.endswith(".parquet") for name in hub.asked)
    looked_at(tmp_path, hf_split="train_prefs", shape="preference")
    assert [name.rpartition("/")[2] for name in hub.asked if name.endswith(".parquet")] == [
        TRAIN[1].rpartition("/")[2]
    ]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {},
            [
                "datasets.prefs.hf: own/prefs has several splits: set hf_split (there are: train_prefs, test_prefs)"
            ],
        ),
        ({"hf_split": "tests"}, ["own/prefs has no split 'tests' (there are: train_prefs, test_prefs)"]),
        ({"hf_config": "none"}, ["the datasets library finds no rows in own/prefs", "none"]),
        (
            {"revision": "gone"},
            ["does not say what dataset 'own/prefs' at 'gone' is", "HTTP 404", "check the name"],
        ),
        ({"hf": "no/body"}, ["does not say what dataset 'no/body'", "HF_TOKEN", "HF_ENDPOINT", LOCK]),
        (
            {"hf_split": "test_prefs", "shape": "text"},
            ["shape text does not fit the columns prompt (text), chosen"],
        ),
    ],
)
def test_what_the_hub_does_not_have_is_said_with_what_there_is(hub, tmp_path, keys, words):
    said = "\n".join(looked_at(tmp_path, **keys).wrong)
    for word in words:
        assert word in said, said


def test_a_hub_that_cannot_be_reached_is_said_with_what_to_do(nowhere, tmp_path, monkeypatch):
    monkeypatch.delenv(JOB)
    (line,) = looked_at(tmp_path).wrong
    assert "cannot connect" in line and "HF_ENDPOINT" in line and f"put the {LOCK} of someone" in line


def test_the_token_is_sent_and_never_written(hub, tmp_path, monkeypatch):
    hub.token = "hf_secret"
    assert "HF_TOKEN" in "\n".join(looked_at(tmp_path, hf_split="test_prefs").wrong)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert looked_at(tmp_path, hf_split="test_prefs").wrong == []
    assert "hf_secret" not in (tmp_path / LOCK).read_text()


def test_a_repository_that_a_script_loads_is_refused_with_the_way_round(hub, tmp_path):
    hub.put("datasets/own/scripted", {"scripted.py": b"import os", "rows.csv": b"prompt,completion\n"})
    with pytest.raises(PlumblineError, match=r"never run; .*refs/convert/parquet"):
        entry_of(tmp_path, "dataset", "own/scripted")
    hub.put("datasets/own/scripted", {"default/train/0000.parquet": parquet(pair(1))}, "refs/convert/parquet")
    entry = entry_of(tmp_path, "dataset", "own/scripted", "refs/convert/parquet")
    assert list(entry.files) == ["default/train/0000.parquet"]


def test_a_name_that_leaves_its_folder_is_refused(hub, tmp_path):
    hub.put("datasets/own/evil", {"../../evil.csv": b"prompt,completion\n"})
    with pytest.raises(PlumblineError, match="unsafe name"):
        entry_of(tmp_path, "dataset", "own/evil")


def test_of_a_model_the_files_that_are_fetched_are_locked_and_small_ones_can_be_read(
    hub, tmp_path, monkeypatch
):
    files = {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": b"w" * 2000,
        "pytorch_model.bin": b"x",
    }
    commit = hub.put("own/model", files)
    entry = entry_of(tmp_path, "model", "own/model")
    assert entry.commit == commit and list(entry.files) == ["config.json", "model.safetensors"]
    assert lock.hub_file(entry, "config.json").read_bytes() == files["config.json"]
    kept = lock.keep(tmp_path, entry, context=2048)
    hub.asked.clear()
    assert lock.hub_file(entry, "config.json").is_file() and hub.asked == []
    assert entry_of(tmp_path, "model", "own/model") == kept and kept.found == {"context": 2048}
