"""A study's results, curves and answers as pandas data frames, for notebooks.

    from workflow_scripts.report import frames

    table = frames.results("results/tutor")
    table[table.headline & (table.metric == "accuracy")][["policy", "value", "ci_low", "ci_high"]]

Each function takes the folder of a study's results, wherever it lies now, and reads files alone: no GPU, no torch, no
study. Nothing is computed anew. A study that is still running, or that failed, gives what is there so far. No job reads
this module, so that a change of it makes nothing stale.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.report.results import COLUMNS
from workflow_scripts.report.rows import NUMBERS, headline_rows, typed
from workflow_scripts.report.samples import verdict_number, why_without_number
from workflow_scripts.report.spreadsheets import read_csv

OF_CURVES = ("policy", "seed", "step", "train_loss", "validation_loss", "tokens", "rows")
OF_SAMPLES = (
    "policy seed benchmark id group sample turn asked reference text finish_reason prompt_tokens completion_tokens "
    "verdict verdict_text"
).split()
SEED = re.compile(r"seed-(\d+)")


def results(folder: Path | str) -> pd.DataFrame:
    """Return the results table, a row per policy, seed, benchmark, subset and metric.

    Columns are those of results_full.csv, as docs/read-the-table.md explains them (of results.csv alone where that is
    all there is), and `headline`: whether the row stands for its policy, as that of seed "all" does, or of the only
    seed. Numbers are floats, NaN where there is none; `higher_is_better` is True, False or None; all else is text, the
    seed too. PlumblineError where the folder has no table.
    """
    folder = _folder(folder)
    paths = [folder / name for name in ("results_full.csv", "results.csv")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise PlumblineError(f"{folder}: has no results.csv yet; run the study to its table first")
    rows = read_csv(path)
    standing = {id(row) for row in headline_rows(rows)}
    there = {*rows[0], "than_baseline"} if rows else COLUMNS
    known = [name for name in COLUMNS if name in there]
    frame = pd.DataFrame([typed(row) for row in rows], columns=known)
    for name in set(NUMBERS) & set(known):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame["higher_is_better"] = frame["higher_is_better"].astype(object).replace("", None)
    frame["headline"] = [id(row) in standing for row in rows]
    return frame


def curves(folder: Path | str) -> pd.DataFrame:
    """Return the points of the training curves, a row per policy or reward model, seed and logged step.

    `policy` is a lineage, or reward_models/NAME; `seed` a whole number, of a reward model none; `step` the optimiser
    step. train_loss, validation_loss (NaN where a step has none), tokens and rows learned from so far, and whatever
    else the trainings have logged (learning_rate, grad_norm, reward, watch ...), each a column of floats. No row where
    nothing was trained.
    """
    folder = _folder(folder)
    points = []
    for path in sorted(
        [*folder.glob("policies/*/seed-*/curve.json"), *folder.glob("reward_models/*/curve.json")]
    ):
        found = SEED.fullmatch(path.parent.name)
        policy = path.parent.parent.name if found else f"reward_models/{path.parent.name}"
        about = {"policy": policy, "seed": int(found[1]) if found else None}
        points += [about | row for row in read_json(path) if "answers" not in row]
    others = sorted({name for row in points for name in row} - set(OF_CURVES))
    frame = pd.DataFrame(points, columns=[*OF_CURVES, *others])
    frame["seed"] = frame["seed"].astype("Int64")
    for name in frame.columns.difference(["policy", "seed"]):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame


def samples(folder: Path | str, benchmark: str | None = None) -> pd.DataFrame:
    """Return every answer of every policy, a row per policy, seed, benchmark, prompt, sample and turn.

    benchmark: that one alone; None: all, and the prompts that a training's own answers are of (pairs-NAME,
    values-NAME). Columns: `id` and `group` of the prompt; `sample` of several, from 0; `turn` of a conversation, from
    0; `asked`, the user's last words before the answer; `reference`, the reference answer to them or None; `text`, the
    answer; `finish_reason`, stop or length; `prompt_tokens`, `completion_tokens`; `verdict`, a judge's rating (of its
    scale) or preference (0 to 1), over several draws of it their mean, NaN where there is none; `verdict_text`, the
    words of the first or None.
    """
    folder = _folder(folder)
    rows: list[dict[str, Any]] = []
    asked: dict[str, dict[str, dict]] = {}
    for path in sorted(folder.glob("policies/*/seed-*/generations/*.jsonl")):
        if benchmark in (None, path.stem):
            if path.stem not in asked:
                asked[path.stem] = _prompts(folder, path.stem)
            rows += _answers(path, asked[path.stem])
    frame = pd.DataFrame(rows, columns=OF_SAMPLES)
    frame["verdict"] = pd.to_numeric(frame["verdict"], errors="coerce")
    return frame


def _folder(folder: Path | str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise PlumblineError(
            f"{path}: no such folder; name the folder of a study's results, results/tutor say"
        )
    return path


def _prompts(folder: Path, name: str) -> dict[str, dict]:
    """Return the prompts of a set by id; none where the folder came without them."""
    path = folder / "prompts" / f"{name}.jsonl"
    return {str(row["id"]): row for row in read_jsonl(path)} if path.is_file() else {}


def _answers(path: Path, prompts: dict[str, dict]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file of answers, policies/POLICY/seed-N/generations/NAME.jsonl."""
    home = path.parents[1]
    judged = home / "verdicts" / path.name
    verdicts: dict[tuple, list[dict]] = {}
    for row in read_jsonl(judged) if judged.is_file() else []:
        verdicts.setdefault(_key(row), []).append(row)  # several where the judge was drawn several times
    about = {"policy": home.parent.name, "seed": int(home.name.removeprefix("seed-")), "benchmark": path.stem}
    for row in read_jsonl(path):
        turn, prompt = row.get("turn", 0), prompts.get(str(row["id"]), {})
        references = prompt.get("reference") or []
        own = verdicts.get(_key(row), [])
        numbers = [verdict_number(verdict) for verdict in own if not why_without_number(verdict)]
        yield (
            {name: row.get(name) for name in OF_SAMPLES}
            | about
            | {
                "group": prompt.get("group"),
                "turn": turn,
                "asked": _asked(prompt, turn),
                "reference": references[turn] if turn < len(references) else None,
                "verdict": fmean(numbers) if numbers else None,
                "verdict_text": own[0].get("text") if own else None,
            }
        )


def _key(row: dict) -> tuple:
    return str(row["id"]), row.get("sample", 0), row.get("turn", 0)


def _asked(prompt: dict, turn: int) -> str | None:
    """Return what a policy was asked last before its answer of a turn."""
    if turn:
        followups = prompt.get("followups") or []
        return followups[turn - 1] if turn <= len(followups) else None
    if "text" in prompt:
        return prompt["text"]
    said = [message["content"] for message in prompt.get("messages", []) if message["role"] == "user"]
    return said[-1] if said else None
