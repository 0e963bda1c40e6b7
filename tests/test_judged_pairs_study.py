"""A study whose pairs a judge ranks, run whole: DPO in two rounds by an endpoint's verdicts, IPO by the rule of length.

The endpoint is a local server that scores each answer by the digest of what it is asked, and of some says nothing that
is a score.
"""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.chain import RUN, write_chain
from tests.judge_server import Handler, JudgeServer, say
from tests.workflow import copy_with_study, snakemake, stale, table_of, verify
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.pairs import samples

RESULTS = Path("results/chain")
KEY = "sk-a-key-that-nobody-may-read"
SAMPLES = {"dataset": "chat", "from": "samples", "split": "train", "samples": 4, "limit": 5}
SAMPLES |= {"max_new_tokens": 6, "max_prompt_tokens": 256, "max_tokens": 288}
ALIGNED = RUN | {"parent": "sft", "max_steps": 2}
FIRST, LAST = "tiny.sft.dpo-1", "tiny.sft.dpo-1.dpo-2"


def words_to(handler: Handler) -> str:
    """Return a score from 0 to 100, another to each question and the same each time, and to some none."""
    number = int(hashlib.sha256(handler.text.encode()).hexdigest(), 16)
    return "That depends." if number % 6 == 0 else str(number % 101)


