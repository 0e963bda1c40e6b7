"""Policies from elsewhere: endpoints and ready answers, scored beside the study's own, never taken for empty."""

import json
from pathlib import Path

import pytest

from tests.command import call
from tests.judge_requests import KEY
from tests.judge_server import JudgeServer, completion, say, send
from tests.plans import EVERY_KEY, changed, config_of, told
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_json, write_jsonl, write_manifest
from workflow_scripts.generate import ask, given
from workflow_scripts.plan import costs, index, judging, outside
from workflow_scripts.plan.plan import cells, outside_cells, scored_cells
from workflow_scripts.study.check import describe
from workflow_scripts.study.checking import examine
from workflow_scripts.study.machine import answers_here
from workflow_scripts.study.reading import read_yaml

TESTS = ROOT / "tests"  # where the study of every key has its lock
ENDPOINT = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


def prompt(name: str, text: str, *followups: str, **more: object) -> dict:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return (
        {"id": name, "group": name, "messages": messages, "followups": list(followups), "reference": None}
        | {"meta": {}}
        | more
    )


PROMPTS = [prompt("a", "Name a plant.", "Another."), prompt("b", " What is a bee? ", temperature=0.7)]


def prompt_set(folder: Path, rows: list[dict], **sampling: object) -> Path:
    """Write a prompt set; return its manifest."""
    plain = {"temperature": 0.0, "max_new_tokens": 9, "top_p": 1.0, "stop": [], "samples": 1}
    write_jsonl(folder / "talk.jsonl", rows)
    write_manifest(folder / "talk.json", [folder / "talk.jsonl"], sampling=plain | sampling)
    return folder / "talk.json"


# --- an endpoint ------------------------------------------------------------------------------------------------------


def judge_for(url: str, **changes: object) -> str:
    settings = {
        "kind": "openai",
        "name": "endpoint",
        "model": "m",
        "version": None,
        "temperature": 0.0,
        "seed": None,
    }
    settings |= {
        "max_tokens": 1024,
        "max_completion_tokens": None,
        "params": {},
        "base_url": url,
        "recorded": None,
    }
    settings |= {"api_key_env": "TEST_JUDGE_KEY", "concurrency": 2, "requests_per_minute": None, "retries": 1}
    settings |= {"timeout_seconds": 9.0, "unanswered": "stop", "budget_usd": None}
    settings |= dict.fromkeys(("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens"), 1.0)
    return json.dumps(settings | changes)


def asked(folder: Path, manifest: Path, judge: str, *flags: str) -> tuple[list[dict], dict]:
    """Run generate.ask; return (answers, manifest), or with --plan (nothing, the counts)."""
    own = ["--policy", "hosted", "--prompts", manifest, "--judge", judge, "--store", folder / "store"]
    own += ["--output", folder / "out.jsonl", *flags]
    if "--plan" in flags:
        call(ask.main, *own)
        return [], read_json(folder / "out.jsonl")
    call(ask.main, *own, "--manifest", folder / "out.json", "--cost", folder / "cost.json")
    return read_jsonl(folder / "out.jsonl"), read_json(folder / "out.json")


def test_an_endpoint_answers_in_messages_with_the_sampling_of_the_benchmark(quick_client, tmp_path):
    manifest = prompt_set(tmp_path, PROMPTS, stop=["\n", "#1", "#2", "#3", "bee"], top_p=0.9)
    with JudgeServer(default=say(lambda handler: f"said to {handler.text}\nand more")) as server:
        rows, told = asked(tmp_path, manifest, judge_for(server.url))
        bodies = {call["text"]: call["body"] for call in server.calls}
    assert bodies["Name a plant."]["messages"] == PROMPTS[0]["messages"]
    assert bodies["Name a plant."]["temperature"] == 0.0 and bodies[" What is a bee? "]["temperature"] == 0.7
    assert bodies["Name a plant."]["max_tokens"] == 9 and bodies["Name a plant."]["top_p"] == 0.9
    assert bodies["Name a plant."]["stop"] == ["\n", "#1", "#2", "#3"]  # endpoints take four
    later = bodies["Another."]["messages"]
    assert [each["role"] for each in later] == ["system", "user", "assistant", "user"]
    assert later[2]["content"] == "said to Name a plant."
    assert [(row["id"], row["turn"], row["text"]) for row in rows] == [
        ("a", 0, "said to Name a plant."),
        ("a", 1, "said to Another."),
        ("b", 0, "said to  What is a "),
    ]  # each ends before the first stop string, whatever the endpoint made of them
    assert told["counts"] == {"answers": 3, "finished": 3, "prompts": 2, "missing": 0}


