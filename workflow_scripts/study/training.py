"""What trainings share, whatever they learn."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Tag,
    field_validator,
    model_validator,
)

from workflow_scripts.study.basics import Count, PartShare, Positive, Share, Strict
from workflow_scripts.study.findings import Finding, doubt
from workflow_scripts.study.grid import with_members
from workflow_scripts.study.lineage import parents_of
from workflow_scripts.study.names import Names, name_in
from workflow_scripts.study.part import Part
from workflow_scripts.study.watch import Watch

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


# Keys that alter no result beyond rounding: they make nothing stale, and reach a job by its environment.
OF_THE_MACHINE = (
    "per_device_batch",
    "gradient_checkpointing",
    "log_every",
    "checkpoint_every",
    "gpu_memory_share",
)


class Training(Part):
    """What every training run can set. How many GPUs share it alters no result beyond rounding; nor do
    per_device_batch, gradient_checkpointing, log_every, checkpoint_every and gpu_memory_share, whose change makes
    nothing stale."""

    epochs: Positive = 1.0
    """Passes over the data."""
    max_steps: Count | None = None
    """Stop after so many optimiser steps."""
    drop_last: bool = False
    """Leave out what is left of an epoch's rows, or of all that offline RL draws, behind the last whole batch_size;
    rloo always does."""
    batch_size: Count | None = None
    """Rows (pairs; of sft see batch_of) per optimiser step, all GPUs together; null: per_device_batch."""
    per_device_batch: Count = 1
    """Most rows of one GPU's forward pass: memory alone. The passes of a step follow from batch_size and the GPUs."""
    learning_rate: Positive
    """Highest learning rate."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls."""
    warmup: Share = 0.1
    """Share of the steps in which it rises first, from 0; never all of them, and not in one step alone."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    adam_beta1: PartShare = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: PartShare = 0.999
    """Decay of AdamW's second moment."""
    adam_epsilon: Positive = 1.0e-8
    """What AdamW adds to the root of the second moment before it divides by it."""
    optimizer: Literal[
        "adamw_torch", "adamw_torch_fused", "paged_adamw_32bit", "adamw_bnb_8bit", "paged_adamw_8bit"
    ] = "adamw_torch"
    """…8bit hold AdamW's moments in 8 bits (Dettmers et al. 2022), paged ones move out of a full GPU: both by
    bitsandbytes. On a CPU adamw_torch, whatever stands here."""
    precision: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 where the machine computes in it, else float32; float16 scales the loss, and needs CUDA."""
    dropout: PartShare | None = None
    """Share that the model's own dropout layers drop in this training; adapters have lora.dropout. null: what the
    model came with in sft and on pairs and ranked answers; in offline and online RL and reward models none at all,
    adapters' neither. References are always read without."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory: memory alone."""
    log_every: Count = 5
    """Optimiser steps between points of the loss curve."""
    evaluate_every: Count = 25
    """Optimiser steps (ppo: batches of answers) between validations, where it has rows to validate on or a watch."""
    checkpoint_every: Count = 25
    """Optimiser steps between checkpoints to resume from."""
    keep: Literal["last", "best"] = "last"
    """best: the checkpoint with the best value of what `watch` watches, or else with the lowest validation loss."""
    patience: Count | None = None
    """keep: best, and stop after so many validations without a better one."""
    threads: Count = 2
    """CPU threads of the job."""

    def steps(self, rows: int | None) -> int | None:
        """Return the optimiser steps of a training on so many rows (packs, pairs); None where they are not known."""
        if self.max_steps or rows is None:
            return self.max_steps
        share = rows / (self.batch_size or 1)
        return math.ceil((math.floor(share) if self.drop_last else math.ceil(share)) * self.epochs)

    def spares_its_warmup(self, rows: int | None) -> bool:
        """Tell whether so many rows make one step alone: it is trained without the warm-up that would be all of it."""
        return self.steps(rows) == 1 and self.warmup > 0 and self.schedule != "constant"

    @model_validator(mode="after")
    def rows_of_a_step(self) -> "Training":
        if self.batch_size is None:
            self.batch_size = self.per_device_batch
        return self

    @model_validator(mode="after")
    def patience_for_the_best(self) -> "Training":
        if self.patience and self.keep != "best":
            raise ValueError("patience needs keep: best")
        return self


ChosenBy = Literal["loss/validation", "watch/validation"]


class Best(Strict):
    """A parent that is chosen: the best of what a run with a grid makes, or several runs; see BestOf."""

    best_of: str | list[str]
    """The run with a grid, or the runs."""
    by: ChosenBy = "loss/validation"
    """By what."""


def kind_of_parent(value: Any) -> str:
    """Return which side of `Parent` a value is meant to be."""
    if isinstance(value, dict | Best):
        return "best_of"
    return "list[str]" if isinstance(value, list) else "str"


Parent = Annotated[
    Annotated[str, Tag("str")] | Annotated[list[str], Tag("list[str]")] | Annotated[Best, Tag("best_of")],
    Discriminator(kind_of_parent),
]


class Lora(Strict):
    """Low-rank adapters (Hu et al. 2021): W x + (alpha / rank) B A x."""

    rank: Count
    """Rank of the update."""
    alpha: Positive
    """Numerator of its scale; a source that scales by α alone means α × rank here."""
    dropout: PartShare = 0.0
    """Dropout before the adapter."""
    targets: str | list[str] = "all-linear"
    """Names of the layers adapted, or all-linear."""
    merge: bool = True
    """Add the trained adapters into the weights; false: keep them alone, a few MB beside their base model."""

    @field_validator("targets")
    @classmethod
    def in_the_loss(cls, targets: str | list[str]) -> str | list[str]:
        if isinstance(targets, list) and "lm_head" in targets:
            raise ValueError("an adapter on lm_head would be left out of the loss; take it out")
        if not targets:
            raise ValueError("names no layer; write all-linear for every one")
        return targets


