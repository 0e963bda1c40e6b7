"""A run that finds all as it was left plans nothing, and any change that may matter has Snakemake look for itself."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.workflow import edit, finish
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.plan import finished as module
from workflow_scripts.plan.finished import Read, made_of_newer, note_finished, rests_on, still_so, told
from workflow_scripts.plan.finished import left as left_of

COMMAND = ["workflow_scripts.common.head", "--console", "snakemake", "--cores", "2"]
SAID = "Nothing to be done (all requested files are present and up to date)."
CONFIG = Path("config.yaml")


@pytest.fixture(scope="module")
def left(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study that a run has found to be so."""
    folder = tmp_path_factory.mktemp("left") / "study"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "data/bundled/link.txt").symlink_to("../../config.yaml")
    assert SAID in run(folder)
    return folder


@pytest.fixture
def here(left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as working folder, with the code that lies in it."""
    folder = tmp_path / "study"
    shutil.copytree(left, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(module, "ROOT", folder)
    known = read_json("work/tutor/finished.json")
    write_json("work/tutor/finished.json", known | {"rests_on": rests_on(CONFIG, COMMAND)})
    return folder


def run(folder: Path, *words: str, **variables: str) -> str:
    """Start a run as `make results` does; return what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    command = [sys.executable, "-m", "plumbline", "results", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def planned(folder: Path) -> int:
    """Return how often Snakemake has planned in a folder."""
    return len(list((folder / ".snakemake/log").glob("*.snakemake.log")))


def test_once_found_finished_a_study_is_not_planned_again_until_something_changes(left):
    before = planned(left)
    assert run(left).count(SAID) == 1
    assert planned(left) == before
    assert SAID in run(left, "--cores", "1")
    assert planned(left) == before + 1, "another command is looked at by Snakemake, and noted"
    assert SAID in run(left, "--", "--nocolor")
    assert planned(left) == before + 2, "with flags of its own it is always asked"
    assert SAID in run(left, "--", "--nocolor")
    assert planned(left) == before + 3


def touch(path: str) -> None:
    file = Path(path)
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))


