"""A tokenizer as GGUF holds it, of the two kinds that llama.cpp reads as they are: SentencePiece's and byte-level BPE.

llama.cpp splits a text by rules that it knows by name, and joins pieces by its own algorithm. So a tokenizer is written
only where both are known to be the tokenizer's own; any other is refused with the reason, for a file with another
splitting would answer worse without a word.
"""

import json
from itertools import pairwise
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.export.checks import AWKWARD

NORMAL, UNKNOWN, CONTROL, OWN, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's types of token
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "▁"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
ELSEWHERE = "the folder itself is whole, and llama.cpp's own converter may know more: give it the folder"


class Tokens(NamedTuple):
    """What a GGUF file says of a tokenizer; scores are SentencePiece's, merges those of byte-level BPE."""

    model: str  # llama (SentencePiece) or gpt2 (byte-level)
    pre: str  # how llama.cpp calls the splitting
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str] | None
    space_prefix: bool
    said: list[str]


def refuse(reason: str) -> PlumblineError:
    return PlumblineError(f"no GGUF of this tokenizer: {reason}; {ELSEWHERE}")


def parts_of(tokenizer: Any) -> dict[str, Any]:
    """Return a fast tokenizer as the value of its tokenizer.json."""
    return json.loads(tokenizer.backend_tokenizer.to_str())


