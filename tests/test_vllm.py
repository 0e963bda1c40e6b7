"""Answers by vLLM: those of transformers at temperature 0, drawn the same again, adapters unmerged.

`make test-vllm` runs this file in an environment with vLLM, on a CPU if need be; elsewhere what needs it is skipped.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.export_study import found_in
from tests.generation import GREEDY, QUESTIONS, SETTINGS, TEMPLATE, WARM, Study, rows_of
from tests.tiny_model import make_tiny_model
from workflow_scripts.common import templates
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.vllm_policy import configuration, longer_positions, parallel_size, rank_of
from workflow_scripts.export.folder import write_folder
from workflow_scripts.generate import vllm_engine
from workflow_scripts.generate.engine import TransformersEngine
from workflow_scripts.generate.vllm_engine import VllmEngine

ROOT = Path(__file__).resolve().parents[1]
HERE = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HERE, reason="vLLM is not installed here: make test-vllm")
ENGINE = {"name": "vllm", "precision": "float32", "gpu_memory_share": 0.5}
VLLM = SETTINGS | {"engine": ENGINE}
PROMPTS = [*QUESTIONS, "Name two gases. " * 12, QUESTIONS[0] + " " + QUESTIONS[2]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of heads as wide as vLLM's attention on a CPU needs them, asked beyond the positions it says it has."""
    folder = make_tiny_model(tmp_path_factory.mktemp("wide") / "model", width=128)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"max_position_embeddings": 64})
    return folder


@pytest.fixture(scope="module")
def engine(model):
    return VllmEngine(model, load_tokenizer(model), VLLM)


@pytest.fixture(scope="module")
def other(model):
    return TransformersEngine(model, load_tokenizer(model), SETTINGS)


@pytest.fixture(scope="module")
def asked(model):
    tokenizer = load_tokenizer(model)
    messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    return [templates.tokenise_prompt(each, TEMPLATE, tokenizer) for each in messages]


def answers_of(engine, asked, sampling, end="{eos}", seed=1, missing=None):
    return dict(sorted(engine.answer(asked, sampling, end, seed, missing or [True] * len(asked))))


# The same answers as transformers.


def test_a_policy_that_names_its_sizes_in_its_own_way_is_read_as_any_other(tmp_path):
    sizes = {"model_type": "gpt2", "n_head": 12, "n_embd": 768, "n_positions": 1024}
    write_json(tmp_path / "config.json", sizes)
    found = configuration(tmp_path)
    assert found["num_attention_heads"] == 12 and found["max_position_embeddings"] == 1024
    assert parallel_size(8, found)[0] == 6
    assert longer_positions(found, 2048) == {}  # its positions are learned
    write_json(tmp_path / "config.json", {"model_type": "mamba", "hidden_size": 64})
    assert parallel_size(4, configuration(tmp_path))[0] == 1


@needs_vllm
@pytest.mark.parametrize("case", ["plain", "stop", "stops", "end", "least", "least before a stop", "long"])
def test_answers_at_temperature_0_are_those_of_transformers(engine, other, asked, case, monkeypatch):
    sampling, end = GREEDY | {"max_new_tokens": 24}, "{eos}"
    plain = answers_of(other, asked, sampling)
    if case == "stop":
        sampling |= {"stop": [plain[0].text[5:7]]}
    if case in ("stops", "least before a stop"):
        sampling |= {"stop": [plain[0].text[8:11], plain[1].text[3:6], "?"]}
    if case in ("end", "least"):
        tokens = other.tokenizer(plain[0].text)["input_ids"]
        own = next(each for each in tokens[2:] if len(other.tokenizer.decode([each])) > 1)
        for each in (engine, other):
            monkeypatch.setattr(each, "ends", [own])
    if case in ("least", "least before a stop"):
        sampling |= {"min_new_tokens": 12}
    if case == "long":
        sampling |= {"max_new_tokens": 120}
    expected = answers_of(other, asked, sampling, end)
    assert answers_of(engine, asked, sampling, end) == expected
    reason = "length" if case in ("plain", "long") else "stop"
    assert reason in {each.finish_reason for each in expected.values()}
    if case == "least":
        assert min(each.completion_tokens for each in expected.values()) > 12 > plain_end(other, asked)
    if case == "least before a stop":
        assert min(each.completion_tokens for each in expected.values()) < 12, "a stop string goes before it"


