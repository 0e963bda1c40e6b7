"""The best of several trained policies, under a name of its own: by their validation, never by what is tested.

The value of a candidate is that of the weights it kept: `loss/validation` reads the validation loss of its curve at
that step, or the last there is; `watch/validation` the value of what it watched. With several seeds the mean over them
decides, and every seed gets the same candidate. One that diverged with any seed is left out; where all did, the
divergence is handed on. Of two alike the one that is named first wins.

Writes the chosen model folder (hard links where they can be, else copies) and the chosen manifest with `choice` added:
what was chosen, among which, by what, and every value.
"""

import argparse
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from workflow_scripts.common.diverged import divergence_of, hand_on
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_folder, read_json, write_manifest
from workflow_scripts.common.settings import settings_of


class Settings(TypedDict):
    """By what is chosen, and which way is better; the candidates' names, and the seeds whose mean decides.

    seed is the policy's own; where it is none of those that decide, each candidate has it beside them, as the last.
    """

    by: Literal["loss/validation", "watch/validation"]
    best: Literal["max", "min"]
    names: list[str]
    seeds: list[int]
    seed: int


def validated(manifest: Path, by: str) -> float | None:
    """Return what the weights of a trained policy are worth by their validation; None where it diverged."""
    if divergence_of(manifest) is not None:
        return None
    facts = read_json(manifest)
    if by == "watch/validation":
        value = facts.get("watched", {}).get("value")
    else:
        curve = read_json(manifest.with_name("curve.json"))
        points = [(row["step"], row["validation_loss"]) for row in curve if "validation_loss" in row]
        kept = [loss for step, loss in points if step == facts.get("best_step")]
        value = (kept or [loss for _, loss in points] or [None])[-1]
    if value is None or not math.isfinite(value):
        raise PlumblineError(
            f"{manifest}: cannot be chosen by {by}: it was not validated while it trained; lower evaluate_every, or "
            "give it more steps"
        )
    return value


def means(manifests: list[Path], settings: Settings) -> dict[str, float | None]:
    """Return each candidate's mean over seeds, None for one that diverged; manifests: by candidate, then by seed."""
    deciding, count, found = len(settings["seeds"]), len(seeds_of(settings)), {}
    for place, name in enumerate(settings["names"]):
        own = manifests[place * count :][:deciding]
        values = [validated(path, settings["by"]) for path in own]
        found[name] = None if None in values else math.fsum(values) / deciding
    return found


def seeds_of(settings: Settings) -> list[int]:
    """Return the seeds that each candidate has a manifest of: those that decide, and the policy's own."""
    seeds, seed = settings["seeds"], settings["seed"]
    return seeds if seed in seeds else [*seeds, seed]


def best_of(values: dict[str, float | None], way: str) -> str | None:
    """Return the name with the best value, the first of those alike; None where all have diverged."""
    there = {name: value for name, value in values.items() if value is not None}
    if not there:
        return None
    return (min if way == "min" else max)(there, key=lambda name: there[name])


def linked(source: str, target: str) -> None:
    """Make a file another name of a file, or a copy where that cannot be."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--settings", type=settings_of(Settings), required=True, help="every key of it, as JSON"
    )
    parser.add_argument(
        "--candidates", type=Path, nargs="+", required=True, help="manifests, by candidate, then by seed"
    )
    parser.add_argument("--output", type=Path, required=True, help="the chosen model folder")
    parser.add_argument("--manifest", type=Path, required=True, help="its manifest, written last")
    arguments = parser.parse_args()
    settings, manifests = arguments.settings, arguments.candidates
    values = means(manifests, settings)
    chosen = best_of(values, settings["best"])
    if chosen is None:
        hand_on(next(filter(None, map(divergence_of, manifests))), [arguments.output, arguments.manifest])
        print("every candidate diverged", file=sys.stderr)
        return
    seeds = seeds_of(settings)
    place = settings["names"].index(chosen) * len(seeds) + seeds.index(settings["seed"])
    if note := divergence_of(manifests[place]):  # with a seed that decides nothing
        hand_on(note, [arguments.output, arguments.manifest])
        print(f"{chosen} diverged with seed {settings['seed']}", file=sys.stderr)
        return
    source = manifests[place].parent / "model"
    with finished_folder(arguments.output) as folder:
        theirs = shutil.ignore_patterns(".snakemake*")  # in the folder of a job's output
        shutil.copytree(source, folder, ignore=theirs, copy_function=linked, dirs_exist_ok=True)
    facts = {key: value for key, value in read_json(manifests[place]).items() if key != "files"}
    choice = {"chosen": chosen, "by": settings["by"], "values": values, "seeds": len(settings["seeds"])}
    write_manifest(arguments.manifest, [arguments.output], **facts, choice=choice)
    told = ", ".join(
        f"{name} {'diverged' if value is None else f'{value:.6g}'}" for name, value in values.items()
    )
    print(f"chose {chosen} by {settings['by']}: {told}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
