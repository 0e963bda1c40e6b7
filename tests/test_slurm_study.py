"""The default study, cut small, on a real SLURM with profiles/slurm-a100, its head killed once (`make test-slurm`).

Some sixty jobs, ten minutes. Single faults are in test_slurm.py.
"""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.slurm_workflow import PROFILE, Workflow
from tests.small_study import PROBLEMS, small_study
from tests.workflow import copy_with_study, stale, table_of, verify


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory, tiny_model) -> Workflow:
    """The study, which has run: until it trained a policy, then, its head killed and cleared up after, to its end."""
    folder = copy_with_study(tmp_path_factory.mktemp("study"))
    (folder / "HumanEval.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    study = small_study(tiny_model, folder / "HumanEval.jsonl")
    study["training_resources"] = {"gpu": 2}
    study["generation_resources"]["gpu"] = 1
    study["runs"]["sft"]["batch_size"] = study["runs"]["dpo"]["batch_size"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    workflow = Workflow(cluster, folder)
    head = workflow.start()
    training = "rule_train_sft_wildcards_tiny.sft_1"
    workflow.until(lambda: [training, "RUNNING"] in workflow.jobs("%k %T"), "the first training", 600)
    head.kill()
    head.wait()
    assert "unlocked" in workflow.orphans()
    assert not {"RUNNING", "PENDING", "COMPLETING"} & {state for (state,) in workflow.jobs("%T")}
    try:
        workflow.run(seconds=3000)
    finally:
        workflow.heads[-1].kill()
    return workflow


def test_every_policy_is_scored_on_every_benchmark(finished):
    scored = {(row["policy"], row["benchmark"]) for row in table_of(finished.folder, "tutor")}
    policies = {"tiny", "tiny.sft", "tiny.sft.dpo", "gold", "empty"}
    benchmarks = {
        "tutor",
        "judged",
        "pair_perplexity",
        "humaneval",
        "biology_quiz",
        "mt_bench",
        "alpaca_eval",
    }
    assert scored == {(policy, benchmark) for policy in policies for benchmark in benchmarks}


def test_no_two_jobs_ever_wrote_the_same_files(finished):
    times = defaultdict(list)
    for rule, start, end in finished.jobs("%k %S %e"):
        times[rule].append((start, end))
    assert len(times["rule_train_sft_wildcards_tiny.sft_1"]) > 1
    for rule, spans in times.items():
        assert all(first[1] <= second[0] for first, second in pairwise(sorted(spans))), (rule, spans)


def test_no_job_failed_and_each_ran_where_the_profile_says(finished):
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    for rule, partition, state in finished.jobs("%k %P %T"):
        assert state in ("COMPLETED", "CANCELLED"), rule
        name = rule.removeprefix("rule_").split("_wildcards_")[0]
        assert partition == ("gpu" if name in profile["set-resources"] else "cpu"), rule


def test_trainings_used_the_devices_that_slurm_gave(finished):
    log = (finished.folder / "results/tutor/logs/train_sft/tiny.sft-1.log").read_text()
    assert "2 processes (ddp) on GPUs" in log


def test_nothing_is_left_to_do_and_all_of_it_verifies(finished):
    assert stale(finished.folder) == set()
    done = verify(finished.folder, "tutor")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_the_small_work_was_done_beside_the_head(finished):
    rules = {rule.split("_wildcards_")[0] for (rule,) in finished.jobs("%k")}
    assert not rules & {"rule_fetch_source", "rule_score_answers", "rule_score_measured", "rule_build_table"}
    assert Path(finished.folder / "results/tutor/report.html").exists()
