"""Clean raw dialogues into canonical conversations, split by problem, with every loss counted.

The rules are those of Tutorbot-Spock's pre-processing (Sonkar et al., EMNLP 2024 Findings), each a setting:
new system prompt, private thoughts dropped, "N/A" labels replaced, cut at the first unusable turn, quotas per
file and split. Those of the other sources are settings too: refused phrases, longest message, web addresses, subsets,
splits in file order or by file. Added: splits are disjoint by group, duplicates go, and kept + rejected = read is
asserted for rows and turns.

Where things are: `reading` takes rows from files, `fields` takes fields from rows, `schemas` has a reader for each way
in which rows are written, `rows` reads a row with it, `turns` checks and cleans its messages, `wording` judges their
words and `lengths` its tokens, `sampling` and `selecting` choose and split, and `ledger` keeps the account.

A conversation is kept whole, or cut where it becomes unusable, or rejected. A turn with `weight` 0 (or `train`,
`training` or `loss` false) stays as context, marked "learn": false. A row in which a tool is called is rejected, as no
objective here knows tools. What a row holds beside, and no schema reads, is counted as a note.
"""

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.clean.fields import ID_KEYS
from workflow_scripts.clean.instructions import reworded
from workflow_scripts.clean.ledger import Ledger, count_reasons, tell, tell_short
from workflow_scripts.clean.lengths import check_length, recent
from workflow_scripts.clean.near_duplicates import with_splits, without_near_duplicates
from workflow_scripts.clean.raw_pairs import clean_raw_pair
from workflow_scripts.clean.reading import Fault, RawRow
from workflow_scripts.clean.rows import open_row, renamed, split_row
from workflow_scripts.clean.sampling import read_sample
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.clean.schemas.row import Opened
from workflow_scripts.clean.selecting import (
    drop_held_out,
    drop_repeats,
    labels_of,
    place_files,
    split_conversations,
    take_subset,
)
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.tested import fault_of_answer, fault_of_tests
from workflow_scripts.clean.texts import clean_text
from workflow_scripts.clean.turns import (
    PAIRED_ACTIONS,
    TOOLS,
    actions_of,
    check_ranked,
    check_text,
    count_before_user,
    group_of,
    mark_input,
    read_turns,
    split_question,
)
from workflow_scripts.clean.wording import check_wording, collapse_whitespace, replace_urls
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, finished_folder, read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.settings import settings_of

ID_CHARS = 100
REPLACED = "system message replaced by system_prompt"
EMPTY_KEPT = "empty replies kept, which teach the end token alone"


def clean_conversation(
    opened: Opened, fault: Fault | None, place: dict[str, Any], settings: Settings, ledger: Ledger
) -> dict[str, Any] | None:
    """Return a kept conversation with its place and turn count, or None after recording the reason."""
    turns = opened.turns
    ledger.turns_read[place["file"]] += len(turns)
    if fault:
        ledger.reject(place, "row", fault, len(turns))
        return None
    if settings["skip_to_user"] and (before := count_before_user(turns, opened.style)):
        ledger.reject(place, "turn", Fault("before the user's first turn"), before)
        turns = turns[before:]

    read = read_turns(turns, opened.style, settings)
    messages = read.messages
    untested = fault_of_tests(opened.meta or {}, messages, read.fault)
    if read.fault or untested:
        if untested or not settings["truncate_at_unparsable"] or read.fault.reason == TOOLS:
            ledger.reject(place, "row", untested or read.fault, len(turns))
            return None
        ledger.reject(place, "turn", read.fault, len(turns) - len(messages))
    if messages and messages[-1]["role"] == "user":
        messages = messages[:-1]
        ledger.reject(place, "turn", Fault("conversation ends on the student"), 1)
    if len(messages) < settings["min_messages"] or not messages:
        least = max(settings["min_messages"], 2)
        ledger.reject(place, "row", Fault(f"fewer than {least} messages", str(len(messages))), len(messages))
        return None
    if not any(message.get("learn", True) for message in messages[1::2]):
        ledger.reject(place, "row", Fault("no turn to learn from"), len(messages))
        return None

    if opened.style == "tutorbot":
        question, marked = split_question(messages[0]["content"])
        if not question.strip():
            ledger.reject(place, "row", Fault("no question behind the instructions"), len(messages))
            return None
        ledger.notes["first message without the marker 'Student:'"] += not marked
        messages = [messages[0] | {"content": question}, *messages[1:]]
    system = settings["system_prompt"] or opened.system
    ledger.notes[REPLACED] += bool(opened.system) and system != opened.system
    # A system prompt of ours is no reason to refuse a row.
    own = [opened.system] if system == opened.system and system else []
    if fault := check_wording([*own, *(message["content"] for message in messages)], settings):
        ledger.reject(place, "row", fault, len(messages))
        return None
    kept_notes = read.notes + Counter(opened.notes)
    silent = sum(message["content"].strip() == "" and message.get("learn", True) for message in messages)
    ledger.notes.update(kept_notes + Counter({EMPTY_KEPT: silent}))
    return {
        "place": place,
        "turns": len(messages),
        "question": opened.asked or messages[0]["content"],
        "messages": [{"role": "system", "content": system}, *messages] if system else messages,
        "extra": opened.meta or {},
        "unread": opened.unread | read.unread,
    }


