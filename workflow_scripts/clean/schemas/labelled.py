"""The schema of labelled answers: a conversation, and whether its reply is good."""

from workflow_scripts.clean.fields import Fields, Unfit, holds, shown
from workflow_scripts.clean.reading import LABELS
from workflow_scripts.clean.schemas.conversations import alpaca, messages, prompt_completion, sharegpt
from workflow_scripts.clean.schemas.row import Opened, Schema, joined, read_said
from workflow_scripts.clean.settings import Settings


def labelled(row: Fields, settings: Settings) -> Opened:
    """Read a row of prompt and completion, messages, conversations or Alpaca's columns, and whether its reply is good.

    That is true or false under `label` or `kto_tag` (Ethayarajh et al. 2024). It becomes the reward "label", 1 or 0,
    and the candidate's rank, 0 or 1: answers of several rows to one prompt are ranked together when pairs are made.
    """
    label = label_of(row)
    if label is None:
        given = [row.value[key] for key in LABELS if holds(row.value.get(key))]
        if given:
            raise Unfit("label is neither true nor false", shown(given[0]))
        raise Unfit("no label", f"true or false under {' or '.join(LABELS)}")
    shapes = {
        "completion": prompt_completion,
        "messages": messages,
        "conversations": sharegpt,
        "instruction": alpaca,
    }
    opened = shapes[row.which(*shapes) or "instruction"](row, settings)
    if not opened.turns:
        raise Unfit("no reply")
    reply = read_said(joined(opened.turns[-1], opened.style), opened.style, row, learned=True)
    if reply["role"] != "assistant":
        raise Unfit("no reply", "the last turn is not the assistant's")
    good = {"content": reply["content"], "rewards": {"label": float(label)}, "rank": int(not label)}
    return opened._replace(turns=opened.turns[:-1], candidates=[good])


def label_of(row: Fields) -> bool | None:
    """Return what a row says of its answer, true or false; None if it has no such label; Unfit if it says both."""
    labels = [value for key in LABELS if isinstance(value := row.value.get(key), bool)]
    if len(set(labels)) > 1:
        raise Unfit("two labels", "unlike")
    if labels:
        row.asked.update(LABELS)
    return labels[0] if labels else None


SCHEMAS = {"labelled": Schema(labelled, "ranked", rows_share_prompts=True)}
