"""Whatever stands in a study's file, the check ends: with a study, or with a message whose every line names a path.

The mutants are seeded: of the parsed tree of each study that ships (values and keys of other kinds, parts moved,
nested, doubled) and of its text (bytes, indents, marks, anchors).
"""

import copy
import datetime
import random
import re
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.study import check
from workflow_scripts.study.checking import Study, examine
from workflow_scripts.study.reading import extended, read_yaml

STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]
MUTANTS = 2000
SEED = 11
SCALARS = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 10**40, 10**400, -(10**19), 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "x",
        "1e-4",
        "0x10",
        "null",
        "é",
        "a" * 300,
        "b" * 9000,
        "{x}",
        "$(x)",
        "..",
        "/",
        "../x",
        "a\0b",
        "\ud800",
    ),
    *("a\nb", "a: b", "[key]", "(rule)", "tiny.sft", "test", "*", "dpo", datetime.date(2024, 1, 1), b"raw"),
]
KEYS = [
    "x",
    "",
    "a b",
    "é",
    "<<",
    "runs",
    "kind",
    "method",
    "rule",
    "annotation",
    "a\nb",
    1,
    None,
    True,
    2.5,
    ("a", 1),
]


def nested(depth: int, value: object) -> object:
    """Return a value inside so many mappings and lists."""
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


def any_value(rng: random.Random, tree: object) -> object:
    """Return a value of some other kind, or a part of the study that belongs elsewhere."""
    draw = rng.random()
    if draw < 0.6:
        return rng.choice(SCALARS)
    if draw < 0.7:
        return rng.choice(
            [[], {}, [{}], [[]], {"a": 1}, ["a", 1], {"a", "b"}, nested(12, 1), nested(300, 1), [None] * 50]
        )
    return copy.deepcopy(rng.choice(list(places(tree)))[2]) if draw < 0.95 else rng.choice(SCALARS)


def places(tree: object, deepest: int = 12) -> list[tuple]:
    """Return (holder, key, value) of every value in a tree, down to where no study goes."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    below = deepest - 1
    return [
        place
        for key, value in items
        for place in [(tree, key, value), *(places(value, below) if below else ())]
    ]


def mutated(tree: dict, rng: random.Random) -> dict:
    """Return a copy of a study with a few things changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        found = places(tree)
        if not found:
            break
        holder, key, _ = rng.choice(found)
        how = rng.randrange(5)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            name = rng.choice([str(key)[1:], f"{key}x", *KEYS])
            holder[name] = holder.pop(key)
        elif how == 2:
            other, at, value = rng.choice(found)
            if (isinstance(other, dict) and at in other) or (isinstance(other, list) and at < len(other)):
                holder[key] = copy.deepcopy(value)
        elif how == 3 and isinstance(holder, dict):
            holder[rng.choice(KEYS)] = any_value(rng, tree)
        else:
            holder[key] = any_value(rng, tree)
    return tree


SNIPPETS = [
    *(
        b"\t",
        b"\n",
        b":",
        b": ",
        b"- ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"*a",
        b"&a ",
        b"!!int ",
        b"!!set ",
        b"!x ",
        b"? ",
        b"|\n",
    ),
    *(
        b">\n",
        b"'",
        b'"',
        b"#",
        b"<<: *a",
        b"%YAML 1.2\n",
        b"---\n",
        b"...\n",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\x85",
    ),
    *(
        b"=",
        b"2024-13-45",
        b"1_000",
        b"0b_",
        b"[" * 500,
        b"{a: " * 500,
        b"9" * 5000,
        b"1:99:99",
        b"\xe2\x80\xa8",
        b"~",
    ),
]


