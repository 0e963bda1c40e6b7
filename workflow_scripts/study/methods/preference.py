"""What learns from preference pairs, and from ranked answers."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from workflow_scripts.study.basics import Positive
from workflow_scripts.study.names import Names
from workflow_scripts.study.training import PolicyTraining

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class FromPairs(PolicyTraining):
    """What all that learns from pairs or ranked answers shares."""

    read_before = ("pairs", "rounds")

    parent: str | list[str]
    """A run or a model, or several: one policy for each of their policies."""
    pairs: str
    """The pairs: of each parent's own answers, or of answers that came ranked."""
    rounds: Annotated[int, Field(ge=2)] | None = None
    """So many rounds, for pairs of a policy's own answers: NAME-1, NAME-2 …, each the child of the one before, which
    answers anew and is its reference. Whoever names this run, or a lineage with it, gets the last. null: once."""

    def names_of_material(self, path: str, need: Names) -> None:
        """Need its pairs."""
        need.need(f"{path}.pairs", self.pairs, need.study.pairs, "set of pairs")

    def is_validated(self, study: "Study") -> bool:
        """Tell whether some of its pairs are only validated on."""
        return self.pairs in study.pairs and study.pairs[self.pairs].is_validated()

    def uses(self) -> tuple[tuple[str, str], ...]:
        """Return its pairs."""
        return (("pairs", self.pairs),)

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split that its pairs are made from."""
        return study.pairs[self.pairs].rows(study) if self.pairs in study.pairs else None

    def most_rows(self, study: "Study") -> int | None:
        """Return how many pairs it learns from at most; None where only the data tell."""
        return study.pairs[self.pairs].most_pairs() if self.pairs in study.pairs else None


class OnPairs(FromPairs):
    """What all methods on preference pairs share."""

    learns_from = "pairs"

    share_prompts: bool = True
    """Compute a prompt once for its two replies; does not go with gradient_checkpointing."""

    @model_validator(mode="after")
    def checkpointing_needs_flat(self) -> "OnPairs":
        if self.share_prompts and self.gradient_checkpointing:
            raise ValueError(
                "share_prompts does not go with gradient_checkpointing; set one of them to false"
            )
        return self


class WithReference(OnPairs):
    """What methods on pairs share that hold the policy to a reference: its frozen parent."""

    beta: Positive = 0.1
    """How strongly the policy is held to its reference."""

    @field_validator("beta", mode="before")
    @classmethod
    def a_loss_that_moves(cls, beta: object) -> object:
        if beta == 0:
            raise ValueError(
                "must be greater than 0, not 0: that takes the policy out of the loss (dpo and kto: a constant, from "
                "which nothing is learned; ipo: division by 0); give a small one, such as 0.01"
            )
        return beta


class Dpo(WithReference):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    method: Literal["dpo"]
    loss: Literal["sigmoid", "hinge"] = "sigmoid"
    """hinge: as in RSO and SLiC."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """sigmoid: the share ε of pairs taken to be labelled the wrong way round (conservative DPO, Mitchell 2023)."""
    logp_reduction: Literal["sum", "mean"] = "sum"
    """sum: log-probs of whole replies; mean: per token, which makes beta weaker by the reply's length."""
    reference_free: bool = False
    """Leave the reference out."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's negative log-likelihood, added to the loss."""

    @model_validator(mode="after")
    def smoothing_of_a_likelihood(self) -> "Dpo":
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(
                f"label_smoothing goes with loss: sigmoid, not {self.loss}: leave one of them out"
            )
        return self


class Ipo(WithReference):
    """Identity preference optimisation (Azar et al. 2023), with length-averaged log-probs as in TRL."""

    method: Literal["ipo"]


class Kto(WithReference):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024); its KL is the mean over a step's batch_size pairs."""

    method: Literal["kto"]
    desirable_weight: Positive = 1.0
    """Weight of chosen replies."""
    undesirable_weight: Positive = 1.0
    """Weight of rejected replies."""


class SimPo(OnPairs):
    """Simple preference optimisation (Meng et al. 2024): log-probs per token, a margin, and no reference."""

    method: Literal["simpo"]
    beta: Positive = 2.0
    """How sharply the loss falls with the margin."""
    gamma_beta_ratio: Annotated[float, Field(ge=0)] = 0.5
    """The margin that a pair has to win by, in nats per token: γ divided by beta."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's negative log-likelihood per token, added to the loss."""


class Pro(FromPairs):
    """Preference ranking optimisation over all answers to a prompt (Song et al. 2024); it needs no reference."""

    learns_from = "ranked"

    method: Literal["pro"]
    sft_weight: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the best answer's negative log-likelihood, times (answers − 1)²."""
    candidates: Annotated[int, Field(ge=2)] | None = None
    """At most so many answers to a prompt, the best first; null: all."""
    gaps: Literal["clamped", "signed"] = "clamped"
    """Of an answer that is ranked lower and rewarded higher: clamped takes its reward gap as 0, so that it neither
    pulls nor pushes; signed as it is, below 0, as the published code does, which turns their order round."""


PreferenceMethod = Dpo | Ipo | Kto | SimPo | Pro
