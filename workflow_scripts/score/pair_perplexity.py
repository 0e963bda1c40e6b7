"""Perplexity of hints (actions 1 and 4) and of given-away solutions (2 and 5) after the same dialogue.

A pedagogically aligned tutor finds hints likelier. Covers the six pooled numbers. Not covered: the
likelihoods themselves, which are computed where the model is loaded (`pair_likelihoods`).
"""

import math

import numpy as np
from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.flags import measured_parser
from workflow_scripts.score.items import make_cell, write_scores

SUBSETS = {
    "action1": ("1",),
    "action2": ("2",),
    "action4": ("4",),
    "action5": ("5",),
    "action1+4": ("1", "4"),
    "action2+5": ("2", "5"),
}


class Settings(TypedDict):
    fidelity: str


def weigh(nll: np.ndarray, tokens: np.ndarray, fidelity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the (nll, tokens) to pool, from replies' summed nll in nats and token counts n, both (replies,).

    "paper": as they are. "code": the published evaluation multiplies the mean nll by n - 1 and divides by the
    sum of n - 1, although all n tokens are predicted, the first from the prompt.
    """
    if fidelity == "paper":
        return nll, tokens
    return nll / tokens * (tokens - 1), tokens - 1


def perplexity(nll: np.ndarray, tokens: np.ndarray) -> float:
    """Return exp(sum of nll / sum of tokens), from arrays (replies,) in nats and tokens."""
    return float(np.exp(np.sum(nll, dtype=np.float64) / np.sum(tokens, dtype=np.float64)))


def check_rows(rows: list[dict], fewest_tokens: int, where: str) -> None:
    """Raise PlumblineError for a row that cannot be pooled, and for a reply given twice."""
    seen = set()
    for number, row in enumerate(rows, 1):
        place = f"{where}: reply {number}"
        missing = [name for name in ("id", "group", "action", "nll", "tokens") if name not in row]
        if missing:
            raise PlumblineError(f"{place}: lacks {', '.join(missing)}")
        action, nll, tokens = row["action"], row["nll"], row["tokens"]
        if action not in ("1", "2", "4", "5"):
            raise PlumblineError(f"{place}: action is {action!r}; allowed: '1', '2', '4', '5'")
        if not isinstance(tokens, int) or tokens < fewest_tokens:
            raise PlumblineError(
                f"{place}: tokens is {tokens!r}; at least {fewest_tokens} needed at this fidelity"
            )
        if not isinstance(nll, int | float) or not math.isfinite(nll):
            raise PlumblineError(f"{place}: nll is {nll!r}, not a finite number of nats")
        if (row["id"], action) in seen:
            raise PlumblineError(f"{place}: {row['id']!r} with action {action} occurs twice")
        seen.add((row["id"], action))


def score(rows: list[dict], fidelity: str, where: str) -> list[dict]:
    """Return the six perplexity cells; `where` names the file in messages.

    Raises PlumblineError for a row that cannot be pooled, a reply given twice, or an action without replies.
    """
    check_rows(rows, 1 if fidelity == "paper" else 2, where)
    cells = []
    for subset, actions in SUBSETS.items():
        chosen = [row for row in rows if row["action"] in actions]
        if not chosen:
            raise PlumblineError(
                f"{where}: no reply with {subset}; the file needs pairs of actions 1→2 and 4→5"
            )
        nll = np.array([row["nll"] for row in chosen], dtype=np.float64)
        nll, tokens = weigh(nll, np.array([row["tokens"] for row in chosen]), fidelity)
        cells.append(
            make_cell(
                subset,
                "perplexity",
                [row["id"] for row in chosen],
                [row["group"] for row in chosen],
                {"nll": nll.tolist(), "tokens": tokens.tolist()},
                estimator="perplexity",
                higher_is_better=False,
            )
        )
    return cells


def main() -> None:
    """Write the six pair perplexities of one policy."""
    args = measured_parser(
        main.__doc__, Settings, "rows of id, group, action, nll (nats, summed), tokens"
    ).parse_args()
    cells = score(read_jsonl(args.measured), args.settings["fidelity"], args.measured)
    write_scores(args.output, "pair_perplexity", cells)


if __name__ == "__main__":
    run(main)
