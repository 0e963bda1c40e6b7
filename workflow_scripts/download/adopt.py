"""Take an existing checkpoint in as the weights of a policy, in place of its training.

The checkpoint is a transformers folder in safetensors, or a PEFT adapter of the policy's parent, which is merged into
it. It has to be the parent's architecture, tensor by tensor, and to know the parent's tokens: the parent's tokenizer
goes with it, and the policy's own chat template in place of any that came. What is written is a copy, so that a later
change to the checkpoint leaves the policy as it was, and shows. The manifest says `adopted`, what the checkpoint's
folder is called and the digest of its files.

Not covered: how it was trained (its curve and its data are not known here), tokens added to the parent's, pickles.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from typing_extensions import TypedDict

from workflow_scripts.common.chat_template import save_chat_template, with_own_end
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, finished_folder, sha256_of, write_manifest
from workflow_scripts.common.models import (
    adapter_base,
    load_policy,
    load_tokenizer,
    merged_into,
    model_ends,
    reading,
)
from workflow_scripts.common.settings import settings_of
from workflow_scripts.download.prepare_model import check_finite

ADAPTER = "adapter_config.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
DIFFERENCES = 3  # tensors that a message names


class Settings(TypedDict):
    """How the policy is spoken to, and whether code that comes with the model may run."""

    template: dict[str, Any]
    trust_remote_code: bool


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights by name; tied ones stand there once."""
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def check_architecture(model: Any, parent: Path, checkpoint: Path, trusted: bool) -> None:
    """Raise PlumblineError where a checkpoint's model is of another kind than its parent, or of other sizes."""
    source = adapter_base(parent) or parent
    with reading(source, "a model"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trusted)
        if config.model_type != model.config.model_type:
            raise PlumblineError(
                f"{checkpoint}: is a {model.config.model_type} model, and the policy's parent a {config.model_type}; "
                "adopt a checkpoint that was trained from this parent, or name the model that it was trained from"
            )
        with torch.device("meta"):
            expected = shapes_of(AutoModelForCausalLM.from_config(config, trust_remote_code=trusted))
    found = shapes_of(model)
    odd = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if odd:
        named = "; ".join(
            f"{name} is {found.get(name)}, not {expected.get(name)}" for name in odd[:DIFFERENCES]
        )
        raise PlumblineError(
            f"{checkpoint}: {len(odd)} of its weights are not those of its parent's architecture ({named}); adopt a "
            "checkpoint that was trained from this parent"
        )


def check_vocabulary(checkpoint: Path, parent: Path) -> None:
    """Raise PlumblineError where a checkpoint brings a tokenizer of other tokens than its parent's."""
    if not (checkpoint / "tokenizer_config.json").is_file() and not (checkpoint / "tokenizer.json").is_file():
        return
    with reading(checkpoint, "a tokenizer"):
        own = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False).get_vocab()
    known = load_tokenizer(parent).get_vocab()
    odd = sorted(token for token in {**own, **known} if own.get(token) != known.get(token))
    if odd:
        raise PlumblineError(
            f"{checkpoint}: its tokenizer differs from its parent's in {len(odd)} tokens, {odd[0]!r} for one: the same "
            "words would be other numbers; adopt a checkpoint with the parent's tokens"
        )


def adapted(checkpoint: Path, parent: Path, trusted: bool) -> Any:
    """Return a policy's parent with a checkpoint's adapter merged into it, in float32."""
    if not (checkpoint / "adapter_model.safetensors").is_file():
        raise PlumblineError(
            f"{checkpoint}: has no adapter_model.safetensors; pickled adapters are not loaded"
        )
    return merged_into(load_policy(parent, trust_remote_code=trusted), checkpoint)


def copied(checkpoint: Path, folder: Path, trusted: bool) -> None:
    """Copy a checkpoint's weights and configuration; its code where that may run."""
    for pattern in [*WEIGHTS, *(["*.py"] if trusted else [])]:
        for path in checkpoint.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def adopt(checkpoint: Path, parent: Path, settings: Settings, folder: Path) -> None:
    """Write a checkpoint into a policy's model folder; PlumblineError where it is none of its parent's kind."""
    trusted, template = settings["trust_remote_code"], settings["template"]
    check_vocabulary(checkpoint, parent)
    if (checkpoint / ADAPTER).is_file():
        model = adapted(checkpoint, parent, trusted)
        check_architecture(model, parent, checkpoint, trusted)
        model.save_pretrained(folder)
    else:
        with tempfile.TemporaryDirectory(dir=folder) as place:  # beside what is to stay, on the same disk
            copied(checkpoint, Path(place), trusted)
            model = load_policy(place, trust_remote_code=trusted)
            check_architecture(model, parent, checkpoint, trusted)
            for path in Path(place).iterdir():
                path.replace(folder / path.name)
    check_finite(folder)
    tokenizer = load_tokenizer(parent)
    known = model_ends(folder) or model_ends(parent)
    ends = model.generation_config
    ends.eos_token_id = with_own_end(
        template, tokenizer, known if len(known) > 1 else next(iter(known), None)
    )
    ends.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_chat_template(folder, template)


def origin_of(checkpoint: Path, name: str) -> dict[str, str]:
    """Return what a checkpoint's folder is called and the digest of its files, which say which it was anywhere."""
    files = sorted(path for path in checkpoint.iterdir() if path.is_file() and not path.name.startswith("."))
    return {"name": name, "digest": digest({path.name: sha256_of(path) for path in files})}


def main() -> None:
    """Write a checkpoint as a policy's model folder, with its manifest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a transformers folder, or PEFT's")
    parser.add_argument("--name", required=True, help="what the checkpoint is called, for the manifest")
    parser.add_argument("--parent", type=Path, required=True, help="model folder of the policy's parent")
    parser.add_argument("--settings", type=settings_of(Settings), required=True, help="as JSON: template ...")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    args = parser.parse_args()
    with finished_folder(args.output) as folder:
        adopt(args.checkpoint, args.parent, args.settings, folder)
    origin = origin_of(args.checkpoint, args.name)
    write_manifest(args.manifest, [args.output], adopted=True, origin=origin)


if __name__ == "__main__":
    run(main)