def merges_in(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the merges of a BPE, best first; older files have them as text."""
    found = [tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in model["merges"]]
    return [(left, right) for left, right in found]


def steps_of(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, one after another."""
    if not part:
        return []
    return part[inner] if part["type"] == "Sequence" else [part]


def tokens_of(tokenizer: Any, rows: int) -> Tokens:
    """Return a tokenizer as GGUF holds it, for a model with so many rows of embeddings; PlumblineError if it cannot."""
    parts = parts_of(tokenizer)
    model = parts["model"]
    if model["type"] != "BPE":
        raise refuse(f"it is of the kind {model['type']}, and only BPE is written")
    names = [""] * rows
    for token, identity in tokenizer.get_vocab().items():
        if identity < rows:
            names[identity] = token
    types = [NORMAL if name else UNUSED for name in names]
    names = [name or f"[unused{identity}]" for identity, name in enumerate(names)]
    said = []
    for identity, token in tokenizer.added_tokens_decoder.items():
        if identity < rows:
            types[identity] = CONTROL if token.special else OWN
            if token.lstrip or token.rstrip or token.single_word:
                said.append(f"token {token.content!r} takes white space with it, which llama.cpp does not do")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id < rows:
        types[tokenizer.unk_token_id] = UNKNOWN
    if model.get("byte_fallback"):
        return sentencepiece(parts, tokenizer, names, types, said)
    return byte_level(parts, tokenizer, names, types, said)


# --- byte-level BPE ---------------------------------------------------------------------------------------------------


def splitting(parts: dict[str, Any]) -> str:
    """Return llama.cpp's name for how a byte-level tokenizer splits a text before it joins bytes."""
    steps = steps_of(parts["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    if "ByteLevel" not in kinds or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise refuse(f"it splits texts by {kinds or 'nothing'}, which llama.cpp has no name for")
    regex, before = steps[-1].get("use_regex", True), steps[:-1]
    whole = parts["model"].get("ignore_merges", False)
    normal = [step["type"] for step in steps_of(parts["normalizer"], "normalizers")]
    if not before and regex and not normal and not whole:
        return "gpt-2"
    if kinds[:-1] == ["Digits"] and before[0].get("individual_digits") and regex and not normal and not whole:
        return "smollm"
    if kinds[:-1] == ["Split"] and not regex:
        pattern = before[0]["pattern"].get("Regex")
        isolated = before[0]["behavior"] == "Isolated" and not before[0]["invert"]
        if isolated and pattern == LLAMA3 and whole and not normal:
            return "llama-bpe"
        if isolated and pattern == QWEN2 and normal in ([], ["NFC"]) and not whole:
            return "qwen2"
    raise refuse(f"it splits texts by {[*normal, *kinds]} in a way that llama.cpp has no name for")


def byte_level(
    parts: dict[str, Any], tokenizer: Any, names: list[str], types: list[int], said: list[str]
) -> Tokens:
    """Return a byte-level BPE: its merges, and how it splits."""
    from tokenizers.pre_tokenizers import ByteLevel

    pre = splitting(parts)
    if missing := [each for each in ByteLevel.alphabet() if each not in tokenizer.get_vocab()]:
        raise refuse(
            f"it has no token for {len(missing)} of the 256 bytes, and llama.cpp would leave them out"
        )
    if steps_of(parts["normalizer"], "normalizers"):
        said.append("texts are not brought to NFC, as the tokenizer brings them: do so before asking")
    merges = [" ".join(pair) for pair in merges_in(parts["model"])]
    return Tokens("gpt2", pre, names, types, None, merges, False, said)


# --- SentencePiece's BPE ----------------------------------------------------------------------------------------------


def spaces_of(parts: dict[str, Any], said: list[str]) -> bool:
    """Tell whether a tokenizer puts a space before a text; where llama.cpp does so elsewhere too, that is said."""
    normal = steps_of(parts["normalizer"], "normalizers")
    split = steps_of(parts["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in normal]
    replaced = [
        step["pattern"].get("String") == " " and step["content"] == SPACE
        for step in normal
        if step["type"] == "Replace"
    ]
    if not split and kinds == ["Prepend", "Replace"] and normal[0]["prepend"] == SPACE and replaced == [True]:
        return True
    if not split and kinds == ["Replace"] and replaced == [True]:
        return False
    if not normal and len(split) == 1 and split[0]["type"] == "Metaspace" and not split[0].get("split", True):
        scheme = split[0].get("prepend_scheme", "always")
        if scheme != "never":
            said.append(
                "llama.cpp puts a space before a text that begins with one"
                + (", and behind special tokens" if scheme == "first" else "")
                + "; the tokenizer does not"
            )
        return scheme != "never"
    kinds += [step["type"] for step in split]
    raise refuse(f"it treats spaces by {kinds or 'nothing'}, and llama.cpp in another way")


def scores_of(
    merges: list[tuple[str, str]], names: list[str], types: list[int]
) -> tuple[list[float], set[str]]:
    """Return a score for each token, the sooner a piece is made, the higher, and the runs whose merges stand apart.

    llama.cpp joins any two neighbours that make a piece, the best first. That is what merges do where they are all the
    ways to make each piece, and those of one piece stand together. Those to runs of a character (of spaces, which
    SentencePiece's models have at one score for all) may stand apart: that merge counts by which the run alone is
    made, and `sentencepiece` tries the runs. PlumblineError where no scores would do.
    """
    order: dict[str, int] = {}
    ways: dict[str, set[tuple[str, str]]] = {}
    last = None
    apart = set()
    for at, (left, right) in enumerate(merges):
        piece = left + right
        if piece in order and piece != last:
            apart.add(piece)
        order.setdefault(piece, at)
        ways.setdefault(piece, set()).add((left, right))
        last = piece
    if odd := sorted(piece for piece in apart if len(set(piece)) > 1):
        raise refuse(f"the merges to {odd[0]!r} stand apart, so no score of a piece says when it is made")
    ranks = {pair: at for at, pair in enumerate(merges)} if apart else {}
    order |= {piece: made_by(piece, ranks) for piece in apart}
    known = {name for name, kind in zip(names, types, strict=True) if kind == NORMAL}
    for piece in known:
        cuts = {(piece[:at], piece[at:]) for at in range(1, len(piece))}
        possible = {(left, right) for left, right in cuts if left in known and right in known}
        if possible != ways.get(piece, set()) & possible:
            raise refuse(f"piece {piece!r} could be made in ways that are no merges of the tokenizer's")
    return [-float(order.get(name, len(merges))) for name in names], apart


def made_by(piece: str, ranks: dict[tuple[str, str], int]) -> int:
    """Return which merge is the last where a piece stands alone: the lowest first, of equals that on the left."""
    parts, last = list(piece), len(ranks)
    while len(parts) > 1:
        last, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(parts)))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return last


def sentencepiece(
    parts: dict[str, Any], tokenizer: Any, names: list[str], types: list[int], said: list[str]
) -> Tokens:
    """Return a BPE of SentencePiece's kind, with bytes for what it has no piece for: its pieces with scores."""
    if missing := [name for name in BYTES if name not in names]:
        raise refuse(f"it has no token for {len(missing)} of the 256 bytes")
    for name in BYTES:
        types[names.index(name)] = BYTE
    space = spaces_of(parts, said)
    scores, apart = scores_of(merges_in(parts["model"]), names, types)
    found = Tokens("llama", "default", names, types, scores, None, space, said)
    tried = [
        f"x{run[0] * count}".replace(SPACE, " ") for run in apart for count in range(len(run), 3 * len(run))
    ]
    for text in [*AWKWARD, *dict.fromkeys(tried)]:
        spelled = any(token.content in text for token in tokenizer.added_tokens_decoder.values())
        if spelled or (
            said and text.startswith((" ", SPACE))
        ):  # read as the token, here and there; or said above
            continue
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        if text and (theirs := joined(text, found)) != ours:
            raise refuse(f"{text!r} would be read as {theirs}, by the tokenizer itself as {ours}")
    return found


def joined(text: str, tokens: Tokens) -> list[int]:
    """Return a text's ids as llama.cpp makes them of pieces and scores: the best pair of neighbours is joined first."""
    place = {name: at for at, name in enumerate(tokens.tokens)}
    pieces = list((SPACE if tokens.space_prefix else "") + text.replace(" ", SPACE))
    normal = {name for name, kind in zip(tokens.tokens, tokens.types, strict=True) if kind == NORMAL}
    while True:
        pairs = [
            (-tokens.scores[place[left + right]], at)
            for at, (left, right) in enumerate(pairwise(pieces))
            if left + right in normal
        ]
        if not pairs:
            break
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    ids = []
    for piece in pieces:
        if piece in normal:
            ids.append(place[piece])
        else:
            ids += [place[BYTES[byte]] for byte in piece.encode("utf-8", "surrogatepass")]
    return ids
