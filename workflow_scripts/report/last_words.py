"""What a run says last: its headline table, where the rest is, the warnings that matter, what it took, what to do next.

After a failure: which job, why, the end of its log, and how to go on. Pure functions over what stands in a study's
folders. All of it is said at length elsewhere (logs, manifests, training.csv, the notes of results.csv); here it is
put where it is read. Covered: requests of a written source that
became no rows, rows rejected and keys not read in cleaning, trainings with a warning (diverged, learned nothing,
replies without their end), gold answers that do not score 1 or that tokens alter, what the check of the study doubted,
notes of results.
"""

import contextlib
import itertools
import os
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.place import command
from workflow_scripts.common.surroundings import nearest
from workflow_scripts.report.reasons import Why, last_said, one_line, why_failed
from workflow_scripts.report.spreadsheets import read_csv

LINES = 8  # warnings in all; of more it is said how many there are
NAMED = 3  # policies, metrics or reasons that a line names
NO_ROOM = 2**16  # bytes: what has fewer free is full
ROOM = 120  # characters of a line where there is no terminal
COLUMNS = 5  # of the headline table, the policy's with them
TAIL, WIDE = 8, 150  # lines that are shown of a failed job's log, and their characters
MARKS = re.compile(r"\*\*|`|(?<!\w)\*|\*(?!\w)")  # what makes text bold, code or slanted in results.md
CELLS = re.compile(r"(?<!\\)\|")
NUMBER = re.compile(r"[0-9.e+-]+")
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


# --- a run that went well -------------------------------------------------------------------------------------------


def headline(text: str) -> list[list[str]]:
    """Return the headline table of results.md as rows of plain texts, its head first; [] where there is none."""
    _, _, below = text.partition("\n## Headlines\n")
    lines = itertools.takewhile(lambda line: line.startswith("|"), below.lstrip("\n").split("\n"))
    rows = [
        [
            MARKS.sub("", cell.strip()).replace("\\|", "|").replace("&lt;", "<")
            for cell in CELLS.split(line)[1:-1]
        ]
        for line in lines
        if not line.startswith("| ---")
    ]
    return rows if len(rows) > 1 else []


