"""A program with the tests that decide about it, where these stand beside a solution: as MBPP has them, and data sets.

Covers which names the tests take from the program, and what they need first. Not covered: finding the program in an
answer (`chat_code`), and running it (`sandbox`).
"""

import ast
import builtins
from collections.abc import Sequence
from typing import NamedTuple

from workflow_scripts.common.programs.chat_code import bound_names, defined, parse
from workflow_scripts.common.programs.sandbox import Program

IMPORTS = (ast.Import, ast.ImportFrom)


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
    """Return the names that tests read and do not define themselves, those of Python's own among them."""
    return used_names(tests) - defined(tests)


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


def with_tests(code: str, tests: Trial) -> Program:
    """Return a program with its tests."""
    return Program(code + tests.imports, tests.names, tests.setup, tests.tests)