def clean_ranked(
    opened: Opened, fault: Fault | None, place: dict[str, Any], settings: Settings, ledger: Ledger
) -> dict[str, Any] | None:
    """Return a kept prompt with its candidates, or None after recording the reason; any fault rejects the whole row.

    What the row says itself (the knowledge to talk about) stays behind the system prompt of the settings.
    """
    messages, candidates = opened.turns, opened.candidates or []
    turns = len(messages) + len(candidates)
    ledger.turns_read[place["file"]] += turns
    fault = fault or check_ranked(opened.system, messages, candidates, settings)
    if not fault and (limits := settings["token_limits"]):
        messages = recent(messages, limits)
        replies = [candidate["content"] for candidate in candidates]
        fault = check_length(opened.system, messages, replies, limits)
    if not fault:
        cut = len(opened.turns) - len(messages)  # before the system message comes to them
        system = "\n\n".join(text for text in (settings["system_prompt"], opened.system) if text)
        asked = [message["content"] for message in messages]
        messages = [{"role": "system", "content": system}, *messages] if system else messages
        replies = [candidate["content"] for candidate in candidates]
        gold = replies[0] if candidates[0].get("rank", 0) == 0 else ""
        fault = check_wording([*asked, opened.system or "", *replies], settings)
        fault = fault or fault_of_answer(opened.meta or {}, gold)
    if fault:
        ledger.reject(place, "row", fault, turns)
        return None
    if cut:
        ledger.reject(place, "turn", Fault("history longer than it may be"), cut)
    ledger.notes.update(opened.notes)
    return {
        "place": place,
        "turns": turns - cut,
        # Prompts that go on from one opening are different questions about one problem.
        "question": "\n".join(asked) if settings["group_by"] == "question" else asked[0],
        "messages": messages,
        "candidates": candidates,
        "extra": opened.meta or {},
        "unread": opened.unread,
    }


def clean_pair(
    opened: Opened, fault: Fault | None, place: dict[str, Any], settings: Settings, ledger: Ledger
) -> dict[str, Any] | None:
    """Return a kept perplexity pair, or None after recording the reason; any fault rejects the whole row."""
    turns = opened.turns
    ledger.turns_read[place["file"]] += len(turns)
    if not fault and len(turns) < 3:
        fault = Fault("fewer than 3 messages", str(len(turns)))
    if fault:
        ledger.reject(place, "row", fault, len(turns))
        return None
    context = read_turns(turns[:-2], "tutorbot", settings)
    # Each of the two is read as the turn that follows the context, so that the same checks hold for both.
    replies = [read_turns([*turns[:-2], last], "tutorbot", settings) for last in turns[-2:]]
    fault = context.fault or replies[0].fault or replies[1].fault
    if not fault and context.messages[-1]["role"] != "user":
        fault = Fault("last two messages are not both the tutor's")
    if not fault and not split_question(context.messages[0]["content"])[0].strip():
        fault = Fault("no question behind the instructions")
    if fault:
        ledger.reject(place, "row", fault, len(turns))
        return None
    original, altered = replies[0].messages[-1]["content"], replies[1].messages[-1]["content"]
    actions = actions_of(original, altered)
    if actions not in PAIRED_ACTIONS:
        fault = Fault("actions are not 1 and 2 or 4 and 5", " and ".join(actions))
        ledger.reject(place, "row", fault, len(turns))
        return None
    texts = [*(message["content"] for message in context.messages), original, altered]
    if fault := check_wording(texts, settings):
        ledger.reject(place, "row", fault, len(turns))
        return None
    messages = context.messages
    question, marked = split_question(messages[0]["content"])
    ledger.notes.update(context.notes)
    ledger.notes["first message without the marker 'Student:'"] += not marked
    system = settings["system_prompt"] or opened.system
    ledger.notes[REPLACED] += bool(opened.system) and system != opened.system
    if settings["system_prompt"]:
        messages = [messages[0] | {"content": question}, *messages[1:]]
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    return {
        "place": place,
        "turns": len(turns),
        "question": question,
        "messages": messages,
        "original": original,
        "altered": altered,
        "extra": {"original_action": actions[0], "altered_action": actions[1]},
        "unread": opened.unread.union(context.unread, *(reply.unread for reply in replies)),
    }


