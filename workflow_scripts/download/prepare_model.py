"""Turn a fetched source into a model folder that transformers loads: safetensors, tokenizer, config.

Formats: `hf` (already such a folder: its files are linked; with a PEFT adapter among them the two are merged),
`llama2c` (the flat float32 checkpoint and the `tokenizer.bin` of the llama2.c project) and `gguf` (one file with
quantised weights and tokenizer, dequantised once).
Beside the tokenizer it writes the template that the study speaks to the model in, in place of any that came with it;
the model's own stays as it came.
Not covered: any format that needs unpickling.
"""

import argparse
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import TypedDict

from workflow_scripts.common.chat_template import save_chat_template
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_folder, write_manifest
from workflow_scripts.common.settings import settings_of
from workflow_scripts.download.merge_adapter import is_adapter, merge_adapter


class Check(TypedDict):
    """Texts that the model must know: at most `max_nll` nats per token on them."""

    texts: list[str]
    max_nll: float


class Settings(TypedDict):
    """A study's model: the format of its files, which hold weights and tokenizer, its template and its check.

    add_pad: give its tokenizer a padding token where it has none.
    """

    format: Literal["hf", "llama2c", "gguf"]
    weights: str | None
    tokenizer: str | None
    template: dict[str, Any]
    add_pad: bool
    check: Check | None


HEADER = (
    "<7i"  # dim, hidden_dim, layers, heads, kv_heads, vocabulary (negative: separate output matrix), context
)

PAD = "<pad>"
LEAST_ENTRY = 13  # bytes of a GGUF file's shortest entry: a name's length, a type and a value