def test_samples_are_drawn_apart_and_a_resumed_run_asks_nothing_again(quick_client, tmp_path):
    manifest = prompt_set(tmp_path, PROMPTS[1:], samples=3)
    with JudgeServer() as server:
        judge = judge_for(server.url, seed=5)
        rows, _ = asked(tmp_path, manifest, judge)
        assert sorted(call["body"]["seed"] for call in server.calls) == [5, 6, 7]
        again, _ = asked(tmp_path, manifest, judge)
        assert server.asked() == 3 and again == rows
    assert [row["sample"] for row in rows] == [0, 1, 2]


def test_a_model_that_thinks_or_takes_no_temperature_is_asked_as_its_judge_says(quick_client, tmp_path):
    manifest = prompt_set(tmp_path, PROMPTS[1:])
    with JudgeServer() as server:
        asked(tmp_path, manifest, judge_for(server.url, temperature=None, max_completion_tokens=4000))
        (body,) = [call["body"] for call in server.calls]
    assert "temperature" not in body and "max_tokens" not in body and body["max_completion_tokens"] == 4000


def test_an_answer_that_was_refused_is_missing_and_never_empty(quick_client, tmp_path, capsys):
    manifest = prompt_set(tmp_path, PROMPTS)
    refusing = {"Another.": [send(200, completion(None, message={"refusal": "I will not."}))]}
    with JudgeServer(refusing) as server:
        rows, told = asked(tmp_path, manifest, judge_for(server.url))
    assert [row["id"] for row in rows] == ["b"]  # of a dialogue all or nothing
    assert told["counts"]["missing"] == 1 and told["counts"]["prompts"] == 2
    assert "answered 1 of 2 prompts; a: refused by the judge: I will not." in capsys.readouterr().err
    assert [row["id"] for row in answered_prompts(tmp_path / "talk.jsonl", tmp_path / "out.jsonl")] == ["b"]


def test_where_every_answer_is_refused_the_row_says_so(quick_client, tmp_path):
    manifest = prompt_set(tmp_path, PROMPTS[1:])
    with JudgeServer(default=send(200, completion(None, message={"refusal": "No."}))) as server:
        rows, told = asked(tmp_path, manifest, judge_for(server.url))
    assert rows == [] and told["refused"] == "hosted answered none of its prompts: refused by the judge: No."


def test_a_plan_asks_nothing_and_counts_later_turns_after_answers_as_long_as_can_be(quick_client, tmp_path):
    manifest = prompt_set(tmp_path, PROMPTS)
    _, counts = asked(tmp_path, manifest, judge_for("http://127.0.0.1:9/v1"), "--plan")
    assert (counts["requests"], counts["stored"], counts["missing"]) == (3, 0, 3)
    assert counts["completion_tokens"] == 3 * 9 and counts["usd"] > 0
    with JudgeServer() as server:
        asked(tmp_path, manifest, judge_for(server.url))
    _, counts = asked(tmp_path, manifest, judge_for("http://127.0.0.1:9/v1"), "--plan")
    assert (counts["requests"], counts["stored"], counts["usd"]) == (3, 3, 0.0)


def test_raw_text_is_put_to_no_endpoint(quick_client, tmp_path):
    raw = {"id": "h", "group": "h", "text": "def f():", "followups": [], "reference": None, "meta": {}}
    manifest = prompt_set(tmp_path, [raw])
    rows, told = asked(tmp_path, manifest, judge_for("http://127.0.0.1:9/v1"))
    assert rows == [] and told["refused"] == ask.RAW


def test_no_budget_is_passed(quick_client, tmp_path):
    manifest = prompt_set(tmp_path, PROMPTS)
    with JudgeServer() as server:
        with pytest.raises(
            PlumblineError, match=r"policy 'hosted', talk: .*the budget of \$1e-09 would be passed"
        ):
            asked(tmp_path, manifest, judge_for(server.url, budget_usd=1e-9))
        assert server.asked() == 0
    assert KEY not in (tmp_path / "store/spending").as_posix()


# --- ready answers ----------------------------------------------------------------------------------------------------


