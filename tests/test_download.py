"""What the download stage promises, held against a local server that misbehaves."""

import base64
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.download import fetch, places, unpack
from workflow_scripts.download.transfer import Unavailable
from workflow_scripts.download.unpack import unpack_member

BODY = bytes(range(256)) * 4096  # 1 MiB
REVISION = "0123456789abcdef0123456789abcdef01234567"
SHORT = 0.01  # seconds: the first wait between tries


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Page:
    """One URL's behaviour; lists are used up one entry a request, the last one stays."""

    body: bytes = b""
    statuses: list[int] = field(default_factory=lambda: [200])
    cuts: list[int | None] = field(
        default_factory=lambda: [None]
    )  # body bytes sent before the connection is cut
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    port: int
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # (path, headers)
    sent: int = 0  # body bytes

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def headers_of(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers in self.requests if asked == path]


def next_of(values: list):
    return values.pop(0) if len(values) > 1 else values[0]


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = self.path.partition("?")[0]
            state.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
            page = state.pages.get(path)
            status = next_of(page.statuses) if page else 404
            body = page.body if page else b""
            if status == 200 and page.ranges and (asked := self.headers.get("Range")):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    status, body = 416, b""
                elif self.headers.get("If-Range") in (None, page.headers.get("ETag")):
                    status, body = 206, body[start:]
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
            elif status != 200:
                body = b""
            for name, value in (page.headers if page else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = next_of(page.cuts) if page and body else None
            self.wfile.write(body if cut is None else body[:cut])
            state.sent += len(body) if cut is None else cut
            self.close_connection = True

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("", 0), Handler)
    state = Server(httpd.server_address[1])
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound but not listening: refuses, and nobody else gets it
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def https(**urls: str) -> dict:
    return {"https": {"files": urls}}


def get(wanted: dict, sources: list[dict], work: Path) -> dict[str, bytes]:
    found = fetch.fetch_files("toy", wanted, sources, work, pause=SHORT)
    return {name: path.read_bytes() for name, path in found.items()}


# --- one download


def test_a_wrong_hash_is_deleted_and_the_next_place_is_asked_at_once(server, work):
    server.pages = {"/bad": Page(b"other"), "/good": Page(BODY)}
    found = get({"x": sha256(BODY)}, [https(x=server.url("/bad")), https(x=server.url("/good"))], work)
    assert found == {"x": BODY}
    assert len(server.headers_of("/bad")) == 1
    assert not list(work.rglob("*.part"))


def test_a_cut_download_goes_on_where_it_stopped(server, work):
    server.pages = {"/x": Page(BODY, cuts=[600_000, None], headers={"ETag": '"v1"'})}
    assert get({"x": None}, [https(x=server.url("/x"))], work) == {"x": BODY}
    first, second = server.headers_of("/x")
    assert "range" not in first
    assert second["range"].startswith("bytes=") and second["if-range"] == '"v1"'
    assert server.sent < 1.5 * len(BODY)


def test_a_later_run_goes_on_where_an_earlier_one_stopped(server, work):
    server.pages = {
        "/x": Page(BODY, cuts=[600_000, None], statuses=[200, 404, 200], headers={"ETag": '"v1"'})
    }
    with pytest.raises(PlumblineError, match="404"):
        get({"x": sha256(BODY)}, [https(x=server.url("/x"))], work)
    assert get({"x": sha256(BODY)}, [https(x=server.url("/x"))], work) == {"x": BODY}
    assert server.headers_of("/x")[-1]["range"] == "bytes=600000-"


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, work):
    server.pages = {"/x": Page(BODY, cuts=[600_000, None], ranges=False)}
    assert get({"x": sha256(BODY)}, [https(x=server.url("/x"))], work) == {"x": BODY}
    assert "range" in server.headers_of("/x")[1]


