"""The best of several policies: chosen by validation, the same for every seed, without those that diverged."""

import json
import os

import pytest

from tests.command import call
from workflow_scripts.align import best_of
from workflow_scripts.common.diverged import divergence_of, hand_on
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json, write_manifest
from workflow_scripts.report.scores import chosen_by

NOTE = {"step": 3, "learning_rate": 9.0, "quantity": "the loss is", "whose": "training"}


def policy(folder, name: str, seed: int, losses: list[float] | None, **facts: object):
    """Write a trained policy; losses: None, it diverged. Return its manifest."""
    own = folder / name / f"seed-{seed}"
    (own / "model").mkdir(parents=True)
    if losses is None:
        hand_on(NOTE, [own / "model", own / "curve.json", own / "manifest.json"])
        return own / "manifest.json"
    (own / "model/model.safetensors").write_text(f"{name} {seed}")
    (own / "model/.snakemake_timestamp").touch()
    rows = [{"step": step, "validation_loss": loss} for step, loss in enumerate(losses, 1)]
    write_json(own / "curve.json", [*rows, {"step": len(losses), "train_loss": 0.1}])
    write_manifest(own / "manifest.json", [own / "model/model.safetensors"], steps=len(losses), **facts)
    return own / "manifest.json"


def choose(folder, manifests: list, names: list[str], seeds: tuple = (1,), seed: int = 1, **changed: object):
    """Run the step; return the folder it has written."""
    settings = {"by": "loss/validation", "best": "min", "names": names, "seeds": list(seeds), "seed": seed}
    flags = ["--settings", json.dumps(settings | changed), "--candidates", *map(str, manifests)]
    call(best_of.main, *flags, "--output", folder / "model", "--manifest", folder / "manifest.json")
    return folder


def test_the_lowest_validation_loss_of_what_was_kept_wins(tmp_path):
    # a ends at 2.0; b once had less but ends at 3.0; c kept its best step, 1.5.
    manifests = [
        policy(tmp_path, "a", 1, [5.0, 2.0]),
        policy(tmp_path, "b", 1, [1.0, 3.0]),
        policy(tmp_path, "c", 1, [1.5, 4.0], best_step=1),
    ]
    made = choose(tmp_path / "best", manifests, ["a", "b", "c"])
    assert (made / "model/model.safetensors").read_text() == "c 1"
    facts = read_json(made / "manifest.json")
    assert facts["choice"] == {
        "chosen": "c",
        "by": "loss/validation",
        "values": {"a": 2.0, "b": 3.0, "c": 1.5},
        "seeds": 1,
    }
    assert facts["best_step"] == 1 and facts["steps"] == 2
    assert facts["files"].keys() == {"model/model.safetensors"}
    assert os.path.samefile(made / "model/model.safetensors", manifests[2].parent / "model/model.safetensors")
    assert chosen_by({"chosen": str(made / "manifest.json")}) == (
        "c, chosen among 3 by loss/validation: 1.5 (a 2, b 3)"
    )


def test_the_mean_over_seeds_decides_and_every_seed_gets_the_same(tmp_path):
    manifests = [
        *(policy(tmp_path, "a", seed, [loss]) for seed, loss in ((1, 1.0), (2, 3.0))),
        *(policy(tmp_path, "b", seed, [loss]) for seed, loss in ((1, 1.5), (2, 1.5))),
    ]
    for seed in (1, 2):
        made = choose(tmp_path / f"best-{seed}", manifests, ["a", "b"], (1, 2), seed)
        assert (made / "model/model.safetensors").read_text() == f"b {seed}"
        assert "the mean over 2 seeds: 1.5 (a 2)" in chosen_by({"chosen": str(made / "manifest.json")})


def test_a_seed_that_decides_nothing_gets_what_the_others_have_chosen(tmp_path):
    def candidates(third: float | None) -> list:
        found = []
        for name, losses in (("a", (1.0, 3.0, [0.1])), ("b", (1.5, 1.5, third and [third]))):
            own = [policy(tmp_path / str(third), name, seed, [losses[seed - 1]]) for seed in (1, 2)]
            found += [*own, policy(tmp_path / str(third), name, 3, losses[2])]
        return found

    made = choose(tmp_path / "best", candidates(9.0), ["a", "b"], (1, 2), 3)
    assert (made / "model/model.safetensors").read_text() == "b 3", "though a is better with this seed"
    assert read_json(made / "manifest.json")["choice"]["seeds"] == 2
    lost = choose(tmp_path / "lost", candidates(None), ["a", "b"], (1, 2), 3)
    assert divergence_of(lost / "manifest.json") == NOTE, (
        "what was chosen diverged with this seed, and says so"
    )


def test_the_first_of_those_alike_wins(tmp_path):
    manifests = [policy(tmp_path, name, 1, [1.0]) for name in "ab"]
    assert (
        read_json(choose(tmp_path / "x", manifests, ["a", "b"]) / "manifest.json")["choice"]["chosen"] == "a"
    )


def test_watched_values_go_the_way_that_is_better(tmp_path):
    watched = [{"watched": {"value": value}} for value in (0.2, 0.9)]
    manifests = [policy(tmp_path, name, 1, [1.0], **facts) for name, facts in zip("ab", watched, strict=True)]
    for best, name in (("max", "b"), ("min", "a")):
        made = choose(tmp_path / best, manifests, ["a", "b"], by="watch/validation", best=best)
        assert read_json(made / "manifest.json")["choice"]["chosen"] == name


def test_what_diverged_with_one_seed_is_left_out_and_said(tmp_path):
    manifests = [
        policy(tmp_path, "a", 1, [0.1]),
        policy(tmp_path, "a", 2, None),
        policy(tmp_path, "b", 1, [2.0]),
        policy(tmp_path, "b", 2, [2.0]),
    ]
    made = choose(tmp_path / "best", manifests, ["a", "b"], (1, 2), 1)
    assert read_json(made / "manifest.json")["choice"]["values"] == {"a": None, "b": 2.0}
    assert chosen_by({"chosen": str(made / "manifest.json")}).endswith("(a diverged)")


def test_where_all_diverged_the_note_is_handed_on(tmp_path):
    manifests = [policy(tmp_path, name, 1, None) for name in "ab"]
    made = choose(tmp_path / "best", manifests, ["a", "b"])
    assert divergence_of(made / "manifest.json") == NOTE
    assert list((made / "model").iterdir()) == []


def test_what_was_not_validated_cannot_be_chosen(tmp_path):
    manifests = [policy(tmp_path, "a", 1, []), policy(tmp_path, "b", 1, [1.0])]
    with pytest.raises(PlumblineError, match="cannot be chosen by loss/validation: it was not validated"):
        choose(tmp_path / "best", manifests, ["a", "b"])
