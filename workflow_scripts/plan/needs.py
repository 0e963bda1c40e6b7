"""What the weights of a study's trainings take of its GPUs, as `make plan` tells it: by arithmetic, before a run.

The bytes are those of study.memory, against which the check holds the GPUs. Not covered: activations, which depend on
the rows; how long a training takes, which its rows decide, too (`seconds_a_million` says what a million tokens need).
"""

from collections.abc import Iterable
from typing import NamedTuple

from workflow_scripts.plan.columns import aligned
from workflow_scripts.study.lineage import known_policies
from workflow_scripts.study.memory import (
    GB,
    Profile,
    Share,
    Trained,
    bytes_a_parameter,
    memory_of,
    parameters_of,
    share_of,
    trainings_of,
)
from workflow_scripts.study.study import Study
from workflow_scripts.study.training import PolicyTraining


class Need(NamedTuple):
    """A training on GPUs, with the largest model that it starts from.

    weights: how many the model has; held: GB of weights, gradients and moments on each GPU; memory: GB of a GPU, None
    where neither profile nor study says.
    """

    trained: Trained
    model: str
    weights: int
    share: Share
    held: float
    memory: float | None


def needs_of(study: Study, profile: Profile) -> list[Need]:
    """Return what each training on GPUs needs, those of models whose weights are counted alone."""
    counts = {name: parameters_of(study, name) for name in study.models}
    policies = known_policies(study) or {}
    found = []
    for trained in trainings_of(study, policies):
        share = share_of(study, trained, profile)
        known = {name: counts[name] for name in trained.models if counts.get(name)}
        if not share.gpus or not known:
            continue
        model, weights = max(known.items(), key=lambda item: (item[1], item[0]))
        held = weights * bytes_a_parameter(trained.training, share) / GB
        found.append(Need(trained, model, weights, share, held, memory_of(profile, trained.rule)))
    return found


def seconds_a_million(need: Need, flops: float) -> float:
    """Return the seconds that a million tokens take, for GPUs that each do so many FLOPs a second.

    6 FLOPs a weight and token (Kaplan et al. 2020), 4 where the weights are frozen beside adapters, 2 more where layers
    are computed again on the way back.
    """
    training = need.trained.training
    adapters = isinstance(training, PolicyTraining) and training.lora is not None
    each = (4 if adapters else 6) + (2 if training.gradient_checkpointing else 0)
    return each * need.weights * 1e6 / (flops * need.share.gpus)


def how(share: Share) -> str:
    """Return how a training has its GPUs: "4 by zero3"."""
    return f"{share.gpus} by {share.parallel}" if share.gpus > 1 else "1"


def alike(needs: Iterable[Need]) -> dict[tuple, list[str]]:
    """Return the trainings that need the same, by what they need: most of a study's do."""
    found: dict[tuple, list[str]] = {}
    for need in needs:
        key = (need.model, need.weights, need.share, need.held, need.memory)
        found.setdefault(key, []).append(need.trained.path.partition(".")[2])
    return found


def lines_of(study: Study | None, profile: Profile) -> list[str]:
    """Return the lines of a plan on what weights take of each GPU; none where no training has any."""
    rows = [["trainings", "model", "weights", "GPUs", "GB on each, without activations"]]
    for (model, weights, share, held, memory), names in alike(
        needs_of(study, profile) if study else []
    ).items():
        shown = ", ".join(names[:4]) + (f", {len(names) - 4} more" if len(names) > 4 else "")
        of = f" of {memory:g}" if memory else ""
        rows.append([shown, model, f"{weights / 1e9:.3g} B", how(share), f"{held:.0f}{of}"])
    return ["", *aligned(rows)] if len(rows) > 1 else []
