"""What one raw row of a schema becomes, or why it becomes nothing."""

import random

from tests.cleaning import cleaning
from workflow_scripts.clean.reading import RawRow
from workflow_scripts.clean.rows import open_row, split_row
from workflow_scripts.clean.turns import check_ranked, read_turns


def settings_of(schema, **rules):
    return cleaning(schema=schema, **rules)


def open_all(schema, row, **rules):
    """Return what each conversation of one raw row holds, and its fault."""
    settings = settings_of(schema, **rules)
    parts, _ = split_row(RawRow(0, None, row, None), settings, random.Random(1))
    return [open_row(part, settings) for part in parts]


def said(schema, row, **rules):
    """Return the (role, text) pairs of each conversation of one raw row."""
    found = []
    for opened, fault in open_all(schema, row, **rules):
        assert fault is None
        read = read_turns(opened.turns, opened.style, settings_of(schema))
        assert read.fault is None
        found.append([(message["role"], message["content"]) for message in read.messages])
    return found


def fault_of(schema, row, **rules):
    ((_, fault),) = open_all(schema, row, **rules)
    return fault.reason


def ranked(schema, row, **rules):
    ((opened, fault),) = open_all(schema, row, **rules)
    assert fault is None
    assert check_ranked(opened.system, opened.turns, opened.candidates, settings_of(schema)) is None
    return opened
