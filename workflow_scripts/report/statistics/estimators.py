"""From item scores to one number: each estimator is a function of sums over items, but for refits ("replicates")."""

from collections.abc import Sequence

import numpy as np

from workflow_scripts.report.statistics.cells import COLUMNS, Cell

# The least and the most that an estimate can be, of those that are no means of items.
SCALES = {"f1": (0.0, 1.0), "macro_f1": (0.0, 1.0), "matthews": (-1.0, 1.0), "corpus_bleu": (0.0, 100.0)}
POSITIVE = "1"  # the label whose F1 a binary task reports


def item_sums(cell: Cell) -> np.ndarray:
    """Return the numbers (items, sums) whose totals over items an estimator is a function of (see estimates)."""
    columns = [cell.columns[name] for name in COLUMNS[cell.estimator]]
    if cell.estimator == "mean":
        return np.column_stack([columns[0], np.ones(len(cell.items))])
    if cell.estimator == "macro_mean":
        value, stratum = columns
        inside = (stratum[:, None] == np.unique(stratum)).astype(float)
        return np.hstack([inside * value[:, None], inside])
    if cell.estimator in ("macro_f1", "f1", "matthews"):
        labels = np.array([POSITIVE]) if cell.estimator == "f1" else np.unique(np.concatenate(columns))
        gold, predicted = columns[0][:, None] == labels, columns[1][:, None] == labels
        return np.hstack([gold & predicted, gold, predicted]).astype(float)
    return np.column_stack(columns)


def estimates(cell: Cell, totals: np.ndarray) -> np.ndarray:
    """Return the estimate (draws,) of each row of totals (draws, sums): item_sums added up over a draw's items.

    mean, ratio: Σ value / n, Σ numerator / Σ denominator. perplexity: exp(Σ nll / Σ tokens), nll in nats; infinite
    where that is above 709.
    """
    if cell.estimator in ("mean", "ratio"):
        return totals[:, 0] / totals[:, 1]
    if cell.estimator == "perplexity":
        with np.errstate(over="ignore"):
            return np.exp(totals[:, 0] / totals[:, 1])
    if cell.estimator == "macro_mean":
        return _macro_mean(*np.split(totals, 2, axis=1))
    if cell.estimator == "corpus_bleu":
        return _corpus_bleu(totals[:, :4], totals[:, 4:8], totals[:, 8], totals[:, 9])
    if cell.estimator == "matthews":
        return _matthews(*np.split(totals, 3, axis=1))
    if cell.estimator == "f1":
        return _f1(*totals.T)
    return _macro_f1(*np.split(totals, 3, axis=1), cell.fidelity)


def _macro_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of the strata's means (draws,); a stratum of which a draw has no item is no part of it."""
    return (values / np.maximum(counts, 1)).sum(axis=1) / (counts > 0).sum(axis=1)


def _corpus_bleu(
    matches: np.ndarray, ngrams: np.ndarray, system: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Return BLEU-4 in percent (draws,) from n-grams matched and counted (draws, 4) and lengths in tokens (draws,).

    100 BP exp(mean log precision), BP = min(1, exp(1 - reference / system)); 0 where no n-gram of some length matches:
    there is no smoothing (Papineni et al. 2002, §2.3).
    """
    brevity = np.exp(np.minimum(0.0, 1.0 - reference / np.maximum(system, 1e-300)))
    precisions = np.maximum(matches, 1e-300) / np.maximum(ngrams, 1.0)
    return np.where((matches > 0).all(axis=1), 100.0 * brevity * np.exp(np.log(precisions).mean(axis=1)), 0.0)


def _f1(hits: np.ndarray, golds: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return F1 = 2 tp / (2 tp + fp + fn) from counts of any shape, 0 where a label is neither gold nor guessed."""
    return 2 * hits / np.maximum(golds + guesses, 1e-300)


def _macro_f1(hits: np.ndarray, golds: np.ndarray, guesses: np.ndarray, fidelity: str) -> np.ndarray:
    """Return macro-F1 (draws,) from counts (draws, labels); the label '' is an answer that did not parse.

    paper: the mean over the labels that are gold in the draw, so '' only lowers recall. code: as the published
    evaluation computes it, the mean over the sorted labels of gold and predictions without the first one, which is
    '' only if some answer did not parse, else a real label; 0 where no label is left (there it has no number).
    """
    if fidelity == "paper":
        counted = golds > 0
    else:
        seen = golds + guesses > 0
        counted = seen & (np.cumsum(seen, axis=1) > 1)
    return (_f1(hits, golds, guesses) * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)


def _matthews(hits: np.ndarray, golds: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return Matthews' correlation (draws,) from counts (draws, labels), 0 where one side has one label alone.

    For any number of labels (Gorodkin 2004, eq. 8): (c n - Σ p t) / sqrt((n² - Σ p²)(n² - Σ t²)), c the items right,
    p and t how often a label is predicted and true.
    """
    right, count = hits.sum(axis=1), golds.sum(axis=1)
    above = right * count - (golds * guesses).sum(axis=1)
    below = (count**2 - (golds**2).sum(axis=1)) * (count**2 - (guesses**2).sum(axis=1))
    return np.where(below > 0, above / np.sqrt(np.where(below > 0, below, 1.0)), 0.0)


def is_logarithmic(cell: Cell) -> bool:
    """Return whether an estimate is averaged over seeds as logarithms: a perplexity, whose logarithm is a mean."""
    return cell.estimator == "perplexity"


def seed_estimates(cells: Sequence[Cell]) -> np.ndarray:
    """Return each cell's estimate on its items as they are (cells,)."""
    return np.array([_point(cell) for cell in cells])


def point_estimate(cells: Sequence[Cell]) -> float:
    """Return the estimate on the items as they are, averaged over `cells`: one policy's seeds.

    For a mean this equals the mean of the seed-averaged items. Perplexities are averaged as nats per token, so theirs
    is the geometric mean: one training that failed does not stand for all.
    """
    values = seed_estimates(cells)
    if is_logarithmic(cells[0]) and len(values) > 1:
        return float(np.exp(np.log(values).mean()))
    return float(values.mean())


def _point(cell: Cell) -> float:
    if cell.estimator == "replicates":
        return cell.point
    return float(estimates(cell, item_sums(cell).sum(axis=0, keepdims=True))[0])
