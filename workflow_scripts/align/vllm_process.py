"""vLLM in a process and an environment of its own, which answers for a training and is handed its weights.

Started by `vllm_beside` with vLLM's Python: it reads a line of JSON from its input, does what that says and writes a
line back, until its input ends. {"reload": true}: read the weights in the model's folder again. {"prompts": [token ids
…], "seeds": [one each]}: draw an answer to each; they come with the log-probability of each of their tokens. Not
covered: what ends up in the folder, and what becomes of an answer.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.vllm_policy import configuration, load_vllm, loaded_as, longer_positions, tell


def lay_out_heads(worker: Any) -> None:
    """Let the heads of a worker's model lay out their weights anew for where they compute.

    One that is tied to the embedding is in no file, so vLLM (0.31) does not do it: a CPU would go on with the old ones.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in worker.get_model().modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


class Answering:
    """A policy that vLLM holds, and how it draws."""

    def __init__(self, model: Path, asked: dict) -> None:
        self.vllm, self.model, self.asked = load_vllm(), model, asked
        # At temperature 1 what is told is a token's own log-probability, whatever the nucleus leaves out.
        told = "raw_logprobs" if asked["temperature"] == 1 else "processed_logprobs"
        try:
            self.llm = self.vllm.LLM(
                # It begins on weights of its own making: what it would not read shows at the first look.
                **loaded_as(model, asked["precision"], asked["gpu_memory_share"]) | {"load_format": "dummy"},
                max_model_len=asked["context"],
                hf_overrides=longer_positions(configuration(model), asked["context"]),
                enable_prefix_caching=True,
                trust_remote_code=asked["trust_remote_code"],
                logprobs_mode=told,
            )
        except ValueError as error:
            raise PlumblineError(
                f"engine: vllm: vLLM cannot serve the policy (what it calls gpu_memory_utilization is gpu_memory_share "
                f"here): {error}"
            ) from error
        self.llm.collective_rpc("update_config", args=({"load_config": {"load_format": "safetensors"}},))
        self.reload()
        tell(self.llm, model)

    def reload(self) -> None:
        """Read the weights again."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self.model)})
        self.llm.collective_rpc(lay_out_heads)

    def answers(self, prompts: list[list[int]], seeds: list[int]) -> list[dict]:
        """Return a drawn answer to each prompt: its `tokens`, the one that ended it among them, and their `logps`."""
        asked = self.asked
        self.llm.reset_prefix_cache()  # what was cached was read by other weights
        requests = [
            self.vllm.SamplingParams(
                max_tokens=asked["max_new_tokens"],
                temperature=asked["temperature"],
                top_p=asked["top_p"],
                top_k=0,
                seed=seed,
                stop=asked["stop"],
                stop_token_ids=asked["ends"],
                ignore_eos=True,  # it is among the ends, or ends no answer
                detokenize=bool(asked["stop"]),
                logprobs=0,
            )
            for seed in seeds
        ]
        given = [self.vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        found = []
        for output in self.llm.generate(given, requests, use_tqdm=False):
            [answer] = output.outputs
            if answer.finish_reason not in ("stop", "length"):
                raise PlumblineError(f"vLLM gave up on an answer ({answer.finish_reason})")
            tokens = list(answer.token_ids)
            logps = [each[token].logprob for token, each in zip(tokens, answer.logprobs, strict=True)]
            found.append({"tokens": tokens, "logps": logps})
        return found


def main() -> None:
    """Answer what is asked on the standard input, line by line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the policy")
    parser.add_argument("--asked", type=json.loads, required=True, help="how it is loaded and draws, as JSON")
    parser.add_argument("--own", action="store_true", help="remove the folder in the end")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder goes
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints belongs into the log
    try:
        answering = Answering(args.model, args.asked)
        for line in sys.stdin:
            asked: dict[str, Any] = json.loads(line)
            if asked.get("reload"):
                answering.reload()
            print(
                json.dumps(answering.answers(**asked) if "prompts" in asked else []), file=replies, flush=True
            )
    finally:
        if args.own:  # also where who began this was killed
            shutil.rmtree(args.model, ignore_errors=True)


if __name__ == "__main__":
    run(main)
