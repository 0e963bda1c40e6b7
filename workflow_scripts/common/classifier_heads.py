"""Classifiers with a head that transformers does not have.

A critic of commonsense events, a classifier of offence, and OpenAssistant's reward models. A folder holds config.json,
model.safetensors (the encoder, alone or inside a larger model), a tokenizer, and the head: in head.safetensors, or
among the tensors of model.safetensors under the names it was published with. Covers loading with every tensor accounted
for, and the forward pass, in the shape `common.reward_model` scores. Not covered: training, and files that need
unpickling (.bin, .pt), which must be converted elsewhere; keras weights (.h5) are, by `download.convert_critic`.
"""

from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.reward_model import config_of

# isort: split
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Scores(NamedTuple):
    """What a classifier returns: `logits` (batch, outputs)."""

    logits: Tensor


class Critic(torch.nn.Module):
    """The critic of Symbolic Knowledge Distillation (West et al. 2022): is an event valid? Its logit, (batch, 1).

    logit = out · GELU(dense · h), h the state of the first token. Where the encoder has a pooler, as the published one
    does, h is the pooler's: tanh(W · state + b).
    """

    model_type = "roberta"

    def __init__(self, encoder: Any, head: dict[str, Tensor], tokenizer: Any):
        super().__init__()
        self.encoder, self.config, self.pooled = encoder, encoder.config, encoder.pooler is not None
        self.config.num_labels = 1
        self.dense, self.out = linear(head, "dense"), linear(head, "out")

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Scores:
        """Return the logits of token ids (batch, time) under a mask of the same shape."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        first = states.pooler_output if self.pooled else states.last_hidden_state[:, 0]
        return Scores(self.out(torch.nn.functional.gelu(self.dense(first))))


class Offensive(torch.nn.Module):
    """ToxiChat's classifier (Baheti et al. 2021): is the last utterance of a thread safe (0) or offensive (1)?

    logits (batch, 2) = out · h, h the state of the last end token: each utterance of a thread ends with one.
    """

    model_type = "gpt2"

    def __init__(self, encoder: Any, head: dict[str, Tensor], tokenizer: Any):
        super().__init__()
        self.encoder, self.config, self.end = encoder, encoder.config, tokenizer.eos_token_id
        self.config.num_labels = 2
        self.out = linear(head, "out")

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Scores:
        """Return the logits of token ids (batch, time) under a mask of the same shape, padded on the right.

        Raises PlumblineError for a text without an end token.
        """
        # The published tokenizer has a padding token of its own, which the embeddings do not.
        input_ids = input_ids.masked_fill(attention_mask == 0, self.end)
        ends = (input_ids == self.end) & (attention_mask == 1)
        if not ends.any(1).all():
            raise PlumblineError(
                "a text for the offensive head has no end token; each utterance ends with one"
            )
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (ends * places).max(1).values
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return Scores(self.out(states[torch.arange(len(states), device=states.device), last]))


class Oasst(torch.nn.Module):
    """OpenAssistant's reward models (Köpf et al. 2023) on GPT-NeoX: how good a reply is, a logit, (batch, 1).

    logit = out · h, h the state of the last token. Their config.json says pooling: last; one that says mean is refused.
    """

    model_type = "gpt_neox"

    def __init__(self, encoder: Any, head: dict[str, Tensor], tokenizer: Any):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        pooling = getattr(self.config, "pooling", "last")
        if pooling != "last":
            raise PlumblineError(
                f"this reward model's config.json has pooling {pooling!r}; only last is read here"
            )
        self.config.num_labels = 1
        self.out = linear(head, "out")

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Scores:
        """Return the logits of token ids (batch, time) under a mask of the same shape, padded on the right."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(1) - 1
        return Scores(self.out(states[torch.arange(len(states), device=states.device), last]))


HEADS = {"critic": Critic, "offensive": Offensive, "oasst": Oasst}
# What the published files call the layers of a head: {published: here}.
PUBLISHED = {
    "critic": {"dense": "dense", "out_proj": "out"},
    "offensive": {"off_classifier": "out"},
    "oasst": {"out_proj": "out"},
}


