"""The page that a policy is talked to on: who may ask its server, and what a browser makes of it."""

import http.client
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.browser import Browser, needs_chromium
from tests.export_study import found_in
from tests.waiting import until
from workflow_scripts.chat.speaker import GREEDY, Speaker
from workflow_scripts.chat.talk import Talk, command
from workflow_scripts.chat.web import page_server

KEY = "the-key"
EVIL = "<img src=x onerror=alert(1)></script><script>document.title='PWNED'</script>"


@pytest.fixture(scope="module")
def speaker(tiny_model) -> Speaker:
    return Speaker(found_in(tiny_model))


@pytest.fixture
def talk(speaker) -> Talk:
    talk = Talk([speaker, speaker], EVIL)
    command(talk, "/tokens 12")
    return talk


@pytest.fixture
def server(talk) -> Iterator[object]:
    with page_server(talk, ["tiny of chain", "tiny of chain", "help"], 0, KEY) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, method: str = "POST", path: str = "/reply", body: object = None, **headers: str) -> tuple:
    """Return (status, headers, text) of a request; a header given as "" is not sent."""
    port = server.server_port
    usual = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "X-Key": KEY}
    sent = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    if method == "POST":
        sent.setdefault("Content-Length", str(len(raw)))
    for name, value in sent.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders(raw if method == "POST" else None)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read().decode()
    connection.close()
    return found


def question(**changed: object) -> dict:
    return {
        "place": 0,
        "messages": [{"role": "user", "content": "What is osmosis?"}],
        "system": "",
        "sampling": {"temperature": "0", "tokens": "9"},
        "seed": "1",
        "raw": False,
    } | changed


def test_a_reply_comes_line_by_line_and_is_the_policy_s_own(server, speaker):
    status, headers, text = ask(server, body=question())
    lines = [json.loads(line) for line in text.splitlines()]
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    sampling = GREEDY | {"max_new_tokens": 9}
    prompt = speaker.prompt([{"role": "user", "content": "What is osmosis?"}], sampling)
    assert lines[-1]["text"] == speaker.answer(prompt.ids, sampling, 1).text
    assert lines[-1]["done"] and "9 tokens" in lines[-1]["remark"]
    assert all(lines[-1]["said"].startswith(line["said"]) for line in lines)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X_Key": ""}, 403),
        ({"X_Key": "another"}, 403),
        ({"X_Key": "ключ".encode().decode("latin-1")}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Length": "99999999999"}, 413),
        ({"Content_Length": "x"}, 411),
    ],
)
def test_who_may_not_ask_is_not_answered(server, headers, status):
    found, _, text = ask(server, body=question(), **headers)
    assert found == status and "said" not in text


def test_the_page_s_own_origin_may_ask(server):
    port = server.server_port
    assert ask(server, body=question(), Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert ask(server, body=question(), Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[" * 100_000,
        [],
        question(place=2),
        question(place="0"),
        question(messages=[]),
        question(messages=[{"role": "system", "content": "x"}]),
        question(messages=[{"role": "user", "content": 1}]),
        question(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
        question(system=None),
        question(sampling=[]),
        question(sampling={"temperature": "warm"}),
        question(seed=None),
    ],
)
def test_what_is_no_question_is_refused_with_a_reason(server, body):
    status, _, text = ask(server, body=body)
    assert status == 400 and json.loads(text)["error"]


def test_more_tokens_than_the_context_holds_are_an_error_of_the_reply(server):
    lines = ask(server, body=question(sampling={"tokens": "9999"}))[2].splitlines()
    assert "fill the context" in json.loads(lines[-1])["error"]


def test_only_who_has_the_address_sees_the_page_and_it_can_load_nothing(server):
    assert ask(server, "GET", "/")[0] == 403
    assert ask(server, "GET", "/?key=wrong")[0] == 403
    assert ask(server, "GET", f"/?key={KEY}", Host="evil.example")[0] == 403
    assert ask(server, "GET", f"/elsewhere?key={KEY}")[0] == 404
    status, headers, text = ask(server, "GET", f"/?key={KEY}")
    assert (
        status == 200 and headers["X-Frame-Options"] == "DENY" and headers["Referrer-Policy"] == "no-referrer"
    )
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'nonce-")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "http://" not in text and "https://" not in text and EVIL not in text and KEY not in text


# --- in a browser -----------------------------------------------------------------------------------------------------


def says(page, words: str) -> None:
    page.value(f"document.getElementById('words').value = {json.dumps(words)}")
    page.value("document.getElementById('form').requestSubmit()")


def replies(page) -> list[str]:
    return page.value("[...document.querySelectorAll('.said')].map(node => node.innerText)")


def finished(page, count: int) -> bool:
    return page.value("document.querySelectorAll('.said .remark').length") == count


@needs_chromium
def test_a_browser_shows_two_replies_side_by_side_and_obeys_nothing_in_them(
    server, speaker, tmp_path, monkeypatch
):
    with Browser(f"http://127.0.0.1:{server.server_port}/?key={KEY}", tmp_path / "profile") as page:
        assert page.value("document.getElementById('system').value") == EVIL
        says(page, EVIL)
        until(lambda: finished(page, 2))
        one, other = replies(page)
        assert one == other and "12 tokens, cut at the most tokens" in one
        boxes = page.value(
            "[...document.querySelectorAll('.said')].map(node => node.getBoundingClientRect().toJSON())"
        )
        assert boxes[0]["right"] <= boxes[1]["left"] and boxes[1]["right"] <= 1280
        tutor = json.dumps({"Evaluation of Student Response": "b", "Tutorbot": EVIL})
        answer = SimpleNamespace(text=tutor, completion_tokens=5, finish_reason="stop")
        monkeypatch.setattr(speaker, "answer", lambda *_: answer)
        says(page, "And then?")
        until(lambda: finished(page, 4))
        assert replies(page)[2].startswith(EVIL) and "evaluation b" in replies(page)[2]
        assert page.value("document.querySelector('.you').textContent") == EVIL
        assert page.value("document.images.length") == 0
        assert page.value("document.title") == "tiny and tiny"
        assert page.errors == []


@needs_chromium
def test_a_reply_can_be_stopped_and_the_talk_goes_on(server, speaker, tmp_path, monkeypatch):
    ended = threading.Event()

    def endless(ids: list, sampling: dict, seed: int, tell: object) -> None:
        try:
            until(lambda: tell("on and on") is not None, 60)
        finally:
            ended.set()

    address = f"http://127.0.0.1:{server.server_port}/?key={KEY}"
    with Browser(address, tmp_path / "profile", width=500) as page:
        monkeypatch.setattr(speaker, "answer", endless)
        says(page, "Tell me all.")
        until(lambda: replies(page)[:1] == ["on and on"])
        page.value("document.getElementById('stop').click()")
        until(lambda: "broken off; the exchange is forgotten" in replies(page)[0])
        until(ended.is_set)  # and the policy is free again
        monkeypatch.undo()
        says(page, "What is osmosis?")
        until(lambda: finished(page, 2))
        assert page.value("talks[0].length") == 2
        page.value("document.getElementById('reset').click()")
        assert replies(page) == [] and page.value("talks[0].length") == 0
        assert page.errors == []
