"""What a run says last: where its tables are, and the warnings that matter; after a failure, which log tells why.

Pure functions over what stands in a study's folders. All of it is said at length elsewhere (logs, manifests,
training.csv, the notes of results.csv); here it is put where it is read. Covered: requests of a written source that
became no rows, rows rejected and keys not read in cleaning, trainings with a warning (diverged, learned nothing,
replies without their end), gold answers that do not score 1 or that tokens alter, what the check of the study doubted,
notes of results.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.report.spreadsheets import read_csv

LINES = 8  # warnings in all; of more it is said how many there are
NAMED = 3  # policies, metrics or reasons that a line names
LONGEST = 220  # characters of a line
UNREAD = "key not read: "  # how the notes of a cleaned dataset's manifest begin
CHOSEN = (
    "over quota",
    "over limit",
    "outside the subset",
    "outside the mixture",
)  # reasons that the study itself gives: nothing is wrong with the rows
# Of these the right answer scores 1; what a judge or a reward makes of it is another matter.
FULL_MARKS = re.compile(r"accuracy|macro_f1|valid_json|exact_match|acc(_norm)?|pass@\d+")


def first_few(names: Iterable[str]) -> str:
    """Return names as "a, b, c and 4 more"."""
    names = list(dict.fromkeys(names))
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def rows_counted(count: int) -> str:
    """Return a count of rows in words."""
    return "1 row" if count == 1 else f"{count} rows"


def cleaning(manifest: Path) -> list[str]:
    """Return the warnings of one cleaned dataset: its rejected rows, with why, and the keys that nothing read."""
    told, name = read_json(manifest), manifest.parent.name
    reasons = Counter(
        {
            reason.removeprefix("row: "): found["entries"]
            for reason, found in told.get("rejected", {}).items()
            if reason.startswith("row: ") and reason.removeprefix("row: ") not in CHOSEN
        }
    )
    lines = []
    if reasons:
        named = first_few(f"{reason} ({count})" for reason, count in reasons.most_common())
        read = sum(file["rows"]["read"] for file in told.get("counts", {}).values())
        lines.append(f"dataset {name}: {reasons.total()} of {read} rows rejected: {named}")
    unread = {
        note.removeprefix(UNREAD): count
        for note, count in told.get("notes", {}).items()
        if note.startswith(UNREAD)
    }
    if unread:
        named = first_few(f"{key} (in {rows_counted(count)})" for key, count in unread.items())
        lines.append(f"dataset {name}: keys not read: {named}")
    return lines


def writing(results: Path) -> list[str]:
    """Return a warning for each source that a model wrote some of whose replies became no rows, with why."""
    lines = []
    for path in sorted(results.glob("written/*/manifest.json")):
        told = read_json(path)
        if reasons := Counter(told["rejected"]):
            named = first_few(f"{reason} ({count})" for reason, count in reasons.most_common())
            counts = told["counts"]
            lines.append(
                f"source {path.parent.name}: {counts['rejected']} of {counts['requests']} requests became no rows: "
                f"{named}"
            )
    return lines


def training(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the warnings of training.csv, those of one wording in one line."""
    policies: dict[str, list[str]] = {}
    for row in rows:
        for warning in filter(None, row.get("warning", "").split("; ")):
            policies.setdefault(warning, []).append(f"{row['policy']} (seed {row['seed']})")
    return [f"training of {first_few(names)}: {warning}" for warning, names in policies.items()]


