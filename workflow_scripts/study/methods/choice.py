"""Choosing among the policies of several runs by what was validated, never by what is tested."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PrivateAttr

from workflow_scripts.study.names import Names, name_in
from workflow_scripts.study.part import Part
from workflow_scripts.study.training import ChosenBy, PolicyTraining

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study

# What each base class brings alters no validation loss's meaning, but for what is watched; of sft these beside.
COMPARABLE = ("split", "neftune_alpha", "kl", "loss_norm", "pack_tokens", "batch_of")
SPOKEN = ("template", "asked_in", "backend")  # what a policy is asked in, which its children have to know


class BestOf(Part):
    """The best of what several runs have trained from one parent; the same one for every seed, by the mean over them.

    Nothing is trained: its policy is the chosen one under this name, and the table says which that is, among which, and
    by which values. A candidate that diverged with any seed is left out.
    """

    learns_from: ClassVar[Literal["choice"]] = "choice"

    method: Literal["best_of"]
    of: str | list[str]
    """The runs whose policies are chosen among, all from the same parents; of a run with a grid all that it makes."""
    by: ChosenBy = "loss/validation"
    """loss/validation: the lowest validation loss, at the step that was kept; watch/validation: the best value of what
    they all watch. The rows are a validation split's, never such that a benchmark asks."""

    _parent: list[str] = PrivateAttr([])
    _template: str | None = PrivateAttr(None)
    _at: str | None = PrivateAttr(None)  # the path in the study's file that asked for it

    @property
    def parent(self) -> list[str]:
        """The parents that all candidates have; filled in where the study is settled."""
        return self._parent

    def descending_from(self, parents: list[str]) -> "BestOf":
        """Return a copy whose candidates have other parents."""
        choice = self.model_copy(deep=True)
        choice._parent = parents
        return choice

    @property
    def candidates(self) -> list[str]:
        """The names of the runs."""
        return [self.of] if isinstance(self.of, str) else self.of

    def members(self) -> dict[str, Any]:
        """Return {}: it has no grid."""
        return {}

    def written_as(self) -> str | None:
        """Return None: it is the run of no grid."""
        return None

    def own_template(self) -> str | None:
        """Return the template that the candidates are asked in, or None: their parent's."""
        return self._template

    def names(self, path: str, need: Names) -> None:
        """Need a name of its own; its candidates were looked up when the study was settled."""
        if name_in(path) in need.study.models:
            need.refuse(path, "a model has this name already")

    def uses(self) -> tuple[tuple[str, str], ...]:
        """Return (): it learns from nothing."""
        return ()

    def file_beside(self) -> tuple[str, str] | None:
        """Return None: nothing stands beside its name in the names of files."""
        return None


def differing(runs: list[PolicyTraining]) -> list[str]:
    """Return the keys in which some runs differ, apart from whose children they are."""
    written = [run.model_dump() for run in runs]
    keys = dict.fromkeys(key for values in written for key in values if key not in ("grid", "parent"))
    return [key for key in keys if any(values.get(key) != written[0].get(key) for values in written)]


def faults_of_choice(by: str, runs: list[PolicyTraining], study: "Study") -> Iterator[str]:
    """Yield a sentence for all that keeps the policies of some runs from being compared by their validation."""
    varied = differing(runs)
    spoken = [key for key in varied if key in SPOKEN]
    if spoken:
        yield f"the candidates differ in {', '.join(spoken)}, so that their children would be asked otherwise"
    if by == "watch/validation":
        if any(run.watch is None for run in runs):
            yield "watch/validation needs a watch of every candidate"
        elif "watch" in varied:
            yield "the candidates watch different things, whose values cannot be compared"
        return
    if not all(run.is_validated(study) for run in runs):
        yield (
            "loss/validation needs a validation split of every candidate (or its pairs); give them one, or "
            "choose by watch/validation"
        )
    shared = [*PolicyTraining.model_fields, *COMPARABLE]
    unlike = [key for key in varied if key not in shared and key not in SPOKEN]
    if unlike:
        yield (
            f"the candidates differ in {', '.join(unlike)}, so that their validation losses are not of one kind; "
            "choose by watch/validation"
        )
