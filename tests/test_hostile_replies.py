"""What a judge's endpoint can send at its worst: each reply is a verdict, or a failed one with its reason."""

import gzip
import json
import threading
import time

import pytest

from tests.judge_requests import KEY, judge_at, request, requests, worst_price
from tests.judge_server import JudgeServer, completion, fail, send
from workflow_scripts.common.asking import client, endpoint
from workflow_scripts.common.asking.client import ask
from workflow_scripts.common.asking.requests import params_of, reply_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.score.judging.forms import read_rating

GOOD = "Rating: [[7]]"
pytestmark = pytest.mark.usefixtures("quick_client")


def body(text: object = GOOD, usage: object = None, **choice: object) -> bytes:
    whole = completion("WORDS", **choice)
    if usage is not None:
        whole["usage"] = usage
    words = text if isinstance(text, str) and text.startswith('"') else json.dumps(text)
    return json.dumps(whole).replace('"WORDS"', words).encode()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def of_logprob(value: str) -> bytes:
    token = {"token": "m", "logprob": "VALUE", "top_logprobs": []}
    return body(logprobs={"content": [token]}).replace(b'"VALUE"', value.encode())


HOSTILE = {
    "half a surrogate pair": (body('"Rating: [[7]] \\ud83d"'), "half a surrogate pair"),
    "a refusal in half a pair": (
        body(message={"refusal": "HALF"}).replace(b"HALF", b"\\udc00"),
        "half a surrogate pair",
    ),
    "a log-prob's token in half a pair": (of_logprob("0").replace(b'"m"', b'"\\ud800"'), "half a surrogate"),
    "nested a hundred thousand deep": (nested(100_000).encode(), "nested too deep"),
    "nested in log-probs": (
        body(logprobs={"content": "DEEP"}).replace(b'"DEEP"', nested(100_000).encode()),
        "nested too deep",
    ),
    "a log-prob of 10^400": (of_logprob("1" + "0" * 400), "log-prob"),
    "a log-prob that is no number": (of_logprob("NaN"), "log-prob"),
    "usage of 10^400": (body(usage={"prompt_tokens": 10**400, "completion_tokens": 1}), "no count of tokens"),
    "usage below nothing": (body(usage={"prompt_tokens": -5, "completion_tokens": 1}), "no count of tokens"),
    "a number of ten thousand digits": (b'{"choices": ' + b"9" * 10_000 + b"}", "thousands of digits"),
    "words without end": (body("a" * (endpoint.LONGEST + 1)), "characters"),
    "a body without end": (b" " * (endpoint.LARGEST + 1), "MiB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reply_of_no_use_is_a_failed_verdict_paid_for_once(tmp_path, name):
    content, reason = HOSTILE[name]
    with JudgeServer({"question 1": [send(200, content)]}) as server:
        replies, cost = ask(requests(3), judge_at(server.url, budget_usd=1.0), tmp_path, "cell")
        again, _ = ask(requests(3), judge_at(server.url, budget_usd=1.0), tmp_path, "cell")
        assert server.asked() == 3
    assert replies[1].text is None
    assert reason in replies[1].failed
    assert replies[0].text and replies[2].text
    assert again == replies
    assert cost["usd"] >= worst_price("question 1")  # nobody knows its price: the budget holds all the same


def test_a_small_body_that_unpacks_to_a_large_one_is_of_no_use(tmp_path):
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 100_000
    with JudgeServer({"question 0": [send(200, bomb, Content_Encoding="gzip")]}) as server:
        ((reply,), _) = ask(requests(1), judge_at(server.url), tmp_path, "cell")
    assert "MiB" in reply.failed


ODD = {
    "a list": b"[]",
    "no choices": b'{"choices": []}',
    "choices of another kind": b'{"choices": {"0": 1}}',
    "words that are a list": body(["[[7]]"]),
    "a message that is text": b'{"choices": [{"message": "[[7]]"}]}',
    "log-probs that are text": body(logprobs={"content": "aaa"}),
    "usage that is a list": body(usage=[1]),
    "an error nested deep": b'{"error": ' + nested(900).encode() + b"}",
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_chat_completion_is_asked_for_again_and_then_said(tmp_path, name):
    script = {"question 0": [send(200, ODD[name])]}
    with JudgeServer(script) as server:
        replies, _ = ask(requests(2), judge_at(server.url, unanswered="count"), tmp_path, "cell")
        assert server.asked("question 0") == 3
    assert "no reply after 3 attempts" in replies[0].failed
    assert replies[1].text


@pytest.mark.parametrize("kind", [list, str])
@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_nested_deep_or_without_end_is_a_reason_and_no_traceback(tmp_path, status, kind):
    inner = nested(900) if kind is list else json.dumps("x" * 1_000_000)
    content = b'{"error": {"message": ' + inner.encode() + b', "code": null}}'
    with JudgeServer({"question 1": [send(status, content)]}) as server:
        replies, _ = ask(requests(2), judge_at(server.url, unanswered="count"), tmp_path, "cell")
    assert str(status) in replies[1].failed
    assert len(replies[1].failed) < 1000


def test_a_reply_proves_the_request_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """Or a slow disk would turn one refused question, asked meanwhile, into a judge that rejects all."""
    refused = threading.Event()
    write = client.write_verdict

    def refuse(handler):
        fail(400, "no such words")(handler)
        refused.set()

    def write_late(*arguments):
        assert refused.wait(240)
        time.sleep(0.2)  # until the refusal is read
        write(*arguments)

    monkeypatch.setattr(client, "write_verdict", write_late)
    with JudgeServer({"question 1": [refuse]}) as server:
        replies, _ = ask(requests(2), judge_at(server.url, unanswered="count"), tmp_path, "cell")
    assert replies[0].text
    assert "400" in replies[1].failed


@pytest.mark.parametrize("status", [200, 400, 503])
def test_a_body_that_never_ends_is_given_up_at_its_size(tmp_path, status):
    def pour(handler):
        handler.begin(status, 1 << 40)
        while not handler.owner.closing.is_set():
            handler.wfile.write(b" " * (1 << 20))

    with JudgeServer({"question 1": [pour]}) as server:
        replies, _ = ask(requests(2), judge_at(server.url, unanswered="count"), tmp_path, "cell")
    assert "MiB" in replies[1].failed


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused_and_takes_neither_key_nor_words_along(tmp_path, status):
    with JudgeServer() as other:
        away = send(status, b"", Location=f"{other.url}/chat/completions?key=secret")
        with JudgeServer(default=away) as server, pytest.raises(PlumblineError, match="base_url") as caught:
            ask(requests(2), judge_at(server.url), tmp_path, "cell")
        assert other.asked() == 0
    assert "secret" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("value", ["nan", "-inf", "-5", "Fri, 31 Dec 99999 23:59:59 GMT", "\x00", "1e999x"])
def test_a_pause_that_is_none_is_not_kept(value):
    assert endpoint.pause_of({"retry-after": value}) == 0.0


# --- judges of today ----------------------------------------------------------------------------------------------


def thinking(handler):
    """Refuse max_tokens, and any temperature, as hosted models that think before they answer do."""
    refused = next((key for key in ("max_tokens", "temperature") if key in handler.body), None)
    if refused is None:
        handler.send(200, json.dumps(completion(GOOD)).encode())
        return
    hint = " Use 'max_completion_tokens' instead." if refused == "max_tokens" else ""
    message = f"Unsupported parameter: '{refused}' is not supported with this model.{hint}"
    error = {"message": message, "param": refused, "code": "unsupported_parameter"}
    handler.send(400, json.dumps({"error": error}).encode())


def asked_with(judge: dict, count: int = 1) -> list:
    return [request(f"question {number}")._replace(params=params_of(judge)) for number in range(count)]


def test_a_judge_is_told_by_its_keys_what_it_takes_and_refuses_nothing(tmp_path):
    with JudgeServer(default=thinking) as server:
        judge = judge_at(
            server.url,
            temperature=None,
            max_completion_tokens=64,
            params={"reasoning_effort": "low", "top_p": None},
        )
        ((reply,), _) = ask(asked_with(judge), judge, tmp_path, "cell")
        [call] = server.calls
    assert read_rating(reply.text) == 7
    told = {key: value for key, value in call["body"].items() if key not in ("model", "messages")}
    assert told == {"max_completion_tokens": 64, "reasoning_effort": "low"}


def test_a_limit_that_is_refused_by_name_is_sent_by_the_newer_one_and_that_is_said(tmp_path, capsys):
    with JudgeServer(default=thinking) as server:
        judge = judge_at(server.url, temperature=None)
        replies, _ = ask(asked_with(judge, 6), judge, tmp_path, "cell")
        limits = [call["body"].get("max_completion_tokens") for call in server.calls]
    assert all(read_rating(reply.text) == 7 for reply in replies)
    assert limits.count(100) == 6
    assert capsys.readouterr().err.count("max_completion_tokens") == 1


def test_a_temperature_that_is_refused_is_not_left_out_in_silence_but_named_with_the_key_to_change(tmp_path):
    with JudgeServer(default=thinking) as server:
        judge = judge_at(server.url, max_completion_tokens=64)
        with pytest.raises(PlumblineError, match="temperature: null"):
            ask(asked_with(judge, 3), judge, tmp_path, "cell")
        assert server.asked() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<think>Perhaps [[2]]?</think>\n\nGood. [[8]]", "Good. [[8]]"),
        ("\nPerhaps [[2]]?\n</think>\nGood. [[8]]", "Good. [[8]]"),
        ("<think></think>[[8]]", "[[8]]"),
        ("It says <think>x</think>, so: [[3]]", "It says <think>x</think>, so: [[3]]"),
        ("Good. [[8]]", "Good. [[8]]"),
    ],
)
def test_what_a_judge_thinks_before_it_answers_is_no_verdict(text, words):
    reply = {"text": text, "finish_reason": "stop", "logprobs": None, "refusal": None}
    assert reply_of({"reply": reply})[:3] == (words, None, None)
    odds = [{"token": "m", "logprob": -9.0, "top_logprobs": []}]
    found = reply_of({"reply": reply | {"logprobs": odds}})
    assert found[:3] == (words, None, odds if words == text else None)


def test_words_that_come_in_parts_are_those_of_type_text_and_paid_for_once(tmp_path):
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Perhaps [[2]]?"}]}]
    parts += [{"type": "text", "text": "Good. "}, {"type": "text", "text": "[[8]]"}]
    with JudgeServer({"question 0": [send(200, completion(parts)), fail(500, "again")]}) as server:
        replies, facts = ask(requests(1), judge_at(server.url), tmp_path, "cell")
        assert replies[0].text == "Good. [[8]]" and server.asked("question 0") == 1
    assert (facts["judge_calls"], facts["judge_retries"]) == (1, 0)


def test_a_judge_that_only_thought_gave_no_verdict():
    reply = {"text": "<think>Perhaps [[2]]", "finish_reason": "length", "logprobs": None, "refusal": None}
    found = reply_of({"reply": reply})
    assert found.text is None and "max_tokens were spent before a word" in found.failed
    reply["logprobs"] = [{"token": "<think>", "logprob": 0.0, "top_logprobs": []}]
    assert reply_of({"reply": reply}) == found


def test_an_annotators_own_parameters_give_way_to_what_the_judge_can_take():
    usual = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 1, "logprobs": True}
    judge = judge_at("", temperature=0.0, max_tokens=1024, seed=3)
    assert params_of(judge, usual) == usual | {"seed": 3}
    judge |= {"temperature": None, "max_completion_tokens": 512}
    assert params_of(judge, usual) == {"logprobs": True, "seed": 3, "max_completion_tokens": 512}


def test_the_store_stays_readable_after_every_hostile_reply(tmp_path):
    """A whole benchmark against a server that sends them all: the next process reads what this one wrote."""
    script = {f"question {number}": [send(200, HOSTILE[name][0])] for number, name in enumerate(HOSTILE)}
    with JudgeServer(script) as server:
        replies, _ = ask(requests(len(HOSTILE)), judge_at(server.url), tmp_path, "cell")
    for path in (tmp_path / "verdicts").rglob("*.json"):
        path.read_bytes().decode()
    assert [reply.failed is not None for reply in replies] == [True] * len(HOSTILE)
    assert client.plan(requests(len(HOSTILE)), judge_at(""), tmp_path)["missing"] == 0
