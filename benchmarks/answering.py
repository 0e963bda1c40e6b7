"""Answers batch by batch as transformers' `generate` makes them of a padded batch, and as we do: side by side.

    .venv/bin/python -m benchmarks.answering results/tutor/policies/tiny.sft/seed-1/model

The same prompts (turns of `rows.py`, or those of a prompt set), the longest first, greedy and drawn at temperature 1.
One answers all after the other, each warmed up by a prompt: read the ratio, of seconds on a GPU, and of this process's
CPU seconds where there is none, so that noise of the machine meets neither. Ours answers a prompt that
comes twice once (greedy), reads what prompts have in common once, lets answers that have ended leave the batch, and
appends to its keys and values in place. Equal answers are counted: they are the same but for rounding.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.rows import BASE, benchmarks_plan, turns
from workflow_scripts.common.answering import Answer, answer_of
from workflow_scripts.common.beginnings import left_padded
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import ends_of, reply_end, tokenise_prompt
from workflow_scripts.generate.engine import TransformersEngine
from workflow_scripts.plan.policies import template

SEED = 1


class Padded(TransformersEngine):
    """The library's own way: a batch goes on until its last answer has ended."""

    def answer(
        self, prompts: list[list[int]], sampling: dict, end: str, seed: int, missing: list[bool]
    ) -> Any:
        """Yield (index of the prompt, answer), batch by batch."""
        ends = ends_of(end, self.tokenizer, self.ends)
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        for number, start in enumerate(range(0, len(order), sampling["batch_size"])):
            batch = order[start : start + sampling["batch_size"]]
            torch.manual_seed(seed * 1_000_003 + number)
            yield from zip(batch, self.padded([prompts[at] for at in batch], sampling, ends), strict=True)

    @torch.inference_mode()
    def padded(self, prompts: list[list[int]], sampling: dict, ends: list[int]) -> list[Answer]:
        """Return the answers to prompts of one batch."""
        ids, mask = (each.to(self.model.device) for each in left_padded(prompts, self.tokenizer.pad_token_id))
        warm = sampling["temperature"]
        self.model.generation_config = GenerationConfig()
        made = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=sampling["max_new_tokens"],
            eos_token_id=ends,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"do_sample": True, "top_k": 0, "temperature": warm} if warm else {"do_sample": False}),
        )[:, ids.shape[1] :].tolist()
        return [answer_of(self.tokenizer, *each, ends, sampling) for each in zip(prompts, made, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--prompts", type=Path, help="rows of a prompt set, in place of the benchmarks' own")
    parser.add_argument("--count", type=int, default=100, help="prompts at most")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=88)
    arguments = parser.parse_args()
    spoken = template(benchmarks_plan(), BASE)
    tokenizer = load_tokenizer(arguments.model)
    settings = {"engine": {"precision": "auto"}, "trust_remote_code": False}
    rows = read_jsonl(arguments.prompts) if arguments.prompts else turns(arguments.count)
    prompts = [tokenise_prompt(row["messages"], spoken, tokenizer) for row in rows[: arguments.count]]
    engines = {
        "padded batches": Padded(arguments.model, tokenizer, settings),
        "ours": TransformersEngine(arguments.model, tokenizer, settings),
    }
    sampling = {"top_p": 1.0, "min_new_tokens": 0, "beams": 1, "repetition_penalty": 1.0, "stop": []}
    sampling |= {"max_new_tokens": arguments.new_tokens, "batch_size": arguments.batch_size}
    threads = torch.get_num_threads()
    print(f"{threads} threads, {len(prompts)} prompts of {sum(map(len, prompts)) / len(prompts):.0f} tokens")
    for name, warm in (("greedy", 0.0), ("drawn", 1.0)):
        seconds, processor, said = {}, {}, {}
        for way, engine in engines.items():
            how = (sampling | {"temperature": warm}, reply_end(spoken, tokenizer), SEED)
            dict(engine.answer(prompts[:1], *how, [True]))
            started, spent = time.perf_counter(), time.process_time()
            said[way] = dict(engine.answer(prompts, *how, [True] * len(prompts)))
            seconds[way] = time.perf_counter() - started
            processor[way] = time.process_time() - spent
        for way, answers in said.items():
            tokens = sum(answer.completion_tokens for answer in answers.values())
            print(
                f"{name:<8} {way:<16} {tokens / seconds[way]:7.0f} tokens/s   {tokens} tokens, "
                f"{processor[way]:.1f} CPU seconds"
            )
        on_gpu = torch.cuda.is_available()
        of = "seconds" if on_gpu else "CPU seconds"
        one, other = (seconds if on_gpu else processor).values()
        alike = sum(said["ours"][at] == answer for at, answer in said["padded batches"].items())
        print(f"{name:<8} ratio of {of} {one / other:.2f}, {alike} of {len(prompts)} answers the same")


if __name__ == "__main__":
    main()
