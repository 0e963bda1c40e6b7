"""Looking up the names in a study: a sentence for each that refers to nothing.

Every part of a study says itself what it needs (`names` of its class), by the methods of `Names`.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from workflow_scripts.common.place import ROOT
from workflow_scripts.study.basics import plain_name
from workflow_scripts.study.lineage import known_policies
from workflow_scripts.study.messages import shown, unknown
from workflow_scripts.study.templates import all_templates

if TYPE_CHECKING:
    from workflow_scripts.study.benchmarks import Benchmark
    from workflow_scripts.study.study import Study


def name_in(path: str) -> str:
    """Return the name of the part at a path such as runs.sft."""
    return path.rpartition(".")[2]


class Names:
    """Looks up the names in a study; `wrong` collects a sentence for each that refers to nothing, or to two things.

    `lost` names parts that were left out for mistakes of their own: nobody is wrong to name them.
    """

    def __init__(self, study: "Study", lost: Iterable[str] = ()) -> None:
        self.study = study
        self.lost = frozenset(lost)
        self.policies = known_policies(study)
        self.wrong: list[str] = []

    def refuse(self, path: str, text: str) -> None:
        """Say what is wrong with the value at a path."""
        self.wrong.append(f"{path}: {text}")

    def need(self, path: str, name: str | None, known: Iterable[str], what: str) -> None:
        """Need a name among those that are known; None names nothing."""
        if name is not None and name not in known and name not in self.lost:
            self.refuse(path, unknown(name, known, what))

    def need_path(self, path: str, file: str | None) -> None:
        """Need a file or a folder of the repository, or of the machine."""
        if file is not None and not os.path.exists(ROOT / file):  # pathlib raises for a name that is too long
            self.refuse(path, f"no such file {shown(file)} (relative to the repository)")

    def need_source(self, path: str, source: str | None) -> None:
        """Need a source."""
        self.need(path, source, self.study.sources, "source")

    def need_template(self, path: str, template: str | None) -> None:
        """Need a chat template, the study's or one that comes with Plumbline."""
        self.need(path, template, all_templates(self.study), "template")

    def need_dataset(self, path: str, dataset: str) -> None:
        """Need a dataset."""
        self.need(path, dataset, self.study.datasets, "dataset")

    def need_split(self, path: str, dataset: str, split: str | None) -> None:
        """Need a split of a dataset, where there is such a dataset; None names nothing."""
        if dataset in self.study.datasets:
            splits = self.study.datasets[dataset].splits(self.study)
            if splits:  # a mixture that has none says so itself
                self.need(path, split, splits, f"split of dataset {dataset!r}")

    def need_rows(self, path: str, dataset: str, split: str) -> None:
        """Need a dataset at path.dataset and a split of it at path.split."""
        self.need_dataset(f"{path}.dataset", dataset)
        self.need_split(f"{path}.split", dataset, split)

    def need_annotated(self, path: str, name: str, split: str | None, split_key: str = "split") -> None:
        """Need an annotation, and a split among those it covers."""
        self.need(f"{path}.annotation", name, self.study.annotations, "annotation")
        if name in self.study.annotations:
            covered = self.study.annotations[name].splits
            self.need(f"{path}.{split_key}", split, covered, f"split covered by annotation {name!r}")

    def need_answerable(self, path: str, name: str, split: str) -> None:
        """Need an annotation whose rewards can be given to new answers, and a split of its dataset."""
        self.need_rewarding(f"{path}.annotation", name)
        if name in self.study.annotations:
            self.need_split(f"{path}.split", self.study.annotations[name].dataset, split)

    def need_rewarding(self, path: str, name: str) -> None:
        """Need an annotation whose rewards can be given to new answers."""
        self.need(path, name, self.study.annotations, "annotation")
        if name in self.study.annotations:
            rewards = self.study.annotations[name].rewards.items()
            given = [key for key, reward in rewards if not reward.of_new_answers]
            if given:
                self.refuse(
                    path,
                    f"new answers have no given rewards, and {name!r} has {', '.join(given)}; "
                    "name an annotation of rules and models",
                )

    def need_file(self, path: str, source: str, file: str | None) -> None:
        """Need a file of a source; of one whose files only the hub knows, a name that a file can have."""
        names = self.study.sources[source].file_names() if source in self.study.sources else None
        if names is not None:
            self.need(path, file, names, f"file of source {source!r}")
        elif file is not None:
            try:
                plain_name(file)
            except ValueError as error:
                self.refuse(path, str(error))

    def need_files(self, path: str, benchmark: "Benchmark") -> None:
        """Need the files of a benchmark: of its source, or, where it names none, of the repository."""
        self.need_source(f"{path}.source", benchmark.source)
        for key in benchmark.files:
            if benchmark.source:
                self.need_file(f"{path}.{key}", benchmark.source, getattr(benchmark, key))
            else:
                self.need_path(f"{path}.{key}", getattr(benchmark, key))

    def need_policy(self, path: str, name: str | None, others: Iterable[str] = ()) -> None:
        """Need a policy, where it is known which there are."""
        if self.policies is not None and not self.lost & set((name or "").split(".")):
            self.need(path, name, [*self.policies, *self.study.policies, *others], "policy")
