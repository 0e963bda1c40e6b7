"""What the judge's client promises: every verdict is paid for once, whatever the server, a kill or a rival does."""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest

from tests.judge_requests import (
    COMPLETION_PRICE,
    KEY,
    MAX_TOKENS,
    PROMPT_PRICE,
    judge_at,
    request,
    requests,
    worst_price,
)
from tests.judge_server import (
    JudgeServer,
    completion,
    fail,
    half_json,
    hang,
    normal,
    reset,
    send,
    stop_halfway,
    tell_key,
    trickle,
    words_for,
)
from workflow_scripts.common.asking import client
from workflow_scripts.common.asking.client import ask, plan
from workflow_scripts.common.asking.pace import Pace
from workflow_scripts.common.asking.requests import Reply, Request
from workflow_scripts.common.asking.spending import Spending
from workflow_scripts.common.errors import PlumblineError

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("quick_client")


def key_of(asked, model="judge-1", version=None):
    content = {"messages": asked.messages, "model": model, "params": asked.params, "version": version}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def path_of(store, asked, **named):
    key = key_of(asked, **named)
    return store / "verdicts" / key[:2] / f"{key}.json"


def stored(store):
    """Return the verdicts in a store by the text they answer; each must be whole and under its own name."""
    found = {}
    for path in (store / "verdicts").rglob("*.json"):
        entry = json.loads(path.read_text())
        messages, params = entry["request"]["messages"], entry["request"]["params"]
        assert path == path_of(store, Request(messages, params))
        found[messages[-1]["content"]] = entry
    return found


REAL_PRICE = (12 * PROMPT_PRICE + 5 * COMPLETION_PRICE) / 1e6  # the server counts 12 and 5 tokens for each


def spent_at(server):
    return REAL_PRICE * sum(call["sent"] for call in server.calls)


# --- one process --------------------------------------------------------------------------------------------------


def test_replies_come_in_order_and_a_second_run_makes_no_call_and_needs_no_key(tmp_path, monkeypatch):
    asked = requests(12)
    with JudgeServer() as server:
        replies, facts = ask(asked, judge_at(server.url), tmp_path, "cell", "study")
        assert [reply.text for reply in replies] == [words_for(f"question {number}") for number in range(12)]
        assert all(reply.failed is None and reply.logprobs is None for reply in replies)
        assert server.asked() == 12
        monkeypatch.delenv("TEST_JUDGE_KEY")
        again = ask(asked, judge_at(server.url), tmp_path, "cell", "study")
        assert server.asked() == 12
    assert again == (replies, facts)
    assert facts == {
        "judge_calls": 12,
        "judge_stored": 0,
        "judge_retries": 0,
        "prompt_tokens": 12 * 12,
        "completion_tokens": 12 * 5,
        "usd": pytest.approx(12 * REAL_PRICE),
    }


def test_a_request_is_sent_as_it_stands(tmp_path):
    asked = request("hello", seed=123, num_ctx=2048, logprobs=True, top_logprobs=2, stop=["\n"])
    with JudgeServer() as server:
        ask([asked], judge_at(server.url), tmp_path, "cell")
        (call,) = server.calls
    assert call["path"] == "/v1/chat/completions"
    assert call["body"] == {"model": "judge-1", "messages": asked.messages, **asked.params}


def test_a_verdict_is_stored_with_what_it_answers_and_what_it_cost(tmp_path):
    with JudgeServer() as server:
        ask([request("hello")], judge_at(server.url, version="2024-06"), tmp_path, "cell", "study")
    entry = json.loads(path_of(tmp_path, request("hello"), version="2024-06").read_text())
    reply = {"text": words_for("hello"), "finish_reason": "stop", "logprobs": None, "refusal": None}
    assert entry == {
        "request": {
            "model": "judge-1",
            "version": "2024-06",
            "messages": request("hello").messages,
            "params": request("hello").params,
        },
        "reply": reply,
        "usage": {"prompt_tokens": 12, "completion_tokens": 5},
        "usd": pytest.approx(REAL_PRICE),
        "retries": 0,
        "paid_by": "study/cell",
    }


