"""An exported folder goes to a hub whole, and the token nowhere else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.upload_server import hub
from tests.workflow import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.export.push import ready_to_push

TOKEN = "hf_a-secret-that-is-not-one"
PUSH = (
    "import sys; from workflow_scripts.common.errors import run; from workflow_scripts.export.push import *; "
    "run(lambda: print(push(ready_to_push(sys.argv[1]), sys.argv[1], Path(sys.argv[2]), 'tiny.sft')))"
)


def pushed(folder: Path, url: str, name: str = "owner/name") -> subprocess.CompletedProcess:
    """Push a folder in a process of its own: the library reads its environment once."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HOME": str(folder.parent / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", PUSH, name, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "an export"
    made.mkdir()
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (made / "README.md").write_text("---\ntags:\n- plumbline\n---\n# x\n")
    (made / "config.json").write_text("{}\n")
    return made


def test_every_file_arrives_in_a_repository_that_is_new_and_private(folder):
    with hub() as server:
        done = pushed(folder, server.url)
    assert done.returncode == 0, done.stderr
    assert "uploaded to owner/name (private), commit c0ffee" in done.stdout
    assert server.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    created = next(body for _, path, _, body in server.seen if path == "/api/repos/create")
    assert json.loads(created)["visibility"] == "private"
    assert {key for _, path, key, _ in server.seen if path.startswith("/api/")} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr


def test_a_repository_that_everybody_sees_is_called_so(folder):
    with hub(private=False) as server:
        done = pushed(folder, server.url)
    assert "(public: it was there before)" in done.stdout


def test_what_the_hub_refuses_is_said_without_the_token(folder):
    with hub(refuses=True) as server:
        done = pushed(folder, server.url)
    assert done.returncode == 1
    assert "owner/name: the upload failed: " in done.stderr and "403" in done.stderr
    assert f"the folder is whole in {folder}" in done.stderr
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_without_a_token_or_with_a_wrong_name_nothing_is_begun(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", " ")
    with pytest.raises(PlumblineError, match="set HF_TOKEN in the environment"):
        ready_to_push("owner/name")
    for name in ("name", "owner/name/more", "../name", "owner/na me", "-owner/name"):
        with pytest.raises(PlumblineError, match="a repository is owner/name"):
            ready_to_push(name)
