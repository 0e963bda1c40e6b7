"""How many seeds a study is run with: chosen once, from the scores of the first ones, and written down with the reason.

Each policy's interval of the one cell that was named takes so many seeds to be as narrow as was asked; the policy that
takes most decides (see statistics/stopping.py). A seed without a score (its training diverged) is no part of it, and a
policy with fewer than two decides nothing; both are said. No later look at any score changes the number.
"""

import argparse
import difflib
import math
import sys
from pathlib import Path

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import write_json
from workflow_scripts.report.scores import load_score
from workflow_scripts.report.settings import Bar, read_settings
from workflow_scripts.report.statistics.cells import Cell, can_resample, shared_items
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.report.statistics.stopping import (
    FirstSeeds,
    first_seeds_of,
    half_width,
    items_alone,
    seeds_needed,
)


class Settings(TypedDict):
    """What is to be how narrow; the policies, and the seeds that each has by now; how many seeds there may be."""

    on: Bar
    until: float
    at_most: int
    policies: list[str]
    seeds: list[int]
    confidence: float


def cells_of(files: list[Path], on: Bar) -> tuple[dict[int, Cell], dict[int, str]]:
    """Return a policy's cells, and why there is none, by the place of the score file; both of finite estimates alone.

    Raises PlumblineError for a score file that has other cells than the one that is asked for.
    """
    found, without = {}, {}
    for place, path in enumerate(files):
        score = load_score(path)
        own = score["cells"].get((on["subset"], on["metric"]))
        if score["refused"] is not None:
            without[place] = " ".join(str(score["refused"]).split())
        elif own is None:
            names = ["/".join(filter(None, [on["benchmark"], *name])) for name in score["cells"]]
            near = difflib.get_close_matches(name_of(on), names, n=3, cutoff=0.0)
            raise PlumblineError(
                f"seeds.on: {path} has no {name_of(on)!r}; the nearest are {', '.join(near)}"
            )
        elif not math.isfinite(value := point_estimate([own["cell"]])):
            without[place] = f"no finite value: {value}"
        else:
            found[place] = own["cell"]
    return found, without


def name_of(on: Bar) -> str:
    """Return benchmark/subset/metric, without the parts that are empty."""
    return "/".join(filter(None, [on["benchmark"], on["subset"], on["metric"]]))


def looked_at(files: list[Path], settings: Settings) -> dict:
    """Return what a policy's first seeds say: values by seed, those without one and why, and the spread, if any."""
    on, seeds = settings["on"], settings["seeds"]
    found, without = cells_of(files, on)
    told: dict = {
        "values": {str(seeds[place]): point_estimate([cell]) for place, cell in found.items()},
        "without": {str(seeds[place]): reason for place, reason in without.items()},
    }
    if len(found) < 2:
        return told | {"left_out": "fewer than two of the first seeds have a score"}
    shared = shared_items(list(found.values()))
    if len(set(shared[0].groups)) < 2:
        return told | {"left_out": "its first seeds have fewer than two groups of items in common"}
    if not can_resample(shared):
        return told | {"left_out": "its first seeds were refitted on other items"}
    first = first_seeds_of(shared)
    if not math.isfinite(first.variance + first.shared):
        return told | {"left_out": "without some group of items it has no finite value"}
    return told | {"spread": first}


def chosen(looks: dict[str, dict], settings: Settings) -> dict:
    """Return what seeds.json holds; looks: what each policy's first seeds say (see looked_at)."""
    first, confidence = len(settings["seeds"]), settings["confidence"]
    spreads = {name: look["spread"] for name, look in looks.items() if "spread" in look}
    needed = {name: seeds_needed(spread, settings["until"], confidence) for name, spread in spreads.items()}
    most = max([first, *needed.values()])
    count = int(min(most, settings["at_most"]))
    widths = {name: half_width(spread, count, confidence) for name, spread in spreads.items()}
    widest = max(widths, key=lambda name: (needed[name], widths[name]), default=None)
    policies = {}
    for name, look in looks.items():
        policies[name] = {key: value for key, value in look.items() if key != "spread"}
        if name in spreads:
            spread = spreads[name]
            policies[name] |= {"variance": spread.variance, "shared": spread.shared, "groups": spread.groups}
            policies[name] |= {"items_alone": items_alone(spread, confidence), "half_width": widths[name]}
            policies[name] |= {"needed": None if math.isinf(needed[name]) else int(needed[name])}
    known = {"on": settings["on"], "until": settings["until"], "at_most": settings["at_most"]}
    return known | {
        "first": settings["seeds"],
        "confidence": confidence,
        "seeds": [*range(1, count + 1)],
        "reached": bool(spreads) and most <= settings["at_most"],
        "widest": widest,
        "words": words(count, widest, spreads, needed, widths, settings),
        "policies": policies,
    }


def words(
    count: int,
    widest: str | None,
    spreads: dict[str, FirstSeeds],
    needed: dict[str, float],
    widths: dict[str, float],
    settings: Settings,
) -> str:
    """Return why there are so many seeds, in one sentence."""
    first, until = len(settings["seeds"]), f"± {settings['until']:g}"
    what = name_of(settings["on"])
    if widest is None:
        return f"{count} seeds, the first ones alone: of no policy have two of them a score on {what}"
    beginning = f"{count} seeds, fixed after the first {first} by their variance"
    among = (
        f" ({widest}, which takes most of {len(spreads)} policies)" if len(spreads) > 1 else f" ({widest})"
    )
    took = f"{beginning}: with these the two-stage interval of {what} is ± {widths[widest]:.3g}{among}"
    if needed[widest] <= settings["at_most"]:
        return f"{took}, and {until} was asked for"
    if math.isinf(needed[widest]):
        alone = items_alone(spreads[widest], settings["confidence"])
        return (
            f"{took}; {until} was asked for, and no number of seeds reaches it: the items alone leave "
            f"± {alone:.3g} open, so give {settings['on']['benchmark']} more items"
        )
    return f"{took}; {until} was asked for, which would take {int(needed[widest])}, and {count} are the most allowed"


def main() -> None:
    """Choose how many seeds a study is run with, from the scores of its first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--settings", type=read_settings(Settings), required=True, help="every key of it, as JSON"
    )
    parser.add_argument(
        "--scores", type=Path, nargs="+", required=True, help="score files, by policy, then by seed"
    )
    parser.add_argument("--output", type=Path, required=True, help="seeds.json")
    arguments = parser.parse_args()
    settings, files = arguments.settings, arguments.scores
    count = len(settings["seeds"])
    looks = {
        name: looked_at(files[place * count : (place + 1) * count], settings)
        for place, name in enumerate(settings["policies"])
    }
    found = chosen(looks, settings)
    write_json(arguments.output, found)
    print(found["words"], file=sys.stderr)


if __name__ == "__main__":
    run(main)
