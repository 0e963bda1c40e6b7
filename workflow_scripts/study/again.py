"""`again`: policies that answer once more, so that a table knows what its numbers move by when nothing has changed.

The same weights and the same prompts, in batches of another size or by another engine: the answers differ by rounding
alone. A difference between two policies that is no larger than that is no difference.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workflow_scripts.study.basics import Count, Name, Words
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.lineage import LONGEST_LINEAGE
from workflow_scripts.study.names import Names, name_in
from workflow_scripts.study.part import Part
from workflow_scripts.study.resources import Engine

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Again(Part):
    """A policy's answers made once more, otherwise: a row that measures noise. It trains nothing."""

    of: Words
    """The policy that answers again, by its lineage, with each of its seeds; its row is called of@NAME."""
    batch_size: Count | None = None
    """Prompts at once, in place of each benchmark's own."""
    engine: Engine | None = None
    """What answers; its keys are laid over those of the study's engine."""
    benchmarks: list[Name] | None = None
    """Which benchmarks are answered again; null: all that are answered. Likelihoods and lm_eval are not taken again."""

    def row(self, name: str) -> str:
        """Return what the row is called: the policy and the entry's name."""
        return f"{self.of}@{name}"

    def engine_in(self, study: "Study") -> Engine:
        """Return the engine that answers again."""
        changed = self.engine.model_dump(exclude_unset=True) if self.engine else {}
        return study.engine.model_copy(update=changed)

    def answered(self, study: "Study") -> list[str]:
        """Return the benchmarks that are answered again, in the study's order."""
        asked = [name for name, part in study.benchmarks.items() if part.prompt_kind]
        return [name for name in asked if self.benchmarks is None or name in self.benchmarks]

    def changes(self, study: "Study") -> list[str]:
        """Return what is otherwise than when the policy answered first, in words; [] where nothing is."""
        ours, theirs = self.engine_in(study).model_dump(), study.engine.model_dump()
        if ours["name"] != "vllm":
            ours["gpu_memory_share"] = theirs[
                "gpu_memory_share"
            ]  # a share of memory that transformers do not read
        found = [f"engine.{key} {value}" for key, value in ours.items() if value != theirs[key]]
        sizes = {study.benchmarks[name].batch_size for name in self.answered(study)}
        if self.batch_size is not None and ours["name"] != "vllm" and sizes != {self.batch_size}:
            found.insert(0, f"batch_size {self.batch_size}")
        return found

    def names(self, path: str, need: Names) -> None:
        """Need its policy, among those that have weights here, and its benchmarks; and a row's name that is no longer
        than a folder's may be.
        """
        if self.of in need.study.policies:
            need.refuse(f"{path}.of", f"{self.of!r} comes from elsewhere: no engine of ours answers for it")
        else:
            need.need_policy(f"{path}.of", self.of)
        for benchmark in self.benchmarks or []:
            need.need(f"{path}.benchmarks", benchmark, need.study.benchmarks, "benchmark")
        length = len(self.row(name_in(path)))
        if length > LONGEST_LINEAGE:
            need.refuse(
                path,
                f"its row has a name of {length} characters, which is that of a folder; at most "
                f"{LONGEST_LINEAGE}: a shorter name",
            )

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find an entry that changes nothing, or nothing that is read, and benchmarks that nobody answers."""
        for name in self.benchmarks or []:
            if name in study.benchmarks and not study.benchmarks[name].prompt_kind:
                yield wrong(
                    f"{path}.benchmarks",
                    f"{name!r} reads likelihoods, which are not taken again: leave it out",
                )
        if not self.answered(study):
            if not self.benchmarks:
                yield wrong(path, "no benchmark of the study is answered: there is nothing to answer again")
            return
        if not self.changes(study):
            yield wrong(
                path,
                "answers as before: give a batch_size that is not the benchmarks' own (vllm batches by itself), or "
                "an engine with a key that is not the study's",
            )
        elif self.batch_size is not None and self.engine_in(study).name == "vllm":
            yield doubt(f"{path}.batch_size", "vllm batches by itself and reads no batch_size")
        searched = [name for name in self.answered(study) if study.benchmarks[name].beams > 1]
        if searched and self.engine_in(study).name == "vllm":
            yield wrong(
                f"{path}.engine",
                f"vLLM does not search by beams, as benchmarks.{searched[0]} does: leave it out",
            )
