"""Which clean rows stay, and in which split: duplicates, held-out groups, subsets, and three ways to split.

Whatever the way, no group is on two sides of a split, and every row that falls out is in the ledger.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from workflow_scripts.clean.ledger import Ledger
from workflow_scripts.clean.reading import Fault
from workflow_scripts.clean.settings import Split, Subset
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest
from workflow_scripts.common.words import split_words

OUTSIDE = ""  # no split is called so

Conversation = dict[str, Any]
Splits = dict[str, list[Conversation]]


def drop_repeats(
    conversations: Sequence[Conversation], duplicates: str, ledger: Ledger
) -> list[Conversation]:
    """Return conversations without those that say exactly what an earlier one said, or with `keep` all, and count."""
    first: dict[str, str] = {}
    kept = []
    for conversation in conversations:
        parts = ("messages", "original", "altered", "candidates")
        key = digest([conversation.get(part) for part in parts])
        if first.setdefault(key, conversation["id"]) == conversation["id"]:
            kept.append(conversation)
        elif duplicates == "keep":
            ledger.notes["duplicates kept"] += 1
            kept.append(conversation)
        else:
            fault = Fault("duplicate", f"of {first[key]}")
            ledger.reject(conversation["place"], "row", fault, conversation["turns"])
    return kept


def drop_held_out(
    conversations: Iterable[Conversation], held_out: set[str], ledger: Ledger
) -> list[Conversation]:
    """Return conversations whose group is not held out for another dataset."""
    kept = []
    for conversation in conversations:
        if conversation["group"] in held_out:
            fault = Fault("group held out for another dataset", conversation["group"])
            ledger.reject(conversation["place"], "row", fault, conversation["turns"])
        else:
            kept.append(conversation)
    return kept


def length_ratio(conversation: Conversation) -> float:
    """Return the words of the user over the words of the assistant; of a ranked row its best reply counts."""
    words: Counter[str] = Counter()
    for message in conversation["messages"]:
        words[message["role"]] += len(split_words(message["content"]))
    if candidates := conversation.get("candidates"):
        words["assistant"] = len(split_words(candidates[0]["content"]))
    return words["user"] / max(words["assistant"], 1)


def in_random_order(conversations: Sequence[Conversation], rule: Subset) -> list[int]:
    """Return the places of conversations, shuffled by rule["seed"]."""
    places = list(range(len(conversations)))
    random.Random(rule["seed"]).shuffle(places)
    return places


def by_length_ratio(conversations: Sequence[Conversation], rule: Subset) -> list[int]:
    """Return the places of conversations, those first whose length ratio is closest to rule["ratio"]."""
    return sorted(
        range(len(conversations)), key=lambda place: abs(length_ratio(conversations[place]) - rule["ratio"])
    )


def first_of_each_source(conversations: Sequence[Conversation], rule: Subset) -> list[int]:
    """Return the places of as many conversations as are wanted: the first of each source, in the sources' proportions.

    What rounding leaves over goes to the first that no share had room for. This is how Shi et al. (2024) took a tenth
    of Tulu V2, down to the rounding.
    """
    size, sources = wanted_rows(conversations, rule), [source_of(row) for row in conversations]
    room = {
        source: int(count / len(sources) * size) for source, count in Counter(sources).items()
    }  # in floats, as theirs
    over, inside = size - sum(room.values()), []
    for place, source in enumerate(sources):
        if room[source] > 0:
            room[source] -= 1
        elif over > 0:
            over -= 1
        else:
            continue
        inside.append(place)
    return inside


def source_of(conversation: Conversation) -> str:
    """Return which of several sources a row says it is from."""
    return conversation["extra"].get("dataset", "")


def wanted_rows(conversations: Sequence[Conversation], rule: Subset) -> int:
    """Return how many rows a subset has at most."""
    return int(rule["share"] * len(conversations)) if rule["rows"] is None else rule["rows"]


# By a subset's `by`: the places of conversations in the order in which they are taken.
SUBSETS: dict[str, Callable[[Sequence[Conversation], Subset], list[int]]] = {
    "first": lambda conversations, rule: list(range(len(conversations))),
    "random": in_random_order,
    "length_ratio": by_length_ratio,
    "source": first_of_each_source,
}


def take_subset(
    conversations: Sequence[Conversation], rule: Subset | None, ledger: Ledger
) -> list[Conversation]:
    """Return at most rule["rows"] of them or a share, in their order: the first, random ones, of a length ratio, or
    the first of each source.

    `length_ratio` takes the rows whose instruction-to-output ratio in words is closest to rule["ratio"] (Shi et al.,
    NeurIPS 2024, section 4.2: how much loss over instructions helps depends on that ratio).
    """
    if rule is None:
        return list(conversations)
    if rule["by"] not in SUBSETS:
        raise PlumblineError(f"subset.by: {rule['by']!r} is not one of {', '.join(SUBSETS)}")
    inside = set(SUBSETS[rule["by"]](conversations, rule)[: wanted_rows(conversations, rule)])
    for place, row in enumerate(conversations):
        if place not in inside:
            ledger.reject(row["place"], "row", Fault("outside the subset", rule["by"]), row["turns"])
    return [row for place, row in enumerate(conversations) if place in inside]


def apportion(total: int, quotas: dict[str, int] | dict[str, Fraction]) -> dict[str, int]:
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


def split_conversations(conversations: Sequence[Conversation], rule: Split, ledger: Ledger) -> Splits:
    """Return {split: conversations}, disjoint by group.

    By `shares`, if there are some: groups are dealt out whole by seed. By `by_file` {split: [file names]} if it is set
    and there are no quotas. Else by quotas (per file, if so ruled), which groups are dealt to by seed (order
    `shuffled`) or which are filled one after the other as the rows come (order `file`), each row by the first split
    that may have it. PlumblineError if a split that should have rows gets none.
    """
    if rule["shares"]:
        wanted = [split for split, share in rule["shares"].items() if share]
        splits = _split_by_shares(conversations, rule, ledger)
    elif rule["by_file"] and not rule["quotas"]:
        wanted = list(rule["by_file"])
        splits = _split_by_file(conversations, rule, ledger)
    else:
        wanted = [split for split, quota in rule["quotas"].items() if quota]
        if not wanted:
            raise PlumblineError("every quota is 0: give split.quotas at least one positive number")
        if rule["order"] not in ORDERS:
            raise PlumblineError(f"split.order: {rule['order']!r} is not one of {', '.join(ORDERS)}")
        splits = ORDERS[rule["order"]](conversations, rule, ledger)
        ledger.short = short_of_quotas(conversations, splits, rule)
    for split in wanted:
        if not splits[split]:
            asked = rule["shares"] or rule["quotas"] or rule["by_file"]
            raise PlumblineError(
                f"split '{split}' got no conversation: {len({row['group'] for row in conversations})} groups "
                f"cannot be dealt to {', '.join(f'{name}: {share}' for name, share in asked.items())}; "
                "give more data, or ask for fewer splits"
            )
    for split in rule["distinct"]:
        splits[split] = _distinct(splits[split], split, ledger)
    return {split: _limited(rows, split, rule["limit"], ledger) for split, rows in splits.items()}


def short_of_quotas(
    conversations: Sequence[Conversation], splits: Splits, rule: Split
) -> dict[str, dict[str, int]]:
    """Return {split: {file: how many more conversations its quota had room for}}; file "" is all files together.

    Only of conversations that stayed out, and that the split may have, are there any: groups are dealt out whole, so
    that a split may lack what is over quota in another. Where the data have no more, no quota is short.
    """

    def by_file(rows: Iterable[Conversation]) -> Counter[str]:
        return Counter(row["place"]["file"] if rule["per_file"] else "" for row in rows)

    inside = {row["id"] for rows in splits.values() for row in rows}
    out = [row for row in conversations if row["id"] not in inside]
    short = {}
    for split, quota in rule["quotas"].items():
        left, found = by_file(row for row in out if may_go(row, split, rule)), by_file(splits[split])
        missing = {file: min(quota - found[file], count) for file, count in left.items()}
        short[split] = {file: less for file, less in missing.items() if less > 0}
    return {split: files for split, files in short.items() if files}


def _distinct(rows: list[Conversation], split: str, ledger: Ledger) -> list[Conversation]:
    """Return a split's rows without those whose prompt an earlier one has: all before the reply."""
    asked: set[str] = set()
    kept = []
    for row in rows:
        prompt = digest(row["messages"] if "candidates" in row else row["messages"][:-1])
        if prompt in asked:
            ledger.reject(
                row["place"], "row", Fault("prompt stands in the split already", split), row["turns"]
            )
        else:
            asked.add(prompt)
            kept.append(row)
    return kept


