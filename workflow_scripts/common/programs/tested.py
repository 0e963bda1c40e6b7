"""A program with the tests that decide about it, where these stand beside a solution: as MBPP has them, and data sets.

Covers which names the tests take from the program, and what they need first. Not covered: finding the program in an
answer (`chat_code`), and running it (`sandbox`).
"""

import ast
import builtins
import functools
import symtable
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workflow_scripts.common.programs.chat_code import bound_names, defined, parse, read_program

IMPORTS = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Program:
    """What a policy wrote, and the tests that decide about it.

    `code` runs alone in its process. In the tests' process runs `setup`, then `tests`; `names` are the functions,
    classes and values of the program that the tests use, in the place of any that `setup` made.
    """

    code: str
    names: tuple[str, ...] = ()
    setup: str = ""
    tests: str = ""


class Trial(NamedTuple):
    """Tests of a program: the `names` that they take from it, what runs before them, they, and what they import."""

    names: tuple[str, ...]
    setup: str
    tests: str
    imports: str


def used_names(code: str) -> set[str]:
    """Return the names that code reads, anywhere in it."""
    tree = parse(code)
    nodes = ast.walk(tree) if isinstance(tree, ast.Module) else []
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def wanted_names(tests: str) -> set[str]:
    """Return the names that tests read and neither define nor import, those of Python's own among them.

    A name of a function's or a comprehension's own is none of them; nor is there any where the tests are no Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = symtable.symtable(tests, "tests", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return set()
    own = {
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()
    }
    read, scopes = set(), [table]
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        read |= {
            symbol.get_name()
            for symbol in scope.get_symbols()
            if symbol.is_referenced() and (scope is table or symbol.is_global())
        }
    return read - own


def read_tests(tests: Sequence[str], first: Sequence[str], solution: str) -> Trial:
    """Return tests with the names that they take from a program; `first` is code that stands before them.

    They take what the problem's own solution defines, and no other name: a `sum` of the program is no `sum` of theirs.
    What that solution imports for them is imported. Without a solution it is each name that nothing else defines.
    """
    code = "\n".join([*first, *tests])
    # What the tests import may be used by the program, too, as it was where they shared an interpreter.
    before = [
        node for part in first for node in getattr(parse(part), "body", []) if isinstance(node, IMPORTS)
    ]
    imports = "".join(f"\n{ast.unparse(node)}" for node in before)
    used = used_names(code)
    tree = parse(solution.replace("\r\n", "\n"))
    if not isinstance(tree, ast.Module) or not tree.body:
        return Trial(tuple(sorted(wanted_names(code) - set(dir(builtins)))), "", code, imports)
    own = set().union(*map(bound_names, tree.body))
    wanted = [
        node
        for node in tree.body
        if isinstance(node, IMPORTS)
        and {(name.asname or name.name).split(".")[0] for name in node.names} & {*used, "*"}
    ]
    return Trial(tuple(sorted(used & own)), "\n".join(map(ast.unparse, wanted)), code, imports)


def trial_of(meta: dict, gold: str) -> Trial | None:
    """Return the tests that a row of data brings in its meta, `tests` and `test_setup`; None if it brings none.

    They take from a program what that in the row's own answer, `gold`, defines, if there is one. Of a trial without
    names every program would pass.
    """
    tests, setup = meta.get("tests"), meta.get("test_setup", "")
    if not isinstance(tests, list) or not all(isinstance(text, str) for text in [*tests, setup]) or not tests:
        return None
    return read_row(tuple(tests), setup, gold)


@functools.lru_cache(maxsize=1024)
def read_row(tests: tuple[str, ...], setup: str, gold: str) -> Trial:
    """Return the tests of a row of data, whose answer may be prose around a program, or none at all."""
    first = [setup] if setup else []
    wanted = wanted_names("\n".join([*first, *tests]))
    solution = read_program(gold, sorted(wanted))
    trial = read_tests(tests, first, solution if defined(solution) & wanted else "")
    # One of Python's own by that name would stand in for what a program does not define.
    own = [name for name in trial.names if hasattr(builtins, name)]
    asked = "".join(
        f"\nif {name!r} not in globals(): raise NameError({f'name {name!r} is not defined'!r})"
        for name in own
    )
    return trial._replace(tests=trial.tests + asked)


def with_tests(code: str, tests: Trial) -> Program:
    """Return a program with its tests."""
    return Program(code + tests.imports, tests.names, tests.setup, tests.tests)
