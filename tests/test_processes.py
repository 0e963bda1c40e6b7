"""Processes (gloo, on this CPU) that share the rows of a step train the weights that one does, up to rounding."""

from pathlib import Path

import pytest
import torch

from tests.launching import command_of, norms_of, train
from tests.offline import write_rewarded
from tests.tiny import (
    align_flags,
    conversations,
    distance,
    own_settings,
    pairs,
    preference_settings,
    settings_of,
    sft_flags,
    training_flags,
    weights_of,
    write_reference,
    write_tokens,
)
from workflow_scripts.annotate import train_reward
from workflow_scripts.common.files import read_json, write_jsonl, write_manifest
from workflow_scripts.common.training.batches import split_batch

STEPS = 3


def trained(
    module: str, flags_of: object, folder: Path, processes: int, **settings: object
) -> tuple[dict, list[float]]:
    """Return (weights, gradient norms) of a run whose step takes four rows, however many processes share them."""
    folder.mkdir()
    flags = flags_of({"batch_size": 4, "per_device_batch": 4, "max_steps": STEPS} | settings, folder)
    norms = norms_of(train(command_of(module, flags, processes=processes)))
    assert len(norms) == STEPS
    assert read_json(folder / "manifest.json")["steps"] == STEPS
    assert read_json(folder / "cost.json")["processes"] == processes
    return weights_of(folder / "model"), norms


def assert_equal(first: tuple, second: tuple, start: dict) -> None:
    """Hold two trainings to the same weights, to what the order of float32 sums may change, far from the start."""
    (one, norms), (two, others) = first, second
    assert norms == pytest.approx(others, rel=1e-2)
    moved = distance(one, start)
    assert moved > 1e-3
    assert distance(one, two) < moved / 100


def annotated(count: int) -> list[dict]:
    """Return one annotated answer a prompt, each with another reward."""
    return [
        {
            "id": f"r{number}",
            "group": f"g{number}",
            "messages": row["messages"][:-1],
            "reference": row["messages"][-1]["content"],
            "meta": {},
            "rewards": {"final_reward": 0.2 + 0.05 * number},
        }
        for number, row in enumerate(conversations(count))
    ]


@pytest.fixture(scope="module")
def start(tiny_model) -> dict[str, torch.Tensor]:
    return weights_of(tiny_model)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_two_processes_align_as_one_does(tiny_model, tmp_path, start, method):
    # Nine pairs: in the last step there is but one, and one of the processes has none.
    stored = write_reference(tiny_model, pairs(9), tmp_path / "reference")

    def flags_of(settings: dict, folder: Path) -> list[str]:
        return align_flags(tiny_model, stored, preference_settings(**settings), folder, method=method)

    one, two = (
        trained(f"workflow_scripts.align.{method}", flags_of, tmp_path / f"by-{count}", count)
        for count in (1, 2)
    )
    assert_equal(one, two, start)
    curves = [read_json(tmp_path / f"by-{count}/curve.json") for count in (1, 2)]
    for first, second in zip(*curves, strict=True):
        # accuracy is left out: where policy and parent agree, rounding decides it
        assert first | {"accuracy": 0} == pytest.approx(second | {"accuracy": 0}, abs=2e-3)


def test_a_step_is_the_same_in_four_passes_in_two_by_two_and_in_one_on_four_processes(
    tiny_model, tmp_path, start
):
    # KTO, whose divergence is a statistic of the step; seven pairs, so that the last step is shared out unevenly.
    stored = write_reference(tiny_model, pairs(7), tmp_path / "reference")

    def flags_of(settings: dict, folder: Path) -> list[str]:
        return align_flags(tiny_model, stored, preference_settings(**settings), folder, method="kto")

    shapes = {
        (1, 1): (1, 4),
        (2, 1): (1, 2),
        (4, 1): (1, 1),
        (1, 4): (4, 1),
    }  # (processes, most rows): (rows, passes)
    found = []
    for (processes, most), (rows, passes) in shapes.items():
        assert split_batch(4, most, processes) == (rows, passes)
        folder = tmp_path / f"{processes}-{most}"
        found.append(
            trained("workflow_scripts.align.kto", flags_of, folder, processes, per_device_batch=most)
        )
    for other in found[1:]:
        assert_equal(found[0], other, start)