def may_go(row: Conversation, split: str, rule: Split) -> bool:
    """Tell whether a split may have a row: its file and its columns, compared as text, are among those named for it."""
    files = rule["by_file"].get(split)
    if files is not None and row["place"]["file"] not in files:
        return False
    columns = rule["by_column"].get(split, {})
    return all(str(row["columns"][column]) in map(str, values) for column, values in columns.items())


def _limited(rows: list[Conversation], split: str, limit: int | None, ledger: Ledger) -> list[Conversation]:
    if limit is None:
        return rows
    for row in rows[limit:]:
        ledger.reject(row["place"], "row", Fault("over limit", split), row["turns"])
    return rows[:limit]


def _split_shuffled(conversations: Sequence[Conversation], rule: Split, ledger: Ledger) -> Splits:
    quotas = dict(sorted(rule["quotas"].items()))  # in which order they are named says nothing here
    split_of = deal_groups((row["group"] for row in conversations), quotas, rule["seed"])
    order = list(conversations)
    random.Random(rule["seed"]).shuffle(order)
    splits: Splits = {split: [] for split in quotas}
    used: Counter[tuple[str, str]] = Counter()
    for row in order:
        split = split_of[row["group"]]
        share = (split, row["place"]["file"] if rule["per_file"] else "")
        if used[share] < quotas[split]:
            used[share] += 1
            splits[split].append(row)
        else:
            ledger.reject(row["place"], "row", Fault("over quota", split), row["turns"])
    return splits


