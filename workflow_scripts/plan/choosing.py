"""What a policy is chosen among, and by what."""

from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.policies import candidates, weights_manifest
from workflow_scripts.plan.words import as_json


def candidate_manifests(plan: Plan, policy: str) -> list[str]:
    """Return the manifests of all candidates with all seeds, by candidate, then by seed."""
    return [
        weights_manifest(plan, name, seed) for name in candidates(plan, policy) for seed in plan.study.seeds
    ]


def candidate_words(plan: Plan, policy: str) -> list[Word]:
    return [plan.layout.word(path) for path in candidate_manifests(plan, policy)]


def choosing_settings(plan: Plan, policy: str, seed: int | str) -> str:
    """Return how a policy is chosen, as JSON."""
    run, names = plan.run(policy), candidates(plan, policy)
    watch = plan.run(names[0]).watch
    return as_json(
        {
            "by": run.by,
            "best": watch.best if run.by == "watch/validation" else "min",
            "names": names,
            "seeds": plan.study.seeds,
            "seed": int(seed),
        }
    )
