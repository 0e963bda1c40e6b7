"""What `pip install .` installs: the wheel, built here without network, works in a folder without anything of ours."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.workflow import ROOT, copy_repository
from workflow_scripts.plan.environments import read_pins

pytestmark = pytest.mark.skipif(
    not (find_spec("pip") and find_spec("setuptools")), reason="pip or setuptools is not installed"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the repository: a build leaves files behind."""
    folder = copy_repository(tmp_path_factory.mktemp("source") / "copy")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    out = folder.parent / "wheel"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run(
        [*build, "--no-index", "-w", str(out)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.glob("plumbline-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the package as site-packages would; nobody may write to it."""
    folder = tmp_path_factory.mktemp("site") / "packages"
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def plumbline(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", "plumbline", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_says_which_pythons_and_which_packages_it_wants_and_brings_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    said = {
        Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name
    }
    about = message_from_string(said["METADATA"])
    assert set(about["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    pinned = {f"{name}=={pin.version}" for name, pin in read_pins(ROOT / "envs/requirements.txt").items()}
    wanted = {text for text in about.get_all("Requires-Dist") if "extra ==" not in text}
    assert {text.lower().replace("_", "-") for text in wanted} == pinned
    assert "plumbline = plumbline.cli:main" in said["entry_points.txt"]


def test_nothing_but_the_package_is_put_among_others_packages(installed):
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"plumbline"}
    home = installed / "plumbline" / "home"
    assert (home / "Snakefile").is_file() and (home / "rules" / "common.smk").is_file()
    assert not (home / "tests").exists() and not list(home.glob("data/*/results"))


def test_a_study_of_ones_own_is_checked_and_planned_in_an_empty_folder(installed, tmp_path):
    (tmp_path / "datasets.py").write_text("raise SystemExit('a file of the user is no module of ours')\n")
    (tmp_path / "mine.yaml").write_text("extends: studies/follow_instructions-small.yaml\nstudy: mine\n")
    checked = plumbline(installed, tmp_path, "check", "mine.yaml")
    assert checked.returncode == 0 and checked.stdout.startswith("mine.yaml: "), checked.stderr[-2000:]
    planned = plumbline(installed, tmp_path, "plan", "mine.yaml")
    assert planned.returncode == 0, planned.stderr[-2000:]
    assert planned.stdout.startswith("Study mine: what would run")
    shipped = plumbline(installed, tmp_path, "plan", "--study", "studies/follow_instructions-small.yaml")
    assert shipped.returncode == 0 and "what would run" in shipped.stdout, shipped.stderr[-2000:]


def test_a_run_in_an_empty_folder_leaves_everything_there_and_nothing_in_the_package(installed, tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: studies/follow_instructions-small.yaml\nstudy: mine\n")
    before = {path for path in installed.rglob("*") if "__pycache__" not in path.parts}
    done = plumbline(installed, tmp_path, "results", "mine.yaml", "--cores", "1", "--", "datasets")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list(tmp_path.glob("data/clean/mine/*/manifest.json"))
    assert (tmp_path / "results/mine/made_from.json").is_file()
    assert {path for path in installed.rglob("*") if "__pycache__" not in path.parts} == before
    cleared = plumbline(installed, tmp_path, "clean", "mine.yaml", "--yes")
    assert cleared.returncode == 0 and not (tmp_path / "results/mine").exists(), cleared.stderr
    assert (tmp_path / "mine.yaml").exists() and list(tmp_path.glob("data/sources/*"))


def test_a_notebook_reads_results_without_the_command(installed, tmp_path):
    code = "import plumbline.report as report; print(report.results.__module__)"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "workflow_scripts.report.frames", done.stderr[-2000:]
