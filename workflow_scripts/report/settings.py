"""Settings from the command line, or from standard input where a large study makes them longer than an argument may be."""

import json
import sys
from typing import Any


def read_settings(text: str) -> Any:
    """Return the JSON value of a --settings flag; `-` stands for standard input (Linux takes 128 KiB in one argument)."""
    return json.loads(sys.stdin.read() if text == "-" else text)