def linear(head: dict[str, Tensor], name: str) -> torch.nn.Linear:
    """Return the linear layer whose weight (out, in) and bias (out,) a head's tensors hold."""
    weight, bias = head[f"{name}.weight"], head[f"{name}.bias"]
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def need_file(folder: Path, name: str) -> Path:
    """Return a file of a folder; PlumblineError if it is missing, with advice where a pickle lies in its stead."""
    path = folder / name
    if path.is_file():
        return path
    pickles = sorted(item.name for item in folder.glob("*") if item.suffix in PICKLES)
    advice = "fetch the source again"
    if pickles and name.endswith(".safetensors"):
        advice = (
            f"{', '.join(pickles)} can run code when it is read and is not loaded: convert its tensors with "
            f"safetensors.torch.save_file(tensors, {name!r}) and put that file there"
        )
    raise PlumblineError(f"{folder}: no {name}; {advice}")


def stored_head(folder: Path, kind: str) -> tuple[Path, dict[str, Tensor]]:
    """Return (file, tensors) of a head: all of head.safetensors, or those of model.safetensors with published names."""
    path = folder / "head.safetensors"
    names = PUBLISHED[kind]
    try:
        if path.is_file():
            return path, renamed(load_file(path), names)
        inside = need_file(folder, "model.safetensors")
        with safe_open(inside, "pt") as tensors:
            held = [name for name in tensors.keys() if name.partition(".")[0] in names]  # noqa: SIM118 (no mapping)
            if held:
                return inside, renamed({name: tensors.get_tensor(name) for name in held}, names)
    except SafetensorError as error:
        raise PlumblineError(f"{path}: not a safetensors file ({error}); convert the head again") from None
    return need_file(folder, path.name), {}


def renamed(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Return tensors with their layers called as here; a layer that is not known keeps its name."""
    split = {name: name.partition(".") for name in tensors}
    return {f"{names.get(layer, layer)}.{part}": tensors[name] for name, (layer, _, part) in split.items()}


def read_head(folder: Path, kind: str, width: int) -> dict[str, Tensor]:
    """Return the tensors of a head, in float32; `width` is the encoder's.

    critic: dense.weight (middle, width), dense.bias (middle,), out.weight (1, middle), out.bias (1,).
    offensive: out.weight (2, width), out.bias (2,); oasst: out.weight (1, width), out.bias (1,). Raises PlumblineError
    for other names or shapes.
    """
    path, tensors = stored_head(folder, kind)
    head = {name: tensor.float() for name, tensor in tensors.items()}
    found = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if kind == "critic":
        middle = found.get("dense.bias", ("middle",))[0]
        wanted = {"dense.weight": (middle, width), "dense.bias": (middle,)}
        wanted |= {"out.weight": (1, middle), "out.bias": (1,)}
    else:
        outputs = 2 if kind == "offensive" else 1
        wanted = {"out.weight": (outputs, width), "out.bias": (outputs,)}
    if found != wanted:
        raise PlumblineError(
            f"{path}: holds {_shapes(found)}; a {kind} head on this encoder needs {_shapes(wanted)}"
        )
    return head


def _shapes(tensors: dict[str, tuple]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(tensors.items())) or "nothing"


def load_encoder(folder: Path, model_type: str) -> Any:
    """Return the encoder of a folder in float32; PlumblineError if one of its tensors is missing or does not fit.

    Only a pooler may be absent: an encoder without one has none.
    """
    need_file(folder, "config.json")
    config = config_of(folder)
    found = config.model_type
    if found != model_type:
        raise PlumblineError(f"{folder}: a {found} encoder, where this head needs a {model_type}")
    path = need_file(folder, "model.safetensors")
    options = {}
    try:
        if model_type == "roberta":
            with safe_open(path, "pt") as tensors:
                names = list(tensors.keys())
            options["add_pooling_layer"] = any(name.endswith("pooler.dense.weight") for name in names)
        encoder, report = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise PlumblineError(f"{folder}: its encoder cannot be loaded: {error}") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise PlumblineError(
            f"{path}: {len(missing)} tensors of the encoder are missing, first {missing[0]}; convert it again"
        )
    return encoder


def load_head_classifier(folder: Path | str, kind: str) -> tuple[Any, Any]:
    """Return (model in evaluation mode, tokenizer) of a folder; kind: a key of HEADS. Safetensors only."""
    folder = Path(folder)
    encoder = load_encoder(folder, HEADS[kind].model_type)
    tokenizer = load_tokenizer(folder)
    head = read_head(folder, kind, encoder.config.hidden_size)
    model = HEADS[kind](encoder, head, tokenizer)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer
