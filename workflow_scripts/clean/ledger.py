"""The account of what was read, kept and rejected, which must add up."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from workflow_scripts.clean.reading import Fault

DETAIL_CHARS = 200
KEYS_NAMED = 40  # a source may give every row keys of its own


UNREAD = "key not read: "


class Ledger:
    """What was read and what was rejected, so that nothing is lost in silence."""

    def __init__(self) -> None:
        self.rejected: list[dict[str, Any]] = []
        self.rows_read: Counter[str] = Counter()
        self.turns_read: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()  # key nobody read: in how many rows that are kept so far
        self.short: dict[str, dict[str, int]] = {}  # split: file ("" for all): how many it had room for

    def reject(self, place: dict[str, Any], level: str, fault: Fault, turns: int) -> None:
        """Record a rejected row, or the turns a conversation was cut by, with how many turns went with it."""
        detail = fault.detail.encode("utf-8", "backslashreplace").decode()[:DETAIL_CHARS]
        found = {"level": level, "reason": fault.reason, "detail": detail, "turns": turns}
        self.rejected.append({**place, **found})

    def told_notes(self) -> dict[str, int]:
        """Return all notes by how many turns, rows or addresses they tell of, those of unread keys by rows."""
        named = sorted(self.unread.items(), key=lambda item: (-item[1], item[0]))
        notes = self.notes + Counter({f"{UNREAD}{key}": count for key, count in named[:KEYS_NAMED]})
        if len(named) > KEYS_NAMED:
            notes[f"{UNREAD}{len(named) - KEYS_NAMED} others"] = max(count for _, count in named[KEYS_NAMED:])
        return {note: count for note, count in notes.items() if count}

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


def count_reasons(rejected: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many rows and how many turns each reason cost."""
    reasons: dict[str, dict[str, int]] = {}
    for entry in rejected:
        count = reasons.setdefault(f"{entry['level']}: {entry['reason']}", {"entries": 0, "turns": 0})
        count["entries"] += 1
        count["turns"] += entry["turns"]
    return reasons


def tell_short(short: dict[str, dict[str, int]]) -> list[str]:
    """Return a line for the console where splits are short of conversations that the groups of others kept out."""
    told = [
        f"{split} has room for {missing} more{f' of {file}' if file else ''}"
        for split, files in short.items()
        for file, missing in files.items()
    ]
    return [f"groups leave quotas short: {', '.join(told)}"] if told else []


def tell(counts: dict[str, Any], rejected: dict[str, dict[str, int]], notes: dict[str, int]) -> list[str]:
    """Return the account in lines for the console: rows and turns with what they were rejected for, and the notes."""
    whole = {
        unit: {
            name: sum(file[unit][name] for file in counts.values()) for name in ("read", "kept", "rejected")
        }
        for unit in ("rows", "turns")
    }
    lines = []
    for unit, level in (("rows", "row: "), ("turns", "turn: ")):
        count = whole[unit]
        line = f"{unit}: {count['read']} read, {count['kept']} kept, {count['rejected']} rejected"
        reasons = sorted(
            (-found["entries"], reason.removeprefix(level))
            for reason, found in rejected.items()
            if reason.startswith(level)
        )
        if reasons:
            line += ", " if unit == "rows" else "; conversations cut: "
            line += ", ".join(f"{reason} ({-count})" for count, reason in reasons)
        lines.append(line)
    keys = [
        f"{note.removeprefix(UNREAD)} (in {count} {'row' if count == 1 else 'rows'})"
        for note, count in notes.items()
        if note.startswith(UNREAD)
    ]
    others = [f"{note} ({count})" for note, count in notes.items() if not note.startswith(UNREAD)]
    return [
        *lines,
        *([f"keys not read: {', '.join(keys)}"] if keys else []),
        *([f"notes: {', '.join(others)}"] if others else []),
    ]
