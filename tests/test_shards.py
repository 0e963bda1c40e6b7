"""Several engines that share out a policy's prompts: the answers of one, to the byte, and a plain end if one fails."""

import os

import pytest

from tests.generation import QUESTIONS, Study, rows_of
from tests.shares_of_work import Counting
from workflow_scripts.common import shards
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json


@pytest.fixture
def counting():
    made = shards.Shards(Counting, (), 2, ["4", "5", "7", "8", "9"])
    yield made
    made.close()


def test_shares_make_up_the_whole_and_each_has_devices_and_threads_of_its_own(counting, monkeypatch):
    assert sorted(counting.ask("numbers", 7)) == list(range(7))
    assert sorted(counting.ask("numbers", 1)) == [0]  # a share may be empty
    seen = {number: devices for number, devices, _ in counting.ask("seen")}
    assert seen == {0: "4,5", 1: "7,8"}
    assert 0 < counting.peak_memory_mb <= shards.Shards.most_memory_mb
    assert os.environ.get(shards.DEVICES) is None or os.environ[shards.DEVICES] not in seen.values()


@pytest.mark.parametrize("method, said", [("fail", "ValueError: no such thing"), ("killed", "signal 9")])
def test_a_share_that_fails_or_is_killed_ends_the_job_with_the_reason(counting, method, said):
    with pytest.raises(PlumblineError, match=said):
        list(counting.ask(method))


def test_there_are_no_more_shares_than_devices():
    assert [shards.shares_for(4, devices) for devices in (0, 1, 3, 8)] == [4, 1, 3, 4]
    assert shards.parts_of(["a", "b", "c"], 2) == [["a"], ["b"]]
    assert shards.parts_of([], 2) == [[], []]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_two_engines_give_the_bytes_of_one(tiny_model, tmp_path, capsys, temperature):
    names = ["one", "two", "resumed"] if temperature else ["one", "two"]
    folders = [tmp_path / name for name in names]
    rows = rows_of([*QUESTIONS, "And now?", "Where?", "Who?", "Which one is it, then?"], ["Say more."])
    for folder, count in zip(folders, (1, 2, 2), strict=False):
        folder.mkdir()
        study = Study(folder, tiny_model)
        study.add("talk", rows, temperature=temperature, batch_size=2, samples=2 if temperature else 1)
        study.add("again", rows[:6], batch_size=2)
        if folder.name == "resumed":  # what one engine began, two go on with
            study.answer("again", "talk", shards=1)
            store = study.store("talk")
            lines = store.read_bytes().splitlines(keepends=True)
            store.write_bytes(b"".join(lines[: len(lines) // 2]))
        study.answer("again", "talk", shards=count)
    said = capsys.readouterr().err
    assert said.count("2 processes share the work, on the CPU") == len(names) - 1
    one, *others = (
        {path.name: path.read_bytes() for path in (folder / "answers").iterdir()} for folder in folders
    )
    assert len(one) == 2 and all(other == one for other in others)
    assert (
        read_json(folders[1] / "cost.out")["peak_memory_mb"]
        > read_json(folders[0] / "cost.out")["peak_memory_mb"]
    )
