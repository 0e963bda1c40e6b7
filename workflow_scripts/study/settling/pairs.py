"""Pairs: which kind they are where they do not say so, and who ranks samples of a policy: an annotation or a judge."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.datasets import STRUCTURED, schemas_of
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.functions import fault_of_function
from workflow_scripts.study.pairs import (
    BARE,
    RANKING_RULES,
    SEVERAL,
    GivenPairs,
    Pairs,
    SampledPairs,
    is_function,
)
from workflow_scripts.study.rewards import Annotation
from workflow_scripts.study.study import Study


def settle_pairs(study: Study, folder: Path) -> Iterator[Finding]:
    """Write out the kind of every set of pairs, and of those from samples the annotation that ranks them."""
    for name, part in study.pairs.items():
        path = f"pairs.{name}"
        if isinstance(part, SampledPairs):
            yield from settle_rank(study, name, part)
        elif isinstance(part, GivenPairs | Pairs) and part.from_ is None:
            yield from settle_kind(study, path, name, part)


def settle_kind(study: Study, path: str, name: str, part: GivenPairs | Pairs) -> Iterator[Finding]:
    """Write out which kind pairs are that do not say it: what their rows bring decides."""
    schemas = set(schemas_of(study, part.dataset))
    if not schemas:
        return  # there is no such dataset, which is said elsewhere
    if schemas <= set(SEVERAL) and isinstance(part, Pairs):
        keys = part.model_fields_set
        if lost := sorted(keys - BARE - {"split"}):
            yield wrong(
                path,
                f"the answers of {part.dataset!r} came ranked, so these are pairs as they came (from: given), which do "
                f"not read {', '.join(lost)}: leave out what they do not read, or say from: samples",
            )
            return
        given = {key: getattr(part, key) for key in keys}
        study.pairs[name] = GivenPairs.model_validate({"from": "given"} | given)
    elif schemas <= set(STRUCTURED) and isinstance(part, GivenPairs):
        yield wrong(
            path,
            f"the replies of {part.dataset!r} are structured, so these are pairs from mistakes: name the split that is "
            "answered (split), and no validation",
        )
    else:
        part.from_ = "given" if isinstance(part, GivenPairs) else "mistakes"


def settle_rank(study: Study, name: str, part: SampledPairs) -> Iterator[Finding]:
    """Make what ranks a policy's own answers an annotation, called rank-NAME, where it is not one already.

    A judge that gives verdicts stays what it is. One that is a reward model ranks by the model's raw output. What is
    nothing of all this is left as it stands: `SampledPairs.names` says so.
    """
    path = f"pairs.{name}.rank"
    known = {
        "annotation": part.rank in study.annotations,
        "reward model": part.rank in study.reward_models,
        "judge": part.rank in study.judges,
        "rule": part.rank in RANKING_RULES,
    }
    kinds = [kind for kind, there in known.items() if there]
    if len(kinds) > 1:
        yield wrong(path, f"{part.rank!r} is the name of {' and of '.join(kinds)}: give one of them another")
        return
    dataset, reward = study.datasets.get(part.dataset), reward_of(study, part.rank)
    if reward is None or dataset is None or part.split not in dataset.splits(study):
        return
    own = f"rank-{name}"
    if own in study.annotations or own in study.judges:
        taken = "an annotation" if own in study.annotations else "a judge"
        yield wrong(
            path,
            f"its annotation would be called {own}, and there is {taken} of that name: give that another",
        )
        return
    column = next(iter(reward.values())).rpartition(":")[2].strip("_")
    column = "reward" if column in ("", "final_reward") else column
    study.annotations[own] = Annotation.settled(
        path, dataset=part.dataset, fit_split=part.split, rewards={column: reward}
    )
    part.rank = own


def reward_of(study: Study, rank: str) -> dict[str, str] | None:
    """Return the reward that `rank` names; None where it names an annotation, a judge that gives verdicts, or nothing.

    Reward models rank by their raw output: squashed, their best answers would all be 1.
    """
    judge = study.judges.get(rank)
    model = judge.reward_model() if judge else rank if rank in study.reward_models else None
    if model is not None:
        return {"model": model, "squash": "none"}
    if rank in RANKING_RULES:
        return {"rule": rank}
    return {"function": rank} if is_function(rank) and fault_of_function(rank) is None else None