def test_equal_requests_are_asked_once_and_all_are_counted(tmp_path):
    asked = [request("a"), request("b"), request("a"), request("a")]
    with JudgeServer() as server:
        replies, facts = ask(asked, judge_at(server.url), tmp_path, "cell")
        assert server.asked() == 2
    assert [reply.text for reply in replies] == [words_for(text) for text in "abaa"]
    assert (facts["judge_calls"], facts["judge_stored"]) == (2, 2)


def test_a_cell_tells_what_it_paid_and_not_what_others_did(tmp_path):
    with JudgeServer() as server:
        judge = judge_at(server.url)
        ask(requests(3), judge, tmp_path, "cell", "first")
        _, facts = ask(requests(5), judge, tmp_path, "cell", "second")
    assert (facts["judge_calls"], facts["judge_stored"]) == (2, 3)
    assert facts["usd"] == pytest.approx(2 * REAL_PRICE)


def test_model_and_version_name_a_judge_and_its_address_and_key_do_not(tmp_path, monkeypatch):
    with JudgeServer() as server:
        ask([request("a")], judge_at(server.url), tmp_path, "cell")
    with JudgeServer() as other:
        monkeypatch.setenv("TEST_JUDGE_KEY", "another-key-of-the-same-judge")
        ask([request("a")], judge_at(other.url, name="renamed", concurrency=1), tmp_path, "cell")
        assert other.asked() == 0
        for changed in ({"model": "judge-2"}, {"version": "2"}):
            ask([request("a")], judge_at(other.url, **changed), tmp_path, "cell")
        ask([request("a", seed=1)], judge_at(other.url), tmp_path, "cell")
        assert other.asked() == 3


def test_logprobs_of_the_reply_are_given_where_asked_for(tmp_path):
    def token(name):
        likely = [
            {"token": name, "logprob": -0.1, "bytes": [1]},
            {"token": "M", "logprob": -2.5, "bytes": None},
        ]
        return {"token": name, "logprob": -0.1, "bytes": [1], "top_logprobs": likely}

    body = completion("m", logprobs={"content": [token("m")], "refusal": None})
    with JudgeServer(default=send(200, body)) as server:
        for _ in range(2):  # from the judge, and from the store
            ((reply,), _) = ask([request("a", logprobs=True)], judge_at(server.url), tmp_path, "cell")
            likely = [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -2.5}]
            assert reply == Reply("m", None, [{"token": "m", "logprob": -0.1, "top_logprobs": likely}])


PASSING = {
    "too many requests": fail(429, "slow down", "rate_limit_exceeded"),
    "too many requests, come back at once": fail(429, "slow down", Retry_After="0"),
    "come back at a date that has passed": fail(503, "busy", Retry_After="Sun, 06 Nov 1994 08:49:37 GMT"),
    "come back at a nonsense": fail(503, "busy", Retry_After="soon"),
    "internal error": fail(500, "oops"),
    "a proxy's page": send(502, b"<html>Bad gateway</html>", "text/html"),
    "wrong content": send(200, b"<html>Welcome to the hotel</html>", "text/html"),
    "error under 200": send(200, {"error": {"message": "upstream failed", "code": 502}}),
    "no choices": send(200, completion("x") | {"choices": []}),
    "not an object": send(200, ["x"]),
    "content of parts without words": send(200, completion([{"type": "text", "text": None}])),
    "reset": reset,
    "closed halfway": stop_halfway,
    "half a JSON": half_json,
}
LATE = {"hang": hang, "trickle": trickle}


def test_what_passes_is_tried_again_and_never_stored(tmp_path):
    with JudgeServer({name: [behaviour, normal] for name, behaviour in PASSING.items()}) as server:
        judge = judge_at(server.url)
        asked = [request(name) for name in PASSING]
        replies, facts = ask(asked, judge, tmp_path, "cell")
        assert replies == [Reply(words_for(name), None, None) for name in PASSING]
        assert {name: server.asked(name) for name in PASSING} == dict.fromkeys(PASSING, 2)
        assert facts["judge_calls"] == facts["judge_retries"] == len(PASSING)
        assert ask(asked, judge, tmp_path, "cell") == (replies, facts)
        assert server.asked() == 2 * len(PASSING)


