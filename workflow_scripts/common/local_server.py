"""A small server on this machine: who may ask it, what is read of a request, and how answers go out as they come.

A page of another site can have a browser send requests here. So a request must be for this server by name (Host), must
not come from another site (Origin), and its body must be JSON, which no page sends elsewhere without asking first.
"""

import ipaddress
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from workflow_scripts.common.errors import PlumblineError

LARGEST = 4 * 2**20  # bytes of a request
PATIENCE = 60  # seconds that a request may take to arrive
LOOPBACK = "127.0.0.1"


class Refused(Exception):
    """A request that is not answered: an HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(ThreadingHTTPServer):
    """A server that ends with the process, whatever it is still answering."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of who went away before the end of the answer; of all else in a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"error: a request failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def listening(handler: type, host: str, port: int) -> Server:
    """Return a server that listens; port 0 is any free one. PlumblineError where it cannot."""
    try:
        return Server((host, port), handler)
    except (OSError, OverflowError) as error:
        raise PlumblineError(f"HOST={host} PORT={port or 'any'}: cannot listen there: {error}") from None


def until_interrupted(server: Server) -> None:
    """Answer requests until the user ends it."""
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """What requests have in common."""

    timeout = PATIENCE
    server_version, sys_version = "plumbline", ""

    def log_message(self, *_: Any) -> None:
        """Log nothing: paths may hold keys."""

    def from_here(self) -> None:
        """Raise Refused for a request that a page of another site may have sent."""
        own = self.server.server_address[0]
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if is_loopback(own) and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise Refused(
                403, f"this server answers to {LOOPBACK} and localhost alone, not to the name {host!r}"
            )
        if origin is not None and origin != f"http://{host}":
            raise Refused(403, f"pages of {origin!r} may not ask this server")

    def body(self) -> dict:
        """Return the JSON object that a request brings; Refused where it brings none."""
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "the body has to be JSON, and to say so: Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "Content-Length is missing")
        if int(length) > LARGEST:
            raise Refused(413, f"the body is larger than {LARGEST} bytes")
        try:
            found = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "the body is no JSON") from None
        if not isinstance(found, dict):
            raise Refused(400, "the body is no JSON object")
        return found

    def begin(self, status: int, kind: str, length: int | None = None, **headers: str) -> None:
        """Send the head of an answer; one whose length is not known ends with the connection."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
        self.end_headers()

    def send(self, status: int, kind: str, text: str, **headers: str) -> None:
        """Send a whole answer."""
        raw = text.encode()
        self.begin(status, kind, len(raw), **headers)
        self.wfile.write(raw)

    def send_part(self, text: str) -> None:
        """Send a part of an answer that goes on; ConnectionError where nobody is there any more."""
        self.wfile.write(text.encode())
        self.wfile.flush()
