"""Rows that a model writes: what is asked and paid, how replies become rows, and what a study may ask for."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.command import call
from tests.judge_requests import KEY, judge_at
from tests.judge_server import JudgeServer, completion, fail, half_json, reset, say, send, stop_halfway
from tests.workflow import ROOT
from workflow_scripts.clean import written
from workflow_scripts.clean.overlap import grams_of, read_items
from workflow_scripts.common.asking import verdict_store
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.placeholders import filled, look_up, names_in
from workflow_scripts.synthesise import write

pytestmark = pytest.mark.usefixtures("quick_client")

ROWS = [
    {"instruction": f"Name part {number} of a fern.", "output": f"Leaf {number}."} for number in range(12)
]
POLITE = {"prompt": "Say kindly: {output}", "system": None}
SETTINGS = {
    "wordings": {"": POLITE},
    "prompt_as": "user",
    "cleaned": False,
    "count": None,
    "samples": 1,
    "limit": None,
    "seed": 7,
    "needs": ["instruction", "output"],
}
MADE = {
    "into": {"": {"instruction": "{instruction}", "chosen": "{reply}", "rejected": "{output}"}},
    "answer": {"form": "text", "fields": [], "pattern": None},
    "min_chars": 1,
    "max_chars": None,
    "differs_from": [],
    "reject_phrases": [],
    "writer": {"model": "judge-1", "version": None},
}
kindly = say(lambda handler: f"If I may: {handler.text.removeprefix('Say kindly: ')}")


def flags_of(
    folder: Path, judge: dict, settings: dict = SETTINGS, rows: list[dict] | None = ROWS
) -> list[object]:
    """Return the command line of a writing job, as its rule starts it."""
    folder.mkdir(exist_ok=True)
    flags = ["--name", "polite", "--settings", json.dumps(settings), "--judge", json.dumps(judge)]
    if rows is not None:
        write_jsonl(folder / "rows.jsonl", rows)
        flags += ["--rows", folder / "rows.jsonl"]
    flags += ["--store", folder / "store", "--study", "s", "--output", folder / "replies.jsonl"]
    return [*flags, "--manifest", folder / "replies.json", "--cost", folder / "cost.json"]


def written_in(
    folder: Path, judge: dict, settings: dict = SETTINGS, rows: list[dict] | None = ROWS
) -> list[dict]:
    """Return what a writing job wrote."""
    call(write.main, *flags_of(folder, judge, settings, rows))
    return read_jsonl(folder / "replies.jsonl")


# --- placeholders -------------------------------------------------------------------------------------------------


def test_a_placeholder_is_a_field_or_a_path_into_one():
    fields = {
        "a b": "x",
        "deep": {"Hint": ["one", "two"]},
        "c.d": "dotted",
        "none": None,
        "list": [1, {"k": "ü"}],
    }
    value_of = lambda name: look_up(name, fields)  # noqa: E731
    assert filled("{a b} {deep.Hint.1} {c.d}{none} {{x}}", value_of) == "x two dotted {x}"
    assert filled("{list}", value_of) == [1, {"k": "ü"}]
    assert filled("as JSON: {list}", value_of) == 'as JSON: [1, {"k": "ü"}]'
    assert filled({"m": [{"role": "user", "content": "{a b}"}], "n": 3}, value_of) == {
        "m": [{"role": "user", "content": "x"}],
        "n": 3,
    }


@pytest.mark.parametrize("text", ["{", "a } b", "{a!r}", "{a:>9}", "{}", "{ a }", '{"json": 1}'])
def test_braces_that_are_no_placeholder_are_refused_with_how_to_write_them(text):
    with pytest.raises(ValueError, match=re.escape("{{ and }}")):
        names_in(text)


# --- what is asked ------------------------------------------------------------------------------------------------


def test_every_row_is_asked_about_once_and_nothing_is_asked_again(tmp_path):
    with JudgeServer(default=kindly) as server:
        first = written_in(tmp_path / "a", judge_at(server.url))
        assert server.asked() == len(ROWS)
        assert written_in(tmp_path / "a", judge_at(server.url)) == first
        assert server.asked() == len(ROWS)
    assert [row["reply"] for row in first] == [f"If I may: {row['output']}" for row in ROWS]
    assert [row["row"] for row in first] == ROWS and [row["number"] for row in first] == list(range(1, 13))
    cost = read_json(tmp_path / "a/cost.json")
    assert (cost["judge_calls"], cost["prompt_tokens"], cost["usd"] > 0) == (12, 12 * 12, True)
    assert read_json(tmp_path / "a/replies.json")["counts"] == {"requests": 12, "failed": 0}


def test_what_passes_is_tried_again_and_what_lasts_is_a_request_without_a_reply(tmp_path):
    passing = [fail(429, "slow down", Retry_After="0.01"), fail(500, "oh"), half_json, stop_halfway, reset]
    script = {f"Say kindly: Leaf {number}.": [act, kindly] for number, act in enumerate(passing)}
    script["Say kindly: Leaf 5."] = [fail(400, "flagged by our content policy")]
    script["Say kindly: Leaf 6."] = [send(200, completion("If I", finish_reason="length"))]
    script["Say kindly: Leaf 7."] = [fail(503, "away")]
    with JudgeServer(script, default=kindly) as server:
        rows = written_in(tmp_path, judge_at(server.url, unanswered="count"))
        for number in range(len(passing)):
            assert server.asked(f"Say kindly: Leaf {number}.") == 2
    failed = {row["number"]: row["failed"] for row in rows if "failed" in row}
    assert failed.keys() == {6, 7, 8}
    assert "refused by the judge" in failed[6] and "content policy" in failed[6]
    assert failed[7].startswith("cut at its limit: raise max_tokens")
    assert failed[8].startswith("no reply after 3 attempts")
    assert all(row["reply"].startswith("If I may") for row in rows if "reply" in row)


def test_a_job_that_is_killed_asks_for_the_rest_alone(tmp_path):
    judge = {"concurrency": 2}
    with JudgeServer(default=kindly) as server:
        server.most = 7  # of those that come after nothing is answered
        flags = flags_of(tmp_path, judge_at(server.url, **judge))
        command = [sys.executable, "-m", "workflow_scripts.synthesise.write", *map(str, flags)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"TEST_JUDGE_KEY": KEY})
        server.wait_for(9)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "replies.jsonl").exists()
        stored = len(list(tmp_path.glob("store/verdicts/*/*.json")))
        assert 0 < stored <= 7
        server.most, before = None, server.asked()
        rows = written_in(tmp_path, judge_at(server.url, **judge))
        assert server.asked() - before == len(ROWS) - stored
    assert all("reply" in row for row in rows)


def test_a_budget_stops_the_writing_and_a_larger_one_asks_for_the_rest(tmp_path):
    with JudgeServer(default=kindly) as server:
        with pytest.raises(PlumblineError, match=r"source 'polite': .*the budget of .* would be passed"):
            written_in(tmp_path, judge_at(server.url, budget_usd=0.016, concurrency=1))
        asked = server.asked()
        assert 0 < asked < len(ROWS)
        written_in(tmp_path, judge_at(server.url, budget_usd=10.0))
        assert server.asked() == len(ROWS)


def test_samples_are_requests_of_their_own_with_seeds_of_their_own(tmp_path):
    with JudgeServer(default=say(lambda handler: f"seed {handler.body['seed']}")) as server:
        rows = written_in(tmp_path, judge_at(server.url, seed=5), SETTINGS | {"samples": 3, "limit": 5})
    assert [(row["row"]["output"], row["reply"]) for row in rows] == [
        ("Leaf 0.", "seed 5"),
        ("Leaf 0.", "seed 6"),
        ("Leaf 0.", "seed 7"),
        ("Leaf 1.", "seed 5"),
        ("Leaf 1.", "seed 6"),
    ]


def test_samples_are_asked_for_one_by_one_where_no_seed_is_sent(tmp_path):
    with JudgeServer(default=kindly) as server:
        written_in(tmp_path, judge_at(server.url), SETTINGS | {"samples": 2, "limit": 4})
        assert server.asked() == 4
        assert all("seed" not in call["body"] for call in server.calls)


def test_a_raw_prompt_is_gone_on_from_and_no_message(tmp_path):
    """Magpie: the prompt ends where the user's turn begins."""
    settings = SETTINGS | {
        "wordings": {"": {"prompt": "<|user|>\n", "system": None}},
        "prompt_as": "completion",
        "count": 3,
        "needs": [],
    }
    with JudgeServer(default=say(lambda handler: f"Why {handler.body['seed']}?")) as server:
        rows = written_in(tmp_path, judge_at(server.url, seed=1, temperature=1.0), settings, None)
        assert {call["path"] for call in server.calls} == {"/v1/completions"}
        assert all(call["body"]["prompt"] == "<|user|>\n" for call in server.calls)
        assert not any("messages" in call["body"] for call in server.calls)
    assert [row["reply"] for row in rows] == ["Why 1?", "Why 2?", "Why 3?"]