def head_lines(titles: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """Return the titles of columns in as many lines as their widths take, those of fewer lines at the bottom."""
    wrapped = [
        textwrap.wrap(title, width, break_long_words=False)
        for title, width in zip(titles, widths, strict=True)
    ]
    most = max(map(len, wrapped))
    return [list(line) for line in zip(*([""] * (most - len(own)) + own for own in wrapped), strict=True)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table, its head first, in lines: the first column to the left, the others to the right."""
    titles, *body = rows
    least = [max(map(len, column)) for column in zip(*body, strict=True)]
    longest = [max(map(len, title.split()), default=0) for title in titles]
    widths = [max(pair) for pair in zip(least, longest, strict=True)]
    head = head_lines(titles, widths)
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in [*head, *body]
    ]
    return [*lines[: len(head)], "─" * len(lines[0]), *lines[len(head) :]]


def shown_table(results: Path) -> list[str]:
    """Return the headline table for a terminal: the policy and at most COLUMNS - 1 cells, fewer where they are wide."""
    path = results / "results.md"
    rows = headline(path.read_text(encoding="utf-8")) if path.is_file() else []
    if not rows:
        return []
    room = shutil.get_terminal_size((ROOM, 0)).columns
    for count in range(min(COLUMNS, len(rows[0])), 1, -1):
        lines = aligned([row[:count] for row in rows])
        if len(lines[-1]) <= room:
            break
    left = len(rows[0]) - count
    return [
        *map(str.rstrip, lines),
        *([f"({left} more column{'s' * (left > 1)} in {path})"] if left else []),
        "",
    ]


def number_words(count: float) -> str:
    """Return a count with a blank at the thousands, or in millions."""
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,.0f}".replace(",", " ")


def taken(results: Path, seconds: float) -> list[str]:
    """Return what a run took on the clock, and the study's jobs so far in tokens and dollars, by costs.csv."""
    rows = [row for row in table_of(results / "costs.csv") if row["stage"] == row["name"] == "total"]
    found = {
        name: float(value) for row in rows for name, value in row.items() if NUMBER.fullmatch(value or "")
    }
    judged = found.get("prompt_tokens", 0) + found.get("completion_tokens", 0)
    tokens = found.get("tokens", 0) + judged
    parts = [f"{number_words(tokens)} tokens"] if tokens else []
    parts += [f"${found['usd']:.2f} for {found.get('judge_calls', 0):.0f} calls"] if judged else []
    whole = f"; the study so far: {', '.join(parts)}" if parts else ""
    return [
        f"it took {duration(seconds)}{whole} (by job: {results / 'costs.csv'})"
        if rows
        else f"it took {duration(seconds)}"
    ]


def duration(seconds: float) -> str:
    """Return a time in words: 40 seconds, 3 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def next_steps(results: Path, files: Sequence[str]) -> list[str]:
    """Return what may be done with what a run has made; `files` are the study's own."""
    rows = table_of(results / "results.csv")
    scored = [row["policy"] for row in rows if "." in row["policy"] and row["value"]]
    # Neither what answers again or elsewhere, nor what kept no weights.
    trained = [name for name in scored if any((results / "policies" / name).glob("seed-*/model"))]
    if not (results / "report.html").is_file() or not trained:
        return []
    studies, policy = [name for name in files if name != "config.yaml"], trained[-1]
    return [
        f"next: open {results / 'report.html'} in a browser",
        f"      talk to a policy: {command('chat', *studies, policy=policy)}",
        f"      take one out: {command('export', *studies, policy=policy, to='out/')}",
    ]


def last_words(
    results: Path,
    cleaned: Sequence[Path],
    foreseen: Sequence[str] = (),
    seconds: float | None = None,
    files: Sequence[str] = (),
) -> list[str]:
    """Return the last lines of a run that went well; `seconds` is what it took, `files` are the study's own."""
    made = [str(results / name) for name in ("results.md", "report.html") if (results / name).is_file()]
    found = [one_line(line) for line in warnings_of(results, cleaned, foreseen)]
    shown = [f"warning: {line}" for line in found[:LINES]]
    if len(found) > LINES:
        shown.append(
            f"and {len(found) - LINES} warnings more, in training.csv and results.csv of {results}, and in the logs"
        )
    return [
        *told_by(shown_table, results),
        *(["results: " + " and ".join(made)] if made else []),
        *shown,
        *(told_by(taken, results, seconds) if seconds is not None else []),
        *told_by(next_steps, results, files),
    ]


# --- a run that failed ----------------------------------------------------------------------------------------------


class Failed(NamedTuple):
    """A job that failed: its rule, what it was doing in words, its logs, its exit status where it is known, and what
    whoever started it said of it."""

    rule: str
    words: str
    logs: Sequence[str] = ()
    status: int | None = None
    said: str = ""

    def log(self) -> tuple[Path | None, str]:
        """Return its log, None where there is none, and the log's text."""
        path = next((Path(name) for name in self.logs if Path(name).is_file()), None)
        return path, path.read_text(encoding="utf-8", errors="replace") if path else ""

    def why(self) -> Why:
        """Return why it failed, and what to do."""
        full = without_room(self.logs)
        known = f"error: no space left in {full} (its log may end anywhere)" if full else ""
        return why_failed(self.rule, f"{self.log()[1]}\n{self.said}\n{known}", self.status)


def without_room(files: Iterable[str]) -> str | None:
    """Return the first folder of some files whose disk has no room left: there nobody could say so; None for none."""
    for folder in (nearest(Path(file).parent.absolute()) for file in files):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free < NO_ROOM:
                return os.path.relpath(folder)
    return None


def command_again(files: Sequence[str], arguments: Sequence[str]) -> str:
    """Return the command that goes on with a study: its files, and the arguments that Snakemake was started with."""
    profiles = [profile for flag, profile in itertools.pairwise(arguments) if flag == "--workflow-profile"]
    studies = [name for name in files if name != "config.yaml"]
    return command("results", *studies, profile=profiles[-1] if profiles else "")


def alike(jobs: Iterable[Failed]) -> list[list[Failed]]:
    """Return jobs by what they are and why they failed: a judge that is down fails many in one manner."""
    groups: dict[tuple[str, str], list[Failed]] = {}
    for job in jobs:
        groups.setdefault((job.rule, job.why().reason), []).append(job)
    return list(groups.values())


def failure(jobs: Sequence[Failed], whole: bool) -> list[str]:
    """Return what there is to say of jobs that failed alike: all of it, or its reason and where to look."""
    (log, text), why = jobs[0].log(), jobs[0].why()
    said, names = last_said(text), first_few(job.words for job in jobs)
    if not whole:
        return [one_line(f"failed: {names}: {why.reason}") + (f" (log: {log})" if log else "")]
    lines = [f"failed: {names}", f"  why: {one_line(why.reason)}"]
    lines += [f"  try: {why.advice}"] if why.advice else []
    if log:
        lines.append(f"  log: {log}" + (", which ends:" if said else ", which is empty"))
        lines += [f"    | {one_line(line, WIDE)}" for line in said[-TAIL:]]
    return lines


def failed_words(jobs: Iterable[Failed], again: str) -> list[str]:
    """Return the last lines of a run that failed; `again` is the command that goes on. Nothing where no job failed."""
    jobs = list(jobs)
    if not jobs:
        return []
    groups = alike(jobs)
    lines = [line for place, group in enumerate(groups[:LINES]) for line in failure(group, place < NAMED)]
    lines += [f"and {len(groups) - LINES} kinds of failures more" for _ in groups[LINES : LINES + 1]]
    count, them = ("1 job failed", "it") if len(jobs) == 1 else (f"{len(jobs)} jobs failed", "them")
    return [*lines, f"{count}; what needs nothing of {them} was made, and is kept. To go on: {again}"]
