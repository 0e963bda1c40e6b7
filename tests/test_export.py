"""A policy that is taken out answers elsewhere as in its study, and its card says what is known and nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.command import call
from tests.export_study import POLICIES, PROMPTS, found_in
from tests.plans import EVERY_KEY, changed, planned
from tests.workflow import ROOT, edit, table_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, sha256_of, write_json
from workflow_scripts.common.models import adapter_base
from workflow_scripts.export import export, found
from workflow_scripts.export.card import code, front_matter
from workflow_scripts.export.checks import check
from workflow_scripts.export.folder import tensors_of, write_folder
from workflow_scripts.plan.cleaning import dataset_settings
from workflow_scripts.plan.index import policy_facts

ASK = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer

said = {}
for name, (folder, talks) in json.load(sys.stdin).items():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said[name] = []
    for talk in talks:
        asked = tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**asked, max_new_tokens=12)
        said[name].append(tokenizer.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
assert not [name for name in sys.modules if name.startswith("workflow_scripts")]
print(json.dumps(said))
"""


@pytest.fixture
def study(exported_study) -> Path:
    return exported_study


@pytest.fixture(autouse=True)
def within(request, monkeypatch) -> None:
    """Stand in the study's folder, where a test asks for one."""
    name = next((each for each in ("own", "study") if each in request.fixturenames), None)
    if name:
        monkeypatch.chdir(request.getfixturevalue(name))


@pytest.fixture
def own(study, tmp_path) -> Path:
    """A copy of the study that a test may change."""
    return shutil.copytree(study, tmp_path / "study", symlinks=True)


@pytest.fixture
def fresh(monkeypatch) -> None:
    """Take every policy for up to date: asking Snakemake takes seconds."""
    monkeypatch.setattr(export, "refuse_stale", lambda _: None)


def take(policy: str, to: Path, **flags: object) -> dict:
    """Export a policy of the study in the working directory; return its facts."""
    more = [f"--{name}={value}" for name, value in flags.items()]
    call(export.main, f"--policy={policy}", f"--to={to}", *more)
    return read_json(to / "plumbline.json")