def read(
    folder: Path, rows: list[dict], prompts: list[dict] = PROMPTS, **sampling: object
) -> tuple[list[dict], dict]:
    """Run generate.given on rows; return (answers, manifest)."""
    write_json(folder / "theirs.json", rows)
    own = [
        "--policy",
        "theirs",
        "--answers",
        folder / "theirs.json",
        "--prompts",
        prompt_set(folder, prompts, **sampling),
    ]
    call(given.main, *own, "--output", folder / "out.jsonl", "--manifest", folder / "out.json")
    return read_jsonl(folder / "out.jsonl"), read_json(folder / "out.json")


ONE = PROMPTS[1:]  # a prompt of one turn, "What is a bee?"


@pytest.mark.parametrize(
    "row",
    [
        {"id": "b", "answer": "An insect."},
        {"instruction": "What is a bee?", "output": "An insect.", "generator": "gpt", "dataset": "own"},
        {"prompt": "What is a bee?", "response": "An insect."},
        {"prompt": [{"role": "user", "content": "What is a bee?"}], "text": "An insect."},
        {
            "messages": [
                {"role": "user", "content": "What is a bee?"},
                {"role": "assistant", "content": "An insect."},
            ]
        },
        {"id": 77, "prompt": "What is a bee?", "text": "An insect.", "benchmark": "talk"},  # an id of its own
        {
            "id": "b",
            "sample": 0,
            "turn": 0,
            "text": "An insect.",
            "finish_reason": "stop",
            "completion_tokens": 4,
        },
    ],
)
def test_every_shape_of_a_ready_answer_is_read(tmp_path, row):
    answers, told = read(tmp_path, [row], ONE)
    assert [(each["id"], each["sample"], each["turn"], each["text"]) for each in answers] == [
        ("b", 0, 0, "An insect.")
    ]
    assert told["counts"] == {"answers": 1, "prompts": 1, "missing": 0, "finished": 1}


def test_a_table_of_text_is_read_too(tmp_path):
    (tmp_path / "t.csv").write_text("id,sample,answer\nb,0,one\nb,1,two\n")
    manifest = prompt_set(tmp_path, ONE, samples=2)
    own = ["--policy", "theirs", "--answers", tmp_path / "t.csv", "--prompts", manifest]
    call(given.main, *own, "--output", tmp_path / "out.jsonl", "--manifest", tmp_path / "out.json")
    assert [row["text"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["one", "two"]


def test_the_turns_of_a_dialogue_come_as_a_list_or_row_by_row(tmp_path):
    listed, _ = read(tmp_path, [{"id": "a", "answer": ["one", "two"]}], PROMPTS[:1])
    by_row, _ = read(
        tmp_path, [{"id": "a", "turn": 1, "text": "two"}, {"id": "a", "text": "one"}], PROMPTS[:1]
    )
    assert listed == by_row and [row["text"] for row in listed] == ["one", "two"]


def test_a_missing_answer_is_counted_and_what_nobody_asked_for_is_said(tmp_path, capsys):
    rows = [
        {"id": "a", "answer": "half of a dialogue"},
        {"id": "b", "answer": ""},
        {"id": "z", "prompt": "?", "text": ""},
    ]
    answers, told = read(tmp_path, rows)
    assert [(row["id"], row["text"]) for row in answers] == [("b", "")]  # given as empty: that is an answer
    assert told["counts"]["missing"] == 1
    said = capsys.readouterr().err
    assert "1 of 2 prompts have no answer" in said
    assert "1 rows of" in said and "answer none of its prompts" in said


def test_null_is_no_answer(tmp_path):
    _, told = read(tmp_path, [{"id": "b", "answer": None}], ONE)
    assert "has no whole answer to any of its 1 prompts" in told["refused"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"id": "b", "text": "x"}, {"prompt": "What is a bee?", "text": "y"}],
            "row 2: a second answer to prompt 'b'",
        ),
        ([{"id": "b", "text": "x", "answer": "y"}], "row 1: has answer and text, and which is its answer"),
        ([{"id": "b"}], "row 1: has no answer; give it as answer, output, response or text"),
        ([{"answer": "x"}], "row 1: names no prompt"),
        ([{"id": "b", "answer": 3}], "row 1: its answer must be a text"),
        (
            [{"id": "b", "answer": "x", "sample": "two"}],
            "row 1: sample must be a whole number from 0, not 'two'",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, rows, said):
    with pytest.raises(PlumblineError, match=said):
        read(tmp_path, rows, ONE)