def plain_end(engine, asked):
    return min(each.completion_tokens for each in answers_of(engine, asked, GREEDY).values())


@needs_vllm
def test_turns_samples_and_cut_prompts_are_answered_as_by_transformers(tmp_path, model, engine, monkeypatch):
    monkeypatch.setattr(vllm_engine, "VllmEngine", lambda *_: engine)
    rows = []
    for name, settings in (("transformers", SETTINGS["engine"]), ("vllm", ENGINE)):
        (tmp_path / name).mkdir()
        study = Study(tmp_path / name, model)
        study.add("talk", rows_of(PROMPTS, ["And?", "Why is that?"]), samples=2)
        study.answer("talk", engine=settings, context=100)
        rows.append(study.collect("talk"))
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(PROMPTS) * 3 * 2
    assert any("prompt_tokens_cut" in row for row in rows[0])


@needs_vllm
def test_a_base_model_says_where_an_answer_ends_and_not_how_it_is_drawn(
    tmp_path, model, other, asked, monkeypatch
):
    own, ends = copied(model, tmp_path / "own"), list(range(4, 90))
    brought = {"repetition_penalty": 3.0, "temperature": 2.0, "eos_token_id": ends}
    write_json(own / "generation_config.json", brought)
    study = Study(tmp_path, own)
    study.add("talk", rows_of(PROMPTS))
    answer_apart(study)
    monkeypatch.setattr(other, "ends", ends)
    expected = answers_of(other, asked, GREEDY)
    assert [row["text"] for row in study.collect("talk")] == [each.text for each in expected.values()]


def copied(model, folder):
    """Return a copy of a model folder."""
    shutil.copytree(model, folder)
    return folder


def answer_apart(study, killed_at=None):
    """Answer prompt set `talk` in a process of its own; return its log. It may be killed at so many stored lines.

    A second engine in one process would share vLLM's global state with the first, and take it along when it goes.
    """
    command = [sys.executable, "-m", "workflow_scripts.generate.answer", "--model", study.model]
    command += ["--model-manifest", study.folder / "model.json", "--prompts", study.folder / "talk.json"]
    command += ["--settings", json.dumps(VLLM), "--seed", 1, "--work", study.folder / "work"]
    command += ["--answers", study.folder / "answers", "--output", study.folder / "answered.out"]
    command += ["--cost", study.folder / "cost.out"]
    with open(study.folder / "log", "w") as log:
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while killed_at is not None and process.poll() is None:
            stores = list((study.folder / "work").glob("*.jsonl"))
            if stores and stores[0].read_bytes().count(b"\n") >= killed_at:
                break
            time.sleep(0.02)
        if killed_at is None:
            process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    said = (study.folder / "log").read_text()
    assert process.wait() == (0 if killed_at is None else -signal.SIGKILL), said[-3000:]
    return said


# Drawing, and drawing again.


@needs_vllm
def test_sampling_is_repeated_by_its_seed_and_changed_by_another(engine, asked):
    first = answers_of(engine, asked, WARM)
    assert answers_of(engine, asked, WARM) == first
    assert answers_of(engine, asked, WARM, seed=2) != first
    twice = answers_of(engine, [asked[0]] * 2, WARM)
    assert twice[0] != twice[1], "two requests of one prompt are drawn apart"


@needs_vllm
def test_what_is_still_missing_changes_no_draw(engine, asked, monkeypatch):
    monkeypatch.setattr(vllm_engine, "PORTION", 2)
    whole = answers_of(engine, asked, WARM)
    assert len(whole) == len(asked)
    missing = [index == 4 for index in range(len(asked))]
    found = answers_of(engine, asked, WARM, missing=missing)
    assert found == {index: whole[index] for index in (4, 5)}, "one portion, whole"


