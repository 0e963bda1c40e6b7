"""Runs that stand for more: a grid for a run of every combination, a parent that is chosen for a run that chooses."""

from collections.abc import Iterator
from pathlib import Path

from workflow_scripts.study.basics import LONGEST_NAME
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.lineage import parents_of
from workflow_scripts.study.messages import unknown
from workflow_scripts.study.methods import Run
from workflow_scripts.study.methods.choice import BestOf, faults_of_choice
from workflow_scripts.study.study import Study
from workflow_scripts.study.training import Best


def grids(study: Study, folder: Path) -> Iterator[Finding]:
    """Put a run for every combination in the place of a run with a grid, and them all where it is named as a parent."""
    taken, spread, runs = {*study.models, *study.runs}, {}, {}
    for name, run in study.runs.items():
        members = {f"{name}-{behind}": member for behind, member in run.members().items()}
        for own, member in members.items():
            if own in taken:
                yield wrong(f"runs.{name}.grid", f"makes a run {own!r}, and there is one of this name")
            elif len(own) > LONGEST_NAME:
                yield wrong(
                    f"runs.{name}.grid",
                    f"makes a run {own!r}, a name of {len(own)} characters; at most {LONGEST_NAME}: call the run "
                    "shorter, or vary fewer keys",
                )
            member._written_as = name
        spread |= {name: list(members)} if members else {}
        runs |= members or {name: run}
    study.runs = runs
    for run in runs.values():
        if isinstance(run, BestOf) or isinstance(run.parent, Best):
            continue
        named = parents_of(run)
        if any(parent in spread for parent in named):
            run.parent = [each for parent in named for each in spread.get(parent, [parent])]


def choices(study: Study, folder: Path) -> Iterator[Finding]:
    """Put a run that chooses in the place of a parent that is chosen, and say in each what it chooses among."""
    runs: dict = {}
    for name, run in study.runs.items():
        if not isinstance(run, BestOf) and isinstance(run.parent, Best):
            asked, at = run.parent, f"runs.{run.written_as() or name}.parent.best_of"
            chosen = BestOf(method="best_of", of=asked.best_of, by=asked.by)
            own = "-".join([*chosen.candidates, "best" if asked.by == "loss/validation" else "best-watch"])
            there = runs.get(own) or study.runs.get(own)
            if own in study.models or (there is not None and not is_choice(there, chosen)):
                yield wrong(at, f"makes a run {own!r}, and there is another of this name: rename that one")
            chosen._at = at
            runs.setdefault(own, chosen)
            run.parent = own
        runs[name] = run
    study.runs = runs
    for name, run in runs.items():
        if isinstance(run, BestOf):
            yield from candidates_found(study, run, run._at or f"runs.{name}.of")


def is_choice(run: Run, choice: BestOf) -> bool:
    """Tell whether a run chooses among the same by the same."""
    return isinstance(run, BestOf) and (run.candidates, run.by) == (choice.candidates, choice.by)


def candidates_found(study: Study, choice: BestOf, path: str) -> Iterator[Finding]:
    """Look up what a run chooses among: runs, those of a grid, all with the same parents; or say why it cannot."""
    spread: dict[str, list[str]] = {}
    for name, run in study.runs.items():
        spread.setdefault(run.written_as() or name, []).append(name)
    choice.of = [each for named in choice.candidates for each in spread.get(named, [named])]
    known = [name for name, run in study.runs.items() if not isinstance(run, BestOf)]
    strangers = [name for name in choice.of if name not in known]
    if strangers:
        yield wrong(path, unknown(strangers[0], known, "run that trains"))
        return
    runs = [study.runs[name] for name in choice.of]
    if len(set(choice.of)) < max(2, len(choice.of)):
        yield wrong(
            path,
            f"there is nothing to choose among {choice.of}: name a run with a grid, or several runs once",
        )
        return
    if several := [name for name, run in zip(choice.of, runs, strict=True) if getattr(run, "rounds", None)]:
        yield wrong(
            path, f"{several[0]!r} has rounds, each the child of the one before: choose among runs of one"
        )
        return
    if any(parents_of(run) != parents_of(runs[0]) for run in runs):
        yield wrong(
            path, f"{', '.join(choice.of)} do not descend from the same parents: choose among each alone"
        )
        return
    choice._parent, choice._template = parents_of(runs[0]), runs[0].own_template()
    for text in faults_of_choice(choice.by, runs, study):
        yield wrong(path, text)
