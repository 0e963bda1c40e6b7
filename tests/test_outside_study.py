"""A study with an endpoint, ready answers and an adopted checkpoint, run whole; then again after a new pin, accepted.

Nothing is trained in it: the policy that a run would make is taken from a folder.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.judge_server import JudgeServer, say
from tests.outside_study import FLAGS, KEY, NAME, study_of, write_study
from tests.tiny_model import make_tiny_model
from tests.workflow import copy_with_study, snakemake, stale, table_of, verify
from workflow_scripts.common.files import read_json

WHY = "only the version's number has changed"


class Ran(NamedTuple):
    folder: Path
    calls: list[dict]
    again: str  # what Snakemake said of the run after the acceptance


def accept(folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "workflow_scripts.plan.accept", "--why", WHY, "--on", "2026-12-01", "--"]
    subprocess.run(
        [*command, "--cores", "2", *FLAGS], cwd=folder, env=environment, check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("outside")
    folder = copy_with_study(root / "copy")
    (root / "files").mkdir()
    model, checkpoint = make_tiny_model(root / "model"), make_tiny_model(root / "checkpoint-9", seed=7)
    with pytest.MonkeyPatch.context() as patch, JudgeServer(default=say(lambda asked: asked.text)) as server:
        patch.setenv("OUTSIDE_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        study = study_of(model, root / "files", server.url) | {"adopt": {"tiny.sft": str(checkpoint)}}
        del study["benchmarks"]["talk"]
        write_study(folder, study)
        snakemake(folder, *FLAGS)
        assert stale(folder, *FLAGS) == set()
        lock = folder / "envs/requirements.txt"
        lock.write_text(re.sub(r"^torch==.*$", "torch==99.0", lock.read_text(), flags=re.MULTILINE))
        accept(folder)
        again = snakemake(folder, *FLAGS)
    return Ran(folder, server.calls, again.stdout + again.stderr)


def rows_of(ran: Ran, policy: str, benchmark: str) -> dict[str, dict]:
    return {
        row["metric"]: row
        for row in table_of(ran.folder, NAME)
        if (row["policy"], row["benchmark"]) == (policy, benchmark)
    }


def test_an_endpoint_stands_in_the_table_like_a_base_policy_and_was_asked_once(ran):
    row = rows_of(ran, "hosted", "wins")["win_rate"]
    assert (row["parent"], row["method"], row["seeds"], row["n"]) == ("", "judge", "1", "3")
    assert row["baseline"] == "tiny" and row["difference"] != ""
    assert len(ran.calls) == 3
    assert [each["role"] for each in ran.calls[0]["body"]["messages"]] == ["user"]


def test_ready_answers_are_scored_on_what_they_answer_and_the_note_counts_the_rest(ran):
    row = rows_of(ran, "ready", "wins")["win_rate"]
    assert (row["method"], row["n"]) == ("answers", "2")
    assert row["value"] == "0.5"  # its answers are the references
    assert "1 of 3 prompts have no answer and are not scored" in row["note"]
    assert "compared on 2 of 3 items" in row["note"]


def test_what_reads_likelihoods_has_no_value_for_them_and_says_why(ran):
    for policy in ("hosted", "ready"):
        (row,) = rows_of(ran, policy, "read").values()
        assert (row["value"], row["n"]) == ("", "0")
        assert row["note"] == f"{policy} has no likelihoods and no weights here: it comes as answers alone"


def test_an_adopted_policy_is_scored_without_a_training_and_named_so(ran):
    rows = rows_of(ran, "tiny.sft", "read")
    assert rows["nll_per_token"]["value"] != ""
    assert rows["nll_per_token"]["note"].startswith("adopted, not trained here: tiny.sft") or (
        "adopted, not trained here: tiny.sft" in rows["nll_per_token"]["note"]
    )
    cell = ran.folder / "results/outside/policies/tiny.sft/seed-1"
    assert read_json(cell / "manifest.json")["origin"]["name"] == "checkpoint-9"
    assert not (cell / "curve.json").exists() and not (ran.folder / "results/outside/tokens").exists()
    record = read_json(ran.folder / "results/outside/provenance.json")["records"]["tiny.sft|1|read"]
    assert record["adopted"] == ["tiny.sft"]


def test_after_the_acceptance_of_a_new_pin_only_the_tables_were_made_anew(ran):
    made = set(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", ran.again, flags=re.MULTILINE))
    assert made <= {"record_provenance", "build_table", "render_report", "gather_costs", "results"}
    assert {"record_provenance", "build_table", "render_report"} <= made
    assert stale(ran.folder, *FLAGS) == set()


def test_the_reason_stands_in_provenance_report_and_verify(ran):
    records = read_json(ran.folder / "results/outside/provenance.json")["records"]
    assert records["tiny|1|wins"]["accepted"][0]["why"] == WHY
    assert "torch" in records["tiny|1|wins"]["accepted"][0]["changed"]["pins"]
    assert "accepted" not in records["ready|1|wins"]  # no torch behind it
    page = (ran.folder / "results/outside/report.html").read_text()
    assert "Accepted" in page and "only the version&#39;s number has changed" in page
    done = verify(ran.folder, NAME)
    assert done.returncode == 0, done.stderr
    assert f"accepted on 2026-12-01: {WHY} (behind " in done.stdout
    assert "adopted, not trained here: tiny.sft (behind " in done.stdout


def test_a_job_that_has_run_again_has_lost_its_acceptance(ran):
    score = "results/outside/policies/tiny/seed-1/likelihoods/read.jsonl"
    snakemake(ran.folder, "-f", score, *FLAGS)
    accepted = read_json(ran.folder / "results/outside/accepted.json")["accepted"]
    jobs = {job["job"] for each in accepted for job in each["jobs"]}
    assert "measure_likelihoods tiny 1 read" not in jobs and "measure_likelihoods tiny.sft 1 read" in jobs
    assert "likelihoods/read.jsonl" not in "".join(stale(ran.folder, *FLAGS))
