"""Answer prompts with vLLM: one engine over the rule's GPUs, prefix caching on. Same interface as `engine`."""

from collections.abc import Iterator
from typing import Any

import torch
from vllm import LLM, SamplingParams, TokensPrompt

from workflow_scripts.generate.engine import Answer, cut_at, end_tokens


class VllmEngine:
    """One loaded policy that answers any number of prompt sets."""

    def __init__(self, model: Any, tokenizer: Any, settings: dict, trust_remote_code: bool) -> None:
        self.tokenizer = tokenizer
        self.llm = LLM(
            model=str(model),
            tensor_parallel_size=max(1, torch.cuda.device_count()),
            gpu_memory_utilization=settings["gpu_memory_share"],
            enable_prefix_caching=True,
            trust_remote_code=trust_remote_code,
            load_format="safetensors",
        )

    def answer(
        self, prompts: list[list[int]], sampling: dict, end: str, seed: int
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the prompt, answer); vLLM batches by itself, each request has its own seed."""
        requests = [
            SamplingParams(
                max_tokens=sampling["max_new_tokens"],
                min_tokens=sampling["min_new_tokens"],
                temperature=sampling["temperature"],
                top_p=sampling["top_p"],
                seed=seed * 1_000_003 + index,
                stop=sampling["stop"],
                stop_token_ids=end_tokens(self.tokenizer, end),
            )
            for index in range(len(prompts))
        ]
        outputs = self.llm.generate([TokensPrompt(prompt_token_ids=prompt) for prompt in prompts], requests)
        for index, output in enumerate(outputs):
            completion = output.outputs[0]
            text, _ = cut_at(completion.text, sampling["stop"])
            yield (
                index,
                Answer(text, completion.finish_reason, len(prompts[index]), len(completion.token_ids)),
            )
