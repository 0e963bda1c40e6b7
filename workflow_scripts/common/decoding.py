"""From tokens back to text, and from an answer to the tokens a policy would have to make: the border behind a prompt.

What tokens say depends on what stands before them. Decoders of SentencePiece's kind drop the first space of whatever
they are given, bytes make a character only together, and WordPiece puts a space before all but the first word. So an
answer is decoded behind the end of its prompt, and the prompt is cut off. Every step that reads new tokens does it here.
What the tokenizer itself does not keep (WordPiece: upper case, and how many spaces there were) stays lost.
"""

import functools
import os
from typing import Any

CONTEXT = 16  # tokens of the prompt that an answer is decoded behind
CHARACTER = 4  # bytes, and so tokens, that one character takes at most
BROKEN = "\ufffd"  # what bytes that make no character are decoded to
# Characters that few tokenizers join with what comes after them; one of them is enough.
BEFORE = ("\n", ".", ":", "0", "a", "|")


@functools.lru_cache(maxsize=8)
def _special(tokenizer: Any, size: int) -> frozenset[int]:
    return frozenset(
        identity for identity, token in tokenizer.added_tokens_decoder.items() if token.special
    )


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
                return text if text.startswith(whole) else whole + BROKEN
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
    framed, plain = (tokenizer("a", add_special_tokens=framing)["input_ids"] for framing in (True, False))
    starts = range(len(framed) - len(plain) + 1)
    return framed[: next((at for at in starts if framed[at : at + len(plain)] == plain), 0)]


@functools.lru_cache(maxsize=64)
def _puts_a_space(tokenizer: Any, size: int, before: int, opens: bool) -> bool:
    text = "a" if opens else f"{tokenizer.convert_ids_to_tokens(before)}a"
    identities = tokenizer(text, add_special_tokens=False)["input_ids"]
    if opens:
        identities = [before, *identities]
    if identities[0] != before:
        return False
    whole, mark = spelled(tokenizer, identities), spelled(tokenizer, [before])
    return whole == f"{mark} a"


def puts_a_space(tokenizer: Any, prompt: list[int]) -> bool:
    """Return whether a tokenizer puts a space of its own before what follows a prompt.

    Some do after special tokens, where it is none of the text's. Of a prompt that is BOS alone, the text is the answer.
    """
    if not prompt or prompt[-1] not in tokenizer.added_tokens_decoder:
        return False
    return _puts_a_space(tokenizer, len(tokenizer), prompt[-1], prompt == opening(tokenizer))


def reply_text(tokenizer: Any, prompt: list[int], reply: list[int]) -> str:
    """Return the text of the tokens that follow a prompt, to the character; special tokens among them say nothing."""
    special = special_ids(tokenizer)
    said = [token for token in reply if token not in special]
    before = context_of(tokenizer, prompt)
    asked, whole = spelled(tokenizer, before), spelled(tokenizer, before + said)
    # They differ before the end of the prompt only where a token holds the end of its last character.
    text = whole[len(os.path.commonprefix([asked, whole])) :]
    return text[1:] if text.startswith(" ") and puts_a_space(tokenizer, prompt) else text


def reply_tokens(tokenizer: Any, prompt: list[int], whole: list[int], text: str) -> list[int]:
    """Return the tokens that a policy asked with `prompt` has to make to say `text`.

    `whole` is the prompt with the text in one tokenisation. Where a token of it crosses the border, which no policy that
    was asked with the prompt can make, it is the text's own tokens as they are further on in a text.
    """
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    for before in BEFORE:
        encoded = tokenizer(
            before + text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
        )
        ends = [end for _, end in encoded["offset_mapping"]]
        first = next((at for at, end in enumerate(ends) if end > len(before)), len(ends))
        if first == len(ends) or encoded["offset_mapping"][first][0] >= len(before):
            return encoded["input_ids"][first:]
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