@needs_vllm
def test_one_load_answers_every_prompt_set(tmp_path, model, engine, monkeypatch):
    loaded = []

    class Counted:
        def __init__(self, *_):
            loaded.append(1)

        tokenizer, until = engine.tokenizer, staticmethod(engine.until)

    monkeypatch.setattr(vllm_engine, "VllmEngine", Counted)
    study = Study(tmp_path, model)
    study.add("one", rows_of(PROMPTS[:3]))
    study.add("two", rows_of(PROMPTS[2:], ["And?"]), temperature=0.7, samples=2)
    study.add("three", rows_of(["Why?"]), max_new_tokens=3)
    study.answer("one", "two", "three", engine=ENGINE)
    assert [len(study.collect(name)) for name in ("one", "two", "three")] == [3, 20, 1]
    assert loaded == [1]


@needs_vllm
def test_a_run_killed_with_9_goes_on_to_the_same_answers(tmp_path, model, engine, monkeypatch):
    monkeypatch.setattr(vllm_engine, "VllmEngine", lambda *_: engine)
    rows = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        study = Study(tmp_path / name, model)
        study.add("talk", rows_of(PROMPTS, ["And?"]), temperature=1.0, samples=10, max_new_tokens=40)
        if name == "killed":
            answer_apart(study, killed_at=len(PROMPTS) * 3)
            stored = [path.read_text().count("\n") for path in (study.folder / "work").glob("*.jsonl")]
            assert 0 < stored[0] < len(rows["whole"])
        study.answer("talk", engine=ENGINE)
        rows[name] = study.collect("talk")
    assert rows["whole"] == rows["killed"]
    assert len({row["text"] for row in rows["whole"]}) > 60


