"""How the tests themselves are kept: a helper has one home, and no test module leans on another."""

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.conftest import SLOW

TESTS = Path(__file__).parent
MODULES = sorted(TESTS.glob("*.py"))


def test_no_module_imports_from_a_test_module():
    """Nor does a script within a string. What two modules need is in a helper module, whose name has no `test_`."""
    pattern = re.compile(r"^ *(?:(?:from|import) tests\.test_|from tests import .*\btest_)", re.MULTILINE)
    assert [module.name for module in MODULES if pattern.search(module.read_text())] == []


def body_of(function: ast.FunctionDef) -> str:
    """Return what a function does, without its name and its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return "\n".join(map(ast.unparse, body))


def test_no_helper_is_written_twice():
    homes = defaultdict(list)
    for module in MODULES:
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.FunctionDef) and len(body_of(node).splitlines()) > 1:
                homes[body_of(node)].append(f"{module.name}: {node.name}")
    assert [places for places in homes.values() if len(places) > 1] == []


def test_the_files_that_start_first_are_there():
    assert [name for name in SLOW if not (TESTS / f"{name}.py").exists()] == []
