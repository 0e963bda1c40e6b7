"""Reading a study's YAML, and laying it over the study it extends. Whatever stands in the file, reading ends.

Size, depth and number of values are bounded, those of an alias counted wherever it stands; tags, dates and keys that
are no text are mistakes, named with their path. Numbers are written as in YAML 1.2: 1e-4 is one, without the dot and
the sign that YAML 1.1 wants; and a key called on is text, not true. Not covered: what the keys mean.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.place import ROOT, SHIPPED
from workflow_scripts.study.messages import mistakes, named, nearest, shown
from workflow_scripts.study.study import SECTIONS

LARGEST = 1_000_000  # bytes
DEEPEST = 40  # mappings and lists in one another; no key of a study stands deeper than ten
MOST = 100_000  # values
OURS = "tag:yaml.org,2002:"
ON = "on"  # a key that is text in YAML 1.2, and true in YAML 1.1
HALF = re.compile(r"[\ud800-\udfff]")
NO_CHARACTER = r"has half of a surrogate pair (\ud800 to \udfff), which is no character: no file can hold it"


class Scalars(yaml.SafeLoader):
    """YAML's safe loader, to which 1e-4 and 5e3 are numbers, as they are in YAML 1.2."""


# Three digits of an exponent at most: more are no number that there is, but a hash with one letter in it.
Scalars.add_implicit_resolver(
    f"{OURS}float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]{1,3}$"),
    list("-+.0123456789"),
)


class Bounded(Scalars):
    """YAML's safe loader, which stops where a file nests too deep, holds too much, or holds itself."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.measured: dict[int, tuple[int, int]] = {}  # id of a finished node: (values in it, its depth)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if alias and id(node) not in self.measured:
            raise yaml.composer.ComposerError(
                None, None, "an alias that stands inside what it stands for", mark
            )
        if not alias:
            inside = [self.measured[id(child)] for child in children(node)]
            values = 1 + sum(size for size, _ in inside)
            depth = 1 + max((deep for _, deep in inside), default=0)
            if values > MOST or depth > DEEPEST:
                what = f"more than {MOST} values" if values > MOST else f"nested more than {DEEPEST} deep"
                raise yaml.composer.ComposerError(None, None, f"{what}, aliases written out", mark)
            self.measured[id(node)] = values, depth
        return node


def children(node: yaml.Node) -> list[yaml.Node]:
    """Return the nodes a YAML node holds, keys among them."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


