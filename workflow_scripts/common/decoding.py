"""From tokens back to text, and from an answer to the tokens a policy would have to make: the border behind a prompt.

What tokens say depends on what stands before them. Decoders of SentencePiece's kind drop the first space of whatever
they are given, bytes make a character only together, and WordPiece puts a space before all but the first word. So an
answer is decoded behind the end of its prompt, and the prompt is cut off. Every step that reads new tokens does it
here. What the tokenizer itself does not keep (WordPiece: upper case, and how many spaces there were) stays lost.
"""

import functools
import itertools
from typing import Any

CONTEXT = 16  # tokens of the prompt that an answer is decoded behind
CHARACTER = 4  # bytes, and so tokens, that one character takes at most
BROKEN = "\ufffd"  # what bytes that make no character are decoded to
# Characters that few tokenizers join with what comes after them; one of them is enough.
BEFORE = ("\n", ".", ":", "0", "a", "|")


@functools.lru_cache(maxsize=8)
def _special(tokenizer: Any, size: int) -> frozenset[int]:
    return frozenset(identity for identity, token in tokenizer.added_tokens_decoder.items() if token.special)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens, which no text spells."""
    return _special(tokenizer, len(tokenizer))


def spelled(tokenizer: Any, identities: list[int]) -> str:
    """Return the text of tokens, special ones too; a character that is not whole yet is one U+FFFD at its end.

    Byte fallback reads bytes that stand together as one: those of an unfinished character would spoil the rest of them.
    """

    def decode(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    text = decode(identities)
    if text.endswith(BROKEN):
        for count in range(1, CHARACTER):
            whole = decode(identities[:-count])
            if not whole.endswith(BROKEN):
                more = text[len(whole) :] if text.startswith(whole) else ""
                return text if more.strip(BROKEN) else whole + BROKEN
    return text


def context_of(tokenizer: Any, prompt: list[int]) -> list[int]:
    """Return the last tokens of a prompt, from where a character begins."""
    start = max(0, len(prompt) - CONTEXT)
    for first in range(start, min(start + CHARACTER, len(prompt))):
        if not spelled(tokenizer, prompt[first:]).startswith(BROKEN):
            return prompt[first:]
    return prompt[start:]


def opening(tokenizer: Any) -> list[int]:
    """Return the ids that a tokenizer puts before a plain text: BOS, where it has one."""
    return list(_frame(tokenizer, len(tokenizer))[0])


def closing(tokenizer: Any) -> list[int]:
    """Return the ids that a tokenizer puts behind a plain text: BERT's [SEP], for one."""
    return list(_frame(tokenizer, len(tokenizer))[1])


@functools.lru_cache(maxsize=8)
def _frame(tokenizer: Any, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = range(len(framed) - len(plain) + 1)
    at = next((at for at in starts if framed[at : at + len(plain)] == plain), None)
    return ((), ()) if at is None else (tuple(framed[:at]), tuple(framed[at + len(plain) :]))


@functools.lru_cache(maxsize=64)
def _space_put(tokenizer: Any, size: int, before: int, opens: bool) -> tuple[bool, bool]:
    mark = spelled(tokenizer, [before])

    def puts(text: str) -> bool:
        if opens:
            identities = [before, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        else:
            known = tokenizer.convert_ids_to_tokens(before)
            identities = tokenizer(f"{known}{text}", add_special_tokens=False)["input_ids"]
        return identities[:1] == [before] and spelled(tokenizer, identities) == f"{mark} {text}"

    return puts("a"), puts(" a")


def without_space_put(text: str, tokenizer: Any, before: int, opens: bool) -> str:
    """Return what is said behind a token without the space that the tokenizer itself puts there.

    Some put one before each text (`opens`), some after every special token too, where it is none of the text's; and
    some put none where the text begins with a space itself, so that it cannot be told whether a single one was its own.
    """
    if not text.startswith(" "):
        return text
    words, spaces = _space_put(tokenizer, len(tokenizer), before, opens)
    return text[1:] if words and (spaces or not text.startswith("  ")) else text


def reply_text(tokenizer: Any, prompt: list[int], reply: list[int]) -> str:
    """Return the text of the tokens that follow a prompt, to the character; special tokens among them say nothing."""
    special = special_ids(tokenizer)
    said = [token for token in reply if token not in special]
    opens = not prompt or prompt == opening(tokenizer)
    before = context_of(tokenizer, prompt) or sorted(special)[:1]
    asked, whole = spelled(tokenizer, before), spelled(tokenizer, before + said)
    # They differ before the end of the prompt only where a token holds the end of its last character.
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(asked, whole, strict=False))
    text = whole[sum(1 for _ in same) :]
    if opens or before[-1] in tokenizer.added_tokens_decoder:
        return without_space_put(text, tokenizer, before[-1], opens) if before else text
    return text


def tokens_within(text: str, tokenizer: Any) -> list[int]:
    """Return the token ids of a text as they are further on in another, where no space is put before it."""
    for before in BEFORE:
        encoded = tokenizer(
            before + text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        ends = [end for _, end in encoded["offset_mapping"]]
        first = next((at for at, end in enumerate(ends) if end > len(before)), len(ends))
        if first == len(ends) or encoded["offset_mapping"][first][0] >= len(before):
            return encoded["input_ids"][first:]
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def reply_tokens(tokenizer: Any, prompt: list[int], whole: list[int], text: str) -> list[int]:
    """Return the tokens that a policy asked with `prompt` has to make to say `text`.

    `whole` is the prompt with the text in one tokenisation. Where a token of it crosses the border, which no policy
    that was asked with the prompt can make, it is the text's own tokens as they are further on in a text.
    """
    return whole[len(prompt) :] if whole[: len(prompt)] == prompt else tokens_within(text, tokenizer)