def gold(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return a warning where the right answers do not score 1: then no policy's score can be read as it stands."""
    short = [
        f"{row['benchmark']}/{row['subset']}/{row['metric']} {row['value']}"
        for row in rows
        if row["policy"] == "gold"
        and FULL_MARKS.fullmatch(row["metric"])
        and row["value"]
        and float(row["value"]) < 1
    ]
    if not short:
        return []
    return [
        f"the right answers (gold) do not score 1: {first_few(short)}; scores there are held down by as much"
    ]


def changed_gold(results: Path, rows: Sequence[dict[str, str]]) -> list[str]:
    """Return a warning for each benchmark some of whose right answers are others once a model's tokens spell them."""
    benchmarks = {row["benchmark"] for row in rows}
    lines = []
    for path in sorted(results.glob("policies/gold/seed-*/generations/*.json")):
        counts = read_json(path).get("counts", {})
        found = {name: count for name, count in counts.get("changed_by_tokens", {}).items() if count}
        if found and path.stem in benchmarks:
            named = first_few(
                f"{count} of {counts['answers']} in those of {name}" for name, count in found.items()
            )
            lines.append(f"{path.stem}: right answers are others in a model's tokens: {named}")
    return lines


def accepted(results: Path) -> list[str]:
    """Return a line for each acceptance by which finished work stands after a change of code or pins."""
    path = results / "accepted.json"
    entries = read_json(path)["accepted"] if path.is_file() else []
    return [f"{len(each['jobs'])} jobs stand as accepted on {each['on']}: {each['why']}" for each in entries]


def refused(results: Path) -> list[str]:
    """Return a warning for each reward model and value head whose training came to nothing."""
    paths = [*results.glob("reward_models/*/manifest.json"), *results.glob("values/**/manifest.json")]
    told = {str(path.parent.relative_to(results)): read_json(path) for path in sorted(paths)}
    return [f"{name}: {manifest['refused']}" for name, manifest in told.items() if manifest.get("refused")]


def luck(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return a warning where policies were trained once, so that no interval holds the luck of training."""
    once = [
        row["policy"] for row in rows if row.get("training_luck") == "not included" and row["seed"] != "all"
    ]
    several = {row["policy"] for row in rows if row["seed"] == "all"}
    named = [policy for policy in once if policy not in several]
    if not named:
        return []
    return [f"one seed: training luck is in no interval of {first_few(named)}; nothing of theirs is marked"]


def notes(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the notes of the policies' rows of results.csv, the most frequent first, those on fidelity left out."""
    found = Counter(
        note
        for row in rows
        if row["policy"] not in ("gold", "empty")
        for note in row.get("note", "").split("; ")
        if note and not note.startswith("fidelity: ")
    )
    return [f"on {rows_counted(count)} of results.csv: {note}" for note, count in found.most_common()]


def doubts(foreseen: Sequence[str]) -> list[str]:
    """Return the doubts of the check of a study, which it has told at the start, the first of them in full."""
    more = (
        [f"{len(foreseen) - NAMED} more of the study itself: make check-study"]
        if len(foreseen) > NAMED
        else []
    )
    return [*foreseen[:NAMED], *more]


def table_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table, none where it is not there or cannot be read."""
    return told_by(read_csv, path) if path.is_file() else []


def warnings_of(results: Path, cleaned: Sequence[Path], foreseen: Sequence[str] = ()) -> list[str]:
    """Return the warnings of a study, what is worst first, from those of its files that are there.

    `foreseen` are those that the check of the study had before the run.
    """
    trained, table = table_of(results / "training.csv"), table_of(results / "results.csv")
    return [
        *told_by(training, trained),
        *told_by(refused, results),
        *told_by(gold, table),
        *told_by(changed_gold, results, table),
        *told_by(accepted, results),
        *told_by(writing, results),
        *(line for path in cleaned if path.is_file() for line in told_by(cleaning, path)),
        *told_by(luck, table),
        *told_by(notes, table),
        *doubts(foreseen),
    ]


def told_by(part: Callable[..., list], *arguments: object) -> list:
    """Return what a part has to say, nothing where its files are not what they were: no run fails by its last words."""
    try:
        return part(*arguments)
    except (PlumblineError, AttributeError, KeyError, TypeError, ValueError):
        return []


def last_words(results: Path, cleaned: Sequence[Path], foreseen: Sequence[str] = ()) -> list[str]:
    """Return the last lines of a run that went well."""
    made = [str(results / name) for name in ("results.md", "report.html") if (results / name).is_file()]
    found = [
        line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
        for line in warnings_of(results, cleaned, foreseen)
    ]
    shown = [f"warning: {line}" for line in found[:LINES]]
    if len(found) > LINES:
        shown.append(
            f"and {len(found) - LINES} warnings more, in training.csv and results.csv of {results}, and in the logs"
        )
    return [*(["results: " + " and ".join(made)] if made else []), *shown]


def failed_words(jobs: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return a line for each failed job, given as (rule, its logs): which log tells why, and how it ends."""
    lines = []
    for rule, logs in jobs:
        log = next((Path(name) for name in logs if Path(name).is_file()), None)
        text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log else []
        said = [line for line in text if line.strip()]
        cause = next(
            (line for line in reversed(said) if line.startswith("error: ")), said[-1] if said else ""
        )
        told = cause if len(cause) <= LONGEST else f"{cause[: LONGEST - 1]}…"
        lines.append(f"failed: {rule}" + (f", see {log}" if log else "") + (f": {told}" if told else ""))
    return lines[:LINES]
