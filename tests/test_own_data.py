"""Data sets by `path`: which files are taken, what is written out and said, what is refused, what makes jobs stale."""

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.family_templates import FAMILIES
from tests.workflow import ROOT, copy_with_study, snakemake
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan import cleaning, sources
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.study.checking import check_study, examine
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.settling.lock import JOB

CSV = "id,question,answer\n" + "".join(f"{n},What is {n}?,It is {n}.\n" for n in range(200))
RENAMES = {"prompt": "question", "completion": "answer"}


@pytest.fixture(autouse=True)
def asked_by_hand(monkeypatch):
    monkeypatch.delenv(JOB, raising=False)


def study_with(**datasets) -> dict:
    return {
        "study": "own",
        "sources": {"weights": {"places": [{"hf": {"repo": "a/b", "revision": "0" * 40}}]}},
        "models": {"tiny": {"source": "weights", "template": "plain", "context": 128}},
        "datasets": datasets,
    }


def rows_of(folder: Path, name: str, *rows: dict) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def settled(tmp_path, **keys):
    """Return (the dataset called own as it is written out, its source, what is said)."""
    found = examine(study_with(own=keys), folder=tmp_path)
    assert found.wrong == []
    return found.study.datasets["own"], found.study.sources["own"], "\n".join(found.said)


def refused(tmp_path, **keys) -> str:
    return "\n".join(examine(study_with(own=keys), folder=tmp_path).wrong)


def test_a_table_is_written_out_as_a_source_and_said_with_its_columns_and_rows(tmp_path):
    (tmp_path / "qa.csv").write_text(CSV)
    part, source, said = settled(tmp_path, path=str(tmp_path / "qa.csv"), columns=RENAMES)
    assert said == (
        f"datasets.own: prompt_completion (prompt: question, completion: answer), 200 rows in {tmp_path}/qa.csv"
    )
    assert (part.source, part.files, part.data_schema) == ("own", ["qa.csv"], "prompt_completion")
    assert part.group_by == "question" and part.split.by_file == {"train": ["qa.csv"]}
    assert source.files == {"qa.csv": None}
    assert source.places[0].file.files == {"qa.csv": f"{tmp_path}/qa.csv"}


def test_what_a_study_says_itself_stays(tmp_path):
    path = rows_of(tmp_path, "rows.jsonl", {"instruction": "Why?", "output": "So."})
    split = {"quotas": {"train": 1, "test": 0}}
    part, _, said = settled(tmp_path, path=path, schema="self_instruct", group_by="conversation", split=split)
    assert (part.data_schema, part.group_by) == ("self_instruct", "conversation")
    assert part.split.quotas == {"train": 1, "test": 0}
    assert said == f"datasets.own: schema self_instruct, 1 rows in {path}"


ROW = {"prompt": "Why?", "completion": "So."}


def trained(tmp_path, **keys):
    """Return what is found of a study whose run of fine-tuning says of its splits only `keys`."""
    steps = {"learning_rate": 1.0e-4, "epochs": 1.0, "batch_size": 8}
    study = study_with(own={"path": str(tmp_path / "qa.csv"), "columns": RENAMES} | keys)
    return examine(
        study | {"runs": {"sft": {"method": "sft", "parent": "tiny", "dataset": "own"} | steps}},
        folder=tmp_path,
    )


def test_a_fine_tuning_that_names_no_split_takes_what_there_is(tmp_path):
    (tmp_path / "qa.csv").write_text(CSV)
    found = trained(tmp_path)
    run = found.study.runs["sft"]
    assert (run.split, run.validation) == ("train", None)
    assert "runs.sft: learns from split train: own has no split sft" in found.said
    assert "runs.sft: validates on nothing: own has no split validation" in found.said
    run = trained(tmp_path, split={"train": 0.9, "validation": 0.1}).study.runs["sft"]
    assert (run.split, run.validation) == ("train", "validation")
    run = trained(tmp_path, split={"train": 0.5, "sft": 0.5}).study.runs["sft"]
    assert (run.split, run.validation) == ("sft", None)
    assert "no split of dataset 'own' is called 'sft'" in trained(tmp_path, split={"a": 1.0}).wrong[0]


def test_data_that_are_not_there_are_a_mistake_of_theirs_whatever_reads_them(tmp_path):
    wrong = trained(tmp_path).wrong
    assert len(wrong) == 1 and wrong[0].startswith("datasets.own.path: no such file or folder")


