"""A study is data: no value of it is ever more than a word of a command, and no name leaves its folder."""

import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from tests.workflow import copy_with_study
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan.layout import Layout, Word
from workflow_scripts.study import checking, harness_tasks, machine, names
from workflow_scripts.study.messages import mistakes
from workflow_scripts.study.mistakes import models_in
from workflow_scripts.study.settling import data, local_files
from workflow_scripts.study.settling import models as settled_models
from workflow_scripts.study.settling.lock import LOCK
from workflow_scripts.study.sources import Place, Source
from workflow_scripts.study.study import Study

ROOT = Path(__file__).resolve().parents[1]
EVERY_KEY = yaml.safe_load((ROOT / "tests/every_key.yaml").read_text(encoding="utf-8"))
# Each model is a policy more, so these are not in the file that many tests count in.
EVERY_KEY["models"] |= {
    "named": {"preset": "smollm2-135m-instruct"},
    "here": {"path": "tests/bare/model", "template": "own"},
    "adapted": {"path": "tests/bare/adapter", "base": {"path": "tests/bare/model"}, "template": "own"},
    "asked": {"hf": "some-one/adapter", "revision": "a branch", "template": "own"}
    | {"base": {"hf": "some-one/model", "revision": "a branch"}},
}
# Neither is a second seed.
EVERY_KEY["seeds"] = {"until": 0.02, "first": 2, "at_most": 2, "on": "labels/evaluation/accuracy"} | {
    "policy": "tiny.sft"
}
EVERY_KEY["adopt"]["tiny.chat"]["2"] = "tests/bare/model"

# Each makes of a name (the last part of a path) or of a whole text one that is up to something.
NASTY: dict[str, Callable[[str], str]] = {
    "commands": lambda name: f"x$(touch PWNED)`touch PWNED`'$(touch PWNED)' ; touch PWNED & {name}",
    "words": lambda name: f'été\'s "rows (1)" [a] * ? ~ # <>| $HOME !! {name}',
    "lines": lambda name: f"x\ntouch PWNED\n{name}",
}
# These are of the whole text.
LEAVING: dict[str, Callable[[str], str]] = {
    "parents": lambda text: f"../../{text}",
    "absolute": lambda text: f"/nowhere/{text}",
    "dash": lambda text: f"--output=x/{text}",
    "braces": lambda text: f"{{x}} {{wildcards.x}} {text}",
}


def has_text(annotation: Any) -> bool:
    """Return whether a type allows free text in it: str, but no Literal and nothing inside a part of its own."""
    if annotation is str:
        return True
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return any(has_text(part) for part in typing.get_args(annotation))


def parts(model: type[BaseModel], found: set | None = None) -> set[type[BaseModel]]:
    """Return a schema class and all that stand below it."""
    found = set() if found is None else found
    if model not in found:
        found.add(model)
        for field in model.model_fields.values():
            for below in models_in(field.annotation):
                parts(below, found)
    return found


def texts(value: Any, key: tuple[str, str] | None = None) -> Iterator[tuple[tuple[str, str] | None, str]]:
    """Yield ((class, key), text) for every text of a part of a study, the names of mappings among them."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            named = (type(value).__name__, name) if has_text(field.annotation) else None
            yield from texts(getattr(value, name), named)
    elif isinstance(value, dict):
        for name, below in value.items():
            if key:
                yield key, name
            yield from texts(below, key)
    elif isinstance(value, list):
        for below in value:
            yield from texts(below, key)
    elif isinstance(value, str) and key:
        yield key, value


def renamed(value: Any, old: str, new: str) -> Any:
    """Return a study in which one text, wherever it stands, is another."""
    if isinstance(value, dict):
        return {renamed(key, old, new): renamed(below, old, new) for key, below in value.items()}
    if isinstance(value, list):
        return [renamed(below, old, new) for below in value]
    return new if value == old else value


def spoiled(text: str, kind: str) -> str:
    """Return a text that is up to something; of a path only the last part, unless the kind is about the whole."""
    if kind in LEAVING:
        return LEAVING[kind](text)
    folder, slash, name = text.rpartition("/")
    return f"{folder}{slash}{NASTY[kind](name)}"


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of the repository, under a path with everything that a path may have."""
    folder = tmp_path_factory.mktemp("copy") / "a b [1] (x) été's $(touch PWNED) & *"
    folder.mkdir()
    copy_with_study(folder)
    (folder / "docs").mkdir()
    for name in machine.WORDNET:  # as good as WordNet, to the check
        (folder / "docs" / name).touch()
    return folder


