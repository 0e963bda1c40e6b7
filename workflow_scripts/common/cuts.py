"""What rows lost where they were tokenised: what a limit cut (see `fitting`), counted by kind, and rows left out whole.

Apart from the cutting, so that tables can tell of it without a tokenizer.
"""

import sys
from collections import Counter
from collections.abc import Iterable

PROMPT_KINDS = ("prompts_cut", "last_turns_cut", "systems_lost")

WORDS = {
    "prompts_cut": "{} {prompts} cut at the start",
    "last_turns_cut": "{} of them within the last turn",
    "systems_lost": "{} without the system message",
    "completions_cut": "{} {replies} cut",
    "replies_lost": "{} {replies} left out whole",
    "ends_lost": "{} {replies} without {their} end token",
}


def cut_counts(rows: Iterable[dict]) -> dict[str, int]:
    """Return by kind what rows lost: those cut at all; prompts, last turns, system messages, replies and their ends.

    `prompts_cut` has those of `last_turns_cut` among them, and these those of `systems_lost`. A row without a fact lost
    nothing of its kind.
    """
    rows = list(rows)

    def total(name: str) -> int:
        return sum(row.get(name, 0) for row in rows)

    prompts = [row.get("prompt_tokens_cut", 0) > 0 for row in rows]
    return {
        "cut": sum(cut or row.get("completions_cut", 0) > 0 for cut, row in zip(prompts, rows, strict=True)),
        "prompts_cut": sum(prompts),
        "last_turns_cut": total("last_turn_cut"),
        "systems_lost": total("system_lost"),
        "completions_cut": total("completions_cut"),
        "ends_lost": total("ends_lost"),
    }


def cut_words(counts: dict[str, int]) -> str:
    """Return what counts say was lost, in words; "" where nothing was."""

    def said(count: int, words: str) -> str:
        one = {"prompts": "prompt", "replies": "reply", "their": "its"}
        return words.format(count, **(one if count == 1 else {word: word for word in one}))

    return ", ".join(said(counts[kind], words) for kind, words in WORDS.items() if counts.get(kind))


def say_cuts(what: str, counts: dict[str, int], advice: str) -> None:
    """Print a warning where `counts` of `what` say that something was cut, and what would keep it."""
    if words := cut_words(counts):
        print(
            f"warning: {what}: {counts['cut']} of {counts['kept']} rows cut: {words}; {advice}",
            file=sys.stderr,
        )


def say_rejected(what: str, reasons: Iterable[str], read: int) -> None:
    """Print a warning where rows of `what` were rejected, of the many that were read: how many, for which reasons."""
    if found := Counter(reasons):
        named = ", ".join(f"{reason} ({count})" for reason, count in found.most_common())
        print(f"warning: {what}: {found.total()} of {read} rows rejected: {named}", file=sys.stderr)
