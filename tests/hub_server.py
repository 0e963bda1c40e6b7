"""A model hub on this machine: repositories that a test writes, by the addresses that the hub's client asks."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from huggingface_hub import constants

LARGE = 1000  # bytes from which a file is kept as Git LFS does, with a sha256


@dataclass
class Hub:
    """Repositories by ("datasets/" or "") + name: {branch: commit}, and the files of each commit."""

    url: str = ""
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    token: str = ""  # without it nothing is told, where it is set
    asked: list[str] = field(default_factory=list)

    def put(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files to a branch; return the commit."""
        told = json.dumps(
            [repo, sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())]
        )
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.branches.setdefault(repo, {})[branch] = commit
        self.files[repo, commit] = files
        return commit

    def answer(self, path: str) -> bytes | None:
        """Return what the hub says to a path; None for not found."""
        if path.startswith("/api/"):
            kind, _, rest = path.removeprefix("/api/").partition("/")
            repo, _, revision = rest.partition("/revision/")
            repo = f"datasets/{repo}" if kind == "datasets" else repo
            branches = self.branches.get(repo, {})
            commit = branches.get(revision, revision if revision in branches.values() else None)
            if commit is None:
                return None
            siblings = [listed(name, data) for name, data in self.files[repo, commit].items()]
            return json.dumps({"id": rest, "sha": commit, "siblings": siblings}).encode()
        repo, _, rest = path[1:].partition("/resolve/")
        commit, _, name = rest.partition("/")
        return self.files.get((repo, commit), {}).get(name)


def listed(name: str, data: bytes) -> dict:
    """Return what the hub says of a file."""
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return {"rfilename": name, "size": len(data), "blobId": blob} | (
        {"lfs": lfs} if len(data) >= LARGE else {}
    )


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Give a hub that answers on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(self.path.partition("?")[0])
            hub.asked.append(path)
            allowed = not hub.token or self.headers.get("Authorization") == f"Bearer {hub.token}"
            body = hub.answer(path) if allowed else None
            self.send_response(200 if body is not None else 404 if allowed else 401)
            body = body or b""
            self.send_header("Content-Type", "application/json" if path.startswith("/api/") else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield hub
    httpd.shutdown()
    httpd.server_close()


def ask_at(url: str, monkeypatch) -> None:
    """Have the hub's client of this process ask at an address, as HF_ENDPOINT has a new one do."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
