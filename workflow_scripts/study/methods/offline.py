"""The offline-RL objectives of Leftover Lunch (Baheti et al. 2024)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Positive, Share
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import LongestRow, annotated_rows
from workflow_scripts.study.sampling import PromptAndReply
from workflow_scripts.study.training import Parent, PolicyTraining

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class OfflineRl(PolicyTraining, PromptAndReply):
    """What the objectives of Leftover Lunch (Baheti et al. 2024) share: rewarded answers, weighted by the token."""

    learns_from = "rewarded"
    drops_nothing = True
    read_before = ("annotation", "split", "validation", "max_prompt_tokens", "max_tokens")

    parent: Parent
    """A run or a model, or several: one policy for each of their policies; or the best of some."""
    annotation: str
    """The annotation whose final_reward is the reward."""
    split: str
    """Its split that is learned from."""
    validation: str | None = None
    """Its split that is only validated on."""
    sampling: Literal["none", "good_priority", "good_random", "all_priority"] = "none"
    """none: every preferred answer once; good_priority: these in proportion to their weight; good_random: those of
    positive advantage alike; all_priority: as good_priority, over all answers."""
    padding_free: bool = False
    """Lay rows end to end instead of padding them; goes with gradient_checkpointing, and wants long rows or a GPU."""

    def names_of_material(self, path: str, need: Names) -> None:
        """Need its annotation, the splits among those it covers, and advantages where it draws by these."""
        need.need_annotated(path, self.annotation, self.split)
        need.need_annotated(path, self.annotation, self.validation, "validation")
        if self.sampling == "good_random" and not self.uses():
            need.refuse(f"{path}.sampling", f"good_random needs advantages, which {self.method} has not")

    def is_validated(self, study: "Study") -> bool:
        """Tell whether it has a split that is only validated on."""
        return bool(self.validation)

    def validated_by(self, study: "Study") -> tuple[str, tuple[str, str] | None]:
        """Return its validation split."""
        rows = annotated_rows(study, self.annotation, self.validation) if self.validation else None
        return "{run}.validation", rows

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split it learns from."""
        return annotated_rows(study, self.annotation, self.split)

    def longest_row(self) -> LongestRow:
        """Return the longest prompt with reply."""
        return LongestRow("max_tokens", self.max_tokens)

    def file_beside(self) -> tuple[str, str]:
        """Return its rewarded rows: annotation, a digest of how they are cut, and the value head, if it has one."""
        value = [name for _, name in self.uses()]
        return "annotation", "-".join([self.annotation, "0" * 8, *value])

    @model_validator(mode="after")
    def checkpointing_needs_flat(self) -> "OfflineRl":
        if self.gradient_checkpointing and not self.padding_free:
            raise ValueError("gradient_checkpointing needs padding_free: true")
        return self


class WithValue(OfflineRl):
    """An objective that weighs by the advantage: reward − value."""

    read_before = (*OfflineRl.read_before, "value")

    value: str
    """The value head."""

    def names_of_material(self, path: str, need: Names) -> None:
        """Need its value head, too."""
        super().names_of_material(path, need)
        need.need(f"{path}.value", self.value, need.study.values, "value head")

    def uses(self) -> tuple[tuple[str, str], ...]:
        """Return its value head."""
        return (("values", self.value),)


class Nll(OfflineRl):
    """Negative log-likelihood on the preferred answers."""

    method: Literal["nll"]


class Wbc(OfflineRl):
    """Weighted behaviour cloning: the reward weighs."""

    method: Literal["wbc"]


class RGold(OfflineRl):
    """Reward GOLD (Pang and He 2021): reward times the policy's own probability of the token."""

    method: Literal["r_gold"]
    floor: Share = 0.1
    """The least probability that weighs."""


class RLol(OfflineRl):
    """Reward LoL: reward times the clipped importance ratio of the answer."""

    method: Literal["r_lol"]
    clip: Positive | None = 0.9
    """The ratio stays within 1 ± clip; null: as it is."""


class ALol(WithValue):
    """Advantage-leftover-lunch: positive advantage times the clipped importance ratio of the answer."""

    method: Literal["a_lol"]
    clip: Positive | None = 0.9
    """The ratio stays within 1 ± clip; null: as it is."""


class ALolRefFree(WithValue):
    """A-LoL without the ratio."""

    method: Literal["a_lol_ref_free"]
    clamp: bool = True
    """Answers of negative advantage weigh nothing; false, as the published code: they are unlearned."""


class ALolSeq(WithValue):
    """A-LoL with a clipped ratio for each token."""

    method: Literal["a_lol_seq"]
    clip: Positive | None = 0.9
    """The ratios stay within 1 ± clip; null: as they are."""


class ALolKl(WithValue):
    """A-LoL without the ratio, held to the parent by a divergence term."""

    method: Literal["a_lol_kl"]
    beta: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the divergence."""


OfflineMethod = Nll | Wbc | RGold | RLol | ALol | ALolRefFree | ALolSeq | ALolKl
