"""Which pairs of a policy's own answers are only validated on: whole groups, so that no problem is on both sides."""

import random


def held_out_groups(groups: list[str], share: float, seed: int) -> set[str]:
    """Return the groups whose pairs are only validated on: a share of them, at least one if the share is positive."""
    order = sorted(set(groups))
    random.Random(seed).shuffle(order)
    return set(order[: max(1, round(share * len(order)))] if share else [])
