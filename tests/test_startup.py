"""A stage starts without the garbage collector and works with it; nobody else's is touched."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import run

STAGE = """
import gc
from workflow_scripts.common.errors import run
print(gc.isenabled())
def main():
    print(gc.isenabled(), gc.get_freeze_count() > 0)
if __name__ == "__main__":
    run(main)
"""


def printed(folder: Path, *command: str) -> list[str]:
    """Run Python in a folder, from which our packages can be imported; return its words."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a stage of ours beside the package, and another that lies in it."""
    (tmp_path / "workflow_scripts").mkdir()
    for path in ("workflow_scripts/stage.py", "elsewhere.py"):
        (tmp_path / path).write_text(STAGE)
    inner = ROOT / "workflow_scripts"
    (tmp_path / "workflow_scripts/__init__.py").write_text((inner / "__init__.py").read_text())
    (tmp_path / "workflow_scripts/common").symlink_to(inner / "common")
    return tmp_path


def test_a_stage_imports_without_the_collector_and_works_with_it(folder):
    assert printed(folder, "-m", "workflow_scripts.stage") == ["False", "True", "True"]


def test_so_does_one_that_a_worker_runs(folder):
    assert printed(folder, "-m", "workflow_scripts.common.worker", "workflow_scripts.stage") == [
        "False",
        "True",
        "True",
    ]


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "elsewhere"),
        ("elsewhere.py",),
        ("-c", STAGE),
        ("-c", f"import sys; sys.argv = []{STAGE}"),  # as within another program
        ("-m", "cProfile", "-o", "profile", "-m", "workflow_scripts.stage"),
    ],
)
def test_who_only_imports_us_keeps_the_collector(folder, command):
    assert printed(folder, *command)[0] == "True"


def test_whoever_calls_a_stage_keeps_what_it_has():
    frozen = gc.get_freeze_count()
    run(lambda: None)
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_every_stage_is_run_by_what_turns_it_on():
    """`python -m` of ours turns the collector off; only `run`, which `run_training` calls, turns it on again."""
    stages = [
        path
        for path in (ROOT / "workflow_scripts").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    ]
    assert len(stages) > 70
    others = {
        path.stem for path in stages if path.read_text().rstrip().rpartition("\n")[2].strip()
        not in ("run(main)", "run_training(main)")
    }  # fmt: skip
    assert others == {"worker"}  # whose module does


ASKING = """
from transformers.utils import is_scipy_available, is_sklearn_available
from transformers.generation import candidate_generator
from transformers.loss import loss_for_object_detection
print(candidate_generator.there, loss_for_object_detection.there)
def main():
    pass
if __name__ == "__main__":
    from workflow_scripts.common.errors import run
    run(main)
"""


@pytest.fixture
def asking(folder) -> Path:
    """A stage and another module that import a made-up transformers, whose modules ask as the real ones do."""
    for path in ("workflow_scripts/stage.py", "elsewhere.py"):
        (folder / path).write_text(f"import workflow_scripts\n{ASKING}")
    files = {
        "__init__": "",
        "utils": "is_scipy_available = is_sklearn_available = lambda: True",
        "generation/candidate_generator": "from ..utils import is_sklearn_available as asked\nthere = asked()",
        "loss/loss_for_object_detection": "from ..utils import is_scipy_available as asked\nthere = asked()",
    }
    for name, text in files.items():
        path = folder / f"transformers/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_stage_leaves_out_what_transformers_imports_for_others(asking):
    assert printed(asking, "-m", "workflow_scripts.stage") == ["False", "False"]


def test_who_only_imports_us_has_all_that_transformers_imports(asking):
    assert printed(asking, "-m", "elsewhere") == ["True", "True"]
    assert printed(asking, "elsewhere.py") == ["True", "True"]


def imported(module: str) -> set[str]:
    """Return the packages that `python -m` of a module imports before it says what its flags are."""
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}


def test_transformers_asks_where_we_answer():
    """Its modules may be called otherwise one day: then this says so, and not a slower start."""
    assert not imported("workflow_scripts.generate.answer") & {"sklearn", "pandas", "scipy"}