@pytest.mark.parametrize("name", LATE)
def test_a_reply_that_does_not_come_in_time_is_asked_for_again(tmp_path, name):
    with JudgeServer({name: [LATE[name], normal]}) as server:
        judge = judge_at(server.url, timeout_seconds=0.5, retries=9)
        replies, facts = ask([request(name)], judge, tmp_path, "cell")
        assert server.asked() == 1 + facts["judge_retries"] >= 2
    assert replies == [Reply(words_for(name), None, None)]


@pytest.mark.parametrize("name", PASSING | LATE)
def test_a_judge_that_never_answers_leaves_nothing_but_a_reason(tmp_path, name):
    with JudgeServer({"bad": [(PASSING | LATE)[name]]}) as server:
        judge = judge_at(server.url, timeout_seconds=4 if name in LATE else 60, retries=1, unanswered="count")
        replies, facts = ask([request("bad"), request("good")], judge, tmp_path, "cell")
        assert server.asked("bad") == 2
    assert replies[0].text is None
    assert replies[0].failed.startswith("no reply after 2 attempts: ")
    assert replies[1].text == words_for("good")
    assert stored(tmp_path).keys() == {"good"}
    assert (facts["judge_calls"], facts["judge_stored"], facts["judge_retries"]) == (1, 0, 1)


def test_where_every_verdict_is_wanted_the_others_are_asked_first_and_only_the_missing_later(tmp_path):
    with JudgeServer({"question 0": [*[fail(500, "oops")] * 3, normal]}) as server:
        with pytest.raises(PlumblineError, match=r"500: .*oops; run again: 1 of 9 verdicts are missing"):
            ask(requests(9), judge_at(server.url), tmp_path, "cell")
        assert server.asked() == 3 + 8
        assert len(stored(tmp_path)) == 8
        replies, facts = ask(requests(9), judge_at(server.url), tmp_path, "cell")
        assert server.asked() == 3 + 8 + 1
    assert [reply.text for reply in replies] == [words_for(f"question {number}") for number in range(9)]
    assert facts["judge_calls"] == 9


REFUSALS = {
    "a refusal": (
        send(200, completion(None, message={"refusal": "I will not."})),
        "by the judge: I will not.",
    ),
    "cut by the filter": (
        send(200, completion("Well", finish_reason="content_filter")),
        "its content filter",
    ),
    "against policy": (fail(400, "Bad prompt.", "content_policy_violation"), "content_policy_violation"),
    "filtered at the door": (fail(400, "The response was filtered", "content_filter"), "content_filter"),
    "moderated": (fail(403, "Your input was flagged"), "flagged"),
    "empty": (send(200, completion("")), "reply is empty"),
    "blank": (send(200, completion(" \n")), "reply is empty"),
    "null": (send(200, completion(None)), "reply is empty"),
    "thought too long": (send(200, completion("", finish_reason="length")), "max_tokens were spent"),
}


def test_a_refusal_is_a_verdict_it_is_stored_and_not_asked_again(tmp_path):
    with JudgeServer({name: [behaviour] for name, (behaviour, _) in REFUSALS.items()}) as server:
        asked = [request(name) for name in REFUSALS]
        replies, facts = ask(asked, judge_at(server.url), tmp_path, "cell")
        assert all(server.asked(name) == 1 for name in REFUSALS)
        assert ask(asked, judge_at(server.url), tmp_path, "cell") == (replies, facts)
        assert server.asked() == len(REFUSALS)
    for reply, (_, reason) in zip(replies, REFUSALS.values(), strict=True):
        assert reply.text is None
        assert reason in reply.failed
    assert facts["judge_calls"] == len(REFUSALS)


def test_words_of_the_wrong_grammar_are_a_reply_like_any_other(tmp_path):
    with JudgeServer(default=send(200, completion("seven, I think"))) as server:
        replies, _ = ask(requests(1), judge_at(server.url), tmp_path, "cell")
    assert replies == [Reply("seven, I think", None, None)]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (fail(401, "Incorrect API key"), r"refuses the key in TEST_JUDGE_KEY \(status 401\)"),
        (fail(403, "Forbidden"), r"refuses the key in TEST_JUDGE_KEY \(status 403\)"),
        (fail(404, "model not found", "model_not_found"), "serves the model 'judge-1'"),
        (fail(429, "You exceeded your quota", "insufficient_quota"), "no credit is left"),
        (fail(402, "Insufficient balance"), "no credit is left"),
        (fail(429, "come back tomorrow", Retry_After="86400"), "left alone for 86400 s"),
        (fail(400, "Unsupported parameter: max_tokens"), "check the parameters"),
    ],
)
def test_what_would_befall_every_request_is_found_with_one(tmp_path, behaviour, message):
    with JudgeServer(default=behaviour) as server:
        judge = judge_at(server.url, unanswered="count")
        with pytest.raises(PlumblineError, match=rf"{message}.*; 30 of 30 verdicts are missing"):
            ask(requests(30), judge, tmp_path, "cell")
        assert server.asked() == 1
    assert stored(tmp_path) == {}