class Faults:
    """What YAML would take in silence, or choke on: a sentence for each, `wrong`.

    That is a key that stands twice (YAML keeps the last), and a key or a value of a kind that no study has.
    """

    def __init__(self, root: yaml.Node, loader: Bounded) -> None:
        self.loader = loader
        self.wrong: list[str] = []
        self.seen: set[int] = set()  # ids of nodes: an alias is looked at once
        self.look(root, "")

    def look(self, node: yaml.Node, path: str) -> None:
        """Look at a node and at all that is in it."""
        if id(node) in self.seen:
            return
        self.seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            self.look_at_scalar(node, path)
        elif node.tag != self.loader.resolve(type(node), None, True):
            self.wrong.append(f"{path}: has the tag {shown(node.tag)}: a study needs none, leave it out")
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.look(item, f"{path}[{index}]")
        else:
            self.look_at_mapping(node, path)

    def look_at_scalar(self, node: yaml.ScalarNode, path: str) -> None:
        """Look at a value that is neither a list nor a mapping."""
        plain = self.loader.resolve(yaml.ScalarNode, node.value, (True, False))
        if node.tag not in (plain, f"{OURS}str"):
            self.wrong.append(f"{path}: has the tag {shown(node.tag)}: a study needs none, leave it out")
        elif node.tag == f"{OURS}timestamp":
            self.wrong.append(f"{path}: YAML reads {shown(node.value)} as a date: put it in quotes")
        elif HALF.search(node.value):
            self.wrong.append(f"{path}: {NO_CHARACTER}")
        elif node.tag == f"{OURS}value":
            self.wrong.append(f"{path}: must be in quotes, not a bare =")
        else:
            try:
                self.loader.construct_object(node)
            except (ValueError, OverflowError):
                self.wrong.append(f"{path}: cannot be read as a number: {shown(node.value)}")

    def look_at_mapping(self, node: yaml.MappingNode, path: str) -> None:
        """Look at the keys of a mapping, and at their values."""
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{OURS}bool" and key.value == ON:
                key.tag = f"{OURS}str"
            if key.tag not in (f"{OURS}str", f"{OURS}merge"):
                what = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                where = f"{path}: " if path else ""
                self.wrong.append(
                    f"{where}a key must be text, in quotes if need be, not {what} (line {line})"
                )
                continue
            here = f"{path}.{named(key.value)}".lstrip(".")
            if HALF.search(key.value):
                self.wrong.append(f"{here}: {NO_CHARACTER}")
            if key.value in lines:
                self.wrong.append(f"{here}: stands twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
            self.look(value, here)


def read_yaml(path: Path | str) -> dict:
    """Return the mapping in a YAML file; PlumblineError if there is none, or if a key stands twice."""
    try:
        with open(path, "rb") as stream:
            raw = stream.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise PlumblineError(f"{path}: larger than {LARGEST} bytes: no study, but data perhaps?")
        loader = Bounded(raw.decode("utf-8-sig"))
        root = loader.get_single_node()
        wrong = Faults(root, loader).wrong if root is not None else []
        config = loader.construct_document(root) if root is not None and not wrong else None
    except OSError as error:
        raise PlumblineError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise PlumblineError(
            f"{path}: not YAML: not in UTF-8 (byte {error.start + 1}); save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise PlumblineError(f"{path}: not YAML: {spoken(error)}") from None
    if wrong:
        raise mistakes(str(path), wrong)
    if not isinstance(config, dict):
        found = "it is empty" if config is None else f"it is a {type(config).__name__}"
        raise PlumblineError(f"{path}: must be a mapping (key: value), but {found}; see docs/config.md")
    return config


def spoken(error: yaml.YAMLError) -> str:
    """Return what YAML found wrong, and where, on one line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return f"{' '.join(str(error.problem or error.context).split())}{where}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"a character that YAML does not allow, {shown(chr(error.character))}, at position {error.position + 1}"
    return " ".join(str(error).split())


# --- a study on top of another --------------------------------------------------------------------------------------


def extended(config: dict, above: tuple[str, ...] = ()) -> dict:
    """Return a study's config with what it `extends` underneath: mappings are merged, everything else is replaced."""
    name, own = config.get("extends"), {key: value for key, value in config.items() if key != "extends"}
    if name is None:
        return own
    file = study_file(name) if isinstance(name, str) else None
    if file is None:
        raise PlumblineError(f"extends: no such study {shown(name)} (a path relative to the repository)")
    if len(above) == DEEPEST:
        raise PlumblineError(f"extends: more than {DEEPEST} studies on top of one another")
    if name in above:
        raise PlumblineError(f"extends: a cycle of studies ({' → '.join([*above, name])})")
    below = extended(read_yaml(file), (*above, name))
    dropped = {
        section: {key for key, value in part.items() if value is None}
        for section, part in own.items()
        if section in SECTIONS and isinstance(part, dict)
    }
    wrong = [
        f"{section}.{named(key)}: null drops what the study below has of this name, and {name} has no such entry"
        f"{nearest(key, entries_of(below, section))}"
        for section, keys in dropped.items()
        for key in sorted(keys - entries_of(below, section), key=str)
    ]
    if wrong:
        raise mistakes("the study", wrong)
    return merge(without(below, dropped), without(own, dropped))


def study_file(name: str) -> Path | None:
    """Return the file of a study named by a path: the user's own, else one that ships with Plumbline."""
    # Not by pathlib, which raises for a name that is too long.
    return next((root / name for root in (ROOT, SHIPPED) if os.path.isfile(root / name)), None)


def entries_of(config: dict, section: str) -> set[str]:
    """Return the names of a section's entries; none where it is no mapping."""
    part = config.get(section)
    return set(part) if isinstance(part, dict) else set()


def without(config: dict, dropped: dict[str, set[str]]) -> dict:
    """Return a config without the entries that are dropped, {section: their names}."""
    kept = {
        section: {key: value for key, value in config[section].items() if key not in keys}
        for section, keys in dropped.items()
        if isinstance(config.get(section), dict)
    }
    return config | kept


def merge(below: dict, above: dict) -> dict:
    """Return two mappings as one, the keys of `above` winning, mappings inside merged alike."""
    both = {
        key: merge(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both


# --- what Snakemake has read itself ---------------------------------------------------------------------------------


def as_read(config: Any, read: Any) -> Any:
    """Return what Snakemake has read and put together, its plain text turned into the values that we read.

    Snakemake reads files by YAML 1.1 and what is inside of a --config as text alone. `read` is what we read at the same
    place of the files, None where nothing stands there: text that stands there as text was in quotes, or is plain text.
    """
    if isinstance(config, dict):
        there = read if isinstance(read, dict) else {}
        named_so = {ON if key is True else key: value for key, value in config.items()}
        return {key: as_read(value, there.get(key)) for key, value in named_so.items()}
    if isinstance(config, list):
        there = read if isinstance(read, list) and len(read) == len(config) else [None] * len(config)
        return [as_read(value, each) for value, each in zip(config, there, strict=True)]
    if not isinstance(config, str) or config == read:
        return config
    loader = Scalars("")
    tag = loader.resolve(yaml.ScalarNode, config, (True, False))
    if tag not in [f"{OURS}{kind}" for kind in ("int", "float", "bool", "null")]:
        return config
    try:
        return loader.construct_object(yaml.ScalarNode(tag, config))
    except ValueError:
        return config
