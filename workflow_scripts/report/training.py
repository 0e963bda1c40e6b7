"""How each training went: one row per policy and seed, from curves and manifests, with a warning where it overfitted,
did not learn at all, diverged, or learned from replies that have lost their end.

A run overfits when its validation loss has risen above its lowest by more than `RISE` of it while the training loss
still fell: the check of Raschka's chapter on instruction fine-tuning. Deterministic, like every table.
"""

import argparse
import math
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from workflow_scripts.common.cuts import cut_words
from workflow_scripts.common.diverged import divergence_of, note_text
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_json
from workflow_scripts.common.settings import settings_of
from workflow_scripts.report.spreadsheets import write_csv


class Training(TypedDict):
    """A run: its loss curve, its manifest, and the manifests that count what it learned from and its pairs."""

    policy: str
    seed: int
    method: str
    curve: str
    manifest: str
    learned_from: str
    pairs: NotRequired[str]


class Settings(TypedDict):
    """The trainings of a study."""

    runs: list[Training]


RISE = 0.01  # of the lowest validation loss: less is the noise of a small validation split
MOVES = 3  # as many losses, to six decimals, are not the same by chance
LAST = 5  # points that a run's first and last training losses are means of: single batches are noisy
COLUMNS = (
    "policy seed method rows rows_rejected rows_cut ends_lost "
    "pairs pair_yield chosen_words rejected_words chosen_longer steps train_loss_first train_loss_last "
    "validation_loss_first validation_loss_best validation_loss_last best_step kept_step "
    "reward_first reward_last kept_share clipped_share effective_steps warning"
).split()
FACTS = ("kept_share", "clipped_share", "effective_steps")
# Where a study watches what is answered on the way; before the warning.
WATCHED = ["watched", "watched_first", "watched_best", "watched_last", "watched_kept", "watched_error"]


def points_of(curve: list[dict], name: str) -> list[tuple[int, float]]:
    """Return the (step, value) points of one column of a curve, without those that are no finite number."""
    points = [(row["step"], row[name]) for row in curve if row.get(name) is not None]
    return [(step, value) for step, value in points if math.isfinite(value)]


