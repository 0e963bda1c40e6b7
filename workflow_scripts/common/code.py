"""Which code made a file: digests of a module and of everything of ours that it imports.

Rules put this into `params`, so editing a loss re-trains exactly the policies whose training imports it, and editing a
comment, a docstring or the formatting re-trains nothing. Only static imports count; the stages have no others.
"""

import ast
import functools
import hashlib
import re
from importlib.util import resolve_name
from pathlib import Path

PACKAGE = "workflow_scripts"
ROOT = Path(__file__).resolve().parents[2]


def module_file(module: str) -> Path | None:
    """Return the source file of one of our modules, or None if the name is no module of ours."""
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove the docstring of the module and of each class and function, in place."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@functools.cache
def read_module(module: str) -> tuple[str, tuple[str, ...]]:
    """Return (digest of the module's code, the modules of ours that it imports)."""
    file = module_file(module)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = (
                resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            )
            imported |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    ours = sorted(name for name in imported if name.startswith(PACKAGE + ".") and module_file(name))
    code = ast.dump(without_docstrings(tree))
    return hashlib.sha256(code.encode()).hexdigest()[:16], tuple(ours)


def code_of(*modules: str) -> dict[str, str]:
    """Return {module: digest} for the modules and their import closure within the project."""
    digests: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in digests:
            digests[module], imported = read_module(module)
            waiting += imported
    return dict(sorted(digests.items()))


@functools.cache
def locked_versions(lock: str = "requirements.txt") -> dict[str, str]:
    """Return {package: version} of a lock file in envs/, by default the one the local install uses."""
    text = (ROOT / "envs" / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))


def pins(*packages: str, lock: str = "requirements.txt") -> dict[str, str]:
    """Return the locked versions of packages: an upgrade is visible to the rules whose results it may alter."""
    return {package: locked_versions(lock)[package] for package in packages}
