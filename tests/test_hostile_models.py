"""What a model folder can hold at its worst: it is refused with the folder and the reason, and none of it runs."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import write_manifest
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.download.prepare_model import check_finite, check_gguf, convert_gguf, link_hf


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def header_of(size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(struct.pack("<Q", size) + weights.read_bytes()[8:])

    return change


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def points_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "/etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def runs_code(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')")
    edit_json(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )


HOSTILE = {
    "a header of 2^63 bytes": (header_of(2**63 - 1), "header too large"),
    "a header longer than the file": (header_of(90_000_000), "header"),
    "cut weights": (cut, "file not fully covered"),
    "no weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "header too small"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "weights in other formats are not loaded",
    ),
    "an index that leaves the folder": (points_outside, "cannot be read"),
    "code of its own": (runs_code, "custom code"),
    "a config nested deep": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000 + "]" * 100_000),
        "recursion",
    ),
    "a config that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "cannot be read"),
    "a config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON"),
    "more layers than weights": (
        lambda folder: edit_json(folder / "config.json", num_hidden_layers=9),
        "in none of its files",
    ),
    "another shape": (lambda folder: edit_json(folder / "config.json", intermediate_size=7), "other shapes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broken_or_hostile_folder_is_refused_by_name_and_none_of_it_runs(folder, name):
    change, reason = HOSTILE[name]
    change(folder)
    with pytest.raises(PlumblineError, match=reason) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert not (folder / "RAN").exists()


def test_a_tokenizer_with_code_of_its_own_is_refused_and_nobody_is_asked_to_run_it(folder, capsys):
    runs_code(folder)
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["own.Own", "own.Own"]},
    )
    with pytest.raises(PlumblineError, match="custom code"):
        load_tokenizer(folder)
    assert "[y/N]" not in capsys.readouterr().out
    assert not (folder / "RAN").exists()


def test_a_slow_tokenizer_is_refused_with_what_to_do(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(PlumblineError, match=r"ByT5Tokenizer, is a slow one.*save a tokenizer\.json"):
        load_tokenizer(folder)


def test_a_vocabulary_with_merges_alone_becomes_a_fast_tokenizer(tmp_path):
    """OPT's repository has these; the published code asked for the slow tokenizer that reads them."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *map(chr, range(33, 127)), "Ġ", "ab"]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt", "vocab_size": len(pieces)}))
    own = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(own | {"add_bos_token": True, "unk_token": "</s>"})
    )
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer("abc", add_special_tokens=False, return_offsets_mapping=True)
    assert [pieces[each] for each in ids["input_ids"]] == ["ab", "c"]
    assert ids["offset_mapping"] == [(0, 2), (2, 3)]


def test_a_broken_tokenizer_is_refused_by_name(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(PlumblineError, match=f"{folder}: cannot be read as a tokenizer"):
        load_tokenizer(folder)


def test_weights_that_have_no_place_are_left_out_and_said(folder, capsys):
    edit_json(folder / "config.json", num_hidden_layers=1)
    load_policy(folder)
    assert "have no place in the model" in capsys.readouterr().err


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_found_when_the_model_is_prepared(folder, number):
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[3] = number
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PlumblineError, match=f"{name} holds numbers that are not finite"):
        check_finite(folder)


def test_a_chat_template_cannot_reach_beyond_its_sandbox(folder):
    from jinja2.exceptions import SecurityError

    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(SecurityError):
        load_tokenizer(folder).apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_folders_within_a_source_are_no_weights(folder, tmp_path):
    (folder / "original").mkdir()
    (tmp_path / "linked").mkdir()
    link_hf(folder, tmp_path / "linked")
    assert not (tmp_path / "linked/original").exists()
    write_manifest(tmp_path / "manifest.json", [tmp_path / "linked"])


def text(words: bytes) -> bytes:
    return struct.pack("<Q", len(words)) + words


def gguf(tensors: int, values: int, *parts: bytes, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, values) + b"".join(parts) + bytes(64)


GGUF = {
    "2^60 tensors": gguf(2**60, 0),
    "2^60 values": gguf(0, 2**60),
    "a text of 2^62 bytes": gguf(0, 1, text(b"general.architecture"), struct.pack("<IQ", 8, 2**62)),
    "a name of 2^62 bytes": gguf(0, 1, struct.pack("<Q", 2**62)),
    "a list of 2^40 numbers": gguf(0, 1, text(b"a"), struct.pack("<IIQ", 9, 4, 2**40)),
    "a list of 2^40 texts": gguf(0, 1, text(b"a"), struct.pack("<IIQ", 9, 8, 2**40)),
    "lists in lists": gguf(0, 1, text(b"a"), struct.pack("<I", 9), struct.pack("<IQ", 9, 1) * 2000),
    "nothing": b"",
    "an archive": b"PK\3\4" + bytes(100),
    "a version to come": gguf(0, 0, version=99),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_file_whose_lengths_lie_is_refused_at_once(tmp_path, name):
    file = tmp_path / "model.gguf"
    file.write_bytes(GGUF[name])
    with pytest.raises(PlumblineError, match=r"model\.gguf"):
        convert_gguf(file, tmp_path / "out")


def test_a_gguf_header_is_believed_only_as_far_as_the_file_reaches(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf(6, 1))
    with pytest.raises(PlumblineError, match="cut or broken"):
        check_gguf(file)