def test_a_changed_file_is_not_glued_to_the_old_half(server, work):
    page = Page(b"old" * 100_000, cuts=[1000], statuses=[200, 404], headers={"ETag": '"v1"'})
    server.pages = {"/x": page}
    with pytest.raises(PlumblineError):
        get({"x": None}, [https(x=server.url("/x"))], work)
    server.pages = {"/x": Page(BODY, headers={"ETag": '"v2"'})}
    assert get({"x": None}, [https(x=server.url("/x"))], work) == {"x": BODY}


def test_a_half_of_unknown_version_is_never_kept_without_a_hash_to_judge_it(server, work):
    server.pages = {"/x": Page(BODY, cuts=[1000, None])}
    assert get({"x": None}, [https(x=server.url("/x"))], work) == {"x": BODY}
    assert "range" not in server.headers_of("/x")[1]


@pytest.mark.parametrize("left", [b"wrong" * 1000, BODY + b"too long"])
def test_a_spoiled_part_costs_one_fresh_download(server, work, left):
    server.pages = {"/x": Page(BODY)}
    url = server.url("/x")
    part = work / "files" / f"x.{sha256(url.encode())[:8]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert get({"x": sha256(BODY)}, [https(x=url)], work) == {"x": BODY}


def test_a_missing_page_goes_to_the_next_place_without_a_second_try(server, work):
    server.pages = {"/good": Page(BODY)}
    get({"x": sha256(BODY)}, [https(x=server.url("/none")), https(x=server.url("/good"))], work)
    assert len(server.headers_of("/none")) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server, work, status):
    server.pages = {"/x": Page(BODY, statuses=[status, 200])}
    assert get({"x": sha256(BODY)}, [https(x=server.url("/x"))], work) == {"x": BODY}


def test_retry_after_is_honoured(server, work, monkeypatch):
    pauses = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    server.pages = {"/x": Page(BODY, statuses=[503, 404], headers={"Retry-After": "1"})}
    with pytest.raises(PlumblineError):
        get({"x": None}, [https(x=server.url("/x"))], work)
    assert pauses == [1.0]


def test_a_server_that_stays_broken_is_asked_five_times(server, work):
    server.pages = {"/x": Page(BODY, statuses=[503])}
    with pytest.raises(PlumblineError, match="HTTP 503"):
        get({"x": None}, [https(x=server.url("/x"))], work)
    assert len(server.headers_of("/x")) == 5


def test_an_unreachable_host_costs_seconds(server, work, closed_port):
    server.pages = {"/good": Page(BODY)}
    dead = f"http://127.0.0.1:{closed_port}/x"
    start = time.monotonic()
    found = fetch.fetch_files("toy", {"x": sha256(BODY)}, [https(x=dead), https(x=server.url("/good"))], work)
    assert time.monotonic() - start < 30  # and not the minutes that a busy server is given
    assert found["x"].read_bytes() == BODY


def test_plain_http_is_for_this_machine_only(server, work):
    server.pages = {"/x": Page(statuses=[302], headers={"Location": "http://mirror.invalid/x"})}
    with pytest.raises(
        PlumblineError, match=r"(?s)mirror.invalid/y: not https.*mirror.invalid/x, which is not https"
    ):
        get({"x": None}, [https(x="http://mirror.invalid/y"), https(x=server.url("/x"))], work)


# --- choosing among places


def test_when_nobody_answers_every_place_and_reason_is_listed(server, work, closed_port):
    sources = [
        {"hf": {"repo": "a/b", "revision": "main", "repo_type": "model", "files": {"x": "x"}}},
        https(x=server.url("/none")),
        https(x=f"http://user:hidden@127.0.0.1:{closed_port}/x?key=hidden"),
        {"file": {"files": {"x": "/nowhere/x"}}},
        https(y=server.url("/y")),
        https(x="http://me:hidden@host:port/"),
    ]
    with pytest.raises(PlumblineError) as caught:
        get({"x": sha256(BODY)}, sources, work)
    message = str(caught.value)
    for reason in (
        "not pinned",
        "HTTP 404",
        "cannot connect",
        "/nowhere/x: no such file",
        "does not provide x",
        "not valid",
    ):
        assert reason in message
    assert "HF_ENDPOINT" in message
    assert "hidden" not in message


