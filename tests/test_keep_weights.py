"""Weights that go once the table is made: whose, that nothing is stale by it, and what says so afterwards."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.plans import DEFAULT, EVERY_KEY, changed, config_of, study_of
from tests.studies import put
from tests.workflow import snakemake, stale
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import sha256_of, write_manifest
from workflow_scripts.export.found import find
from workflow_scripts.plan import keeping
from workflow_scripts.plan.index import provenance_settings
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.report.removed import NOTE, removed_by
from workflow_scripts.report.results import FEWER
from workflow_scripts.report.spreadsheets import write_table
from workflow_scripts.report.verify import Checked, check_records
from workflow_scripts.study.checking import examine

BAR = {"benchmark": "tutor", "subset": "action", "metric": "accuracy"}


def plan_with(keep: str, **changes) -> Plan:
    return changed(DEFAULT, {"keep_weights": keep, "report.headline": [BAR]} | changes)


def row(policy: str, value: float | str, better: bool | str = True, **more) -> dict:
    return {"policy": policy, "seed": 1, "value": value, "higher_is_better": better} | BAR | more


ROWS = [
    row("gold", 1.0),
    row("tiny", 0.1),
    row("tiny.sft", 0.5),
    row("tiny.sft.dpo", 0.8),
    row("tiny.sft.ipo", 0.6),
    row("tiny.sft.ipo", 0.99, subset="state"),
]


def text_rows(rows: list[dict]) -> list[dict]:
    """Return rows as a table that is read has them."""
    words = {True: "true", False: "false"}
    return [{name: words.get(value, str(value)) if name == "higher_is_better" else str(value)
             for name, value in (dict.fromkeys(FEWER, "") | each).items()} for each in rows]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A study whose policies have weights, and whose table is made."""
    monkeypatch.chdir(tmp_path)
    plan = plan_with("all")
    for policy in plan.made():
        own = Path(plan.layout.policy(policy, 1))
        (own / "model").mkdir(parents=True)
        (own / "model" / "weights.safetensors").write_bytes(policy.encode() * 10)
        write_manifest(own / "manifest.json", [own / "model"], steps=3)
    write_table(Path("results/tutor/results.csv"), FEWER, ROWS)
    return tmp_path


def with_weights() -> set[str]:
    return {path.parents[1].name for path in Path("results/tutor/policies").glob("*/seed-1/model")}


def test_the_best_is_by_the_first_headline_cell_in_its_good_direction():
    plan = plan_with("best")
    assert keeping.best_policy(plan, text_rows(ROWS)) == "tiny.sft.dpo"
    down = [one | {"higher_is_better": False} for one in ROWS]
    assert keeping.best_policy(plan, text_rows(down)) == "tiny"
    seeds = [row("tiny.sft", 0.9), row("tiny.sft", 0.2, seed="all"), *ROWS[3:]]
    assert (
        keeping.best_policy(plan, text_rows(seeds)) == "tiny.sft.dpo"
    )  # the mean over seeds, not one of them
    assert keeping.best_policy(plan, text_rows([row("tiny.sft", ""), row("tiny", 0.3, "")])) is None


def test_the_best_and_its_ancestors_stay_and_the_manifests_are_as_they_were(folder):
    before = {
        path: path.read_bytes() for path in folder.glob("results/tutor/policies/*/seed-1/manifest.json")
    }
    (line,) = keeping.take_away(plan_with("best"))
    assert with_weights() == {"tiny.sft", "tiny.sft.dpo"}
    assert line.startswith("keep_weights: best: removed the weights of all but tiny.sft, tiny.sft.dpo (")
    assert {path: path.read_bytes() for path in before} == before
    note = json.loads(Path("results/tutor/policies/tiny.sft.ipo/seed-1", NOTE).read_text())
    assert note["keep_weights"] == "best" and note["files"] == ["model/weights.safetensors"]
    assert keeping.take_away(plan_with("best")) == []  # nothing is left to be removed


def test_none_keeps_none_all_keeps_all_and_what_has_no_value_keeps_all(folder):
    assert keeping.take_away(plan_with("all")) == []
    write_table(Path("results/tutor/results.csv"), FEWER, [row("tiny.sft", "")])
    (line,) = keeping.take_away(plan_with("best"))
    assert line.startswith("warning: keep_weights: best: the first headline cell rates no policy")
    assert len(with_weights()) == len(plan_with("all").made())
    keeping.take_away(plan_with("none"))
    assert with_weights() == set()


def test_weights_that_are_back_are_not_removed_any_more(folder):
    keeping.take_away(plan_with("none"))
    own = Path("results/tutor/policies/tiny.sft/seed-1")
    assert removed_by(own) == "none"
    (own / "model").mkdir()
    assert removed_by(own) is None


