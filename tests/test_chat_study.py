"""Policies of a study that has run are talked to: they say what the study has stored, in a terminal as elsewhere."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import call
from tests.export_study import POLICIES
from tests.workflow import ROOT, edit
from workflow_scripts.chat import chat
from workflow_scripts.chat.chat import doubts, find_all
from workflow_scripts.chat.speaker import Speaker
from workflow_scripts.chat.talk import Talk
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_json
from workflow_scripts.export import found as finding

STUDY = Path("config.yaml")
SECONDS = 600  # of a busy machine: torch alone may take one


@pytest.fixture
def study(exported_study) -> Path:
    return exported_study


@pytest.fixture
def within(study, monkeypatch) -> Path:
    monkeypatch.chdir(study)
    return study


@pytest.fixture
def own(study, tmp_path, monkeypatch) -> Path:
    """A copy of the study that a test may change."""
    folder = shutil.copytree(study, tmp_path / "study", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_says_what_the_study_has_stored_to_the_byte(within, policy):
    """A trained one, an unmerged adapter, base models: of safetensors, without an end, of llama2.c."""
    [found] = find_all(STUDY, [policy], 1, "chat")
    speaker = Speaker(found)
    sampling = read_json(found.plan.layout.prompts("words"))["sampling"]
    rows = {row["id"]: row for row in read_jsonl(found.plan.layout.prompt_rows("words"))}
    stored = read_jsonl(found.plan.layout.answer_rows(policy, 1, "words"))
    talk = Talk([speaker])
    talk.sampling |= {"max_new_tokens": sampling["max_new_tokens"]}
    assert talk.sampling["stop"] == sampling["stop"] and len(stored) > 20
    for answer in stored:
        [message] = rows[answer["id"]]["messages"]
        talk.said = [[]]
        talk.hear(message["content"])
        assert talk.reply(0).text == answer["text"], (policy, answer["id"])


# --- in a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """The chat in a terminal of its own, 100 columns wide."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.own, other = pty.openpty()
        os.set_blocking(self.own, False)
        environment = os.environ | {
            "TERM": "xterm",
            "COLUMNS": "100",
            "LINES": "40",
            "PYTHONPATH": str(folder),
        }
        command = [sys.executable, "-m", "workflow_scripts.chat.chat", *flags]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            start_new_session=True,
        )
        os.close(other)
        self.text = ""

    def until(self, pattern: str) -> str:
        """Return all that is shown up to where a pattern is, and go on from behind it."""
        end = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if select.select([self.own], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.own, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    assert re.search(pattern, self.text), self.text
        said, self.text = self.text[: found.end()], self.text[found.end() :]
        return said

    def type(self, text: str) -> None:
        os.write(self.own, text.encode())

    def ends(self) -> int:
        """Return the exit status."""
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            os.close(self.own)


def plain(text: str) -> str:
    """Return what a terminal shows, without what it is told beside."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def test_a_talk_with_two_policies_in_a_terminal(within):
    stored = read_jsonl("results/taken/policies/tiny.sft/seed-1/generations/words.jsonl")
    prompts = {
        row["id"]: row["messages"][0]["content"] for row in read_jsonl("results/taken/prompts/words.jsonl")
    }
    answer = next(row for row in stored if len(row["text"].partition(" ")[0]) > 2 and "\n" not in row["text"])
    screen = Terminal(within, "--policy=tiny.sft", "--vs=tiny.low")
    begun = plain(screen.until("you> "))
    assert "tiny.sft of taken, seed 1" in begun and "greedy (temperature 0)" in begun and "/help" in begun
    screen.type("/tokens 12\n")
    assert "at most 12 tokens" in screen.until("you> ")
    screen.type(prompts[answer["id"]].replace("\n", "\\\n") + "\n")  # which goes on over lines
    said = plain(screen.until("you> "))
    assert said.count("tiny.sft>") >= 1 and said.count("tiny.low>") >= 1
    assert answer["text"].split()[0] in said
    screen.type("/temperature hot\n")
    assert "a number from 0 to 100 is needed" in screen.until("you> ")
    screen.type("/reset\n")
    assert "anew" in screen.until("you> ")
    screen.type("\x04")
    assert screen.ends() == 0


def test_a_reply_is_broken_off_and_the_talk_goes_on(within):
    screen = Terminal(within, "--policy=bare")
    screen.until("you> ")
    screen.type("/tokens 400\n")
    screen.until("you> ")
    screen.type("What is osmosis?\n")
    screen.until("bare> ")
    screen.type("\x03")  # the terminal makes it an interrupt only for who controls it
    os.killpg(screen.process.pid, 2)
    assert re.search("broken off|tokens", plain(screen.until("you> ")))
    screen.type("/quit\n")
    assert screen.ends() == 0


# --- what cannot be asked ---------------------------------------------------------------------------------------------


def test_what_is_not_there_says_what_to_do(own):
    with pytest.raises(PlumblineError, match=r"tiny\.sff.*tiny\.sft"):
        call(chat.main, "--policy=tiny.sff")
    with pytest.raises(PlumblineError, match="with seed 1, not with 7"):
        call(chat.main, "--policy=tiny.sft", "--seed=7")
    manifest = own / "results/taken/policies/tiny.sft/seed-1/manifest.json"
    note = {"step": 3, "learning_rate": 1.0, "quantity": "loss is", "whose": "training"}
    write_json(manifest, {"files": {}, "diverged": note})
    with pytest.raises(PlumblineError, match="has no weights: training diverged at step 3"):
        call(chat.main, "--policy=tiny.sft")
    manifest.unlink()
    with pytest.raises(PlumblineError, match=r"not trained yet.*make results"):
        call(chat.main, "--policy=tiny", "--vs=tiny.sft")


def test_what_its_study_would_make_anew_is_asked_with_a_warning(own, monkeypatch):
    monkeypatch.setattr(finding.subprocess, "run", subprocess.run)
    assert doubts(find_all(STUDY, ["tiny.sft"], None, "chat")) == []
    edit(own / "config.yaml", "learning_rate: 0.001", "learning_rate: 0.002")
    [said] = doubts(find_all(STUDY, ["tiny.sft"], None, "chat"))
    assert said.startswith("warning: tiny.sft (seed 1) is out of date") and "asked as it is" in said


@pytest.mark.parametrize("target", ["chat", "serve"])
def test_make_hands_on_every_name_as_it_is(tmp_path, target):
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> arrived\n')
    (tmp_path / "bin/python").chmod(0o755)
    odd = "it's $(shell touch PWNED) `touch PWNED` $HOME; touch PWNED, #"
    names = {"chat": ("VS", "WEB", "PORT"), "serve": ("HOST", "PORT", "ENGINE")}[target]
    given = {name: f"{name} {odd}" for name in ("POLICY", "SEED", *names)}
    command = [
        "make",
        "-o",
        ".venv/ready",
        "BIN=bin",
        target,
        *(f"{key}={text}" for key, text in given.items()),
    ]
    environment = os.environ | {"HOST": "of-the-shell", "PORT": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "arrived").read_text().split("\0")
    for name, text in given.items():
        assert f"--{name.lower()}={text}" in words
    (tmp_path / "arrived").unlink()
    subprocess.run(command[:5], cwd=tmp_path, check=True, capture_output=True, env=environment)
    words = (tmp_path / "arrived").read_text().split("\0")
    assert "--port=" in words and not any("of-the-shell" in word for word in words)
    assert not list(tmp_path.rglob("PWNED"))
