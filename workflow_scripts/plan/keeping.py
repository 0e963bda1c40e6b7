"""`keep_weights`: which policies keep their weights once the table is made, and what a later run has to train again.

Weights are no job's input (their manifest is), so that a folder without them is stale for nothing: the table stays, and
a run that has nothing to do finds nothing to do. A run that would read them is stopped before its first job, with the
manifests to remove for what it needs to be trained again. Not covered: weights that another study has adopted, weights
of reward models and value heads, and room on the disk while a study runs.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import sha256_of, write_json
from workflow_scripts.plan.choosing import candidate_manifests
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.policies import lineage, parent_manifest
from workflow_scripts.report.removed import NOTE, WEIGHTS, removed_by
from workflow_scripts.report.rows import cell_name, headline_rows, typed
from workflow_scripts.report.spreadsheets import read_csv

NAMED = 12  # manifests that a message names


def best_policy(plan: Plan, rows: list[dict]) -> str | None:
    """Return the policy that the study's first headline cell rates best, of the rows of its table; None for none.

    The cell is the first of report.headline, or else of report.bars. Of several that are alike it is the first.
    """
    cell = [*plan.study.report.headline, *plan.study.report.bars][0]
    own = [
        row
        for row in map(typed, headline_rows(rows))
        if cell_name(row) == cell_name(cell.model_dump()) and row["policy"] in plan.policies
    ]
    scored = [row for row in own if row["value"] != "" and row["higher_is_better"] != ""]
    if not scored:
        return None
    return max(scored, key=lambda row: row["value"] if row["higher_is_better"] else -row["value"])["policy"]


def kept(plan: Plan, rows: list[dict]) -> set[str]:
    """Return the policies whose weights stay: all, none, or the best one with its ancestors."""
    keep = plan.study.keep_weights
    best = best_policy(plan, rows) if keep == "best" else None
    if keep == "all" or (keep == "best" and best is None):
        return set(plan.made())
    return set(lineage(plan, best)) if best else set()


def folders_of(plan: Plan, policies: Iterable[str]) -> list[Path]:
    """Return the folders of policies, a seed each, that are there."""
    places = [Path(plan.layout.policy(policy, 0)).parent for policy in policies]
    return sorted(folder for place in places for folder in place.glob("seed-*"))


def take_away(plan: Plan) -> list[str]:
    """Remove the weights that the study does not keep, once its table is made; return what is to be said of it.

    What cannot be removed is a warning: the run has made its table all the same.
    """
    if plan.study.keep_weights == "all":
        return []
    try:
        return removed_of(plan)
    except (OSError, PlumblineError) as error:
        return [f"warning: keep_weights: {plan.study.keep_weights}: not all weights were removed: {error}"]


def removed_of(plan: Plan) -> list[str]:
    """Remove the weights that go; return how many in a line."""
    stay = kept(plan, read_csv(Path(plan.layout.results) / "results.csv"))
    gone = [name for name in plan.made() if name not in stay]
    if plan.study.keep_weights == "best" and not gone:
        return ["warning: keep_weights: best: the first headline cell rates no policy; all weights stay"]
    count, size = 0, 0
    for folder in folders_of(plan, gone):
        if (folder / WEIGHTS).exists() and (folder / "manifest.json").is_file():
            size += remove(folder, plan.study.keep_weights)
            count += 1
    named = f" of all but {', '.join(sorted(stay & set(plan.made())))}" if stay else ""
    words = f"keep_weights: {plan.study.keep_weights}: removed the weights{named}"
    return [f"{words} ({count} folders, {size / 1e9:.2f} GB)"] if count else []


def remove(folder: Path, why: str) -> int:
    """Remove a policy's weights, a note of it beside its manifest first; return how many bytes they were."""
    model, manifest = folder / WEIGHTS, folder / "manifest.json"
    files = sorted(path for path in model.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    names = [str(path.relative_to(folder)) for path in files]
    write_json(
        folder / NOTE, {"keep_weights": why, "files": names, "bytes": size, "manifest": sha256_of(manifest)}
    )
    if model.is_symlink():
        model.unlink()
    else:
        shutil.rmtree(model)
    return size


def refuse_removed(plan: Plan, workflow: Any) -> None:
    """Raise PlumblineError before the first job where a run would read weights that were removed, and name them all."""
    removed = {
        str(folder / "manifest.json"): folder
        for folder in folders_of(plan, plan.made())
        if removed_by(folder) is not None
    }
    if not removed:
        return
    due = [job for job in workflow.dag.needrun_jobs() if reads_weights(job)]
    made = {str(output) for job in due for output in job.output}
    needed = {str(path) for job in due for path in job.input} & removed.keys() - made
    found = sorted(with_ancestors(plan, needed, set(removed) - made))
    if not found:
        return
    more = f"\n  and {len(found) - NAMED} more" if len(found) > NAMED else ""
    why = removed_by(removed[found[0]])
    raise PlumblineError(
        f"this run needs weights that an earlier one removed at its end (keep_weights: {why}). To have them trained "
        "again, remove these files, and give the same command once more:\n  "
        + "\n  ".join(found[:NAMED])
        + more
    )


def reads_weights(job: Any) -> bool:
    """Return whether a job loads the weights whose manifests it takes: those do that ask for GPUs, and who chooses."""
    return job.rule.name == "choose_policy" or "gpu" in job.rule.resources


def with_ancestors(plan: Plan, manifests: set[str], removed: set[str]) -> set[str]:
    """Return manifests of removed weights with those of removed ancestors, which their training starts from."""
    found, waiting = set(), list(manifests)
    while waiting:
        manifest = waiting.pop()
        if manifest in found or manifest not in removed:
            continue
        found.add(manifest)
        folder = Path(manifest).parent
        policy, seed = folder.parent.name, folder.name.removeprefix("seed-")
        waiting.append(parent_manifest(plan, policy, seed))
        waiting += candidate_manifests(plan, policy, seed)
    return found
