"""A local OpenAI-compatible server that answers as it is told to, well or badly, and records every request."""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LONG = 30  # seconds that a hanging reply hangs, unless the server is closed before

Behaviour = Callable[["Handler"], None]


def words_for(text: str) -> str:
    """Return what the judge says to a prompt: another thing to each, and the same each time."""
    return f"About {text!r}. Rating: [[{len(text) % 10 + 1}]]"


def completion(text: str | None, **choice: Any) -> dict:
    """Return the body of a chat completion; `choice` adds to or replaces parts of the choice."""
    message = {"role": "assistant", "content": text} | choice.pop("message", {})
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | choice],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
    }


def raw_completion(text: str) -> dict:
    """Return the body of a completion of raw text."""
    return completion(None) | {
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}],
    }


def say(words: Callable[["Handler"], str]) -> Behaviour:
    """Answer each request with a text of its own, in the shape of what was asked for."""

    def act(handler: "Handler") -> None:
        handler.owner.gate.wait(LONG)
        body = completion if "messages" in handler.body else raw_completion
        handler.send(200, json.dumps(body(words(handler))).encode())

    return act


def send(status: int, body: Any, kind: str = "application/json", **headers: str) -> Behaviour:
    """Answer with a status and a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def act(handler: "Handler") -> None:
        handler.send(status, content, kind, headers)

    return act


def fail(status: int, message: str, code: str | None = None, **headers: str) -> Behaviour:
    """Answer with an error in OpenAI's shape."""
    return send(status, {"error": {"message": message, "type": "error", "code": code}}, **headers)


def normal(handler: "Handler") -> None:
    """Answer as a judge does, when the gate is open."""
    handler.owner.gate.wait(LONG)
    handler.send(200, json.dumps(completion(words_for(handler.text))).encode())


def hang(handler: "Handler") -> None:
    """Say nothing at all."""
    handler.owner.closing.wait(LONG)
    handler.close_connection = True


def trickle(handler: "Handler") -> None:
    """Send a blank now and then, and never a reply."""
    handler.begin(200, 10**6)
    while not handler.owner.closing.wait(0.05):
        handler.wfile.write(b" ")


def reset(handler: "Handler") -> None:
    """Break the connection before a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())
    handler.close_connection = True


def stop_halfway(handler: "Handler") -> None:
    """Announce a whole reply, send half of it and close."""
    content = json.dumps(completion(words_for(handler.text))).encode()
    handler.begin(200, len(content))
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def half_json(handler: "Handler") -> None:
    """Send half of a JSON body as if it were all."""
    content = json.dumps(completion(words_for(handler.text))).encode()
    handler.send(200, content[: len(content) // 2])


def tell_key(status: int) -> Behaviour:
    """Answer with the header that holds the key, as careless servers and proxies do."""

    def act(handler: "Handler") -> None:
        said = f"you sent {handler.headers['Authorization']}"
        body = completion(said) if status == 200 else {"error": {"message": said, "code": said}}
        handler.send(status, json.dumps(body).encode())

    return act


class Handler(BaseHTTPRequestHandler):
    """Answers one request by the server's script."""

    protocol_version = "HTTP/1.1"
    owner: "JudgeServer"

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path.endswith("/chat/completions")
        self.text = self.body["messages"][-1]["content"] if chat else self.body["prompt"]
        call = {
            "at": time.monotonic(),
            "path": self.path,
            "body": self.body,
            "text": self.text,
            "sent": False,
        }
        self.owner.next_behaviour(call)(self)
        call["sent"] = True

    def begin(self, status: int, length: int, kind: str = "application/json", headers: dict | None = None):
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        for name, value in ({"Content-Type": kind, "Content-Length": str(length)} | named).items():
            self.send_header(name, value)
        self.end_headers()

    def send(
        self, status: int, content: bytes, kind: str = "application/json", headers: dict | None = None
    ) -> None:
        time.sleep(self.owner.delay)
        self.begin(status, len(content), kind, headers)
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


class QuietServer(ThreadingHTTPServer):
    """Clients that are killed break their connections, which is no news here."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


class JudgeServer:
    """A server on a free port of this machine, for the length of a `with`.

    `script` names by the text of a request's last message what happens to it: one behaviour per request, and the
    last of them to all later ones. Other requests meet `default`. `calls` has a dict per request received; its
    "sent" says whether the answer went out whole. While `gate` is cleared, normal answers wait. After `most` requests,
    if it is set, nothing more is answered.
    """

    def __init__(
        self,
        script: dict[str, list[Behaviour]] | None = None,
        default: Behaviour = normal,
        delay: float = 0.0,
    ):
        self.script = script or {}
        self.default = default
        self.delay = delay
        self.calls: list[dict] = []
        self.most: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "JudgeServer":
        self._server = QuietServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"owner": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def next_behaviour(self, call: dict) -> Behaviour:
        """Record a request and return what happens to it."""
        with self._lock:
            earlier = sum(other["text"] == call["text"] for other in self.calls)
            self.calls.append(call)
            if self.most is not None and len(self.calls) > self.most:
                return hang
            script = self.script.get(call["text"], [self.default])
            return script[min(earlier, len(script) - 1)]

    def asked(self, text: str | None = None) -> int:
        """Return how many requests came, in all or with a text."""
        with self._lock:
            return sum(text in (None, call["text"]) for call in self.calls)

    def wait_for(self, count: int, seconds: float = 240) -> None:
        """Return when so many requests came; AssertionError if they never do."""
        deadline = time.monotonic() + seconds
        while self.asked() < count:
            assert time.monotonic() < deadline, f"{self.asked()} of {count} requests came"
            time.sleep(0.002)