def scrambled(text: bytes, rng: random.Random) -> bytes:
    """Return a study's text with a few bytes, marks or lines changed."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, lines = rng.randrange(len(text) + 1), text.split(b"\n")
        how = rng.randrange(4)
        if how == 0:
            text = text[:at] + rng.choice(SNIPPETS) + text[at:]
        elif how == 1:
            text = text[:at] + text[at + rng.randrange(1, 40) :]
        elif how == 2:
            line = rng.choice(lines)
            lines.insert(rng.randrange(len(lines)), b" " * rng.randrange(9) + line.lstrip())
            text = b"\n".join(lines)
        else:
            text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    return text


def names_paths(message: str) -> bool:
    """Tell whether a message is a list of mistakes that each name a path, or one sentence about a file or a key."""
    heading, *lines = message.split("\n")
    if not lines:
        return re.match(r"[^ ]+: ", heading) is not None
    return re.fullmatch(r".+ has \d+ mistakes?:", heading) is not None and all(
        re.match(r"  [^ ].*?: [^ ]|  a key must be text", line) for line in lines
    )


def test_any_mutant_of_a_study_is_a_study_or_a_message_whose_every_line_names_a_path(tmp_path, monkeypatch):
    rng = random.Random(SEED)
    texts = [path.read_bytes() for path in STUDIES]
    trees = [extended(read_yaml(path)) for path in STUDIES]
    refused = 0
    for number in range(MUTANTS):
        which = rng.randrange(len(STUDIES))
        started = time.process_time()
        try:
            if number % 8 == 7:
                path = tmp_path / "mutant.yaml"
                path.write_bytes(scrambled(texts[which], rng))
                found = examine(read_yaml(path))
            else:
                found = examine(mutated(trees[which], rng))
        except PlumblineError as error:
            assert names_paths(str(error)), f"mutant {number}: {error}"
            refused += 1
            continue
        assert (found.study is None) == bool(found.wrong), f"mutant {number}"
        assert found.study is None or isinstance(found.study, Study)
        for line in [*found.wrong, *found.doubts]:
            assert names_paths(f"x has 1 mistake:\n  {line}"), f"mutant {number}: {line}"
        refused += found.study is None
        assert time.process_time() - started < 20, f"mutant {number} takes too long"
    assert MUTANTS / 3 < refused < MUTANTS


DEEP = {
    "flow lists": "study: " + "[" * 3000,
    "block lists": "study:\n" + "\n".join(" " * depth + "-" for depth in range(1, 400)),
    "mappings": "\n".join(" " * depth + "a:" for depth in range(400)),
    "aliases of aliases": "a0: &a0 [x, x]\n"
    + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)),
    "merges of merges": "a0: &a0 {x: 1}\n"
    + "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)),
    "a list in itself": "study: &a [*a]",
    "a mapping in itself": "study: &a {b: *a}",
    "a merge of itself": "study: &a {<<: *a}",
    "an alias of nothing": "study: *a",
    "a great text": "study: " + "x" * 2_000_000,
}
ODD = {
    "a set": "study: !!set {a, b}",
    "bytes": "study: !!binary aGVsbG8=",
    "an object": "study: !!python/object/apply:os.system [ls]",
    "a number that is none": "study: !!int abc",
    "a date": "study: 2024-01-01",
    "no date": "study: 2024-13-45",
    "a number of ten thousand digits": "seeds: [" + "9" * 10_000 + "]",
    "a number of no digits": "seeds: [0b_]",
    "a bare equals sign": "study: =",
    "a key that is a number": "runs: {1: {}}",
    "a key that is nothing": "runs: {~: {}}",
    "a key that is a list": "runs: {[a, b]: {}}",
    "a tab": "study: x\n\truns: {}",
    "two documents": "study: x\n---\nstudy: y\n",
    "a key twice": "study: x\nstudy: y\n",
    "half of a surrogate pair": 'study: "a\\ud800b"',
    "half of a surrogate pair in a key": 'runs: {"a\\udfff": {}}',
}


@pytest.mark.parametrize("text", [*DEEP.values(), *ODD.values()], ids=[*DEEP, *ODD])
def test_yaml_that_nests_swells_or_is_odd_is_refused_with_its_place(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(PlumblineError) as caught:
        read_yaml(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert names_paths(said.replace(str(path), "study.yaml"))
    assert len(said) < 1000


def test_a_study_with_a_byte_order_mark_and_windows_lines_is_read_like_any_other(tmp_path):
    path = tmp_path / "study.yaml"
    text = (ROOT / "tests/tutoring.yaml").read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_yaml(path) == yaml.safe_load(text)


def test_numbers_that_no_run_can_take_are_refused(tmp_path):
    config = read_yaml(ROOT / "tests/tutoring.yaml")
    config["runs"]["sft"]["learning_rate"] = float("inf")
    config["annotations"]["tutor"]["rewards"]["valid"]["weight"] = float("nan")
    config["seeds"] = [-1, 2**32]
    assert [line.split(": ")[0] for line in examine(config).wrong] == [
        "seeds[0]",
        "seeds[1]",
        "annotations.tutor.rewards.valid.weight",
        "runs.sft.learning_rate",
    ]


def test_generations_without_end_are_refused_and_not_written_out(tmp_path):
    config = read_yaml(ROOT / "tests/tutoring.yaml")
    align = config["runs"]["dpo"]
    chain = {f"r{n}": align | {"parent": f"r{n - 1}" if n else "sft"} for n in range(3000)}
    many, long = examine(config | {"runs": config["runs"] | chain}).wrong
    assert many.startswith("runs: define 3005 policies")
    assert long.startswith("runs: a lineage has a name of ")
    doubling = {f"d{n}": align | {"parent": [f"d{n - 1}", f"e{n - 1}"] if n else "sft"} for n in range(25)}
    doubling |= {f"e{n}": align | {"parent": [f"d{n - 1}", f"e{n - 1}"] if n else "sft"} for n in range(25)}
    (line,) = examine(config | {"runs": config["runs"] | doubling}).wrong
    assert line.startswith("runs: define ")
    ring = chain | {"r0": align | {"parent": "r2999"}}
    assert any(
        "a cycle of parents" in line for line in examine(config | {"runs": config["runs"] | ring}).wrong
    )


def test_a_value_where_a_mapping_belongs_is_a_mistake_with_its_path():
    config = read_yaml(ROOT / "tests/tutoring.yaml")
    for value in ("", "rule", None, 3, ["rule"]):
        config["annotations"]["tutor"]["rewards"]["valid"] = value
        (line,) = examine(config).wrong
        assert line.startswith("annotations.tutor.rewards.valid: ")


def test_the_check_command_shows_no_traceback_of_a_file_it_cannot_read(tmp_path, capsys):
    bad = []
    for number, text in enumerate([*DEEP.values(), *ODD.values()]):
        bad.append(tmp_path / f"{number}.yaml")
        bad[-1].write_text(text)
    with pytest.raises(SystemExit) as ended:
        check.main([*map(str, bad), str(tmp_path), str(tmp_path / "none.yaml"), str(Path("/dev/zero"))])
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert said.out == ""
    assert said.err.count(str(tmp_path)) >= len(bad) + 2