def there_too(folder: Path, text: str, spoilt: str) -> None:
    """Have a file of the repository stand under its spoilt name as well, where a file can."""
    source, target = folder / text, Path(os.path.normpath(folder / spoilt))
    if text and source.exists() and not target.exists() and target.is_relative_to(folder.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, target)


def spoil(config: dict, kind: str, folder: Path) -> tuple[dict, dict[str, str]]:
    """Return the study with each text spoilt that the check lets pass, and {text: why} of those that it refuses.

    Raises AssertionError for a refusal that does not say where.
    """
    refused = {}
    for text in dict.fromkeys(text for _, text in texts(Study.model_validate(config))):
        spoilt = spoiled(text, kind)
        there_too(folder, text, spoilt)
        candidate = renamed(config, text, spoilt)
        wrong = checking.examine(candidate, [machine.seen], ROOT / "tests").wrong
        if wrong:
            refused[text] = str(mistakes("study", wrong))
            assert re.search(r"^  [a-z_]+[.:\[]", refused[text], re.MULTILINE), wrong
        else:
            config = candidate
    return config, refused


def planned(folder: Path, config: dict) -> dict:
    """Return what tests.planned_lines says of a study."""
    file = folder / "study of a test's.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "tests.planned_lines", file.name]
    environment = os.environ | {"PYTHONPATH": str(folder), "SOME_KEY": "key"}
    (folder / "tests").mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "tests" / LOCK, folder / LOCK)
    for name in ("__init__.py", "planned_lines.py"):
        shutil.copyfile(ROOT / "tests" / name, folder / "tests" / name)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def arrived(folder: Path, line: str, folders: dict[str, str]) -> list[str]:
    """Return what `python` is given by a shell line: its arguments and its standard input."""
    stub, record = folder / "stub.sh", folder / "arrived"
    # Nothing has diverged: the job itself is run after its first command says so.
    ended = '[ "${2-}" != workflow_scripts.common.diverged ] || [ "${3-}" = --because ]'
    stub.write_text(
        f'python() {{ printf "%s\\0" "$@" >> arrived; cat >> arrived; printf "\\0" >> arrived; {ended}; }}\n'
    )
    record.unlink(missing_ok=True)
    for log in re.findall(r"(?:> |tee )(\S+\.log)", line):
        (folder / log).parent.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "BASH_ENV": str(stub), "HOME": str(folder), **folders}
    environment |= {"ENGINE_PATH": "", "OTHER_ENGINE_PATH": "", "PLUMBLINE_JUDGES": "{}"}
    command = ["bash", "-c", f"set -euo pipefail; {line}"]
    subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, check=True)
    return [word.removesuffix("\n") for word in record.read_text(encoding="utf-8").split("\0")]


def each_kind(lines: list[dict]) -> list[dict]:
    """Return a job of each rule for each benchmark, dataset and the like: policies and seeds alter no line."""
    keys = {
        (
            job["rule"],
            *(value for key, value in job["wildcards"].items() if key not in ("policy", "seed")),
        ): job
        for job in lines
    }
    return list(keys.values())


def test_the_study_of_this_test_gives_every_string_key_of_the_schema_a_value():
    wanted = {
        (model.__name__, name)
        for model in parts(Study)
        for name, field in model.model_fields.items()
        if has_text(field.annotation)
    }
    given = {key for key, _ in texts(Study.model_validate(EVERY_KEY))}
    inherited = {(model.__name__, name) for model in parts(Study) for name in model.model_fields}
    assert given <= inherited
    # What methods of one family share is the same key of the same class of the schema.
    where = {model.__name__: model for model in parts(Study)}
    seen = {(owner(where[cls], name), name) for cls, name in given}
    unseen = {(cls, name) for cls, name in wanted if (owner(where[cls], name), name) not in seen}
    assert unseen == {("Study", "extends")}, (
        "give them values in tests/every_key.yaml"
    )  # extends: read before


def owner(model: type[BaseModel], name: str) -> str:
    """Return the class that a key of a schema class is defined in."""
    return next(base for base in model.__mro__[::-1] if name in inspect.get_annotations(base)).__name__


