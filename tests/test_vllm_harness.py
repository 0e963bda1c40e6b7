"""The lm-evaluation-harness by vLLM: the numbers of its own command line with that backend, and of transformers.

`make test-vllm` runs this file in an environment with vLLM, on a CPU if need be; elsewhere it is skipped.
"""

import importlib.metadata
import importlib.util
import json

import pytest
import torch

from tests.command import call
from tests.harness_files import our_numbers, own_numbers, settings_on, start_own, with_template, write_tasks
from tests.tiny_model import make_tiny_model
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.score.harness import run as lm_eval_run

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here: make test-vllm"
)
BY_VLLM = {"name": "vllm", "gpu_memory_share": 0.4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of heads as wide as vLLM's attention on a CPU needs them, with a chat template."""
    wide = make_tiny_model(tmp_path_factory.mktemp("wide") / "model", width=128)
    return with_template(wide, tmp_path_factory.mktemp("chatty"))


def numbers_by(backend, model, folder, output):
    flags = [
        "--model",
        model,
        "--settings",
        json.dumps(settings_on(folder)),
        "--backend",
        json.dumps(backend),
    ]
    call(lm_eval_run.main, *flags, "--output", output)
    return our_numbers(read_json(output))


@pytest.fixture(scope="module")
def ours(model, folder, tmp_path_factory):
    return numbers_by(BY_VLLM, model, folder, tmp_path_factory.mktemp("ours") / "ours.json")


def test_every_number_is_the_one_of_the_harness_own_command_line_with_vllm(model, folder, tmp_path, ours):
    import vllm

    try:
        importlib.metadata.distribution("vllm")
        environment = {}
    except (
        importlib.metadata.PackageNotFoundError
    ):  # the CPU build goes by another name, which the harness knows not
        named = tmp_path / f"named/vllm-{vllm.__version__}+cpu.dist-info"
        named.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm.__version__}+cpu\n"
        (named / "METADATA").write_text(text)
        environment = {"PYTHONPATH": str(named.parent)}
    how = f"pretrained={model},dtype=float32,enforce_eager=True,gpu_memory_utilization=0.4"
    how += f",kv_cache_memory_bytes={2**30}" if environment else ""
    flags = ["--model", "vllm", "--batch_size", "auto", "--model_args", how]
    quiet = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    started = start_own(folder, tmp_path / "theirs.json", *flags, **quiet, **environment)
    assert ours == pytest.approx(own_numbers(started, tmp_path / "theirs.json"), rel=1e-5)
    assert len(ours) == 2 + 3 + 1 + 3 + 1


def test_the_numbers_are_those_of_transformers(model, folder, tmp_path, ours):
    """But for texts with special tokens in them, which the harness keeps by vLLM and leaves out by transformers."""
    theirs = numbers_by(lm_eval_run.BY_TRANSFORMERS, model, folder, tmp_path / "theirs.json")
    compared = {name for name in ours if name[0] != "translation"}
    assert len(compared) == 7 and ours.keys() == theirs.keys()
    assert {name: ours[name] for name in compared} == pytest.approx(
        {name: theirs[name] for name in compared}, rel=1e-4
    )


PLAIN = {"dtype": "float32", "batch_size": 2, "apply_chat_template": False}


def asked_of(*texts: tuple[str, str]) -> list[lm_eval_run.Instance]:
    return [lm_eval_run.Instance("loglikelihood", {}, each, 0, ("quiz", 0, 1)) for each in texts]


def test_what_is_cut_to_the_context_is_counted_and_an_end_that_does_not_fit_is_refused(model):
    policy = lm_eval_run.load_model(model, PLAIN, BY_VLLM)
    word = " water"
    each = len(policy.tok_encode(word * 100)) / 100
    many = int(policy.max_length / each)
    answers = policy.loglikelihood(asked_of(("Why?", word), (word * 2 * many, word)))
    assert policy.cut == {"quiz": 1} and policy.asked == {"quiz": 2}
    assert all(likelihood < 0 for likelihood, _ in answers)
    written = [
        lm_eval_run.Instance(
            "generate_until", {}, (text, {"until": ["?"], "max_gen_toks": 9}), 0, ("w", 0, 1)
        )
        for text in ("Why?", word * 2 * many)
    ]
    policy.generate_until(written)
    assert policy.cut["w"] == 1
    with pytest.raises(
        PlumblineError, match=r"a text of \d+ tokens whose likelihood is asked for does not fit"
    ):
        policy.loglikelihood(asked_of(("Why?", word * 2 * many)))


def test_an_unmerged_adapter_is_scored_as_the_merged_policy(model, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_policy(model), LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    for folder in (tmp_path / "unmerged", tmp_path / "merged"):
        (adapted if folder.name == "unmerged" else adapted.merge_and_unload()).save_pretrained(folder)
        load_tokenizer(model).save_pretrained(folder)
    asked = asked_of(*((question, " Name two gases.") for question in ("Yes?", "What is osmosis?", "Why")))
    own, whole, before = (
        [likelihood for likelihood, _ in lm_eval_run.load_model(folder, PLAIN, backend).loglikelihood(asked)]
        for folder, backend in (
            (tmp_path / "unmerged", BY_VLLM),
            (tmp_path / "merged", lm_eval_run.BY_TRANSFORMERS),
            (model, lm_eval_run.BY_TRANSFORMERS),
        )
    )
    assert own == pytest.approx(whole, rel=1e-4)
    assert own != pytest.approx(before, rel=1e-3)
