"""Krippendorff's α: agreement beyond chance of any number of raters, of whom some may have left an item out."""

import numpy as np

ROUNDING = 1e-12  # relative: what sums of equal values differ by


def alpha(weights: np.ndarray, ratings: np.ndarray, nominal: bool = False) -> np.ndarray:
    """Return α per draw (draws,), NaN where all values are the same, so that chance cannot disagree either.

    ratings: (items, raters), NaN where one has none; weights (draws, items) count each item. α = 1 - D_o / D_e, the
    observed by the expected disagreement of pairs of values: 1 where raters agree, 0 where they do as chance would,
    below 0 where they disagree more (Krippendorff 2011, *Computing Krippendorff's Alpha-Reliability*). Values disagree
    by the square of their distance, or, nominal, by being unequal. An item that fewer than two have rated is no part.
    """
    rated = (~np.isnan(ratings)).sum(axis=1)
    weights, ratings, rated = weights[:, rated > 1], ratings[rated > 1], rated[rated > 1]
    if not len(ratings):
        return np.full(len(weights), np.nan)
    within, pairs_of = (_unequal if nominal else _squares)(ratings, rated)
    count = weights @ rated
    observed = weights @ (within / (rated - 1))
    total, scale = pairs_of(weights, count)
    expected = np.where(total > ROUNDING * scale, total / np.maximum(count - 1, 1), np.nan)
    return 1 - observed / expected


def _squares(ratings: np.ndarray, rated: np.ndarray) -> tuple:
    """Return the squared distances of each item's pairs (items,), and a function to those of all pairs of a draw."""
    values = ratings - np.nanmean(ratings)
    sums, squares = np.nansum(values, axis=1), np.nansum(values**2, axis=1)

    def pairs_of(weights: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = 2 * count * (weights @ squares)
        return whole - 2 * (weights @ sums) ** 2, np.maximum(whole, ROUNDING)

    return 2 * (rated * squares - sums**2), pairs_of


def _unequal(ratings: np.ndarray, rated: np.ndarray) -> tuple:
    """Return how many of each item's pairs are unequal (items,), and a function to how many of all of a draw are."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(axis=1).astype(float)

    def pairs_of(weights: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return count**2 - ((weights @ counts) ** 2).sum(axis=1), count**2

    return rated**2 - (counts**2).sum(axis=1), pairs_of
