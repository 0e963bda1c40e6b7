"""Pairs: which kind they are where they do not say so, and who ranks a policy's own answers, as an annotation."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.datasets import STRUCTURED, schemas_of
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.functions import fault_of_function
from workflow_scripts.study.messages import unknown
from workflow_scripts.study.pairs import BARE, SEVERAL, GivenPairs, Pairs, SampledPairs
from workflow_scripts.study.rewards import Annotation
from workflow_scripts.study.study import Study

# What may rank without a name of the study's: rules that hold an answer against what its row brings.
WORDS = ("exact_match", "passes_tests")


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
    """Make what ranks a policy's own answers an annotation, called rank-NAME, where it is not one already."""
    path = f"pairs.{name}.rank"
    known = {
        "annotation": part.rank in study.annotations,
        "reward model": part.rank in study.reward_models,
        "judge": part.rank in study.judges,
        "rule": part.rank in WORDS,
    }
    kinds = [kind for kind, there in known.items() if there]
    if len(kinds) > 1:
        yield wrong(path, f"{part.rank!r} is the name of {' and of '.join(kinds)}: give one of them another")
        return
    dataset = study.datasets.get(part.dataset)
    if kinds == ["annotation"] or dataset is None or part.split not in dataset.splits(study):
        return
    reward, fault = reward_of(study, part.rank, kinds[0] if kinds else None)
    own = f"rank-{name}"
    if fault is None and own in study.annotations:
        fault = f"its annotation would be called {own}, and there is one: give that another name"
    if fault:
        yield wrong(path, fault)
        return
    column = next(iter(reward.values())).rpartition(":")[2].strip("_")
    column = "reward" if column in ("", "final_reward") else column
    study.annotations[own] = Annotation.settled(
        path, dataset=part.dataset, fit_split=part.split, rewards={column: reward}
    )
    part.rank = own


def reward_of(study: Study, rank: str, kind: str | None) -> tuple[dict[str, str], str | None]:
    """Return (the reward that `rank` names, None), or ({}, why it cannot rank).

    Reward models rank by their raw output: squashed, their best answers would all be 1.
    """
    if kind == "rule":
        return {"rule": rank}, None
    if kind == "reward model":
        return {"model": rank, "squash": "none"}, None
    if kind == "judge":
        model = study.judges[rank].reward_model()
        if model:
            return {"model": model, "squash": "none"}, None
        return {}, (
            f"judge {rank!r} is no reward model: of judges only those of kind reward_model give an answer a reward of "
            "its own"
        )
    if ":" in rank or rank.endswith(".py"):
        return {"function": rank}, fault_of_function(rank)
    names = [*study.reward_models, *study.annotations, *study.judges, *WORDS]
    return {}, unknown(rank, names, "reward model, annotation or judge") + (
        "; a function of your own is FILE.py:NAME"
    )
