"""docs/claims.md: what each source claims, what it published, and what the study of the claim shows here.

    python -m workflow_scripts.report.claims --output docs/claims.md    every claim of report/claims.yaml
    python -m workflow_scripts.report.claims --claim a_lol --output …   its section anew, the others as they are
    python -m workflow_scripts.report.claims --studies                  what `make claims` runs first

A claim is one or more comparisons: a policy minus another, in a cell of a study's table, and which way it ought to come
out. Values are those of results.csv, over all seeds; differences are paired, over seeds and items, as report.statistics
makes them, so that any two policies of a study can be compared and not only those with the baseline. What trainings
did comes from training.csv, minutes from costs.csv. The page has no date: the same results make the same page but
for the minutes and the machine. Not covered: correction for many comparisons.
"""

import argparse
import os
import re
from pathlib import Path
from typing import Literal, NotRequired

import yaml
from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file
from workflow_scripts.report.compare import Key, Results, paired, read_side
from workflow_scripts.report.numbers import decimals_of, estimate, markdown_line, signed
from workflow_scripts.report.scores import ALL, in_order
from workflow_scripts.report.spreadsheets import read_csv

DESCRIBED = Path("report/claims.yaml")
DRAWS, CONFIDENCE = 10_000, 0.95
OUTCOMES = {1: "as claimed", 0: "not told apart", -1: "the other way"}


class Comparison(TypedDict):
    """One line of a claim: `policy` minus `minus` in the cell `of`, benchmark/subset/metric of a study's table.

    `expected` is the side of zero that the claim puts it on; `published` what the source has for it, in words.
    """

    says: str
    study: str
    policy: str
    minus: str
    of: str
    expected: Literal["higher", "lower"]
    published: NotRequired[str]


class Claim(TypedDict):
    """A source's claim as report/claims.yaml describes it; every text but the comparisons' names is for readers.

    studies: {the name of a study, as its results are called: its file}; trainings: the columns of training.csv that are
    shown of each policy.
    """

    title: str
    source: str
    published: str
    here: str
    studies: dict[str, str]
    comparisons: list[Comparison]
    trainings: NotRequired[list[str]]
    said: str


def read_claims(path: Path) -> dict[str, Claim]:
    """Return the described claims by name; PlumblineError for a claim or a comparison that lacks a key."""
    claims = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, claim in claims.items():
        missing = sorted(Claim.__required_keys__ - claim.keys())
        for number, line in enumerate(claim.get("comparisons", [])):
            missing += [
                f"comparisons[{number}].{key}" for key in sorted(Comparison.__required_keys__ - line.keys())
            ]
        if missing:
            raise PlumblineError(f"{path}: {name} lacks {', '.join(missing)}")
    return claims


def headline_key(side: Results, policy: str, cell: str) -> Key:
    """Return the key of a policy's headline row: that of all seeds, else of its only one."""
    benchmark, subset, metric = cell.split("/")
    keys = [key for key in side.rows if key[:4] == (policy, benchmark, subset, metric)]
    if not keys:
        raise PlumblineError(f"{side.folder}/results.csv has no {cell} of {policy}; see report/claims.yaml")
    return next((key for key in keys if key.seed == ALL), keys[0])


def difference_of(side: Results, first: Key, second: Key) -> dict:
    """Return a policy's cell minus another's as `compare.paired` does, with "by_seed", the differences of each seed.

    by_seed is empty where the two have not the same seeds. PlumblineError where there is no difference at all.
    """
    ours, theirs = side.cells[first], side.cells[second]
    found = paired(first._asdict(), theirs, ours, DRAWS, CONFIDENCE)
    if "paired_difference" not in found:
        raise PlumblineError(f"{side.folder}: {first.policy} and {second.policy}: {found['note']}")
    seeds = list(ours) if list(ours) == list(theirs) and len(ours) > 1 else []
    values = [[side.rows[key._replace(seed=seed)]["value"] for key in (first, second)] for seed in seeds]
    luck = {side.rows[key]["training_luck"] for key in (first, second)}
    return found | {"by_seed": [one - other for one, other in values], "once": "not included" in luck}