def test_the_whole_studies_of_the_page_check_as_fine(tmp_path, tiny_model):
    (tmp_path / "qa.csv").write_text(CSV)
    asked = [{"role": "user", "content": "Why?"}]
    said = [*asked, {"role": "assistant", "content": "So."}]
    rows_of(tmp_path, "chats.parquet", {"messages": said})
    rows_of(tmp_path, "prefs.parquet", {"chosen": said, "rejected": [*asked, said[1] | {"content": "No."}]})
    for name in ("chats", "prefs"):
        table = pyarrow.Table.from_pylist([json.loads((tmp_path / f"{name}.parquet").read_text())] * 20)
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "chat_template.jinja").write_text(FAMILIES["zephyr"], encoding="utf-8")
    page = (ROOT / "docs/your-data.md").read_text().partition("## A whole study")[2].partition("## Shapes")[0]
    pages = page + (ROOT / "README.md").read_text()
    studies = re.findall(r"```yaml\n(.*?)```", pages, re.DOTALL)
    assert len(studies) == 3
    for text in studies:
        assert len(text.splitlines()) <= 25
        text = re.sub(r"path: (\w+\.\w+)", rf"path: {tmp_path}/\1", text).replace(
            "/models/my-llama", str(model)
        )
        (tmp_path / "study.yaml").write_text(text)
        found = examine(read_yaml(tmp_path / "study.yaml"), folder=tmp_path)
        assert found.wrong == [] and found.doubts == []


def test_of_a_folder_every_file_of_rows_is_taken_in_order_and_the_others_are_named(tmp_path):
    folder = tmp_path / "rows"
    for name in ("b.jsonl", "a.jsonl.gz", "README.md", "dataset_info.json", "notes.pdf", ".hidden.jsonl"):
        rows_of(folder, name, ROW)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress((folder / "b.jsonl").read_bytes()))
    (folder / "more").mkdir()
    part, source, said = settled(tmp_path, path=str(folder))
    assert part.files == list(source.files) == ["a.jsonl.gz", "b.jsonl"]
    assert "2 rows in" in said and said.endswith(
        "left out 4 files (README.md, dataset_info.json, notes.pdf, …)"
    )


def test_of_a_folder_of_texts_the_texts_are_rows(tmp_path):
    for name in ("a.txt", "b.md"):
        rows_of(tmp_path / "texts", name)
        (tmp_path / "texts" / name).write_text("One.\nTwo.\n\nThree.\n")
    part, _, said = settled(tmp_path, path=str(tmp_path / "texts"), sample_by="paragraph")
    assert (part.data_schema, part.files) == ("text", ["a.txt", "b.md"]) and "text (text), 4 rows in" in said


def test_a_pattern_and_a_list_take_what_they_name_and_names_stay_apart(tmp_path):
    paths = [
        rows_of(tmp_path / "one", "rows.jsonl", ROW),
        rows_of(tmp_path / "two", "rows.jsonl", ROW),
        rows_of(tmp_path, "more.jsonl", ROW),
    ]
    part, source, _ = settled(tmp_path, path=[str(tmp_path / "*/rows.jsonl"), paths[2], paths[0]])
    assert part.files == ["one/rows.jsonl", "two/rows.jsonl", "more.jsonl"]
    assert list(source.places[0].file.files.values()) == paths


def test_files_called_as_held_out_ones_are_said_to_be_trained_on_where_nothing_splits(tmp_path):
    rows_of(tmp_path / "rows", "train.jsonl", ROW)
    rows_of(tmp_path / "rows", "test.jsonl", ROW)
    _, _, said = settled(tmp_path, path=str(tmp_path / "rows"))
    assert "all rows are split train, those of test.jsonl, too: split.by_file" in said
    split = {"by_file": {"train": ["train.jsonl"], "test": ["test.jsonl"]}}
    assert "all rows" not in settled(tmp_path, path=str(tmp_path / "rows"), split=split)[2]


def test_a_structured_tutors_rows_are_grouped_by_problem(tmp_path):
    reply = {
        "Evaluation of Student Response": "g", "Action Based on Evaluation": "12", "Subproblem State": "w",
        "Subproblem": "What?", "Tutorbot": "Say more.",
    }  # fmt: skip
    said = [{"from": "human", "value": "Student: Q. Why?"}, {"from": "gpt", "value": json.dumps(reply)}]
    part, _, _ = settled(tmp_path, path=rows_of(tmp_path, "rows.jsonl", {"conversations": said}))
    assert (part.data_schema, part.group_by) == ("tutorbot", "problem")


