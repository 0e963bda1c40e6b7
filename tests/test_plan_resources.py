"""What jobs ask for: the GPUs a study names where they are of use, and one or none elsewhere."""

import pytest

from tests.plans import EVERY_KEY, changed
from workflow_scripts.plan import resources
from workflow_scripts.study.resources import GenerationResources

MANY = changed(
    EVERY_KEY,
    {
        "training_resources": {
            "gpu": 8,
            "nodes": 2,
            "mem_mb": 9000,
            "runtime_minutes": 60,
            "parallel": "zero3",
        },
        "generation_resources": {"gpu": 4, "cpus": 6},
        "runs.rloo": {"method": "rloo", "parent": "sft", "annotation": "judged", "split": "train"}
        | {"learning_rate": 1e-4, "batch_size": 16},
    },
)


def test_a_part_asks_by_snakemakes_names_and_leaves_threads_to_the_rule():
    assert resources.asked(MANY.study.training_resources) == {
        "gpu": 8,
        "nodes": 2,
        "mem_mb": 9000,
        "runtime": 60,
        "parallel": "zero3",
    }
    assert resources.asked(MANY.study.generation_resources) == {"gpu": 4, "mem_mb": 6000, "runtime": 120}


def test_what_wants_its_policy_whole_on_each_gpu_is_not_shared_out():
    said = {name: resources.training_parallel(MANY, f"tiny.sft.{name}") for name in ("ppo", "rloo", "dpo")}
    assert said == {"ppo": "ddp", "rloo": "zero3", "dpo": "zero3"}


@pytest.mark.parametrize(("asked", "had"), [(0, 0), (1, 1), (4, 1)])
def test_what_only_reads_has_one_gpu_where_there_are_any(asked, had):
    plan = changed(EVERY_KEY, {"generation_resources.gpu": asked})
    assert resources.one_gpu(plan) == resources.scoring_gpus(plan, "tiny.sft") == had


@pytest.mark.parametrize(("gpu", "shards", "had"), [(0, 2, 0), (1, 1, 1), (4, 1, 1), (4, 2, 2), (4, 4, 4)])
def test_what_a_classifier_reads_has_a_gpu_for_each_shard(gpu, shards, had):
    plan = changed(EVERY_KEY, {"generation_resources.gpu": gpu, "generation_resources.shards": shards})
    assert resources.annotating_gpus(plan, "judged") == resources.rewarding_gpus(plan, "rewarded") == had
    assert resources.judging_gpus(plan, "bundled") == had


@pytest.mark.parametrize(
    ("gpu", "shards", "vllm", "had"),
    [
        (0, 1, False, 0),
        (0, 2, False, 0),
        (4, 1, False, 1),
        (4, 4, False, 4),
        (4, 2, False, 2),
        (4, 2, True, 4),
    ],
)
def test_each_engine_that_answers_has_its_own_gpus(gpu, shards, vllm, had):
    plan = changed(EVERY_KEY, {"generation_resources.gpu": gpu, "generation_resources.shards": shards})
    assert resources.answering_gpus(plan, vllm) == had
    assert "shards" not in resources.asked(plan.study.generation_resources)  # other jobs are one process


def test_the_harness_has_a_gpu_for_each_shard_that_reads_a_policy():
    plan = changed(EVERY_KEY, {"generation_resources.gpu": 4, "generation_resources.shards": 2})
    assert [resources.harness_gpus(plan, policy) for policy in ("tiny.sft", "gold", "empty")] == [2, 0, 0]
    plan = changed(EVERY_KEY, {"generation_resources.gpu": 0, "generation_resources.shards": 2})
    assert resources.harness_gpus(plan, "tiny.sft") == 0  # on a CPU it is one process


def test_gpus_that_shards_cannot_share_evenly_are_refused():
    with pytest.raises(ValueError, match="gpu: 4 cannot be shared out evenly over shards: 3"):
        GenerationResources(gpu=4, shards=3)


def test_what_reads_no_model_has_no_gpu():
    for calibration in ("gold", "empty"):
        assert resources.scoring_gpus(MANY, calibration) == 0
    assert resources.annotating_gpus(MANY, "brought") == 0  # rules, and what the rows came with
    for benchmark in ("rated", "loose"):  # an endpoint and a rule
        assert resources.judging_gpus(MANY, benchmark) == 0


def test_answers_that_rules_alone_reward_have_no_gpu():
    ruled = {"words": {"rule": "length"}}
    plan = changed(EVERY_KEY, {"generation_resources.gpu": 4, "annotations.judged.rewards": ruled})
    assert resources.rewarding_gpus(plan, "rewarded") == 0