def test_finished_files_are_not_asked_for_again(server, work):
    server.pages = {"/x": Page(BODY)}
    wanted = {"x": sha256(BODY), "y": sha256(b"y")}
    sources = [https(x=server.url("/x"), y=server.url("/y"))]
    with pytest.raises(PlumblineError):
        get(wanted, sources, work)
    server.pages["/y"] = Page(b"y")
    assert get(wanted, sources, work) == {"x": BODY, "y": b"y"}
    assert len(server.headers_of("/x")) == 1


def test_the_manifest_is_the_same_whichever_place_served(server, tmp_path):
    server.pages = {"/x": Page(BODY)}
    local = tmp_path / "local.bin"
    local.write_bytes(BODY)
    manifests = []
    for number, place in enumerate((https(x=server.url("/x")), {"file": {"files": {"x": str(local)}}})):
        base = tmp_path / str(number)
        settings = {"files": {"x": sha256(BODY)}, "places": [place]}
        run_main(base, settings)
        assert (base / "toy" / "x").read_bytes() == BODY
        manifests.append((base / "toy.json").read_bytes())
    assert manifests[0] == manifests[1]
    assert json.loads(manifests[0]) == {"files": {"toy/x": sha256(BODY)}}


@pytest.mark.parametrize("kind", ["https", "file", "archive"])
def test_a_git_object_id_pins_a_file_as_well(server, index, work, tmp_path, kind):
    told = subprocess.run(["git", "hash-object", "--stdin"], input=BODY, capture_output=True, check=True)
    pin = f"git:{told.stdout.decode().strip()}"
    server.pages |= {"/x": Page(BODY), "/other": Page(b"another")}
    (tmp_path / "x").write_bytes(BODY)
    (tmp_path / "other").write_bytes(b"another")
    right, other = {
        "https": (https(x=server.url("/x")), https(x=server.url("/other"))),
        "file": (
            {"file": {"files": {"x": str(tmp_path / "x")}}},
            {"file": {"files": {"x": str(tmp_path / "other")}}},
        ),
        "archive": (pypi("wheel", x=one("toy/x")), pypi("wheel", x=one("toy/z"))),
    }[kind]
    assert get({"x": pin}, [right], work) == {"x": BODY}
    with pytest.raises(PlumblineError, match=r"git|none of its"):
        get({"x": pin}, [other], work / "again")
    assert get({"x": pin}, [other, right], work / "third") == {"x": BODY}


def test_a_file_place_starts_at_the_repository_and_is_copied(tmp_path):
    settings = {
        "files": {"x.py": None},
        "places": [{"file": {"files": {"x.py": "workflow_scripts/__init__.py"}}}],
    }
    run_main(tmp_path, settings)
    original = places.ROOT / "workflow_scripts/__init__.py"
    assert (tmp_path / "toy/x.py").read_bytes() == original.read_bytes()
    assert not (tmp_path / "toy/x.py").samefile(original)


def test_a_wanted_name_cannot_leave_the_output(tmp_path):
    with pytest.raises(PlumblineError, match="unsafe name"):
        run_main(tmp_path, {"files": {"../x": None}, "places": []})


def test_a_failure_leaves_no_output(tmp_path):
    with pytest.raises(PlumblineError):
        run_main(tmp_path, {"files": {"x": None}, "places": [{"file": {"files": {"x": "/nowhere"}}}]})
    assert not (tmp_path / "toy").exists() and not (tmp_path / "toy.json").exists()


def run_main(base: Path, settings: dict) -> None:
    fetch.main(command_line(base, settings))


def command_line(base: Path, settings: dict) -> list[str]:
    flags = {"name": "toy", "settings": json.dumps(settings), "output": base / "toy"}
    flags |= {"manifest": base / "toy.json", "work": base / "work"}
    return [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]


def run_process(base: Path, settings: dict, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "workflow_scripts.download.fetch", *command_line(base, settings)],
        env=os.environ | environment,
        cwd=places.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