@pytest.mark.parametrize(
    ("files", "keys", "words"),
    [
        ({}, {"path": "{}/qa.csv"}, ["datasets.own.path: no such file or folder", "relative to the repository"]),
        ({"qa.csv": CSV}, {"path": "{}/qb.csv"}, ["did you mean 'qa.csv'?"]),
        ({"qa.xlsx": "PK"}, {"path": "{}/qa.xlsx"}, ["qa.xlsx: is of no kind that can be read", ".csv"]),
        ({"a.pdf": "x"}, {"path": "{}"}, ["is a folder without files that can be read", "there is: a.pdf"]),
        ({"a.pdf": "x"}, {"path": "{}/*.csv"}, ["*.csv: fits no files", "there is: nothing"]),
        ({"qa.csv": ""}, {"path": "{}/qa.csv"}, ["datasets.own.path: ", "qa.csv: holds no rows"]),
        (
            {"qa.csv": CSV},
            {"path": "{}/qa.csv"},
            ["qa.csv: no shape fits the columns id (text)", "perhaps columns: {prompt: question, completion: answer}"],
        ),
        (
            {"a.csv": "prompt,completion\nWhy?,So.\n", "b.csv": "instruction,output\nWhy?,So.\n"},
            {"path": "{}/*.csv"},
            ["rows of several kinds (a.csv is prompt_completion, b.csv is alpaca)"],
        ),
        ({}, {"path": "x.csv", "hf": "a/b"}, ["one of source, path and hf, not path and hf"]),
        ({}, {"schema": "alpaca"}, ["one of source, path and hf"]),
        ({}, {"path": "x.csv", "revision": "v1"}, ["revision cannot be said beside"]),
        ({}, {"source": "weights", "files": ["a"], "schema": "alpaca"}, ["needs split beside source"]),
        ({}, {"path": "x.csv", "shape": "text", "schema": "alpaca"}, ["shape or schema"]),
        ({}, {"path": "x.csv", "shape": "sharegpt"}, ["datasets.own.shape", "conversation"]),
    ],
)  # fmt: skip
def test_a_mistake_says_which_path_and_what_would_help(tmp_path, files, keys, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    keys = {
        key: value.replace("{}", str(tmp_path)) if key == "path" else value for key, value in keys.items()
    }
    said = refused(tmp_path, **keys)
    for word in words:
        assert word in said


def test_a_dataset_may_not_be_called_as_a_source_is_but_two_may_have_one_file(tmp_path):
    path = rows_of(tmp_path, "rows.jsonl", ROW)
    wrong = examine(study_with(weights={"path": path}), folder=tmp_path).wrong
    assert len(wrong) == 1 and "a source is called weights, too" in wrong[0]
    study = check_study(study_with(one={"path": path}, two={"path": path}), folder=tmp_path)
    assert study.datasets["one"].source == "one" and study.datasets["two"].source == "two"


def test_a_job_finds_the_same_and_counts_nothing(tmp_path, monkeypatch):
    (tmp_path / "qa.csv").write_text(CSV)
    keys = {"path": str(tmp_path / "qa.csv"), "columns": RENAMES}
    first = settled(tmp_path, **keys)
    monkeypatch.setenv(JOB, "yes")
    second = settled(tmp_path, **keys)
    assert second[:2] == first[:2] and "200 rows" not in second[2]


def test_a_local_file_without_a_pin_is_an_input_of_its_fetching_and_a_pinned_one_is_not(tmp_path):
    path = rows_of(tmp_path, "rows.jsonl", ROW)
    config = study_with(own={"path": path})
    pinned = {"files": {"rows.jsonl": "0" * 64}, "places": [{"file": {"files": {"rows.jsonl": path}}}]}
    config["sources"]["pinned"] = pinned
    config["datasets"]["kept"] = {
        "source": "pinned",
        "files": ["rows.jsonl"],
        "schema": "alpaca",
        "split": {"quotas": {"train": 1}},
    }
    plan = plan_of(check_study(config, folder=tmp_path))
    assert sources.local_files(plan, sources.source_key(plan, "own")) == [path]
    assert sources.local_files(plan, sources.source_key(plan, "pinned")) == []
    assert sources.local_files(plan, sources.source_key(plan, "weights")) == []
    told = json.loads(cleaning.dataset_settings(plan, "own"))
    assert told["schema"] == "prompt_completion" and not told.keys() & {"path", "hf", "shape"}


def test_an_edited_file_makes_what_depends_on_it_stale_and_a_touched_one_nothing(tmp_path):
    folder = copy_with_study(tmp_path / "repository")
    (folder / "qa.csv").write_text(CSV)
    (folder / "other.csv").write_text(CSV.replace("What", "Which"))
    config = study_with(
        own={"path": "qa.csv", "columns": RENAMES}, other={"path": "other.csv", "columns": RENAMES}
    )
    (folder / "own.json").write_text(json.dumps(config))
    flags = ("--configfile", "own.json", "--cores", "2")
    snakemake(folder, *flags, "datasets")

    def fetched() -> set[str]:
        told = snakemake(folder, *flags, "datasets", "--dry-run").stdout
        assert "Fetching" in told or "Nothing to be done" in told
        return {name for name in ("own", "other") if f"Fetching {name}-" in told}

    assert fetched() == set()
    for file in ("qa.csv", "other.csv"):
        os.utime(folder / file)
    assert fetched() == set()
    (folder / "qa.csv").write_text(CSV.replace("It is 7.", "It is seven."))
    assert fetched() == {"own"}
    snakemake(folder, *flags, "datasets")
    rows = (folder / "data/clean/own/own/rows/train.jsonl").read_text()
    assert "It is seven." in rows and fetched() == set()


def test_reading_a_studys_data_loads_no_torch():
    code = "import sys; import workflow_scripts.study.checking; assert 'torch' not in sys.modules"
    assert os.system(f'cd "{ROOT}" && "{os.sys.executable}" -c "{code}"') == 0


def test_a_broken_lock_is_named(tmp_path):
    (tmp_path / "study.lock").write_text('{"repositories": [{"repo": "a/b"}]}')
    with pytest.raises(PlumblineError, match=r"datasets.own.hf: .*study.lock: is no lock of ours"):
        check_study(study_with(own={"hf": "a/b"}), folder=tmp_path)
