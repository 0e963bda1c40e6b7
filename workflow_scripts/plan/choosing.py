"""What a policy is chosen among, and by what."""

from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.policies import candidates, weights_manifest
from workflow_scripts.plan.words import as_json


def compared_seeds(plan: Plan, seed: int | str) -> list[int]:
    """Return the seeds of the candidates that a policy of a seed is chosen among: those that decide, and its own.

    Where the number of seeds is yet to be chosen the first decide, for every seed.
    """
    first = plan.study.first_seeds()
    return first if int(seed) in first else [*first, int(seed)]


def candidate_manifests(plan: Plan, policy: str, seed: int | str) -> list[str]:
    """Return the manifests of all candidates with all seeds that are compared, by candidate, then by seed."""
    return [
        weights_manifest(plan, name, each)
        for name in candidates(plan, policy)
        for each in compared_seeds(plan, seed)
    ]


def candidate_words(plan: Plan, policy: str, seed: int | str) -> list[Word]:
    return [plan.layout.word(path) for path in candidate_manifests(plan, policy, seed)]


def choosing_settings(plan: Plan, policy: str, seed: int | str) -> str:
    """Return how a policy is chosen, as JSON."""
    run, names = plan.run(policy), candidates(plan, policy)
    watch = plan.run(names[0]).watch
    return as_json(
        {
            "by": run.by,
            "best": watch.best if run.by == "watch/validation" else "min",
            "names": names,
            "seeds": plan.study.first_seeds(),
            "seed": int(seed),
        }
    )