CHANGES = {
    "an input written again": lambda: touch("data/bundled/biology_problems.jsonl"),
    "a file more where all are read": lambda: Path("data/bundled/lm_eval/more.yaml").write_text(
        "task: more\n"
    ),
    "a folder more there": lambda: Path("data/bundled/lm_eval/more").mkdir(),
    "an output written again": lambda: touch("results/tutor/results.csv"),
    "an output removed": lambda: Path("results/tutor/report.html").unlink(),
    "a folder of a job removed": lambda: shutil.rmtree(next(Path("data/sources").glob("*/files"))),
    "a mark of an unfinished file": lambda: Path(".snakemake/incomplete/x").write_text(""),
    "a lock": lambda: (
        Path(".snakemake/locks").mkdir(exist_ok=True),
        Path(".snakemake/locks/0.input.lock").write_text(""),
    ),
    "the note removed": lambda: Path("work/tutor/finished.json").unlink(),
    "the note of another shape": lambda: Path("work/tutor/finished.json").write_text("[]"),
    "a setting": lambda: edit(CONFIG, "learning_rate: ", "learning_rate: 1"),
    "code of a stage": lambda: edit(
        Path("workflow_scripts/clean/clean.py"), "import argparse", "import argparse, re"
    ),
    "a rule": lambda: edit(Path("rules/sft.smk"), "rule ", "# more\nrule "),
    "a pin": lambda: edit(Path("envs/requirements.txt"), "torch==", "torch==1."),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_plan_rests_on_is_seen(here, change):
    assert still_so("tutor", rests_on(CONFIG, COMMAND))
    CHANGES[change]()
    assert not still_so("tutor", rests_on(CONFIG, COMMAND))


@pytest.mark.parametrize("name", ["SNAKEMAKE_PROFILE", "PLUMBLINE_LATER"])
def test_settings_of_the_environment_are_seen(here, monkeypatch, name):
    monkeypatch.setenv(name, "x")
    assert not still_so("tutor", rests_on(CONFIG, COMMAND))


def test_a_profile_of_ones_own_is_seen(here, tmp_path):
    profile = tmp_path / "mine"
    profile.mkdir()
    (profile / "config.yaml").write_text("rerun-triggers: mtime\n")
    command = [*COMMAND, "--workflow-profile", str(profile)]
    before = rests_on(CONFIG, command)
    (profile / "config.yaml").write_text("rerun-triggers: code\n")
    assert rests_on(CONFIG, command) != before


def test_an_acceptance_that_comes_later_is_seen(here):
    write_json("results/tutor/accepted.json", {"accepted": []})
    assert not still_so("tutor", rests_on(CONFIG, COMMAND))


def test_files_and_folders_that_are_read_for_a_plan_are_seen_as_they_were_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own", "results"):
        Path(name).mkdir()
        Path(name, "function.py").write_text("1")
    read = Read("digest")
    for path in ("own/function.py", b"own/function.py", Path("results/function.py"), "gone.py"):
        read("open", (path, "r", os.O_RDONLY))
    read("open", ("own/written.py", "w", os.O_WRONLY))
    read("os.scandir", ("own",))
    read("os.listdir", (None,))
    read("open", (3, "r", os.O_RDONLY))
    read("import", ("own/other.py",))
    read("open", ("/elsewhere/function.py", "r", os.O_RDONLY))
    monkeypatch.setattr(read, "passing", (f"{tmp_path}-caches/",))
    Path(f"{tmp_path}-caches").mkdir()
    Path(f"{tmp_path}-caches/function.py").write_text("1")
    read("open", (f"{tmp_path}-caches/function.py", "r", os.O_RDONLY))  # made since: its own
    assert read.files == {
        "own/function.py": told(left_of("own/function.py")),
        "gone.py": None,
        "/elsewhere/function.py": None,
    }
    assert read.folders == {"own": os.stat("own").st_mtime_ns}
    read.began = time.time_ns() + 10**9
    read("open", (f"{tmp_path}-caches/function.py", "r", os.O_RDONLY))  # there before: a user's
    assert f"{tmp_path}-caches/function.py" in read.files


def test_a_users_function_that_is_edited_is_seen(tmp_path, finished, monkeypatch):
    """It is no job's input: its digest is a job's parameter."""
    folder = tmp_path / "study"
    shutil.copytree(finished, folder, symlinks=True)
    own = folder / "mine.py"
    own.write_text("def short(reply):\n    return -len(reply)\n")
    study = yaml.safe_load((folder / CONFIG).read_text())
    study["annotations"]["tutor"]["rewards"]["short"] = {"function": f"{own}:short"}
    (folder / CONFIG).write_text(yaml.safe_dump(study, sort_keys=False))
    finish(folder)
    assert SAID in run(folder)
    monkeypatch.chdir(folder)
    known = read_json("work/tutor/finished.json")
    assert known["files"]["mine.py"] == told(left_of("mine.py"))
    assert still_so("tutor", known["rests_on"])
    touch(str(own))
    assert not still_so("tutor", known["rests_on"])


# --- what is noted --------------------------------------------------------------------------------------------------


class Plain(str):
    """A file of a graph, as Snakemake has it."""

    is_ancient = False


class Ancient(Plain):
    is_ancient = True


def workflow_of(inputs: list, outputs: list, due: bool = False, ended: bool = True, touched: bool = False):
    """Return a workflow of one job, as much of it as is looked at."""
    job = SimpleNamespace(input=inputs, output=outputs)
    graph = SimpleNamespace(jobs=[job], needrun_jobs=lambda: [job] if due else [], finished=lambda _: ended)
    return SimpleNamespace(dag=graph, touch=touched)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two files, the second a second younger."""
    monkeypatch.chdir(tmp_path)
    for second, name in enumerate(["old", "new"], 1):
        Path(name).write_text(name)
        os.utime(name, (second, second))
    return Path("work/toy/finished.json")


def noted(place: Path, **more) -> bool:
    place.unlink(missing_ok=True)
    note_finished(
        workflow_of(**{"inputs": [Plain("old")], "outputs": [Plain("new")]} | more),
        "toy",
        Read("digest"),
    )
    return place.is_file()


def test_all_that_was_due_is_made_or_there_is_no_note(place):
    assert noted(place) and noted(place, due=True)
    assert still_so("toy", "digest") and not still_so("toy", "another")
    assert not noted(place, due=True, ended=False)
    assert not noted(place, touched=True)
    note_finished(SimpleNamespace(dag=None, touch=False), "toy", Read("digest"))
    assert not place.is_file()


def test_what_was_altered_while_a_run_went_on_is_not_taken_for_what_was_read(place):
    assert not noted(place, inputs=[Plain("new")], outputs=[Plain("old")])
    assert noted(place, inputs=[Ancient("new")], outputs=[Plain("old")])
    Path("link").symlink_to("new")
    os.utime("link", (0, 0), follow_symlinks=False)
    assert not noted(place, inputs=[Plain("link")], outputs=[Plain("old")])
    assert noted(place, inputs=[Plain("old")], outputs=[Plain("gone")]), "what the run itself took away again"
    Path("gone").write_text("")
    assert not still_so("toy", "digest")


def test_a_folder_counts_by_its_stamp(place):
    Path("folder").mkdir()
    assert noted(place, outputs=[Plain("folder")])
    Path("folder/more").write_text("")
    assert still_so("toy", "digest")
    Path("folder/.snakemake_timestamp").write_text("")
    assert not still_so("toy", "digest")
    assert not made_of_newer(workflow_of([], [Plain("folder")]).dag, {"folder": None})
