"""Answers by vLLM against answers by transformers: the same policy, prompts and settings, side by side.

Run after `make results` and `envs/install-vllm.sh cpu` (or `cuda`):

    .venv-vllm/bin/python -m benchmarks.engines results/tutor/policies/tiny.sft/seed-1/model \\
        --prompts results/tutor/prompts/tutor.json

Both engines answer every prompt of the set, taking turns, so noise of the machine meets both alike: read the ratio. The
time to load them stands apart. Tokens are those of the answers.
"""

import argparse
import os
import time
from pathlib import Path

import torch
import yaml

from workflow_scripts.common import templates
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.common.models import load_tokenizer, precision_of
from workflow_scripts.generate.answer import prompt_ids
from workflow_scripts.generate.engine import TransformersEngine
from workflow_scripts.generate.vllm_engine import VllmEngine

ROUNDS, SEED = 3, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--prompts", type=Path, required=True, help="manifest of a prompt set")
    parser.add_argument("--template", default="tutor", help="how the policy is spoken to")
    parser.add_argument("--context", type=int, default=512, help="tokens of prompt and answer together")
    parser.add_argument("--precision", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--limit", type=int, help="ask the first so many prompts")
    arguments = parser.parse_args()
    sampling = read_json(arguments.prompts)["sampling"]
    named = yaml.safe_load(Path(templates.__file__).with_suffix(".yaml").read_text())
    settings = {
        "engine": {"precision": arguments.precision, "gpu_memory_share": 0.5},
        "template": named[arguments.template],
        "context": arguments.context,
        "trust_remote_code": False,
    }
    tokenizer = load_tokenizer(arguments.model)
    rows = read_jsonl(arguments.prompts.with_suffix(".jsonl"))[: arguments.limit]
    room = arguments.context - sampling["max_new_tokens"]
    prompts = [prompt_ids(row, [], settings, tokenizer)[-room:] for row in rows]
    end = templates.reply_end(settings["template"], tokenizer)
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    engines, loading, best, said = {}, {}, {}, {}
    for name, kind in (("vLLM", VllmEngine), ("transformers", TransformersEngine)):
        started = time.perf_counter()
        engines[name] = kind(arguments.model, tokenizer, settings)
        loading[name] = time.perf_counter() - started
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            started = time.perf_counter()
            said[name] = dict(engine.answer(prompts, sampling, end, SEED, [True] * len(prompts)))
            best[name] = min(best.get(name, float("inf")), time.perf_counter() - started)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{threads} CPU threads"
    print(
        f"{device}, {precision_of(arguments.precision)}, {len(prompts)} prompts of "
        f"{sum(map(len, prompts)) / len(prompts):.0f} tokens, best of {ROUNDS} rounds"
    )
    speeds = {}
    for name, answers in said.items():
        tokens = sum(answer.completion_tokens for answer in answers.values())
        speeds[name] = tokens / best[name]
        print(f"  {name:<12} {speeds[name]:7.0f} tokens/s   {tokens} tokens, loaded in {loading[name]:.0f} s")
    alike = sum(said["vLLM"][index] == said["transformers"][index] for index in range(len(prompts)))
    print(
        f"  ratio {speeds['vLLM'] / speeds['transformers']:.2f}, {alike} of {len(prompts)} answers the same"
    )


if __name__ == "__main__":
    main()
