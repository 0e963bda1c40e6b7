"""A study that an endpoint judges: killed, stopped by its budget and run again, it pays each verdict once.

The judge is a local server that answers in each benchmark's grammar. Every few requests it fails at first, and where
a question holds one of the words below it refuses or mumbles. Two random models and the calibration rows go before
it; nothing is trained.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.judge_server import (
    Handler,
    JudgeServer,
    completion,
    fail,
    half_json,
    reset,
    send,
    stop_halfway,
    tell_key,
)
from tests.workflow import copy_with_study, snakemake, stale, table_of, verify
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl

RESULTS = Path("results/judged")
KEY = "sk-a-key-that-nobody-may-read-3141592653"
PROMPT_PRICE, COMPLETION_PRICE = 100.0, 1000.0  # dollars per million tokens
USD = (
    12 * PROMPT_PRICE + 5 * COMPLETION_PRICE
) / 1e6  # of any reply of the server: 12 tokens read, 5 written
POLICIES = ("one", "two", "gold", "empty")
BENCHMARKS = ("rated", "compared", "alpaca", "annotated", "scored", "preferred")

# What comes at first in place of a reply, in turn, to every so many requests.
PASSING = [
    fail(429, "slow down", "rate_limit_exceeded", Retry_After="0.1"),
    fail(500, "internal error"),
    half_json,
    stop_halfway,
    reset,
    tell_key(500),
]
EVERY = 11
# A word in a question: what always comes in place of a verdict.
LASTING = {
    "(banned)": fail(400, "flagged by our content policy", "content_policy_violation"),
    "(refused)": send(200, completion(None, message={"refusal": "I will not."})),
    "(mumbled)": send(200, completion("Both have their merits.")),
}
QUESTIONS = [
    f"Name a part of a {plant}" for plant in ("rose", "fern", "beech", *(f"palm {word}" for word in LASTING))
]


def words_to(messages: list[dict]) -> str:
    """Return a verdict in the grammar that a prompt asks for: another to each prompt, and the same each time."""
    number = int(hashlib.sha256(json.dumps(messages).encode()).hexdigest(), 16)
    shown = "\n".join(message["content"] for message in messages)
    if "'rank': <model-rank>" in shown:
        first = 1 + number % 2
        return f"[{{'model': 'model_1', 'rank': {first}}}, {{'model': 'model_2', 'rank': {3 - first}}}]"
    if "[[A]] if" in shown:
        return f"On the whole: [[{'ABC'[number % 3]}]]"
    if "[[5]]" in shown:
        return f"Rating: [[{1 + number % 10}]]"
    return str(number % 101)


class Judge:
    """What the server does with a request, and a record of how often each was tried, failed and replied to.

    After `hold_after` replies it says nothing more until the server's gate opens.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin anew, as if nobody had asked."""
        self.tries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()
        self.held: set[str] = set()
        self.hold_after = 10**6

    def __call__(self, handler: Handler) -> None:
        body = handler.body
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        shown = json.dumps(body["messages"])
        verdict = next((act for word, act in LASTING.items() if word in shown), None)
        act = verdict or send(200, completion(words_to(body["messages"])))
        with self._lock:
            self.tries[key] += 1
            turn, left = divmod(len(self.tries), EVERY)
            if self.tries[key] == 1 and left == 0:
                self.failures[key] += 1
                act = PASSING[turn % len(PASSING)]
            elif self.replies.total() >= self.hold_after:
                self.held.add(key)
                act = hold
            else:
                self.replies[key] += 1
        act(handler)


def hold(handler: Handler) -> None:
    """Say nothing until the gate opens, and no verdict then."""
    handler.owner.gate.wait()
    reset(handler)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def server(judge) -> Iterator[JudgeServer]:
    with pytest.MonkeyPatch.context() as patch, JudgeServer(default=judge) as server:
        patch.setenv("TEST_JUDGE_KEY", KEY)
        yield server


