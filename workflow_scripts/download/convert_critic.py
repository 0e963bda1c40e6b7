"""Turn the weights of the critic of Symbolic Knowledge Distillation, as keras saved them, into safetensors.

West et al. (2022) publish a keras model: a RoBERTa whose pooled first token goes through a dense layer of GELU and one
of a single output. Read is the HDF5 file that keras 2 makes of it with `save_weights` (or `save`): datasets of numbers
alone, no layer, function or link of the file is followed. Written is what the reward head `critic` reads: config.json
and tokenizer of the encoder it was trained from, model.safetensors and head.safetensors. Every tensor must have its
place, and every place its tensor. Not covered: TensorFlow's own SavedModel folder, from which TensorFlow writes the
HDF5 file: `tf.keras.models.load_model(folder).save_weights("critic.h5")`.
"""

import argparse
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import save_file
from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_folder, read_json, write_manifest
from workflow_scripts.common.settings import settings_of

PARTS = ("embeddings", "encoder", "pooler")  # of an encoder
LAST = {
    "kernel": "weight",
    "gamma": "weight",
    "embeddings": "weight",
    "beta": "bias",
}  # keras' names: torch's
NOT_OURS = (".safetensors", ".index.json")  # the weights that the encoder had before


class Settings(TypedDict):
    """The name of the file of weights."""

    weights: str


Tensors = dict[str, np.ndarray]


def read_keras(path: Path) -> Tensors:
    """Return {name: array} of a file of keras weights, those of an optimiser left out.

    PlumblineError if it is no such file, holds what is no number, or speaks of data that it does not hold itself.
    """
    found: Tensors = {}

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights/"):
            return
        if item.external or item.is_virtual or item.id.get_storage_size() < item.nbytes:
            raise PlumblineError(
                f"{path}: {name} is not stored whole in the file itself, as keras stores weights; save them again"
            )
        if not np.issubdtype(item.dtype, np.floating):
            raise PlumblineError(f"{path}: {name} holds {item.dtype}, which are no weights")
        found[name] = item[()].astype(np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(take)  # links to other places and files are passed over
    except OSError as error:
        told = str(error).partition("\n")[0]
        raise PlumblineError(f"{path}: cannot be read as HDF5 ({told}); fetch or save it again") from None
    if not found:
        raise PlumblineError(f"{path}: holds no weights; save them with keras' save_weights")
    return found


def encoder_name(parts: list[str]) -> str:
    """Return torch's name of a tensor of the encoder, from the parts of keras' own behind "roberta"."""
    *path, last = parts
    path = [re.sub(r"^layer_\._(\d+)$", r"layer.\1", part) for part in path]
    return ".".join([*path, LAST.get(last, last)])


def split_keras(tensors: Tensors, path: Path) -> tuple[Tensors, Tensors]:
    """Return (encoder, head) under torch's names; matrices of dense layers are turned, (in, out) to (out, in)."""
    encoder: Tensors = {}
    layers: dict[str, Tensors] = {}
    for name, value in tensors.items():
        parts = name.removesuffix(":0").removeprefix("model_weights/").split("/")
        turned = value.T if parts[-1] == "kernel" else value
        start = next((place for place, part in enumerate(parts) if part in PARTS), None)
        if start is not None:
            encoder[encoder_name(parts[start:])] = turned
        else:
            layers.setdefault("/".join(parts[:-1]), {})[LAST.get(parts[-1], parts[-1])] = turned
    outputs = [len(layer["bias"]) for layer in layers.values() if set(layer) == {"weight", "bias"}]
    if len(layers) != 2 or sorted(outputs)[:1] != [1] or len(outputs) != 2:
        raise PlumblineError(
            f"{path}: beside the encoder it has {', '.join(sorted(layers)) or 'nothing'}; the critic has two dense "
            "layers, the last of one output"
        )
    out, dense = sorted(layers.values(), key=lambda layer: len(layer["bias"]))
    named = {"dense": dense, "out": out}
    head = {f"{layer}.{part}": value for layer, held in named.items() for part, value in held.items()}
    return encoder, head


def roberta_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of every tensor of a RoBERTa with a pooler, by its config.json."""
    width, inner = config["hidden_size"], config["intermediate_size"]

    def dense(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.LayerNorm.weight": (width,), f"{name}.LayerNorm.bias": (width,)}

    sizes = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    shapes = {f"embeddings.{name}_embeddings.weight": (config[key], width) for name, key in sizes.items()}
    shapes |= norm("embeddings") | dense("pooler.dense", width, width)
    for number in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            shapes |= dense(f"{at}.attention.self.{name}", width, width)
        shapes |= dense(f"{at}.attention.output.dense", width, width) | norm(f"{at}.attention.output")
        shapes |= dense(f"{at}.intermediate.dense", inner, width)
        shapes |= dense(f"{at}.output.dense", width, inner) | norm(f"{at}.output")
    return shapes


def check_encoder(encoder: Tensors, config: dict, path: Path) -> None:
    """Raise PlumblineError unless the tensors are those of the configuration, each with its shape."""
    if config.get("model_type") != "roberta":
        raise PlumblineError(f"{path}: the base is a {config.get('model_type')}; the critic is a roberta")
    wanted = roberta_shapes(config)
    for name in sorted(wanted.keys() | encoder.keys()):
        if name not in encoder or name not in wanted or encoder[name].shape != wanted[name]:
            has = encoder[name].shape if name in encoder else "nothing"
            raise PlumblineError(
                f"{path}: as {name} it has {has}, where the base's config.json asks for {wanted.get(name, 'nothing')}: "
                "another encoder than the base, or other names than keras gave"
            )


def convert(weights: Path, base: Path, folder: Path) -> None:
    """Write a critic's folder from its keras weights and the folder of the encoder that it was trained from."""
    if not (base / "config.json").is_file():
        raise PlumblineError(
            f"{base}: has no config.json; the base is the encoder's folder, with its tokenizer"
        )
    encoder, head = split_keras(read_keras(weights), weights)
    check_encoder(encoder, read_json(base / "config.json"), weights)
    for tensors, name in ((encoder, "model"), (head, "head")):
        whole = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        bad = [key for key, value in whole.items() if not np.isfinite(value).all()]
        if bad:
            raise PlumblineError(f"{weights}: {bad[0]} holds numbers that are not finite; fetch it again")
        save_file(whole, folder / f"{name}.safetensors", metadata={"format": "pt"})
    for item in sorted(base.iterdir()):
        if item.is_file() and not item.name.endswith(NOT_OURS):
            shutil.copyfile(item, folder / item.name)
            os.chmod(folder / item.name, 0o644)


def main() -> None:
    """Read the flags and convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with the file of weights")
    parser.add_argument(
        "--base", type=Path, required=True, help="folder of the encoder: config.json and tokenizer"
    )
    parser.add_argument(
        "--settings", type=settings_of(Settings), required=True, help="the conversion, as JSON"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    arguments = parser.parse_args()
    with finished_folder(arguments.output) as folder:
        convert(arguments.source / arguments.settings["weights"], arguments.base, folder)
    write_manifest(arguments.manifest, [arguments.output])


if __name__ == "__main__":
    run(main)
