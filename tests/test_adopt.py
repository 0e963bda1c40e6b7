"""An adopted policy: an existing checkpoint in place of a training, if it is of its parent's kind, and named so."""

import json
import shutil
from pathlib import Path

import pytest

from tests.command import call
from tests.plans import EVERY_KEY, changed, config_of, told
from tests.studies import put
from tests.tiny import TEMPLATE, distance, weights_of
from tests.tiny_model import make_tiny_model
from tests.workflow import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.download import adopt
from workflow_scripts.plan import adopting, costs, index, prompts, training
from workflow_scripts.plan import report as tables
from workflow_scripts.plan.plan import cells, trained_cells
from workflow_scripts.report.results import adopted_note
from workflow_scripts.study.checking import examine
from workflow_scripts.study.machine import checkpoints

TESTS = ROOT / "tests"  # where the study of every key has its lock


# --- taking a checkpoint in -------------------------------------------------------------------------------------------


def adopted(checkpoint: Path, parent: Path, folder: Path) -> tuple[Path, dict]:
    """Run download.adopt; return (the policy's model folder, its manifest)."""
    settings = json.dumps({"template": TEMPLATE, "trust_remote_code": False})
    flags = [
        "--checkpoint",
        checkpoint,
        "--name",
        checkpoint.name,
        "--parent",
        parent,
        "--settings",
        settings,
    ]
    call(adopt.main, *flags, "--output", folder / "model", "--manifest", folder / "manifest.json")
    return folder / "model", read_json(folder / "manifest.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny model's kind with other weights, as a trainer leaves it: without a tokenizer."""
    folder = make_tiny_model(tmp_path_factory.mktemp("trained") / "checkpoint-9", seed=7)
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "optimizer.pt").write_bytes(b"pickled, and not read")
    return folder


