"""What the head of a GGUF file says of a model: its metadata, and how many weights there are. No weights are read."""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from workflow_scripts.common.errors import PlumblineError

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
DEEPEST = 4  # lists within lists
VERSIONS = (2, 3)


class Header(NamedTuple):
    """A file's metadata by key, and the number of its weights."""

    said: dict[str, Any]
    parameters: int


def read_header(path: Path) -> Header:
    """Return what the head of a GGUF file says; PlumblineError where it is none that can be read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            return whole_header(stream, size)
    except (OSError, struct.error, ValueError, RecursionError) as error:
        raise PlumblineError(f"{path}: cannot be read as a GGUF model ({error}); fetch it again") from None


def whole_header(stream: BinaryIO, size: int) -> Header:
    """Return what an opened file of `size` bytes says; ValueError for lengths that it has not."""

    def numbers(form: str, count: int) -> tuple:
        return struct.unpack(f"<{count}{form}", stream.read(count * struct.calcsize(f"<{form}")))

    def number(form: str) -> Any:
        return numbers(form, 1)[0]

    def text() -> str:
        length = counted(number("Q"), 1)
        return stream.read(length).decode("utf-8", errors="replace")

    def counted(count: int, least: int) -> int:
        if count * least > size - stream.tell():
            raise ValueError(f"it speaks of {count} entries that it has not")
        return count

    if stream.read(4) != b"GGUF":
        raise ValueError("it does not begin as one")
    version = number("I")
    if version not in VERSIONS:
        raise ValueError(f"it is of version {version}; known are {' and '.join(map(str, VERSIONS))}")
    tensors, values = number("Q"), number("Q")
    said = {}
    for _ in range(counted(values, 13)):
        key = text()
        said[key] = value_of(number("I"), numbers, text, counted)
    parameters = 0
    for _ in range(counted(tensors, 24)):
        text()
        parameters += math.prod([number("Q") for _ in range(counted(number("I"), 8))])
        number("I"), number("Q")
    return Header(said, parameters)


def value_of(
    kind: int,
    numbers: Callable[[str, int], tuple],
    text: Callable[[], str],
    counted: Callable[[int, int], int],
    depth: int = 0,
) -> Any:
    """Return a value of a kind, by what reads numbers, a text, and a count that the file may have."""
    if kind in NUMBERS:
        return numbers(NUMBERS[kind], 1)[0]
    if kind == TEXT:
        return text()
    if kind != LIST or depth == DEEPEST:
        raise ValueError(f"it has a value of kind {kind}")
    [inner], [count] = numbers("I", 1), numbers("Q", 1)
    if inner in NUMBERS:
        form = NUMBERS[inner]
        return list(numbers(form, counted(count, struct.calcsize(f"<{form}"))))
    return [value_of(inner, numbers, text, counted, depth + 1) for _ in range(counted(count, 8))]
