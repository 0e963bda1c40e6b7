"""A template whose end is no token of its model is named before anything is made; without the tokenizer here, later."""

import json
import shutil

import pytest

from tests.plans import DEFAULT, changed
from tests.prepared import prepare
from tests.texts import TEMPLATES
from tests.tiny import ROOT, TEMPLATE, conversations, run_sft, settings_of, write_tokens
from workflow_scripts.common.chat_template import FILE, jinja_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.plan import template_ends
from workflow_scripts.plan.sources import base_model, source_folder
from workflow_scripts.plan.training import tokens_settings
from workflow_scripts.study import machine
from workflow_scripts.study.checking import examine
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.template_ends import added_tokens

OLD = "ends a reply with '<|end|>', which is no token of models.tiny, so no answer could end; choose a template whose"


@pytest.fixture
def config() -> dict:
    return read_yaml(ROOT / "tests/tutoring.yaml")


def looked_at(study: dict) -> list[str]:
    return examine(study, [machine.seen]).wrong


def with_tokenizer(study: dict, folder) -> dict:
    """Return a study whose model is a folder of this machine."""
    files = {path.name: str(path) for path in folder.iterdir() if path.is_file()}
    own = {"source": "own", "template": "tutor", "context": 512}
    return study | {
        "sources": study["sources"]
        | {"own": {"places": [{"file": {"files": files}}], "files": dict.fromkeys(files)}},
        "models": {"tiny": own},
    }


@pytest.mark.parametrize(
    ("key", "path"), [("template", "runs.sft.template"), ("asked_in", "runs.sft.asked_in")]
)
def test_the_check_names_a_template_that_a_models_files_have_no_end_for(config, tiny_model, key, path):
    for study in (config, with_tokenizer(config, tiny_model)):
        study["runs"]["sft"][key] = "phi3"
        (line,) = looked_at(study)
        assert line.startswith(f"{path}: phi3 {OLD}")
        for fine in ("tulu", "llama2", "hh", "phi3_text"):
            study["runs"]["sft"][key] = fine
            assert looked_at(study) == []
        del study["runs"]["sft"][key]


def test_the_check_names_a_models_own_template(config):
    config["models"]["tiny"]["template"] = "chatml"
    (line,) = looked_at(config)
    assert line.startswith("models.tiny.template: chatml ends a reply with '<|im_end|>'")


def test_an_end_is_a_mistake_by_the_reply_alone_and_none_is_none(config):
    part = {"before": "A:", "after": "\n"}
    own = {"start": "", "strip": True, "system": part, "user": part, "assistant": part | {"end": "###"}}
    config["templates"] = {"mine": own}
    config["runs"]["sft"]["template"] = "mine"
    assert "mine ends a reply with '###'" in looked_at(config)[0]
    own["reply"] = part | {"end": "</s>"}
    assert looked_at(config) == []
    own["reply"] = part
    assert looked_at(config) == []


def test_a_tokenizer_that_is_nowhere_here_is_no_mistake(config):
    place = {"hf": {"repo": "a/b", "revision": "0" * 39 + "1"}}
    config["sources"]["own"] = {"places": [place]}
    config["models"] = {"tiny": {"source": "own", "template": "phi3", "context": 512}}
    assert looked_at(config) == []


def test_the_plan_names_it_where_the_model_was_fetched_or_prepared_before(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = {"hf": {"repo": "a/b", "revision": "0" * 39 + "1"}}
    own = {"source": "own", "template": "tutor", "context": 512}
    changes = {"sources.own": {"places": [place]}, "models.tiny": own, "runs.sft.template": "phi3"}
    plan = changed(DEFAULT, changes)
    template_ends.check_ends(plan, "study")
    for folder in (f"{source_folder(plan, 'own')}/files", f"{base_model(plan, 'tiny')}/model"):
        shutil.copytree(tiny_model, tmp_path / folder)
        with pytest.raises(PlumblineError, match=r"runs.sft.template: phi3 ends a reply with"):
            template_ends.check_ends(plan, "study")
        template_ends.check_ends(changed(DEFAULT, changes | {"runs.sft.template": "tulu"}), "study")
        shutil.rmtree(tmp_path / folder)


def test_files_of_a_tokenizer_that_say_nothing_are_no_ground_for_a_mistake(tmp_path):
    for text in ("{", "[]", "{}", '{"added_tokens": 3}'):
        (tmp_path / "tokenizer.json").write_text(text)
        assert added_tokens({"tokenizer.json": tmp_path / "tokenizer.json"}) is None
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<e>"}, "added_tokens_decoder": {"1": {"content": "<a>"}}})
    )
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"content": "<b>"}]}')
    files = {name: tmp_path / name for name in ("tokenizer.json", "tokenizer_config.json")}
    assert added_tokens(files) == {"<e>", "<a>", "<b>"}


def test_a_model_is_not_prepared_for_a_template_whose_end_it_has_not(tiny_model, tmp_path):
    with pytest.raises(
        PlumblineError, match=r"ends a reply with '<\|end\|>', which is no token of this model"
    ):
        prepare(tiny_model, tmp_path / "prepared", format="hf", template=TEMPLATES["phi3"])
    assert not (tmp_path / "prepared").exists()


# --- a policy that is asked in another template ------------------------------------------------------------


def tokens_in(model, folder, monkeypatch, **settings):
    """Return the folder of two conversations as tokens, with settings of sft.tokenise of one's own."""
    monkeypatch.setattr("tests.tiny.TOKENISING", settings)
    return write_tokens(model, conversations(4), conversations(2), folder)


def test_a_policy_is_saved_with_the_template_it_is_asked_in(tiny_model, tmp_path, monkeypatch):
    tokens = tokens_in(tiny_model, tmp_path / "tokens", monkeypatch, asked_in=TEMPLATES["hh"])
    plain = tokens_in(tiny_model, tmp_path / "plain", monkeypatch)
    assert (tokens / "train.parquet").read_bytes() == (plain / "train.parquet").read_bytes()
    assert read_json(plain / "manifest.json")["template"] == TEMPLATE
    folder = run_sft(tiny_model, tokens, settings_of(max_steps=1, warmup=0.0), tmp_path / "sft")
    assert (folder / FILE).read_text() == jinja_of(TEMPLATES["hh"])


def test_nothing_is_trained_that_could_not_be_asked(tiny_model, tmp_path, monkeypatch):
    with pytest.raises(
        PlumblineError, match=r"ends a reply with '<\|end\|>', which is no token of this model"
    ):
        tokens_in(tiny_model, tmp_path / "tokens", monkeypatch, asked_in=TEMPLATES["phi3"])


def test_how_many_rows_a_fine_tuning_has_is_not_told_by_conversations_where_turns_are_rows():
    plan = changed(DEFAULT, {"runs.sft.template": "hh"})
    run = plan.study.runs["sft"]
    assert run.most_rows(plan.study) is None
    plan = changed(DEFAULT, {"runs.sft.template": "hh", "runs.sft.asked_in": "tutor"})
    assert plan.study.runs["sft"].most_rows(plan.study) is None
    plan = changed(DEFAULT, {"runs.sft.template": "tutor", "runs.sft.asked_in": "hh"})
    assert plan.study.runs["sft"].most_rows(plan.study) == changed(DEFAULT, {}).study.runs["sft"].most_rows(
        plan.study
    )
    assert json.loads(tokens_settings(plan, "tiny.sft"))["asked_in"] == TEMPLATES["hh"]