def write_questions(folder: Path) -> None:
    """Write the questions of two turns and of one, and a bank of problems that are about them too."""
    folder.mkdir()
    turns = [
        {
            "question_id": number,
            "category": "stem",
            "turns": [text, "And another?"],
            "reference": ["A root.", "A stem."],
        }
        for number, text in enumerate(QUESTIONS[2:4], 1)
    ]
    write_jsonl(folder / "turns.jsonl", turns)
    rows = [{"instruction": text, "output": "A leaf, for one.", "dataset": "toy"} for text in QUESTIONS]
    write_jsonl(folder / "instructions.jsonl", rows)
    step = {
        "question": "Which part?",
        "answer": "The root.",
        "hint": "Name a part.",
        "incorrect": "The moon.",
        "feedback": "That is no part.",
        "partial": "One below.",
        "partial_missing": "its name",
    }
    problems = [
        {
            "id": f"p{number}",
            "topic": "plants",
            "question": text,
            "facts": ["It grows."],
            "subproblems": [step],
        }
        for number, text in enumerate(QUESTIONS)
    ]
    write_jsonl(folder / "problems.jsonl", problems)


def study_of(models: list[Path], url: str) -> dict:
    """Return a study of two models on six benchmarks, all before one judge."""
    brief = {"min_new_tokens": 4, "max_new_tokens": 6}
    compared = {"kind": "alpaca_eval", "prompts": "questions/instructions.jsonl", "judge": "server", **brief}
    asked = {"kind": "mt_bench", "questions": "questions/turns.jsonl", "judge": "server", **brief}
    turns = {"dataset": "chat", "split": "test", "judge": "server", "limit": 5, **brief}
    sources = {
        name: {
            "files": {path.name: None for path in sorted(model.iterdir())},
            "places": [{"file": {"files": {path.name: str(path) for path in sorted(model.iterdir())}}}],
        }
        for name, model in zip(("first", "second"), models, strict=True)
    }
    sources["rows"] = {
        "simulate": {"rows": "messages", "problems": "questions/problems.jsonl", "seed": 11, "count": 12}
    }
    return {
        "study": "judged",
        "sources": sources,
        "models": {
            "one": {"source": "first", "template": "tutor", "context": 512},
            "two": {"source": "second", "template": "tutor", "context": 512},
        },
        "datasets": {
            "chat": {
                "source": "rows",
                "files": ["train.jsonl"],
                "schema": "messages",
                "min_messages": 2,
                "split": {"by_file": {"test": ["train.jsonl"]}},
            }
        },
        "judges": {
            "server": {
                "kind": "openai",
                "model": "judge-1",
                "base_url": url,
                "api_key_env": "TEST_JUDGE_KEY",
                "max_tokens": 100,
                "concurrency": 8,
                "usd_per_million_prompt_tokens": PROMPT_PRICE,
                "usd_per_million_completion_tokens": COMPLETION_PRICE,
            }
        },
        "benchmarks": {
            "rated": asked,
            "compared": asked | {"mode": "pairwise", "opponent": "one"},
            "alpaca": compared,
            "annotated": compared
            | {"annotator": "alpaca_eval_gpt4", "length_controlled": True, "lc_draws": 5},
            "scored": turns | {"kind": "judge_score"},
            "preferred": turns | {"kind": "preference"},
        },
        "engine": {"precision": "float32"},
        "generation_resources": {"cpus": 1, "mem_mb": 2000},
        "report": {"baseline": "one", "draws": 100, "samples": 1},
    }


def change(folder: Path, part: str, name: str, **values: object) -> None:
    """Change settings of a judge or a benchmark in a folder's study."""
    path = folder / "config.yaml"
    study = yaml.safe_load(path.read_text())
    study[part][name] |= values
    path.write_text(yaml.safe_dump(study, sort_keys=False))


class Finished(NamedTuple):
    """The folder of a study that ran undisturbed, and how often each request was tried, failed and replied to."""

    folder: Path
    tries: Counter
    failures: Counter
    replies: Counter


class Planned(NamedTuple):
    """The folder of a study that has all answers and no verdict, and what `judge_plan` printed about it."""

    folder: Path
    plan: list[dict]
    tries: int


