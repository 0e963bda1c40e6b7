"""Tests that a row brings as a reward: read from its columns, checked, carried along, and run on what answers it."""

import json
from typing import Any

import pytest

from tests.cleaning import cleaned_files, cleaning
from tests.command import call
from tests.good_rows import GOOD
from tests.plans import EVERY_KEY, changed, config_of, told
from tests.reward_settings import rule_reward
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.annotate import annotate, answers
from workflow_scripts.clean.reading import RawRow
from workflow_scripts.clean.rows import open_row, renamed
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.programs import sandbox, verdicts
from workflow_scripts.common.reward_columns import answer_turn, reward_function, reward_rows
from workflow_scripts.generate.prompts import turn_prompts
from workflow_scripts.pairs import samples
from workflow_scripts.plan import prompts, rewards
from workflow_scripts.study import machine
from workflow_scripts.study.checking import Examined, examine
from workflow_scripts.study.datasets import TESTED

PASSES = {"passed": rule_reward("passes_tests", timeout_seconds=20.0)}
TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
GOLD = "def add(a, b):\n    return a + b"
ROW = {"prompt": "Add two numbers: add(a, b).", "completion": GOLD, "tests": TESTS}
MBPP = {
    "text": "Write a function to add.",
    "code": "import math\r\ndef sum(x):\r\n    return math.fsum(x)",
    "task_id": 1,
    "test_setup_code": "ONE = 1",
    "test_list": ["assert sum([ONE, 2]) == 3", "assert math.floor(sum([0.5])) == 0"],
    "challenge_test_list": [],
}


def turn(answer: str, tests: Any = TESTS, gold: str | None = GOLD, **meta: Any) -> dict:
    """Return an answer as rewards know it."""
    return {"id": "r#0", "messages": [], "reference": answer, "gold": gold, "meta": {"tests": tests} | meta}


def verdict(*turns: dict, **changed: Any) -> list[float]:
    """Return the rewards of answers."""
    column = {"passed": PASSES["passed"] | changed}
    return [row["rewards"]["passed"] for row in reward_rows(list(turns), [], column)]


# The verdict.


@pytest.mark.usefixtures("found_sandbox")
def test_an_answer_earns_1_where_its_program_passes_all_tests_fenced_or_bare_else_0():
    fenced = f"Sure, here it is:\n```python\n{GOLD}\n\nprint(add(1, 2))\n```\nIt adds."
    wrong_once = "def add(a, b):\n    return 3"  # passes one of two: shares are not wanted
    turns = [
        GOLD,
        fenced,
        wrong_once,
        "def plus(a, b): return a + b",
        "I do not know.",
        "",
        "add = lambda a, b: a + b",
    ]
    assert verdict(*map(turn, turns)) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.usefixtures("found_sandbox")
def test_an_answer_that_never_ends_or_leaves_early_earns_0_and_the_log_counts_the_first(capfd):
    endless, leaving = "def add(a, b):\n    while True: pass", "import os\ndef add(a, b):\n    os._exit(0)"
    assert verdict(turn(endless), turn(leaving), timeout_seconds=0.5) == [0.0, 0.0]
    assert "passes_tests: 1 of 2 answers were not done in their time" in capfd.readouterr().err


@pytest.mark.usefixtures("found_sandbox")
def test_what_the_tests_cannot_see_earns_0_and_is_counted_once(capfd):
    rewarded = reward_function([], PASSES)
    odd = turn("class Odd:\n    def __eq__(self, other): return True\ndef add(a, b):\n    return Odd()")
    for _ in range(2):
        assert rewarded([odd])[0]["rewards"]["passed"] == 0.0
    assert capfd.readouterr().err.count("1 of 1 answers returned what the tests cannot see") == 1


@pytest.mark.usefixtures("found_sandbox")
def test_tests_take_what_the_reference_defines_and_have_what_it_imports_and_their_set_up():
    # A `sum` of Python's own would pass, and is not what is asked for.
    row = turn(
        "def sum(x):\n    return 3 if len(x) == 2 else 0",
        MBPP["test_list"],
        MBPP["code"],
        test_setup="ONE = 1",
    )
    assert verdict(row, row | {"reference": "pass"}) == [
        1.0,
        0.0,
    ]
    prose = f"Like this:\n```\n{GOLD}\n```"
    assert verdict(turn(GOLD, gold=prose), turn(GOLD, gold=None), turn(GOLD, gold="five")) == [1.0, 1.0, 1.0]


@pytest.mark.usefixtures("found_sandbox")
@pytest.mark.parametrize("tests", [None, [], "assert add(1, 2) == 3", [3]])
def test_a_row_without_tests_is_an_error_that_names_it(tests):
    with pytest.raises(
        PlumblineError, match=r"reward passed: row r#0: has no tests to pass; .*column `tests`"
    ):
        verdict(turn(GOLD, tests))


