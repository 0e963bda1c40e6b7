"""Reward functions of a user's own Python file, FILE.py:NAME: which files they are made of, and calling them.

A function is called once for each answer, by name with those of `KEYWORDS` that it takes. It is the user's own code: it
runs in the job's process with the job's rights, in the job's environment. What its file imports from beside itself
belongs to it, so that an edit there is an edit of the function. Not covered: what it imports from elsewhere, or reads
as it runs.
"""

import ast
import hashlib
import importlib.util
import inspect
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.place import ROOT

# What a function may take, by keyword: the messages before the answer; the answer; the reference answer, or None; what
# the row says about itself; the row's id.
KEYWORDS = ("prompt", "reply", "reference", "meta", "id")


def parts_of(function: str) -> tuple[Path, str]:
    """Return (file, name) of FILE.py:NAME; a path that is not absolute is relative to the repository."""
    file, _, name = function.rpartition(":")
    return ROOT / file, name


def imported(file: Path) -> Iterator[Path]:
    """Yield the files beside a Python file, or in packages beside it, that it imports by name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    for name in sorted(names):
        steps = name.split(".")
        places = [file.parent.joinpath(*steps[:count]) for count in range(1, len(steps) + 1)]
        for place in places:
            yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


def files_of(file: Path) -> list[Path]:
    """Return a Python file, and those beside it that it and they import, each once."""
    found, waiting = [], [file]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            waiting += imported(path)
    return found


def digests_of(function: str) -> dict[str, str]:
    """Return {file: sha256, its first 16 digits} of what a function is made of, by the names beside its own file."""
    file, _ = parts_of(function)
    return {
        path.relative_to(file.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(files_of(file))
    }


def load_function(function: str) -> Callable[..., Any]:
    """Return a user's function; PlumblineError, with file and line, where its file cannot be run or lacks it."""
    file, name = parts_of(function)
    if not file.is_file():
        raise PlumblineError(f"{file}: no such file; mend {function!r}")
    check_names(file)
    spec = importlib.util.spec_from_file_location(
        f"reward_{hashlib.sha256(str(file).encode()).hexdigest()}", file
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    sys.path.insert(0, str(file.parent))  # it may import what stands beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PlumblineError(f"{place_of(error, file)}: {said(error)}; this file holds {name}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise PlumblineError(f"{file}: has no function {name!r}")
    return found


def check_names(file: Path) -> None:
    """Raise PlumblineError where what a file imports from beside itself is called as a module that is there already.

    Python keeps one module of a name: a function would be given another's.
    """
    for path in files_of(file)[1:]:
        steps = path.relative_to(file.parent).with_suffix("").parts
        name = ".".join(steps[:-1] if steps[-1] == "__init__" else steps)
        there = sys.modules.get(name)
        if there is not None and Path(getattr(there, "__file__", None) or "").resolve() != path.resolve():
            raise PlumblineError(
                f"{path}: {file.name} imports it as {name}, and this process has another module of that name "
                f"({getattr(there, '__file__', None) or 'built in'}); rename one of them"
            )


def place_of(error: BaseException, file: Path) -> str:
    """Return FILE:LINE of the innermost line of a user's files at which an error came up."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    files = {str(path) for path in files_of(file)}
    own = [step for step in traceback.extract_tb(error.__traceback__) if step.filename in files]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else str(file)


def said(error: BaseException) -> str:
    """Return an error's kind and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def caller_of(function: str) -> Callable[[dict], float]:
    """Return what rewards a turn by a user's function, which is loaded here; see `KEYWORDS` for what it is called with.

    A turn has `messages`, `reference` (the answer), `gold` (the reference answer, or None), `meta` and `id`. True and
    False count as 1 and 0. PlumblineError, with the row, where the function raises (with file and line) or returns no
    finite number.
    """
    called = load_function(function)
    file, _ = parts_of(function)
    taken = list(KEYWORDS)
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # one that is not written in Python does not say
        parameters = ()
    if parameters and all(each.kind is not each.VAR_KEYWORD for each in parameters):
        taken = [key for key in KEYWORDS if key in {each.name for each in parameters}]

    def reward(turn: dict) -> float:
        known = {
            "prompt": turn["messages"],
            "reply": turn["reference"],
            "reference": turn.get("gold"),
            "meta": turn.get("meta", {}),
            "id": turn["id"],
        }
        try:
            value = called(**{key: known[key] for key in taken})
        except (Exception, SystemExit) as error:
            raise PlumblineError(f"{place_of(error, file)}: {said(error)} (at row {turn['id']})") from error
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise PlumblineError(
                f"row {turn['id']}: {function} returned {value!r}, and a reward is a finite number"
            )
        return float(value)

    return reward