def read_llama2c(path: Path | str) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Return (sizes, tensors under transformers' Llama names) of a llama2.c version-0 checkpoint.

    llama2.c rotates neighbouring pairs of query and key rows (2i, 2i+1), transformers rotates (i, i + head/2),
    so those rows are permuted per head. Raises PlumblineError when the byte count does not fit the header.
    """
    raw = Path(path).read_bytes()
    if len(raw) < struct.calcsize(HEADER):
        raise PlumblineError(f"{path}: too short for a llama2.c header")
    names = ("dim", "hidden", "layers", "heads", "kv_heads", "vocabulary", "context")
    sizes = dict(zip(names, struct.unpack_from(HEADER, raw), strict=True))
    tied = sizes["vocabulary"] > 0
    sizes["vocabulary"] = abs(sizes["vocabulary"])
    dim, hidden, layers, heads = (sizes[name] for name in ("dim", "hidden", "layers", "heads"))
    if min(sizes.values()) <= 0 or dim % heads:
        raise PlumblineError(f"{path}: not a llama2.c checkpoint (header {sizes})")
    head = dim // heads
    kv_dim = head * sizes["kv_heads"]
    if (len(raw) - struct.calcsize(HEADER)) % 4:
        raise PlumblineError(f"{path}: its {len(raw)} bytes are not a header and whole floats")
    flat = np.frombuffer(raw, dtype="<f4", offset=struct.calcsize(HEADER))
    position = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal position
        count = int(np.prod(shape))
        if position + count > flat.size:
            raise PlumblineError(f"{path}: ends before the weights its header announces")
        block = flat[position : position + count].reshape(shape)
        position += count
        return block

    def halves(rows: np.ndarray) -> np.ndarray:
        """(layers, heads·head, dim) with rows 2i, 2i+1 paired → the same with rows i, i + head/2 paired."""
        count, total, width = rows.shape
        paired = rows.reshape(count, total // head, head // 2, 2, width)
        return paired.transpose(0, 1, 3, 2, 4).reshape(count, total, width)

    embedding = take(sizes["vocabulary"], dim)
    per_layer = {"input_layernorm": take(layers, dim)}
    per_layer["self_attn.q_proj"] = halves(take(layers, dim, dim))
    per_layer["self_attn.k_proj"] = halves(take(layers, kv_dim, dim))
    per_layer["self_attn.v_proj"] = take(layers, kv_dim, dim)
    per_layer["self_attn.o_proj"] = take(layers, dim, dim)
    per_layer["post_attention_layernorm"] = take(layers, dim)
    per_layer["mlp.gate_proj"] = take(layers, hidden, dim)
    per_layer["mlp.down_proj"] = take(layers, dim, hidden)
    per_layer["mlp.up_proj"] = take(layers, hidden, dim)
    norm = take(dim)
    take(2, sizes["context"], head // 2)  # rotary tables, recomputed by transformers
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": norm}
    tensors["lm_head.weight"] = embedding if tied else take(sizes["vocabulary"], dim)
    for name, block in per_layer.items():
        for layer in range(layers):
            tensors[f"model.layers.{layer}.{name}.weight"] = block[layer]
    if position != flat.size:
        raise PlumblineError(f"{path}: {flat.size - position} floats are left over after the weights")
    return sizes | {"tied": int(tied)}, tensors


def read_llama2c_pieces(path: Path | str, vocabulary: int) -> list[tuple[str, float]]:
    """Return (piece, score) for each token id of a `tokenizer.bin`.

    Ids 3..258 are the byte-fallback pieces, stored as the raw byte; they get SentencePiece's names `<0x00>`…`<0xFF>`.
    Pieces are stored with spaces where SentencePiece has U+2581.
    """
    raw = Path(path).read_bytes()
    pieces: list[tuple[str, float]] = []
    position = 4  # the longest piece's length, not needed
    while len(pieces) < vocabulary:
        try:
            score, length = struct.unpack_from("<fi", raw, position)
        except struct.error:
            raise PlumblineError(f"{path}: holds {len(pieces)} pieces, {vocabulary} are needed") from None
        text = raw[position + 8 : position + 8 + length]
        if len(text) != length:
            raise PlumblineError(f"{path}: ends inside piece {len(pieces)}, {vocabulary} pieces are needed")
        position += 8 + length
        identity = len(pieces)
        piece = f"<0x{identity - 3:02X}>" if 3 <= identity <= 258 else text.decode("utf-8").replace(" ", "▁")
        pieces.append((("<unk>", "<s>", "</s>")[identity] if identity < 3 else piece, score))
    return pieces


def merges_of(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """Return the byte-pair merges a SentencePiece BPE vocabulary implies, best score first."""
    rank = {piece: index for index, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces[259:]:
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        local = [pair for pair in splits if pair[0] in rank and pair[1] in rank]
        merges += [(-score, rank[left], rank[right], left, right) for left, right in local]
    return [(left, right) for _, _, _, left, right in sorted(merges)]


def convert_llama2c(weights: Path, tokenizer_file: Path, folder: Path) -> None:
    """Write a transformers Llama folder (float32 safetensors, fast tokenizer) from llama2.c files."""
    import torch
    from tokenizers import Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes, tensors = read_llama2c(weights)
    config = LlamaConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["dim"],
        intermediate_size=sizes["hidden"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        max_position_embeddings=sizes["context"],
        rms_norm_eps=1e-5,
        tie_word_embeddings=bool(sizes["tied"]),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    missing = model.load_state_dict(
        {name: torch.tensor(block) for name, block in tensors.items()}, strict=False
    )
    if missing.unexpected_keys or missing.missing_keys:
        raise PlumblineError(f"{weights}: tensors do not fit a Llama of this shape: {missing}")
    # The bare configuration: eos would otherwise be absent from the saved generation settings.
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)

    pieces = read_llama2c_pieces(tokenizer_file, sizes["vocabulary"])
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    fast = Tokenizer(BPE(vocabulary, merges_of(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        model_max_length=sizes["context"],
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def link_hf(source: Path, folder: Path) -> None:
    """Hard-link (or copy, across file systems) a downloaded transformers folder."""
    if not (source / "config.json").is_file() or not list(source.glob("*.safetensors")):
        raise PlumblineError(f"{source}: needs config.json and *.safetensors to be a model of format hf")
    for item in sorted(filter(Path.is_file, source.iterdir())):
        try:
            os.link(item, folder / item.name)
        except OSError:
            shutil.copy2(item, folder / item.name)


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a transformers folder (float32 safetensors, fast tokenizer) from a GGUF file, its weights dequantised.

    The tokenizer that transformers reads from a GGUF file ends its texts with the token that begins them; the ids in
    the file's own metadata are right and are put in its place.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from workflow_scripts.common.models import reading

    check_gguf(file)
    options = {"gguf_file": file.name, "trust_remote_code": False}
    with reading(file, "a GGUF model"):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    config = loaded.config
    del (
        config.quantization_config
    )  # they are plain floats now, and a folder that says otherwise cannot be saved
    config._name_or_path = ""  # the folder this was read from differs from machine to machine
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    ends = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    pad = config.pad_token_id if config.pad_token_id is not None else config.eos_token_id
    model.generation_config = GenerationConfig(**ends, pad_token_id=pad)
    for name, identity in (ends | {"pad_token_id": pad}).items():
        setattr(tokenizer, name.removesuffix("_id"), tokenizer.convert_ids_to_tokens(identity))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_gguf(file: Path) -> None:
    """Raise PlumblineError unless a file begins as GGUF, with no more tensors and values than it has bytes for.

    A reader would go through as many as the header says: 2^60 of them are not waited for.
    """
    head = struct.Struct("<4sIQQ")
    size = file.stat().st_size
    with open(file, "rb") as stream:
        first = stream.read(head.size)
    magic, _, tensors, values = head.unpack(first.ljust(head.size, b"\0"))
    if magic != b"GGUF":
        raise PlumblineError(f"{file}: is no GGUF file")
    if (tensors + values) * LEAST_ENTRY > size:
        raise PlumblineError(
            f"{file}: speaks of {tensors} tensors and {values} values, and has {size} bytes: it is cut or broken"
        )


def add_padding(folder: Path) -> dict[str, Any]:
    """Give the tokenizer of a model folder the padding token <pad> if it has none; return facts for the manifest.

    The row of the new token, in the embedding and in an output layer of its own, is the mean of those before it. Files
    are replaced, never written into: those of a downloaded folder are shared with it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workflow_scripts.common.models import load_whole, reading

    with reading(folder, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is not None:
        print(f"add_pad: the tokenizer pads with {tokenizer.pad_token!r} already")
        return {}
    model = load_whole(AutoModelForCausalLM, folder, dtype="auto", trust_remote_code=False)
    added = tokenizer.add_special_tokens(
        {"pad_token": PAD}
    )  # none where <pad> is a token, but not the one that pads
    pad, rows = tokenizer.pad_token_id, model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(max(rows, pad + 1), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if added else ():
            layer.weight[pad] = layer.weight[:pad].float().mean(0)
            if getattr(layer, "bias", None) is not None:
                layer.bias[pad] = layer.bias[:pad].float().mean()
    model.config.pad_token_id = model.generation_config.pad_token_id = pad
    with tempfile.TemporaryDirectory(dir=folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        for file in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
            file.unlink()
        for file in Path(new).iterdir():
            file.replace(folder / file.name)
    return {"added_tokens": [PAD] * added, "vocabulary": model.config.get_text_config().vocab_size}


def check_finite(folder: Path) -> None:
    """Raise PlumblineError where a weight is no finite number: a policy of it would say nothing."""
    import torch
    from safetensors import safe_open

    from workflow_scripts.common.models import reading

    for path in sorted(folder.glob("*.safetensors")):
        with reading(path, "safetensors"), safe_open(path, "pt") as tensors:
            names = tensors.keys()  # it is no mapping to go through
            for name in names:
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
                    raise PlumblineError(
                        f"{path}: {name} holds numbers that are not finite; fetch or convert the model again"
                    )


def nll_per_token(folder: Path, texts: list[str]) -> float:
    """Return the mean negative log-likelihood (nats per token) of texts under a model folder."""
    import torch

    from workflow_scripts.common.models import load_policy, load_tokenizer

    tokenizer, model = load_tokenizer(folder), load_policy(folder)
    total, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            loss = model(ids, labels=ids).loss.item()
        total += loss * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


def check_end(folder: Path, template: dict[str, Any]) -> None:
    """Raise PlumblineError where the end of a template is no token of the model in a folder, or its own writes none.

    What its own does not write of conversations is said.
    """
    from workflow_scripts.common.models import load_tokenizer
    from workflow_scripts.common.own_template import shortcomings, voice_of
    from workflow_scripts.common.templates import ends_of, is_own, reply_end

    tokenizer = load_tokenizer(folder)
    ends_of(reply_end(template, tokenizer), tokenizer)
    for line in shortcomings(voice_of(tokenizer)) if is_own(template) else ():
        print(f"warning: {line}", file=sys.stderr)


# By a model's `format`: from the folder of its source and the model's settings to a folder that transformers loads.
# What they return are facts for the manifest.
CONVERTERS: dict[str, Callable[[Path, Settings, Path], dict[str, Any] | None]] = {
    "hf": lambda source, settings, folder: (merge_adapter if is_adapter(source) else link_hf)(source, folder),
    "llama2c": lambda source, settings, folder: convert_llama2c(
        source / settings["weights"], source / settings["tokenizer"], folder
    ),
    "gguf": lambda source, settings, folder: convert_gguf(source / settings["weights"], folder),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder of the fetched files")
    parser.add_argument(
        "--settings", type=settings_of(Settings), required=True, help="the study's model entry, as JSON"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    settings = arguments.settings
    with finished_folder(arguments.output) as folder:
        facts = CONVERTERS[settings["format"]](arguments.source, settings, folder) or {}
        facts |= add_padding(folder) if settings["add_pad"] else {}
        save_chat_template(folder, settings["template"])
        check_end(folder, settings["template"])
        check_finite(folder)
        check = settings["check"]
        if check:
            nll = nll_per_token(folder, check["texts"])
            if nll > check["max_nll"]:
                raise PlumblineError(
                    f"{arguments.source}: converted model has {nll:.2f} nats per token on its check texts, more than "
                    f"max_nll {check['max_nll']}; the files are not what the study expects or were converted wrongly"
                )
            facts["check_nll"] = round(nll, 3)
    write_manifest(arguments.manifest, [arguments.output], **facts)


if __name__ == "__main__":
    run(main)
