"""Models by path, by name and from a hub: settled, a study equals the long form; what is no model says what to do."""

import json
import shutil
from pathlib import Path

import pytest

from tests.family_templates import DATED, FAMILIES
from tests.plans import DEFAULT, config_of, plan_of
from tests.studies import put
from tests.texts import TEMPLATES
from workflow_scripts.common.files import read_json, sha256_of, write_json
from workflow_scripts.plan.sources import local_files, model_settings, models, source_key
from workflow_scripts.study.checking import check_study, examine
from workflow_scripts.study.settling import lock
from workflow_scripts.study.settling import models as settling

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def speaker(tiny_model, tmp_path) -> Path:
    """The tiny model with a chat template of its maker's."""
    folder = shutil.copytree(tiny_model, tmp_path / "speaker")
    (folder / "chat_template.jinja").write_text(FAMILIES["zephyr"], encoding="utf-8")
    return folder


def with_model(model: dict) -> dict:
    return config_of(DEFAULT) | {"models": {"tiny": model}}


def looked_at(model: dict, folder: Path | None = None):
    return examine(with_model(model), folder=folder) if folder else examine(with_model(model))


def mistakes(model: dict, folder: Path | None = None) -> list[str]:
    return looked_at(model, folder).wrong


def adapter_of(base: Path, folder: Path, named: str) -> Path:
    """Write a small adapter of a model, its weights drawn at random, that names its base as it is told to."""
    import torch
    from peft import LoraConfig, get_peft_model

    from workflow_scripts.common.models import load_policy

    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(load_policy(base), config)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(folder)
    found = read_json(folder / "adapter_config.json") | {"base_model_name_or_path": named}
    write_json(folder / "adapter_config.json", found)
    return folder


def test_a_folder_becomes_the_long_form(speaker):
    files = {path.name: str(path) for path in speaker.iterdir()}
    config = with_model(
        {"source": "tiny", "format": "hf", "template": "tokenizer", "context": 512, "parameters": 31392.0}
    )
    config = put(
        config, "sources.tiny", {"files": dict.fromkeys(files), "places": [{"file": {"files": files}}]}
    )
    short = check_study(with_model({"path": str(speaker)}))
    long = check_study(config)
    assert short.models == long.models
    assert short.sources["tiny"].files == long.sources["tiny"].files
    assert plan_of(short).policies == plan_of(long).policies
    plan = plan_of(short)
    # Whatever these hold is taken, and other bytes make the model anew.
    assert set(local_files(plan, source_key(plan, "tiny"))) == set(files.values())
    [name] = models(plan_of(short))
    assert json.loads(model_settings(plan_of(short), name))["template"] == {"own": True}


def test_what_was_found_is_said(speaker):
    (line,) = looked_at({"path": str(speaker)}).said
    assert line == (
        "models.tiny: LlamaForCausalLM, 31,392 weights in float32, context 512, speaks its own chat template, ends "
        f"with </s>; from {speaker}"
    )
    (line,) = looked_at({"path": str(speaker), "template": "tulu", "context": 300}).said
    assert "context 300, speaks tulu; " in line


@pytest.mark.parametrize(
    ("config", "tokenizer", "context"),
    [
        ({"max_position_embeddings": 4096}, {}, 4096),
        ({"max_position_embeddings": 4096}, {"model_max_length": 2048}, 2048),
        ({"max_position_embeddings": 4096}, {"model_max_length": 10**30}, 4096),
        ({"max_position_embeddings": None, "n_positions": 1024}, {"model_max_length": 8192}, 1024),
    ],
)
def test_the_context_is_what_model_and_tokenizer_can_read(speaker, config, tokenizer, context):
    for name, values in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        write_json(speaker / name, read_json(speaker / name) | values)
    assert check_study(with_model({"path": str(speaker)})).models["tiny"].context == context


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def pickled(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def dated(folder: Path) -> Path:
    (folder / "chat_template.jinja").write_text(DATED.replace("<|im_end|>", "</s>"), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            pickled,
            "has its weights as pickles alone (pytorch_model.bin), which may run code as they are loaded",
        ),
        (
            lambda folder: without(folder, "config.json"),
            "has no config.json, so it is no model that transformers",
        ),
        (
            lambda folder: without(folder, "model.safetensors"),
            "has no *.safetensors: its weights are missing",
        ),
        (
            lambda folder: without(folder, "tokenizer.json"),
            "has no tokenizer (no tokenizer.json, *.model or vocab",
        ),
        (
            lambda folder: folder / "config.json",
            "is a file, and no .gguf: name the folder that has config.json",
        ),
        (lambda folder: folder / "speeker", "no such folder"),
        (
            lambda folder: without(folder, "chat_template.jinja"),
            "the model has no chat template; name one, `template: tulu` say (zephyr, mistral",
        ),
        (dated, "writes today's date"),
    ],
)
def test_what_is_no_model_says_what_to_do(speaker, change, said):
    lines = mistakes({"path": str(change(speaker))})
    assert len(lines) == 1
    assert said in lines[0]
    assert lines[0].startswith("models.tiny.")


