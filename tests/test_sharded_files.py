"""Policies that processes share are read and written in parts: the same bytes as one process reads and writes whole."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig

from tests.launching import command_of, deepspeed, run, train
from tests.sharing import move_adapters
from tests.tiny import settings_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.training.loading import load_trainable, merged

LORA = {"rank": 1, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "merge": True}
WIDE = 10**9
SIZES = {"vocab_size": 203, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = SIZES | {"intermediate_size": 24, "num_key_value_heads": 1}
# (what it is like, its settings, the bytes of a file that is written)
POLICIES = {
    "plain": (LlamaConfig(**LLAMA), torch.float32, {}, WIDE),
    "many-files": (LlamaConfig(**LLAMA), torch.float32, {}, 9000),
    "tied-in-16-bits": (LlamaConfig(**LLAMA, tie_word_embeddings=True), torch.bfloat16, {}, WIDE),
    "fused-experts": (MixtralConfig(**LLAMA, num_local_experts=3), torch.float32, {}, WIDE),
    "short-names": (GPT2Config(vocab_size=203, n_embd=16, n_layer=2, n_head=2), torch.float32, {}, WIDE),
    "adapted": (LlamaConfig(**LLAMA), torch.float32, {"lora": LORA}, WIDE),
}


def make(config: object, dtype: torch.dtype, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("parallel", "processes"),
    [("fsdp", 2), pytest.param("zero3", 2, marks=deepspeed), pytest.param("zero3", 3, marks=deepspeed)],
)
def test_a_shared_policy_is_read_and_written_as_a_whole_one(tmp_path, parallel, processes):
    tasks = []
    for name, (config, dtype, settings, largest) in POLICIES.items():
        folder = make(config, dtype, tmp_path / name)
        tasks.append(
            {
                "model": str(folder),
                "to": str(tmp_path / f"{name}-shared"),
                "settings": settings_of(**settings, precision="float32"),
                "largest": largest,
            }
        )
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    said = train(command_of("tests.sharing", [str(tmp_path / "tasks.json")], parallel, processes))
    assert "reads all weights" not in said
    buffers = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    for task in tasks:
        name = Path(task["model"]).name
        model = load_trainable(task["model"], task["settings"], 1)
        move_adapters(model)
        expected = {place: float(buffer.double().sum()) for place, buffer in model.named_buffers()}
        assert buffers.count(expected) >= processes, name
        merged(model).save_pretrained(tmp_path / "whole" / name, max_shard_size=task["largest"])
        found = {path.name: path.read_bytes() for path in Path(task["to"]).iterdir()}
        assert found == {path.name: path.read_bytes() for path in (tmp_path / "whole" / name).iterdir()}, name
        assert ("model.safetensors.index.json" in found) == (task["largest"] < WIDE)


@deepspeed
def test_a_file_that_is_not_of_its_configuration_is_named_under_zero_as_it_is_elsewhere(tmp_path):
    folder = make(LlamaConfig(**LLAMA), torch.float32, tmp_path / "model")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"intermediate_size": 40})
    task = {"model": str(folder), "to": str(tmp_path / "to"), "settings": settings_of(), "largest": WIDE}
    write_json(tmp_path / "tasks.json", [task])
    with pytest.raises(PlumblineError) as plain:
        load_trainable(folder, settings_of(), 1)
    done = run(command_of("tests.sharing", [str(tmp_path / "tasks.json")], "zero3"))
    assert done.returncode and str(plain.value) in done.stderr