def test_plain_transformers_answers_twenty_prompts_as_the_study_did(study, fresh, tmp_path):
    asked = {}
    for policy in POLICIES:
        facts = take(policy, tmp_path / f"out of {policy}", check=20)
        assert facts["checks"] | {"prompts": 20, "answered_alike": 20, "as_stored": 20} == facts["checks"]
        rows = read_jsonl("results/taken/prompts/words.jsonl")
        asked[policy] = (str(tmp_path / f"out of {policy}"), [row["messages"] for row in rows])
    command = [sys.executable, "-I", "-c", ASK]
    done = subprocess.run(
        command, input=json.dumps(asked), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for policy, said in json.loads(done.stdout).items():
        stored = read_jsonl(f"results/taken/policies/{policy}/seed-1/generations/words.jsonl")
        assert len(stored) == PROMPTS
        # Bytes that make no character are decoded otherwise without the prompt before them: of random weights some do.
        told = [(text.partition("\n\n")[0], row["text"]) for text, row in zip(said, stored, strict=True)]
        whole = [pair for pair in told if "\ufffd" not in "".join(pair)]
        assert [one for one, _ in whole] == [other for _, other in whole], policy
        assert len(whole) >= 20 or policy == "stories"
    assert asked["tiny.sft"][1] and len(set(json.loads(done.stdout)["tiny.sft"])) > 1


def test_an_adapter_is_merged_and_a_whole_policy_is_copied_byte_for_byte(study, fresh, tmp_path):
    merged = take("tiny.low", tmp_path / "low", check=0)
    assert merged["weights"]["adapter"] == "merged" and merged["weights"]["format"] == "float32"
    assert not (tmp_path / "low/adapter_config.json").exists()
    take("tiny.sft", tmp_path / "sft", check=0)
    take("tiny", tmp_path / "tiny", check=0)
    parent = Path("results/taken/policies/tiny.sft/seed-1/model/model.safetensors")
    assert sha256_of(parent) == sha256_of(tmp_path / "sft/model.safetensors")
    one, other = (dict(tensors_of(tmp_path / name)) for name in ("low", "tiny"))
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert moved and all("q_proj" in name or "v_proj" in name for name in moved)


def test_weights_are_in_the_format_that_is_asked_for_and_the_card_says_which(study, fresh, tmp_path):
    facts = take("tiny.sft", tmp_path / "out", dtype="bfloat16", check=2)
    assert {tensor.dtype for _, tensor in tensors_of(tmp_path / "out")} == {torch.bfloat16}
    config = read_json(tmp_path / "out/config.json")
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert "bfloat16, made of float32 as was asked for" in (tmp_path / "out/README.md").read_text()
    assert facts["checks"]["prompts"] == 2
    with pytest.raises(PlumblineError, match="DTYPE=int8: give float32, bfloat16, float16"):
        take("tiny.sft", tmp_path / "other", dtype="int8")


def test_the_configuration_says_the_rotary_base_to_older_readers_too(study, fresh, tmp_path):
    take("tiny", tmp_path / "out", check=0)
    config = read_json(tmp_path / "out/config.json")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None
    assert read_json(tmp_path / "out/tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_generation_is_greedy_and_stops_at_the_ends_that_were_learned(study, fresh, tmp_path):
    take("tiny.sft", tmp_path / "out", check=0)
    own = read_json(tmp_path / "out/generation_config.json")
    assert own["eos_token_id"] == 2 and not own.get("do_sample")
    assert not {"temperature", "top_p", "top_k", "repetition_penalty"} & {
        key for key in own if own[key] is not None
    }


def test_a_model_s_own_chat_template_goes_with_it(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no study has run
    model = shutil.copytree(tiny_model, tmp_path / "model")
    own = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    own += "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    (model / "chat_template.jinja").write_text(own)
    taken = found_in(model, {"own": True})
    (tmp_path / "out").mkdir()
    write_folder(taken, tmp_path / "out", None)
    assert (tmp_path / "out/chat_template.jinja").read_text() == own
    assert check(taken, tmp_path / "out", None, 3)["rendered_alike"] == 3


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_has_the_table_s_rows_of_the_policy_with_intervals_counts_and_records(
    study, fresh, tmp_path
):
    facts = take("tiny.low", tmp_path / "out", check=0)
    rows = [row for row in table_of(Path(), "taken") if row["policy"] == "tiny.low"]
    assert len(facts["results"]["rows"]) == len(rows) > 4
    for kept, row in zip(facts["results"]["rows"], rows, strict=True):
        assert kept == {key: row[key] for key in kept} and {"value", "n", "provenance"} <= kept.keys()
    assert set(facts["results"]["records"].values()) == {row["provenance"] for row in rows}
    text = (tmp_path / "out/README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| words ")]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert f"| {row['n']} | {row['groups']} |" in line and line.endswith(f"| {row['provenance']} |")
    assert "± " in lines[0] or "[" in lines[0]


def test_the_card_tells_lineage_data_settings_and_licences_as_the_study_has_them(study, fresh, tmp_path):
    facts = take("tiny.low", tmp_path / "out", check=0)
    [run] = facts["lineage"]
    assert (run["policy"], run["method"], run["parent"], run["learned_from"]) == (
        "tiny.low",
        "sft",
        "tiny",
        "chat/train",
    )
    assert (run["settings"]["learning_rate"], run["settings"]["lora"]["rank"], run["made"]["steps"]) == (
        0.05,
        2,
        8,
    )
    assert run["material"]["train"]["kept"] + run["material"]["train"]["rejected"] == 20
    assert facts["datasets"][0]["splits"]["train"]["conversations"] == 20
    assert facts["files"]["model.safetensors"] == sha256_of(tmp_path / "out/model.safetensors")
    text = (tmp_path / "out/README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert "license" not in head and "base_model" not in head and "datasets" not in head
    assert "Licence of the base model: not known: the study does not say." in text
    assert "licence: `made up`" in text and "`chat/train`: 20 conversations" in text
    assert facts["manifest"]["sha256"] in text


def test_a_base_model_has_a_card_too(study, fresh, tmp_path):
    facts = take("bare", tmp_path / "out", check=1)
    text = (tmp_path / "out/README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "apache-2.0"
    assert facts["lineage"] == facts["datasets"] == [] and facts["seed"] is None
    assert "None: this is a base model, as it came." in text


def test_fields_of_the_head_come_from_where_files_came_from():
    facts = {
        "base_model": {
            "license": "Llama 3 Community",
            "source": {"name": "w", "repo": "a/b", "revision": "0"},
        },
        "datasets": [{"made_of": [{"source": {"name": "d", "repo": "c/d"}}, {"source": {"name": "e"}}]}],
        "lineage": [{"method": "sft"}, {"method": "dpo"}],
    }
    head = front_matter(facts)
    assert (head["license"], head["license_name"]) == ("other", "Llama 3 Community")
    assert (head["base_model"], head["datasets"]) == ("a/b", ["c/d"])
    assert head["tags"] == ["plumbline", "sft", "dpo"]


def test_names_with_backticks_and_breaks_close_nothing_on_the_card():
    assert code("a`b\n# c") == "`` a`b # c ``"
    assert code("plain") == "`plain`"


def test_without_a_table_the_card_says_so(own, fresh, tmp_path):
    (own / "results/taken/results.csv").unlink()
    facts = take("tiny.sft", tmp_path / "out", check=1)
    assert "no results.csv yet" in facts["results"]["missing"]
    assert "None: the study has no results.csv yet" in (tmp_path / "out/README.md").read_text()


def test_before_any_answer_prompts_are_asked_all_the_same(own, fresh, tmp_path):
    shutil.rmtree(own / "results/taken/prompts")
    shutil.rmtree(own / "results/taken/policies/tiny.sft/seed-1/generations")
    (own / "results/taken/results.csv").unlink()
    checks = take("tiny.sft", tmp_path / "out")["checks"]
    assert (checks["prompts"], checks["answered_alike"], checks["answers_stored"]) == (5, 5, 0)


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(policy: str = "tiny.sft", to: object = "out", **flags: object) -> str:
    """Return why an export is refused; nothing is written."""
    with pytest.raises(PlumblineError) as said:
        take(policy, Path(str(to)), **flags)
    assert not Path("out").exists()
    return str(said.value)


def test_a_policy_that_is_not_there_is_named_with_the_nearest_one(study, fresh):
    assert "no policy is called 'tiny.stf'; did you mean 'tiny.sft'?" in refused("tiny.stf")
    assert "tiny.sft is there with seed 1, not with 7" in refused(seed=7)
    assert "SEED=one: a whole number is needed" in refused(seed="one")


def test_a_folder_that_holds_something_is_left_alone(study, fresh, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert "is not empty" in refused(to=tmp_path / "full")
    assert "is no folder" in refused(to=tmp_path / "full/mine.txt")
    assert (tmp_path / "full/mine.txt").read_text() == "mine"


def test_what_is_not_trained_yet_or_diverged_says_what_to_do(own, fresh):
    manifest = own / "results/taken/policies/tiny.sft/seed-1/manifest.json"
    note = {"step": 3, "learning_rate": 1.0, "quantity": "loss is", "whose": "training"}
    write_json(manifest, {"files": {}, "diverged": note})
    assert "has no weights: training diverged at step 3" in refused()
    manifest.unlink()
    assert "tiny.sft (seed 1) is not trained yet" in refused()
    assert "run make results STUDY=config.yaml" in refused()


def test_a_changed_weight_file_is_named(own, fresh):
    path = own / "results/taken/policies/tiny.sft/seed-1/model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    said = refused()
    assert "is not what it was when it was made" in said and "model.safetensors: expected sha256" in said


def test_a_changed_base_of_an_adapter_is_named(own, fresh):
    base = adapter_base(Path("results/taken/policies/tiny.low/seed-1/model"))
    (base / "config.json").write_text("{}")
    assert f"{base.relative_to(own)}/config.json: expected sha256" in refused("tiny.low")


def test_a_table_that_rests_on_something_else_is_no_card(own, fresh):
    edit(own / "results/taken/results.csv", "tiny.sft,", "tiny.sft ,")
    assert "do not rest on what is there now" in refused()


def test_a_policy_that_its_study_would_make_anew_is_refused_with_the_reason(own):
    edit(own / "config.yaml", "max_steps: 4", "max_steps: 5")
    said = refused()
    assert "is out of date" in said and "max_steps" in said
    found.refuse_stale(found.find(Path("config.yaml"), "tiny", None))  # no run made it


def test_a_folder_that_answers_otherwise_gets_no_name(study, fresh, tmp_path, monkeypatch):
    original = export.write_folder

    def spoilt(one, folder, wanted):
        facts = original(one, folder, wanted)
        shutil.copyfile(
            "results/taken/policies/tiny.sft/seed-1/model/model.safetensors", folder / "model.safetensors"
        )
        return facts

    monkeypatch.setattr(export, "write_folder", spoilt)
    with pytest.raises(PlumblineError, match="prompts otherwise than the policy of the study"):
        take("bare", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_licence_makes_nothing_stale():
    names = {"models.tiny.license": "other", "datasets.tutored.license": "mine"}
    one, other = planned(EVERY_KEY), changed(EVERY_KEY, names)
    assert dataset_settings(one, "tutored") == dataset_settings(other, "tutored")
    assert policy_facts(one, "tiny") == policy_facts(other, "tiny")


# --- make -------------------------------------------------------------------------------------------------------------


def test_make_hands_on_every_name_as_it_is(tmp_path):
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> arrived\n')
    (tmp_path / "bin/python").chmod(0o755)
    odd = "it's $(shell touch PWNED) `touch PWNED` $HOME; touch PWNED, #"
    given = {name: f"{name} {odd}" for name in ("POLICY", "TO", "SEED", "GGUF", "DTYPE", "CHECK", "PUSH")}
    command = [
        "make",
        "-o",
        ".venv/ready",
        "BIN=bin",
        "export",
        *(f"{key}={text}" for key, text in given.items()),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "arrived").read_text().split("\0")
    for name, text in given.items():
        assert f"--{name.lower()}={text}" in words
    assert not list(tmp_path.rglob("PWNED"))


def test_without_a_policy_or_a_place_it_is_said_what_to_give(monkeypatch):
    with pytest.raises(PlumblineError, match="make export POLICY="):
        call(export.main, "--to=out")
    with pytest.raises(PlumblineError, match="TO is empty"):
        call(export.main, "--policy=tiny")
