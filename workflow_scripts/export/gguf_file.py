"""`model.gguf`, for llama.cpp and what is built on it: the exported weights and tokenizer in one file.

Written with the `gguf` package of llama.cpp, for architectures that are the same there and here: Llama and Mistral
(whose query and key rows llama.cpp has in another order), Qwen2 and Qwen3. The file is read back by transformers' own
reader, and every weight is compared. Not covered: other architectures, stretched rotary positions, mixtures of experts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from workflow_scripts.common.chat_template import jinja_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import load_tokenizer, model_ends, reading
from workflow_scripts.common.templates import ends_of, is_own, render, reply_end
from workflow_scripts.export.folder import format_name, stored_format, tensors_of
from workflow_scripts.export.found import Found
from workflow_scripts.export.gguf_tokens import ELSEWHERE, Tokens, tokens_of
from workflow_scripts.export.ollama import write_modelfile

FILE = "model.gguf"
FORMATS = {
    "f32": (torch.float32, gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (torch.float16, gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (torch.bfloat16, gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
OWN = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
TURNED = ("llama", "mistral")  # whose rotary halves stand as neighbours in GGUF


def wanted_format(asked: str, folder: Path) -> str:
    """Return the number format of the file: as asked, or, for 1, that of the weights."""
    if asked == "1":
        return OWN[format_name(stored_format(folder))]
    if asked not in FORMATS:
        raise PlumblineError(f"GGUF={asked}: give 1 (as the weights are), {', '.join(FORMATS)}")
    return asked


def checked_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model that can be written; PlumblineError for any other, with the reason."""
    config = read_json(folder / "config.json")
    kind, rope = config.get("model_type"), config.get("rope_parameters") or {}
    wrong = None
    if kind not in ARCHITECTURES:
        wrong = f"it is a {kind}, and {', '.join(ARCHITECTURES)} are written"
    elif rope.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        wrong = "its rotary positions are stretched"
    elif kind in TURNED and (config.get("attention_bias") or config.get("mlp_bias")):
        wrong = "its layers have biases"
    elif kind == "qwen2" and config.get("use_sliding_window"):
        wrong = "its attention slides"
    elif kind == "qwen2" and head_size(config) * config["num_attention_heads"] != config["hidden_size"]:
        wrong = "its heads are not as wide as its layers"
    elif config.get("hidden_act", "silu") != "silu":
        wrong = f"its activation is {config['hidden_act']}"
    if wrong:
        raise PlumblineError(f"no GGUF of this model: {wrong}; {ELSEWHERE}")
    return config