def test_a_broken_gguf_file_is_said_to_be_one(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\0" * 20)
    (line,) = mistakes({"path": str(tmp_path / "x.gguf")})
    assert "cannot be read as a GGUF model" in line


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            {"preset": "stories15m", "path": "x"},
            "comes from one of source, path, hf, preset, not path and preset",
        ),
        (
            {"template": "tulu", "context": 9},
            "comes from one of source, path, hf, preset, and has none of them",
        ),
        ({"source": "stories15m"}, "needs template and context beside source"),
        ({"preset": "stories15m", "format": "gguf"}, "has preset: format cannot be said beside it"),
        ({"path": "x", "revision": "v1"}, "has path: revision cannot be said beside it"),
        ({"hf": "a/b", "base": {"path": "x", "hf": "a/b"}}, "names one of path and hf"),
        ({"preset": "stories15"}, "no preset is called 'stories15'; did you mean 'stories15m'?"),
    ],
)
def test_a_model_comes_from_one_place(model, said):
    assert any(said in line for line in mistakes(model))


def test_a_source_of_the_same_name_is_refused(speaker):
    config = put(config_of(DEFAULT), "models", {"dialogues": {"path": str(speaker)}})
    assert any("a source is called dialogues, too" in line for line in examine(config).wrong)


def test_a_preset_is_the_default_studys_model():
    found, default = check_study(with_model({"preset": "stories15m"})), check_study(config_of(DEFAULT))
    assert found.sources["tiny"] == default.sources["stories15m"]
    assert found.models["tiny"] == default.models["tiny"].model_copy(
        update={"source": "tiny", "template": "tulu"}
    )
    own = check_study(with_model({"preset": "stories15m", "template": "tutor", "context": 300})).models[
        "tiny"
    ]
    assert (own.template, own.context) == ("tutor", 300)


def test_every_preset_makes_a_study():
    for name in settling.presets():
        assert mistakes({"preset": name}) == []


def test_the_models_own_template_is_named_while_it_still_is(speaker):
    config = put(with_model({"path": str(speaker), "template": "tulu"}), "runs.sft.template", "tokenizer")
    (line,) = [line for line in examine(config).wrong if line.startswith("runs.sft.template")]
    assert "tiny speaks tulu, which has taken its place: give models.tiny the template tokenizer" in line
    config = put(with_model({"path": str(speaker)}), "runs.sft.template", "tokenizer")
    assert not [line for line in examine(config).wrong if "tokenizer" in line]
    own = put(config_of(DEFAULT), "templates", {"tokenizer": TEMPLATES["chatml"]})
    said = "templates.tokenizer: names the chat template of a model's own"
    assert any(said in line for line in examine(own).wrong)


# --- from a hub, by what the lock has ---------------------------------------------------------------------------------


def locked(study: Path, repo: str, folder: Path) -> dict[str, str]:
    """Put a repository with the files of a folder into the lock beside a study; return what pins them."""
    pins = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    lock.keep(study, lock.Entry("model", repo, "main", None, None, COMMIT, pins, {}))
    return pins


