"""The page that grows with a run: what it shows at each moment, and that it answers nobody else."""

import http.client
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scored import scored_plan
from workflow_scripts.common.files import write_json
from workflow_scripts.console import watch
from workflow_scripts.console.run import journal_of
from workflow_scripts.console.watch import serve
from workflow_scripts.plan.plan import Plan

DPO = "train_aligned/tiny.sft.dpo-1"


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """The default study as it runs: all scored but what descends from the DPO that is at work; one job has failed."""
    monkeypatch.chdir(tmp_path)
    plan, now = scored_plan(), time.time()
    for path in Path("results/tutor/policies/tiny.sft.dpo").glob("seed-*/scores/*.json"):
        os.remove(path)
    os.remove(plan.layout.scores("tiny.sft.ipo", 1, "judged"))
    failed = "results/tutor/logs/annotate_answers/tiny.sft.ipo-1-judged.log"
    events = [
        {"event": "started", "pid": os.getpid(), "host": os.uname().nodename, "log": "", "jobs": {"train_aligned": 3}},
        {
            "event": "job", "id": 1, "rule": "train_aligned", "words": "Aligning tiny.sft.dpo",
            "log": f"results/tutor/logs/{DPO}.log",
        },
        {"event": "job", "id": 2, "rule": "annotate_answers", "words": "Rewarding <b>ipo</b>", "log": failed},
        {"event": "failed", "id": 2, "why": "out of memory"},
        {"event": "progress", "done": 40, "total": 204},
    ]  # fmt: skip
    journal = journal_of("results/tutor")
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_text("".join(json.dumps(event | {"time": now}) + "\n" for event in events))
    lines = [
        {"time": now + step, "stage": "training", "done": step, "total": 8, "unit": "steps", "loss": 0.7 - step / 100}
        for step in range(1, 5)
    ]  # fmt: skip
    told = Path(f"results/tutor/logs/{DPO}.progress.jsonl")
    told.parent.mkdir(parents=True, exist_ok=True)
    told.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return plan


@pytest.fixture
def server(plan) -> Iterator[tuple[str, int]]:
    """Where the page is served."""
    with serve(plan, "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address
        running.shutdown()


def ask(server, path="/", method="GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*server, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_shows_jobs_failures_growing_curves_and_the_table_with_what_lacks(server):
    status, page = ask(server)
    assert status == 200
    assert "It runs." in page
    assert "40 of 204 jobs" in page
    assert "Aligning tiny.sft.dpo" in page
    assert "4/8 steps, loss 0.66" in page
    assert "Rewarding &lt;b&gt;ipo&lt;/b&gt;" in page, "nothing of a job's words is markup"
    assert "out of memory" in page
    assert "Losses of tiny.sft.dpo by optimiser step" in page
    assert "tiny.sft.nll" in page
    assert "8 lack" in page
    assert "Rewarding &lt;b&gt;ipo&lt;/b&gt; failed: out of memory" in page, "the row says why it lacks"


def test_what_a_growing_policy_answered_is_shown_and_never_obeyed(plan, server):
    answers = [{"id": "q", "asked": "Why?", "text": "<script>alert(1)</script>", "worth": 0.5}]
    history = [
        {"step": 2, "loss": 0.68},
        {"step": 2, "eval_watch": 0.5, "eval_watch_n": 1, "answers": answers},
    ]
    write_json(
        Path("work/tutor/train/tiny.sft.dpo-1/checkpoint-2/trainer_state.json"), {"log_history": history}
    )
    page = ask(server)[1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "What the answers of tiny.sft.dpo were worth" in page


def test_nobody_is_answered_who_asks_by_another_name_or_for_another_file_or_to_change_something(server):
    assert ask(server, Host="evil.example")[0] == 403
    assert ask(server, "/../config.yaml")[0] == 404
    assert ask(server, "/report")[0] == 404, "there is none yet"
    assert ask(server, method="POST")[0] == 501
    assert ask(server, Host=f"localhost:{server[1]}")[0] == 200


def test_a_look_at_a_file_that_is_being_replaced_fails_alone_and_the_next_one_is_answered(server):
    table = Path("results/tutor/policies/tiny.sft.kto/seed-1/curve.json")
    table.write_text("[{")
    assert ask(server)[0] == 500
    table.write_text("[]")
    assert ask(server)[0] == 200


def test_a_study_that_never_ran_has_a_page_that_says_so(plan, tmp_path):
    shutil.rmtree("results")
    with serve(plan, "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        page = ask(running.server_address)[1]
        running.shutdown()
    assert "No run of make results has left a note here yet." in page
    assert "Nothing is scored yet." in page


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium here to open the page in")
def test_an_open_page_looks_again_by_itself(server, plan, tmp_path, monkeypatch):
    looked = []
    first = watch.look

    def look(*arguments):
        if looked:  # the page has been opened
            with open(journal_of("results/tutor"), "a") as stream:
                stream.write(json.dumps({"event": "ended", "time": time.time(), "well": False}) + "\n")
        looked.append(first(*arguments))
        return looked[-1]

    monkeypatch.setattr(watch, "look", look)
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/chromium",
        "--virtual-time-budget=12000", "--dump-dom", f"http://127.0.0.1:{server[1]}/",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(looked) > 1
    assert "It runs." in looked[0]["state"]
    assert "The run has ended with failures" in shown
