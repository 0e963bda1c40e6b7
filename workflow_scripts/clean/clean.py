"""Clean raw dialogues into canonical conversations, split by problem, with every loss counted.

The rules are those of Tutorbot-Spock's pre-processing (Sonkar et al., EMNLP 2024 Findings), each a setting:
new system prompt, private thoughts dropped, "N/A" labels replaced, cut at the first unusable turn, quotas per
file and split. Added: splits are disjoint by group, duplicates go, and kept + rejected = read is asserted for
rows and turns.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.clean.reading import Fault, RawRow, read_rows
from workflow_scripts.clean.schemas import (
    PAIRED_ACTIONS,
    actions_of,
    alpaca_turns,
    check_text,
    group_of,
    read_turns,
    split_question,
)
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import digest, finished_folder, read_jsonl, write_jsonl, write_manifest

DEFAULTS: dict[str, Any] = {
    "schema": "tutorbot",
    # None: tutoring rows lose their instructions, pairs keep theirs, chat rows keep their own system message.
    "system_prompt": None,
    "drop_fields": [],
    "replace_na": {},
    "truncate_at_unparsable": True,  # False: one unusable turn rejects the conversation
    "min_messages": 2,  # without the system message
    "reply_format": "json",
    "group_by": "problem",
    "split": {"seed": 42, "quotas": {"train": 1_000_000}, "per_file": False},
    "exclude_groups_of": [],  # JSON Lines of ours whose groups must not appear here
    "max_chars": 200_000,
}

DETAIL_CHARS = 200
ID_CHARS = 100


class Ledger:
    """What was read and what was rejected, so that nothing is lost in silence."""

    def __init__(self) -> None:
        self.rejected: list[dict[str, Any]] = []
        self.rows_read: Counter[str] = Counter()
        self.turns_read: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def reject(self, place: dict[str, Any], level: str, fault: Fault, turns: int) -> None:
        """Record a rejected row, or the turns a conversation was cut by, with how many turns went with it."""
        detail = fault.detail.encode("utf-8", "backslashreplace").decode()[:DETAIL_CHARS]
        found = {"level": level, "reason": fault.reason, "detail": detail, "turns": turns}
        self.rejected.append({**place, **found})

    def balance(self, kept: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the counts per file, asserting that kept + rejected = read for rows and for turns."""
        counts: dict[str, Any] = {}
        for file in self.rows_read:
            lost = [entry for entry in self.rejected if entry["file"] == file]
            own = [row for row in kept if row["place"]["file"] == file]
            rows = {"read": self.rows_read[file], "kept": len(own)}
            rows["rejected"] = sum(entry["level"] == "row" for entry in lost)
            turns = {"read": self.turns_read[file], "kept": sum(row["turns"] for row in own)}
            turns["rejected"] = sum(entry["turns"] for entry in lost)
            for unit, count in (("rows", rows), ("turns", turns)):
                if count["kept"] + count["rejected"] != count["read"]:
                    raise AssertionError(f"{file}: {unit} do not add up, {count}: a bug in the cleaner")
            counts[file] = {"rows": rows, "turns": turns}
        return counts


def clean_conversation(
    row: RawRow, place: dict[str, Any], settings: dict[str, Any], ledger: Ledger
) -> dict[str, Any] | None:
    """Return a kept conversation with its place and turn count, or None after recording the reason."""
    turns, system, fault = _open_row(row, settings)
    ledger.turns_read[place["file"]] += len(turns)
    if fault:
        ledger.reject(place, "row", fault, len(turns))
        return None

    schema = "tutorbot" if settings["schema"] == "tutorbot" else "messages"
    read = read_turns(turns, schema, settings)
    messages = read.messages
    if read.fault:
        if not settings["truncate_at_unparsable"]:
            ledger.reject(place, "row", read.fault, len(turns))
            return None
        ledger.reject(place, "turn", read.fault, len(turns) - len(messages))
    if messages and messages[-1]["role"] == "user":
        messages = messages[:-1]
        ledger.reject(place, "turn", Fault("conversation ends on the student"), 1)
    if len(messages) < settings["min_messages"] or not messages:
        least = max(settings["min_messages"], 2)
        ledger.reject(place, "row", Fault(f"fewer than {least} messages", str(len(messages))), len(messages))
        return None

    if schema == "tutorbot":
        question, marked = split_question(messages[0]["content"])
        if not question.strip():
            ledger.reject(place, "row", Fault("no question behind the instructions"), len(messages))
            return None
        ledger.notes["first message without the marker 'Student:'"] += not marked
        messages = [{"role": "user", "content": question}, *messages[1:]]
    system = settings["system_prompt"] or system
    ledger.notes.update(read.notes)
    return {
        "place": place,
        "turns": len(messages),
        "question": messages[0]["content"],
        "messages": [{"role": "system", "content": system}, *messages] if system else messages,
        "extra": _alpaca_fields(row.value) if settings["schema"] == "alpaca" else {},
    }


