"""A study with what is looked up in it all the time: its policies and where things are.

The other modules of this package are functions of a Plan and of names: a policy, a seed, a benchmark. They read nothing
but the study and the digests of our own code, so a plan costs milliseconds, and a test needs no workflow.
"""

import functools
from dataclasses import dataclass

from workflow_scripts.plan.layout import Layout
from workflow_scripts.study.again import Again
from workflow_scripts.study.datasets import made_of
from workflow_scripts.study.lineage import CALIBRATION, Policy, policies_of, seeds_of
from workflow_scripts.study.methods import Run
from workflow_scripts.study.study import Study

TORCH = ("torch", "transformers")
TRAINERS = (*TORCH, "trl", "accelerate")


@dataclass(frozen=True, eq=False)
class Plan:
    """A checked study, its policies by lineage, and its layout. No two plans are equal: each has a cache of its own."""

    study: Study
    policies: dict[str, Policy]
    layout: Layout

    def run(self, policy: str) -> Run:
        """Return the run that makes a policy; KeyError for a base model."""
        return self.study.runs[self.policies[policy].run]

    @functools.cached_property
    def again(self) -> dict[str, Again]:
        """Return what answers again, by the name of its row: tiny.sft@NAME."""
        return {part.row(name): part for name, part in self.study.again.items()}

    def speaker(self, policy: str) -> str:
        """Return the policy whose weights answer under a name: of what answers again, the one that it is again."""
        return self.again[policy].of if policy in self.again else policy

    def trained(self) -> list[str]:
        """Return the policies that a run trains; whose weights are adopted are not."""
        return [name for name in self.made() if self.run(name).learns_from != "choice"]

    def chosen(self) -> list[str]:
        """Return the policies that are chosen among others."""
        return [name for name in self.made() if self.run(name).learns_from == "choice"]

    def made(self) -> list[str]:
        """Return the policies that are made by a run of this study: trained or chosen, and not adopted."""
        return [
            name for name, policy in self.policies.items() if policy.parent and name not in self.study.adopt
        ]


def plan_of(study: Study) -> Plan:
    """Return the plan of a checked study."""
    return Plan(study, policies_of(study), Layout(study.study))


def cells(plan: Plan) -> list[tuple[str, int]]:
    """Return every (policy, seed) of the study's own that answers and is scored."""
    return [(name, seed) for name, policy in plan.policies.items() for seed in seeds_of(plan.study, policy)]


def trained_cells(plan: Plan) -> list[tuple[str, int]]:
    """Return every (policy, seed) that is trained."""
    trained = set(plan.trained())
    return [(name, seed) for name, seed in cells(plan) if name in trained]


def outside_cells(plan: Plan) -> list[tuple[str, int]]:
    """Return every (policy, seed) that comes from elsewhere: as of a base model there is one of each."""
    return [(name, plan.study.first_seeds()[0]) for name in plan.study.policies]


def again_cells(plan: Plan) -> list[tuple[str, int]]:
    """Return every (row, seed) that is answered again: of all seeds of its policy."""
    return [
        (name, seed)
        for name, part in plan.again.items()
        for seed in seeds_of(plan.study, plan.policies[part.of])
    ]


def scored_cells(plan: Plan) -> list[tuple[str, int]]:
    """Return every (policy, seed) of the table: the study's, those again, those from elsewhere, calibration rows."""
    return [*cells(plan), *again_cells(plan), *outside_cells(plan), *((name, 0) for name in CALIBRATION)]


def scored_on(plan: Plan, policy: str) -> list[str]:
    """Return the benchmarks that a policy of the table is scored on: all, or those that it answers again."""
    if policy in plan.again:
        return plan.again[policy].answered(plan.study)
    return list(plan.study.benchmarks)


def history_turns(plan: Plan, dataset: str | None) -> int | None:
    """Return how many past exchanges stand before a turn of a dataset; those that are mixed agree in it."""
    return next((part.history_turns for part in made_of(plan.study, dataset).values()), None)