def test_a_text_that_ends_two_dialogues_needs_an_id_and_one_that_stands_twice_takes_rows_in_turn(tmp_path):
    other = prompt("c", "What is a bee?")
    other["messages"][0]["content"] = "Be long."
    with pytest.raises(PlumblineError, match=r"its text ends several prompts \(b, c\); say by id"):
        read(tmp_path, [{"prompt": "What is a bee?", "text": "x"}], [*ONE, other])
    twice = [prompt("b", "What is a bee?"), prompt("c", "What is a bee?")]
    answers, _ = read(tmp_path, [{"prompt": "What is a bee?", "text": text} for text in "xy"], twice)
    assert [(row["id"], row["text"]) for row in answers] == [("b", "x"), ("c", "y")]


def test_rows_with_numbers_of_their_own_answer_what_their_text_asks(tmp_path):
    asked = [prompt("0", "Red?"), prompt("1", "Blue?")]
    rows = [{"id": 1, "prompt": "Red?", "text": "red"}, {"id": 0, "prompt": "Blue?", "text": "blue"}]
    answers, _ = read(tmp_path, rows, asked)
    assert [(row["id"], row["text"]) for row in answers] == [("0", "red"), ("1", "blue")]
    with pytest.raises(
        PlumblineError, match="row 1: the prompt called 1 asks something else than this row says"
    ):
        read(tmp_path, [{"id": 1, "prompt": "Green?", "text": "green"}], asked)


def test_a_dialogue_is_known_by_any_of_its_turns(tmp_path):
    said = [*PROMPTS[0]["messages"], *({"role": "assistant", "content": text} for text in ["one"])]
    row = {"id": "a", "messages": said, "answer": ["one", "two"]}
    later = {"id": "a", "prompt": PROMPTS[0]["followups"][0], "answer": ["one", "two"]}
    assert read(tmp_path, [row], PROMPTS[:1])[0] == read(tmp_path, [later], PROMPTS[:1])[0]


def test_rows_of_another_benchmark_are_left_to_it(tmp_path):
    rows = [{"id": "b", "benchmark": "talk", "text": "x"}, {"id": "b", "benchmark": "other", "text": "y"}]
    answers, _ = read(tmp_path, rows, ONE)
    assert [row["text"] for row in answers] == ["x"]


# --- plans and checks -------------------------------------------------------------------------------------------------


def planned(**policies: dict):
    return changed(EVERY_KEY, {"policies": policies})


def test_they_are_in_the_table_after_the_studys_own_with_one_seed_and_no_parent():
    plan = changed(
        EVERY_KEY,
        {"seeds": [3, 5], "policies": {"gpt": {"judge": "asked"}, "theirs": {"answers": "config.yaml"}}},
    )
    assert outside_cells(plan) == [("gpt", 3), ("theirs", 3)]
    assert scored_cells(plan)[-4:] == [("gpt", 3), ("theirs", 3), ("gold", 0), ("empty", 0)]
    assert not {"gpt", "theirs"} & {name for name, _ in cells(plan)}
    entries = {entry["policy"]: entry for entry in told(index.index_entries(plan))["cells"]}
    assert entries["gpt"]["method"] == "judge" and entries["theirs"]["method"] == "answers"
    assert entries["gpt"]["parent"] is None and entries["theirs"]["kind"] == "policy"
    assert entries["theirs"]["files"] == ["config.yaml"]  # by digest in provenance


def test_what_an_endpoint_would_be_asked_is_planned_and_verdicts_on_it_only_once_it_has_answered():
    plan = planned(gpt={"judge": "asked"})
    entries = judging.judging_plans(plan, (), outside.asked_cells(plan))
    answering = [entry for entry in entries if entry["benchmark"].endswith("(answers)")]
    assert {entry["policy"] for entry in answering} == {"gpt"}
    assert not [entry for entry in entries if entry["policy"] == "gpt" and entry not in answering]
    counted = told(judging.judging_plans_settings(plan, (), outside.asked_cells(plan)))
    assert any(line.startswith("gpt (seed 1), ") for line in counted["uncounted"])
    after = judging.judging_plans(plan)
    assert [entry for entry in after if entry["policy"] == "gpt" and entry not in answering]