def job(rule: str, *inputs: str, outputs: tuple[str, ...] = ()) -> SimpleNamespace:
    """Return a job as Snakemake has it; all but those of the tables ask for GPUs, none perhaps."""
    resources = {} if rule == "record_provenance" else {"_cores": 1, "gpu": 0}
    named = SimpleNamespace(name=rule, resources=resources)
    return SimpleNamespace(rule=named, input=list(inputs), output=list(outputs))


def run_of(*jobs: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(dag=SimpleNamespace(needrun_jobs=lambda: jobs))


def test_a_run_that_needs_removed_weights_is_told_all_that_is_to_be_trained_again(folder):
    plan = plan_with("none")
    keeping.refuse_removed(
        plan, run_of(job("answer", "results/tutor/policies/tiny.sft.dpo/seed-1/manifest.json"))
    )
    keeping.take_away(plan)
    sft, dpo, ipo = (
        f"results/tutor/policies/tiny.sft{name}/seed-1/manifest.json" for name in ("", ".dpo", ".ipo")
    )
    with pytest.raises(PlumblineError) as refused:
        keeping.refuse_removed(plan, run_of(job("answer", dpo)))
    text = str(refused.value)
    assert "keep_weights: none" in text and sft in text and dpo in text and ipo not in text
    # what is trained in this run needs its parent alone; tables read no weights
    with pytest.raises(PlumblineError) as refused:
        keeping.refuse_removed(plan, run_of(job("train_aligned", sft, outputs=(dpo,)), job("answer", dpo)))
    assert sft in str(refused.value) and dpo not in str(refused.value)
    keeping.refuse_removed(plan, run_of(job("record_provenance", sft, dpo)))
    both = (job("train_sft", outputs=(sft,)), job("train_aligned", sft, outputs=(dpo,)), job("answer", dpo))
    keeping.refuse_removed(plan, run_of(*both))


def test_verify_names_weights_that_were_removed_and_still_finds_others_that_are_lost(folder):
    sft, dpo = (f"results/tutor/policies/tiny.sft{name}/seed-1/manifest.json" for name in ("", ".dpo"))
    digests = {path: sha256_of(path) for path in (sft, dpo)}
    keeping.take_away(plan_with("best"))
    keeping.remove(Path(dpo).parent, "none")
    shutil.rmtree(Path(sft).parent / "model")
    checked = Checked()
    check_records(checked, {"tiny|1|tutor": {"id": "x", "files": digests}}, Path("provenance.json"))
    assert checked.removed == {dpo: "none"}
    assert [line.split(":")[0] for line in checked.missing] == [
        "results/tutor/policies/tiny.sft/seed-1/model/weights.safetensors"
    ]


def test_a_policy_without_weights_is_not_taken_out_and_it_is_said_why(folder, tmp_path):
    keeping.take_away(plan_with("none"))
    with pytest.raises(PlumblineError, match=r"were removed at the end of a run \(keep_weights: none\)"):
        find(Path(__file__).resolve().parents[1] / DEFAULT, "tiny.sft", 1)


def test_the_best_needs_a_cell_to_go_by():
    config = put(put(config_of(DEFAULT), "keep_weights", "best"), "report.bars", [])
    assert "keep_weights: best goes by the first cell" in " ".join(examine(config).wrong)
    assert examine(put(config, "keep_weights", "none")).wrong == []
    wrong = " ".join(examine(put(config, "keep_weights", "some")).wrong)
    assert "keep_weights" in wrong and "'best'" in wrong


def test_the_key_is_no_part_of_what_results_rest_on():
    study = study_of(EVERY_KEY)
    other = study.model_copy(update={"keep_weights": "all"})
    assert study.keep_weights == "best"
    assert provenance_settings(plan_of(study)) == provenance_settings(plan_of(other))


def test_a_finished_study_without_weights_has_nothing_to_do_and_one_that_asks_again_is_stopped(study):
    table = study / "results/tutor/results.csv"
    for own in study.glob("results/tutor/policies/*/seed-1"):
        if (own / "model").exists():
            shutil.rmtree(own / "model")
            (own / NOTE).write_text('{"keep_weights": "none", "files": []}')
    before = table.stat().st_mtime_ns
    assert stale(study) == set()
    done = snakemake(study, "--config", "keep_weights=none")
    assert "Nothing to be done" in done.stdout + done.stderr and table.stat().st_mtime_ns == before
    wanted = ("results/tutor/policies/tiny.sft.dpo/seed-1/answered.json", "--forcerun", "answer_prompts")
    again = snakemake(study, *wanted, check=False)
    assert again.returncode != 0
    # all that answers is forced, tiny.sft among it, so that what descends from it would be trained anew
    assert "results/tutor/policies/tiny.sft/seed-1/manifest.json" in again.stdout + again.stderr
    assert "keep_weights: none" in again.stdout + again.stderr