@pytest.mark.usefixtures("found_sandbox")
def test_tests_that_would_pass_whatever_is_answered_are_an_error():
    with pytest.raises(PlumblineError, match="row r#0: its tests use no name that an answer would define"):
        verdict(turn("anything", ["assert sum([1]) == 1"], gold=None))


def test_without_a_sandbox_nothing_is_rewarded_unless_that_is_allowed(monkeypatch):
    monkeypatch.setattr(sandbox, "probe", lambda name: sandbox.Outcome(False, "is not installed"))
    with pytest.raises(PlumblineError, match=r"passed: no sandbox for model-written code .* in this reward"):
        reward_function([], PASSES)
    tried = []
    monkeypatch.setattr(verdicts, "run_programs", lambda programs, *limits: tried.append(limits) or {})
    reward_function([], {"passed": PASSES["passed"] | {"allow_unsandboxed": True, "workers": 3}})([])
    assert tried == []  # nothing was answered
    with pytest.raises(KeyError):
        verdict(turn(GOLD), allow_unsandboxed=True, workers=3, memory_mb=99, timeout_seconds=1.5)
    assert tried == [(1.5, 99, "none", 3)]


@pytest.mark.usefixtures("found_sandbox")
def test_a_policys_answer_to_a_prompt_is_tried_by_the_prompts_tests():
    prompt = {"id": "p#0", "group": "p", "messages": [], "meta": {"tests": TESTS}, "reference": [GOLD]}
    rewarded = reward_function([], PASSES)([answer_turn(prompt, GOLD), answer_turn(prompt, "no")])
    assert [row["rewards"]["final_reward"] for row in rewarded] == [1.0, 0.0]


# The column.


def opened(schema: str, row: dict, renames: dict | None = None):
    """Return (the meta of a raw row, why it is rejected, what nobody read)."""
    raw = renamed(RawRow(0, 1, row, None), renames or {})
    found, fault = open_row(raw, cleaning(schema=schema))
    return found.meta or {}, fault, found.unread


def single(row: dict) -> dict:
    """Return a good row without what comes before its one answer."""
    return {key: value[:3] if key == "messages" else value for key, value in row.items() if key != "history"}


@pytest.mark.parametrize("schema", TESTED)
def test_every_shape_that_may_bring_tests_carries_them_along(schema, tmp_path):
    rows = [single(row) | {"tests": TESTS, "test_setup": "ONE = 1"} for row in GOOD[schema]]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    manifest, found = cleaned_files(
        tmp_path, tmp_path / "rows.jsonl", schema=schema, duplicates="keep", split={"quotas": {"train": 9}}
    )
    assert len(found["train"]) == len(rows), manifest["rejected"]
    for row in found["train"]:
        assert (row["meta"]["tests"], row["meta"]["test_setup"]) == (TESTS, "ONE = 1")
    assert not any("test" in note for note in manifest["notes"])


@pytest.mark.parametrize(
    "schema", [name for name in SCHEMAS if name not in TESTED and SCHEMAS[name].parts is None]
)
def test_of_other_shapes_a_column_of_tests_is_a_key_that_nobody_reads(schema):
    meta, fault, unread = opened(schema, GOOD[schema][0] | {"tests": TESTS})
    assert fault is None and "tests" not in meta and "tests" in unread


@pytest.mark.parametrize(
    ("tests", "kept"),
    [
        (TESTS[0], [TESTS[0]]),
        (TESTS, TESTS),
        (str(TESTS), TESTS),  # as a cell of a table spells a list
        (json.dumps(TESTS), TESTS),
        (["", TESTS[0]], [TESTS[0]]),
        (
            "def check(c):\r\n    assert c(1, 2) == 3\r\ncheck(add)",
            ["def check(c):\n    assert c(1, 2) == 3\ncheck(add)"],
        ),
        ("[add(1, n) for n in range(3)]", ["[add(1, n) for n in range(3)]"]),
        (None, None),
        ("", None),
        ([], None),
    ],
)
def test_tests_are_a_text_or_a_list_of_texts_and_may_be_missing(tests, kept):
    meta, fault, _ = opened("prompt_completion", ROW | {"tests": tests})
    assert fault is None and meta == ({} if kept is None else {"tests": kept})


