"""A talk on a page of this machine: one policy, or two side by side, on a port that nobody else is told of.

The page is one file without a word from elsewhere. It holds the talk; this server answers one reply at a time, sent as
it comes. It listens on this machine alone, and only who has the address with its key is answered.
"""

import hmac
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from workflow_scripts.chat.shown import Shown
from workflow_scripts.chat.talk import DRAWN, Talk, number, reply_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.local_server import LOOPBACK, Handler, Refused, listening, until_interrupted

PAGE = Path(__file__).with_name("page.html")
EVERY = 0.1  # seconds between two parts of a reply that comes
ROLES = ("user", "assistant")
PAGE_HEADERS = {
    "Referrer_Policy": "no-referrer",
    "X_Frame_Options": "DENY",
    "Cross_Origin_Opener_Policy": "same-origin",
}


def page(talk: Talk, lines: list[str], nonce: str) -> str:
    """Return the page; what it is told stands in it as JSON that cannot end the script."""
    facts = {
        "policies": [f"{each.name}" for each in talk.speakers],
        "about": lines,
        "system": talk.system or "",
        "seed": talk.seed,
        "sampling": {name: talk.sampling[key] for name, (key, _) in DRAWN.items()},
    }
    told = json.dumps(facts).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return PAGE.read_text(encoding="utf-8").replace("{nonce}", nonce).replace("{facts}", told)


def policy_of_content(nonce: str) -> str:
    """Return what the page may do: run and look as it came, and ask this server."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def messages_of(given: Any) -> list[dict]:
    """Return the messages that a page hands over, turn by turn; Refused where they are none."""
    if not isinstance(given, list) or not given:
        raise Refused(400, "messages: a list is needed")
    for place, each in enumerate(given):
        fine = isinstance(each, dict) and isinstance(each.get("content"), str)
        if not fine or each.get("role") != ROLES[place % 2]:
            raise Refused(400, "messages: the user's and the assistant's in turn, each with its content")
    if len(given) % 2 == 0:
        raise Refused(400, "messages: the last is the user's")
    return [{"role": each["role"], "content": each["content"]} for each in given]


def sampling_of(given: Any, talk: Talk) -> dict:
    """Return the sampling that a page asks for; PlumblineError names what is out of its limits."""
    if not isinstance(given, dict):
        raise Refused(400, "sampling: an object is needed")
    return talk.sampling | {
        key: read(str(given[name])) for name, (key, read) in DRAWN.items() if name in given
    }


def told_of(found: Shown) -> dict:
    """Return a reply as a page is told of it."""
    return {"said": found.said, "labels": found.beside()}


class PageHandler(Handler):
    """Answers the page and its questions; `talk`, `lines` and `key` are the class's."""

    talk: Talk
    lines: list[str]
    key: str

    def do_GET(self) -> None:
        """Send the page to who has the key."""
        address = urlsplit(self.path)
        try:
            self.from_here()
            if address.path != "/":
                raise Refused(404, "there is nothing here")
            self.has_key(next(iter(parse_qs(address.query).get("key", [])), ""))
        except Refused as error:
            self.send(error.status, "text/plain; charset=utf-8", f"{error}\n")
            return
        nonce = secrets.token_urlsafe(16)
        headers = PAGE_HEADERS | {"Content_Security_Policy": policy_of_content(nonce)}
        self.send(200, "text/html; charset=utf-8", page(self.talk, self.lines, nonce), **headers)

    def has_key(self, given: str) -> None:
        """Raise Refused for who has not the key of the address."""
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise Refused(403, "open the address that the terminal shows: its key is missing or another's")

    def do_POST(self) -> None:
        """Answer a talk as it is so far: lines of JSON, each with the reply as far as it goes."""
        try:
            self.from_here()
            if self.path != "/reply":
                raise Refused(404, "there is nothing here")
            self.has_key(self.headers.get("X-Key", ""))
            asked = self.body()
            place = asked.get("place")
            if place not in range(len(self.talk.speakers)):
                raise Refused(400, "place: which policy is asked")
            messages, system = messages_of(asked.get("messages")), asked.get("system")
            if not isinstance(system, str):
                raise Refused(400, 'system: a text is needed, or nothing: ""')
            sampling = sampling_of(asked.get("sampling"), self.talk)
            seed = number(int, 0, 2**31)(str(asked.get("seed")))
        except (Refused, PlumblineError) as error:
            self.send(
                getattr(error, "status", None) or 400, "application/json", json.dumps({"error": str(error)})
            )
            return
        self.begin(200, "application/x-ndjson")
        self.reply(place, system or None, messages, sampling, seed, asked.get("raw") is True)

    def reply(
        self, place: int, system: str | None, messages: list[dict], sampling: dict, seed: int, raw: bool
    ) -> None:
        """Send a reply as it comes; who goes away breaks it off."""
        last = 0.0

        def word(found: Shown) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                self.send_part(json.dumps(told_of(found)) + "\n")

        try:
            found = reply_of(self.talk.speakers[place], system, messages, sampling, seed, word, raw)
            told = told_of(found.shown) | {"text": found.text, "remark": found.remark, "done": True}
        except PlumblineError as error:
            told = {"error": str(error)}
        self.send_part(json.dumps(told) + "\n")


def page_server(talk: Talk, lines: list[str], port: int, key: str) -> Any:
    """Return the server of a page, which listens on this machine alone."""
    kind = type("Bound", (PageHandler,), {"talk": talk, "lines": lines, "key": key})
    return listening(kind, LOOPBACK, port)


def serve_page(talk: Talk, lines: list[str], port: int) -> None:
    """Show the page until the user ends it."""
    key = secrets.token_urlsafe(16)
    with page_server(talk, lines, port, key) as server:
        print(*lines[:-1], sep="\n", file=sys.stderr)
        print(f"open http://{LOOPBACK}:{server.server_port}/?key={key}", flush=True)
        print("it is answered to from this machine alone; Ctrl-C ends it", file=sys.stderr, flush=True)
        until_interrupted(server)
