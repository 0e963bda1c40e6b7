"""Questions that one dataset holds out are learned from in no other, unless the study allows it."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cleaning import cleaning as cleaning_settings
from tests.command import call
from tests.plans import DEFAULT, EVERY_KEY, SHIPPED, changed, planned, told
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.clean import clean, mix
from workflow_scripts.clean import keep_apart as stage
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.plan import cleaning, retrieval
from workflow_scripts.plan.index import index_entries
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.report.index import entry_of
from workflow_scripts.report.overlaps import allowed_overlap
from workflow_scripts.study.checking import check_study, examine
from workflow_scripts.study.reading import read_yaml

TEMPLATE = """
study: apart
sources:
  one: {files: {rows.jsonl: null}, places: [{https: {files: {rows.jsonl: "https://example.org/1"}}}]}
  two: {files: {rows.jsonl: null}, places: [{https: {files: {rows.jsonl: "https://example.org/2"}}}]}
  three: {files: {rows.jsonl: null}, places: [{https: {files: {rows.jsonl: "https://example.org/3"}}}]}
  weights: {files: {w.bin: null, t.bin: null}, places: [{https: {files: {w.bin: "https://example.org/w", t.bin: "https://example.org/t"}}}]}
models:
  tiny: {source: weights, format: llama2c, weights: w.bin, tokenizer: t.bin, template: tutor, context: 512}