@pytest.mark.parametrize(
    ("tests", "reason", "detail"),
    [
        (3, "tests are neither a text nor a list of texts", "'tests': 3"),
        ({"a": "b"}, "tests are neither a text nor a list of texts", "'tests': dict"),
        ([TESTS[0], 4], "tests are neither a text nor a list of texts", "'tests': list"),
        (
            ["assert add(1, 2) == 3", "assert add("],
            "tests are no Python",
            "line 2 of them: '(' was never closed",
        ),
        ("return add(1, 2)", "tests are no Python", "cannot be compiled"),
        ("blood\0", "tests are no Python", "null bytes"),
        ("add", "tests test nothing", "no assertion, and nothing is called"),
        (
            "class T:\n    def test(self):\n        assert add(1, 2) == 3",
            "tests test nothing",
            "no assertion",
        ),
        ("assert 1 == 1", "tests test nothing", "they use no name"),
        ("import math\nassert math.sqrt(4) == 2", "tests test nothing", "they use no name"),
    ],
)
def test_tests_that_are_none_reject_their_row_and_are_counted_with_the_reason(
    tmp_path, tests, reason, detail
):
    write_jsonl(tmp_path / "rows.jsonl", [ROW | {"prompt": "Good."}, ROW | {"tests": tests}])
    manifest, found = cleaned_files(tmp_path, tmp_path / "rows.jsonl", schema="prompt_completion")
    assert len(found["train"]) == 1
    assert manifest["rejected"][f"row: {reason}"]["entries"] == 1
    assert detail in found["rejected"][0]["detail"]