def _split_by_shares(conversations: Sequence[Conversation], rule: Split, ledger: Ledger) -> Splits:
    """Return splits as near to their shares as whole groups come; what no share is left for is in none.

    Groups come in random order; each goes where most rows are still missing.
    """
    shares = {split: Fraction(str(share)) for split, share in sorted(rule["shares"].items())}
    missing = {split: share * len(conversations) for split, share in shares.items()}
    missing[OUTSIDE] = len(conversations) - sum(missing.values())
    sizes = Counter(row["group"] for row in conversations)
    order = sorted(sizes)
    random.Random(rule["seed"]).shuffle(order)
    split_of = {}
    for group in order:
        split_of[group] = max(missing, key=lambda split: missing[split])
        missing[split_of[group]] -= sizes[group]
    rows = list(conversations)
    random.Random(rule["seed"]).shuffle(rows)
    splits: Splits = {split: [] for split in shares}
    for row in rows:
        if (split := split_of[row["group"]]) == OUTSIDE:
            ledger.reject(row["place"], "row", Fault("outside the shares"), row["turns"])
        else:
            splits[split].append(row)
    return splits


def _split_in_order(conversations: Sequence[Conversation], rule: Split, ledger: Ledger) -> Splits:
    splits: Splits = {split: [] for split in rule["quotas"]}
    split_of: dict[str, str] = {}
    used: Counter[tuple[str, str]] = Counter()
    for row in conversations:
        file = row["place"]["file"] if rule["per_file"] else ""
        open_to = [split for split in rule["quotas"] if may_go(row, split, rule)]
        room = [split for split in open_to if used[split, file] < rule["quotas"][split]]
        home = split_of.get(row["group"])
        if not room or (home and home != room[0]):
            fault = Fault("over quota") if open_to else Fault("no split may have it")
            if room:
                fault = Fault("group is in another split", home or "")
            ledger.reject(row["place"], "row", fault, row["turns"])
            continue
        split_of[row["group"]] = room[0]
        used[room[0], file] += 1
        splits[room[0]].append(row)
    return splits


ORDERS = {"shuffled": _split_shuffled, "file": _split_in_order}  # by a split's `order`


def _split_by_file(conversations: Sequence[Conversation], rule: Split, ledger: Ledger) -> Splits:
    splits: Splits = {}
    split_of: dict[str, str] = {}
    left = list(conversations)
    for split in rule["by_file"]:
        splits[split], rest = [], []
        for row in left:
            if not may_go(row, split, rule):
                rest.append(row)
                continue
            home = split_of.setdefault(row["group"], split)
            if home == split:
                splits[split].append(row)
            else:
                ledger.reject(row["place"], "row", Fault("group is in another split", home), row["turns"])
        left = rest
    for row in left:
        ledger.reject(row["place"], "row", Fault("no split may have it"), row["turns"])
    return splits


def labels_of(inputs: Sequence[str]) -> dict[str, str]:
    """Return what each raw file is called in counts and rows: its name, or its path where two have one name."""
    names = [Path(path).name for path in inputs]
    return {
        str(path): name if names.count(name) == 1 else str(path)
        for path, name in zip(inputs, names, strict=True)
    }


def place_files(inputs: Sequence[str], rule: Split) -> tuple[list[str], dict[str, list[str]]]:
    """Return raw files in the order of their splits, and by_file {split: what its files are called} (see labels_of).

    So of two equal rows the earlier split keeps its own. A file is named in by_file by the end of its path: its name,
    or folders and name. Where quotas or columns deal rows out beside, a file may be named in several splits.
    PlumblineError if the files named are not the files there are, or one is named twice where it may not be.
    """
    by_file = rule["by_file"]
    if not by_file:
        return list(inputs), by_file
    shared = bool(rule["quotas"] or rule["by_column"])
    named = [file for files in by_file.values() for file in files]
    if shared:
        named = list(dict.fromkeys(named))
    labels, found = labels_of(inputs), {}
    for file in sorted(
        named, key=lambda name: -len(Path(name).parts)
    ):  # x.json is not what a/x.json has taken
        left = [path for path in labels if ends_with(path, file) and path not in found.values()]
        if len(left) == 1 and file not in found:
            found[file] = left[0]
    if len(found) < max(len(named), len(inputs)):
        raise PlumblineError(
            f"split.by_file names {', '.join(sorted(named))}, but the dataset's files are "
            f"{', '.join(sorted(labels.values()))}: name every file in {'a' if shared else 'exactly one'} split"
        )
    called = {split: [labels[found[file]] for file in files] for split, files in by_file.items()}
    return [found[file] for file in named], called


def ends_with(path: str, name: str) -> bool:
    """Tell whether a path ends with a file's name, or with folders and the name."""
    wanted = Path(name).parts
    return Path(path).parts[-len(wanted) :] == wanted
