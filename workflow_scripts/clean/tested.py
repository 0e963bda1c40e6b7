"""The tests that a row brings for the program that answers it: read from its columns, and checked to be some."""

import ast
import warnings

from workflow_scripts.clean.fields import Fields, Unfit, holds, shown
from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.turns import Message
from workflow_scripts.common.programs.chat_code import parse
from workflow_scripts.common.programs.tested import trial_of
from workflow_scripts.common.tutor_reply import parse_literal

COLUMN = "tests"
SETUPS = (
    "test_setup",
    "test_setup_code",
    "test_imports",
)  # what runs before them; the last two are MBPP's names
COLUMNS = (COLUMN, *SETUPS)
NOTHING = "tests test nothing"
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ACTS = (ast.Assert, ast.Call, ast.Raise)


def read_tests(row: Fields) -> dict[str, list[str] | str]:
    """Return what a row's tests are, as its meta: {"tests": [code, …], "test_setup"?: code}; {} if it brings none.

    Each column is code as a text, or a list of such texts, also one that a table's cell spells. Unfit, with the reason,
    where they are neither, no Python, or could refuse no program.
    """
    tests = texts_of(row, COLUMN)
    if not tests:
        return {}
    setup = "\n".join(text for key in SETUPS for text in texts_of(row, key))
    tree = parse("\n".join([*([setup] if setup else []), *tests]))
    if isinstance(tree, SyntaxError):
        where = f"line {tree.lineno} of them: " if tree.lineno else ""
        raise Unfit("tests are no Python", f"{where}{tree.msg}")
    if tree is None or not compiles(tree):
        raise Unfit("tests are no Python", "they cannot be compiled")
    acting = [node for node in tree.body if not isinstance(node, DEFINITIONS)]
    if not any(isinstance(inner, ACTS) for node in acting for inner in ast.walk(node)):
        raise Unfit(NOTHING, "no assertion, and nothing is called")
    return {"tests": tests} | ({"test_setup": setup} if setup else {})


def compiles(tree: ast.Module) -> bool:
    """Tell whether code that parses could also be run: a `return` outside of a function, for one, could not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(tree, "tests", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def texts_of(row: Fields, key: str) -> list[str]:
    """Return the texts of a column that may be missing: one, or a list of them; empty ones are none."""
    value = row.get(key)
    if isinstance(value, str):
        spelt = parse_literal(value) if value.strip().startswith("[") else None
        value = spelt if is_texts(spelt) else [value]
    if not is_texts(value or []):
        raise Unfit("tests are neither a text nor a list of texts", f"'{key}': {shown(value)}")
    return [text.replace("\r\n", "\n") for text in value or [] if holds(text)]


def is_texts(value: object) -> bool:
    """Tell whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def fault_of_answer(meta: dict, gold: str) -> Fault | None:
    """Return why a row's tests would pass whatever answers it, or None; `gold` is its own answer, or empty."""
    trial = trial_of(meta, gold)
    told = "they use no name that an answer could define"
    return Fault(NOTHING, told) if trial and not trial.names else None


def fault_of_tests(meta: dict, messages: list[Message], fault: Fault | None) -> Fault | None:
    """Return why a conversation cannot have its tests, or None: they are of its one answer, which nothing may cut off.

    `fault` is what cut it short.
    """
    if trial_of(meta, "") is None:
        return None
    answers = [
        message["content"]
        for message in messages
        if message["role"] == "assistant" and message.get("learn", True)
    ]
    if len(answers) > 1:
        return Fault(
            "tests beside several answers", "of which one they are is not said; weight: 0 leaves one out"
        )
    return fault or fault_of_answer(meta, "".join(answers))