def test_an_endpoint_costs_and_ready_answers_and_what_has_no_cell_cost_nothing():
    jobs = costs.costed_jobs(planned(gpt={"judge": "asked"}, theirs={"answers": "config.yaml"}))
    assert {job.stage for job in jobs if job.policy == "gpt"} >= {"ask_policy", "judge_answers"}
    assert not {"measure_likelihoods", "score_lm_eval"} & {
        job.stage for job in jobs if job.policy in ("gpt", "theirs")
    }
    assert "ask_policy" not in {job.stage for job in jobs if job.policy == "theirs"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "policies",
            {"gpt": {}},
            "policies.gpt: name a judge that answers, or a file of answers: one of the two",
        ),
        ("policies", {"gpt": {"judge": "asked", "answers": "x"}}, "policies.gpt: name a judge that answers"),
        ("policies", {"gpt": {"judge": "nobody"}}, "policies.gpt.judge: no judge"),
        (
            "policies",
            {"gpt": {"judge": "ruled"}},
            "policies.gpt.judge: 'ruled' writes no text: name a judge of kind",
        ),
        ("policies", {"gpt": {"answers": "no/such.json"}}, "policies.gpt.answers: no such file"),
        (
            "policies",
            {"gpt": {"answers": {"nope": "config.yaml"}}},
            "policies.gpt.answers.nope: no benchmark",
        ),
        ("policies", {"gpt": {"answers": 3}}, "policies.gpt.answers"),
        ("policies", {"tiny": {"judge": "asked"}}, "policies.tiny: models.tiny has this name already"),
        ("policies", {"sft": {"judge": "asked"}}, "policies.sft: runs.sft has this name already"),
        (
            "policies",
            {"gold": {"judge": "asked"}},
            "policies.gold: the calibration rows have this name already",
        ),
    ],
)
def test_a_mistake_is_named_with_its_path(path, value, said):
    found = examine(put(config_of(EVERY_KEY), path, value), folder=TESTS)
    assert any(line.startswith(said) for line in found.wrong), found.wrong


def test_nothing_is_trained_from_a_policy_without_weights():
    config = put(config_of(EVERY_KEY), "policies", {"gpt": {"judge": "asked"}})
    found = examine(put(config, "runs.sft.parent", "gpt"), folder=TESTS)
    said = "policies.gpt has no weights here, so nothing can be trained from it: name a model or a run"
    assert f"runs.sft.parent: {said}" in found.wrong


def test_it_may_be_the_baseline_and_an_opponent():
    plan = changed(
        EVERY_KEY,
        {
            "policies": {"gpt": {"judge": "asked"}},
            "report.baseline": "gpt",
            "benchmarks.questions.opponent": "gpt",
        },
    )
    assert judging.opponent_cell(plan, "questions", "tiny", 1) == ("gpt", 1)


def test_what_an_endpoint_is_not_asked_for_is_a_doubt():
    config = put(config_of(EVERY_KEY), "policies", {"gpt": {"judge": "asked"}})
    found = examine(put(config, "benchmarks.labels.repetition_penalty", 1.2), folder=TESTS)
    assert any("benchmarks.code asks with raw text to go on from" in line for line in found.doubts)
    assert (
        "policies.gpt.judge: endpoints are not asked for repetition_penalty of benchmarks.labels"
        in found.doubts
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "a"}], "row 1: has no answer; give it as answer, output, response or text"),
        (
            [{"id": "a", "answer": "x"}, {"answer": "y"}],
            "row 2: names no prompt; give its id, or its text as prompt",
        ),
        ([], "holds no answers"),
    ],
)
def test_a_file_of_answers_that_cannot_be_read_is_found_before_the_run(tmp_path, rows, said):
    write_jsonl(tmp_path / "theirs.jsonl", rows)
    plan = planned(theirs={"answers": str(tmp_path / "theirs.jsonl")})
    (found,) = answers_here(plan.study)
    assert found.certain and found.text.startswith("policies.theirs.answers: ") and said in found.text
    write_jsonl(tmp_path / "theirs.jsonl", [{"instruction": "Why?", "output": "So.", "generator": "m"}])
    assert list(answers_here(plan.study)) == []


def test_a_check_names_policies_from_elsewhere_and_what_is_adopted():
    lines = describe(examine(read_yaml(EVERY_KEY), folder=TESTS).study)
    assert lines[0].endswith("3 policies from elsewhere, 2 policies answering again")
    made = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}
    assert made["hosted"] == "endpoint asked (policies.hosted)"
    assert made["given"] == "ready answers (policies.given)"
    assert made["tiny.chat"] == "adopted from tests/bare/model"