def outcome(found: dict, expected: str) -> str:
    """Return in words what a difference says of a claim that expects it "higher" or "lower" than 0."""
    if found["once"]:
        return "trained once"
    low, high = found["paired_low"], found["paired_high"]
    if low == "" or low <= 0 <= high:
        return OUTCOMES[0]
    return OUTCOMES[1 if (low > 0) == (expected == "higher") else -1]


def difference_texts(found: dict) -> tuple[str, str]:
    """Return a difference with its interval, or with the reason for none, and the least and the most of the seeds."""
    value, low, high = (found[f"paired_{name}"] for name in ("difference", "low", "high"))
    decimals = decimals_of(value, low, high)
    ends = f"[{signed(low, decimals)}, {signed(high, decimals)}]" if low != "" else f"({found['note']})"
    seeds = found["by_seed"]
    apart = f"{signed(min(seeds), decimals)} to {signed(max(seeds), decimals)}" if seeds else ""
    return f"{signed(value, decimals)} {ends}", apart


def compared(claim: Claim, sides: dict[str, Results]) -> list[str]:
    """Return the lines of a claim's table."""
    heads = [
        "what",
        "published",
        "ours",
        "against",
        "difference",
        "of single seeds",
        "outcome",
        "seeds",
        "items (groups)",
    ]
    lines = [heads, ["---", "---", "---:", "---:", "---:", "---:", "---", "---:", "---:"]]
    for line in claim["comparisons"]:
        side = sides[line["study"]]
        keys = [headline_key(side, policy, line["of"]) for policy in (line["policy"], line["minus"])]
        rows = [side.rows[key] for key in keys]
        for key, row in zip(keys, rows, strict=True):
            if row["value"] == "":
                raise PlumblineError(
                    f"{side.folder}: {line['of']} of {key.policy} has no value: {row['note']}"
                )
        found = difference_of(side, *keys)
        values = [estimate(row["value"], row["ci_low"], row["ci_high"]).replace("-", "−") for row in rows]
        n, groups, seeds = (f"{rows[0][name]:.0f}" for name in ("n", "groups", "seeds"))
        lines.append(
            [
                line["says"], line.get("published", ""), *values, *difference_texts(found),
                outcome(found, line["expected"]), seeds, n if n == groups else f"{n} ({groups})",
            ]
        )  # fmt: skip
    return [markdown_line(line) for line in lines]


def trained(claim: Claim, sides: dict[str, Results]) -> list[str]:
    """Return the lines of a table of what trainings came to, the mean over seeds and the least and the most."""
    columns = claim.get("trainings", [])
    if not columns:
        return []
    lines = [["policy", *(name.replace("_", " ") for name in columns)], ["---", *["---:"] * len(columns)]]
    for side in sides.values():
        rows = read_csv(side.folder / "training.csv")
        for policy in in_order(row["policy"] for row in rows):
            own = [row for row in rows if row["policy"] == policy]
            lines.append(
                [f"`{policy}`", *(span([row[name] for row in own if row[name]]) for name in columns)]
            )
    return ["", *(markdown_line(line) for line in lines if any(line[1:]))]


def span(values: list[str]) -> str:
    """Return the mean of some numbers, and the least and the most where they differ; "" for none."""
    if not values:
        return ""
    numbers = [float(value) for value in values]
    mean, low, high = (
        f"{number:.4g}" for number in (sum(numbers) / len(numbers), min(numbers), max(numbers))
    )
    return mean if low == high else f"{mean} ({low} to {high})"


