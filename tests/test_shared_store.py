"""Two people's studies with one store (`--cache`): what one made the other fetches; a store that fails is told of."""

import contextlib
import csv
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chain import write_chain
from tests.workflow import copy_with_study, snakemake, stale, verify
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.shared_store import check_store, refuse_full_store

CELL = Path("policies/tiny.sft/seed-1")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from tests.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return copy_with_study(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def first(tmp_path_factory, clone, model, store) -> Path:
    """The first user's finished study."""
    folder = shutil.copytree(clone, tmp_path_factory.mktemp("first") / "study")
    write_chain(folder, model, "first")
    snakemake(folder, "--cache")
    return folder


@pytest.fixture(scope="module")
def second(tmp_path_factory, clone, model, first) -> tuple[Path, str]:
    """The second user's study of another name, which changes the alignment; and what running it said."""
    folder = shutil.copytree(clone, tmp_path_factory.mktemp("second") / "study")
    study = write_chain(folder, model, "second")
    study["runs"]["nll"]["learning_rate"] = 2.0e-3
    (folder / "config.yaml").write_text(yaml.safe_dump(study))
    done = snakemake(folder, "--cache")
    return folder, done.stdout + done.stderr


def test_a_second_user_s_study_fetches_the_shared_training_and_trains_what_differs(first, second, store):
    folder, told = second
    theirs, ours = folder / "results/second" / CELL, first / "results/first" / CELL
    assert (theirs / "manifest.json").is_symlink()
    assert (theirs / "manifest.json").resolve().is_relative_to(store)
    assert not (folder / "results/second/logs/train_sft/tiny.sft-1.log").read_text(), "nothing was trained"
    assert (folder / "results/second/logs/train_offline/tiny.sft.nll-1.log").read_text()
    assert sha256_of(theirs / "model/model.safetensors") == sha256_of(ours / "model/model.safetensors")
    for file, held in read_json(theirs / "manifest.json")["files"].items():
        assert sha256_of(theirs / file) == held
    assert (
        told.count("Symlinking output file results/second/policies/tiny.sft/seed-1/manifest.json from cache")
        == 1
    )


def test_what_is_fetched_reaches_from_the_download_to_the_answers(second, first):
    folder, _ = second
    results = folder / "results/second"
    fetched = [
        *folder.glob("data/sources/*/manifest.json"),
        *folder.glob("data/models/*/manifest.json"),
        folder / "data/clean/second/chat/manifest.json",
        results / "annotations/good/manifest.json",
        next(results.glob("rewarded/*/tiny.sft/seed-1/manifest.json")),
        results / CELL / "answered.json",
    ]
    assert len(fetched) == 7
    assert all(path.resolve().is_relative_to(os.environ["SNAKEMAKE_OUTPUT_CACHE"]) for path in fetched)
    own = results / "policies/tiny.sft.nll/seed-1/manifest.json"
    mine = first / "results/first/policies/tiny.sft.nll/seed-1/manifest.json"
    assert own.read_bytes() != mine.read_bytes()


def test_both_tables_say_the_same_of_the_shared_policies(first, second):
    def rows(folder: Path) -> dict[tuple, tuple]:
        with open(folder / "results.csv", newline="") as stream:
            table = list(csv.DictReader(stream))
        told = ("value", "n", "groups", "difference")
        return {
            (row["policy"], row["metric"]): tuple(row[name] for name in told)
            for row in table
            if row["policy"] in ("tiny", "tiny.sft")
        }

    ours = rows(first / "results/first")
    assert len(ours) > 4
    assert rows(second[0] / "results/second") == ours


def test_a_finished_study_with_a_store_has_nothing_to_do_and_verifies(second):
    folder, _ = second
    assert "Nothing to be done" in (done := snakemake(folder, "--cache")).stdout + done.stderr
    assert stale(folder) == set()
    checked = verify(folder, "second")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_prompt_set_more_asks_a_fetched_policy_that_set_alone(second, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(second[0], folder, symlinks=True)
    study = yaml.safe_load((folder / "config.yaml").read_text())
    study["benchmarks"]["more"] = study["benchmarks"]["words"] | {"max_new_tokens": 5}
    (folder / "config.yaml").write_text(yaml.safe_dump(study))
    snakemake(folder, "results/second/policies/tiny.sft/seed-1/generations/more.json", "--cache")
    said = (folder / "results/second/logs/answer_prompts/tiny.sft-1.log").read_text()
    assert "words: answered before" in said
    assert "more: " in said and "more: answered before" not in said


def test_a_store_that_has_vanished_is_told_of_before_any_job(second, tmp_path, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "gone"))
    done = snakemake(second[0], "--cache", "--forceall", check=False)
    assert done.returncode
    assert "gone is not there; make the folder or mount its disk" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_links_into_a_vanished_store_are_told_of_and_can_be_made_anew(second, tmp_path, store, model):
    folder = tmp_path / "study"
    shutil.copytree(second[0], folder, symlinks=True)
    target = "results/second/policies/tiny.sft/seed-1/manifest.json"
    moved = store.rename(store.with_name("elsewhere"))
    try:
        done = snakemake(folder, target, check=False)
        told = done.stdout + done.stderr
        assert done.returncode and "Traceback" not in told
        remedy = re.search(r"links to fetched files lead nowhere.* made anew: (find .* -delete)", told)[1]
        subprocess.run(remedy, shell=True, cwd=folder, check=True)
        snakemake(folder, target)
        assert not (folder / target).is_symlink()
        assert (folder / "results/second" / CELL / "model/model.safetensors").is_file()
        assert not store.exists(), "nothing is written where the store was"
    finally:
        moved.rename(store)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_store_ends_a_training_clearly_and_it_goes_on_from_its_last_step(
    model, small_disk, tmp_path, first, monkeypatch
):
    folder = copy_with_study(tmp_path / "study")
    write_chain(folder, model, "full")
    target = "results/full/policies/tiny.sft/seed-1/manifest.json"
    inputs = ["results/full/tokens/tiny.sft/manifest.json", *map(str, Path(folder).glob("data/models/*/x"))]
    snakemake(folder, *inputs)  # without a store: only the training is to meet the full one
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(small_disk))
    done = snakemake(folder, target, "--cache", "train_sft", check=False)
    told = done.stdout + done.stderr
    assert done.returncode
    assert "this job goes on where it was" in told
    assert not list(small_disk.iterdir()), "nothing half-written"
    assert not (folder / target).exists()
    snakemake(folder, target)
    assert "resuming from" in (folder / "results/full/logs/train_sft/tiny.sft-1.log").read_text()