def or_in_its_grid(schema: dict[str, Any]) -> None:
    """Say in a JSON schema that a grid may give what a run needs."""
    required = schema.pop("required", [])
    always = [key for key in required if key in ("method", "parent")]
    schema["anyOf"] = [{"required": required}, {"required": [*always, "grid"]}]


class PolicyTraining(Training):
    """What every training of a policy can set beside."""

    model_config = ConfigDict(json_schema_extra=or_in_its_grid)

    learns_from: ClassVar[Literal["tokens", "pairs", "ranked", "rewarded", "prompts"]]
    """What its training reads: the tokens of a dataset; pairs with the parent's log-probs; ranked answers; rewarded
    answers with the parent's log-probs; prompts that it answers itself."""
    read_before: ClassVar[tuple[str, ...]]
    """The keys that jobs before the training have dealt with: their results make it stale, and not the keys."""
    whole_on_each: ClassVar[bool] = False
    """Each of its GPUs holds the whole policy, whatever `parallel` says of the others."""
    drops_nothing: ClassVar[bool] = False
    """dropout: null means none at all, adapters' neither."""

    lora: Lora | None = None
    """Train adapters instead of all weights."""
    watch: Watch | None = None
    """Look at its answers to a validation split while it trains."""
    quantise: Literal["nf4"] | None = None
    """Hold the frozen weights in four bits (QLoRA), by bitsandbytes; needs lora. What is saved has 32 bits."""
    quantise_double: bool = True
    """nf4: hold the scales of the four-bit weights in eight bits themselves."""
    grid: Annotated[dict[str, list[Any]], Field(min_length=1)] | None = None
    """Values of some of its keys, lists: a run for every combination, called by its values, `dpo-lr5e-4-beta1e-1`. Who
    names this run as parent gets them all. What stands in the run for such a key does not count."""

    _members: dict[str, Self] = PrivateAttr({})
    _written_as: str | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def each_of_its_grid(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        run, members = with_members(cls, value, handler)
        run._members = members
        return run

    def members(self) -> dict[str, "PolicyTraining"]:
        """Return the runs of its grid by what stands behind its name; {} without one."""
        return self._members

    def written_as(self) -> str | None:
        """Return the name of the run in the study's file whose grid has this one; None where it stands there itself."""
        return self._written_as

    def own_template(self) -> str | None:
        """Return the template it is asked in from here on, or None: its parent's."""
        return None

    def names(self, path: str, need: Names) -> None:
        """Need its parents, what it learns from, and rows to validate on where the best checkpoint is to be kept."""
        study, parents = need.study, parents_of(self)
        if name_in(path) in study.models:
            need.refuse(path, "a model has this name already")
        if len(set(parents)) < len(parents) or not parents:
            need.refuse(f"{path}.parent", f"names each parent once, and at least one, not {parents}")
        for parent in parents:
            if parent in study.policies:
                need.refuse(
                    f"{path}.parent",
                    f"policies.{parent} has no weights here, so nothing can be trained from it: name a model or a run",
                )
                continue
            need.need(f"{path}.parent", parent, [*study.models, *study.runs], "model or run")
            if self.lora and not self.lora.merge and parent in study.runs:
                need.refuse(
                    f"{path}.lora.merge",
                    f"adapters are kept alone beside a base model only, and {parent!r} is a run; "
                    "leave it out, or train from the base model",
                )
        self.names_of_material(path, need)
        if self.watch:
            self.watch.names(f"{path}.watch", need)
        elif self.keep == "best" and not self.is_validated(study):
            need.refuse(
                f"{path}.keep",
                "best needs a validation split or a watch, and neither it nor its pairs have one",
            )

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find dropout of adapters that does not act, and what is wrong with its watch."""
        yield from super().faults(path, study)
        if self.drops_nothing and self.dropout is None and self.lora and self.lora.dropout:
            yield doubt(
                f"{path}.lora.dropout",
                f"{self.lora.dropout:g} does nothing: with dropout: null this method trains without any; give dropout "
                "a number, 0.0 for the adapters' alone",
            )
        if self.watch:
            yield from self.watch.faults(f"{path}.watch", study)

    @abstractmethod
    def names_of_material(self, path: str, need: Names) -> None:
        """Need every name of what it learns from."""

    @abstractmethod
    def is_validated(self, study: "Study") -> bool:
        """Tell whether there are rows that it is only validated on."""

    def validated_by(self, study: "Study") -> tuple[str, tuple[str, str] | None]:
        """Return (path of what says which rows it is only validated on, {run} its own; (dataset, split) of them).

        The latter is None where there are none, or where they are a share of what it learns from.
        """
        return "{run}.validation", None

    def uses(self) -> tuple[tuple[str, str], ...]:
        """Return (section, name) of the pairs and the value head that are made for it."""
        return ()

    def most_rows(self, study: "Study") -> int | None:
        """Return how many rows (pairs) it learns from at most; None where only the data tell."""
        return None

    def file_beside(self) -> tuple[str, str] | None:
        """Return (key, text) of what stands beside its parent's name in the names of files, if something does."""
        return None

    @model_validator(mode="after")
    def adapters_on_four_bits(self) -> "PolicyTraining":
        if self.quantise and not self.lora:
            raise ValueError("quantise needs lora: four-bit weights cannot be trained themselves")
        return self
