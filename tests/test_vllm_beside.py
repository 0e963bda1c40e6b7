"""PPO and RLOO whose answers vLLM draws: by the weights of each step, the same again, and a plain end where it fails.

vLLM is the one of .venv-vllm where it is set up (its CPU build: `make .venv-vllm/ready`), and else a stand-in of this
project, by transformers, which draws from the same distribution: what is handed over, and how, is the same.
"""

import math
import os
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.launching import command_of, deepspeed, run, train
from tests.online import LENGTH, online_flags, online_settings, ppo_settings, prompts
from tests.resuming import kill_once_checkpointed
from tests.tiny import ROOT, distance, weights_of
from tests.tiny_model import make_tiny_model
from workflow_scripts.align import vllm_beside
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.models import load_policy
from workflow_scripts.common.training.loading import load_trainable
from workflow_scripts.common.training.streaming import write_shared

REAL = (ROOT / ".venv-vllm" / "ready").exists()
STAND_IN = str(ROOT / "tests" / "stand_in")
BY_VLLM = {"engine": "vllm", "max_steps": 3, "log_every": 1, "precision": "float32", "top_p": 0.95}
LORA = {"rank": 2, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "merge": True}
RLOO = {"beta": 0.05, "num_generations": 4, "per_device_batch": 8, "warmup": 0.0, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model of heads as wide as vLLM's attention on a CPU needs them."""
    return make_tiny_model(tmp_path_factory.mktemp("wide") / "model", width=128)


def python_of_stand_in(folder: Path) -> str:
    """Return a Python that finds the stand-in, which the training's own must not."""
    script = folder / "python"
    lines = ["#!/bin/sh", f'PYTHONPATH="{STAND_IN}:$PYTHONPATH" exec "{sys.executable}" "$@"']
    script.write_text("\n".join(lines) + "\n")
    script.chmod(0o755)
    return str(script)


@pytest.fixture(autouse=True)
def engine(monkeypatch, tmp_path_factory) -> None:
    """Set the place of vLLM: the real one, or the stand-in."""
    if not REAL:
        monkeypatch.setenv(vllm_beside.PYTHON, python_of_stand_in(tmp_path_factory.mktemp("stand-in")))


@pytest.fixture
def stand_in(monkeypatch, tmp_path_factory):
    """Return a function that has the stand-in answer, whatever is set up here, and fail in a manner."""

    def fails(how: str) -> None:
        monkeypatch.setenv(vllm_beside.PYTHON, python_of_stand_in(tmp_path_factory.mktemp("stand-in")))
        monkeypatch.setenv("STAND_IN_VLLM", how)

    return fails


def flags_of(method: str, model: Path, folder: Path, **changed: object) -> list[str]:
    settings = (
        ppo_settings(**BY_VLLM | {"learning_rate": 1e-2} | changed)
        if method == "ppo"
        else online_settings(**BY_VLLM | RLOO | changed)
    )
    return online_flags(model, prompts(12), settings, folder, LENGTH)


def learn(method: str, model: Path, folder: Path, parallel: str | None = None, **changed: object) -> str:
    """Train; return what was printed."""
    flags = flags_of(method, model, folder, **changed)
    return train(command_of(f"workflow_scripts.align.{method}", flags, parallel))


def wait_until_nothing_is_left() -> None:
    """Wait until no weights lie about, and no engine runs, whose training has ended."""
    deadline = time.monotonic() + 60
    while left_over():
        assert time.monotonic() < deadline, left_over()
        time.sleep(0.1)


def left_over() -> list[str]:
    """Return the folders of weights, and the engines, of trainings that have ended."""
    places = {vllm_beside.MEMORY, Path(os.environ.get("TMPDIR", "/tmp"))}
    folders = [folder for place in places for folder in place.glob(f"{vllm_beside.PREFIX}*")]
    for each in psutil.process_iter(["cmdline"]):
        words = each.info["cmdline"] or []
        if "workflow_scripts.align.vllm_process" in words:
            folders.append(Path(words[words.index("--model") + 1]))
    return [str(folder) for folder in folders if not Path("/proc", folder.name.split("-")[2]).exists()]


@pytest.mark.parametrize("method", ["ppo", "rloo"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
def test_the_engine_draws_by_the_weights_of_each_step_and_the_same_again(method, lora, model, tmp_path):
    for name in ("first", "again"):
        learn(method, model, tmp_path / name, lora=lora)
    moved = distance(weights_of(tmp_path / "first" / "model"), weights_of(model))
    assert moved > 1e-2
    curve = read_json(tmp_path / "first" / "curve.json")
    assert [row["step"] for row in curve] == [1, 2, 3]
    # An engine that still had the parent's weights would be as far apart as these have moved.
    assert all(0 <= row["engine_gap"] < 1e-3 for row in curve), curve
    for file in ("curve.json", "model/model.safetensors"):
        assert sha256_of(tmp_path / "first" / file) == sha256_of(tmp_path / "again" / file), file
    wait_until_nothing_is_left()


@pytest.mark.parametrize(
    ("method", "parallel"),
    [("ppo", "ddp"), ("rloo", "fsdp"), pytest.param("rloo", "zero3", marks=deepspeed)],
)
def test_processes_hand_over_what_they_hold_together_and_each_draws_its_own(
    method, parallel, model, tmp_path
):
    learn(method, model, tmp_path, parallel)
    curve = read_json(tmp_path / "curve.json")
    assert len(curve) == 3 and all(row["engine_gap"] < 1e-3 for row in curve)
    assert distance(weights_of(tmp_path / "model"), weights_of(model)) > 1e-2
    wait_until_nothing_is_left()


@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_a_head_that_is_the_embedding_is_handed_over_with_it(method, tmp_path):
    model = make_tiny_model(tmp_path / "tied", width=128, tied=True)
    learn(method, model, tmp_path, learning_rate=1e-3)
    curve = read_json(tmp_path / "curve.json")
    assert len(curve) == 3 and all(row["engine_gap"] < 1e-4 for row in curve), curve
    assert distance(weights_of(tmp_path / "model"), weights_of(model)) > 1e-3


@deepspeed
def test_rloo_answers_itself_from_weights_that_zero_has_cut_up(model, tmp_path):
    learn("rloo", model, tmp_path, "zero3", engine="transformers")
    assert distance(weights_of(tmp_path / "model"), weights_of(model)) > 1e-2


def test_at_another_temperature_the_gap_is_that_of_the_distribution_that_is_drawn_from(model, tmp_path):
    learn("ppo", model, tmp_path, temperature=0.7, top_p=1.0, max_steps=2)
    assert all(row["engine_gap"] < 1e-3 for row in read_json(tmp_path / "curve.json"))


def test_a_killed_training_leaves_no_engine_and_no_weights_and_goes_on_to_the_same_bytes(model, tmp_path):
    more = {"max_steps": 4, "checkpoint_every": 2}
    learn("ppo", model, tmp_path / "whole", **more)
    flags = flags_of("ppo", model, tmp_path / "killed", **more)
    kill_once_checkpointed("workflow_scripts.align.ppo", flags, tmp_path / "killed" / "work", 2)
    wait_until_nothing_is_left()
    said = train(command_of("workflow_scripts.align.ppo", flags, None))
    assert "resuming from" in said
    for file in ("curve.json", "model/model.safetensors"):
        assert sha256_of(tmp_path / "killed" / file) == sha256_of(tmp_path / "whole" / file), file


@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_an_engine_with_other_weights_is_refused(method, model, tmp_path, stand_in):
    stand_in("stale")
    flags = flags_of(method, model, tmp_path, max_steps=8, learning_rate=0.1)
    done = run(command_of(f"workflow_scripts.align.{method}", flags, None))
    assert done.returncode == 1
    assert "error: vLLM does not answer as the policy would: they differ by " in done.stderr
    wait_until_nothing_is_left()


def test_an_engine_that_ends_ends_the_training_with_the_reason(model, tmp_path, stand_in):
    stand_in("ends")
    done = run(command_of("workflow_scripts.align.ppo", flags_of("ppo", model, tmp_path, max_steps=8), None))
    assert done.returncode == 1
    assert "error: vLLM, which answers for this training, has ended with status 7" in done.stderr


def test_without_vllm_it_is_said_how_to_get_it(model, tmp_path, monkeypatch):
    for nothing in ("", str(tmp_path / "nowhere")):
        monkeypatch.setenv(vllm_beside.PYTHON, nothing)
        done = run(command_of("workflow_scripts.align.ppo", flags_of("ppo", model, tmp_path), None))
        assert done.returncode == 1
        assert "error: engine: vllm: a training needs vLLM in .venv-vllm, which is not here" in done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_are_added_into_what_is_handed_over_and_not_into_the_policy(dtype, model, tmp_path):
    settings = ppo_settings(lora=LORA, dropout=None)
    policy = load_trainable(model, settings, 0)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    ids = torch.arange(12)[None]
    said = policy(ids).logits
    write_shared(policy, tmp_path / "handed", dtype=dtype)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.state_dict().items())
    found = load_policy(tmp_path / "handed", computing=torch.float32)
    assert {weight.dtype for weight in weights_of(tmp_path / "handed").values()} == {dtype}
    assert (found(ids).logits - said).abs().max() < (1e-4 if dtype == torch.float32 else 0.5)
    assert (load_policy(model, computing=torch.float32)(ids).logits - said).abs().max() > 0.5


def test_what_is_weighed_is_read_without_dropout_and_goes_on_so(model, tmp_path):
    more = {"max_steps": 4, "checkpoint_every": 2, "dropout": 0.0, "learning_rate": 1e-3}
    more["lora"] = LORA | {"dropout": 0.5}
    learn("ppo", model, tmp_path / "whole", **more)
    assert all(row["engine_gap"] < 1e-3 for row in read_json(tmp_path / "whole" / "curve.json"))
    flags = flags_of("ppo", model, tmp_path / "killed", **more)
    kill_once_checkpointed("workflow_scripts.align.ppo", flags, tmp_path / "killed" / "work", 2)
    train(command_of("workflow_scripts.align.ppo", flags, None))
    assert sha256_of(tmp_path / "killed" / "curve.json") == sha256_of(tmp_path / "whole" / "curve.json")
    learn("rloo", model, tmp_path / "rloo", **more)  # TRL reads with it: that stops nothing
    assert read_json(tmp_path / "rloo" / "curve.json")[-1]["engine_gap"] > 1e-3


def test_an_engine_knows_nothing_of_the_job_and_finds_the_machines_programs(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/usr")  # a container's Python, beside its programs
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/deepspeed/bin", "/usr/bin", "/opt/cuda/bin"]))
    monkeypatch.setenv("PYTHONPATH", "/usr/deepspeed")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_FSDP"):
        monkeypatch.setenv(name, "3")
    own = vllm_beside.own_environment()
    assert own["PATH"].split(os.pathsep)[1:] == ["/usr/bin", "/opt/cuda/bin"]
    assert own["PYTHONPATH"] == str(ROOT)
    assert not own.keys() & {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_FSDP"}


def test_how_far_an_engine_may_differ_follows_what_it_tells_of():
    settings = online_settings(engine="vllm", temperature=0.7, top_p=0.2)
    engine = object.__new__(vllm_beside.VllmBeside)
    for dtype, temperature, gap in (
        (torch.float32, 1, 0.05),
        (torch.bfloat16, 1, 0.5),
        (torch.bfloat16, 0.7, 0.5 + 1.6),
    ):
        engine.asked, engine.dtype = settings | {"temperature": temperature}, dtype
        engine.refuse_other_weights(gap)
        with pytest.raises(PlumblineError, match=f"differ by {gap + 0.1:.2f} nats a token"):
            engine.refuse_other_weights(gap + 0.1)


def test_the_room_that_a_job_has_left_is_the_least_of_its_groups(tmp_path):
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    assert vllm_beside.room_of_job(groups, own) == math.inf
    own.write_text("0::/slurm/job_1/step_0\n")
    step = groups / "slurm/job_1/step_0"
    step.mkdir(parents=True)
    for folder, most, taken in ((step, "max", 5), (step.parent, "1000", 400), (step.parents[1], "9000", 100)):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{taken}\n")
    assert vllm_beside.room_of_job(groups, own) == 600


def test_what_trainings_left_behind_that_were_killed_with_their_engines_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_beside, "MEMORY", tmp_path)
    folders = []
    for _ in range(2):
        folder, held = vllm_beside.folder_for(torch.nn.Linear(2, 2), torch.float32)
        folders.append((folder, held))
    (gone, ended), (kept, _) = folders
    (other := tmp_path / f"{vllm_beside.PREFIX}being-made").mkdir()
    ended.close()  # as the end of a process does
    vllm_beside.left_behind(tmp_path)
    assert not gone.exists() and kept.exists() and other.exists()


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_training_that_is_ended_with_its_engine_leaves_no_weights_for_long(signal, model, tmp_path):
    flags = flags_of("ppo", model, tmp_path, max_steps=500, checkpoint_every=500)
    command = command_of("workflow_scripts.align.ppo", flags, None)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        for line in job.stdout:
            if line.startswith('{"step": 1,'):
                break
        for process in (*psutil.Process(job.pid).children(), psutil.Process(job.pid)):
            process.send_signal(getattr(signals, signal))
        job.stdout.read()
    if signal == "SIGKILL":  # nobody was left to remove them: the next training does
        vllm_beside.left_behind(vllm_beside.MEMORY)
    wait_until_nothing_is_left()
