"""A local server that speaks as much of a model hub's API as an upload needs, and keeps what it is sent."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    owner: "Hub"

    def do_GET(self) -> None:
        self.owner.seen.append(("GET", self.path, self.headers.get("Authorization"), None))
        if self.path.startswith("/api/models/"):
            name = self.path.removeprefix("/api/models/").partition("?")[0]
            self.say({"id": name, "_id": "1", "private": self.owner.private, "tags": [], "siblings": []})
        else:
            self.say({}, 404)

    def do_PUT(self) -> None:
        self.owner.stored[self.path.rpartition("/")[2]] = self.body()
        self.say({})

    def do_POST(self) -> None:
        content = self.body()
        self.owner.seen.append(("POST", self.path, self.headers.get("Authorization"), content))
        if self.owner.refuses:
            self.say({"error": f"no right to write for {self.headers.get('Authorization')}"}, 403)
        elif self.path == "/api/repos/create":
            named = json.loads(content)
            self.say({"url": f"{self.owner.url}/{named['organization']}/{named['name']}"})
        elif self.path == "/api/validate-yaml":
            self.say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": each["path"],
                    "shouldIgnore": False,
                    "oid": None,
                    "uploadMode": mode_of(each["path"]),
                }
                for each in json.loads(content)["files"]
            ]
            self.say({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.owner.url}/lfs/{each['oid']}", "header": {}}}}
                for each in json.loads(content)["objects"]
            ]
            self.say({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self.owner.commit([json.loads(line) for line in content.splitlines()])
            self.say(
                {
                    "success": True,
                    "commitUrl": f"{self.owner.url}/owner/name/commit/c0ffee",
                    "commitOid": "c0ffee",
                }
            )
        else:
            self.say({}, 404)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def say(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def mode_of(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"


class Hub(ThreadingHTTPServer):
    """The server: `seen` requests, `stored` large files by digest, `files` of the commit by name."""

    def __init__(self, private: bool, refuses: bool) -> None:
        super().__init__(("127.0.0.1", 0), type("Own", (Handler,), {"owner": self}))
        self.private, self.refuses = private, refuses
        self.seen: list[tuple] = []
        self.stored: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, lines: list[dict]) -> None:
        for line in lines:
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.files[line["value"]["path"]] = self.stored[line["value"]["oid"]]


@contextlib.contextmanager
def hub(private: bool = True, refuses: bool = False) -> Iterator[Hub]:
    server = Hub(private, refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