def test_an_assistants_turn_and_a_system_message_are_sent_as_such(tmp_path):
    settings = SETTINGS | {
        "wordings": {"": {"prompt": "{output}", "system": "About {instruction}"}},
        "prompt_as": "assistant",
        "limit": 1,
    }
    with JudgeServer() as server:
        written_in(tmp_path, judge_at(server.url), settings)
        (asked,) = server.calls
    assert asked["body"]["messages"] == [
        {"role": "system", "content": "About Name part 0 of a fern."},
        {"role": "assistant", "content": "Leaf 0."},
    ]


def test_each_request_has_one_variant_by_a_draw_that_stays(tmp_path):
    wordings = {name: {"prompt": f"{name}: {{output}}", "system": None} for name in ("polite", "rude")}
    rows = [{"output": str(number)} for number in range(400)]
    settings = SETTINGS | {"wordings": wordings, "needs": ["output"]}
    tasks = write.tasks_of(rows, settings)
    counts = Counter(task["variant"] for task in tasks)
    assert 160 < counts["polite"] < 240 and counts.total() == 400
    assert tasks == write.tasks_of(rows, settings)
    assert [task["variant"] for task in tasks[:200]] == [
        task["variant"] for task in write.tasks_of(rows[:200], settings)
    ]
    assert tasks != write.tasks_of(rows, settings | {"seed": 8})


