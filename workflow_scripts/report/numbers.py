"""How an estimate is written, in every table and picture: a value with ± half its interval's width, or [low, high].

± says that value - half and value + half are the ends. So it stands only where that is true of all the digits that
are shown; an interval at the edge of its scale is never symmetric, and 0.000 ± 0.011 would hold numbers that no rate
can be.
"""

import math
import re
from collections.abc import Sequence

LINE_BREAK = re.compile("[\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]+")
FINEST = 9  # decimals that a number is shown with at most


def markdown_line(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table: what stands in a cell is text, no mark-up of ours or of a browser's."""
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def markdown_text(text: str) -> str:
    """Return text in one line that opens no tag and no cell of a table."""
    return LINE_BREAK.sub(" ", text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def decimals_of(value: float, low: float | str = "", high: float | str = "") -> int:
    """Return the decimals that a value is shown with: three below 10, else one; more where its interval is finer."""
    decimals = 3 if abs(value) < 10 else 1
    if low == "" or high == low:
        return decimals
    return max(decimals, min(FINEST, -math.floor(math.log10((high - low) / 2))))


def shown(number: float, decimals: int) -> str:
    """Return a number with so many decimals, never as -0."""
    text = f"{number:.{decimals}f}"
    return text if float(text) else text.removeprefix("-")


def value_and_spread(value: float, low: float | str, high: float | str) -> tuple[str, str]:
    """Return an estimate as two texts: its value, and "± half", "[low, high]", or "" where it has no interval ("")."""
    decimals = decimals_of(value, low, high)
    text = shown(value, decimals)
    if low == "":
        return text, ""
    half = shown((high - low) / 2, decimals)
    ends = shown(low, decimals), shown(high, decimals)
    if float(half) and ends == tuple(shown(float(text) + sign * float(half), decimals) for sign in (-1, 1)):
        return text, f"± {half}"
    return text, f"[{', '.join(ends)}]"


def estimate(value: float, low: float | str, high: float | str) -> str:
    """Return an estimate as one text."""
    return " ".join(filter(None, value_and_spread(value, low, high)))


def signed(value: float, decimals: int) -> str:
    """Return a number with its sign and a true minus; nothing is +0, and dust is written with an exponent."""
    text = f"{value:+.1e}" if 0 < abs(value) < 1e-4 and decimals > 4 else f"{value:+.{decimals}f}"
    return (text if float(text) else text[1:]).replace("-", "−")
