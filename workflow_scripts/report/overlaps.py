"""Which items of the benchmarks a policy has seen in training, and what is left of a score without them."""

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json

OVERLAP_COLUMNS = "benchmark item training_set share13 share8 exact match".split()
MUCH_OF_AN_ITEM = 0.7  # of its 8-grams, from which on the 8-gram rule calls it contaminated


def load_overlaps(index: list[dict]) -> dict[str, dict]:
    """Return the overlap files of the index by path: training set → item → shares of its n-grams and a match."""
    overlaps = {}
    for path in dict.fromkeys(entry["overlap"] for entry in index if entry.get("overlap")):
        raw = read_json(path)
        sets = raw.get("sets") if isinstance(raw, dict) else None
        if not isinstance(sets, dict) or not all("items" in found for found in sets.values()):
            raise PlumblineError(f"{path}: no 'sets' with 'items'; look for the overlap again")
        overlaps[path] = {name: found["items"] for name, found in sets.items()}
        for name, items in overlaps[path].items():
            for item, found in items.items():
                if not {"13", "8", "match"} <= set(found):
                    raise PlumblineError(
                        f"{path}: item {item!r} of {name!r} needs the shares of its 13-grams and 8-grams and a match; "
                        "look for the overlap with the sizes 13 and 8"
                    )
    return overlaps


def contaminated_items(overlap: dict[str, dict], entry: dict) -> dict[str, set[str]]:
    """Return {"13": items, "8": items} that the two rules call contaminated by any training set of an index entry.

    An item that stands there exactly, by its group or as a whole, is so by both, whatever its n-grams.
    """
    items: dict[str, set[str]] = {"13": set(), "8": set()}
    for name in entry.get("training_sets") or []:
        if name not in overlap:
            raise PlumblineError(
                f"{entry['overlap']}: no training set {name!r}, which made {entry['policy']}; "
                f"it has {', '.join(overlap) or 'none'}: look for the overlap again"
            )
        for item, found in overlap[name].items():
            exact = bool(found.get("exact"))
            if exact or found["13"] > 0:
                items["13"].add(item)
            if exact or found["8"] >= MUCH_OF_AN_ITEM:
                items["8"].add(item)
    return items


def allowed_overlap(overlaps: dict[str, dict], entry: dict) -> str:
    """Return a note on an entry of a study that lets a benchmark's questions be trained on: how many were, and where.

    overlaps: see load_overlaps. A question is known by its group or as a whole; "" where nothing was trained on.
    """
    names = entry.get("training_sets") or []
    if not entry.get("overlap_allowed") or not names:
        return ""
    if not entry.get("overlap"):
        return "allow_overlap: how many of its questions stand in training data was not counted (decontaminate: false)"
    found = overlaps[entry["overlap"]]
    counts = {name: sum(bool(item.get("exact")) for item in found[name].values()) for name in names}
    asked = {item for name in names for item, hit in found[name].items() if hit.get("exact")}
    where = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"allow_overlap: {len(asked) or 'none'} of its questions also in training data" + (
        f" ({where})" if where else ""
    )


def overlap_rows(index: list[dict]) -> list[dict]:
    """Return the rows of overlap.csv: each benchmark item that shares text with a training set, policies aside."""
    overlaps = load_overlaps(index)
    rows = {}
    for entry in index:
        for name, items in overlaps.get(entry.get("overlap"), {}).items():
            for item, found in items.items():
                shares = [float(found["13"]), float(found["8"])]
                row = [entry["benchmark"], item, name, *shares, found.get("exact", ""), found["match"]]
                rows[entry["benchmark"], name, item] = dict(zip(OVERLAP_COLUMNS, row, strict=True))
    return list(rows.values())


def contaminated_of(members: list[dict]) -> dict[str, set[str]] | None:
    """Return the items that any seed's training has seen, by rule; None where one of them was not looked for."""
    found = [score["contaminated"] for score in members]
    if None in found:
        return None
    return {rule: set().union(*(each[rule] for each in found)) for rule in ("13", "8")}


def unscored_overlap(score: dict) -> str:
    """Return a note where no cell of a score has an item by the name of one that overlaps: clean says nothing then."""
    overlapping = (score["contaminated"] or {"13": set()})["13"]
    scored = ((item, subset) for (subset, _), c in score["cells"].items() for item in c["cell"].items)
    if not overlapping or any(item_names(item, subset) & overlapping for item, subset in scored):
        return ""
    return f"none of the {len(overlapping)} items that overlap is scored under that name"


def item_names(item: str, subset: str) -> set[str]:
    """Return what an overlap file may call a cell's item: its name, with its subset before it, or without its turn.

    The two replies of a pair are one there.
    """
    pair = item.removesuffix("/original").removesuffix("/altered")
    return {item, f"{subset}/{item}", item.split("#")[0], item.rsplit("#", 1)[0], pair}


def clean_items(items: tuple[str, ...], subset: str, contaminated: set[str]) -> tuple[str, ...]:
    """Return the items of a cell that are not contaminated under any of their names, in order."""
    if not contaminated:
        return items
    return tuple(item for item in items if not item_names(item, subset) & contaminated)