def plan_of(folder: Path) -> list[dict]:
    """Return the table that `snakemake judge_plan` prints."""
    lines = snakemake(folder, "judge_plan").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:2] == ["judge", "benchmark"])
    rows = []
    for line in lines[start + 1 :]:
        fields = line.split()
        if fields[:1] != ["server"]:
            break
        numbers = [float(value) for value in fields[-6:]]
        names = ("requests", "stored", "missing", "prompt_tokens", "completion_tokens", "usd")
        rows.append({"benchmark": fields[1]} | dict(zip(names, numbers, strict=True)))
    return rows


def of_plan(rows: list[dict], name: str) -> float:
    """Return the sum of a column over the cells of a plan."""
    return sum(row[name] for row in rows if row["benchmark"] != "total")


@pytest.fixture(scope="module")
def planned(tmp_path_factory, server, judge) -> Planned:
    from tests.tiny_model import make_tiny_model

    models = [
        make_tiny_model(tmp_path_factory.mktemp("model") / name, seed) for seed, name in enumerate("ab")
    ]
    folder = copy_with_study(tmp_path_factory.mktemp("planned"))
    write_questions(folder / "questions")
    (folder / "config.yaml").write_text(yaml.safe_dump(study_of(models, server.url), sort_keys=False))
    judge.forget()
    return Planned(folder, plan_of(folder), judge.tries.total())


@pytest.fixture(scope="module")
def finished(planned, judge, tmp_path_factory) -> Finished:
    folder = copy_of(planned.folder, tmp_path_factory.mktemp("finished"))
    judge.forget()
    snakemake(folder)
    return Finished(folder, judge.tries.copy(), judge.failures.copy(), judge.replies.copy())


@pytest.fixture
def study(finished, judge, tmp_path) -> Path:
    """A copy of the finished study that a test may change, before a judge that nobody asked yet."""
    judge.forget()
    return copy_of(finished.folder, tmp_path)


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target / "study", symlinks=True)
    return target / "study"


def marked(folder: Path, benchmark: str, words: object) -> tuple[int, int]:
    """Return how many of a benchmark's turns there are, and how many have one of the words in their dialogue."""
    rows = read_jsonl(folder / RESULTS / f"prompts/{benchmark}.jsonl")
    counts = [
        (1 + len(row["followups"]), any(word in json.dumps(row["messages"]) for word in words))
        for row in rows
    ]
    return sum(turns for turns, _ in counts), sum(turns for turns, found in counts if found)


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "work/judge/verdicts").rglob("*.json"))


def verdict_files(folder: Path) -> set[Path]:
    return set((folder / RESULTS / "policies").glob("*/*/verdicts/*.jsonl"))


def test_the_plan_tells_every_call_before_one_is_made(planned, finished):
    assert planned.tries == 0
    assert of_plan(planned.plan, "missing") == len(finished.replies) > 80
    assert of_plan(planned.plan, "stored") + of_plan(planned.plan, "missing") == of_plan(
        planned.plan, "requests"
    )
    (total,) = (row for row in planned.plan if row["benchmark"] == "total")
    assert total["usd"] > USD * len(finished.replies)
    assert total["completion_tokens"] >= 100 * total["missing"]


def test_every_policy_has_its_judged_rows_with_the_failed_share(finished):
    rows = {
        (row["policy"], row["benchmark"], row["subset"], row["metric"]): row
        for row in table_of(finished.folder, "judged")
    }
    assert {(policy, name) for policy, name, *_ in rows} == {(p, b) for p in POLICIES for b in BENCHMARKS}
    metrics = {
        "rated": "rating",
        "compared": "win_rate_adjusted",
        "alpaca": "win_rate",
        "annotated": "win_rate",
        "scored": "score",
        "preferred": "win_rate",
    }
    for name, metric in metrics.items():
        turns, lost = marked(finished.folder, name, LASTING)
        assert 0 < lost < turns
        assert int(rows["two", name, "overall", metric]["n"]) == turns - lost
        failed = rows["two", name, "overall", "failed"]
        assert int(failed["n"]) == turns
        assert float(failed["value"]) == pytest.approx(lost / turns, rel=1e-5)
    # Against the same words nobody wins or loses, and an empty answer has 0: no judge is asked.
    assert float(rows["one", "compared", "overall", "failed"]["value"]) == 0
    assert float(rows["gold", "preferred", "overall", "win_rate"]["value"]) == 0.5
    assert float(rows["empty", "scored", "overall", "score"]["value"]) == 0
    assert int(rows["two", "annotated", "overall", "lc_win_rate_minimal"]["n"]) == len(QUESTIONS)


