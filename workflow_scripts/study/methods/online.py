"""What learns from its own answers, rewarded while it learns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from workflow_scripts.study.basics import Count, Positive, Share, SomeShare, Words
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import LongestRow, annotated_rows
from workflow_scripts.study.training import Parent, PolicyTraining

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Online(PolicyTraining):
    """What PPO and RLOO share: the policy's own answers, rewarded while it learns."""

    learns_from = "prompts"
    drops_nothing = True
    read_before = ("annotation", "split")

    parent: Parent
    """A run or a model, or several: one policy for each of their policies; or the best of some."""
    annotation: str
    """The annotation whose rewards its answers earn."""
    split: str
    """The split of the annotation's dataset whose prompts it answers."""
    max_prompt_tokens: Count = 768
    """Longer prompts lose their oldest turns; the system message stays."""
    max_new_tokens: Count = 128
    """Longest answer."""
    temperature: Positive = 1.0
    """Of the drawn answers."""
    top_p: SomeShare = 0.95
    """Nucleus of the distribution they are drawn from."""
    clip: Positive = 0.2
    """Probability ratios count within 1 ± clip."""
    missing_end_penalty: Annotated[float, Field(ge=0)] | None = None
    """Taken off the reward of an answer that does not end; null: nothing."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What draws the answers: the training itself, or vLLM beside it, which is handed the weights before each step: the
    job's mem_mb has to hold these, and an engine for each GPU."""
    gpu_memory_share: SomeShare = 0.3
    """engine vllm: the share of each GPU's memory that it may take beside the training; it alters no result."""

    def names_of_material(self, path: str, need: Names) -> None:
        """Need an annotation that can reward new answers, and a split of its dataset."""
        need.need_answerable(path, self.annotation, self.split)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find weights that cannot be handed over."""
        yield from super().faults(path, study)
        if self.engine == "vllm" and self.quantise:
            yield wrong(
                f"{path}.engine", "vLLM is handed whole weights, and quantise holds them in four bits"
            )

    def is_validated(self, study: "Study") -> bool:
        """Return False: it draws its own answers, and validates on none."""
        return False

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split whose prompts it answers."""
        return annotated_rows(study, self.annotation, self.split)

    def longest_row(self) -> LongestRow:
        """Return the longest prompt with answer."""
        return LongestRow("max_prompt_tokens + max_new_tokens", self.max_prompt_tokens + self.max_new_tokens)

    def longest_answer(self) -> int:
        """Return the most tokens of an answer."""
        return self.max_new_tokens


class Ppo(Online):
    """Proximal policy optimisation (Schulman et al. 2017), penalised for leaving the parent (Ziegler et al. 2019)."""

    whole_on_each = True

    method: Literal["ppo"]
    stop: list[Words] = []
    """An answer also ends before the first of these texts: it is rewarded without, and learns to say it."""
    rollout_batch: Count = 16
    """Answers drawn per step, which max_steps and epochs count; a multiple of batch_size."""
    ppo_epochs: Count = 4
    """Passes over a step's answers."""
    target_kl: Positive | None = 0.1
    """Passes stop early where the policy has moved by 1.5 times this since the answers were drawn; null: never."""
    value_clip: Positive = 0.2
    """How far the value of a state may move in a step."""
    value_coef: Positive = 0.1
    """Weight of the value loss."""
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """λ of the generalised advantage estimate."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.2
    """Penalty per nat of leaving the parent."""
    kl_control: Literal["fixed", "adaptive"] = "adaptive"
    """adaptive: the penalty follows kl_control_target."""
    kl_control_target: Positive = 6.0
    """The divergence per answer, in nats, that an adaptive penalty aims at."""
    score_scaling: bool = True
    """Rewards are divided by their running standard deviation."""
    score_norm: bool = True
    """Their running mean is taken off first."""
    score_clip: Positive | None = None
    """Rewards beyond this are cut; null: none."""

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find rollouts that are not whole batches."""
        yield from super().faults(path, study)
        if self.rollout_batch % (self.batch_size or 1):
            yield wrong(
                f"{path}.rollout_batch",
                f"{self.rollout_batch} is no multiple of batch_size {self.batch_size}",
            )


class Rloo(Online):
    """REINFORCE with the mean of a prompt's other answers as baseline (Ahmadian et al. 2024), by TRL."""

    method: Literal["rloo"]
    num_generations: Annotated[int, Field(ge=2)] = 4
    """Answers per prompt; they divide batch_size."""
    beta: Annotated[float, Field(ge=0)] = 0.05
    """Penalty per nat of leaving the parent."""

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find batches that split a prompt's answers."""
        yield from super().faults(path, study)
        if (self.batch_size or 1) % self.num_generations:
            yield wrong(
                f"{path}.batch_size",
                f"{self.batch_size} is no multiple of num_generations {self.num_generations}",
            )


OnlineMethod = Ppo | Rloo