@pytest.fixture
def hub(monkeypatch) -> dict[str, Path]:
    """Folders in place of the hub's repositories."""
    folders: dict[str, Path] = {}
    monkeypatch.delenv(lock.JOB)
    monkeypatch.setattr(settling, "hub_file", lambda entry, name: folders[entry.repo] / name)
    return folders


def test_a_model_of_a_hub_is_what_the_lock_has(speaker, hub, tmp_path):
    (speaker / "pytorch_model.bin").write_bytes(b"")
    hub["a/b"] = speaker
    pins = locked(tmp_path, "a/b", speaker)
    study = check_study(with_model({"hf": "a/b"}), folder=tmp_path)
    del pins["pytorch_model.bin"]
    assert study.sources["tiny"].files == pins
    [place] = study.sources["tiny"].places
    assert (place.hf.repo, place.hf.revision, place.hf.repo_type) == ("a/b", COMMIT, "model")
    assert (study.models["tiny"].template, study.models["tiny"].context) == ("tokenizer", 512)
    del hub["a/b"]  # what the files say is in the lock, too: nobody is asked again
    assert check_study(with_model({"hf": "a/b"}), folder=tmp_path) == study


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_an_adapter_is_merged_into_its_base(tiny_model, tmp_path):
    import torch

    from tests.prepared import prepare
    from workflow_scripts.common.models import load_policy
    from workflow_scripts.download.fetch import place_file

    adapter = adapter_of(tiny_model, tmp_path / "adapter", "owner/name")
    study = check_study(
        with_model({"path": str(adapter), "base": {"path": str(tiny_model)}, "template": "tulu"})
    )
    [place] = study.sources["tiny"].places
    for name, path in place.file.files.items():
        place_file(Path(path), tmp_path / "source" / name, tmp_path / "work")
    manifest = prepare(tmp_path / "source", tmp_path / "merged", format="hf")
    assert manifest["adapter"] == {"merged_in": "float32", "kept_in": "float32"}
    assert not list((tmp_path / "merged").glob("adapter*"))
    write_json(
        adapter / "adapter_config.json",
        read_json(adapter / "adapter_config.json") | {"base_model_name_or_path": str(tiny_model)},
    )
    merged, expected = load_policy(tmp_path / "merged").state_dict(), load_policy(adapter).state_dict()
    assert merged.keys() == expected.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
    assert not torch.equal(
        merged["model.layers.0.self_attn.q_proj.weight"],
        load_policy(tiny_model).state_dict()["model.layers.0.self_attn.q_proj.weight"],
    )


def test_an_adapters_base_is_the_folder_it_names_or_the_study_says(speaker, hub, tmp_path):
    adapter = adapter_of(speaker, tmp_path / "adapter", "owner/name")
    (line,) = mistakes({"path": str(adapter)})
    assert "is an adapter of 'owner/name', which is no folder here: say where its base is" in line
    write_json(
        adapter / "adapter_config.json",
        read_json(adapter / "adapter_config.json") | {"base_model_name_or_path": "../speaker"},
    )
    named = check_study(with_model({"path": str(adapter)})).sources["tiny"].places[0].file.files
    assert named["model.safetensors"] == str(speaker / "model.safetensors")
    assert named["adapter_model.safetensors"] == str(adapter / "adapter_model.safetensors")
    (line,) = mistakes({"path": str(speaker), "base": {"path": str(speaker)}})
    assert "is a whole model, no adapter: leave out base" in line
    hub["a/b"] = speaker
    locked(tmp_path, "a/b", speaker)
    study = check_study(with_model({"path": str(adapter), "base": {"hf": "a/b"}}), folder=tmp_path)
    first, second = study.sources["tiny"].places
    assert (first.hf.repo, set(second.file.files)) == (
        "a/b",
        {"adapter_config.json", "adapter_model.safetensors"},
    )
    assert all(study.sources["tiny"].files.values())
    hub["a/adapter"] = adapter
    locked(tmp_path, "a/adapter", adapter)
    study = check_study(with_model({"hf": "a/adapter", "base": {"hf": "a/b"}}), folder=tmp_path)
    assert [place.hf.repo for place in study.sources["tiny"].places] == ["a/b", "a/adapter"]