def test_a_cleaned_row_is_written_about_turn_by_turn():
    messages = [
        {"role": "system", "content": "Tutor."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Light."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Water."},
    ]
    first, second = write.fields_of([{"id": "c1", "group": "g", "messages": messages, "meta": {}}], True)
    assert first == {"id": "c1#0", "group": "g", "system": "Tutor.", "prompt": "Why?", "response": "Light."}
    assert second["response"] == "Water."
    assert (
        second["prompt"]
        == "<user>\nWhy?\n</user>\n\n<assistant>\nLight.\n</assistant>\n\n<user>\nAnd?\n</user>"
    )


def test_a_row_without_a_field_is_counted_and_a_field_of_no_row_stops_before_anything_is_asked(tmp_path):
    rows = [*ROWS[:2], {"instruction": "No output here."}, {"instruction": "Null.", "output": None}]
    with JudgeServer(default=kindly) as server:
        found = written_in(tmp_path / "a", judge_at(server.url), rows=rows)
        assert [row.get("failed") for row in found] == [None, None, "the row has no output", None]
        asked = server.asked()
        settings = SETTINGS | {"wordings": {"": {"prompt": "{ouptut}", "system": None}}}
        with pytest.raises(
            PlumblineError, match=re.escape("no row has a field {ouptut}; the first has {instruction}")
        ):
            written_in(tmp_path / "b", judge_at(server.url), settings)
        assert server.asked() == asked


# --- the plan, and recordings --------------------------------------------------------------------------------------


def test_planning_asks_nothing_and_stands_in_for_what_is_not_written(tmp_path):
    """The second writing's prompts hold the first one's replies, as long as they can be."""
    nowhere = judge_at("http://127.0.0.1:9/v1", max_tokens=100)
    before = {
        "settings": SETTINGS,
        "max_tokens": 100,
        "into": {"": {"text": "{reply}", "seen": "{output}"}},
        "written": str(tmp_path / "first.jsonl"),
    }
    settings = SETTINGS | {"wordings": {"": {"prompt": "{text}{seen}", "system": None}}, "needs": ["text"]}
    flags = flags_of(tmp_path, nowhere, settings)
    call(write.main, *flags, "--plan", "--before", json.dumps({"writings": [before]}))
    found = read_json(tmp_path / "replies.jsonl")
    own = sum(100 + len(row["output"]) for row in ROWS)
    assert (found["requests"], found["missing"], found["stored"]) == (12, 12, 0)
    assert found["prompt_tokens"] == own + 12 * (16 + 256) and found["completion_tokens"] == 1200
    write_jsonl(tmp_path / "first.jsonl", [{"text": "short", "seen": "x"}])
    call(write.main, *flags, "--plan", "--before", json.dumps({"writings": [before]}))
    assert read_json(tmp_path / "replies.jsonl")["requests"] == 1