# Adapters.


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    """An unmerged adapter of rank 2 on the model, as PEFT writes it, with the tokenizer."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter") / "model"
    config = LoraConfig(
        r=2, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(load_policy(model), config)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return folder


@needs_vllm
def test_an_unmerged_adapter_answers_as_the_merged_policy(tmp_path, model, other, asked, adapter):
    merged = tmp_path / "merged"
    load_policy(adapter).save_pretrained(merged)
    other.tokenizer.save_pretrained(merged)
    said = {}
    for name, folder in (("unmerged", adapter), ("whole", merged)):
        (tmp_path / name).mkdir()
        study = Study(tmp_path / name, folder)
        study.add("talk", rows_of(PROMPTS), max_new_tokens=24, stop=["?"])
        log = answer_apart(study)
        where = "tensor parallel over" if torch.cuda.is_available() else "on the CPU"
        assert re.search(rf"\nvLLM [\d.]+: attention \w+, float32, {where}", log)
        assert (f", adapter of rank 2 on {model}\n" in log) == (name == "unmerged")
        said[name] = [row["text"] for row in study.collect("talk")]
    assert said["unmerged"] == said["whole"]
    by_transformers = TransformersEngine(adapter, other.tokenizer, SETTINGS)
    sampling = GREEDY | {"max_new_tokens": 24, "stop": ["?"]}
    assert said["whole"] == [each.text for each in answers_of(by_transformers, asked, sampling).values()]
    assert said["whole"] != [each.text for each in answers_of(other, asked, sampling).values()]


@needs_vllm
def test_an_exported_folder_is_served_and_answers_as_the_policy(tmp_path, model, other, asked, adapter):
    for name, folder in (("whole", model), ("merged", adapter)):
        (tmp_path / name / "out").mkdir(parents=True)
        taken = found_in(model)._replace(model=folder)
        write_folder(taken, tmp_path / name / "out", None)
        study = Study(tmp_path / name, tmp_path / name / "out")
        study.add("talk", rows_of(PROMPTS), max_new_tokens=24)
        answer_apart(study)
        engine = TransformersEngine(folder, other.tokenizer, SETTINGS)
        expected = answers_of(engine, asked, GREEDY | {"max_new_tokens": 24})
        assert [row["text"] for row in study.collect("talk")] == [each.text for each in expected.values()], (
            name
        )


def test_an_adapter_gets_the_room_vllm_can_make_for_its_rank():
    assert [rank_of(rank) for rank in (1, 2, 8, 9, 64, 100, 512)] == [1, 8, 8, 16, 64, 128, 512]
    with pytest.raises(PlumblineError, match=r"lora.rank 513: vLLM serves adapters of rank 512 at most"):
        rank_of(513)


# How it is loaded.


@needs_vllm
def test_the_engine_caches_prefixes_and_computes_as_the_study_says(engine, asked):
    config = engine.llm.llm_engine.vllm_config
    assert config.cache_config.enable_prefix_caching
    assert config.model_config.dtype == torch.float32
    assert config.model_config.max_model_len == VLLM["context"]
    assert not config.model_config.trust_remote_code


@needs_vllm
def test_a_context_the_model_has_not_is_an_error(tmp_path, model):
    folder = copied(model, tmp_path / "own")
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    config = read_json(folder / "config.json") | {"rope_parameters": rope}
    write_json(folder / "config.json", config)
    with pytest.raises(PlumblineError, match=r"vLLM cannot serve it: [\s\S]*max_model_len"):
        VllmEngine(folder, load_tokenizer(model), VLLM)


@pytest.mark.skipif(HERE, reason="vLLM is installed here")
def test_without_vllm_it_is_said_how_to_get_it(tmp_path, tiny_model):
    study = Study(tmp_path, tiny_model)
    study.add("one", rows_of(["One?"]))
    with pytest.raises(
        PlumblineError, match=r"(?s)engine: vllm.*No module named 'vllm'.*install-vllm\.sh cuda"
    ):
        study.answer("one", engine=ENGINE)
    assert not (tmp_path / "answered.out").exists()


@pytest.mark.parametrize(
    ("gpus", "heads", "shared", "width", "size"),
    [
        (0, 32, 8, 14336, 1),
        (1, 32, 8, 14336, 1),
        (4, 32, 8, 14336, 4),
        (8, 32, 8, 14336, 8),
        (3, 32, 8, 14336, 2),
        (6, 32, 8, 14336, 4),
        (16, 32, 8, 14336, 16),
        (4, 14, 2, 4864, 2),
        (7, 28, 4, 18944, 4),
        (3, 6, None, 768, 3),
        (4, 9, 3, 1536, 3),
        (4, 4, 4, 6, 2),
    ],
)
def test_a_model_is_split_over_as_many_gpus_as_its_heads_and_width_allow(gpus, heads, shared, width, size):
    config = {"num_attention_heads": heads, "intermediate_size": width}
    config |= {} if shared is None else {"num_key_value_heads": shared}
    count, said = parallel_size(gpus, config)
    assert count == size
    assert (f"over {size} of {gpus} GPUs" in said) == (size < gpus)


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        ({"rope_theta": 1e4, "rope_scaling": None}, True),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, True),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, False),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, False),
        ({}, False),
    ],
)
def test_only_plain_rotary_positions_go_on_beyond_what_the_model_says(config, changed):
    config |= {"max_position_embeddings": 256}
    assert longer_positions(config, 512) == ({"max_position_embeddings": 512} if changed else {})
    assert longer_positions(config, 256) == {}


def test_an_engine_takes_only_safetensors_and_a_base_that_is_there(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(vllm_engine, "load_vllm", lambda: None)
    write_json(tmp_path / "config.json", read_json(tiny_model / "config.json"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(PlumblineError, match=r"no \*\.safetensors here"):
        VllmEngine(tmp_path, None, VLLM)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "gone", "r": 2})
    with pytest.raises(PlumblineError, match="adapts the model in gone, which is not there"):
        VllmEngine(tmp_path, None, VLLM)
