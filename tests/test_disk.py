"""`make disk` and `make clean`: what takes how much, what goes and what stays, and who is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow import ROOT
from workflow_scripts.common.asking.verdict_store import write_verdict
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest, write_json, write_jsonl
from workflow_scripts.disk import clear, disk, usage


def fill(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * count)
    return path


def paid(folder: Path, study: str, text: str, usd: float) -> Path:
    request = {"text": text}
    entry = {"request": request, "reply": "r", "usage": {}, "usd": usd, "retries": 0}
    write_verdict(folder / "work/judge", digest(request), entry | {"paid_by": f"{study}/judged"})
    return usage.STORE / "verdicts" / digest(request)[:2] / f"{digest(request)}.json"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two studies, replies that each paid for, and downloads."""
    monkeypatch.chdir(tmp_path)
    for study in ("one", "two"):
        Path(f"{study}.yaml").write_text(f"study: {study}\n")
        fill(Path(f"results/{study}/policies/t.sft/seed-1/model/model.safetensors"), 3_000_000)
        fill(Path(f"results/{study}/policies/t.sft/seed-1/generations/quiz.jsonl"), 200_000)
        fill(Path(f"results/{study}/logs/train_sft/t.log"), 100_000)
        fill(Path(f"results/{study}/results.csv"), 5000)
        fill(Path(f"work/{study}/train/t.sft-1/checkpoint"), 400_000)
        fill(Path(f"data/clean/{study}/rows.jsonl"), 50_000)
    write_json(Path("results/one/costs/train_sft/t.json"), {"wall_seconds": 7200.0, "gpu_seconds": 0.0})
    write_json(Path("results/one/costs/judge_answers/t.json"), {"wall_seconds": 1.0, "usd": 1.5})
    write_json(Path("results/one/made_from.json"), {"file": "one.yaml", "called": "one"})
    fill(Path("results/two/policies/more.safetensors"), 9_000_000)
    fill(Path("data/sources/big/file"), 1_000_000)
    fill(Path("work/hub/file"), 1000)
    paid(tmp_path, "one", "a", 0.25)
    paid(tmp_path, "two", "b", 0.5)
    return tmp_path


def left(folder: Path = Path()) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts}


# --- what takes how much ----------------------------------------------------------------------------------------


def test_studies_are_listed_by_size_with_their_parts_and_what_it_costs_to_have_them_again(here):
    lines = disk.disk(Path())
    studies = [line.split()[0] for line in lines[1:3]]
    assert studies == ["two", "one"]
    cells = dict(zip(lines[0].split(), lines[1].split(), strict=False))
    assert cells["weights"] == "0.012" and cells["GB"] == "0.013"
    one = next(line for line in lines if line.startswith("one"))
    assert "`make clean STUDY=one.yaml`; to have it again: 2.0 hours of jobs" in one
    assert "$1.50 if its replies are removed too" in one
    assert "unknown: no cost files" in lines[1]
    judge = next(line for line in lines if line.startswith("work/judge"))
    assert "2 replies of endpoints, paid for with $0.75" in judge
    assert any(line.startswith("data/sources") and "fetched anew" in line for line in lines)
    assert lines[-1].startswith("together: ")


def test_kinds_of_files_are_told_apart(here):
    kinds = usage.of_study(Path("results/one"))
    assert kinds["weights"] >= 3_000_000 > kinds["answers"] >= 200_000 > kinds["logs"] >= 100_000
    assert 5000 <= kinds["other"] < 100_000


def test_a_link_counts_as_itself_and_a_file_of_two_names_once(here, tmp_path):
    folder = tmp_path / "counted"
    big = fill(folder / "a", 1_000_000)
    alone = usage.room(folder)
    os.link(big, folder / "b")
    (folder / "c").symlink_to(tmp_path / "results")
    assert alone <= usage.room(folder) < alone + 10_000
    assert usage.room(tmp_path / "nothing") == 0


def test_an_empty_folder_has_nothing_to_tell(tmp_path):
    assert disk.disk(tmp_path) == ["no study has run here yet", "", "together: 0.000 GB"]


# --- clearing ------------------------------------------------------------------------------------------------------