@pytest.mark.parametrize("kinds", [("commands",), ("words",), ("lines", *LEAVING)], ids=" ".join)
def test_no_text_of_a_study_is_more_than_a_word_of_a_command(repository, monkeypatch, kinds):
    shutil.copytree(ROOT / "tests/bare", repository / "tests/bare", dirs_exist_ok=True)
    for looking in (names, machine, harness_tasks, data, local_files, settled_models):
        monkeypatch.setattr(looking, "ROOT", repository)
    monkeypatch.setenv("SOME_KEY", "key")
    config = EVERY_KEY
    for kind in kinds:
        config, refused = spoil(config, kind, repository)
        assert refused
    assert config != EVERY_KEY
    found = planned(repository, config)
    run = repository.parent / f"run-{'-'.join(kinds)}"
    run.mkdir()
    for job in each_kind(found["lines"]):
        words = arrived(run, job["line"], found["folders"])
        for word in job["words"]:
            assert any(word in each for each in words), (job["line"], word)
        assert not [word for word in words if word.startswith(LEAVING["dash"](""))]
    assert not list(repository.parent.rglob("PWNED"))


@pytest.mark.parametrize(
    "place",
    ["files", "https", "member", "file"],
)
@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a/../../x.json", "a\\x.json", "x\ny.json", "", "."]
)
def test_a_file_of_a_source_cannot_leave_its_folder(place, name):
    config = {
        "files": {"files": {name: None}, "places": [{"https": {"files": {"a": "https://example.org/a"}}}]},
        "https": {"files": {"a": None}, "places": [{"https": {"files": {name: "https://example.org/a"}}}]},
        "file": {"files": {"a": None}, "places": [{"file": {"files": {name: "README.md"}}}]},
        "member": {
            "files": {"a": None},
            "places": [{"pypi": {"package": "a", "version": "1", "files": {"a": {"member": name}}}}],
        },
    }[place]
    with pytest.raises(ValidationError, match=r"folder|one line"):
        Source.model_validate(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models.tiny.weights", "../../../etc/passwd"),
        ("datasets.chatted.files", ["../secret.json"]),
        ("benchmarks.code.file", "/etc/passwd"),
        ("benchmarks.questions.questions", "../../questions.jsonl"),
        ("benchmarks.compared.gamed", "../gamed.csv"),
    ],
)
def test_what_is_read_of_a_hub_repository_taken_whole_cannot_leave_it_either(key, value):
    """Its files are known to the hub alone, so no list says which names there are."""
    config = json.loads(json.dumps(EVERY_KEY))
    for name in ("weights", "chats"):
        config["sources"][name] = EVERY_KEY["sources"]["whole"]
    part, name, field = key.split(".")
    config[part][name][field] = value
    with pytest.raises(PlumblineError, match=rf"{part}\.{name}\.{field}.*must stay in its folder"):
        checking.check_study(config, folder=ROOT / "tests")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ({"npm": {"package": "--registry=http://127.0.0.1", "version": "1", "files": {}}}, "package"),
        ({"npm": {"package": "git+ssh://host/x", "version": "1", "files": {}}}, "package"),
        ({"npm": {"package": "x", "version": "file:../x", "files": {}}}, "version"),
        ({"pypi": {"package": "../x", "version": "1", "files": {}}}, "package"),
        ({"hf": {"repo": "../../api", "revision": "0" * 40}}, "repo"),
    ],
)
def test_a_package_is_a_name_and_no_option_or_address(place, value):
    with pytest.raises(ValidationError, match="string_pattern_mismatch"):
        Place.model_validate(place)


@pytest.mark.parametrize("name", ["../x", "a/b", "-x", "x y", "x\n", "$(x)", "a.b", "", "été"])
@pytest.mark.parametrize(
    "part", ["models", "datasets", "runs", "benchmarks", "judges", "pairs", "sources", "values"]
)
def test_a_name_is_of_letters_digits_and_hyphens(part, name):
    config = {**EVERY_KEY, part: {**EVERY_KEY[part], name: next(iter(EVERY_KEY[part].values()))}}
    with pytest.raises(PlumblineError, match=rf"{part}\..*: must be a name of letters"):
        checking.check_study(config)


# --- the rules as they stand -----------------------------------------------------------------------------------


def shell_texts() -> list[tuple[str, str, str]]:
    """Return (rule, its directives before shell, its shell line as it is written) of every rule that has one."""
    found = []
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            before, shell, line = rule.partition("    shell:\n")
            if shell:
                found.append((rule.split(":")[0], before, re.split(r"^\S", line, flags=re.MULTILINE)[0]))
    return found


