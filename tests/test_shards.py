"""Several engines that share out a policy's prompts: the answers of one, to the byte, and a plain end if one fails."""

import os
import signal

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


HOWS = [
    ("fail", "share the work failed: ValueError: no such thing"),
    ("ours", "share the work failed: model.safetensors: cannot be read"),
    ("killed", "one of the 2 processes that share the work was ended by signal 9"),
]


@pytest.mark.parametrize(("how", "said"), HOWS)
def test_a_share_that_fails_or_is_killed_ends_the_job_with_the_reason(capfd, how, said):
    with pytest.raises(PlumblineError, match=said):
        list(shards.Shards(Counting, (), 2, []).ask("end", how))
    # Of what a user can mend the message is enough.
    assert ("Traceback" in capfd.readouterr().err) is (how == "fail")


@pytest.mark.parametrize(("how", "said"), HOWS)
def test_a_share_that_cannot_be_loaded_ends_the_job_with_the_reason(how, said):
    with pytest.raises(PlumblineError, match=said):
        shards.Shards(Counting, (how,), 2, [])


@pytest.mark.parametrize("size", [1, 500_000])
def test_a_share_that_was_killed_between_two_requests_is_told_of_however_much_is_asked(counting, size):
    assert list(counting.ask("size", list(range(size)))) == [size, size]
    os.kill(counting.workers[1][0].pid, signal.SIGKILL)
    counting.workers[1][0].join()
    with pytest.raises(PlumblineError, match="ended by signal 9"):
        list(counting.ask("size", list(range(size))))


def test_once_it_is_enough_no_share_begins_another_item_and_it_can_be_asked_again(counting):
    took = []
    found = list(counting.ask("numbers", 100, enough=lambda seconds: took.append(seconds) or len(took) == 4))
    assert len(found) in (4, 5)  # what the other was at still comes
    assert len(took) == len(found) and min(took) >= 0
    assert sorted(counting.ask("numbers", 7)) == list(range(7))


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