def test_a_disk_that_fills_while_a_file_is_moved_leaves_nothing_half_written(
    small_disk, model, tmp_path, monkeypatch
):
    folder = copy_with_study(tmp_path / "study")
    write_chain(folder, model, "full")
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(small_disk))
    done = snakemake(folder, "sources", "--cache", check=False)  # the weights are larger than the disk
    assert done.returncode
    assert "No space left on device" in done.stdout + done.stderr
    assert not [path for path in small_disk.rglob("*") if path.is_file() and "safetensors" in path.name]
    assert not list(folder.glob("data/sources/weights-*/manifest.json"))


def test_a_store_that_cannot_be_used_is_named_with_what_to_do(tmp_path, small_disk):
    with pytest.raises(PlumblineError, match="is not set; set it to a folder"):
        check_store(None)
    with pytest.raises(PlumblineError, match="is not there"):
        check_store(str(tmp_path / "none"))
    check_store(str(small_disk))
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(b"0" * 70_000)
    with pytest.raises(PlumblineError, match=r"cannot be written to .No space left on device"):
        check_store(str(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(PlumblineError, match=r"cannot be written to .Read-only file system"):
        check_store(str(small_disk))


def test_room_is_asked_for_only_where_a_store_is_in_use(tmp_path, small_disk, monkeypatch):
    (tmp_path / "weights").write_bytes(b"0" * 100_000)
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(small_disk))
    monkeypatch.delenv("PLUMBLINE_STORED", raising=False)
    refuse_full_store([tmp_path / "weights"])
    monkeypatch.setenv("PLUMBLINE_STORED", "yes")
    with pytest.raises(PlumblineError, match="GB are to be kept there"):
        refuse_full_store([tmp_path / "weights"])
    (tmp_path / "weights").write_bytes(b"0")
    refuse_full_store([tmp_path / "weights"])
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "gone"))
    with pytest.raises(PlumblineError, match="has vanished"):
        refuse_full_store([tmp_path / "weights"])