def test_recorded_replies_stand_in_for_an_endpoint_that_is_not_there(tmp_path, monkeypatch, capsys):
    with JudgeServer(default=kindly) as server:
        first = written_in(tmp_path / "a", judge_at(server.url))
    call(
        verdict_store.main,
        "--store",
        tmp_path / "a/store",
        "--study",
        "s",
        "--output",
        tmp_path / "replies.jsonl",
    )
    assert "12 replies written" in capsys.readouterr().out
    monkeypatch.delenv("TEST_JUDGE_KEY")
    silent = judge_at("http://127.0.0.1:9/v1", recorded=str(tmp_path / "replies.jsonl"))
    assert written_in(tmp_path / "b", silent) == first
    cost = read_json(tmp_path / "b/cost.json")
    assert (cost["judge_calls"], cost["judge_stored"], cost["usd"]) == (0, 12, 0)
    with pytest.raises(
        PlumblineError, match="TEST_JUDGE_KEY holds no key"
    ):  # what is not recorded is asked for
        written_in(tmp_path / "b", silent, rows=[*ROWS, {"instruction": "New.", "output": "New."}])
    assert (
        f"1 of 13 requests are not in {tmp_path}/replies.jsonl: they are asked for" in capsys.readouterr().err
    )
    text = (tmp_path / "replies.jsonl").read_text()
    assert KEY not in text
    (tmp_path / "replies.jsonl").write_text(text + '{"request": {}}\n')
    with pytest.raises(PlumblineError, match="row 13 is no recorded reply"):
        written_in(tmp_path / "b", silent)
    (tmp_path / "replies.jsonl").write_text("")
    with pytest.raises(PlumblineError, match="holds no recorded reply"):
        written_in(tmp_path / "b", silent)


def test_a_recording_is_of_one_study(tmp_path):
    with JudgeServer(default=kindly) as server:
        written_in(tmp_path, judge_at(server.url))
    with pytest.raises(PlumblineError, match="holds nothing that study 'other' paid for"):
        call(
            verdict_store.main,
            "--store",
            tmp_path / "store",
            "--study",
            "other",
            "--output",
            tmp_path / "r.jsonl",
        )


# --- rows from replies ----------------------------------------------------------------------------------------------


def replies(*texts: str | None, row: dict | None = None) -> list[dict]:
    """Return replies to the first rows, or to one row again and again; None is a request without one."""
    return [
        {"number": number, "sample": 0, "variant": "", "row": row or ROWS[number - 1]}
        | ({"failed": "refused by the judge: I will not."} if text is None else {"reply": text})
        for number, text in enumerate(texts, 1)
    ]


def reasons_of(found: list[dict]) -> list[str]:
    return [entry["reason"] for entry in found]


def test_a_reply_becomes_a_row_of_its_template():
    (row,), rejected = written.rows_of(replies("  Kindly, a leaf. \n"), MADE, {})
    assert row == {
        "instruction": "Name part 0 of a fern.",
        "chosen": "Kindly, a leaf.",
        "rejected": "Leaf 0.",
    }
    assert rejected == []


def test_each_variant_has_rows_of_its_own_making():
    into = {
        "polite": {"chosen": "{reply}", "rejected": "{output}"},
        "rude": {"chosen": "{output}", "rejected": "{reply}"},
    }
    found = replies("Kind.", "Rude.")
    found[0]["variant"], found[1]["variant"] = "polite", "rude"
    kept, _ = written.rows_of(found, MADE | {"into": into}, {})
    assert kept == [{"chosen": "Kind.", "rejected": "Leaf 0."}, {"chosen": "Leaf 1.", "rejected": "Rude."}]


