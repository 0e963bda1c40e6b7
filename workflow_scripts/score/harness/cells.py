"""Turn the harness's results into score cells: each metric with the estimator under which its items give its number.

| metric | estimator | why |
|---|---|---|
| accuracy, exact match, CoQA's and ReCoRD's F1 ... | mean | the number is the mean of the items |
| SQuAD's exact and f1 | mean | of items in percent, by the harness's own comparison of answers |
| perplexity | perplexity | exp of the mean nll |
| bits per byte, TER | ratio | Σ bits / Σ bytes; 100 Σ edits / Σ words |
| F1 of the class 1, MCC | f1, matthews | functions of the counts of labels |
| other functions of labels, BLEU, chrF | replicates | recomputed on bootstrap draws of the items |
| what a group of the harness averages | mean, macro_mean | of all items, or of the tasks' means |

An estimator is taken only if it gives the number that the harness reports (F1 and MCC are known by the harness's own
function instead). A metric with none is named as left out, with that number. Not covered: metrics whose items are texts
without such statistics (ROUGE over a corpus), SQuAD's parts and thresholds.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import sacrebleu
from lm_eval.api import metrics as harness
from lm_eval.api.task import Task
from transformers.data.metrics import squad_metrics

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.score.harness.tasks import Loaded
from workflow_scripts.score.items import make_cell

DRAWS = 1000  # a refit of each costs milliseconds
SEED = 0
TRANSLATION = {harness.bleu: {}, harness.chrf: {}, harness.chrfpp: {"word_order": 2}}


class Found(NamedTuple):
    """An estimator, the columns it reads, and what else its cell needs."""

    estimator: str
    columns: dict[str, list[float]]
    extra: dict[str, Any] | None = None


# --- one metric -----------------------------------------------------------------------------------


def columns_of(values: list, reported: float, aggregate: Callable | None = None) -> Found | None:
    """Return the estimator and columns under which items give the number the harness reported, or None.

    values: what the harness has for each item: a number, a pair (log-likelihood in nats, count), (gold, predicted),
    (reference, translation), or SQuAD's (prediction, answers). aggregate: the harness's own aggregation. It, and not
    the number, chooses the estimator where two could agree by chance, so that all policies have the same.
    """

    def checked(found: Found | None) -> Found | None:
        return (
            found if found and math.isclose(point_of(found), reported, rel_tol=1e-6, abs_tol=1e-9) else None
        )

    numbers = numbers_of(values)
    if numbers is not None:
        if aggregate is harness.perplexity:
            nll = [-value for value in numbers]
            return checked(Found("perplexity", {"nll": nll, "tokens": [1.0] * len(nll)}))
        return checked(Found("mean", {"value": numbers}))
    if not all(isinstance(value, tuple | list) and len(value) == 2 for value in values):
        return None
    left, right = map(list, zip(*values, strict=True))
    if aggregate in (harness.weighted_perplexity, harness.bits_per_byte):
        return checked(likelihood_columns(left, right, aggregate))
    if aggregate is harness.f1_score and set(left) | set(right) <= {0, 1}:
        return label_columns("f1", left, right)
    if aggregate is harness.matthews_corrcoef:
        return label_columns("matthews", left, right)
    if aggregate is harness.ter:
        return checked(ter_columns(translations(left, right)))
    if aggregate in TRANSLATION:
        return checked(translation_replicates(translations(left, right), aggregate))
    if all(isinstance(reference, dict) and "answers" in reference for reference in right):
        texts = [prediction["prediction_text"] for prediction in left]
        return next(filter(None, map(checked, squad_columns(texts, right))), None)
    if aggregate and numbers_of(left) is not None and numbers_of(right) is not None:
        return replicates_of(left, right, reported, aggregate)
    return None


def numbers_of(values: list) -> list[float] | None:
    """Return items as floats, or None if one is no number."""
    if not all(isinstance(value, int | float | np.number | np.bool_) for value in values):
        return None
    return [float(value) for value in values]


def exponential(value: float) -> float:
    """Return exp(value), infinity where it is too large for a float."""
    return math.exp(value) if value < 700 else math.inf


def point_of(found: Found) -> float:
    """Return the number that an estimator makes of its columns; nan where it has none."""
    columns = {name: math.fsum(values) for name, values in found.columns.items()}
    if found.estimator == "mean":
        return columns["value"] / len(found.columns["value"])
    if found.estimator == "replicates":
        return found.extra["point"]
    above, below = ("nll", "tokens") if found.estimator == "perplexity" else ("numerator", "denominator")
    if min(found.columns[below]) <= 0:  # an item without words or bytes cannot stand alone in a draw
        return math.nan
    value = columns[above] / columns[below]
    return exponential(value) if found.estimator == "perplexity" else value


def likelihood_columns(nats: list[float], counts: list[float], aggregate: Callable) -> Found:
    """Return perplexity, or bits as a ratio, per unit (word, byte) of texts with log-likelihoods in nats."""
    nll, sizes = [-float(value) for value in nats], [float(count) for count in counts]
    if aggregate is harness.weighted_perplexity:
        return Found("perplexity", {"nll": nll, "tokens": sizes})
    return Found("ratio", {"numerator": [value / math.log(2) for value in nll], "denominator": sizes})


def label_columns(estimator: str, gold: list[int], predicted: list[int]) -> Found:
    """Return labels as text, for F1 of the class 1 or for MCC (Matthews 1975)."""
    return Found(
        estimator,
        {"gold": [str(int(label)) for label in gold], "predicted": [str(int(label)) for label in predicted]},
    )


def ter_columns(pairs: list[tuple[str, list[str]]]) -> Found:
    """Return TER in percent (Snover et al. 2006) as a ratio: edits by words of the references."""
    scores = [sacrebleu.sentence_ter(text, references) for text, references in pairs]
    edits = [100.0 * score.num_edits for score in scores]
    return Found("ratio", {"numerator": edits, "denominator": [float(score.ref_length) for score in scores]})


def translations(references: list, answers: list) -> list[tuple[str, list[str]]]:
    """Return (translation, its references) of each item, as the harness unpacks them."""
    return [
        (answer if isinstance(answer, str) else answer[0], [known] if isinstance(known, str) else list(known))
        for known, answer in zip(references, answers, strict=True)
    ]


def squad_columns(texts: list[str], references: list[dict]) -> list[Found]:
    """Return exact match and F1 of SQuAD (Rajpurkar et al. 2018) in percent: the best over an item's answers."""
    found = []
    for compare in (squad_metrics.compute_exact, squad_metrics.compute_f1):
        scores = []
        for text, reference in zip(texts, references, strict=True):
            # As in the official script: an answer that is all articles and punctuation counts as none.
            known = [
                answer for answer in reference["answers"]["text"] if squad_metrics.normalize_answer(answer)
            ]
            scores.append(100.0 * max(compare(answer, text) for answer in known or [""]))
        found.append(Found("mean", {"value": scores}, {"bounds": [0.0, 100.0]}))
    return found


