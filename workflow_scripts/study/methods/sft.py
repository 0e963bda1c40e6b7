"""Supervised fine-tuning."""

from typing import Literal

from pydantic import model_validator

from workflow_scripts.study.basics import Count, Positive, Strict
from workflow_scripts.study.training import PolicyTraining


class Kl(Strict):
    """A term that holds fine-tuning to its frozen parent."""

    weight: Positive
    """Its weight λ."""
    form: Literal["gold", "full"] = "gold"
    """gold: log-ratio of the learned tokens, whose gradient only scales the learning rate by 1 − λ; full: the divergence
    over the whole vocabulary."""


class Sft(PolicyTraining):
    """Supervised fine-tuning: on replies (it), on instructions and replies (im), or on plain packed text (lm)."""

    learns_from = "tokens"
    read_before = (
        "dataset",
        "split",
        "validation",
        "template",
        "backend",
        "max_tokens",
        "overflow",
        "objective",
        "im_mask",
    )

    method: Literal["sft"]
    parent: str | list[str]
    """A model or a run, or several: one policy for each of their policies."""
    dataset: str
    """The dataset."""
    split: str = "sft"
    """The split it learns from."""
    validation: str = "validation"
    """The split its validation loss is measured on."""
    template: str | None = None
    """The template it speaks in from here on; null: its parent's."""
    backend: Literal["transformers", "fastchat"] = "transformers"
    """fastchat: FastChat's format, which is the vicuna template."""
    pack_tokens: Count | None = 1024
    """Pack rows into so many tokens, at least max_tokens, without attention across their borders; null: padding-free
    batches."""
    max_tokens: Count = 1024
    """Longest row, in tokens."""
    overflow: Literal["cut", "reject"] = "cut"
    """What happens to rows longer than max_tokens: cut, they lose their end, and replies their end token, which is
    counted and warned of."""
    objective: Literal["it", "im", "lm"] = "it"
    """it: the loss is on replies; im: on instructions too (Shi et al. 2024); lm: on blocks of max_tokens of plain text."""
    im_mask: Literal["paper", "code"] = "paper"
    """im: paper leaves template tokens out; code, as the published runs did, only the first header."""
    neftune_alpha: Positive | None = None
    """Noise on the embeddings (Jain et al. 2024), scaled by each row's own length; 5 in the paper."""
    kl: Kl | None = None
    """Hold the policy to its parent."""
    loss_norm: Literal["token", "example"] = "token"
    """token: every learned token weighs the same; example: every row does."""

    def own_template(self) -> str | None:
        """Return the template it speaks in from here on, or None: its parent's."""
        return "vicuna" if self.backend == "fastchat" else self.template

    @model_validator(mode="after")
    def packs_hold_rows(self) -> "Sft":
        if self.pack_tokens is not None and self.pack_tokens < self.max_tokens:
            raise ValueError(
                f"pack_tokens {self.pack_tokens} is less than max_tokens {self.max_tokens}, so that longer rows would "
                "lose their end; raise pack_tokens, lower max_tokens, or set pack_tokens: null"
            )
        return self

    @model_validator(mode="after")
    def fastchat_template(self) -> "Sft":
        if self.backend == "fastchat" and self.template not in (None, "vicuna"):
            raise ValueError("backend fastchat trains with the vicuna template; leave template out")
        return self
