"""Loss of a policy on the gold replies of a split: nats per token, perplexity, and nats per token by conversation.

The first two are pooled over all tokens; in the third, the mean over conversations, a long one weighs no more than a
short one.

Covers three cells of subset "reply". Not covered: the likelihoods themselves, which are computed where the model is
loaded (`reply_likelihoods`).
"""

import math
from collections import Counter

from typing_extensions import TypedDict

from workflow_scripts.common.cuts import cut_counts, cut_words
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.flags import measured_parser
from workflow_scripts.score.items import make_cell, write_scores


class Settings(TypedDict):
    benchmark: str


def check_rows(rows: list[dict], where: str) -> None:
    """Raise PlumblineError when there are no rows, one cannot be pooled, or one stands twice."""
    if not rows:
        raise PlumblineError(f"{where}: no replies; measure their likelihoods again")
    seen = set()
    for number, row in enumerate(rows, 1):
        place = f"{where}: reply {number}"
        missing = [name for name in ("id", "group", "nll", "tokens") if name not in row]
        if missing:
            raise PlumblineError(f"{place}: lacks {', '.join(missing)}")
        if not isinstance(row["tokens"], int) or row["tokens"] < 1:
            raise PlumblineError(f"{place}: tokens is {row['tokens']!r}; a reply has at least one")
        if not isinstance(row["nll"], int | float) or not math.isfinite(row["nll"]):
            raise PlumblineError(f"{place}: nll is {row['nll']!r}, not a finite number of nats")
        if row["id"] in seen:
            raise PlumblineError(f"{place}: {row['id']!r} occurs twice")
        seen.add(row["id"])


def score(rows: list[dict], where: str) -> list[dict]:
    """Return the cells nll_per_token = Σ nll / Σ tokens (nats), perplexity = exp of it, and nll_per_example.

    nll_per_example is the mean over conversations of Σ nll / Σ tokens over a conversation's replies, as Instruction
    Modelling takes its train and test losses (Shi et al. 2024). Lower is better. A note says how many rows had to
    be cut to be measured.
    `where` names the file in messages. Raises PlumblineError for a row that cannot be pooled.
    """
    check_rows(rows, where)
    items, groups = [row["id"] for row in rows], [row["group"] for row in rows]
    nll, tokens = [float(row["nll"]) for row in rows], [row["tokens"] for row in rows]

    words = cut_words(cut_counts(rows))
    note = {"note": f"of {len(rows)} replies: {words}"} if words else {}

    def cell(metric: str, estimator: str, columns: dict[str, list]) -> dict:
        more = {"estimator": estimator, "higher_is_better": False} | note
        return make_cell("reply", metric, items, groups, columns, **more)

    return [
        cell("nll_per_token", "ratio", {"numerator": nll, "denominator": tokens}),
        cell("perplexity", "perplexity", {"nll": nll, "tokens": tokens}),
        cell("nll_per_example", "ratio", by_example(rows)),
    ]


def by_example(rows: list[dict]) -> dict[str, list[float]]:
    """Return the columns of the mean over conversations of Σ nll / Σ tokens over a conversation's replies.

    As a ratio over replies, so that scores without some of them still are one: each carries its nll over its
    conversation's tokens, by its share of the conversation. A reply's id is "<conversation>#k".
    """
    names = [row["id"].rpartition("#")[0] or row["id"] for row in rows]
    tokens, replies = Counter[str](), Counter(names)
    for name, row in zip(names, rows, strict=True):
        tokens[name] += row["tokens"]
    return {
        "numerator": [row["nll"] / tokens[name] for name, row in zip(names, rows, strict=True)],
        "denominator": [1 / replies[name] for name in names],
    }


def main() -> None:
    """Write the loss of one policy on one split."""
    args = measured_parser(
        main.__doc__, Settings, "rows of id, group, nll (nats, summed), tokens"
    ).parse_args()
    cells = score(read_jsonl(args.measured), args.measured)
    write_scores(args.output, args.settings["benchmark"], cells)


if __name__ == "__main__":
    run(main)
