"""One raw row as its schema reads it, and what holds for the rows of all schemas.

That is the system message in front, calls of tools, labels that say an answer is bad, and which keys nobody read.
"""

import random
from typing import Any

from workflow_scripts.clean.fields import Fields, Unfit
from workflow_scripts.clean.reading import Fault, RawRow
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.clean.schemas.labelled import label_of
from workflow_scripts.clean.schemas.row import Opened, joined, plain, read_said, same_system
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.turns import split_system, system_text


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
    return [row._replace(value=part, unread=fields.unread) for part in parts.rows], parts.left_out


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
