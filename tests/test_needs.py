"""What `make plan` says of the memory of a study's GPUs: the check's arithmetic, and no empty table."""

import pytest

from tests.plans import EVERY_KEY, changed, study_of
from workflow_scripts.plan.needs import lines_of, needs_of, seconds_a_million

PROFILE = {"": {"gpu_memory_gb": 80}, "train_sft": {"gpu": 4, "parallel": "zero3"}}
A100 = 312e12


def large(gpus=4):
    models = {f"models.{name}.parameters": 8.0e9 for name in study_of(EVERY_KEY).models}
    shared = {"training_resources.gpu": gpus, "training_resources.parallel": "zero3"}
    return changed(EVERY_KEY, models | shared).study


def test_eight_billion_weights_over_four_gpus_take_a_quarter_of_sixteen_bytes_each():
    needs = {need.trained.path: need for need in needs_of(large(), PROFILE)}
    [need, *_] = [
        each for each in needs.values() if each.trained.rule == "train_sft" and not each.trained.training.lora
    ]
    assert (need.weights, need.share.gpus, need.memory) == (8_000_000_000, 4, 80)
    assert need.held == pytest.approx(32.0)
    again = 2 if need.trained.training.gradient_checkpointing else 0
    assert seconds_a_million(need, A100) == pytest.approx((6 + again) * 8e9 * 1e6 / (4 * A100))
    adapters = needs["runs.sft"]  # frozen weights have no gradients of their own
    assert adapters.trained.training.lora
    assert seconds_a_million(adapters, A100) == pytest.approx(4 * 8e9 * 1e6 / (4 * A100))


def test_lines_name_each_training_once_and_there_are_none_without_gpus():
    study = large()
    lines = lines_of(study, PROFILE)
    assert lines[0] == "" and lines[1].split()[:2] == ["trainings", "model"]
    assert any("4 by zero3" in line and "of 80" in line for line in lines)
    assert lines_of(large(0), {}) == []
    assert lines_of(None, {}) == []
