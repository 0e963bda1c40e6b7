"""Files: a finished name holds finished bytes, and equal artefacts have equal manifests."""

import hashlib
import json

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import (
    digest,
    finished_file,
    finished_folder,
    read_json,
    read_jsonl,
    sha256_of,
    write_json,
    write_jsonl,
    write_manifest,
)


def test_a_file_appears_only_when_it_is_finished(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with finished_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), finished_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(ValueError, match="no"), finished_file(tmp_path / "file.txt"):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with finished_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert [item.name for item in path.iterdir()] == ["second"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "folder"
    with finished_folder(path) as temporary:
        (temporary / "old").write_text("old")
    with pytest.raises(ValueError, match="no"), finished_folder(path) as temporary:
        (temporary / "half").write_text("half")
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == [path]
    assert [item.name for item in path.iterdir()] == ["old"]


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [{"text": "é\u2028日\nnext"}, {"text": ""}, {"n": 1.5}]
    assert write_jsonl(tmp_path / "rows.jsonl", rows) == 3
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_unreadable_files_are_named_with_their_line(tmp_path, read):
    path = tmp_path / "file"
    with pytest.raises(PlumblineError, match=f"{path}: no such file"):
        read(path)
    path.write_text('{"a": 1}\n{"b": \n')
    with pytest.raises(PlumblineError, match=f"{path}:2: not JSON"):
        read(path)
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(PlumblineError, match=f"{path}:1: not UTF-8"):
        read(path)


def test_a_digest_does_not_know_the_order_of_keys():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1, "b": [2, 3]}) != digest({"a": 1, "b": [3, 2]})


def make_artefact(folder):
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"123")
    (folder / "model" / "config").write_bytes(b"{}")
    (folder / "rows").write_bytes(b"rows")
    write_manifest(folder / "manifest.json", [folder / "rows", folder / "model"], counts={"kept": 3, "a": 1})
    return (folder / "manifest.json").read_bytes()


def test_equal_artefacts_have_equal_manifests_wherever_they_lie(tmp_path):
    assert make_artefact(tmp_path / "one") == make_artefact(tmp_path / "another" / "place")


def test_a_manifest_names_every_file_and_its_bytes(tmp_path):
    manifest = json.loads(make_artefact(tmp_path / "one"))
    hashes = {"rows": b"rows", "model/weights": b"123", "model/config": b"{}"}
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in hashes.items()}
    assert manifest["counts"] == {"kept": 3, "a": 1}
    (tmp_path / "one" / "model" / "weights").write_bytes(b"124")
    assert sha256_of(tmp_path / "one" / "model" / "weights") not in manifest["files"].values()


def test_the_order_of_keys_and_files_does_not_change_a_manifest(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    found = set()
    for files, facts in ((["a", "b"], {"x": 1, "y": 2}), (["b", "a"], {"y": 2, "x": 1})):
        write_manifest(tmp_path / "manifest.json", [tmp_path / name for name in files], **facts)
        found.add((tmp_path / "manifest.json").read_bytes())
    assert len(found) == 1


def test_a_written_value_is_not_seen_half(tmp_path):
    write_json(tmp_path / "value.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"a": object()})
    assert read_json(tmp_path / "value.json") == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["value.json"]
