"""How the repository is kept: a helper has one home, no test module leans on another, and the version is one."""

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import yaml

from tests.conftest import RUNS, SLOW
from tests.workflow import ROOT

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
    assert [name for name in (*RUNS, *SLOW) if not (TESTS / f"{name}.py").exists()] == []


def test_the_citation_says_what_the_project_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for key in ("version", "license"):
        assert citation[key] == project[key]
    assert citation["abstract"] == project["description"]
    assert citation["authors"] == project["authors"]
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text()


def test_a_commit_is_checked_by_what_make_check_does_and_nothing_else():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == ["make check"]