@pytest.mark.parametrize(
    ("changed", "text", "reason"),
    [
        ({}, None, "refused by the judge"),
        ({}, " \n", "empty"),
        ({"min_chars": 20}, "Too short.", "shorter than 20 characters"),
        ({"max_chars": 5}, "Too long.", "longer than 5 characters"),
        ({"differs_from": ["output"]}, " leaf  0.\n", "says what output says"),
        ({"reject_phrases": ["As an AI"]}, "Well, as an ai I cannot.", "contains 'As an AI'"),
        ({"answer": MADE["answer"] | {"pattern": r"Q: (.+)"}}, "No question.", "pattern not found"),
        ({"answer": {"form": "json", "fields": ["a"], "pattern": None}}, "no braces", "holds no JSON object"),
        ({"answer": {"form": "json", "fields": ["a"], "pattern": None}}, '{"b": 1}', "has no a"),
        ({"answer": {"form": "json", "fields": ["a"], "pattern": None}}, '{"a": []}', "a is empty"),
        ({"answer": {"form": "json", "fields": ["a"], "pattern": None}}, '{"a": " "}', "a is empty"),
        ({"answer": {"form": "json", "fields": [], "pattern": None}}, '{"a": NaN}', "holds no JSON object"),
        ({"answer": {"form": "json", "fields": [], "pattern": None}}, "{" * 5000, "holds no JSON object"),
        ({"into": {"": {"a": "{reply.a}"}}}, "words", "has no a"),
    ],
)
def test_a_reply_that_is_no_row_is_rejected_with_its_reason(changed, text, reason):
    kept, rejected = written.rows_of(replies(text), MADE | changed, {})
    assert kept == [] and reasons_of(rejected) == [reason]
    assert rejected[0]["number"] == 1 and rejected[0]["detail"] is not None


def test_a_row_that_stands_there_already_is_rejected_whatever_its_number():
    into = {"": {"id": "{number}", "text": "{reply}"}}
    kept, rejected = written.rows_of(replies("One.", "Two.", "One."), MADE | {"into": into}, {})
    assert kept == [{"id": 1, "text": "One."}, {"id": 2, "text": "Two."}]
    assert reasons_of(rejected) == ["duplicate"] and rejected[0]["number"] == 3


@pytest.mark.parametrize(
    "text",
    [
        '{"problem": "Why?", "steps": [{"hint": "Light."}]}',
        'Here it is:\n```json\n{"problem": "Why?", "steps": [{"hint": "Light."}]}\n```\nGood luck with {it}!',
        'Sure. {"problem": "Why?", "steps": [{"hint": "Light."}]} I hope this helps.',
    ],
)
def test_a_json_object_is_found_among_words_and_its_pieces_keep_their_types(text):
    answer = {"form": "json", "fields": ["problem", "steps"], "pattern": None}
    into = {
        "": {
            "q": "{reply.problem}",
            "steps": "{reply.steps}",
            "hint": "Hint: {reply.steps.0.hint}",
            "all": "{reply}",
        }
    }
    kept, rejected = written.rows_of(replies(text), MADE | {"answer": answer, "into": into}, {})
    whole = {"problem": "Why?", "steps": [{"hint": "Light."}]}
    assert rejected == []
    assert kept == [{"q": "Why?", "steps": [{"hint": "Light."}], "hint": "Hint: Light.", "all": whole}]


def test_a_pattern_takes_its_group_and_gives_names_to_others():
    answer = MADE["answer"] | {"pattern": r"(?s)Instruction: (?P<asked>.+?)\nResponse: (?P<told>.+)"}
    into = {"": {"instruction": "{reply.asked}", "output": "{reply.told}"}}
    kept, _ = written.rows_of(
        replies("Instruction: Why?\nResponse: Light."), MADE | {"answer": answer, "into": into}, {}
    )
    assert kept == [{"instruction": "Why?", "output": "Light."}]
    first_line = MADE["answer"] | {"pattern": r"\A\s*(.+)"}
    kept, _ = written.rows_of(replies("\n\n Why is it so? \nBecause."), MADE | {"answer": first_line}, {})
    assert kept[0]["chosen"] == "Why is it so?"