class Ran(NamedTuple):
    folder: Path
    planned: str  # what judge_plan said before anything was asked
    asked_then: int
    calls: list[dict]
    server: JudgeServer


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_model):
    folder = copy_with_study(tmp_path_factory.mktemp("judged"))
    study = write_chain(folder, tiny_model)
    with pytest.MonkeyPatch.context() as patch, JudgeServer(default=say(words_to)) as server:
        patch.setenv("PAIRS_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        endpoint = {"kind": "openai", "model": "judge-1", "base_url": server.url, "api_key_env": "PAIRS_KEY"}
        endpoint |= {"max_tokens": 50, "usd_per_million_prompt_tokens": 10.0}
        endpoint |= {"usd_per_million_completion_tokens": 20.0, "budget_usd": 5.0}
        study["judges"] = {"hosted": endpoint, "longer": {"kind": "rule", "rule": "length"}}
        study["pairs"] = {
            "marked": SAMPLES | {"rank": "hosted", "take": "all"},
            "long": SAMPLES | {"rank": "longer"},
        }
        del study["annotations"], study["runs"]["nll"]
        study["runs"]["dpo"] = ALIGNED | {"method": "dpo", "pairs": "marked", "rounds": 2}
        study["runs"]["ipo"] = ALIGNED | {"method": "ipo", "pairs": "long"}
        scored = {"kind": "judge_score", "dataset": "chat", "split": "test", "limit": 2, "max_new_tokens": 6}
        study["benchmarks"] = {"scored": scored | {"judge": "hosted"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        planned, asked = snakemake(folder, "judge_plan").stdout, server.asked()
        snakemake(folder)
        yield Ran(folder, planned, asked, list(server.calls), server)


def change(folder: Path, judge: str, **values: object) -> str:
    """Change settings of a judge in a folder's study; return the study as it was."""
    path = folder / "config.yaml"
    before = path.read_text()
    study = yaml.safe_load(before)
    study["judges"][judge] |= values
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return before


def verdicts_of(ran: Ran, policy: str, name: str) -> list[dict]:
    return read_jsonl(ran.folder / RESULTS / f"policies/{policy}/seed-1/verdicts/pairs-{name}.jsonl")


def folder_of(ran: Ran, policy: str, name: str) -> Path:
    return ran.folder / RESULTS / f"pairs/{name}/{policy}/seed-1"


def test_the_plan_counts_what_ranks_the_first_rounds_pairs_and_says_what_waits_for_it(ran):
    assert ran.asked_then == 0
    counted = re.findall(r"^ *hosted +(\S+) +(\S+) +1 ", ran.planned, flags=re.MULTILINE)
    assert ("pairs-marked", "tiny.sft") in counted
    assert ("scored", "tiny.sft") in counted and ("scored", "tiny.sft.ipo") in counted
    assert not [policy for _, policy in counted if policy in (FIRST, LAST)]
    (waiting,) = [line for line in ran.planned.splitlines() if line.startswith("not counted")]
    assert "learn from pairs an endpoint has yet to rank" in waiting
    assert f"{FIRST} (seed 1), pairs-marked" in waiting and f"{LAST} (seed 1), scored" in waiting


def test_the_best_answer_by_the_verdicts_is_chosen_in_every_round(ran):
    for policy in ("tiny.sft", FIRST):
        given = verdicts_of(ran, policy, "marked")
        assert len(given) == 20
        ratings = {f"{row['id']}/{row['sample']}": row["rating"] for row in given}
        pairs = read_jsonl(folder_of(ran, policy, "marked") / "pairs.jsonl")
        assert pairs and all(pair["meta"]["reward_gap"] > 0 for pair in pairs)
        for pair in pairs:
            rated = [
                rating
                for name, rating in ratings.items()
                if name.rpartition("/")[0] == pair["id"].rpartition("/")[0] and rating is not None
            ]
            assert max(rated) - ratings[pair["id"]] == pair["meta"]["reward_gap"]


def test_answers_whose_verdict_failed_are_left_out_counted_and_said(ran):
    failed = [row for row in verdicts_of(ran, "tiny.sft", "marked") if row["rating"] is None]
    assert failed
    folder = folder_of(ran, "tiny.sft", "marked")
    assert read_json(folder / "manifest.json")["counts"]["rejected"][samples.FAILED] == len(failed)
    left = [row for row in read_jsonl(folder / "rejected.jsonl") if row["reason"] == samples.FAILED]
    assert {row["why"] for row in left} == {row["failed"] for row in failed}
    log = (ran.folder / RESULTS / "logs/rank_samples/marked-tiny.sft-1.log").read_text()
    assert f"left out, {samples.FAILED}: {len(failed)} answers" in log


def test_the_rule_of_length_ranks_and_asks_nobody(ran):
    pairs = read_jsonl(folder_of(ran, "tiny.sft", "long") / "pairs.jsonl")
    assert pairs
    assert all(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
    assert not [row for row in verdicts_of(ran, "tiny.sft", "long") if "text" in row]


def test_the_same_answer_to_the_same_question_is_asked_about_once_over_all_rounds(ran):
    asked = Counter(str(call["body"]["messages"]) for call in ran.calls)
    assert set(asked.values()) == {1}
    answers = {}
    for policy in ("tiny.sft", FIRST):
        path = ran.folder / RESULTS / f"policies/{policy}/seed-1/generations/pairs-marked.jsonl"
        rows = [row for row in read_jsonl(path) if row["text"].strip()]
        answers[policy] = {(row["id"], row["text"]) for row in rows}
    assert len(answers["tiny.sft"] | answers[FIRST]) <= len(ran.calls)
    before = ran.server.asked()
    snakemake(ran.folder, "-f", str(RESULTS / "policies/tiny.sft/seed-1/verdicts/pairs-marked.jsonl"))
    assert ran.server.asked() == before


def test_every_policy_is_scored_and_what_judging_the_pairs_cost_is_told(ran):
    assert {row["policy"] for row in table_of(ran.folder, "chain")} >= {FIRST, LAST, "tiny.sft.ipo"}
    rows = [row for row in table_of(ran.folder, "chain", "costs.csv") if row["stage"] == "judge_answers"]
    calls = {(row["policy"], row["name"]): row["judge_calls"] for row in rows}
    assert int(calls["tiny.sft", "pairs-marked"]) > 0 and int(calls[FIRST, "pairs-marked"]) > 0
    assert ("tiny.sft", "pairs-long") in calls and (LAST, "pairs-marked") not in calls
    (total,) = [row for row in rows if row["name"] == "total"]
    assert int(total["judge_calls"]) == len(ran.calls)
    done = verify(ran.folder, "chain")
    assert done.returncode == 0, done.stderr
    record = read_json(ran.folder / RESULTS / "provenance.json")["records"][f"{LAST}|1|scored"]
    assert [path for path in record["files"] if path.endswith(f"{FIRST}/seed-1/verdicts/pairs-marked.jsonl")]


def test_a_finished_study_has_nothing_to_do_whatever_its_judge_may_cost_and_counts_all(ran):
    before = change(ran.folder, "hosted", budget_usd=50.0, concurrency=1, retries=2)
    assert stale(ran.folder) == set()
    plan = snakemake(ran.folder, "judge_plan").stdout
    assert "not counted" not in plan and f"pairs-marked  {FIRST}" in re.sub(r" +", "  ", plan)
    (ran.folder / "config.yaml").write_text(before)


def test_another_model_of_the_judge_makes_its_verdicts_the_pairs_and_their_trainings_stale(ran):
    before = change(ran.folder, "hosted", model="judge-2")
    files = {str(Path(path).relative_to(RESULTS)) for path in stale(ran.folder) if path.startswith("results")}
    made = {path for path in files if path.startswith(("pairs/", "policies/tiny.sft/"))}
    assert {path for path in made if not path.startswith("pairs/marked/")} == {
        "policies/tiny.sft/seed-1/verdicts/pairs-marked.jsonl",
        "policies/tiny.sft/seed-1/verdicts/scored.jsonl",
        "policies/tiny.sft/seed-1/scores/scored.json",
    }
    trained = {path.split("/")[1] for path in files if re.fullmatch(r"policies/[^/]+/seed-1/model", path)}
    assert trained == {FIRST, LAST}
    stopped = snakemake(ran.folder, "judge_plan", check=False)
    assert stopped.returncode
    assert "whose answers are to be judged anew (pairs-marked): remove their verdicts" in stopped.stderr
    (ran.folder / "config.yaml").write_text(before)
