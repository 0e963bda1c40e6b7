"""One raw row as its schema reads it, and what holds for the rows of all schemas.

That is columns that the study calls otherwise, the system message in front, calls of tools, labels that say an answer
is bad, and which keys nobody read.
"""

import random
from typing import Any

from workflow_scripts.clean.fields import Fields, Unfit, holds
from workflow_scripts.clean.reading import Fault, RawRow, truth
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.clean.schemas.labelled import label_of
from workflow_scripts.clean.schemas.row import Opened, joined, plain, read_said, same_system
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.turns import split_system, system_text

MISSING = object()


def renamed(row: RawRow, renames: dict[str, str]) -> RawRow:
    """Return a raw row with its columns under the names that its schema has: {the schema's name: the file's}.

    A dot in the file's name goes into an object, or to a place of a list (`answers.text.0`), unless a column is called
    so whole. A column that is not there is a fault of the row. What stood under the schema's name before counts as not
    read.
    """
    if row.fault or not renames or not isinstance(row.value, dict):
        return row
    found, left = {}, row.value
    for column, name in renames.items():
        steps = [name] if name in row.value else name.split(".")
        found[column] = truth(column, looked_up(row.value, steps))
        if found[column] is MISSING:
            return row._replace(fault=Fault(f"missing column '{name}'", f"columns: {{{column}: {name}}}"))
        left = without(left, steps)
    beside = {column for column in found if holds(left.get(column))}
    return row._replace(value=left | found, unread=row.unread | beside)


def looked_up(value: Any, steps: list[str]) -> Any:
    """Return what stands somewhere in an object, by keys and places of lists; MISSING if nothing does."""
    for step in steps:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return MISSING
    return value


def without(value: Any, steps: list[str]) -> Any:
    """Return an object without what stands somewhere in it, and without what is empty then; its own is not altered."""
    step, *rest = steps
    if isinstance(value, dict) and step in value:
        inner = without(value[step], rest) if rest else None
        others = {key: each for key, each in value.items() if key != step}
        return others | ({step: inner} if holds(inner) else {})
    if isinstance(value, list) and step.isdecimal():
        inner = without(value[int(step)], rest) if rest and int(step) < len(value) else None
        before, after = value[: int(step)], value[int(step) + 1 :]
        return [*before, *([inner] if holds(inner) else []), *after]
    return value


def split_row(row: RawRow, settings: Settings, draws: random.Random) -> tuple[list[RawRow], dict[str, int]]:
    """Return a raw row's conversations as rows of their own, and how much was left out for what.

    Of most schemas a row is its own only part.
    """
    cut_apart = SCHEMAS[settings["schema"]].parts
    if row.fault or not isinstance(row.value, dict) or cut_apart is None:
        return [row], {}
    fields = Fields(row.value)
    try:
        parts = cut_apart(fields, settings, draws)
    except Unfit as unfit:
        return [row._replace(fault=unfit.fault)], {}
    if not parts.rows:
        return [row._replace(fault=Fault("no conversation in the row"))], parts.left_out
    if parts.rows[0] is row.value:
        return [row], {}
    return [
        row._replace(value=part, unread=fields.unread | row.unread) for part in parts.rows
    ], parts.left_out


def open_row(row: RawRow, settings: Settings) -> tuple[Opened, Fault | None]:
    """Return what a row holds, and what is wrong with the row as a whole.

    A ranked row's prompt comes as messages; the turns of others are read one by one in `read_turns`, as they may be
    cut.
    """
    if row.fault:
        return Opened([]), row.fault
    if not isinstance(row.value, dict):
        return Opened([]), Fault("row is not an object", type(row.value).__name__)
    fields = Fields(row.value)
    turns: list[Any] = []
    try:
        opened = SCHEMAS[settings["schema"]].read(fields, settings)
        turns = [joined(turn, opened.style) for turn in opened.turns]
        in_front, rest, missed = split_system(turns, opened.style, settings["max_chars"])
        system = same_system(system_text(opened.system, settings["max_chars"]), in_front)
        opened = opened._replace(turns=rest, system=system, meta=plain(opened.meta or {}))
        if opened.candidates is not None:
            said = [read_said(turn, opened.style, fields) for turn in rest]
            opened = opened._replace(turns=said, style="messages")
        elif label_of(fields) is False:
            raise Unfit("labelled as a bad answer", "the schema labelled reads good and bad ones")
        return opened._replace(unread=fields.unread | missed | row.unread), None
    except Unfit as unfit:
        return Opened(turns), unfit.fault