def test_rows_that_stand_in_a_benchmark_are_rejected(tmp_path):
    long = "the slow green fern unfolds its many small leaves towards the pale morning light above"
    items = [
        {"item": "a", "text": long},
        {"item": "b", "text": "How old is a beech?"},
    ]
    write_jsonl(tmp_path / "items.jsonl", items)
    benchmarks = {"quiz": grams_of(read_items([tmp_path / "items.jsonl"]), [written.SIZE], written.COMMON)}
    said = [
        f"It is known that {long}, is it not?",
        "how old is a BEECH",
        "How old is a birch? It is the slow green fern that unfolds its many leaves.",
    ]
    kept, rejected = written.rows_of(replies(*said), MADE, benchmarks)
    assert [row["chosen"] for row in kept] == said[2:]
    assert reasons_of(rejected) == ["shares 13 words with an item of quiz", "is an item of quiz"]


def test_what_becomes_of_replies_adds_up_in_the_manifest(tmp_path, capsys):
    write_jsonl(tmp_path / "replies.jsonl", replies("Kind.", None, "", "Kind.", "Rude."))
    flags = ["--name", "polite", "--replies", tmp_path / "replies.jsonl", "--settings", json.dumps(MADE)]
    flags += ["--output", tmp_path / "files", "--manifest", tmp_path / "manifest.json"]
    call(written.main, *flags)
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["counts"] == {"requests": 5, "kept": 3, "rejected": 2}
    assert manifest["rejected"] == {"empty": 1, "refused by the judge": 1}
    assert manifest["rows"] == {"rows.jsonl": 3} and manifest["writer"] == {
        "model": "judge-1",
        "version": None,
    }
    assert set(manifest["files"]) == {"files/rows.jsonl", "files/rejected.jsonl"}
    said = capsys.readouterr().err
    assert "5 requests, 3 rows kept, 2 rejected: " in said and "empty (1)" in said


def test_a_source_of_which_nothing_is_left_is_an_error_with_the_reasons(tmp_path):
    write_jsonl(tmp_path / "replies.jsonl", replies("", None, None))
    flags = ["--name", "polite", "--replies", tmp_path / "replies.jsonl", "--settings", json.dumps(MADE)]
    with pytest.raises(
        PlumblineError, match=r"source 'polite': no row is left of 3 replies .*refused by the judge \(2\)"
    ):
        call(written.main, *flags, "--output", tmp_path / "files", "--manifest", tmp_path / "manifest.json")
    assert not (tmp_path / "files").exists()


# --- a policy of ours as the writer -----------------------------------------------------------------------------------


def test_a_policy_of_ours_writes_instructions_and_answers_them(tiny_model, tmp_path):
    """Magpie with a random model: where the user's turn begins it goes on, and then it answers by its own template."""
    from tests.policy_server import policy_words
    from tests.tiny import TEMPLATE
    from workflow_scripts.common.chat_template import save_chat_template

    model = shutil.copytree(tiny_model, tmp_path / "model")
    save_chat_template(model, TEMPLATE)
    asked = SETTINGS | {"prompt_as": "completion", "count": 4, "needs": []}
    asked |= {"wordings": {"": {"prompt": "<s>Student:", "system": None}}}
    with JudgeServer(default=say(policy_words(model))) as server:
        writer = judge_at(server.url, seed=1, temperature=1.0, max_tokens=12)
        first = written_in(tmp_path / "asked", writer, asked, None)
        rows, rejected = written.rows_of(first, MADE | {"into": {"": {"instruction": "{reply}"}}}, {})
        assert len(rows) + len(rejected) == 4 and len({row["instruction"] for row in rows}) == len(rows) > 1
        answered = SETTINGS | {"needs": ["instruction"]}
        answered |= {"wordings": {"": {"prompt": "{instruction}", "system": "Tutor the student."}}}
        second = written_in(tmp_path / "answered", writer, answered, rows)
        calls = [call["path"] for call in server.calls]
    assert calls == ["/v1/completions"] * 4 + ["/v1/chat/completions"] * len(rows)
    made = {"": {"instruction": "{instruction}", "output": "{reply}"}}
    pairs, lost = written.rows_of(second, MADE | {"into": made}, {})
    assert len(pairs) + len(lost) == len(rows) and pairs
    with JudgeServer(default=say(policy_words(model))) as server:  # the same weights and seeds say the same
        writer = judge_at(server.url, seed=1, temperature=1.0, max_tokens=12)
        assert written_in(tmp_path / "again", writer, answered, rows) == second