def _open_row(row: RawRow, settings: dict[str, Any]) -> tuple[list, str | None, Fault | None]:
    """Return a row's turns, its own system message, and what is wrong with the row as a whole."""
    if row.fault:
        return [], None, row.fault
    if not isinstance(row.value, dict):
        return [], None, Fault("row is not an object", type(row.value).__name__)
    if settings["schema"] == "alpaca":
        turns, fault = alpaca_turns(row.value)
        return turns, None, fault
    key = "messages" if settings["schema"] == "messages" else "conversations"
    if key not in row.value:
        return [], None, Fault(f"missing field '{key}'")
    turns = row.value[key]
    if not isinstance(turns, list):
        return [], None, Fault(f"'{key}' is not a list", type(turns).__name__)
    if key == "messages" and turns and isinstance(turns[0], dict) and turns[0].get("role") == "system":
        fault = check_text(turns[0].get("content"), settings["max_chars"])
        return turns[1:], turns[0].get("content"), fault
    return turns, None, None


def _alpaca_fields(row: dict[str, Any]) -> dict[str, str]:
    # The Alpaca template sets instruction and input apart, which the joined message no longer shows.
    return {"instruction": row["instruction"], "input": row.get("input") or ""}


def clean_pair(
    row: RawRow, place: dict[str, Any], settings: dict[str, Any], ledger: Ledger
) -> dict[str, Any] | None:
    """Return a kept perplexity pair, or None after recording the reason; any fault rejects the whole row."""
    turns, _, fault = _open_row(row, settings)
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
    original, altered = (reply.messages[-1]["content"] for reply in replies)
    actions = actions_of(original, altered)
    if actions not in PAIRED_ACTIONS:
        fault = Fault("actions are not 1 and 2 or 4 and 5", " and ".join(actions))
        ledger.reject(place, "row", fault, len(turns))
        return None
    messages = context.messages
    question, marked = split_question(messages[0]["content"])
    ledger.notes.update(context.notes)
    ledger.notes["first message without the marker 'Student:'"] += not marked
    if settings["system_prompt"]:
        first = {"role": "user", "content": question}
        messages = [{"role": "system", "content": settings["system_prompt"]}, first, *messages[1:]]
    return {
        "place": place,
        "turns": len(turns),
        "question": question,
        "messages": messages,
        "original": original,
        "altered": altered,
        "extra": {"original_action": actions[0], "altered_action": actions[1]},
    }


def name_row(row: RawRow, number: int, taken: set[str]) -> str:
    """Return a unique id "<file number>:<the row's own id>"; a row without one is named by its place."""
    own = row.value.get("id") if isinstance(row.value, dict) else None
    if isinstance(own, int) and not isinstance(own, bool) and abs(own) < 10**ID_CHARS:
        own = str(own)
    if check_text(own, ID_CHARS):
        own = f"row_{row.index}"
    name = f"{number}:{own}"
    if name in taken:
        name = f"{name}~{row.index}"
    while name in taken:
        name += "~"
    taken.add(name)
    return name


def read_all(inputs: Sequence[str], settings: dict[str, Any], ledger: Ledger) -> list[dict[str, Any]]:
    """Return the clean conversations (or pairs) of all files in order, each with its id and its group."""
    clean = clean_pair if settings["schema"] == "tutorbot_pairs" else clean_conversation
    names = [Path(path).name for path in inputs]
    taken: set[str] = set()
    kept = []
    for number, path in enumerate(inputs, 1):
        # Two folders may hold files of one name; the counts must not run together.
        file = names[number - 1] if names.count(names[number - 1]) == 1 else str(path)
        rows = read_rows(path, settings["max_chars"])
        ledger.rows_read[file] += len(rows)
        for row in rows:
            place = {"file": file, "index": row.index, "line": row.line}
            conversation = clean(row, place, settings, ledger)
            if conversation:
                conversation["id"] = name_row(row, number, taken)
                conversation["group"] = group_of(
                    conversation["question"], conversation["id"], settings["group_by"]
                )
                kept.append(conversation)
    return kept


def drop_repeats(conversations: Iterable[dict[str, Any]], ledger: Ledger) -> list[dict[str, Any]]:
    """Return conversations without those that say exactly what an earlier one said."""
    first: dict[str, str] = {}
    kept = []
    for conversation in conversations:
        said = [conversation["messages"], conversation.get("original"), conversation.get("altered")]
        key = digest(said)
        if key in first:
            ledger.reject(
                conversation["place"], "row", Fault("duplicate", f"of {first[key]}"), conversation["turns"]
            )
        else:
            first[key] = conversation["id"]
            kept.append(conversation)
    return kept


def drop_held_out(
    conversations: Iterable[dict[str, Any]], held_out: set[str], ledger: Ledger
) -> list[dict[str, Any]]:
    """Return conversations whose group is not held out for another dataset."""
    kept = []
    for conversation in conversations:
        if conversation["group"] in held_out:
            fault = Fault("group held out for another dataset", conversation["group"])
            ledger.reject(conversation["place"], "row", fault, conversation["turns"])
        else:
            kept.append(conversation)
    return kept


