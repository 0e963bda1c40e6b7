"""Name every mistake in study files, or say what they define: policies with their lineage, cells, what is missing."""

import argparse
import sys
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.schema import Study
from workflow_scripts.common.study import load_study, policies_of, seeds_of

TO_FILL_IN = "0" * 40


def count(number: int, thing: str) -> str:
    """Return "1 thing" or "2 things"."""
    irregular = {"policy": "policies"}
    return f"{number} {thing if number == 1 else irregular.get(thing, thing + 's')}"


def unpinned(study: Study) -> list[str]:
    """Return the path of each revision that is still to be filled in (forty zeros)."""
    return [
        f"sources.{name}.places[{index}].hf.revision"
        for name, source in study.sources.items()
        for index, place in enumerate(source.places)
        if place.hf and place.hf.revision == TO_FILL_IN
    ]


def describe(study: Study) -> list[str]:
    """Return lines that say what a study defines: counts first, then a line per policy."""
    policies = policies_of(study)
    cells = sum(len(seeds_of(study, policy)) for policy in policies.values()) * len(study.benchmarks)
    counts = [
        count(len(policies), "policy"),
        count(len(study.seeds), "seed"),
        count(len(study.benchmarks), "benchmark"),
        f"{count(cells, 'cell')} of policy, seed and benchmark",
    ]
    width = max(map(len, policies))
    lines = [", ".join(counts)]
    for policy in policies.values():
        made = f"{policy.method} of {policy.parent} (runs.{policy.run})" if policy.parent else "base model"
        lines.append(f"  {policy.name:<{width}}  {made}")
    return lines


def report(path: Path | str) -> tuple[bool, str]:
    """Return (whether the study is fine, what to say about it)."""
    try:
        study = load_study(path)
    except PlumblineError as error:
        return False, str(error)
    lines = describe(study)
    missing = [f"  to be filled in before it can run: {place}" for place in unpinned(study)]
    return True, "\n".join([f"{path}: fine: {lines[0]}", *lines[1:], *missing])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="study files")
    results = [report(path) for path in parser.parse_args(argv).files]
    for fine, text in results:
        print(text, file=sys.stdout if fine else sys.stderr)
    sys.exit(0 if all(fine for fine, _ in results) else 1)


if __name__ == "__main__":
    main()
