"""Text in columns, and texts counted: what a plan is written in."""

from collections import Counter
from collections.abc import Iterable

NAMED = 3  # changes, files or modules that a reason names; of more it gives the number


def listed(names: Iterable[str], most: int = NAMED) -> str:
    """Return names with commas between them, and of those beyond the first few their number."""
    names = list(names)
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)


def counted(texts: list[str]) -> str:
    """Return the texts by how often they come, the number in front unless all are the same."""
    counts = Counter(texts)
    if len(counts) == 1:
        return texts[0]
    return "; ".join(f"{count}: {text}" for text, count in counts.most_common())


def aligned(rows: list[list[str]]) -> list[str]:
    """Return rows as lines with columns of one width, the last as wide as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