# --- replicates -----------------------------------------------------------------------------------


def draws_of(count: int) -> np.ndarray:
    """Return the items of each bootstrap draw, (DRAWS, count): the same for every policy."""
    return np.random.default_rng(SEED).integers(0, count, size=(DRAWS, count))


def replicates_of(gold: list, predicted: list, reported: float, aggregate: Callable) -> Found:
    """Return a metric over labels (gold, predicted) that is recomputed by the harness on each draw.

    The column is 1 where both agree. A draw in which the metric is undefined repeats the reported number.
    """
    pairs = np.array([gold, predicted]).T
    kind = int if np.issubdtype(pairs.dtype, np.integer) else float
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws that lack a class
        values = [
            float(aggregate([(kind(truth), kind(guess)) for truth, guess in pairs[chosen]]))
            for chosen in draws_of(len(gold))
        ]
    replicates = [value if math.isfinite(value) else float(reported) for value in values]
    right = [float(truth == guess) for truth, guess in zip(gold, predicted, strict=True)]
    return Found("replicates", {"value": right}, {"point": float(reported), "replicates": replicates})


def translation_replicates(pairs: list[tuple[str, list[str]]], aggregate: Callable) -> Found:
    """Return BLEU or chrF on each draw, from sums of the sentences' statistics; the column is each sentence's own."""
    metric = sacrebleu.BLEU() if aggregate is harness.bleu else sacrebleu.CHRF(**TRANSLATION[aggregate])
    # The statistics have no public name; recounting n-grams in each draw would take hours.
    references = list(zip(*(known for _, known in pairs), strict=True))
    statistics = np.array(metric._extract_corpus_statistics([text for text, _ in pairs], references))

    def score(chosen: np.ndarray) -> float:
        return float(metric._compute_score_from_stats(statistics[chosen].sum(axis=0).tolist()).score)

    everything = np.arange(len(pairs))
    return Found(
        "replicates",
        {"value": [score(everything[[place]]) for place in everything]},
        {"point": score(everything), "replicates": [score(chosen) for chosen in draws_of(len(pairs))]},
    )


# --- cells ----------------------------------------------------------------------------------------


def task_cells(
    name: str, task: Task, results: dict, wanted: list[str] | None
) -> tuple[list[dict], dict[str, Any]]:
    """Return (cells of a task, {metric left out: the harness's number}).

    The subset is the task; the metric is the harness's, with the filter's name where there is one
    ("exact_match,strict-match"); items are the task's own row numbers, each its own group. `wanted` names metrics with
    or without the filter; None is all. A task file's `note` goes into its cells.
    """
    cells, left_out, known = [], {}, []
    metadata = task.config.metadata or {}
    note = {"note": metadata["note"]} if "note" in metadata else {}
    for kind in dict.fromkeys(sample["filter"] for sample in results["samples"][name]):
        rows = [sample for sample in results["samples"][name] if sample["filter"] == kind]
        rows.sort(key=lambda row: row["doc_id"])
        for metric in dict.fromkeys(metric for row in rows for metric in row["metrics"]):
            title = metric if kind == "none" else f"{metric},{kind}"
            known.append(title)
            if wanted is not None and title not in wanted and metric not in wanted:
                continue
            having = [
                row for row in rows if metric in row["metrics"]
            ]  # some score an item by some metrics only
            reported = results["results"][name].get(f"{metric},{kind}")
            found = None
            if isinstance(reported, int | float):
                found = columns_of([row[metric] for row in having], reported, task.aggregation().get(metric))
            if found is None:
                left_out[f"{name}/{title}"] = plain(reported)
                continue
            better = results["higher_is_better"].get(name, {}).get(metric)
            cells.append(found_cell(name, title, having, found, better) | note)
    missing = [
        metric
        for metric in wanted or []
        if not any(metric in (title, title.split(",")[0]) for title in known)
    ]
    if missing:
        raise PlumblineError(f"task {name!r}: metrics: no {', '.join(missing)}; it has {', '.join(known)}")
    return cells, left_out


