"""Load policies and tokenizers one way everywhere: safetensors only, no remote code unless the study says so."""

import contextlib
import functools
import importlib
import logging
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import is_flash_attn_2_available

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json

transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)


Precision = Literal["auto", "bfloat16", "float16", "float32"]


def precision_of(wanted: Precision) -> torch.dtype:
    """Return the number format to compute in: `auto` is bfloat16 where the hardware multiplies it, else float32."""
    if wanted == "auto":
        if torch.cuda.is_available():
            wanted = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        else:
            able = torch.cpu.get_capabilities()
            wanted = "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"
    formats = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    return formats[wanted]


# What a broken or hostile folder makes the libraries raise.
BROKEN = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    RecursionError,
    SafetensorError,
    struct.error,
)


@contextlib.contextmanager
def reading(folder: Path | str, what: str) -> Iterator[None]:
    """Say of a folder that cannot be read which one and why; the machine's own errors (memory, disk) pass."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if "ignore_mismatched_sizes" in reason:
            reason = "its weights have other shapes than its config.json says"
        raise PlumblineError(f"{folder}: cannot be read as {what}: {reason}") from error


def load_whole(kind: Any, folder: Path | str, new: str | None = None, **options: Any) -> Any:
    """Return the model of a folder (`kind`: an AutoModel class), all of whose weights are in the folder's files.

    The library draws what is missing at random; here it is an error, but for the part `new`, which is to be trained.
    What is in the files and not in the model is left out, and said. Safetensors only.
    """
    with reading(folder, "a model"):
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    missing = sorted(name for name in report["missing_keys"] if new is None or name.split(".")[0] != new)
    if missing:
        raise PlumblineError(
            f"{folder}: {len(missing)} of the weights that its config.json speaks of are in none of its files, first "
            f"{missing[0]}; fetch or convert it again"
        )
    left = sorted(report["unexpected_keys"])
    if left:
        say_once(
            f"warning: {folder}: {len(left)} weights have no place in the model and are left out, first {left[0]}"
        )
    return model


def load_tokenizer(folder: Path | str) -> Any:
    """Return the fast tokenizer of a model folder, with a padding token; masks need its character offsets.

    A padding token that the model's embedding has no row for is not used: padding is masked, so another will do.
    """
    with reading(folder, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise PlumblineError(
            f"{folder}: its tokenizer, {type(tokenizer).__name__}, is a slow one, written in Python: it does not say "
            "which characters a token stands for, so it is not known which tokens are learned; save a tokenizer.json "
            "of it (transformers converts SentencePiece's where that is installed), and add it to the source"
        )
    size = embedding_size(folder) or sys.maxsize
    own, outside = tokenizer.pad_token, tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= size
    if own is None or outside:
        # Only a special token will do: made the padding token, a word would be left out of answers as they are decoded.
        others = [tokenizer.unk_token, tokenizer.eos_token, tokenizer.bos_token]
        inside = [each for each in others if each and tokenizer.convert_tokens_to_ids(each) < size]
        if not inside:
            raise PlumblineError(
                f"{folder}: the tokenizer has no special token among the {size} the model knows, so nothing can be "
                "padded with; give it an end token"
            )
        tokenizer.pad_token = inside[0]
    if outside:
        say_once(
            f"{folder}: padding token {own!r} is not among the model's {size}; {inside[0]!r} takes its place"
        )
    known = tokenizer.added_tokens_decoder.items()
    lost = [token.content for identity, token in known if identity >= size and token.content != own]
    if lost:
        say_once(
            f"warning: {folder}: the model knows {size} tokens, and {', '.join(lost[:5])} of its tokenizer are not "
            "among them; a template that uses one fails"
        )
    return tokenizer


def model_config(folder: Path | str) -> dict:
    """Return a model folder's configuration, for an unmerged adapter that of its base; {} where there is none."""
    source = Path(adapter_base(folder) or folder)
    with reading(folder, "a model"):
        return dict(read_json(source / "config.json")) if (source / "config.json").is_file() else {}


def embedding_size(folder: Path | str) -> int | None:
    """Return how many tokens the model of a folder knows, None where its configuration does not say."""
    config = model_config(folder)
    with reading(folder, "a model"):
        size = (config.get("text_config") or config).get("vocab_size")
        return None if size is None else int(size)


def model_ends(folder: Path | str) -> list[int]:
    """Return the ids of all tokens at which the model of a folder itself says that a text ends."""
    source = Path(adapter_base(folder) or folder)
    generation = source / "generation_config.json"
    with reading(folder, "a model"):
        config = read_json(generation) if generation.is_file() else model_config(folder)
        ends = config.get("eos_token_id")
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def check_safetensors(folder: Path, weights: str = "*.safetensors") -> None:
    """Raise PlumblineError unless a folder holds weights as safetensors: pickled ones can run code as they load."""
    if not any(folder.glob(weights)):
        raise PlumblineError(
            f"{folder}: no {weights} here, and weights in other formats are not loaded; convert them, or delete the "
            "manifest of a policy made here and run again to make it anew"
        )