CLEANERS = {
    "conversation": clean_conversation,
    "ranked": clean_ranked,
    "text": clean_text,
    "pair": clean_pair,
    "raw_pair": clean_raw_pair,
}


def _open(
    row: RawRow, settings: Settings, ledger: Ledger, draws: random.Random
) -> tuple[Opened, Fault | None]:
    opened, fault = open_row(row, settings)
    if not fault:
        opened = reworded(opened, settings, draws)
    if settings["collapse_whitespace"]:
        opened = collapse_whitespace(opened)
    if settings["url_token"] is not None:
        opened, count = replace_urls(opened, settings["url_token"])
        ledger.notes["web addresses replaced"] += count
    return opened, fault


def name_row(row: RawRow, number: int, taken: set[str], first_id: int | None = None) -> str:
    """Return a unique id "<file number>:<the row's own id>"; a row without one is named by its place.

    So it is "row_<place>", or where its schema has a `first_id` "identity_<first_id + place>".
    """
    value = row.value if isinstance(row.value, dict) else {}
    own = next((value[key] for key in ID_KEYS if key in value), None)
    if isinstance(own, int) and not isinstance(own, bool) and abs(own) < 10**ID_CHARS:
        own = str(own)
    if check_text(own, ID_CHARS):
        own = f"row_{row.index}" if first_id is None else f"identity_{first_id + row.index}"
    name = f"{number}:{own}"
    if name in taken:
        name = f"{name}~{row.index}"
    while name in taken:
        name += "~"
    taken.add(name)
    return name


def read_all(inputs: Sequence[str], settings: Settings, ledger: Ledger) -> list[dict[str, Any]]:
    """Return the clean conversations (or pairs, or ranked rows) of all files in order, each with its id and group.

    A row of several conversations counts as so many rows; they share its name, as "<id>/<n>", and so its group where
    the conversation is the group.
    """
    schema = SCHEMAS[settings["schema"]]
    clean = CLEANERS[schema.kind]
    labels = labels_of(inputs)  # two folders may hold files of one name; the counts must not run together
    taken: set[str] = set()
    prompts: dict[str, str] = {}
    columns = {column for wanted in settings["split"]["by_column"].values() for column in wanted}
    draws = random.Random(settings["seed"])
    kept = []
    for number, path in enumerate(inputs, 1):
        file = labels[str(path)]
        for raw in read_sample(path, settings, ledger):
            row = renamed(raw, settings["renames"])
            parts, left_out = split_row(row, settings, draws)
            ledger.notes.update(left_out)
            ledger.rows_read[file] += len(parts)
            several = parts[0].value is not row.value
            ledger.notes["rows that hold several conversations"] += several
            found = []
            for part_number, part in enumerate(parts):
                place = {"file": file, "index": row.index, "line": row.line}
                if several:
                    place["part"] = part_number
                opened, fault = _open(part, settings, ledger, draws)
                if conversation := clean(opened, fault, place, settings, ledger):
                    conversation["columns"] = {column: raw.value.get(column) for column in columns}
                    found.append(conversation)
            if found:
                name = name_row(row, number, taken, schema.first_id)
            for conversation in found:
                conversation["id"] = f"{name}/{conversation['place']['part']}" if several else name
                first = name
                if schema.rows_share_prompts:
                    # The answers to one prompt are so many rows; whoever makes pairs of them wants them together.
                    first = prompts.setdefault(digest(conversation["messages"]), name)
                    conversation["extra"]["prompt"] = first
                conversation["group"] = group_of(conversation["question"], first, settings["group_by"])
            unread = {key for conversation in found for key in conversation["unread"]}
            ledger.unread.update(unread - columns)
            kept += found
    return kept