def unquoted(line: str) -> list[str]:
    """Return the placeholders of a shell line that are not quoted; {X} and {f(…)} of an f-string are text by then."""
    placeholders = re.findall(r"\{+([a-z][^{}()]*)\}+", re.sub(r"\{\w+\([^()]*\)\}", "", line))
    return [found for found in placeholders if not found.endswith((":q", ":u"))]


def test_a_path_in_a_shell_line_has_the_jobs_wildcards_quoted():
    layout = Layout("study")
    path = layout.answer_rows("{policy}", "{seed}", "{benchmark}")
    assert layout.in_shell("--rows", path) == (
        "--rows $RESULTS/policies/{wildcards.policy:q}/seed-{wildcards.seed:q}"
        "/generations/{wildcards.benchmark:q}.jsonl"
    )
    assert layout.cost_in_shell("train", "policy", "seed") == (
        "$RESULTS/costs/train/{wildcards.policy:q}-{wildcards.seed:q}.json"
    )
    for word in (path, layout.cost_in_shell("train", "policy", "seed")):
        assert not unquoted(layout.in_shell(word))


@pytest.mark.parametrize("name", ["a b", "$(touch PWNED)", "'", "x;y"])
def test_a_name_in_a_word_is_quoted_and_the_studys_folder_a_variable(name):
    layout = Layout("study")
    assert layout.word(layout.rows(name, "train")) == f"$CLEAN/{shlex.quote(f'{name}/rows/train.jsonl')}"
    assert (
        layout.word(f"train={layout.rows('d', name)}")
        == f"train=$CLEAN/{shlex.quote(f'd/rows/{name}.jsonl')}"
    )
    assert layout.word(name) == shlex.quote(name)


def test_every_placeholder_of_every_shell_line_is_quoted():
    common = (ROOT / "rules/common.smk").read_text(encoding="utf-8")
    pieces = re.findall(r"^(?:LAUNCH\w*|POLICY_FLAGS) = (?:\(\n(?: .*\n)*\)|.*)", common, re.MULTILINE)
    assert len(pieces) == 4 and len(shell_texts()) > 35
    assert not [found for piece in pieces for found in unquoted(piece)]
    assert not [(rule, found) for rule, _, line in shell_texts() for found in unquoted(line)]


def test_a_placeholder_that_the_rule_leaves_as_it_is_has_been_quoted_by_the_plan():
    for rule, before, line in shell_texts():
        params = before.partition("    params:\n")[2]
        for name in re.findall(r"\{+(?:params\.)(\w+):u\}+", line):
            module, function = re.search(
                rf"^        {name}=by\((\w+)\.(\w+)\),$", params, re.MULTILINE
            ).groups()
            planned = getattr(importlib.import_module(f"workflow_scripts.plan.{module}"), function)
            assert get_type_hints(planned)["return"] in (Word, list[Word]), (rule, name)
        assert not re.findall(r"\{+(?!params\.)[a-z.]+:u\}+", line), rule


# --- make ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        'my study\'s [1] (2) & "x".yaml',
        "$(shell touch PWNED) $HOME ${HOME} $$ #.yaml",
        "-n [1].yaml",
        "--help.yaml",
    ],
)
@pytest.mark.parametrize(
    "target", ["results", "plan", "judge-plan", "check-study", "verify", "status", "clean"]
)
def test_make_hands_on_the_path_of_a_study_as_it_is_and_runs_nothing_that_stands_in_it(
    tmp_path, target, name
):
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / name).write_text("study: own$(touch PWNED)`touch PWNED`; touch PWNED\n")
    (tmp_path / "bin").mkdir()
    for program in ("python", "snakemake"):
        stub = tmp_path / "bin" / program
        stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> arrived\n')
        stub.chmod(0o755)
    command = ["make", "-o", ".venv/ready", "BIN=bin", f"STUDY={name}", target]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "arrived").read_text().split("\0")
    path = f"./{name}" if name.startswith("-") else name
    assert words[words.index("--study") + 1] == path
    assert not list(tmp_path.rglob("PWNED"))


def test_make_refuses_a_path_of_several_lines():
    command = ["make", "-n", "-o", ".venv/ready", "STUDY=a\nb.yaml", "check-study"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "STUDY and PROFILE are paths in one line" in done.stderr