def test_each_failed_verdict_tells_why(finished):
    rows = read_jsonl(finished.folder / RESULTS / "policies/two/seed-1/verdicts/alpaca.jsonl")
    reasons = [row["failed"] for row in rows if "failed" in row]
    assert len(reasons) == len(LASTING)
    for reason, wanted in zip(reasons, ("content policy", "I will not.", r"\[\[A\]\]|choice"), strict=True):
        assert re.search(wanted, reason), reason


def test_every_distinct_request_is_paid_once(finished):
    assert set(finished.replies.values()) == {1}
    assert len(stored(finished.folder)) == len(finished.replies)
    assert finished.tries == finished.failures + finished.replies
    assert finished.failures.total() >= len(PASSING)


def test_the_costs_hold_every_call_and_every_dollar(finished):
    rows = table_of(finished.folder, "judged", "costs.csv")
    (total,) = (row for row in rows if (row["stage"], row["name"]) == ("judge_answers", "total"))
    entries = [read_json(path) for path in stored(finished.folder)]
    free = sum("content policy" in (entry["reply"]["refusal"] or "") for entry in entries)
    assert free > 0
    assert int(total["judge_calls"]) == len(entries)
    assert int(total["judge_retries"]) == finished.failures.total()
    assert float(total["usd"]) == pytest.approx(USD * (len(entries) - free))
    assert {
        (row["policy"], row["name"]) for row in rows if row["stage"] == "judge_answers" and row["policy"]
    } == {(policy, name) for policy in POLICIES for name in BENCHMARKS}


def test_a_judged_study_has_nothing_to_do_and_nothing_left_to_ask(study, judge):
    assert "Nothing to be done" in snakemake(study).stderr
    plan = plan_of(study)
    assert of_plan(plan, "missing") == of_plan(plan, "usd") == 0
    assert of_plan(plan, "stored") == of_plan(plan, "requests") > 0
    assert judge.tries.total() == 0


def test_judging_again_asks_nobody_and_gives_the_same_bytes(study, finished, judge):
    scores = (study / RESULTS / "policies").glob("*/*/scores/*.json")
    for path in [*verdict_files(study), *scores, study / RESULTS / "results.csv"]:
        path.unlink()
    snakemake(study)
    assert judge.tries.total() == 0
    assert_same_results(study, finished.folder)


def assert_same_results(folder: Path, other: Path) -> None:
    assert {path.relative_to(folder) for path in verdict_files(folder)} == {
        path.relative_to(other) for path in verdict_files(other)
    }
    for path in [folder / RESULTS / "results.csv", *verdict_files(folder)]:
        assert path.read_bytes() == (other / path.relative_to(folder)).read_bytes(), path


