"""Answer prompts with vLLM: one engine over the job's GPUs, prefix caching on. As `engine` does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workflow_scripts.common.answering import Answer, Engine, answer_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import adapter_base, model_ends
from workflow_scripts.common.templates import ends_of
from workflow_scripts.common.vllm_policy import configuration, load_vllm, loaded_as, longer_positions, tell

# Prompts that are scheduled together: they are answered anew together where a killed job left off, and are what several
# engines share out.
PORTION = 512


class VllmEngine(Engine):
    """One loaded policy that answers any number of prompt sets."""

    def __init__(self, model: Path, tokenizer: Any, settings: dict) -> None:
        vllm = load_vllm()
        self.tokenizer, self.vllm, self.ends = tokenizer, vllm, model_ends(model)
        self.adapter = None
        how = loaded_as(model, settings["engine"]["precision"], settings["engine"]["gpu_memory_share"])
        if adapter_base(model) is not None:
            from vllm.lora.request import LoRARequest

            self.adapter = LoRARequest("policy", 1, str(model))
        try:
            self.llm = vllm.LLM(
                **how,
                max_model_len=settings["context"],
                hf_overrides=longer_positions(configuration(model), settings["context"]),
                enable_prefix_caching=True,
                trust_remote_code=settings["trust_remote_code"],
            )
        except ValueError as error:
            raise PlumblineError(f"{model}: vLLM cannot serve it: {error}") from error
        tell(self.llm, model)

    def batches(
        self,
        prompts: list[list[int]],
        sampling: dict,
        end: str,
        seed: int,
        missing: list[bool],
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield (index of the prompt, answer), portion by portion; the seed fixes every draw.

        Each request has a seed of its own. A portion without an answer that is `missing` is left out; another is made
        whole and with nothing cached, for what is computed together, and what is not again, decides the last digits.
        share (k, n): of the portions every n-th, from the k-th.
        """
        if sampling["beams"] > 1:
            raise PlumblineError(
                f"beams: {sampling['beams']}: vLLM searches by beams without stop strings, ends of templates and "
                "repetition_penalty; set engine: {name: transformers}, or beams: 1"
            )
        enders = ends_of(end, self.tokenizer, self.ends)
        for number, start in enumerate(range(0, len(prompts), PORTION)):
            portion = range(start, min(start + PORTION, len(prompts)))
            if number % share[1] != share[0] or not any(missing[index] for index in portion):
                continue
            made = []
            self.llm.reset_prefix_cache()
            requests = [
                self.vllm.SamplingParams(
                    max_tokens=sampling["max_new_tokens"],
                    min_tokens=sampling["min_new_tokens"],
                    temperature=sampling["temperature"],
                    top_p=sampling["top_p"],
                    top_k=0,
                    repetition_penalty=sampling["repetition_penalty"],
                    seed=seed * 1_000_003 + index,
                    stop=sampling["stop"],
                    stop_token_ids=enders,
                    ignore_eos=True,  # it is among the enders, or ends no answer
                    detokenize=bool(sampling["stop"]),
                )
                for index in portion
            ]
            asked = [self.vllm.TokensPrompt(prompt_token_ids=prompts[index]) for index in portion]
            outputs = self.llm.generate(asked, requests, lora_request=self.adapter, use_tqdm=False)
            for index, output in zip(portion, outputs, strict=True):
                completion = output.outputs[0]
                if completion.finish_reason not in ("stop", "length"):
                    raise PlumblineError(
                        f"vLLM gave up on an answer ({completion.finish_reason}); run again to go on from here"
                    )
                tokens = list(completion.token_ids)
                made.append((index, answer_of(self.tokenizer, prompts[index], tokens, enders, sampling)))
            yield made