def test_two_processes_learn_from_rewarded_answers_as_one_does(tiny_model, tmp_path, start):
    stored = write_rewarded(tiny_model, tmp_path / "rewarded", annotated(12))

    def flags_of(settings: dict, folder: Path) -> list[str]:
        own = {"sampling": "none", "clip": 0.9, "padding_free": False, "evaluate_every": 2}
        flags = training_flags(tiny_model, settings_of(**(settings | own)), folder)
        rows, manifest = stored / "rows.parquet", stored / "manifest.json"
        return [*flags, "--rewarded", str(rows), "--rewarded-manifest", str(manifest)]

    one, two = (
        trained("workflow_scripts.align.r_lol", flags_of, tmp_path / f"by-{count}", count) for count in (1, 2)
    )
    assert_equal(one, two, start)
    manifests = [read_json(tmp_path / f"by-{count}/manifest.json") for count in (1, 2)]
    assert manifests[0]["effective_steps"] == manifests[1]["effective_steps"]
    assert manifests[0]["clipped_share"] == pytest.approx(manifests[1]["clipped_share"], abs=0.1)


def test_a_reward_model_is_the_same_by_two_processes_and_by_one(tiny_model, tmp_path):
    rows = pairs(15)
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    write_manifest(tmp_path / "pairs.json", [tmp_path / "pairs.jsonl"])

    def flags_of(settings: dict, folder: Path) -> list[str]:
        # ten to learn from, so that the last of three steps has two; five to validate on, of which one process has two
        own = settings | {"validation_share": 1 / 3, "max_tokens": 128, "evaluate_every": 2}
        flags = training_flags(tiny_model, own_settings(train_reward.Settings, settings_of(**own)), folder)
        return [
            *flags,
            "--pairs",
            str(tmp_path / "pairs.jsonl"),
            "--pairs-manifest",
            str(tmp_path / "pairs.json"),
        ]

    one, two = (
        trained("workflow_scripts.annotate.train_reward", flags_of, tmp_path / f"by-{count}", count)
        for count in (1, 2)
    )
    before = weights_of(tiny_model)  # its head is another, and that of a reward model starts at random
    assert_equal(one, two, {name: before.get(name, weight) for name, weight in one[0].items()})
    facts = [read_json(tmp_path / f"by-{count}/manifest.json") for count in (1, 2)]
    assert facts[0]["validation_accuracy"] == facts[1]["validation_accuracy"]
    losses = [read_json(tmp_path / f"by-{count}/curve.json")[-1]["validation_loss"] for count in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(("loss_norm", "pack_tokens"), [("token", None), ("example", None), ("example", 128)])
def test_two_processes_fine_tune_as_one_does(tiny_model, tmp_path, start, loss_norm, pack_tokens):
    # Nine rows: in the last step there is but one, and one of the processes has none.
    limit = pack_tokens or 256
    tokens = write_tokens(tiny_model, conversations(9), conversations(2), tmp_path / "tokens", limit)

    def flags_of(settings: dict, folder: Path) -> list[str]:
        own = {
            "pack_tokens": pack_tokens,
            "batch_of": "rows",
            "loss_norm": loss_norm,
            "neftune_alpha": None,
            "kl": None,
        }
        return sft_flags(tiny_model, tokens, settings_of(**own, **settings), folder)

    one, two = (
        trained("workflow_scripts.sft.train", flags_of, tmp_path / f"by-{count}", count) for count in (1, 2)
    )
    assert_equal(one, two, start)
