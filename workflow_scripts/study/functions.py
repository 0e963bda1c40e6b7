"""Looking at a user's reward function before anything runs: its file is parsed, never run."""

import ast

from workflow_scripts.common.place import ROOT
from workflow_scripts.common.user_functions import KEYWORDS
from workflow_scripts.study.messages import nearest, shown

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def names_bound(node: ast.stmt) -> list[str]:
    """Return the names that a top-level statement of a file binds."""
    if isinstance(node, FUNCTIONS | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def fault_of_function(function: str) -> str | None:
    """Return what keeps FILE.py:NAME from being a reward function; None where nothing does that its text tells."""
    file, mark, name = function.rpartition(":")
    if not mark or not file.endswith(".py") or not name.isidentifier():
        return f"must be FILE.py:NAME, a Python file and a function in it, not {shown(function)}"
    path = ROOT / file
    if not path.is_file():
        return f"no such file {shown(file)} (relative to the repository, or a whole path)"
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        return f"{file} is no Python: {error}"
    bound = {bound: node for node in tree.body for bound in names_bound(node)}
    if name not in bound:
        return f"{file} has no function {shown(name)}{nearest(name, bound)}"
    return fault_of_parameters(bound[name], name)


def fault_of_parameters(node: ast.stmt, name: str) -> str | None:
    """Return what a function takes that a reward is not called with; of what is no `def` here nothing is known."""
    if isinstance(node, ast.AsyncFunctionDef):
        return f"{name} is async, and a reward is called as a plain function"
    if not isinstance(node, ast.FunctionDef):
        return None
    taken = node.args
    if taken.posonlyargs:
        return (
            f"{name} takes {taken.posonlyargs[0].arg} by position alone, and a reward is called by keywords"
        )
    bare = taken.args[: len(taken.args) - len(taken.defaults)]
    bare += [arg for arg, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True) if default is None]
    unknown = [arg.arg for arg in bare if arg.arg not in KEYWORDS]
    if unknown:
        return f"{name} takes {', '.join(unknown)}, and a reward is called with {', '.join(KEYWORDS)} alone, by keyword"
    return None
