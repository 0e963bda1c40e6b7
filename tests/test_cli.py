"""The command `plumbline`: which modules a line of it runs, and where it finds its own files and the user's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline import cli
from tests.workflow import ROOT, copy_repository
from workflow_scripts.common.code import module_file

NASTY = 'my study\'s [1] $(touch PWNED) & "x".yaml'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(*words: str) -> list[list[str]]:
    verb, asked = cli.read(list(words))
    return cli.VERBS[verb].commands(asked)


def snakemake_flags(command: list[str]) -> list[str]:
    """Return what Snakemake is started with."""
    if command[0] == "workflow_scripts.plan.finished":  # which starts the rest, unless nothing has changed
        assert command[2] == "--"
        command = command[3:]
    assert command[0] == "workflow_scripts.common.head"
    return command[next(at for at, word in enumerate(command) if word.endswith("/snakemake")) + 1 :]


def test_every_verb_of_the_issue_is_in_the_table_and_its_module_is_there():
    wanted = (
        "results plan status look new check chat serve export verify claims judge-plan accept compare watch"
    )
    assert set(cli.VERBS) == {*wanted.split(), "gallery", "disk", "clean"}
    for verb in cli.VERBS:
        if verb != "claims":  # which asks a module for its studies
            for command in commands(verb):
                assert module_file(command[0]), verb


def test_a_run_checks_the_study_then_clears_up_then_starts_snakemake(monkeypatch):
    monkeypatch.chdir(ROOT)
    check, orphans, head = commands("results", "--study", "studies/x.yaml", "--orphans=--wait", "--", "-n")
    assert check == [
        "workflow_scripts.study.check",
        *("--quiet", "--results", "results", "--", "studies/x.yaml"),
    ]
    assert orphans == ["workflow_scripts.plan.orphans", "--wait"]
    assert head[:2] == ["workflow_scripts.common.head", "--console"], (
        "flags of Snakemake's own: it is always asked"
    )
    assert snakemake_flags(head) == ["--configfile", "studies/x.yaml", "--cores", "2", "-n"]


def test_of_the_default_study_snakemake_is_told_nothing_in_a_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert snakemake_flags(commands("results", "--cores", "1")[-1]) == ["--cores", "1"]


def test_a_profile_goes_to_the_check_and_to_snakemake_in_place_of_cores(monkeypatch):
    monkeypatch.chdir(ROOT)
    check, _, head = commands("results", "x.yaml", "--profile", "profiles/slurm-a100")
    assert check[2:4] == ["--profile", "profiles/slurm-a100"]
    assert snakemake_flags(head)[-2:] == ["--workflow-profile", "profiles/slurm-a100"]
    assert "--cores" not in snakemake_flags(head)


@pytest.mark.parametrize(
    "words",
    [("plan", "--study", NASTY), ("--study", NASTY, "plan"), ("plan", NASTY), (NASTY, "plan")],
)
def test_a_study_may_stand_in_any_place_and_is_one_word_whatever_it_is_called(here, words):
    (line,) = commands(*words)
    assert line[line.index("--configfile") + 1] == NASTY


@pytest.mark.parametrize(
    "verb", sorted(name for name, verb in cli.VERBS.items() if verb.of_study and name != "claims")
)
def test_every_verb_about_a_study_takes_it_by_its_path_alone(here, verb):
    (here / "s.yaml").write_text("study: s\n")
    assert commands(verb, "s.yaml") == commands(verb, "--study", "s.yaml")


def test_a_target_of_snakemakes_is_no_further_configuration_file(here):
    assert commands("judge-plan", "x.yaml")[0][-2:] == ["--", "judge_plan"]


def test_words_of_a_module_are_handed_on_as_they_are(here):
    (line,) = commands("export", "x.yaml", "--policy=it's $HOME", "--to", "out.yaml")
    assert line == [
        "workflow_scripts.export.export",
        *("--study", "x.yaml", "--policy=it's $HOME", "--to", "out.yaml"),
    ]
    assert commands("compare", "results/a", "results/b")[0][1:] == ["results/a", "results/b"]
    assert commands("accept", "--why=a\nb.yaml")[0][1] == "--why=a\nb.yaml"


def test_verify_finds_the_folder_by_the_name_in_the_file_and_in_what_it_extends(here):
    (here / "below.yaml").write_text("study: below\n")
    (here / "own.yaml").write_text("study: above  # not below\n")
    (here / "none.yaml").write_text("study: ../../etc\n")
    assert commands("verify", "own.yaml") == [["workflow_scripts.report.verify", "results/above"]]
    assert commands("verify", "results/first-look")[0][1] == "results/first-look"
    with pytest.raises(SystemExit, match=r"must be a name of letters"):
        commands("verify", "none.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no verb among: nothing"),
        (["plan", "a.yaml", "b.yaml"], "one study at a time"),
        (["results", "-n"], "Snakemake's own flags go behind --"),
    ],
)
def test_what_cannot_be_read_is_told(here, capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        cli.read(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_verb_whose_module_is_not_there_says_so(here):
    with pytest.raises(SystemExit, match=r"not there yet: .* has no module workflow_scripts\.chat\.nothing"):
        cli.run([["workflow_scripts.chat.nothing"]], ROOT)


def test_in_an_empty_folder_the_shipped_files_are_used_and_the_folder_is_where_studies_lie(here):
    check, _, head = commands("results", "studies/tutor_simpo.yaml", "--profile", "profiles/slurm-a100")
    assert check[-1] == str(ROOT / "studies/tutor_simpo.yaml")
    flags = snakemake_flags(head)
    assert flags[:2] == ["--snakefile", str(ROOT / "Snakefile")]
    assert flags[-2:] == ["--workflow-profile", str(ROOT / "profiles/slurm-a100")]
    around = cli.surroundings(ROOT)
    assert around["PLUMBLINE_PLACE"] == str(here) and around["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    cli.lay_out(ROOT)
    assert (here / "data/bundled/biology_problems.jsonl").is_file()
    assert commands("clean")[0] == ["workflow_scripts.disk.clear"]  # not of the study that ships


def test_a_study_of_ones_own_is_checked_and_planned_in_a_folder_that_is_no_checkout(tmp_path):
    """By the real modules: paths of the study begin in that folder, and what it extends may be one that ships."""
    folder = tmp_path / "my study's [1] & $(touch PWNED)"
    folder.mkdir()
    (folder / "own $HOME.yaml").write_text(
        "extends: studies/tutor_simpo.yaml\nstudy: own\nsources:\n  rows:\n    files: {rows.jsonl: null}\n"
        "    places: [{file: {files: {rows.jsonl: rows of mine.jsonl}}}]\n"
    )

    def plumbline(*words: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "plumbline", *words]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    missing = plumbline("check", "own $HOME.yaml")
    assert missing.returncode == 1 and "rows of mine.jsonl" in missing.stderr
    (folder / "rows of mine.jsonl").write_text("{}\n")
    assert "own $HOME.yaml: fine" in plumbline("check", "own $HOME.yaml").stdout
    planned = plumbline("plan", "own $HOME.yaml")
    assert planned.returncode == 0, planned.stderr[-2000:]
    assert planned.stdout.startswith("Study own: what would run")
    held = {path.name for path in folder.iterdir()} - {".snakemake"}
    assert held == {"data", "studies", "own $HOME.yaml", "rows of mine.jsonl"}
    assert not list(tmp_path.rglob("PWNED"))


def test_the_folder_of_results_is_read_by_the_package(here):
    frames = pytest.importorskip("workflow_scripts.report.frames", reason="frames are not there yet")
    import plumbline.report

    assert plumbline.report.results is frames.results


def test_make_has_help_that_names_its_targets_and_the_default_stays_results():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = [line.split()[1] for line in done.stdout.splitlines()]
    assert {"results", "plan", "disk", "clean", "help", "status"} <= set(named)
    first = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("results:"))
    assert first  # the first target of the file
    dry = subprocess.run(
        ["make", "-n", "-o", ".venv/ready"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "plumbline results --study 'config.yaml'" in dry.stdout


def test_make_works_in_a_checkout_and_on_a_study_with_blanks_and_quotes_in_their_paths(tmp_path):
    folder = copy_repository(tmp_path / 'a b\'s "$HOME" & $(touch PWNED)')
    text = (folder / "studies/follow_instructions-small.yaml").read_text()
    (folder / "studies" / NASTY).write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def make(*words: str) -> subprocess.CompletedProcess:
        command = ["make", "-o", ".venv/ready", f"BIN={Path(sys.executable).parent}", *words]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    checked = make("check-study", f"STUDY=studies/{NASTY}")
    assert checked.returncode == 0 and f"studies/{NASTY}: fine" in checked.stdout, checked.stderr[-2000:]
    planned = make("plan", f"STUDY=studies/{NASTY}")
    assert planned.returncode == 0 and "what would run" in planned.stdout, planned.stderr[-2000:]
    assert make("disk").returncode == 0
    assert not list(tmp_path.rglob("PWNED"))


def test_clean_is_told_of_a_study_only_where_one_was_named():
    def said(*words: str) -> str:
        command = ["make", "-n", "-o", ".venv/ready", "clean", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "--study" not in said() and "--yes" not in said()
    assert "--study 'x.yaml'" in said("STUDY=x.yaml") and "--yes" in said("YES=1")
    assert "--verdicts='yes'" in said("VERDICTS=yes")


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0), (3, 11, 0), (3, 13, 9)])
def test_the_install_refuses_a_python_that_the_lock_was_not_tried_on(tmp_path, version):
    (tmp_path / "envs").mkdir()
    text = (ROOT / "envs/install.sh").read_text()
    asked = text.partition("<<'P'\n")[2].partition("\nP\n")[0]
    stub = f"import sys\nsys.version_info = {version}\nsys.version = '{'.'.join(map(str, version))} (x)'\n"
    done = subprocess.run([sys.executable, "-c", stub + asked], capture_output=True, text=True, check=False)
    if version[:2] in ((3, 11), (3, 13)):
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr


def test_every_file_of_the_workflow_is_named_for_the_package():
    """What a checkout is run by is what is installed: each tracked file of these folders is matched by a pattern."""
    import tomllib

    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in data["plumbline.home"] for path in ROOT.glob(pattern) if path.is_file()}
    for folder in ("rules", "workflow_scripts", "envs", "profiles", "report", "studies", "data/bundled"):
        held = {path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert held <= packed, (folder, sorted(map(str, held - packed))[:5])
    assert {ROOT / "Snakefile", ROOT / "config.yaml"} <= packed
    assert not any(Path(path).is_relative_to(ROOT / "tests") for path in packed)