def adapter_base(folder: Path | str) -> Path | None:
    """Return the base model's folder where a policy is an adapter that was left unmerged (PEFT's files), else None.

    The adapter names it relative to its own folder, as that is spelled here, so that both may be read from anywhere.
    PlumblineError if it or the adapter's weights are gone.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        return None
    check_safetensors(folder, "adapter_model.safetensors")
    named = read_json(folder / "adapter_config.json")["base_model_name_or_path"]
    # A policy may be a link into a shared store, whose own place says nothing of where its base is.
    base = Path(os.path.normpath(os.path.join(os.path.abspath(folder), named)))
    if not (base / "config.json").is_file():
        raise PlumblineError(
            f"{folder}: adapts the model in {named}, which is not there (it would be {base}); move or copy the two "
            "together, or delete that model's manifest and run again to make it anew"
        )
    return base


def attention_of(dtype: torch.dtype, config: Any) -> tuple[str, str]:
    """Return the attention for a model that computes in `dtype` on this machine, and the reason for it.

    FlashAttention-2 (Dao 2023) where device, package, number format and architecture allow it, else PyTorch's own.
    """
    known = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if known is not None and not known._supports_sdpa:
        return "eager", f"a {config.model_type} model has no other"
    if not torch.cuda.is_available():
        return "sdpa", "there is no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return "sdpa", f"the device has compute capability {major}.{minor}, FlashAttention needs 8.0"
    if dtype not in (torch.bfloat16, torch.float16):
        return "sdpa", f"FlashAttention does not compute in {str(dtype).removeprefix('torch.')}"
    try:
        package = importlib.import_module("flash_attn")
    except ModuleNotFoundError:
        return "sdpa", "flash_attn is not installed"
    except ImportError as error:
        return "sdpa", f"flash_attn cannot be loaded: {error}"
    if not is_flash_attn_2_available():
        return "sdpa", f"flash_attn {package.__version__} is not a version 2 that transformers takes"
    if type(config) not in AutoModelForCausalLM._model_mapping:
        return "sdpa", f"whether a {config.model_type} model can use FlashAttention is not known"
    if not AutoModelForCausalLM._model_mapping[type(config)]._supports_flash_attn:
        return "sdpa", f"a {config.model_type} model cannot use FlashAttention"
    return "flash_attention_2", f"flash_attn {package.__version__}"


@functools.cache
def say_once(line: str) -> None:
    """Print a line into the log, the first time it is said."""
    print(line, file=sys.stderr, flush=True)


def changes_tied_head(adapted: Any) -> bool:
    """Tell whether adapters stand on an embedding that is the LM head, which, added into the one, change the other."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = adapted.get_base_model()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    kept_tied = any(getattr(each, "ensure_weight_tying", False) for each in adapted.peft_config.values())
    on_them = any(isinstance(each, BaseTunerLayer) for each in ends)
    return on_them and not kept_tied and bool(model.config.get_text_config().tie_word_embeddings)


def merged_into(model: Any, folder: Path | str, safely: bool = False) -> Any:
    """Return a model with a folder's adapter added into its weights; safely: no number of which is not finite."""
    from peft import PeftModel  # here: most that load a policy need none of it

    with reading(folder, "an adapter"):
        adapted = PeftModel.from_pretrained(model, folder)
    if changes_tied_head(adapted):
        raise PlumblineError(
            f"{folder}: adapts the embedding, which is the LM head, too: added into the one it would change the other; "
            "train it without the embedding, or with PEFT's ensure_weight_tying"
        )
    with reading(folder, "an adapter"):
        return adapted.merge_and_unload(safe_merge=safely)


def load_policy(
    folder: Path | str,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    computing: torch.dtype | None = None,
    kind: Any = AutoModelForCausalLM,
    **more: Any,
) -> Any:
    """Return the causal language model of a folder in evaluation mode; `more` goes to `from_pretrained` of `kind`.

    `computing` is what it computes in where that is not `dtype`, its weights': the format of the autocast that all of
    its calls are under. An unmerged adapter is merged into its base model in memory, in float32, as a policy saved
    merged has been.
    """
    adapted = adapter_base(folder)
    source = Path(folder) if adapted is None else adapted
    if not (source / "config.json").is_file():
        raise PlumblineError(f"{folder}: no model here; delete its manifest and run again to make it anew")
    check_safetensors(source)
    with reading(source, "a model"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    attention, reason = attention_of(computing or dtype, config)
    say_once(f"attention: {attention} ({reason})")
    model = load_whole(
        kind,
        source,
        dtype=dtype if adapted is None else torch.float32,
        trust_remote_code=trust_remote_code,
        attn_implementation=attention,
        **more,
    )
    if adapted is not None:
        model = merged_into(model, folder).to(dtype)
        model.requires_grad_(True)  # PEFT has frozen what it merged into, and a training would learn nothing
    return model.eval()


# Their position ids begin after the padding token's, so the last of the embeddings stand for no token.
COUNTED_AFTER_PADDING = """
camembert data2vec-text esm ibert longformer luke markuplm mpnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl
""".split()


def context_of(config: Any, tokenizer: Any) -> int:
    """Return the most tokens that a classifier or embedder of this configuration can read at once."""
    known = getattr(config, "max_position_embeddings", None)  # by other names, too: GPT-2's n_positions
    positions = known if known and known > 0 else 2048  # -1: any number, as in XLNet
    if config.model_type in COUNTED_AFTER_PADDING:
        positions -= config.pad_token_id + 1
    return min(positions, tokenizer.model_max_length)