def test_a_judge_that_is_not_there_is_found_with_one_request(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT", 1000)  # were it tried again, this test would not end
    monkeypatch.setattr(client, "LONGEST_WAIT", 1000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:word@127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(
            PlumblineError, match=r"cannot be reached .*30 of 30 verdicts are missing"
        ) as caught:
            ask(requests(30), judge_at(url), tmp_path, "cell")
    assert "word@" not in str(caught.value)


@pytest.mark.parametrize("key", [None, "", " ", "two\nlines", "schlüssel"])
def test_without_a_usable_key_nothing_is_asked(tmp_path, monkeypatch, key):
    monkeypatch.delenv("TEST_JUDGE_KEY") if key is None else monkeypatch.setenv("TEST_JUDGE_KEY", key)
    with JudgeServer() as server:
        with pytest.raises(PlumblineError, match="TEST_JUDGE_KEY holds") as caught:
            ask(requests(1), judge_at(server.url), tmp_path, "cell")
        assert server.asked() == 0
    assert not (key or "").strip() or key not in str(caught.value)


def test_one_prompt_that_is_too_long_does_not_stop_the_others(tmp_path):
    too_long = fail(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded")
    with JudgeServer({"question 0": [too_long], "question 5": [fail(400, "odd")]}) as server:
        judge = judge_at(server.url, unanswered="count")
        replies, _ = ask(requests(9), judge, tmp_path, "cell")
        assert server.asked() == 9  # no use in trying these again
    assert [number for number, reply in enumerate(replies) if reply.failed] == [0, 5]
    assert "context_length_exceeded" in replies[0].failed


def test_a_judge_that_went_down_is_not_asked_for_ever(tmp_path):
    script = {f"question {number}": [normal] for number in range(5)}
    with JudgeServer(script, default=fail(500, "down")) as server:
        judge = judge_at(server.url, retries=0, concurrency=1, unanswered="count")
        with pytest.raises(PlumblineError, match=r"20 requests in a row .* 95 of 100 verdicts are missing"):
            ask(requests(100), judge, tmp_path, "cell")
        assert server.asked() == 5 + 20
    assert len(stored(tmp_path)) == 5


def test_a_pause_the_judge_asks_for_is_kept(tmp_path):
    with JudgeServer({"a": [fail(429, "slow down", Retry_After="1"), normal]}) as server:
        ask([request("a")], judge_at(server.url), tmp_path, "cell")
        first, second = (call["at"] for call in server.calls)
    assert second - first > 0.9


def test_a_damaged_verdict_is_asked_for_anew(tmp_path):
    with JudgeServer() as server:
        ask(requests(3), judge_at(server.url), tmp_path, "cell")
        for number, damage in enumerate((b"", b'{"request": {', b"\xff\xfe")):
            path_of(tmp_path, request(f"question {number}")).write_bytes(damage)
        leftover = path_of(tmp_path, request("question 0"))
        leftover.with_name(f".{leftover.name}.killed").write_bytes(b'{"reply": {')
        assert plan(requests(3), judge_at(server.url), tmp_path)["missing"] == 3
        replies, _ = ask(requests(3), judge_at(server.url), tmp_path, "cell")
        assert server.asked() == 6
    assert [reply.text for reply in replies] == [words_for(f"question {number}") for number in range(3)]
    files = [path for path in (tmp_path / "verdicts").rglob("*") if path.is_file()]
    assert len(files) == len(stored(tmp_path)) == 3


def test_many_requests_are_under_way_at_once_and_no_more_than_allowed(tmp_path):
    with JudgeServer() as server:
        server.script = {"question 0": [send(200, completion("first"))]}
        server.gate.clear()
        judge = judge_at(server.url, concurrency=3)
        asking = threading.Thread(target=ask, args=(requests(10), judge, tmp_path, "cell"))
        asking.start()
        server.wait_for(1 + 3)
        time.sleep(0.2)
        assert server.asked() == 1 + 3
        server.gate.set()
        asking.join()
        assert server.asked() == 10


# --- plans and money ----------------------------------------------------------------------------------------------


def test_a_plan_asks_nothing_and_is_what_asking_then_does(tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_JUDGE_KEY")
    asked = [*requests(6), *requests(4), *requests(5, "naïve Frage")]
    with JudgeServer() as server:
        judge = judge_at(server.url)
        before = plan(asked, judge, tmp_path)
        assert server.asked() == 0
        assert not list(tmp_path.iterdir())
        monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
        ask(asked[:3], judge, tmp_path, "another cell")
        halfway = plan(asked, judge, tmp_path)
        _, facts = ask(asked, judge, tmp_path, "cell")
        assert server.asked() == before["missing"]
        after = plan(asked, judge, tmp_path)
    assert (before["requests"], before["stored"], before["missing"]) == (15, 4, 11)
    assert (halfway["stored"], halfway["missing"]) == (facts["judge_stored"], facts["judge_calls"])
    for name in ("prompt_tokens", "completion_tokens", "usd"):
        assert facts[name] <= halfway[name]
    texts = [f"question {number}" for number in range(6)] + [f"naïve Frage {number}" for number in range(5)]
    assert before["usd"] == pytest.approx(sum(map(worst_price, texts)))
    assert before["completion_tokens"] == 11 * MAX_TOKENS
    assert after == dict.fromkeys(before, 0) | {"requests": 15, "stored": 15}


def test_the_budget_stops_before_it_is_passed_and_is_used_up_to_the_last_call(tmp_path):
    budget = 0.05
    with JudgeServer() as server:
        judge = judge_at(server.url, budget_usd=budget)
        with pytest.raises(
            PlumblineError, match=r"the budget of \$0.05 would be passed.*verdicts are missing"
        ):
            ask(requests(200), judge, tmp_path, "cell", "study")
        spent = spent_at(server)
        assert budget - worst_price("question 000") < spent <= budget
        assert len(stored(tmp_path)) == server.asked()
        with pytest.raises(PlumblineError, match="would be passed"):
            ask(requests(200), judge, tmp_path, "cell", "study")
        assert spent_at(server) == spent
        _, facts = ask(requests(200), judge | {"budget_usd": 1.0}, tmp_path, "cell", "study")
        assert server.asked() == 200
    assert facts["usd"] == pytest.approx(200 * REAL_PRICE)


def test_what_may_have_been_billed_counts_and_what_was_not_does_not(tmp_path):
    def journal():
        lines = (tmp_path / "spending" / "study-strict.jsonl").read_text().splitlines()
        opened = {line["ticket"]: line["reserved"] for line in map(json.loads, lines) if "reserved" in line}
        paid = {line["ticket"]: line["paid"] for line in map(json.loads, lines) if "paid" in line}
        return sorted((opened | paid).values())

    script = {"lost": [stop_halfway, normal], "refused": [fail(429, "slow down"), normal]}
    with JudgeServer(script) as server:
        judge = judge_at(server.url, concurrency=1)
        ask([request("lost"), request("refused")], judge, tmp_path, "cell", "study")
    assert journal() == pytest.approx([0.0, REAL_PRICE, REAL_PRICE, worst_price("lost")])


def test_a_judge_that_does_not_count_tokens_is_booked_at_its_worst_and_says_so(tmp_path):
    body = {name: value for name, value in completion("eight").items() if name != "usage"}
    for name, usage in (("none", {}), ("null", {"usage": None}), ("half", {"usage": {"prompt_tokens": 3}})):
        with JudgeServer(default=send(200, body | usage)) as server:
            judge = judge_at(server.url, version=name, budget_usd=1.0)
            replies, facts = ask([request("12345678")], judge, tmp_path / name, "cell")
        entry = json.loads(path_of(tmp_path / name, request("12345678"), version=name).read_text())
        assert replies[0].text == "eight"
        assert entry["usage"] == {
            "prompt_tokens": 4,
            "completion_tokens": 2,
            "estimated": True,
        }  # 14 and 5 bytes
        assert entry["usd"] == facts["usd"] == pytest.approx(worst_price("12345678"))


def test_a_budget_needs_prices_and_a_limit_on_tokens(tmp_path):
    free = {"usd_per_million_prompt_tokens": 0.0, "usd_per_million_completion_tokens": 0.0}
    with JudgeServer() as server:
        with pytest.raises(PlumblineError, match="budget_usd is set but no price"):
            ask(requests(1), judge_at(server.url, budget_usd=1.0, **free), tmp_path, "cell")
        with pytest.raises(PlumblineError, match="has no max_tokens"):
            ask([Request(request("a").messages, {})], judge_at(server.url, budget_usd=1.0), tmp_path, "cell")
        assert server.asked() == 0
        _, facts = ask(requests(1), judge_at(server.url, **free), tmp_path, "cell")
    assert facts["usd"] == 0


def test_a_torn_line_of_the_journal_costs_nothing_and_an_unsettled_one_all(tmp_path):
    path = tmp_path / "journal.jsonl"
    first = Spending(path, 1.0)
    first.settle(first.reserve(0.5), 0.25)
    first.reserve(0.375)
    with open(path, "a") as stream:
        stream.write('{"ticket": "x", "reser')
    second = Spending(path, 1.0)
    second.settle(second.reserve(0.375), 0.375)
    with pytest.raises(
        PlumblineError, match=r"\$1.000000 is spent \(\$0.375000 of it reserved .* \$0.000000 is left"
    ):
        second.reserve(0.001)
    with pytest.raises(PlumblineError, match="would be passed"):
        Spending(path, 1.0).reserve(0.001)


def test_a_clock_set_back_does_not_stop_the_pace(tmp_path):
    (tmp_path / "pace").write_text(f"{time.time() + 1e6}\n")
    Pace(tmp_path / "pace", 1).wait(threading.Event())
    assert float((tmp_path / "pace").read_text()) < time.time() + 1


# --- several processes, and signals -------------------------------------------------------------------------------

NURSERY = """
import json, os, sys, traceback
from pathlib import Path
import openai
from workflow_scripts.common.asking import client
from workflow_scripts.common.asking import verdict_store
from workflow_scripts.common.asking.client import ask
from workflow_scripts.common.asking.requests import Request

client.FIRST_WAIT = 0.01

def die_at_write(count):
    real, writes = os.fsync, []
    def fsync(handle):
        writes.append(handle)
        os.kill(os.getpid(), 9) if len(writes) == count else real(handle)
    verdict_store.os.fsync = fsync

def run(job):
    if job["dies_at"]:
        die_at_write(job["dies_at"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['folder']}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    status = 0
    try:
        wanted = [Request(**row) for row in job["requests"]]
        replies, facts = ask(wanted, job["judge"], Path(job["store"]), job["cell"], "study")
        print(json.dumps({"texts": [reply.text for reply in replies], "facts": facts}), flush=True)
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
    else:
        pid = os.fork()
        if not pid:
            run(job)
        print(pid, flush=True)
"""


class Nursery:
    """A process that has the client loaded and forks one that asks, over and over: a fresh one takes seconds."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TEST_JUDGE_KEY": KEY, "NO_PROXY": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=-1, stdout=-1, text=True, env=environment, cwd=ROOT
        )
        assert self._hear() == "ready"

    def _hear(self):
        return self.process.stdout.readline().strip()

    def _say(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self._hear())

    def start(self, folder, asked, judge, store, cell="cell", dies_at=0):
        """Return the process id of one that asks; its output goes to `folder`.

        Where `dies_at` is set it is killed in the middle of writing that verdict.
        """
        folder.mkdir()
        rows = [one._asdict() for one in asked]
        places = {"folder": str(folder), "store": str(store)}
        return self._say(requests=rows, judge=judge, cell=cell, dies_at=dies_at, **places)

    def wait(self, pid):
        """Return its status, negative for a signal, when it has ended."""
        return self._say(wait=pid)


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.process.stdin.close()
    made.process.wait()


def result_of(folder):
    return json.loads((folder / "out").read_text())


def test_processes_on_one_store_pay_each_request_once(tmp_path, nursery):
    asked = requests(60)
    with JudgeServer(delay=0.01) as server:
        judge = judge_at(server.url)
        lists = [asked, asked[::-1], asked[30:] + asked[:30]]
        pids = [
            nursery.start(tmp_path / f"p{number}", wanted, judge, tmp_path / "store", f"cell {number}")
            for number, wanted in enumerate(lists)
        ]
        assert [nursery.wait(pid) for pid in pids] == [0, 0, 0]
        assert sorted(call["text"] for call in server.calls) == sorted(f"question {n}" for n in range(60))
    results = [result_of(tmp_path / f"p{number}") for number in range(3)]
    for result, wanted in zip(results, lists, strict=True):
        assert result["texts"] == [words_for(one.messages[-1]["content"]) for one in wanted]
        assert result["facts"]["judge_calls"] + result["facts"]["judge_stored"] == 60
    assert sum(result["facts"]["judge_calls"] for result in results) == 60
    assert sum(result["facts"]["usd"] for result in results) == pytest.approx(60 * REAL_PRICE)


def test_killed_over_and_over_nothing_stored_is_paid_twice_and_nothing_is_half(tmp_path, nursery):
    kills, concurrency, asked = 12, 4, requests(150)
    chance = random.Random(4)
    with JudgeServer(delay=0.005) as server:
        judge = judge_at(server.url, concurrency=concurrency)
        for number in range(kills):
            # So that it cannot come to its end before it is killed, however late this process gets to it.
            server.most = server.asked() + chance.randrange(1, 12)
            pid = nursery.start(tmp_path / f"p{number}", asked, judge, tmp_path / "store")
            server.wait_for(server.most)
            time.sleep(chance.random() * 0.02)
            os.kill(pid, signal.SIGKILL)
            assert nursery.wait(pid) == -signal.SIGKILL
            kept = stored(tmp_path / "store").keys()
            before = server.asked()
            assert before <= len(kept) + (number + 1) * concurrency
            server.script |= {text: [fail(401, "this was paid for")] for text in kept}
        assert 0 < len(kept) < 150
        server.most = None
        assert nursery.wait(nursery.start(tmp_path / "last", asked, judge, tmp_path / "store")) == 0
        assert server.asked() <= 150 + kills * concurrency
    result = result_of(tmp_path / "last")
    assert result["texts"] == [words_for(f"question {number}") for number in range(150)]
    assert result["facts"]["judge_calls"] == 150
    assert result["facts"]["usd"] == pytest.approx(150 * REAL_PRICE)
    files = [path for path in (tmp_path / "store" / "verdicts").rglob("*") if path.is_file()]
    assert len(files) == len(stored(tmp_path / "store")) == 150


def test_killed_while_it_writes_a_verdict_it_leaves_none_that_is_half(tmp_path, nursery):
    store, asked = tmp_path / "store", requests(9)
    with JudgeServer() as server:
        judge = judge_at(server.url, concurrency=1)
        for number in range(3):
            pid = nursery.start(tmp_path / f"p{number}", asked, judge, store, dies_at=3)
            assert nursery.wait(pid) == -signal.SIGKILL
            assert server.asked() == 3 * (number + 1)
            assert len(stored(store)) == 2 * (number + 1)
        assert nursery.wait(nursery.start(tmp_path / "last", asked, judge, store)) == 0
        assert server.asked() == 9 + 3
    files = [path for path in (store / "verdicts").rglob("*") if path.is_file()]
    assert len(files) == len(stored(store)) == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_is_in_flight_and_asks_nothing_new(tmp_path, nursery, number):
    asked = requests(30)
    with JudgeServer({"question 0": [send(200, completion(words_for("question 0")))]}) as server:
        server.gate.clear()
        judge = judge_at(server.url, concurrency=4)
        pid = nursery.start(tmp_path / "first", asked, judge, tmp_path / "store")
        server.wait_for(1 + 4)
        os.kill(pid, number)
        deadline = time.monotonic() + 120
        while "stopping" not in (tmp_path / "first" / "err").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        server.gate.set()
        assert nursery.wait(pid) == (1 if number == signal.SIGINT else 128 + number)
        assert ("KeyboardInterrupt" in (tmp_path / "first" / "err").read_text()) == (number == signal.SIGINT)
        assert server.asked() == 5
        assert len(stored(tmp_path / "store")) == 5
        assert nursery.wait(nursery.start(tmp_path / "second", asked, judge, tmp_path / "store")) == 0
        assert server.asked() == 30


def test_a_stop_does_not_wait_for_retries_or_a_pause(tmp_path, nursery):
    with JudgeServer(default=fail(429, "slow down", Retry_After="500")) as server:
        pid = nursery.start(tmp_path / "first", requests(5), judge_at(server.url), tmp_path / "store")
        server.wait_for(1)
        os.kill(pid, signal.SIGTERM)
        assert nursery.wait(pid) == 128 + signal.SIGTERM


def test_processes_and_killed_ones_keep_within_one_budget(tmp_path, nursery):
    budget = 0.12
    chance = random.Random(5)
    with JudgeServer(delay=0.003) as server:
        judge = judge_at(server.url, budget_usd=budget, concurrency=2)
        for number in range(4):
            pid = nursery.start(tmp_path / f"k{number}", requests(400), judge, tmp_path / "store")
            server.wait_for(server.asked() + chance.randrange(1, 8))
            os.kill(pid, signal.SIGKILL)
            nursery.wait(pid)
        pids = [
            nursery.start(tmp_path / f"p{word}", requests(200, word), judge, tmp_path / "store", word)
            for word in ("north", "south", "question")
        ]
        assert [nursery.wait(pid) for pid in pids] == [1, 1, 1]
        assert server.asked() * REAL_PRICE <= budget
        assert server.asked() > 4
    for word in ("north", "south", "question"):
        assert "PlumblineError" in (tmp_path / f"p{word}" / "err").read_text()
        assert "would be passed" in (tmp_path / f"p{word}" / "err").read_text()


def test_processes_keep_one_pace(tmp_path, nursery):
    per_minute, count = 600, 14
    with JudgeServer() as server:
        judge = judge_at(server.url, requests_per_minute=per_minute)
        pids = [
            nursery.start(tmp_path / word, requests(count // 2, word), judge, tmp_path / "store")
            for word in ("north", "south")
        ]
        assert [nursery.wait(pid) for pid in pids] == [0, 0]
        times = [call["at"] for call in server.calls]
    assert len(times) == count
    assert max(times) - min(times) > 0.7 * (count - 1) * 60 / per_minute


# --- the key ------------------------------------------------------------------------------------------------------

WHOLE_LOG = """
import logging, sys
from pathlib import Path
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.asking import client
from tests.judge_requests import judge_at, requests

logging.basicConfig(level=logging.DEBUG)
client.FIRST_WAIT = 0.01
client.ask(requests(3), judge_at(sys.argv[1], unanswered="count"), Path(sys.argv[2]), "cell")
print("done", file=sys.stderr)
"""


def assert_unseen(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes() or KEY in path.name]
    return files


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
def test_a_key_the_server_repeats_is_neither_stored_nor_told(tmp_path, status):
    with JudgeServer(default=tell_key(status)) as server:
        try:
            replies, _ = ask(requests(2), judge_at(server.url, unanswered="count"), tmp_path, "cell")
        except PlumblineError as error:
            told = "".join(traceback.format_exception(error))
            assert status in (400, 401, 404)
        else:
            told = str(replies)
            assert "you sent Bearer [key]" in told
    assert KEY not in told
    assert KEY[-8:] not in told
    assert_unseen(tmp_path)


def test_a_short_key_is_no_secret_and_changes_no_reply(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", "EMPTY")
    with JudgeServer(default=send(200, completion("EMPTY [[1]]"))) as server:
        ((reply,), _) = ask(requests(1), judge_at(server.url), tmp_path, "cell")
    assert reply.text == "EMPTY [[1]]"


def test_a_key_is_in_no_log_however_much_is_logged(tmp_path):
    script = {"question 1": [tell_key(500), normal], "question 2": [tell_key(200)]}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug"}
    with JudgeServer(script) as server:
        done = subprocess.run(
            [sys.executable, "-c", WHOLE_LOG, server.url, str(tmp_path)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert server.asked() == 4
    assert done.stderr.endswith("done\n"), done.stderr
    assert "DEBUG" in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert len(assert_unseen(tmp_path)) >= 3