def not_finite(curve: list[dict]) -> str | None:
    """Return a warning where a logged loss or reward is no finite number, and is left out of what is said here."""
    counts = {
        name: sum(row.get(name) is not None and not math.isfinite(row[name]) for row in curve)
        for name in ("train_loss", "validation_loss", "reward")
    }
    told = [f"{count} of {name}" for name, count in counts.items() if count]
    return f"logged values that are no finite number are left out: {', '.join(told)}" if told else None


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def summarise(curve: list[dict], kept_step: int | None) -> dict:
    """Return what a curve says: first and last losses, the best validation, and a warning if the kept step overfits."""
    train, validation = points_of(curve, "train_loss"), points_of(curve, "validation_loss")
    row: dict = {"kept_step": kept_step}
    for name, points in (("train_loss", train), ("reward", points_of(curve, "reward"))):
        if points:  # only online methods earn rewards
            few = min(LAST, max(1, len(points) // 2))
            row[f"{name}_first"] = mean([value for _, value in points[:few]])
            row[f"{name}_last"] = mean([value for _, value in points[-few:]])
    if validation:
        best_step, best = min(validation, key=lambda point: (point[1], point[0]))
        kept = next((loss for step, loss in validation if step == kept_step), validation[-1][1])
        row |= {
            "validation_loss_first": validation[0][1],
            "validation_loss_best": best,
            "validation_loss_last": validation[-1][1],
            "best_step": best_step,
        }
        falling = bool(train) and row["train_loss_last"] < row["train_loss_first"]
        if falling and kept > best + RISE * abs(best):
            row["warning"] = (
                f"overfits: validation loss {kept:.4g} where {best:.4g} was reached at step {best_step}, while the "
                "training loss fell; train for less, or keep: best"
            )
    return row


def summarise_watch(curve: list[dict], watched: dict) -> dict:
    """Return what a run that was watched came to: its metric's first, best, last and kept value, and its error."""
    values = [value for _, value in points_of(curve, "watch")]
    best = max(values) if watched["best"] == "max" else min(values)
    return {
        "watched": watched["metric"],
        "watched_first": values[0],
        "watched_best": best,
        "watched_last": values[-1],
        "watched_kept": watched["value"],
        "watched_error": watched["error"],
    }


def columns_of(rows: list[dict]) -> list[str]:
    """Return the columns of the table: those of what is watched only where something is."""
    watched = WATCHED if any("watched" in row for row in rows) else []
    return [*COLUMNS[:-1], *watched, COLUMNS[-1]]


def rows_of(counts: dict) -> dict:
    """Return what is counted of what a run learned from: its rows, and a warning where some are lost or cut.

    What is left of plain text behind its last block is counted with the rejected, and is no row.
    """
    learned = counts.get("train", counts)  # of fine-tuning each split has its own
    columns = {"rows": "kept", "rows_rejected": "rejected", "rows_cut": "cut", "ends_lost": "ends_lost"}
    row = {column: learned[name] for column, name in columns.items() if name in learned}
    warnings = []
    left_out = learned.get("rejected", 0) - bool(learned.get("remainder_tokens"))
    if left_out > 0:
        warnings.append(
            f"learned without {left_out} of {learned['kept'] + left_out} rows, which were rejected as they were "
            "tokenised"
        )
    if learned.get("ends_lost") or learned.get("replies_lost"):
        warnings.append(
            f"learned from {learned['cut']} of {learned['kept']} rows that were cut: {cut_words(learned)}"
        )
    return row | ({"warning": "; ".join(warnings)} if warnings else {})


def pairs_in(counts: dict) -> dict:
    """Return what is counted of the pairs a run learned from, whatever they were made of.

    Their number; of a policy's own answers the share that made one; and how long chosen and rejected replies are.
    """
    number = counts.get("kept", sum(counts.get("pairs", {}).values()))
    lengths = counts.get("lengths", {})
    shown = {name: lengths.get(name) for name in ("chosen_words", "rejected_words", "chosen_longer")}
    return {"pairs": number or None, "pair_yield": counts.get("share_kept")} | shown


def rewards_of_cut_texts(curve: list[dict], column: str = "texts_cut", what: str = "trained") -> str | None:
    """Return a warning where a reward did not read the whole text of the answers that a policy was trained by."""
    shares = [share for _, share in points_of(curve, column)]
    if not any(shares):
        return None
    return (
        f"was {what} by rewards that read {mean(shares):.2g} of its answers without the start of their text; "
        "raise their max_tokens"
    )


def learned_nothing(curve: list[dict]) -> str | None:
    """Return a warning where nothing moved: no step had a gradient, or its loss was the same in all that were logged.

    The loss of online methods is 0 by construction where it is not clipped, so theirs says nothing: their reward does.
    """
    gradients = [value for _, value in points_of(curve, "grad_norm")]
    if gradients and not any(gradients):
        return (
            "learned nothing: the gradient was 0 in every logged step; look at what is learned (masks, weights, "
            "rewards that are all alike) and at the parent's weights"
        )
    losses = [value for _, value in points_of(curve, "train_loss")]
    if len(losses) >= MOVES and len(set(losses)) == 1 and not points_of(curve, "reward"):
        return f"learned nothing: the loss was {losses[0]:.6g} in all {len(losses)} logged steps; raise learning_rate"
    return None


def written(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--settings",
        type=settings_of(Settings),
        required=True,
        help='{"runs": [{policy, seed, method, curve, manifest, learned_from, pairs: manifests with counts}]}',
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for entry in arguments.settings["runs"]:
        manifest = read_json(entry["manifest"])
        curve = read_json(entry["curve"])
        row = {name: entry[name] for name in ("policy", "seed", "method")} | {"steps": manifest.get("steps")}
        learned = rows_of(read_json(entry["learned_from"]).get("counts", {}))
        went = summarise(curve, manifest.get("best_step"))
        if "pairs" in entry:  # a diverged policy has made none
            row |= pairs_in(read_json(entry["pairs"]).get("counts", {}))
        row |= learned | went | {name: manifest[name] for name in FACTS if name in manifest}
        if "watched" in manifest:
            row |= summarise_watch(curve, manifest["watched"])
            if "best_step" in manifest:  # it was not to be chosen by its loss
                went.pop("warning", None)
                row.pop("warning", None)
        note = divergence_of(entry["manifest"])
        moved = learned_nothing(curve) or went.get("warning")
        warnings = [note_text(note) if note else moved, learned.get("warning"), rewards_of_cut_texts(curve)]
        warnings += [rewards_of_cut_texts(curve, "watch_cut", "watched"), not_finite(curve)]
        if any(warnings):
            row["warning"] = "; ".join(filter(None, warnings))
        rows.append(row)
        if "warning" in row:
            print(f"warning: {row['policy']} (seed {row['seed']}) {row['warning']}", flush=True)
    columns = columns_of(rows)
    write_csv(arguments.output, columns, ([written(row.get(name)) for name in columns] for row in rows))


if __name__ == "__main__":
    run(main)