def finished_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a kept conversation, pair or ranked row in its published form."""
    parts = {key: row[key] for key in ("original", "altered", "candidates") if key in row}
    place = {"file": row["place"]["file"], "index": row["place"]["index"]}
    meta = (
        place | row["extra"] | place
    )  # what the source says of a row may use these names, but they are ours
    messages = mark_input(row["messages"], meta)
    return {"id": row["id"], "group": row["group"], "messages": messages, **parts, "meta": meta}


def size_of(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how many conversations, groups and turns a split has."""
    groups = {row["group"] for row in rows}
    return {"conversations": len(rows), "groups": len(groups), "turns": sum(row["turns"] for row in rows)}


def clean_files(inputs: Sequence[str], settings: Settings, output: str, manifest: str) -> None:
    """Clean raw files into `<output>/<split>.jsonl` (or pairs.jsonl), rejected.jsonl and the manifest.

    PlumblineError if a file cannot be read at all, if nothing is left, or if a split stays empty.
    """
    if settings["schema"] not in SCHEMAS:
        raise PlumblineError(f"schema: {settings['schema']!r} is not one of {', '.join(SCHEMAS)}")
    ledger = Ledger()
    inputs, by_file = place_files(inputs, settings["split"])
    kind = SCHEMAS[settings["schema"]].kind
    conversations = read_all(inputs, settings, ledger)
    if kind != "raw_pair":
        conversations = drop_repeats(conversations, settings["duplicates"], ledger)
    held_out = {
        row["group"] for path in settings["exclude_groups_of"] for row in read_jsonl(os.path.expandvars(path))
    }
    conversations = drop_held_out(conversations, held_out, ledger)
    if not conversations:
        reasons = Counter(entry["reason"] for entry in ledger.rejected).most_common(3)
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons)
        raise PlumblineError(
            f"nothing is left of {', '.join(map(str, inputs))}: {told}. Check that schema "
            f"'{settings['schema']}' is what the files hold"
        )
    near = settings["near_duplicates"]
    if near:
        conversations, pairs, compared = without_near_duplicates(conversations, near, ledger)
    conversations = take_subset(conversations, settings["subset"], ledger)
    if kind in ("pair", "raw_pair"):
        splits = {"pairs": conversations}
    else:
        splits = split_conversations(conversations, settings["split"] | {"by_file": by_file}, ledger)
    ledgers = {"near_duplicates": with_splits(pairs, splits, ledger)} if near else {}
    ledgers["rejected"] = ledger.rejected
    counts = ledger.balance([row for rows in splits.values() for row in rows])
    rejected, notes = count_reasons(ledger.rejected), ledger.told_notes()

    with finished_folder(output) as folder:
        for split, rows in splits.items():
            write_jsonl(folder / f"{split}.jsonl", map(finished_row, rows))
        for name, entries in ledgers.items():
            write_jsonl(folder / f"{name}.jsonl", entries)
    write_manifest(
        manifest,
        [Path(output) / f"{name}.jsonl" for name in [*splits, *ledgers]],
        **({"near_duplicates": compared} if near else {}),
        counts=counts,
        splits={split: size_of(rows) for split, rows in splits.items()},
        rejected=rejected,
        notes=notes,
        short_of_quotas=ledger.short,
    )
    for line in [*tell(counts, rejected, notes), *tell_short(ledger.short)]:
        print(line, file=sys.stderr)


def read_arguments(description: str, kind: Any) -> argparse.Namespace:
    """Return the flags of a command that cleans; `kind` is the TypedDict of its settings."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--inputs",
        nargs="+",
        required=True,
        help="raw files: JSON arrays, JSON Lines, or tables (csv, tsv, Parquet)",
    )
    parser.add_argument(
        "--settings", required=True, type=settings_of(kind), help="the cleaning rules of the study, as JSON"
    )
    parser.add_argument("--output", required=True, help="folder for the splits and rejected.jsonl")
    parser.add_argument("--manifest", required=True)
    return parser.parse_args()


def main() -> None:
    """Read the flags and clean the files they name."""
    arguments = read_arguments(__doc__, Settings)
    clean_files(arguments.inputs, arguments.settings, arguments.output, arguments.manifest)


if __name__ == "__main__":
    run(main)
