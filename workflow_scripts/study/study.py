"""A study whole: every section, and what it is called."""

from collections.abc import Iterator
from typing import Literal, get_origin

from pydantic import Field

from workflow_scripts.study.again import Again
from workflow_scripts.study.basics import Count, Fidelity, Name, RepositoryPath, Strict, Words
from workflow_scripts.study.benchmarks import Benchmark
from workflow_scripts.study.judges import Judge
from workflow_scripts.study.methods import Run, Trained
from workflow_scripts.study.mixtures import AnyDataset
from workflow_scripts.study.models import Model, Template
from workflow_scripts.study.pairs import AnyPairs, Value
from workflow_scripts.study.part import Part
from workflow_scripts.study.policies import Checkpoints, OutsidePolicy
from workflow_scripts.study.report import Report
from workflow_scripts.study.resources import Engine, GenerationResources, TrainingResources
from workflow_scripts.study.rewards import Annotation, RewardModel
from workflow_scripts.study.seeds import Seeds, SeedsUntil
from workflow_scripts.study.sources import Source


class Study(Strict):
    """One YAML: models, datasets, training runs, benchmarks, seeds. Produces one results table."""

    extends: RepositoryPath | None = None
    """Another study this one stands on, a path relative to the repository: mappings are merged, all else replaced,
    and null for an entry of a section (`runs: {dpo: null}`) drops it."""
    study: Name
    """Its name, and that of its folder under results/."""
    limit: Count | None = None
    """Cut everything short for a first look: at most so many conversations in a split, items in a benchmark (or task),
    requests to a model that writes; no training warms up."""
    allow_overlap: bool = False
    """false: rows whose question another dataset holds out (asked, validated on or watched) are taken out of what is
    learned from, and counted. true: they stay, and the table says how many questions of a benchmark they are."""
    keep_weights: Literal["all", "best", "none"] = "all"
    """Whose weights stay on the disk once the table is made: all; those of the policy that the first headline cell (or
    bar) rates best, and of its ancestors; or none (docs/questions.md). It alters no number."""
    fidelity: Fidelity = "paper"
    """Where a paper and its code disagree, which of them the scorers follow."""
    seeds: Seeds = [1]
    """Every run is trained once with each: a list of them, or as many as make an interval narrow enough."""
    templates: dict[Name, Template] = {}
    """Chat templates of one's own; those that come with Plumbline are in workflow_scripts/common/templates.yaml."""
    sources: dict[Name, Source] = {}
    """What is fetched, simulated, or written by a model."""
    models: dict[Name, Model] = Field(min_length=1)
    """The base policies."""
    datasets: dict[Name, AnyDataset] = {}
    """What is learned from and tested on."""
    reward_models: dict[Name, RewardModel] = {}
    """Reward models, for annotations and judges."""
    annotations: dict[Name, Annotation] = {}
    """Reward columns."""
    pairs: dict[Name, AnyPairs] = {}
    """Preference pairs."""
    values: dict[Name, Value] = {}
    """Value heads, for the objectives that weigh by advantage."""
    runs: dict[Name, Run] = {}
    """Training runs; a policy is its parent plus one run, and is called by its lineage: tiny.sft.dpo."""
    policies: dict[Name, OutsidePolicy] = {}
    """Policies from elsewhere, scored beside the study's own: endpoints, and ready answers."""
    again: dict[Name, Again] = {}
    """Policies that answer once more, in other batches or by another engine: what numbers move by when nothing that is
    meant to matter has changed."""
    adopt: dict[Words, Checkpoints] = {}
    """Policy, by its lineage: an existing checkpoint folder that is taken for its weights in place of its training."""
    judges: dict[Name, Judge] = {}
    """Judges, for mt_bench, alpaca_eval, judge_score and preference; and the models that write sources or answer as
    policies."""
    benchmarks: dict[Name, Benchmark] = {}
    """What every policy is scored on."""
    engine: Engine = Engine()
    """What answers prompts."""
    training_resources: TrainingResources = TrainingResources()
    """What a training job asks for."""
    generation_resources: GenerationResources = GenerationResources()
    """What a generating job asks for."""
    report: Report = Report()
    """The tables and figures."""

    def all_seeds(self) -> list[int]:
        """Return every seed that a run may be trained with."""
        return [*range(1, self.seeds.at_most + 1)] if isinstance(self.seeds, SeedsUntil) else self.seeds

    def first_seeds(self) -> list[int]:
        """Return the seeds that every run is trained with, whatever its scores."""
        return [*range(1, self.seeds.first + 1)] if isinstance(self.seeds, SeedsUntil) else self.seeds

    def trainings(self) -> dict[str, Trained]:
        """Return the runs that train: all but those that choose among others."""
        return {name: run for name, run in self.runs.items() if isinstance(run, Trained)}

    def parts(self, *sections: str) -> Iterator[tuple[str, str, Part]]:
        """Yield (section, name, part) of every entry of these sections, or of all."""
        for section in sections or SECTIONS:
            for name, part in getattr(self, section).items():
                yield section, name, part


SECTIONS = [
    key
    for key, field in Study.model_fields.items()
    if get_origin(field.annotation) is dict and key != "adopt"  # whose entries are paths
]