# --- hub


def hub(**more) -> dict:
    return {"hf": {"repo": "a/b", "revision": REVISION, "repo_type": "model", "files": {}, **more}}


def test_the_hub_token_goes_to_the_endpoint_and_to_no_redirect_target(server, tmp_path):
    elsewhere = server.url("/cdn", host="localhost")
    server.pages = {
        f"/a/b/resolve/{REVISION}/sub/x.bin": Page(statuses=[302], headers={"Location": elsewhere}),
        "/cdn": Page(BODY),
    }
    settings = {"files": {"x.bin": sha256(BODY)}, "places": [hub(files={"x.bin": "sub/x.bin"})]}
    done = run_process(tmp_path, settings, HF_ENDPOINT=server.url(""), HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    assert server.headers_of(f"/a/b/resolve/{REVISION}/sub/x.bin")[0]["authorization"] == "Bearer hf_secret"
    assert "authorization" not in server.headers_of("/cdn")[0]
    assert "hf_secret" not in done.stderr + done.stdout


def test_an_offline_hub_is_skipped_with_that_reason(server, tmp_path):
    settings = {"files": {"x": None}, "places": [hub()]}
    done = run_process(tmp_path, settings, HF_ENDPOINT=server.url(""), HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "HF_HUB_OFFLINE is set" in done.stderr and "Traceback" not in done.stderr
    assert not server.requests


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_whole_hub_repository_is_its_safe_files(server, tmp_path, kind):
    weights = b"weights"
    siblings = [
        {"rfilename": "model.safetensors", "size": 7, "blobId": "1", "lfs": lfs(weights)},
        {"rfilename": "sub/config.json", "size": 2, "blobId": "2"},
        *(
            {"rfilename": name}
            for name in ("pytorch_model.bin", "tokenizer.pkl", "tokenizer_code.py", "README.md")
        ),
    ]
    folder = "" if kind == "model" else "/datasets"
    listing = json.dumps({"id": "a/b", "sha": REVISION, "siblings": siblings}).encode()
    server.pages = {
        f"/api/{kind}s/a/b/revision/{REVISION}": Page(
            listing, statuses=[503, 200], headers={"Content-Type": "application/json", "Retry-After": "0"}
        ),
        f"{folder}/a/b/resolve/{REVISION}/model.safetensors": Page(weights),
        f"{folder}/a/b/resolve/{REVISION}/sub/config.json": Page(b"{}"),
    }
    settings = {"files": {}, "places": [hub(repo_type=kind)]}
    done = run_process(tmp_path, settings, HF_ENDPOINT=server.url(""))
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "toy.json")["files"] == {
        "toy/model.safetensors": sha256(weights),
        "toy/sub/config.json": sha256(b"{}"),
    }
    server.pages[f"{folder}/a/b/resolve/{REVISION}/model.safetensors"].body = b"spoiled"
    done = run_process(tmp_path / "again", settings, HF_ENDPOINT=server.url(""))
    assert done.returncode == 1 and "wanted " + sha256(weights) in done.stderr


def lfs(data: bytes) -> dict:
    return {"sha256": sha256(data), "size": len(data), "pointerSize": 100}


def test_an_unreachable_hub_listing_is_a_reason(work, closed_port, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(PlumblineError, match="the hub's list of a/b: cannot connect"):
        get({}, [hub()], work)


# --- packages


def wheel(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in members.items():
            bundle.writestr(name.replace("__", "/"), data)
    return buffer.getvalue()


def tarball(*members: tuple[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as bundle:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            bundle.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def index(server, monkeypatch):
    """A package index with two versions, several wheels and an sdist, the only one that pip is told of."""
    files = {
        "toy_data-1.0-cp311-cp311-manylinux1_x86_64.whl": wheel(toy__x=b"binary"),
        "toy_data-1.0-py3-none-any.whl": wheel(toy__x=BODY, toy__z=gzip.compress(BODY)),
        "toy_data-2.0-py3-none-any.whl": wheel(toy__x=b"two"),
        "toy-data-1.0.tar.gz": tarball(
            ("toy-data-1.0/setup.py", b"raise SystemExit"), ("toy-data-1.0/x", BODY)
        ),
    }
    links = "".join(
        f'<a href="../../f/{name}#sha256={sha256(data)}">{name}</a>' for name, data in files.items()
    )
    server.pages = {f"/f/{name}": Page(data) for name, data in files.items()}
    server.pages["/simple/toy-data/"] = Page(links.encode(), headers={"Content-Type": "text/html"})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", server.url("/simple"))
    return server


def pypi(archive: str, **files: dict) -> dict:
    return {"pypi": {"package": "Toy.Data", "version": "1.0", "archive": archive, "files": files}}


def test_a_wheel_is_the_pinned_pure_one(index, work):
    found = get({"x": None, "z": None}, [pypi("wheel", x=one("toy/x"), z=one("toy/z", gunzip=True))], work)
    assert found == {"x": BODY, "z": BODY}


def one(member: str, **more) -> dict:
    return {"member": member, "gunzip": False, **more}


def test_a_package_can_be_wanted_whole(index, work):
    archive = index.pages["/f/toy_data-1.0-py3-none-any.whl"].body
    assert get({"all.whl": sha256(archive)}, [pypi("wheel", **{"all.whl": {}})], work) == {"all.whl": archive}
    with pytest.raises(PlumblineError, match=r"whole: all\.whl is [0-9a-f]{64}, wanted"):
        get({"all.whl": sha256(b"other")}, [pypi("wheel", **{"all.whl": {}})], work / "again")


def test_an_sdist_is_read_and_never_built(index, work):
    assert get({"x": sha256(BODY)}, [pypi("sdist", x=one("toy-data-1.0/x"))], work) == {"x": BODY}


def test_an_archive_other_than_its_index_says_is_refused(index, work):
    index.pages["/f/toy-data-1.0.tar.gz"].body = tarball(("toy-data-1.0/x", BODY))
    with pytest.raises(PlumblineError, match="its sha256 is"):
        get({"x": sha256(BODY)}, [pypi("sdist", x=one("toy-data-1.0/x"))], work)


def test_a_member_with_another_hash_is_refused(index, work):
    with pytest.raises(PlumblineError, match="wanted " + sha256(b"other")):
        get({"x": sha256(b"other")}, [pypi("wheel", x=one("toy/x"))], work)
    assert not (work / "files/x").exists()


def test_a_version_that_the_index_lacks_is_a_reason(index, work):
    place = pypi("wheel", x=one("toy/x"))
    place["pypi"]["version"] = "9.9"
    with pytest.raises(PlumblineError, match=r"no wheel of Toy\.Data 9\.9"):
        get({"x": None}, [place], work)


def test_index_passwords_are_used_and_not_shown(index, work, monkeypatch, capsys):
    monkeypatch.setenv("PIP_INDEX_URL", index.url("/simple", host="me:hidden@127.0.0.1"))
    get({"x": None}, [pypi("wheel", x=one("toy/x"))], work)
    basic = "Basic " + base64.b64encode(b"me:hidden").decode()
    assert {headers["authorization"] for _, headers in index.requests} == {basic}
    index.pages.clear()
    with pytest.raises(PlumblineError) as caught:
        get({"x": None}, [pypi("wheel", x=one("toy/x"))], work)
    assert "hidden" not in str(caught.value) + capsys.readouterr().err


def test_find_links_folders_and_extra_file_indexes_serve_too(index, work, tmp_path, monkeypatch):
    links, simple = tmp_path / "links", tmp_path / "simple"
    (simple / "toy-data").mkdir(parents=True)
    links.mkdir()
    name = "toy_data-1.0-py3-none-any.whl"
    (links / name).write_bytes(wheel(toy__x=b"from the folder"))
    (simple / name).write_bytes(wheel(toy__x=b"from the index"))
    (simple / "toy-data/index.html").write_text(f'<a href="../{name}">{name}</a>')
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    assert get({"x": None}, [pypi("wheel", x=one("toy/x"))], work) == {"x": b"from the folder"}
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", index.url("/empty"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", simple.as_uri())
    assert get({"x": None}, [pypi("wheel", x=one("toy/x"))], work) == {"x": b"from the index"}
    assert index.headers_of("/empty/toy-data/")


def test_pip_settings_in_a_file_count_and_the_environment_wins(index, tmp_path, monkeypatch):
    written = tmp_path / "pip.conf"
    written.write_text(
        "[global]\nindex-url = http://file.invalid/simple\nextra-index-url =\n  http://a/\n  http://b/\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(written))
    addresses = [address for _, address in places._pip_locations(places._pip_settings())]
    assert addresses == [index.url("/simple"), "http://a/", "http://b/"]
    monkeypatch.delenv("PIP_INDEX_URL")
    assert places._pip_locations(places._pip_settings())[0] == ("index", "http://file.invalid/simple")


@pytest.fixture
def npm(server, tmp_path, monkeypatch):
    """An npm client on PATH that answers with what `npm.answers` holds."""
    package = tarball(("package/package.json", b"{}"), ("package/data", b"headBODYtail"))
    server.pages["/toy.tgz"] = Page(package)
    answers = {
        "view": {"tarball": server.url("/toy.tgz"), "integrity": integrity(package)},
        "config": server.url("/registry/"),
    }
    stub = tmp_path / "bin" / "npm"
    stub.parent.mkdir()
    script = f"import json,sys\nanswer = json.load(open({str(stub)!r} + '.json'))[sys.argv[1]]\n"
    script += "sys.exit(answer['fail']) if 'fail' in answer else None\n"
    script += "print(answer if isinstance(answer, str) else json.dumps(answer))\n"
    stub.write_text(f"#!{sys.executable}\n{script}")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(stub.parent))

    def answer(**changed) -> None:
        Path(f"{stub}.json").write_text(json.dumps(answers | changed))

    answer()
    return answer


def integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def npm_place(**files: dict) -> dict:
    return {"npm": {"package": "toy", "version": "1.0.0", "files": files}}


def test_byte_ranges_of_an_npm_member_are_cut_out(npm, work):
    found = get({"a": sha256(b"head"), "b": None}, [npm_place(a=cut(0, 4), b=cut(4, 12))], work)
    assert found == {"a": b"head", "b": b"BODYtail"}


def cut(start: int, stop: int) -> dict:
    return {"member": "package/data", "bytes": [start, stop], "gunzip": False}


def test_a_range_outside_its_member_is_refused(npm, work):
    with pytest.raises(PlumblineError, match=r"has 12 bytes, no range \[4, 13\)"):
        get({"a": None}, [npm_place(a=cut(4, 13))], work)


def test_an_npm_package_with_another_integrity_is_refused(npm, server, work):
    npm(view={"tarball": server.url("/toy.tgz"), "integrity": integrity(b"other")}, config="undefined")
    with pytest.raises(PlumblineError, match="its sha512 is"):
        get({"a": None}, [npm_place(a=cut(0, 4))], work)


def test_a_tarball_address_of_the_mirrored_registry_is_moved_to_the_mirror(npm, server, work, closed_port):
    package = server.pages["/toy.tgz"].body
    server.pages = {"/mirror/toy/-/toy.tgz": Page(package)}
    told = {"tarball": f"http://127.0.0.1:{closed_port}/toy/-/toy.tgz", "integrity": integrity(package)}
    npm(view=told, config=server.url("/mirror/", host="localhost"))
    assert get({"a": None}, [npm_place(a=cut(0, 4))], work) == {"a": b"head"}


def test_npms_complaint_is_the_reason(npm, work):
    npm(view={"fail": "npm warn old\nnpm error code E404"})
    with pytest.raises(PlumblineError, match="npm view: npm error code E404"):
        get({"a": None}, [npm_place(a=cut(0, 4))], work)


def test_without_an_npm_client_the_place_says_so(work, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PlumblineError, match="no npm client"):
        get({"a": None}, [npm_place(a=cut(0, 4))], work)


# --- archives


def refuse(tmp_path: Path, data: bytes, member: str, reason: str, **more) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    with pytest.raises(Unavailable, match=reason):
        unpack_member(archive, member, tmp_path / "out", **more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\\..\\x"])
@pytest.mark.parametrize("pack", [tarball, lambda pair: wheel(**{pair[0]: pair[1]})])
def test_names_that_leave_the_folder_are_refused(tmp_path, name, pack):
    refuse(tmp_path, pack((name, b"x")), name, "unsafe name")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        info = tarfile.TarInfo("x")
        info.type, info.linkname = kind, "/etc/passwd"
        bundle.addfile(info)
    refuse(tmp_path, buffer.getvalue(), "x", "not a regular file")


def test_a_link_in_a_zip_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        info = zipfile.ZipInfo("x")
        info.external_attr = 0o120777 << 16
        bundle.writestr(info, "/etc/passwd")
    refuse(tmp_path, buffer.getvalue(), "x", "not a regular file")


@pytest.mark.parametrize("pack", [tarball, lambda pair: wheel(**{pair[0]: pair[1]})])
def test_a_member_over_the_limit_is_refused_before_it_is_written(tmp_path, pack):
    refuse(tmp_path, pack(("x", BODY)), "x", "too large", limit=len(BODY) - 1)


@pytest.mark.parametrize("pack", [tarball, lambda pair: wheel(**{pair[0]: pair[1]})])
def test_an_archive_bomb_is_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(unpack, "BOMB_FLOOR", 1 << 20)
    refuse(tmp_path, pack(("x", bytes(8 << 20))), "x", "archive bomb")


def test_a_bomb_in_front_of_the_member_or_inside_a_gzip_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "BOMB_FLOOR", 1 << 20)
    refuse(tmp_path, tarball(("bomb", bytes(8 << 20)), ("x", b"x")), "x", "archive bomb")
    refuse(tmp_path, tarball(("x", gzip.compress(bytes(8 << 20)))), "x", "archive bomb", gunzip=True)


@pytest.mark.parametrize("pack", [tarball, lambda pair: wheel(**{pair[0]: pair[1]})])
def test_a_broken_archive_is_a_reason_and_not_a_traceback(tmp_path, pack):
    whole = pack(("x", os.urandom(100_000)))
    refuse(tmp_path, whole[:50_000], "x", "broken")
    refuse(tmp_path, b"<html>not an archive</html>", "x", "broken")
    refuse(tmp_path, b"BZh9 not really", "x", "broken")
    refuse(tmp_path, whole, "y", "no such member")
    refuse(tmp_path, tarball(("x", b"not gzip")), "x", "broken", gunzip=True)


def test_a_name_that_two_members_have_is_refused(tmp_path):
    refuse(tmp_path, tarball(("x", b"one"), ("y", b"y"), ("./x", b"two")), "x", "stands 2 times")
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as bundle:
        warnings.simplefilter("ignore")
        bundle.writestr("x", b"one")
        bundle.writestr("x", b"two")
    refuse(tmp_path, buffer.getvalue(), "x", "stands 2 times")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_common_tar_is_read(tmp_path, mode):
    archive = tmp_path / "archive"
    archive.write_bytes(tarball(("./a/first", b"1" * 5000), ("./a/x", BODY), mode=mode))
    assert unpack_member(archive, "a/x", tmp_path / "out").read_bytes() == BODY


def test_pinned_files_may_come_from_different_places(server, work, tmp_path):
    server.pages = {"/x": Page(BODY), "/y": Page(b"y")}
    sources = [https(x=server.url("/x")), https(y=server.url("/y"))]
    found = get({"x": sha256(BODY), "y": sha256(b"y")}, sources, work)
    assert found == {"x": BODY, "y": b"y"}
    with pytest.raises(PlumblineError, match="does not provide y"):
        get({"x": sha256(BODY), "y": None}, sources, tmp_path / "other")
