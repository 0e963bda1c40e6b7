"""Rows of results.csv as others take them: typed, by the name of their cell, and what they show clearly."""

from math import sqrt
from statistics import fmean, variance

from workflow_scripts.report.numbers import decimals_of, shown
from workflow_scripts.report.scores import AGAIN, ALL, in_order

REPEATABILITY = (
    2.77  # 1.96 √2: what 95 % of the differences of two results are within, in standard deviations of one
)
WHOLE = ("all", "overall")  # subsets that are the whole benchmark: no heading needs to say so


def cell_name(row: dict) -> str:
    """Return benchmark/subset/metric, without the parts that are empty."""
    return "/".join(filter(None, [row["benchmark"], row["subset"], row["metric"]]))


def scored_rows(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["value"] != ""]


def clearly_moved(row: dict) -> bool:
    """Return whether a row's clean value is outside the interval of its value."""
    if row["clean_value"] == "" or row["ci_low"] == "":
        return False
    return not row["ci_low"] <= row["clean_value"] <= row["ci_high"]


def than_baseline(row: dict) -> str:
    """Return "better" or "worse" where the interval of the paired difference lies wholly on one side of zero, else "".

    Never where no direction is good, where the difference has no interval, where that leaves out the luck of a
    training: another seed might undo it, or where the difference is no larger than the cell's noise: answering again
    might undo it. It is a column of the table, and what every mark in tables and pictures goes by.
    """
    if row["difference"] == "" or row["difference_low"] == "" or row["higher_is_better"] == "":
        return ""
    if row["difference_luck"] == "not included":
        return ""
    if row["noise"] != "" and abs(row["difference"]) <= row["noise"]:
        return ""
    if row["difference_low"] <= 0 <= row["difference_high"]:
        return ""
    return "better" if (row["difference_low"] > 0) == row["higher_is_better"] else "worse"


def clearly_better(row: dict) -> bool:
    """Return whether a row is marked as better than the baseline: what is bold, wherever something is."""
    return row["than_baseline"] == "better"


def clearly_worse(row: dict) -> bool:
    """Return whether a row is marked as worse than the baseline."""
    return row["than_baseline"] == "worse"


def without_luck(rows: list[dict]) -> str:
    """Return in words which policies of typed rows were trained once, "" where none was."""
    once = in_order(row["policy"] for row in rows if row["training_luck"] == "not included")
    if not once:
        return ""
    if any(row["training_luck"] == "included" for row in rows):
        return f"Trained once, so that no interval holds their training luck and nothing marks them: {', '.join(once)}."
    return (
        "One seed: training luck is not included. Each policy was trained once, and another seed would move its "
        "numbers by more than these intervals say; so nothing is marked as better or worse. `seeds` of the study, "
        "three or more, says how much more."
    )


def seeds_apart(row: dict) -> str:
    """Return how far the seeds of a row lie apart, in words, "" where it has one."""
    if row["seed_sd"] == "":
        return ""
    decimals = decimals_of(row["value"], row["seed_low"], row["seed_high"])
    ends = " to ".join(shown(row[end], decimals) for end in ("seed_low", "seed_high"))
    return f"{ends}, sd {shown(row['seed_sd'], decimals)}"


def headline_rows(rows: list[dict]) -> list[dict]:
    """Return the rows that stand for their policy: of one with several seeds those of seed "all".

    Those of a policy that answers again stand for none, and are no part of them (see noise_rows).
    """
    averaged = {row["policy"] for row in rows if row["seed"] == ALL}
    return [
        row for row in rows if not is_noise(row) and (row["policy"] not in averaged or row["seed"] == ALL)
    ]


def is_noise(row: dict) -> bool:
    """Return whether a row is of a policy that answers again: its difference is noise, and it is compared with none."""
    return row.get("method") == AGAIN


def noise_rows(rows: list[dict]) -> list[dict]:
    """Return the rows that measure noise, of a policy with several seeds those of seed "all"."""
    again = [row for row in rows if is_noise(row)]
    averaged = {row["policy"] for row in again if row["seed"] == ALL}
    return [row for row in again if row["policy"] not in averaged or row["seed"] == ALL]


def fill_noise(rows: list[dict]) -> None:
    """Fill `noise` of the rows of results: how far their cell moves when nothing that is meant to matter has changed.

    It is the largest absolute difference of a policy that answers again to that policy, over all those of the cell.
    Where a judge was drawn several times, it is at least what another such judging would differ by (repeatability). A
    policy's headline row takes those of headline rows, as an average of seeds is compared; one seed's row takes all.
    """
    found: dict[str, list[dict]] = {}
    for row in rows:
        if row["value"] != "":
            found.setdefault(cell_name(row), []).append(row)
    for own in found.values():
        for headline in (True, False):
            taken = [row for row in own if row["headline"] or not headline]
            moved = [abs(row["difference"]) for row in taken if is_noise(row) and row["difference"] != ""]
            moved += repeatability([row["drawn"] for row in taken if row.get("drawn")])
            for row in own:
                if row["headline"] == headline:
                    row["noise"] = max(moved, default="")


def repeatability(drawn: list[list[float]]) -> list[float]:
    """Return [the repeatability limit of a mean over a judge's draws], [] where nothing was drawn more than once.

    drawn: of each policy, the value of its cell by each of k draws. Their variance within policies, s², is averaged
    over these; two means of k draws of the same answers differ by at most 1.96 √2 s / √k = 2.77 s / √k in 95 of 100
    cases (the repeatability limit of ISO 5725-6). Where policies have different k, the least counts.
    """
    if not drawn:
        return []
    within = fmean(variance(values) for values in drawn)
    return [REPEATABILITY * sqrt(within / min(map(len, drawn)))]


NUMBERS = (
    "value ci_low ci_high seed_sd seed_low seed_high n groups seeds difference difference_low difference_high "
    "p_value p_adjusted mde mcnemar_p noise "
    "clean_value clean_low clean_high clean_n clean8_value clean8_n published_value published_difference"
).split()


def typed(row: dict) -> dict:
    """Return a row of a table with its numbers as floats and its truth values as booleans; "" where it has none.

    Columns that the table does not have are "" too: results.csv has fewer than results_full.csv, and an older one had
    fewer than today. This is the one place that minds them.
    """
    numbers = {name: float(row[name]) if row.get(name) else "" for name in NUMBERS}
    better = {"true": True, "false": False, "": ""}[row["higher_is_better"]]
    words = {name: row.get(name, "") for name in ("interval", "training_luck", "difference_luck")}
    known = row | numbers | words | {"higher_is_better": better}
    return known | {"than_baseline": row["than_baseline"] if "than_baseline" in row else than_baseline(known)}


def cell_title(row: dict) -> str:
    """Return a cell's name for people: benchmark, subset unless it is the whole benchmark, metric."""
    subset = "" if row["subset"] in (*WHOLE, row["benchmark"]) else row["subset"]
    return " ".join(filter(None, [row["benchmark"], subset, row["metric"]]))