def test_its_weights_are_the_policys_with_the_parents_tokens_and_the_policys_template(
    trained, tiny_model, tmp_path
):
    model, manifest = adopted(trained, tiny_model, tmp_path)
    assert distance(weights_of(model), weights_of(trained)) == 0
    assert (model / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    assert (model / "chat_template.jinja").is_file() and not (model / "optimizer.pt").exists()
    assert manifest["adopted"] is True and manifest["origin"]["name"] == "checkpoint-9"
    assert len(manifest["origin"]["digest"]) == 64
    assert "model/model.safetensors" in manifest["files"]


def test_it_is_a_copy_that_names_its_origin_by_content_and_not_by_place(trained, tiny_model, tmp_path):
    elsewhere = shutil.copytree(trained, tmp_path / "disk/checkpoint-9")
    _, here = adopted(trained, tiny_model, tmp_path / "one")
    model, there = adopted(elsewhere, tiny_model, tmp_path / "two")
    assert here == there
    before = weights_of(model)
    shutil.rmtree(elsewhere)
    assert distance(weights_of(model), before) == 0


def test_an_adapter_of_the_parent_is_merged_into_it(tiny_model, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from workflow_scripts.common.models import load_policy

    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(load_policy(tiny_model), config)
    model.save_pretrained(tmp_path / "adapter")
    inner = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    write_json(tmp_path / "adapter/adapter_config.json", inner | {"base_model_name_or_path": "/nowhere"})
    found, manifest = adopted(tmp_path / "adapter", tiny_model, tmp_path / "policy")
    merged = {name: weight.detach() for name, weight in model.merge_and_unload().named_parameters()}
    mine = weights_of(found)
    assert distance(mine, {name: merged[name] for name in mine}) < 1e-6
    assert distance(mine, weights_of(tiny_model)) > 1e-3
    assert manifest["origin"]["name"] == "adapter"


def test_a_checkpoint_of_another_kind_or_size_is_refused_with_what_differs(tiny_model, tmp_path):
    wide = make_tiny_model(tmp_path / "wide", width=64)
    with pytest.raises(
        PlumblineError, match=r"wide: \d+ of its weights are not those of its parent's architecture"
    ):
        adopted(wide, tiny_model, tmp_path / "policy")
    other = make_tiny_model(tmp_path / "other")
    write_json(other / "config.json", read_json(other / "config.json") | {"model_type": "mistral"})
    with pytest.raises(PlumblineError, match="is a mistral model, and the policy's parent a llama"):
        adopted(other, tiny_model, tmp_path / "policy")
    assert not (tmp_path / "policy/manifest.json").exists()


def test_a_checkpoint_with_other_tokens_is_refused(tiny_model, tmp_path):
    other = make_tiny_model(tmp_path / "other")
    words = json.loads((other / "tokenizer.json").read_text())
    one, two = [token for token in words["model"]["vocab"] if token not in ("<unk>", "<s>", "</s>", "<pad>")][
        :2
    ]
    vocabulary = words["model"]["vocab"]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(PlumblineError, match="its tokenizer differs from its parent's in 2 tokens"):
        adopted(other, tiny_model, tmp_path / "policy")


def test_pickled_weights_are_not_loaded(tiny_model, tmp_path):
    other = make_tiny_model(tmp_path / "other")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(PlumblineError, match=r"no \*.safetensors here"):
        adopted(other, tiny_model, tmp_path / "policy")


# --- plans and checks -------------------------------------------------------------------------------------------------

TAKEN = {"adopt": {"tiny.sft": "data/bundled"}}


def test_nothing_of_its_training_is_planned_and_all_that_follows_is():
    plan, before = changed(EVERY_KEY, TAKEN), changed(EVERY_KEY, {})
    assert "tiny.sft" in training.policies_on(before, "tokens")
    assert "tiny.sft" not in training.policies_on(plan, "tokens", "pairs", "ranked", "rewarded", "prompts")
    assert "tiny.sft.dpo" in training.policies_on(plan, "pairs")  # its children are trained
    assert ("tiny.sft", 1) in cells(plan) and ("tiny.sft", 1) not in trained_cells(plan)
    assert not [curve for curve in tables.curves(plan) if curve["policy"] == "tiny.sft"]
    assert not [run for run in tables.trainings(plan) if run["policy"] == "tiny.sft"]
    assert "train_sft" not in {job.stage for job in costs.costed_jobs(plan) if job.policy == "tiny.sft"}
    assert prompts.owed(plan, "tiny.sft") == prompts.owed(before, "tiny.sft")
    files = adopting.checkpoint_files(plan, "tiny.sft", 1)
    assert all(file.startswith("data/bundled/") for file in files)


def test_a_parent_makes_no_pairs_for_a_child_that_is_adopted():
    plan = changed(EVERY_KEY, {"adopt": {"tiny.sft.dpo": "docs", "tiny.sft.simpo": "docs"}})
    assert "pairs-mistakes" not in prompts.owed(plan, "tiny.sft")


def test_each_seed_may_have_a_folder_of_its_own():
    plan = changed(EVERY_KEY, {"seeds": [1, 2], "adopt": {"tiny.sft": {"1": "docs", "2": "data/bundled"}}})
    assert adopting.checkpoint(plan, "tiny.sft", 2) == "data/bundled"
    assert adopting.checkpoint_name(plan, "tiny.sft", 2) == "bundled"


def test_it_and_its_descendants_are_named_as_adopted():
    plan = changed(EVERY_KEY, TAKEN)
    entries = {entry["policy"]: entry for entry in told(index.index_entries(plan))["cells"]}
    for name in ("tiny.sft", "tiny.sft.dpo"):
        assert entries[name]["adopted"] == ["tiny.sft"]
        assert entries[name]["facts"]["adopted"] == ["tiny.sft"]  # in provenance
    assert "results/every-key/policies/tiny.sft/seed-1/manifest.json" in entries["tiny.sft.dpo"]["files"]
    assert "adopted" not in entries["tiny"]
    assert adopted_note([{"adopted": ["tiny.sft"]}]) == "adopted, not trained here: tiny.sft"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"tiny.sfx": "docs"}, "adopt.tiny.sfx: no policy"),
        ({"tiny": "docs"}, "adopt.tiny: is a base model: its weights are those of models.tiny"),
        ({"tiny.sft": "no/such/folder"}, "adopt.tiny.sft: no such file"),
        ({"tiny.sft": {"1": "no/such"}}, "adopt.tiny.sft.1: no such file"),
        ({"tiny.sft": {"7": "docs"}}, "adopt.tiny.sft.7: no seed of the study"),
        ({"tiny.sft": {}}, "adopt.tiny.sft: has no folder for seed 1"),
        ({"tiny.sft": 3}, "adopt"),
    ],
)
def test_a_mistake_is_named_with_its_path(value, said):
    found = examine(put(config_of(EVERY_KEY), "adopt", value), folder=TESTS)
    assert any(line.startswith(said) for line in found.wrong), found.wrong


def test_a_folder_without_a_model_is_found_before_the_run(tiny_model):
    found = list(checkpoints(changed(EVERY_KEY, TAKEN).study))
    assert len(found) == 1 and found[0].certain
    assert found[0].text.startswith("adopt.tiny.sft: 'data/bundled' is no checkpoint: it needs config.json")
    assert list(checkpoints(changed(EVERY_KEY, {"adopt": {"tiny.sft": str(tiny_model)}}).study)) == []


def test_answers_are_no_weights():
    config = put(config_of(EVERY_KEY), "policies", {"gpt": {"judge": "asked"}})
    found = examine(put(config, "adopt", {"gpt": "docs"}), folder=TESTS)
    assert "adopt.gpt: has no weights: it comes from elsewhere as answers" in found.wrong
