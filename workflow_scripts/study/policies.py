"""`policies` and `adopt`: policies that no run of the study makes, and weights that one would make and that are there.

A policy from elsewhere has no weights here: it answers as an endpoint does, or has answered. What needs likelihoods or
weights says in its row that there is none.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import model_validator

from workflow_scripts.study.basics import Name, RepositoryPath, Words
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.names import Names, name_in
from workflow_scripts.study.part import Part

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study

Checkpoints = RepositoryPath | dict[Words, RepositoryPath]
"""One folder for all seeds, or one for each: `{"1": …, "2": …}`."""


class OutsidePolicy(Part):
    """A policy from elsewhere, scored on the same benchmarks beside the study's own: an endpoint, or ready answers."""

    judge: str | None = None
    """An entry of `judges` of kind openai: it answers the prompts as chat messages, with each benchmark's sampling."""
    answers: RepositoryPath | dict[Name, RepositoryPath] | None = None
    """A file of ready answers, or by benchmark one file each: rows with the prompt's `id`, or its text as `prompt`,
    `messages` or `instruction`, and the answer as `answer`, `output`, `response` or `text` (docs/evaluation.md)."""

    @model_validator(mode="after")
    def either(self) -> "OutsidePolicy":
        if (self.judge is None) == (self.answers is None):
            raise ValueError("name a judge that answers, or a file of answers: one of the two")
        return self

    def method(self) -> str:
        """Return what stands for its method in the table."""
        return "judge" if self.judge is not None else "answers"

    def file_for(self, benchmark: str) -> str | None:
        """Return the file of its answers to a benchmark, if there is one."""
        return self.answers.get(benchmark) if isinstance(self.answers, dict) else self.answers

    def files(self) -> list[str]:
        """Return the files of its ready answers."""
        if isinstance(self.answers, dict):
            return list(self.answers.values())
        return [] if self.answers is None else [self.answers]

    def names(self, path: str, need: Names) -> None:
        """Need its judge or its files, and a name that nothing else has."""
        study, name = need.study, name_in(path)
        if name in CALIBRATION:
            need.refuse(path, "the calibration rows have this name already")
        for section in ("models", "runs"):
            if name in getattr(study, section):
                need.refuse(path, f"{section}.{name} has this name already")
        need.need(f"{path}.judge", self.judge, study.judges, "judge")
        if isinstance(self.answers, dict):
            for benchmark, file in self.answers.items():
                need.need(f"{path}.answers.{benchmark}", benchmark, study.benchmarks, "benchmark")
                need.need_path(f"{path}.answers.{benchmark}", file)
        else:
            need.need_path(f"{path}.answers", self.answers)

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find a judge that writes nothing, and what of a benchmark's sampling an endpoint is not asked for."""
        judge = study.judges.get(self.judge) if self.judge is not None else None
        if judge is None:
            return
        if not judge.reads_words:
            yield wrong(f"{path}.judge", f"{self.judge!r} writes no text: name a judge of kind openai")
            return
        for name, benchmark in study.benchmarks.items():
            if not benchmark.prompt_kind:
                continue
            if benchmark.asks_raw_text():
                yield doubt(
                    f"{path}.judge",
                    f"benchmarks.{name} asks with raw text to go on from, which is put to no endpoint: its row has no "
                    "value; form: instruct asks in words",
                )
            kept = {"beams": 1, "repetition_penalty": 1.0, "min_new_tokens": 0}
            unasked = [key for key, plain in kept.items() if getattr(benchmark, key) != plain]
            if unasked:
                yield doubt(
                    f"{path}.judge", f"endpoints are not asked for {', '.join(unasked)} of benchmarks.{name}"
                )


def names_of_adopted(need: Names) -> None:
    """Need each adopted policy among those that a run makes, and a folder for each of its seeds."""
    seeds = [str(seed) for seed in need.study.all_seeds()]
    for policy, folders in need.study.adopt.items():
        path = f"adopt.{policy}"
        if need.policies is None:
            continue
        if policy in need.study.policies:
            need.refuse(path, "has no weights: it comes from elsewhere as answers")
            continue
        need.need_policy(path, policy)
        known = need.policies.get(policy)
        if known and known.parent is None:
            need.refuse(path, f"is a base model: its weights are those of models.{policy}")
        by_seed = folders if isinstance(folders, dict) else dict.fromkeys(seeds, folders)
        for seed, folder in by_seed.items():
            at = f"{path}.{seed}" if isinstance(folders, dict) else path
            need.need(at, seed, seeds, "seed of the study")
            need.need_path(at, folder)
        if lacking := [seed for seed in seeds if seed not in by_seed]:
            need.refuse(
                path, f"has no folder for seed {', '.join(lacking)}: give each seed one, or one to all"
            )
