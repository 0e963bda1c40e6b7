"""Where a run runs: a user without a name, a home, a disk or a folder to write. It goes on, or says what to set."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.surroundings import FULL, needs
from workflow_scripts.common import surroundings
from workflow_scripts.common.errors import PlumblineError

ROOT = Path(__file__).resolve().parents[1]
# A user of a container that runs with a number for a user: no name, no rights but those of the files' owner.
NAMELESS = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
FILL = 'mount -t tmpfs -o size=16k none "$TMPDIR" && { head -c 99999 /dev/zero > "$TMPDIR/x"; } 2> /dev/null; exec "$@"'


@pytest.fixture
def shut(tmp_path):
    """A folder that takes nothing from anybody but root."""
    folder = tmp_path / "shut"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def head(folder: Path, *flags: str, under: list[str], **variables: str) -> subprocess.CompletedProcess:
    """Start Snakemake as `make` does, in a copy of the repository."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder)} | variables
    command = [
        sys.executable,
        "-m",
        "workflow_scripts.common.head",
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
    ]
    return subprocess.run(
        [*under, *command, *flags], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_user_without_a_name_or_a_home_runs_a_study(repository, shut):
    needs(NAMELESS)
    done = head(repository, "-n", "--quiet", under=NAMELESS, HOME=str(shut / "home"))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("home", ["/dev/null", "relative"])
def test_caches_go_to_work_where_the_home_takes_none(tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    environment = {"HOME": home}
    surroundings.settle(environment, tmp_path)
    for variable in surroundings.CACHES:
        assert Path(environment[variable]).is_relative_to(tmp_path / "work" / "cache")


def test_caches_stay_where_they_are_in_a_home_that_takes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "to be made"))
    environment = {"MPLCONFIGDIR": str(tmp_path)}
    surroundings.settle(environment, tmp_path / "checkout")
    assert environment == {"MPLCONFIGDIR": str(tmp_path)}


def test_a_user_without_a_name_gets_one(tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: {}["getpwuid(): uid not found: 12345"])
    environment: dict[str, str] = {}
    surroundings.settle(environment, tmp_path)
    assert environment["LOGNAME"] == f"user-{os.getuid()}"


def test_a_full_folder_for_temporary_files_is_passed_by_with_a_note(repository, tmp_path):
    needs([*FULL, "true"])
    done = head(repository, "-n", "--quiet", under=[*FULL, FILL, "bash"], TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        f"note: {tmp_path} takes no temporary files (No space left on device): they go to /tmp" in done.stderr
    )


def test_without_any_folder_for_temporary_files_the_error_says_what_to_set(tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(surroundings, "trouble_with", lambda folder: full)
    with pytest.raises(PlumblineError, match=r"/somewhere \(No space left on device\).*set TMPDIR"):
        surroundings.settle_temporary({"TMPDIR": "/somewhere"}, tmp_path)


@pytest.mark.parametrize("name", ["results", "work", "data", "."])
def test_a_folder_that_cannot_be_written_to_is_named_before_the_first_job(repository, name):
    needs(NAMELESS)
    folder = repository / name
    folder.mkdir(exist_ok=True)
    if name == ".":
        shutil.rmtree(repository / ".snakemake", ignore_errors=True)
    folder.chmod(0o555)
    try:
        done = head(repository, "--quiet", "--", "datasets", under=NAMELESS)
    finally:
        folder.chmod(0o755)
    assert done.returncode == 1
    told = done.stderr[done.stderr.index("error: ") :]
    assert str(folder) in told and "Permission denied" in told and "Traceback" not in done.stderr, done.stderr
    assert not list(repository.glob(".snakemake/locks/*"))


def test_a_run_that_writes_nothing_into_a_folder_does_not_ask_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        surroundings,
        "trouble_with",
        lambda folder: PermissionError(13, "Permission denied") if "data" in str(folder) else None,
    )
    for name in ("data", "results", "work"):
        Path(name).mkdir()
    surroundings.check_folders(["results/a/b.csv"])
    with pytest.raises(PlumblineError, match=r"data: Permission denied; 1 of the files"):
        surroundings.check_folders(["results/a/b.csv", "data/clean/x/manifest.json"])


@pytest.mark.parametrize("name", ["a{b}", "a:b", "a\nb"])
def test_a_checkout_whose_path_cannot_be_worked_with_is_refused(name):
    with pytest.raises(PlumblineError, match=r"the checkout lies in"):
        surroundings.check_place(Path("/somewhere") / name)


def test_odd_surroundings_alter_nothing(repository):
    """No home, a plain locale, junk on PYTHONPATH, few descriptors, a strict umask, and nobody who reads the output."""
    odd = {"PATH": os.environ["PATH"], "LANG": "C", "LC_ALL": "C", "PYTHONPATH": "/nowhere:/dev/null::"}
    command = f'umask 077; ulimit -n 64; "{sys.executable}" -m snakemake --cores 1 -- datasets > /dev/full'
    shutil.rmtree(repository / "data/clean", ignore_errors=True)
    done = subprocess.run(
        ["bash", "-c", command], cwd=repository, env=odd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(repository.glob("data/clean/*/*/manifest.json"))