def running_in(group: int) -> list[int]:
    """Return the processes of a process group that are alive."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == group and state != "Z":
            alive.append(int(path.parent.name))
    return alive


def test_a_killed_run_is_taken_up_where_it_was(planned, finished, server, judge, tmp_path):
    folder = copy_of(planned.folder, tmp_path)
    judge.forget()
    judge.hold_after = len(finished.replies) // 3
    server.gate.clear()
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    job = subprocess.Popen(
        command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not judge.held:
            assert job.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)  # the other threads are on their way
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    while running_in(job.pid):
        time.sleep(0.05)
    assert 0 < len(judge.held) <= 8
    assert 0 < len(stored(folder)) <= judge.replies.total() == len(finished.replies) // 3
    assert not (folder / RESULTS / "results.csv").exists()
    judge.hold_after = 10**6
    server.gate.set()

    locked = snakemake(folder, check=False)
    assert locked.returncode and "unlock" in locked.stderr
    snakemake(folder, "--unlock")
    snakemake(folder, "--rerun-incomplete")
    assert_same_results(folder, finished.folder)
    assert judge.replies.keys() == finished.replies.keys()
    # A reply that was on its way at the kill may be lost.
    assert judge.replies.total() <= len(finished.replies) + 8
    assert judge.tries.total() == judge.replies.total() + judge.failures.total() + len(judge.held)


def test_a_benchmarks_setting_costs_its_own_verdicts_alone(study, judge):
    before = {path: path.read_bytes() for path in (study / RESULTS / "policies").rglob("*") if path.is_file()}
    change(study, "benchmarks", "scored", prompt="{prompt}|{reference}|{answer}: an integer, 0 to 100")
    files = {path for path in stale(study) if "/policies/" in path}
    assert {str(Path(path).relative_to(RESULTS / "policies")) for path in files} == {
        f"{policy}/seed-{int(policy in ('one', 'two'))}/{kind}"
        for policy in POLICIES
        for kind in ("verdicts/scored.jsonl", "scores/scored.json")
    }
    snakemake(study)
    turns, _ = marked(study, "scored", ())
    assert judge.replies.total() == 3 * turns  # the empty answers are no question
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert {path.stem for path in changed} == {"scored"}
    assert not any("generations" in path.parts for path in changed)


def test_how_a_judge_is_reached_and_paid_makes_no_verdict_stale(study, judge):
    change(
        study,
        "judges",
        "server",
        base_url="http://127.0.0.1:9/v1",
        concurrency=1,
        budget_usd=1000.0,
        requests_per_minute=600,
        retries=1,
        timeout_seconds=5,
    )
    assert stale(study) == set()


def test_a_budget_stops_the_run_and_a_larger_one_asks_only_for_the_rest(planned, judge, tmp_path):
    folder = copy_of(planned.folder, tmp_path)
    judge.forget()
    targets = [str(RESULTS / f"policies/{name}/seed-1/verdicts/alpaca.jsonl") for name in ("one", "two")]
    change(folder, "judges", "server", budget_usd=0.25)
    stopped = snakemake(folder, *targets, check=False)
    said = stopped.stdout + stopped.stderr
    assert stopped.returncode
    assert "the budget of $0.25 would be passed" in said and "raise budget_usd and run again" in said
    paid = judge.replies.copy()
    wanted = 2 * 2 * len(QUESTIONS)  # two policies, two orders
    assert 0 < len(paid) == len(stored(folder)) < wanted
    (missing,) = {int(found) for found in re.findall(r"(\d+) of \d+ verdicts are missing", said)}
    assert missing
    change(folder, "judges", "server", budget_usd=50.0)
    snakemake(folder, *targets)
    assert len(judge.replies) == wanted
    assert set(judge.replies.values()) == {1}


def test_the_key_is_in_no_file(finished):
    blabbed = [entry for path in stored(finished.folder) if KEY in (entry := path.read_text())]
    found = [
        path for path in finished.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert blabbed == found == []


def test_verifying_finds_an_edited_verdict(study):
    clean = verify(study, "judged")
    assert clean.returncode == 0, clean.stdout + clean.stderr
    path = study / RESULTS / "policies/two/seed-1/verdicts/rated.jsonl"
    text = path.read_text()
    path.write_text(
        re.sub(r'"rating":\s*(\d+)', lambda found: f'"rating": {11 - int(found[1])}', text, count=1)
    )
    assert path.read_text() != text
    edited = verify(study, "judged")
    assert edited.returncode == 1
    named = edited.stdout + edited.stderr
    assert str(path.relative_to(study)) in named
    assert "one/seed-1/verdicts" not in named