"""


ON_TRAIN = {"method": "sft", "parent": "tiny", "split": "train", "validation": None, "learning_rate": 1e-4}


def study_of(datasets: dict, learned: list[str], asked: list[str], **more) -> dict:
    """Return a study with runs on the train splits of some datasets and benchmarks on the test splits of others."""
    import yaml

    study = yaml.safe_load(TEMPLATE) | more
    study["datasets"] = datasets
    study["runs"] = {f"on-{name}": ON_TRAIN | {"dataset": name} for name in learned}
    study["benchmarks"] = {f"of-{name}": {"kind": "loss", "dataset": name, "split": "test"} for name in asked}
    return study


def files_of(source: str, **more) -> dict:
    split = {"train": 0.6, "test": 0.4}
    return {"source": source, "files": ["rows.jsonl"], "schema": "prompt_completion", "split": split} | more


THREE = {name: files_of(name, group_by="question") for name in ("one", "two", "three")}
CLEAN = "data/clean/apart"


def plan_for(*given, **more):
    return plan_of(check_study(study_of(*given, **more)))


# --- which jobs there are ---------------------------------------------------------------------------------------------


def test_a_dataset_that_is_learned_from_waits_for_what_all_others_hold_out_and_none_for_another():
    plan = plan_for(THREE, ["one", "two"], ["one", "two", "three"])
    assert cleaning.apart_folders(plan) == ["one", "two"]
    assert cleaning.folders(plan) == ["one.bare", "two.bare", "three"]
    assert cleaning.apart_from(plan, "one") == f"{CLEAN}/one.bare/manifest.json"
    assert cleaning.apart_inputs(plan, "one") == [
        f"{CLEAN}/{name}/manifest.json" for name in ("three", "two.bare")
    ]
    assert cleaning.apart_rows(plan, "two") == [
        f"{name}/test=$CLEAN/{folder}/rows/test.jsonl"
        for name, folder in (("one", "one.bare"), ("three", "three"))
    ]
    assert told(cleaning.apart_settings(plan, "one")) == {
        "learned": ["train"], "by_problem": {"two/test": False, "three/test": False}
    }  # fmt: skip


def test_what_a_mixture_learns_and_what_is_asked_of_one_are_those_of_its_datasets():
    mixed = THREE | {"mix": {"mixture": {"one": 0.5, "two": 0.5}}}
    plan = plan_for(mixed, ["mix"], ["three"])
    assert cleaning.apart_folders(plan) == ["one", "two"]
    assert cleaning.mixed_datasets(plan, "mix") == [
        f"{CLEAN}/{name}/manifest.json" for name in ("one", "two")
    ]
    plan = plan_for(mixed, ["three"], ["mix"])
    assert cleaning.apart_folders(plan) == ["three"]
    assert len(cleaning.apart_rows(plan, "three")) == 2


@pytest.mark.parametrize("held", ["validation", "watch"])
def test_what_is_validated_on_or_watched_is_held_out_too(held):
    study = study_of(THREE, ["one", "two"], [])
    if held == "validation":
        study["runs"]["on-one"]["validation"] = "test"
    else:
        split = {"train": 0.6, "dev": 0.4}
        study["datasets"] = THREE | {"one": files_of("one", split=split)}
        study["runs"]["on-one"]["watch"] = {"dataset": "one", "split": "dev", "metric": "words"}
    assert cleaning.apart_folders(plan_of(check_study(study))) == ["two"]


@pytest.mark.parametrize(
    ("datasets", "learned", "asked", "more"),
    [
        (THREE, ["one"], ["one"], {}),  # one dataset keeps its own apart
        (THREE, ["one"], ["two"], {"allow_overlap": True}),
        (THREE | {"one": files_of("one", exclude_groups_of=["two/test"])}, ["one"], ["two"], {}),
        (THREE | {"two": files_of("two", exclude_groups_of=["one/train"])}, ["one"], ["two"], {}),
        (THREE, [], ["one", "two"], {}),  # nothing is learned
    ],
)
def test_no_job_is_planned_where_nothing_is_to_be_kept_apart(datasets, learned, asked, more):
    plan = plan_for(datasets, learned, asked, **more)
    assert cleaning.apart_folders(plan) == []
    assert cleaning.folders(plan) == list(datasets)


def test_groups_that_are_kept_out_already_are_read_as_cleaning_leaves_them_so_that_no_circle_is_made():
    two = files_of("two", exclude_groups_of=["one/test"])
    plan = plan_for(THREE | {"two": two}, ["one", "two"], ["one", "two"])
    assert cleaning.apart_folders(plan) == ["one"]  # it waits for two, and two for what it was cleaned into
    assert cleaning.held_out(plan, "two") == [f"{CLEAN}/one.bare/manifest.json"]
    assert told(cleaning.dataset_settings(plan, "two"))["exclude_groups_of"] == [
        "$CLEAN/one.bare/rows/test.jsonl"
    ]


def test_passages_come_after():
    plan = changed(EVERY_KEY, {})
    folders = cleaning.apart_folders(plan)
    assert "ranked.apart" in folders and "tutored" in folders
    assert cleaning.apart_from(plan, "ranked.apart") == "data/clean/every-key/ranked.bare/manifest.json"
    assert retrieval.cleaned_rows(plan, "ranked") == "data/clean/every-key/ranked.apart/manifest.json"


@pytest.mark.parametrize("name", SHIPPED)
def test_studies_that_ship_have_the_jobs_they_had_unless_they_have_two_datasets_of_their_own(name):
    expected = {
        "studies/leftover_lunch_comet-small.yaml": ["tutor"],  # a stand-in for a reward model, of other rows
        "studies/leftover_lunch_reddit-small.yaml": ["tutor"],
        "studies/synthesise-small.yaml": ["instructions", "improved", "passive", "politeness"],
        "studies/best_of_samples-small.yaml": ["qa", "prefs"],
        "config.yaml": [
            "preferences"
        ],  # the judge's rows; the novices leave the tutor's groups out by themselves
    }
    expected |= {f"studies/tutor_{kind}.yaml": ["preferences"] for kind in ("seeds", "simpo", "offline_rl")}
    assert cleaning.apart_folders(planned(name)) == expected.get(name, [])


def test_rows_that_a_model_writes_later_cannot_be_waited_for_and_the_check_says_so():
    study = read_yaml(ROOT / DEFAULT)
    rows = {
        "judge": "asked",
        "count": 9,
        "prompt": "Ask.",
        "into": {"prompt": "{reply}", "completion": "{reply}"},
    }
    study["judges"]["asked"] = {
        "kind": "openai",
        "model": "m",
        "temperature": 1.0,
        "recorded": "data/bundled/synthesis_replies.jsonl",
    }
    study = put(study, "sources.written", {"synthesise": rows})
    study = put(study, "datasets.late", files_of("written", group_by="question"))
    study = put(study, "benchmarks.late", {"kind": "loss", "dataset": "late", "split": "test"})
    found = examine(study)
    assert found.wrong == []
    assert any(line.startswith("datasets.tutor: may have questions of late/test") for line in found.doubts)
    assert cleaning.apart_folders(plan_of(found.study)) == []


# --- which rows go ----------------------------------------------------------------------------------------------------


def write_raw(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    path = folder / f"{name}.jsonl"
    write_jsonl(path, [{"prompt": asked, "completion": answer} for asked, answer in rows])
    return path


def cleaned(folder: Path, name: str, rows: list[tuple[str, str]], **rules) -> Path:
    """Clean rows into folder/NAME; return the manifest."""
    rules = {"schema": "prompt_completion", "group_by": "question"} | rules
    rules["split"] = {"quotas": {}, "shares": {"train": 0.6, "test": 0.4}} | rules.get("split", {})
    out = folder / name
    clean.clean_files(
        [str(write_raw(folder, name, rows))],
        cleaning_settings(**rules),
        str(out / "rows"),
        str(out / "manifest.json"),
    )
    return out / "manifest.json"


def apart(folder: Path, plan, name: str, manifests: dict[str, Path]) -> Path:
    """Run the step for a dataset as the plan has it, on manifests by name of the folder in the plan."""
    words = [str(word) for word in cleaning.apart_rows(plan, name)]
    files = []
    for word in words:
        label, _, path = word.partition("=")
        _, folder_name, rest = path.split("/", 2)
        files.append(f"{label}={manifests[folder_name].parent / rest}")
    done = folder / f"{name}-done"
    flags = ["--cleaned", manifests[f"{name}.bare"], "--held-out", *files]
    flags += ["--settings", cleaning.apart_settings(plan, name)]
    call(stage.main, *flags, "--output", done / "rows", "--manifest", done / "manifest.json")
    return done / "manifest.json"


def questions(path: Path) -> set[str]:
    return {row["messages"][0]["content"].casefold().strip() for row in read_jsonl(path)}


ASKED = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3)), min_size=12, max_size=30)


@settings(max_examples=25, deadline=None)
@given(ASKED, ASKED, ASKED, st.booleans())
def test_no_question_is_held_out_in_one_dataset_and_learned_from_in_another(
    tmp_path_factory, one, two, three, mixed
):
    folder = tmp_path_factory.mktemp("apart")
    spelled = ["Why is {}?", "why is  {}?", "WHY IS {}?", " Why is {}? "]
    raw = {}
    for base, (name, rows) in enumerate({"one": one, "two": two, "three": three}.items()):
        asked = [
            (spelled[how].format(number + base * 3), f"{name} {place}")
            for place, (number, how) in enumerate(rows)
        ]
        raw[name] = asked + [(f"Only {name} asks {n}?", "Yes.") for n in range(10)]
    datasets = THREE | {"mix": {"mixture": {"one": 1.0, "two": 1.0}}}
    plan = plan_for(datasets, ["mix" if mixed else "one", "two"], ["one", "two", "three"])
    manifests = {folder_name: cleaned(folder, folder_name.removesuffix(".bare"), raw[folder_name.removesuffix(".bare")])
                 for folder_name in cleaning.folders(plan)}  # fmt: skip
    done = {name: apart(folder, plan, name, manifests) for name in cleaning.apart_folders(plan)}
    ends = {name: done.get(name, manifests.get(name)) for name in THREE}
    for name, manifest in done.items():
        learned = questions(manifest.parent / "rows/train.jsonl")
        for other in THREE:
            # What is held out stands where cleaning left it, whole.
            assert other == name or not learned & questions(ends[other].parent / "rows/test.jsonl")
        before, after = read_json(manifests[f"{name}.bare"]), read_json(manifest)
        out = [
            row
            for row in read_jsonl(manifest.parent / "rows/rejected.jsonl")
            if row["reason"].startswith("question is held out")
        ]
        for unit in ("rows", "turns"):
            for counts in after["counts"].values():
                assert counts[unit]["kept"] + counts[unit]["rejected"] == counts[unit]["read"]
        assert before["splits"]["train"]["conversations"] - after["splits"]["train"]["conversations"] == len(
            out
        )
        assert before["splits"]["test"] == after["splits"]["test"]
        assert sum(
            entry["entries"] for reason, entry in after["rejected"].items() if "held out" in reason
        ) == len(out)
    if mixed:
        files = {"train": {name: str(done[name].parent / "rows/train.jsonl") for name in ("one", "two")}}
        rules = {
            "mixture": {"one": 1.0, "two": 1.0},
            "rows": None,
            "by": "random",
            "seed": 1,
            "own_groups": [],
        }
        mix.mix(files, rules, str(folder / "mix"), str(folder / "mix.json"))
        learned = questions(folder / "mix/train.jsonl")
        assert not learned & questions(ends["three"].parent / "rows/test.jsonl")


ROW = {"id": "1:a", "group": "g", "meta": {"file": "f", "index": 0}}


def row(asked: str, **meta) -> dict:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]
    return ROW | {
        "messages": [*messages, {"role": "assistant", "content": "So."}],
        "meta": ROW["meta"] | meta,
    }


@pytest.mark.parametrize(
    ("learned", "held", "by_problem", "same"),
    [
        (row("What is it?"), row("what  IS it?"), False, True),
        (row("What is it? Facts: none."), row("What is it?"), False, False),
        (row("Q. What is it? Facts: none."), row("What is it?"), True, True),
        (row("What was it?"), row("What is it?"), True, False),
        (row("ＷＨＡＴ is it?"), row("What is it?"), False, True),
        # A template's words around it hide no question.
        (row("Task: add.\nInput: 1 2", instruction="Add.", input="1 2"), row("Add.\n\n1 2"), False, True),
        (row("Add.\n\n1 2", instruction="Add.", input="1 2"), row("Add.\n\n1 3"), False, False),
    ],
)
def test_questions_are_the_same_by_what_groups_compare(learned, held, by_problem, same):
    keys = stage.held_out_keys({"two/test": [held]}, {"two/test": by_problem})
    kept, out = stage.taken_out([learned], keys)
    assert (len(kept), len(out)) == ((0, 1) if same else (1, 0))
    if same:
        assert out[0] | {"line": None} == out[0]
        assert out[0]["reason"] == "question is held out in two/test"
        assert out[0]["turns"] == 2


def test_what_goes_is_said_and_counted_and_all_else_of_the_account_stays(tmp_path, capsys):
    rows = [(f"Question {n}?", "Yes.") for n in range(20)] + [("Question 1?", "Yes."), ("", "No.")]
    plan = plan_for(THREE, ["one"], ["two"])
    manifests = {"one.bare": cleaned(tmp_path, "one", rows)}
    train = read_jsonl(tmp_path / "one/rows/train.jsonl")
    asked = train[0]["messages"][0]["content"]
    manifests["two"] = cleaned(
        tmp_path, "two", [(asked.upper(), "Yes."), ("Other?", "No.")], split={"shares": {"test": 1.0}}
    )
    capsys.readouterr()
    after = read_json(apart(tmp_path, plan, "one", manifests))
    assert (
        "kept apart: 1 of 12 rows of train taken out, whose questions are held out elsewhere (two/test 1)"
        in capsys.readouterr().err
    )
    before = read_json(manifests["one.bare"])
    assert after["rejected"] == before["rejected"] | {
        "row: question is held out in two/test": {"entries": 1, "turns": 2}
    }
    assert after["notes"] == before["notes"]
    kept = read_jsonl(tmp_path / "one-done/rows/train.jsonl")
    assert kept == train[1:]
    assert (tmp_path / "one-done/rows/test.jsonl").read_bytes() == (
        tmp_path / "one/rows/test.jsonl"
    ).read_bytes()


def test_where_nothing_would_be_left_to_learn_from_that_is_said(tmp_path):
    plan = plan_for(THREE, ["one"], ["two"])
    manifests = {"one.bare": cleaned(tmp_path, "one", [(f"Question {n}?", "Yes.") for n in range(5)])}
    manifests["two"] = cleaned(
        tmp_path, "two", [(f"question {n}?", "No.") for n in range(5)], split={"shares": {"test": 1.0}}
    )
    with pytest.raises(
        PlumblineError, match=r"nothing is left to learn from: each of its 3 rows .* allow_overlap: true"
    ):
        apart(tmp_path, plan, "one", manifests)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_says_how_many_questions_a_study_allows_to_be_learned_and_where():
    hit, near = (
        {"13": 1.0, "8": 1.0, "exact": "group", "match": "x"},
        {"13": 1.0, "8": 1.0, "exact": "", "match": "x"},
    )
    overlaps = {"o.json": {"one/train": {"a": hit, "b": near}, "two/train": {"a": hit, "c": hit}}}
    entry = {"overlap": "o.json", "overlap_allowed": True, "training_sets": ["one/train", "two/train"]}
    assert allowed_overlap(overlaps, entry) == (
        "allow_overlap: 2 of its questions also in training data (one/train 1, two/train 2)"
    )
    none = {"o.json": {"one/train": {"b": near}}}
    assert allowed_overlap(none, entry | {"training_sets": ["one/train"]}) == (
        "allow_overlap: none of its questions also in training data"
    )
    assert "was not counted" in allowed_overlap({}, entry | {"overlap": None})
    assert allowed_overlap(overlaps, entry | {"training_sets": []}) == ""  # a base model
    assert allowed_overlap(overlaps, entry | {"overlap_allowed": None}) == ""


def test_only_a_study_that_allows_it_has_it_in_its_index():
    def marks(plan):
        return {entry.get("overlap_allowed") for entry in json.loads(index_entries(plan))["benchmarks"]}

    assert marks(planned(DEFAULT)) == {None}
    allowing = changed(DEFAULT, {"allow_overlap": True})
    assert marks(allowing) == {True}
    listed = json.loads(index_entries(allowing))
    entries = [entry_of(cell, benchmark) for cell in listed["cells"] for benchmark in listed["benchmarks"]]
    assert all(entry["overlap_allowed"] for entry in entries)


def test_which_rows_go_is_the_same_whatever_the_order_of_the_held_out_rows():
    held = [row(f"Question {n}?") for n in range(6)]
    rows = [row(f"question {n % 9}?") for n in range(20)]
    expected = stage.taken_out(rows, stage.held_out_keys({"b/test": held}, {"b/test": False}))
    random.Random(1).shuffle(held)
    assert stage.taken_out(rows, stage.held_out_keys({"b/test": held}, {"b/test": False})) == expected