def test_tests_are_of_one_answer_which_nothing_cut_off(tmp_path):
    said = [
        {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)
    ]
    rows = [
        {"messages": said, "tests": TESTS},
        {"messages": [said[0], said[1] | {"weight": 0}, *said[2:]], "tests": TESTS},
        {
            "messages": [*said[:2], said[0] | {"content": "e"}, {"role": "assistant", "content": ""}],
            "tests": TESTS,
        },
        {"messages": [*said[:2], said[2] | {"content": "f"}, said[3]]},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    manifest, found = cleaned_files(
        tmp_path, tmp_path / "rows.jsonl", schema="messages", group_by="conversation"
    )
    assert {row["meta"]["index"] for row in found["train"]} == {1, 3}
    assert {reason: count["entries"] for reason, count in manifest["rejected"].items()} == {
        "row: tests beside several answers": 1,
        "row: empty message": 1,
    }


def test_mbpps_own_file_is_data_with_tests(tmp_path):
    write_jsonl(tmp_path / "mbpp.jsonl", [MBPP])
    columns = {"prompt": "text", "completion": "code", "tests": "test_list"}
    config = {
        "study": "own",
        "sources": {"weights": {"places": [{"hf": {"repo": "a/b", "revision": "0" * 40}}]}},
        "models": {"tiny": {"source": "weights", "template": "plain", "context": 128}},
        "datasets": {"mbpp": {"path": str(tmp_path / "mbpp.jsonl"), "columns": columns}},
    }
    found = examine(config, folder=tmp_path)
    assert found.wrong == []
    wanted = "prompt_completion (prompt: text, completion: code, tests: test_list, test_setup_code), "
    assert wanted in "\n".join(found.said)
    manifest, rows = cleaned_files(
        tmp_path, tmp_path / "mbpp.jsonl", schema="prompt_completion", renames=columns
    )
    (row,) = rows["train"]
    assert (row["meta"]["tests"], row["meta"]["test_setup"]) == (MBPP["test_list"], "ONE = 1")
    assert manifest["notes"] == {"key not read: task_id": 1}


# From raw rows to rewards and pairs.


@pytest.mark.usefixtures("found_sandbox")
def test_from_raw_rows_to_pairs_whose_chosen_program_passes(tmp_path):
    names = ("add", "plus", "both")
    raw = [
        {
            "prompt": f"Write {name}(a, b), their sum.",
            "completion": GOLD.replace("add", name),
            "tests": [test.replace("add", name) for test in TESTS],
        }
        for name in names
    ]
    write_jsonl(tmp_path / "raw.jsonl", raw)
    cleaned_files(tmp_path, tmp_path / "raw.jsonl", schema="prompt_completion")
    asked = turn_prompts(tmp_path / "clean/train.jsonl")
    raw = [raw[prompt["meta"]["index"]] for prompt in asked]  # the split is dealt out in another order
    assert [prompt["meta"]["tests"] for prompt in asked] == [row["tests"] for row in raw]
    texts = [
        row["completion"].replace("+", "-") if sample == 0 else row["completion"] if sample == 1 else "No."
        for row in raw
        for sample in range(3)
    ]
    told_by = [
        {"id": asked[place // 3]["id"], "turn": 0, "sample": place % 3, "text": text}
        for place, text in enumerate(texts)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", asked)
    write_jsonl(tmp_path / "generations.jsonl", told_by)
    settings = json.dumps({"rewards": PASSES})
    flags = ["--prompts", tmp_path / "prompts.jsonl", "--generations", tmp_path / "generations.jsonl"]
    flags += ["--fit-rows", tmp_path / "clean/train.jsonl", "--settings", settings]
    call(
        answers.main,
        *flags,
        "--output",
        tmp_path / "rewarded.jsonl",
        "--manifest",
        tmp_path / "rewarded.json",
    )
    flags = ["--rewarded", tmp_path / "rewarded.jsonl", "--ranked", tmp_path / "ranked.jsonl"]
    flags += ["--settings", json.dumps({"take": "all", "margin": 0.5, "validation_share": 0.0, "seed": 1})]
    flags += ["--rejected", tmp_path / "rejected.jsonl", "--output", tmp_path / "pairs.jsonl"]
    call(samples.main, *flags, "--manifest", tmp_path / "pairs.json")
    pairs = read_jsonl(tmp_path / "pairs.jsonl")
    assert len(pairs) == 6
    assert {pair["chosen"] for pair in pairs} == {row["completion"] for row in raw}
    flags = [
        "--rows",
        tmp_path / "clean",
        "--splits",
        "train",
        "--fit-split",
        "train",
        "--settings",
        settings,
    ]
    call(annotate.main, *flags, "--output", tmp_path / "annotated", "--manifest", tmp_path / "annotated.json")
    annotated = read_jsonl(tmp_path / "annotated/train.jsonl")
    assert [row["rewards"]["passed"] for row in annotated] == [1.0] * 3  # the rows' own answers
    assert read_json(tmp_path / "annotated.json")["columns"]["passed"]["settings"] == PASSES["passed"]


# Plans and checks.

BEST = {"dataset": "chatted", "from": "samples", "split": "sft", "rank": "passes_tests"}


def looked_at(values: dict[str, Any]) -> Examined:
    """Return what the check says of the study of every key with other values."""
    config = config_of(EVERY_KEY)
    for path, value in values.items():
        config = put(config, path, value)
    return examine(config, folder=ROOT / "tests")


def test_tests_rank_samples_through_an_annotation_of_their_own():
    plan = changed(EVERY_KEY, {"pairs.own": BEST})
    assert plan.study.pairs["own"].rank == "rank-own"
    (reward,) = told(rewards.answer_settings(plan, "pairs-own"))["rewards"].values()
    assert reward == rule_reward("passes_tests")
    assert reward["timeout_seconds"] == 3.0 and reward["memory_mb"] == 512
    assert "pairs-own" in prompts.rewarded_sets(plan)


def test_other_rules_are_told_nothing_of_running_programs():
    assert rule_reward("length") == {"rule": "length", "weight": 1.0, "words": 40}


def test_rows_whose_shape_brings_no_tests_cannot_be_ranked_by_them():
    text = "rows of schema {} bring no tests to pass; these may, in a column `tests`: messages"
    said = looked_at({"pairs.own": BEST | {"dataset": "tutored"}}).wrong
    assert next(line for line in said if text.format("tutorbot") in line).startswith("pairs.own.rank: ")
    assert not any("rank-own" in line for line in said)
    said = "\n".join(
        looked_at(
            {"annotations.judged.rewards.passed": {"rule": "passes_tests"}, "datasets.ranked.schema": "hh"}
        ).wrong
    )
    assert f"annotations.judged.rewards.passed.rule: {text.format('hh')}" in said
    said = "\n".join(looked_at({"pairs.own": BEST | {"dataset": "tutored", "rank": "own"}}).wrong)
    assert f"pairs.own.rank: {text.format('tutorbot')}" in said


def test_a_file_whose_first_rows_have_no_tests_is_in_doubt(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "Why?", "completion": "So.", "checks": TESTS}])
    own = {"path": str(tmp_path / "rows.jsonl")}
    wanted = "pairs.own.rank: the first rows of 'own' have no column 'tests'"
    values = {"datasets.own": own, "pairs.own": BEST | {"dataset": "own", "split": "train"}}
    assert wanted in "\n".join(looked_at(values).doubts)
    values["datasets.own"] = own | {"columns": {"tests": "checks"}}
    assert wanted not in "\n".join(looked_at(values).doubts)


def test_keys_of_running_programs_are_not_read_by_other_rules_and_that_is_said():
    said = looked_at({"annotations.judged.rewards.words": {"rule": "length", "memory_mb": 9}}).doubts
    assert "annotations.judged.rewards.words.memory_mb: rule length does not read it" in said


def test_a_machine_without_a_sandbox_is_said_before_the_run(monkeypatch):
    monkeypatch.setattr(sandbox, "probe", lambda name: sandbox.Outcome(False, "is not installed"))
    plan = changed(EVERY_KEY, {})
    (found,) = machine.missing_sandbox(plan.study)
    assert found.text.startswith("annotations.own.rewards.passed: on this machine there is no sandbox")
    plan = changed(EVERY_KEY, {"annotations.own.rewards.passed.allow_unsandboxed": True})
    assert not list(machine.missing_sandbox(plan.study))
