"""What a word is, wherever words are counted or compared: in scripts that write spaces between words, and in those that
write none.

A text in Chinese, Japanese, Thai, Lao, Khmer or Burmese has no spaces to be cut at: there each character with its marks
is a word. A text without such characters is cut as it always was, so that no number of it is another one.
"""

import re
import unicodedata

# Scripts without spaces between words, as blocks of Unicode: Thai, Lao, Burmese, Khmer, Tai; kana and Han.
SPACELESS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F), (0xAA80, 0xAADF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FF), (0x3105, 0x312F),
    (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
BLOCKS = "".join(f"{chr(first)}-{chr(last)}" for first, last in SPACELESS)
PLANES = range(0x80, 0x20000)  # where letters with marks, and signs, are


def characters(*categories: str, spaceless: bool = False) -> str:
    """Return the characters of some Unicode categories, in or outside of the scripts that write no spaces."""
    return "".join(
        chr(code)
        for code in PLANES
        if unicodedata.category(chr(code)).startswith(categories)
        and any(first <= code <= last for first, last in SPACELESS if last < 0x3000) == spaceless
    )  # the marks of kana are letters once they are composed


MARKS = characters("M", spaceless=True)
CLUSTER = rf"[{BLOCKS}](?<=[^\W_])[{MARKS}]*"  # a word of a script without spaces
SPACELESS_LETTER = re.compile(rf"[{BLOCKS}](?<=[^\W_])")
CLUSTERS = re.compile(CLUSTER)
PIECES = re.compile(rf"{CLUSTER}|\w+|[^\w\s]")
LONG_WORDS, LONG_OR_CLUSTER = re.compile(r"\b\w\w+\b"), re.compile(rf"{CLUSTER}|\b\w\w+\b")


def has_spaceless(text: str) -> bool:
    """Tell whether a text has a letter of a script that writes no spaces between words."""
    return not text.isascii() and SPACELESS_LETTER.search(text) is not None


def spaced(text: str) -> str:
    """Return a text with spaces around each word of a script that writes none; any other text as it is."""
    return CLUSTERS.sub(r" \g<0> ", text) if has_spaceless(text) else text


def split_words(text: str) -> list[str]:
    """Return the words that a text is as long as: what stands between spaces, or characters, signs not counted."""
    if not has_spaceless(text):
        return text.split()
    return [word for word in spaced(text).split() if any(map(str.isalnum, word))]


def words_and_signs(text: str) -> list[str]:
    """Return a text's words and punctuation marks, case folded."""
    return PIECES.findall(spaced(text.casefold()))


def weighed_words(text: str) -> list[str]:
    """Return the words that TF-IDF weighs in a text, as scikit-learn does: of two letters or more, or of no spaces."""
    return (LONG_OR_CLUSTER if has_spaceless(text) else LONG_WORDS).findall(spaced(text))