def apportion(total: int, quotas: dict[str, int]) -> dict[str, int]:
    """Return `total` shared out in proportion to the quotas, by largest remainder, ties to the earlier."""
    whole = sum(quotas.values())
    shares = {name: total * quota // whole for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: -(total * quotas[name] % whole))
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def deal_groups(groups: Iterable[str], quotas: dict[str, int], seed: int) -> dict[str, str]:
    """Return {group: split}: groups shuffled by seed and dealt in proportion to the quotas."""
    order = sorted(set(groups))
    random.Random(seed).shuffle(order)
    dealt: dict[str, str] = {}
    for split, share in apportion(len(order), quotas).items():
        dealt |= {group: split for group in order[len(dealt) : len(dealt) + share]}
    return dealt


def split_conversations(
    conversations: Sequence[dict[str, Any]], rule: dict[str, Any], ledger: Ledger
) -> dict[str, list[dict[str, Any]]]:
    """Return {split: conversations}, disjoint by group, each within its quota (per file, if so ruled)."""
    quotas = rule["quotas"]
    if not any(quotas.values()):
        raise PlumblineError("every quota is 0: give split.quotas at least one positive number")
    split_of = deal_groups((row["group"] for row in conversations), quotas, rule["seed"])
    order = list(conversations)
    random.Random(rule["seed"]).shuffle(order)
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in quotas}
    used: Counter[tuple[str, str]] = Counter()
    for row in order:
        split = split_of[row["group"]]
        share = (split, row["place"]["file"] if rule["per_file"] else "")
        if used[share] < quotas[split]:
            used[share] += 1
            splits[split].append(row)
        else:
            ledger.reject(row["place"], "row", Fault("over quota", split), row["turns"])
    for split, rows in splits.items():
        if quotas[split] and not rows:
            raise PlumblineError(
                f"split '{split}' got no conversation: {len(set(split_of))} groups cannot be dealt to "
                f"{', '.join(f'{name}: {quota}' for name, quota in quotas.items())}; "
                "give more data, or ask for fewer splits"
            )
    return splits


def finished_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a kept conversation or pair in its published form."""
    pair = {"original": row["original"], "altered": row["altered"]} if "original" in row else {}
    meta = {"file": row["place"]["file"], "index": row["place"]["index"], **row["extra"]}
    return {"id": row["id"], "group": row["group"], "messages": row["messages"], **pair, "meta": meta}


def count_reasons(rejected: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many rows and how many turns each reason cost."""
    reasons: dict[str, dict[str, int]] = {}
    for entry in rejected:
        count = reasons.setdefault(f"{entry['level']}: {entry['reason']}", {"entries": 0, "turns": 0})
        count["entries"] += 1
        count["turns"] += entry["turns"]
    return reasons


def clean_files(inputs: Sequence[str], settings: dict[str, Any], output: str, manifest: str) -> None:
    """Clean raw files into `<output>/<split>.jsonl` (or pairs.jsonl), rejected.jsonl and the manifest.

    PlumblineError if a file cannot be read at all, if nothing is left, or if a split stays empty.
    """
    ledger = Ledger()
    conversations = drop_repeats(read_all(inputs, settings, ledger), ledger)
    held_out = {row["group"] for path in settings["exclude_groups_of"] for row in read_jsonl(path)}
    conversations = drop_held_out(conversations, held_out, ledger)
    if not conversations:
        reasons = Counter(entry["reason"] for entry in ledger.rejected).most_common(3)
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons)
        raise PlumblineError(
            f"nothing is left of {', '.join(map(str, inputs))}: {told}. Check that schema "
            f"'{settings['schema']}' is what the files hold"
        )
    if settings["schema"] == "tutorbot_pairs":
        splits = {"pairs": conversations}
    else:
        splits = split_conversations(conversations, settings["split"], ledger)
    counts = ledger.balance([row for rows in splits.values() for row in rows])

    with finished_folder(output) as folder:
        for split, rows in splits.items():
            write_jsonl(folder / f"{split}.jsonl", map(finished_row, rows))
        write_jsonl(folder / "rejected.jsonl", ledger.rejected)
    write_manifest(
        manifest,
        [Path(output) / f"{name}.jsonl" for name in [*splits, "rejected"]],
        counts=counts,
        splits={
            split: {
                "conversations": len(rows),
                "groups": len({row["group"] for row in rows}),
                "turns": sum(row["turns"] for row in rows),
            }
            for split, rows in splits.items()
        },
        rejected=count_reasons(ledger.rejected),
        notes={note: count for note, count in ledger.notes.items() if count},
    )


def main() -> None:
    """Read the flags and clean the files they name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", nargs="+", required=True, help="raw files: JSON arrays or JSON Lines")
    parser.add_argument("--settings", required=True, help="the dataset's cleaning rules, as JSON")
    parser.add_argument("--output", required=True, help="folder for the splits and rejected.jsonl")
    parser.add_argument("--manifest", required=True)
    arguments = parser.parse_args()
    settings = DEFAULTS | json.loads(arguments.settings)
    clean_files(arguments.inputs, settings, arguments.output, arguments.manifest)


if __name__ == "__main__":
    run(main)