def minutes_of(side: Results) -> str:
    """Return the minutes of a study's jobs that measure themselves, one after the other."""
    rows = read_csv(side.folder / "costs.csv")
    total = next((row for row in rows if row["stage"] == row["name"] == "total"), None)
    if total is None:
        raise PlumblineError(f"{side.folder}/costs.csv has no total; run the study again")
    return f"{float(total['wall_seconds'] or 0) / 60:.0f}"


def section(name: str, claim: Claim, results: Path) -> str:
    """Return a claim's part of the page; results: the folder that studies' results are in."""
    sides = {}
    for study in claim["studies"]:
        folder = results / study
        if not (folder / "results.csv").exists():
            raise PlumblineError(f"{folder}/results.csv is not there: make claims CLAIM={name}")
        sides[study] = read_side(folder, {})
    ran = ", ".join(f"`{file}` {minutes_of(sides[study])}" for study, file in claim["studies"].items())
    lines = [
        f"<!-- claim: {name} -->",
        f"## {claim['title']}",
        f"{claim['source']}. {paragraph(claim['published'])}",
        paragraph(claim["here"]),
        "\n".join([*compared(claim, sides), *trained(claim, sides)]),
        paragraph(claim["said"]),
        f"`make claims CLAIM={name}`; wall minutes of its jobs, one after the other: {ran}; {machine()}, "
        "which may have done other things, too.",
    ]
    return "\n\n".join(lines) + "\n"


def paragraph(text: str) -> str:
    """Return a text of the description as paragraphs of the page."""
    return "\n\n".join(part.strip() for part in text.strip().split("\n\n"))


def machine(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return what this machine calls its processor, and how many cores it has."""
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{named[1].strip() if named else 'a CPU'}, {os.cpu_count()} cores"


def page(claims: dict[str, Claim], wanted: list[str], results: Path, before: str) -> str:
    """Return the page: the sections of the wanted claims anew, those of others as the page had them before."""
    kept = dict(re.findall(r"<!-- claim: (\S+) -->\n(.*?)(?=<!-- claim: |\Z)", before, re.DOTALL))
    parts = [INTRODUCTION]
    for name, claim in claims.items():
        if name in wanted:
            parts.append(section(name, claim, results))
        elif name in kept:
            parts.append(f"<!-- claim: {name} -->\n{kept[name].rstrip()}\n")
    return "\n".join(parts)


INTRODUCTION = """# What the sources claim, and what is seen of it here

Each source of Plumbline made a claim on much larger models. Here it is asked of stories15M, 15 million parameters, on
two CPU cores: small enough to be run by anybody, and not the published experiment. A claim that comes
out shows that the method does here what it does there; one that does not is reported as that, with the likely cause.

`make claims` runs the studies of the claims and writes this page from their tables; `make claims CLAIM=NAME` does so
for one. Differences are paired by seed and by item; their 95 % intervals are over seeds and items
([evaluation.md](evaluation.md)); beside them stand the least and the most of the single seeds' differences. *As
claimed*: the interval is on the side of zero that the claim names; *the other way*: on the other side; *not told
apart*: it holds zero. No correction for the number of lines is made.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--claim", default="", help="a name in the description; none: all of them")
    parser.add_argument("--described", type=Path, default=DESCRIBED, help="the description of the claims")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of the results")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, help="the page, docs/claims.md")
    what.add_argument(
        "--studies", action="store_true", help="name the files of the studies, and write nothing"
    )
    arguments = parser.parse_args()
    claims = read_claims(arguments.described)
    if arguments.claim and arguments.claim not in claims:
        known = ", ".join(claims)
        raise PlumblineError(f"{arguments.described} has no claim {arguments.claim!r}; it has {known}")
    wanted = [arguments.claim] if arguments.claim else list(claims)
    if arguments.studies:
        print(*in_order(file for name in wanted for file in claims[name]["studies"].values()), sep="\n")
        return
    before = arguments.output.read_text(encoding="utf-8") if arguments.output.exists() else ""
    text = page(claims, wanted, arguments.results, before)
    with finished_file(arguments.output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
