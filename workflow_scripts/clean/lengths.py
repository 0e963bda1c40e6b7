"""How many tokens a ranked row has, under the tokenizer of a model, and what is done with one that has too many.

Tokens are counted as in a text of turns that each end with one end token, as DialoGPT reads them (Zhang et al. 2020).
"""

import functools
from pathlib import Path
from typing import Any

from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.settings import TokenLimits
from workflow_scripts.common.errors import PlumblineError


@functools.cache
def load_counter(folder: str) -> Any:
    """Return the tokenizer of a model's folder: its tokenizer.json, or GPT-2's vocab.json and merges.txt."""
    import tokenizers  # 0.1 s, which all other cleaning would wait for

    whole, vocabulary, merges = (
        Path(folder) / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    try:
        if whole.is_file():
            return tokenizers.Tokenizer.from_file(str(whole))
        if vocabulary.is_file() and merges.is_file():
            return tokenizers.ByteLevelBPETokenizer(str(vocabulary), str(merges))
    except Exception as error:  # the library raises nothing narrower
        raise PlumblineError(f"{folder}: its tokenizer cannot be read: {error}") from None
    raise PlumblineError(
        f"{folder}: has neither tokenizer.json nor vocab.json and merges.txt, so its tokens cannot be counted"
    )


def count_tokens(text: str, folder: str) -> int:
    """Return how many tokens a text has, without any that frame it."""
    return len(load_counter(folder).encode(text, add_special_tokens=False).ids)


def recent(messages: list[dict], limits: TokenLimits) -> list[dict]:
    """Return the messages without the oldest ones that make them longer than `history` tokens; the last one stays."""
    most = limits["history"]
    if most is None:
        return messages
    lengths = [count_tokens(message["content"], limits["tokenizer"]) for message in messages]
    first = 0
    while first < len(messages) - 1 and sum(lengths[first:]) + len(messages) - first - 1 > most:
        first += 1
    return messages[first:]


def check_length(
    system: str | None, messages: list[dict], replies: list[str], limits: TokenLimits
) -> Fault | None:
    """Return what makes a row too long: more than `row` tokens with a reply of its own, an end token to each text.

    A row whose last message alone has more than `history` tokens is too long as well.
    """
    folder = limits["tokenizer"]
    if limits["history"] is not None and messages:
        last = count_tokens(messages[-1]["content"], folder)
        if last > limits["history"]:
            return Fault(f"last message longer than {limits['history']} tokens", f"{last} tokens")
    if limits["row"] is None:
        return None
    said = [*([system] if system else []), *(message["content"] for message in messages)]
    before = sum(count_tokens(text, folder) + 1 for text in said)
    longest = before + max(count_tokens(reply, folder) + 1 for reply in replies)
    return (
        Fault(f"longer than {limits['row']} tokens", f"{longest} tokens") if longest > limits["row"] else None
    )