def head_size(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def in_gguf_order(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Return a weight as GGUF has it: query and key rows i and i + head/2 of Llama's heads as neighbours."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads")}
    own = next((part for part in heads if f".{part}." in name), None)
    if own is None or config["model_type"] not in TURNED:
        return tensor
    count = heads[own] or config["num_attention_heads"]
    halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def named_weights(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield (name in GGUF, name here, weight) of a model folder; weights that are tied are there once."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[config["model_type"]], config["num_hidden_layers"])
    for name, tensor in tensors_of(folder):
        if name.endswith("rotary_emb.inv_freq") or (
            name == "lm_head.weight" and config.get("tie_word_embeddings")
        ):
            continue
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise PlumblineError(f"no GGUF of this model: it has no place for {name}; {ELSEWHERE}")
        yield new, name, tensor


def kept_as(tensor: torch.Tensor, form: str) -> torch.Tensor:
    """Return a weight in the number format it is stored in, as float32: vectors are always whole."""
    dtype = FORMATS[form][0] if tensor.dim() > 1 else torch.float32
    cast = tensor.to(dtype).float()
    if not torch.isfinite(cast).all():
        raise PlumblineError(f"GGUF={form}: a weight is too large for {form}; ask for bf16 or f32")
    return cast


def add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any], rows: int, form: str) -> None:
    """Write a model's sizes."""
    positions = config["max_position_embeddings"]
    window = config.get("sliding_window") if config["model_type"] == "mistral" else None
    writer.add_context_length(min(positions, window or positions))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_vocab_size(rows)
    writer.add_file_type(FORMATS[form][2])


def begins_with_bos(template: dict, tokenizer: Any) -> bool:
    """Tell whether a template begins every conversation, and not each turn, with the token that begins texts."""
    if tokenizer.bos_token is None:
        return False
    if is_own(template):
        asked = render([{"role": "user", "content": "x"}], template, tokenizer, prompt=True)
        return asked.text.startswith(tokenizer.bos_token)
    return template["start"].startswith("{bos}")


def add_tokenizer(
    writer: gguf.GGUFWriter, tokens: Tokens, tokenizer: Any, ends: list[int], template: dict
) -> None:
    """Write a tokenizer, what begins and ends texts, and the chat template."""
    writer.add_tokenizer_model(tokens.model)
    writer.add_tokenizer_pre(tokens.pre)
    writer.add_token_list(tokens.tokens)
    writer.add_token_types(tokens.types)
    if tokens.scores is not None:
        writer.add_token_scores(tokens.scores)
        writer.add_add_space_prefix(tokens.space_prefix)
    if tokens.merges is not None:
        writer.add_token_merges(tokens.merges)
    rows = len(tokens.tokens)
    writer.add_add_bos_token(begins_with_bos(template, tokenizer))
    writer.add_add_eos_token(False)
    own = {"bos": tokenizer.bos_token_id, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    own["eos"] = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else ends[0]
    own["eot"] = next((end for end in ends if end != own["eos"]), None)
    for name, identity in own.items():
        if identity is not None and identity < rows:
            getattr(writer, f"add_{name}_token_id")(identity)
    writer.add_chat_template(tokenizer.get_chat_template() if is_own(template) else jinja_of(template))


def write_file(path: Path, folder: Path, config: dict[str, Any], form: str, fill: Any, name: str) -> None:
    """Write a GGUF file weight by weight; `fill` writes what it says of the tokenizer."""
    kind = FORMATS[form][1]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config["model_type"]]])
    writer.add_type("model")
    writer.add_name(name)
    fill(writer)
    for new, _, tensor in named_weights(folder, config):
        of_kind = kind if tensor.dim() > 1 else gguf.GGMLQuantizationType.F32
        size = tensor.numel() * (4 if of_kind == gguf.GGMLQuantizationType.F32 else 2)
        writer.add_tensor_info(new, list(tensor.shape), np.dtype(np.float32), size, raw_dtype=of_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, old, tensor in named_weights(folder, config):
        turned = in_gguf_order(old, kept_as(tensor, form), config).contiguous().numpy()
        of_kind = kind if tensor.dim() > 1 else gguf.GGMLQuantizationType.F32
        writer.write_tensor_data(gguf.quantize(turned, of_kind))
    writer.close()


def check_file(path: Path, folder: Path, config: dict[str, Any], form: str) -> int:
    """Return how many weights transformers reads from a GGUF file as they were written; all must be."""
    with reading(path, "a GGUF model"):
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
        )
    found, count = model.state_dict(), 0
    for _, name, tensor in named_weights(folder, config):
        if name not in found or not torch.equal(found[name], kept_as(tensor, form)):
            raise PlumblineError(f"{path}: {name} is read back as something else; please report it")
        count += 1
    return count


def write_gguf(found: Found, folder: Path, asked: str) -> dict[str, Any]:
    """Write model.gguf and Modelfile into an exported folder; return what is known of them."""
    form, config, template = wanted_format(asked, folder), checked_config(folder), found.template()
    tokenizer = load_tokenizer(found.model)
    rows = next(
        tensor.shape[0] for new, _, tensor in named_weights(folder, config) if new == "token_embd.weight"
    )
    tokens = tokens_of(tokenizer, rows)
    ends = ends_of(reply_end(template, tokenizer), tokenizer, model_ends(found.model))

    def fill(writer: gguf.GGUFWriter) -> None:
        add_sizes(writer, config, rows, form)
        add_tokenizer(writer, tokens, tokenizer, ends, template)

    write_file(folder / FILE, folder, config, form, fill, found.policy)
    count = check_file(folder / FILE, folder, config, form)
    said = [f"{FILE} in {form}: {count} weights read back as they were written", *tokens.said]
    said += write_modelfile(found, folder, tokenizer, ends)
    return {"file": FILE, "format": form, "weights": count, "said": said}
