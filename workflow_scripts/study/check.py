"""Name every mistake in study files, or say what they define (policies, cells) and what is in doubt."""

import argparse
import sys
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.gpu_lease import smallest_memory
from workflow_scripts.study.checking import examine, folder_of
from workflow_scripts.study.lineage import Policy, policies_of
from workflow_scripts.study.machine import seen
from workflow_scripts.study.memory import fitting, read_profile
from workflow_scripts.study.messages import mistakes
from workflow_scripts.study.origin import trouble_with_name
from workflow_scripts.study.partitions import startable
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.study import Study


def count(number: int, thing: str) -> str:
    """Return "1 thing" or "2 things"."""
    irregular = {"policy": "policies"}
    return f"{number} {thing if number == 1 else irregular.get(thing, thing + 's')}"


def between(fewest: int, most: int, thing: str) -> str:
    """Return "2 things", or "2 to 5 things"."""
    return count(most, thing) if fewest == most else f"{fewest} to {count(most, thing)}"


def describe(study: Study) -> list[str]:
    """Return lines that say what a study defines: counts first, then a line per policy."""
    policies = policies_of(study)
    trained = sum(policy.parent is not None for policy in policies.values())
    fewest, most = len(study.first_seeds()), len(study.all_seeds())
    cells = [(len(policies) + trained * (seeds - 1)) * len(study.benchmarks) for seeds in (fewest, most)]
    counts = [
        count(len(policies), "policy"),
        between(fewest, most, "seed"),
        count(len(study.benchmarks), "benchmark"),
        f"{between(*cells, 'cell')} of policy, seed and benchmark",
    ]
    if study.policies:
        counts.append(f"{count(len(study.policies), 'policy')} from elsewhere")
    if study.again:
        counts.append(f"{count(len(study.again), 'policy')} answering again")
    made = {policy.name: how_made(policy) for policy in policies.values()}
    for name, places in study.adopt.items():
        made[name] = f"adopted from {', '.join(places.values() if isinstance(places, dict) else [places])}"
    for name, part in study.policies.items():
        made[name] = f"{f'endpoint {part.judge}' if part.judge else 'ready answers'} (policies.{name})"
    for name, part in study.again.items():
        made[part.row(name)] = f"{part.of} again, {', '.join(part.changes(study))} (again.{name})"
    width = max(map(len, made))
    return [", ".join(counts), *(f"  {name:<{width}}  {how}" for name, how in made.items())]


def how_made(policy: Policy) -> str:
    """Return what makes a policy, in a few words."""
    return f"{policy.method} of {policy.parent} (runs.{policy.run})" if policy.parent else "base model"


def report(path: Path | str, profile: Path | None = None, results: Path | None = None) -> tuple[bool, str]:
    """Return (whether the study has no mistakes, what to say about it); fine is one without warnings, too.

    With `results`, the folder of all studies, it is a mistake to be called as another file's results are.
    """
    try:
        there = read_profile(profile) if profile else {}
        looks = [seen, fitting(there, smallest_memory), startable(there)]
        found = examine(read_yaml(path), looks, folder_of(path))
        trouble = trouble_with_name(found.study.study, path, results) if found.study and results else None
    except PlumblineError as error:
        return False, str(error)
    doubts = [f"  warning: {line}" for line in found.doubts]
    if found.study is None or trouble:
        wrong = [*found.wrong, *([trouble] if trouble else [])]
        return False, "\n".join([str(mistakes(str(path), wrong)), *doubts])
    lines = [*describe(found.study), *(f"  {line}" for line in found.said)]
    said = f"no mistakes; {count(len(doubts), 'warning')}" if doubts else "fine"
    return True, "\n".join([f"{path}: {said}: {lines[0]}", *lines[1:], *doubts])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="study files")
    parser.add_argument("--profile", type=Path, help="where it is to run: a folder of profiles/")
    parser.add_argument(
        "--results", type=Path, help="results/: refuse a name that another file's results have"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing of a study without mistakes")
    arguments = parser.parse_args(argv)
    results = [report(path, arguments.profile, arguments.results) for path in arguments.files]
    for right, text in results:
        if not (right and arguments.quiet):
            print(text, file=sys.stdout if right else sys.stderr)
    sys.exit(0 if all(right for right, _ in results) else 1)


if __name__ == "__main__":
    run(main)