def test_one_study_is_cleared_and_nothing_else(here):
    before = left()
    said = clear.clean("one", yes=True, verdicts="", ask=None)
    gone = before - left()
    assert gone and all(path.startswith(("results/one/", "work/one/", "data/clean/one/")) for path in gone)
    assert not any(Path(folder, "one").exists() for folder in ("results", "work", "data/clean"))
    assert said[0] == "removed 0.004 GB of study one"
    assert "kept: 1 file of replies that were paid for with $0.25" in said[1] and "VERDICTS=yes" in said[1]


def test_somebody_is_asked_first_with_what_would_go_and_no_is_no(here):
    asked = []
    before = left()
    assert clear.clean("one", False, "", lambda text: asked.append(text) or "") == ["nothing was removed"]
    assert left() == before
    assert "results/one" in asked[0] and "work/one" in asked[0] and "results/two" not in asked[0]


@pytest.mark.parametrize(("answer", "goes"), [("y", False), ("", False), ("YES!", False), ("yes", True)])
def test_paid_replies_go_only_by_a_typed_yes(here, answer, goes):
    answers = iter(["y", answer])
    clear.clean("one", False, "", lambda text: next(answers))
    kept = [reply.study for reply in usage.paid_replies()]
    assert kept == (["two"] if goes else ["one", "two"]) or set(kept) == ({"two"} if goes else {"one", "two"})
    assert not Path("results/one").exists() and Path("results/two").exists()


def test_without_anybody_to_ask_nothing_goes_and_the_flags_are_named(here):
    before = left()
    with pytest.raises(PlumblineError, match="YES=1"):
        clear.clean(None, False, "", None)
    with pytest.raises(PlumblineError, match="VERDICTS=1: only yes removes"):
        clear.clean(None, True, "1", None)
    assert left() == before


def test_all_studies_are_cleared_downloads_and_what_was_paid_for_stay(here):
    clear.clean(None, True, "", None)
    assert {Path(path).parts[0] for path in left()} == {"one.yaml", "two.yaml", "data", "work"}
    assert Path("data/sources/big/file").exists() and len(usage.paid_replies()) == 2
    assert not list(Path("results").iterdir()) and [path.name for path in Path("work").iterdir()] == ["judge"]
    clear.clean(None, True, "yes", None)
    assert usage.paid_replies() == []


def test_a_recording_that_lies_among_the_results_was_paid_for_too(here):
    entry = {"request": {}, "reply": "", "usage": {}, "usd": 0.1, "retries": 0, "paid_by": ""}
    write_jsonl(Path("results/one/mine/recorded.jsonl"), [entry])
    said = clear.clean("one", True, "", None)
    assert left(Path("results/one")) == {"results/one/mine/recorded.jsonl"}
    assert "2 files of replies that were paid for" in said[1]


def test_links_go_and_not_what_they_lead_to(here, tmp_path):
    elsewhere = fill(tmp_path / "elsewhere/kept", 10).parent
    Path("results/one/link").symlink_to(elsewhere)
    clear.clean("one", True, "", None)
    assert (elsewhere / "kept").exists()
    Path("results/one").symlink_to(elsewhere)
    clear.clean("one", True, "", None)
    assert (elsewhere / "kept").exists() and not Path("results/one").is_symlink()


def test_a_study_is_found_by_its_name_where_its_file_is_gone_and_by_no_path(here):
    Path("one.yaml").unlink()
    assert clear.study_named("one") == "one" and clear.study_named("two.yaml") == "two"
    for odd in ("..", ".", "../results", "nothing"):
        with pytest.raises(PlumblineError):
            clear.study_named(odd)


def test_nothing_goes_while_a_run_holds_the_folder(here):
    fill(Path(".snakemake/locks/0.output.lock"), 1)
    with pytest.raises(PlumblineError, match="a run is at work here"):
        clear.clean("one", True, "yes", None)


def test_by_the_command_nobody_is_there_to_ask_where_no_terminal_is(here):
    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "plumbline", "clean", *words]
        return subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    refused = run("--study", "one.yaml")
    assert refused.returncode == 1 and "nobody is there to be asked" in refused.stderr
    assert Path("results/one").exists()
    done = run("--study", "one.yaml", "--yes", "--verdicts=")
    assert done.returncode == 0 and not Path("results/one").exists() and len(usage.paid_replies()) == 2