def found_cell(name: str, title: str, rows: list[dict], found: Found, better: bool | None) -> dict:
    """Return the cell of a task's metric; unless the harness says, all but a perplexity is better when higher."""
    items = [str(row["doc_id"]) for row in rows]
    return make_cell(
        name,
        title,
        items,
        items,
        found.columns,
        estimator=found.estimator,
        higher_is_better=found.estimator != "perplexity" if better is None else bool(better),
        **(found.extra or {}),
    )


def plain(value: Any) -> float | None:
    """Return a number that JSON can hold, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def group_cells(
    entry: Loaded, members: dict[str, list[dict]], results: dict
) -> tuple[list[dict], dict[str, Any]]:
    """Return (cells, left out) of the groups that the harness itself averages: over items, or over tasks' means.

    members: the cells of each task. Items are named "<task>/<row number>".
    """
    cells, left_out = [], {}
    for name, group in entry.groups.items():
        tasks = [task.task_name for task in group.get_all_tasks()]
        for key, reported in results["results"].get(name, {}).items():
            metric, _, kind = key.partition(",")
            title = metric if kind == "none" else key
            if not kind or metric.endswith("_stderr") or not isinstance(reported, int | float):
                continue
            wanted = entry.wanted.metrics
            if wanted is not None and title not in wanted and metric not in wanted:
                continue
            parts = [cell for task in tasks for cell in members[task] if cell["metric"] == title]
            by_size = all(own.weight_by_size for own in group.aggregate_metric_list if own.metric == metric)
            pooled = pooled_cell(name, title, parts, by_size)
            if pooled and math.isclose(macro_mean(**pooled["columns"]), reported, rel_tol=1e-6, abs_tol=1e-9):
                cells.append(pooled)
            else:
                left_out[f"{name}/{title}"] = plain(reported)
    return cells, left_out


def pooled_cell(name: str, metric: str, parts: list[dict], by_size: bool) -> dict | None:
    """Return the mean of all items of some cells (`by_size`), or of the cells' means; None if one is no mean."""
    if not parts or any(part["estimator"] != "mean" for part in parts):
        return None
    items = [f"{part['subset']}/{item}" for part in parts for item in part["items"]]
    columns: dict[str, list] = {"value": [value for part in parts for value in part["columns"]["value"]]}
    if not by_size:
        columns["stratum"] = [part["subset"] for part in parts for _ in part["items"]]
    return make_cell(
        name,
        metric,
        items,
        items,
        columns,
        estimator="mean" if by_size else "macro_mean",
        higher_is_better=parts[0]["higher_is_better"],
        **note_of(parts),
    )


def macro_mean(value: list[float], stratum: list[str] | None = None) -> float:
    """Return the mean over strata of the means of their values; without strata, the mean."""
    sums: dict[str, list[float]] = {}
    for own, name in zip(value, stratum or [""] * len(value), strict=True):
        sums.setdefault(name, []).append(own)
    return sum(sum(own) / len(own) for own in sums.values()) / len(sums)


def note_of(cells: list[dict], *more: str) -> dict[str, str]:
    """Return {"note": the different notes of some cells} or {}."""
    notes = list(dict.fromkeys([*(cell["note"] for cell in cells if "note" in cell), *more]))
    return {"note": "; ".join(notes)} if notes else {}


def cells_of(loaded: list[Loaded], results: dict) -> tuple[list[dict], dict[str, Any]]:
    """Return (cells, {metric left out: the harness's number}) of the harness's results.

    A group of the harness stands for its tasks: it and the groups in it have cells, their tasks have none. The tasks of
    a tag or of a pattern have cells of their own.
    """
    cells, left_out = [], {}
    for entry in loaded:
        members = {}
        for name, task in entry.tasks.items():
            members[name], missing = task_cells(name, task, results, entry.wanted.metrics)
            left_out |= missing
        averaged, missing = group_cells(entry, members, results)
        left_out |= missing
        cells += averaged
        inside = {
            task.task_name
            for name in {cell["subset"] for cell in averaged}
            for task in entry.groups[name].get_all_tasks()
        }
        cells += [cell for name, own in members.items() if name not in inside for cell in own]
    return cells, left_out
