"""What every kind of benchmark says of itself beside its keys: what it asks, who scores it, and who judges it.

These are facts of a class, no keys of a study. `plan` makes the jobs of a benchmark from them, `checking` the names that
must exist; a new kind fills them in and nothing else knows it by name.
"""

from typing import ClassVar, Literal

from workflow_scripts.study.basics import Strict
from workflow_scripts.study.report import Report


class Kind(Strict):
    """A kind of benchmark."""

    scores: ClassVar[Literal["answers", "likelihoods", "rewards", "model"]]
    """What its scorer reads: a policy's answers; likelihoods that `measured_by` took; rewards of answers; the model."""
    scorer: ClassVar[str]
    """The module that scores it, below workflow_scripts.score."""
    scorer_keys: ClassVar[tuple[str, ...]]
    """What the scorer is handed: keys, and `benchmark` (its name), `seed` (the study's first), `fidelity` (its own or the
    study's); of a key that names a file, the path."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose version alters its scores."""
    measured_by: ClassVar[str | None] = None
    """The module that takes the likelihoods which are scored, below workflow_scripts.score."""
    measured_keys: ClassVar[tuple[str, ...]] = ()
    """The keys that it is handed."""
    prompt_kind: ClassVar[str | None] = None
    """How generate.prompts reads its prompts; None: nothing is answered."""
    prompt_file: ClassVar[str | None] = None
    """The key that names the file of its prompts; None: they are turns of the split of a dataset."""
    files: ClassVar[tuple[str, ...]] = ()
    """The keys that name files: of its source, or of the repository where it has none."""
    asks: ClassVar[tuple[str, ...] | None] = None
    """The keys that its judge is handed; None: it has no judge."""

    def is_judged(self) -> bool:
        """Tell whether its answers go before a judge."""
        return self.asks is not None

    def opponent_in(self, report: Report) -> str | None:
        """Return the policy whose answers each policy's are compared with, if there is one."""
        return None
