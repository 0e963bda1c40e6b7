"""Answer prompts with vLLM (Kwon et al. 2023): one engine over the job's GPUs, prefix caching on. As `engine` does.

A policy that is an unmerged adapter is served as one, beside its base model. Not covered: more machines than one.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from workflow_scripts.common.answering import Answer, answer_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import adapter_base, check_safetensors, model_ends, precision_of
from workflow_scripts.common.templates import ends_of

# Prompts that are scheduled together: they are answered anew together where a killed job left off, and are what several
# engines share out.
PORTION = 512
CPU_CACHE = 2**30  # bytes of keys and values without a GPU; VLLM_CPU_KVCACHE_SPACE (GiB) goes before it
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM makes room for


def load_vllm() -> Any:
    """Return the vllm package, set to do what it does in one order, tell nobody, and cache in the work folder."""
    # The scheduler in this process, not beside it: else what is computed together depends on the clock.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CACHE_ROOT", str(Path("work/vllm").absolute()))
    try:
        import vllm
    except ImportError as error:
        raise PlumblineError(
            f"engine: vllm: it cannot be loaded in this environment ({error}); make one that has it with "
            "`envs/install-vllm.sh cuda` (or `cpu`), or set engine: {name: transformers}"
        ) from None
    return vllm


def parallel_size(gpus: int, config: dict) -> tuple[int, str]:
    """Return over how many GPUs to split a model's layers, given its configuration, and in words why.

    It is the largest number up to `gpus` that splits the attention heads and the hidden width evenly, and the heads of
    keys and values too, unless each is held by as many GPUs.
    """
    heads = config["num_attention_heads"]
    shared = config.get("num_key_value_heads") or heads
    width = config.get("intermediate_size") or heads

    def fits(count: int) -> bool:
        grouped = shared % count == 0 or count % shared == 0
        return heads % count == 0 and width % count == 0 and grouped

    count = max(count for count in range(1, max(1, gpus) + 1) if fits(count))
    if not gpus:
        return 1, "on the CPU"
    if count == gpus:
        noun = "GPU" if count == 1 else "GPUs"
        return count, f"tensor parallel over {count} {noun}"
    return count, (
        f"tensor parallel over {count} of {gpus} GPUs: no more split {heads} attention heads ({shared} of keys and "
        f"values) and a width of {width} evenly"
    )


def rank_of(rank: int) -> int:
    """Return the least of the ranks vLLM makes room for that holds an adapter's; PlumblineError above them all."""
    if rank > RANKS[-1]:
        raise PlumblineError(
            f"lora.rank {rank}: vLLM serves adapters of rank {RANKS[-1]} at most; set merge: true, or engine: "
            "{name: transformers}"
        )
    return next(each for each in RANKS if each >= rank)


def longer_positions(config: dict, context: int) -> dict:
    """Return what to change in a model's configuration so that vLLM goes on to `context` tokens, as transformers does.

    Only plain rotary positions (Su et al. 2021) simply go on; with others vLLM refuses a context the model has not.
    """
    rotary = "rope_parameters" in config or "rope_theta" in config
    scaled = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if (
        rotary
        and scaled.get("rope_type", "default") == "default"
        and config["max_position_embeddings"] < context
    ):
        return {"max_position_embeddings": context}
    return {}


def attention_backends(worker: Any) -> list[str]:
    """Return the names of the attention that a vLLM worker's layers run on."""
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    layers = worker.vllm_config.compilation_config.static_forward_context.values()
    return sorted(
        {layer.get_attn_backend().get_name() for layer in layers if isinstance(layer, AttentionLayerBase)}
    )


class VllmEngine:
    """One loaded policy that answers any number of prompt sets."""

    def __init__(self, model: Path, tokenizer: Any, settings: dict) -> None:
        vllm = load_vllm()
        self.tokenizer, self.vllm, self.ends = tokenizer, vllm, model_ends(model)
        base = adapter_base(model)
        source = base or model
        check_safetensors(Path(source))
        config = read_json(Path(source) / "config.json")
        config = config.get("text_config") or config
        size, where = parallel_size(torch.cuda.device_count(), config)
        dtype = str(precision_of(settings["engine"]["precision"])).removeprefix("torch.")
        more, self.adapter = {}, None
        if base is not None:
            from vllm.lora.request import LoRARequest

            rank = read_json(Path(model) / "adapter_config.json")["r"]
            more = {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank_of(rank)}
            self.adapter = LoRARequest("policy", 1, str(model))
        if torch.cuda.is_available():
            more["gpu_memory_utilization"] = settings["engine"]["gpu_memory_share"]
        else:
            more |= {"kv_cache_memory_bytes": CPU_CACHE, "enforce_eager": True}  # compiling takes 30 s
        try:
            self.llm = vllm.LLM(
                model=str(source),
                tokenizer=str(model),
                dtype=dtype,
                max_model_len=settings["context"],
                hf_overrides=longer_positions(config, settings["context"]),
                tensor_parallel_size=size,
                enable_prefix_caching=True,
                trust_remote_code=settings["trust_remote_code"],
                load_format="safetensors",
                generation_config="vllm",  # the study says how answers are drawn, not what a base model brings along
                **more,
            )
        except ValueError as error:
            raise PlumblineError(f"{model}: vLLM cannot serve it: {error}") from error
        attention = sorted({name for names in self.llm.collective_rpc(attention_backends) for name in names})
        adapter = f", adapter of rank {rank} on {base}" if base is not None else ""
        print(
            f"vLLM {vllm.__version__}: attention {', '.join(attention)}, {dtype}, {where}{adapter}",
            flush=True,
        )

    def before_batch(self) -> None:
        """Do nothing: who loads an engine may put in its place what is to be called before each batch."""

    def answer(
        self,
        prompts: list[list[int]],
        sampling: dict,
        end: str,
        seed: int,
        missing: list[bool],
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[int, Answer]]:
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
            self.before_batch()
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
                yield index, answer_of(self.tokenizer, prompts[index], tokens, enders, sampling)
