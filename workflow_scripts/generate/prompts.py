"""Build one prompt set: what a benchmark, or the making of preference pairs, asks every policy.

A prompt set is rows of {id, group, messages or text, followups, reference, meta} and a manifest that also holds the
sampling settings, so a policy's answers depend on nothing else. A row's own "temperature" goes before the set's.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from workflow_scripts.common import raw_files
from workflow_scripts.common.constraints import constraints_of, follows
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.turns import turns_of

# Where a completed function ends: the next top-level statement (Chen et al. 2021, section 2.2).
CODE_STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]
# An MBPP program may have several functions; it ends at its mark, or where it would test or run itself.
PROGRAM_STOPS = ["[DONE]", "\nassert", "\nif", "\nprint", "\n```"]
STOPS = {"humaneval": CODE_STOPS, "mbpp": PROGRAM_STOPS}
MBPP_TEST = range(
    11, 511
)  # Austin et al. 2021, section 2.1: the others are for prompting, tuning and training


class Sampling(TypedDict):
    """How a prompt set is answered; a set that a run learns from as it answers lacks what stands last."""

    max_new_tokens: int
    temperature: float
    top_p: float
    temperatures: dict[str, float] | list[float]
    stop: NotRequired[list[str]]
    min_new_tokens: NotRequired[int]
    samples: NotRequired[int]
    batch_size: NotRequired[int]
    beams: NotRequired[int]
    repetition_penalty: NotRequired[float]


def field(row: dict, name: str, path: Path, number: int, kind: str = "text") -> Any:
    """Return a field of a row; PlumblineError names file, row and field if it is missing or of another kind."""
    return raw_files.field(row, name, f"{path}: row {number}", kind)


def turn_prompts(path: Path, history: int | None = None) -> list[dict]:
    """One prompt per assistant turn of a conversation, or per ranked row; the gold or best reply is the reference."""
    turns = [turn for row in read_jsonl(path) for turn in turns_of(row, history)]
    return [
        {
            **turn,
            # A policy is asked, and learns nothing: which turns were to be learned is left out.
            "messages": [
                {key: message[key] for key in message if key != "learn"} for message in turn["messages"]
            ],
            "followups": [],
            "reference": [turn["reference"]],
        }
        for turn in turns
        if turn["meta"].get("rank", 0) == 0
    ]


def fenced(code: str) -> str:
    """Return code as a Markdown block."""
    return f"```python\n{code.strip(chr(10))}\n```"


def humaneval_prompts(path: Path, form: str = "completion") -> list[dict]:
    """One prompt per problem, with the canonical solution as the reference.

    completion: the problem's text, raw, to be gone on with. instruct: a user asks for the whole function in a code
    block, in words of ours.
    """
    rows = []
    for number, row in enumerate(read_jsonl(path), 1):
        text = field(row, "prompt", path, number)
        solution = field(row, "canonical_solution", path, number)
        asked = {"text": text}
        if form == "instruct":
            words = (
                "Complete this Python function as its docstring says. Answer with one code block that holds the "
                f"complete function, with its signature and all that it needs.\n\n{fenced(text)}"
            )
            asked, solution = {"messages": [{"role": "user", "content": words}]}, fenced(text + solution)
        rows.append(
            {
                "id": field(row, "task_id", path, number),
                "group": row["task_id"],
                **asked,
                "followups": [],
                "reference": [solution],
                "meta": {},
            }
        )
    return rows


def mbpp_problem(row: dict, path: Path, number: int) -> tuple[int, str, str, str]:
    """Return a problem's task id, its text, its tests, and its program."""
    task = field(row, "task_id", path, number, "name")
    if not str(task).isdecimal():
        raise PlumblineError(f"{path}: row {number}: task_id {task!r} is no number; is this mbpp.jsonl?")
    text = field(row, "text" if "text" in row else "prompt", path, number)
    tests = "\n".join(field(row, "test_list", path, number, "texts"))
    code = field(row, "code", path, number).replace("\r\n", "\n").strip()
    return int(task), text.strip(), tests, code


def mbpp_prompts(path: Path, shots: list[int], form: str = "completion") -> list[dict]:
    """One prompt per test problem, after the solved problems `shots` (task ids), which are not asked.

    completion: raw text in the frame of Austin et al. (2021), section 3: task, tests, then the program between [BEGIN]
    and [DONE]. instruct: a user asks for a code block, and the solved problems are turns before. The words are ours.
    Rows are those of mbpp.jsonl or the sanitised MBPP, plain or as the "doc" of a request.
    """
    rows = [
        field(row, "doc", path, number, "object") if "doc" in row else row
        for number, row in enumerate(read_jsonl(path), 1)
    ]
    problems = [mbpp_problem(row, path, number) for number, row in enumerate(rows, 1)]
    missing = [str(shot) for shot in shots if shot not in {task for task, *_ in problems}]
    if missing:
        raise PlumblineError(f"{path}: no task {', '.join(missing)} to show solved; name others as shots")

    def completed(text: str, tests: str) -> str:
        return f"You are an expert Python programmer. Your task: {text}\nYour code must pass:\n{tests}\n[BEGIN]\n"

    def turn(text: str, tests: str) -> dict:
        words = (
            f"{text}\n\nWrite it in Python, and answer with one code block that holds the complete program. It must "
            f"pass these tests:\n\n{fenced(tests)}"
        )
        return {"role": "user", "content": words}

    solved = {task: (text, tests, code) for task, text, tests, code in problems}
    before = "".join(f"{completed(*solved[shot][:2])}{solved[shot][2]}\n[DONE]\n\n" for shot in shots)
    turns = [
        message
        for shot in shots
        for message in (turn(*solved[shot][:2]), {"role": "assistant", "content": fenced(solved[shot][2])})
    ]
    return [
        {
            "id": f"MBPP/{task}",
            "group": f"MBPP/{task}",
            **(
                {"messages": [*turns, turn(text, tests)]}
                if form == "instruct"
                else {"text": before + completed(text, tests)}
            ),
            "followups": [],
            "reference": [fenced(code) if form == "instruct" else code],
            "meta": {},
        }
        for task, text, tests, code in problems
        if task in MBPP_TEST and task not in shots
    ]


def read_references(path: Path, turns: dict[str, int]) -> dict[str, list[str]]:
    """Return the reference answers of FastChat's file by question id; `turns` is how many each question needs."""
    references = {}
    for number, row in enumerate(read_jsonl(path), 1):
        name = str(field(row, "question_id", path, number, "name"))
        choice = {"choices[0]": field(row, "choices", path, number, "list")[0]}
        references[name] = field(
            field(choice, "choices[0]", path, number, "object"), "turns", path, number, "texts"
        )
        if len(references[name]) != turns.get(name, len(references[name])):
            raise PlumblineError(
                f"{path}: row {number} answers {len(references[name])} turns of question {name}, "
                f"which has {turns[name]}; take the answers to these questions"
            )
    return references


def mt_bench_prompts(path: Path, references: Path | None = None) -> list[dict]:
    """One row per question with its second turn as followup; references where the question has them.

    A file of reference answers replaces the questions' own, as FastChat's judge sees only those of the file.
    """
    rows = []
    for number, row in enumerate(read_jsonl(path), 1):
        name = str(field(row, "question_id", path, number, "name"))
        first, *followups = field(row, "turns", path, number, "texts")
        own = row.get("reference") and field(row, "reference", path, number, "texts")
        rows.append(
            {
                "id": name,
                "group": name,
                "messages": [{"role": "user", "content": first}],
                "followups": followups,
                "reference": own or None,
                "meta": {"category": field(row, "category", path, number)},
            }
        )
    if references is None:
        return rows
    given = read_references(references, {row["id"]: 1 + len(row["followups"]) for row in rows})
    if not any(row["id"] in given for row in rows):
        raise PlumblineError(f"{references}: answers none of the questions of {path}")
    return [row | {"reference": given.get(row["id"])} for row in rows]


def in_turn(rows: list[dict]) -> list[dict]:
    """Return questions by category in turn, so that the first few are not all of one kind."""
    place: Counter = Counter()
    order = []
    for row in rows:
        category = row["meta"]["category"]
        order.append((place[category], len(order)))
        place[category] += 1
    return [rows[number] for _, number in sorted(order)]


def judged_references(path: Path) -> dict[str, str]:
    """Return each instruction's reference in AlpacaEval's stored judgements: what most models were compared with.

    Their `output_1` is the reference's answer, but for what other comparisons are kept beside; so the most frequent
    one counts, and of equals the first.
    """
    seen: dict[str, Counter] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        answers = seen.setdefault(field(row, "instruction", path, number), Counter())
        answers[field(row, "output_1", path, number)] += 1
    return {instruction: answers.most_common(1)[0][0] for instruction, answers in seen.items()}


def alpaca_eval_prompts(path: Path, references: Path | None = None) -> list[dict]:
    """One row per instruction, by its place in the file; the answer to be compared with is the reference.

    It is the row's own output, or that in a file of stored judgements. Raises PlumblineError for an instruction
    without one.
    """
    rows = read_jsonl(path)
    if references is not None:
        judged = judged_references(references)
        for number, row in enumerate(rows, 1):
            if field(row, "instruction", path, number) not in judged:
                raise PlumblineError(
                    f"{references}: no judgement of the instruction in row {number} of {path}"
                )
        rows = [row | {"output": judged[row["instruction"]]} for row in rows]
    return [
        {
            "id": str(number - 1),
            "group": str(number - 1),
            "messages": [{"role": "user", "content": field(row, "instruction", path, number)}],
            "followups": [],
            "reference": [field(row, "output", path, number)],
            "meta": {"dataset": row["dataset"] if isinstance(row.get("dataset"), str) else ""},
        }
        for number, row in enumerate(rows, 1)
    ]


CHECKED_KEYS = {"id", "key", "prompt", "constraints", "instruction_id_list", "kwargs", "reference"}


def rule_checks_prompts(path: Path) -> list[dict]:
    """One row per prompt, its constraints in meta: of our own rows, or of IFEval's published ones.

    An id is the row's id or key, else its place in the file. Where a row has a `reference`, it is what `gold` says.
    PlumblineError names the row whose constraints cannot be read, or whose reference does not meet them. Keys that
    nobody reads are counted on standard error.
    """
    rows, unread = [], Counter()
    for number, row in enumerate(read_jsonl(path), 1):
        unread.update(row.keys() - CHECKED_KEYS)
        named = next((name for name in ("id", "key") if name in row), None)
        name = str(field(row, named, path, number, "name")) if named else str(number)
        constraints = constraints_of(row, f"{path}: row {number}")
        reference = field(row, "reference", path, number) if "reference" in row else None
        unmet = [
            each["rule"] for each in constraints if reference is not None and not follows(reference, each)
        ]
        if unmet:
            raise PlumblineError(f"{path}: row {number}: its reference does not meet {', '.join(unmet)}")
        rows.append(
            {
                "id": name,
                "group": name,
                "messages": [{"role": "user", "content": field(row, "prompt", path, number)}],
                "followups": [],
                "reference": None if reference is None else [reference],
                "meta": {"constraints": constraints},
            }
        )
    for key, count in sorted(unread.items()):
        print(f"warning: {path}: {key!r} is not read (in {count} of {len(rows)} rows)", file=sys.stderr)
    return rows


BUILDERS = {
    "rule_checks": rule_checks_prompts,
    "turns": turn_prompts,
    "humaneval": humaneval_prompts,
    "mbpp": mbpp_prompts,
    "mt_bench": mt_bench_prompts,
    "alpaca_eval": alpaca_eval_prompts,
}


# The flags that a builder takes beside the file.
FLAGS = {
    "turns": ["history"],
    "mt_bench": ["references"],
    "alpaca_eval": ["references"],
    "humaneval": ["form"],
    "mbpp": ["shots", "form"],
}


def check_categories(rows: list[dict], temperatures: dict[str, float], path: Path) -> None:
    """Raise PlumblineError for a temperature of a category that no question is in."""
    unknown = sorted(temperatures.keys() - {row["meta"].get("category") for row in rows})
    if unknown:
        raise PlumblineError(
            f"temperatures: no question of {path} is in category {', '.join(unknown)}; leave it out"
        )


def at_category_temperatures(rows: list[dict], temperatures: dict[str, float]) -> list[dict]:
    """Return the rows with their category's temperature; a category without one keeps the set's."""
    return [
        row | {"temperature": temperatures[row["meta"]["category"]]}
        if row["meta"]["category"] in temperatures
        else row
        for row in rows
    ]


def at_each_temperature(rows: list[dict], temperatures: list[float]) -> list[dict]:
    """Return each row once per temperature T, as "<id>@<T>" with meta "temperature"; its group is as before."""
    return [
        row
        | {
            "id": f"{row['id']}@{temperature:g}",
            "temperature": temperature,
            "meta": row["meta"] | {"temperature": temperature},
        }
        for row in rows
        for temperature in temperatures
    ]


def drawn_at(
    rows: list[dict], sampling: dict, temperatures: dict[str, float] | list[float]
) -> tuple[list[dict], dict]:
    """Return rows and sampling at the temperatures that a benchmark names: one by category, one, several, or none."""
    if not temperatures:
        return rows, sampling
    if isinstance(temperatures, dict):
        return at_category_temperatures(rows, temperatures), sampling
    if len(temperatures) == 1:
        return rows, sampling | {"temperature": temperatures[0]}
    return at_each_temperature(rows, temperatures), sampling


def prompt_set(
    kind: str, path: Path, sampling: dict[str, Any], limit: int | None = None, **more: Any
) -> tuple[list[dict], dict[str, Any]]:
    """Return (rows, sampling) of the prompt set that a file makes; PlumblineError where it makes none.

    sampling: keys of `Sampling`; more: what else may be said of prompts (history, references, shots, form), of which
    each kind takes its own.
    """
    rows = BUILDERS[kind](path, **{name: more[name] for name in FLAGS.get(kind, []) if name in more})
    # A stop string would end a chat's answer within its code block, where lines of code begin with it.
    stops = STOPS.get(kind, []) if more.get("form", "completion") == "completion" else []
    sampling = sampling | {"stop": [*stops, *sampling.get("stop", [])]}
    temperatures = sampling.pop("temperatures")
    if isinstance(temperatures, dict):
        check_categories(rows, temperatures, path)
    if kind == "mt_bench" and limit:
        rows = in_turn(rows)
    rows, sampling = drawn_at(rows[:limit], sampling, temperatures)
    identities = [row["id"] for row in rows]
    if not rows or len(set(identities)) < len(rows):
        raise PlumblineError(f"{path}: {'ids repeat' if rows else 'holds no prompts'}")
    return rows, sampling


def parse_flags(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--kind", choices=BUILDERS, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument(
        "--sampling",
        type=settings_of(Sampling),
        required=True,
        help="how answers are drawn, as JSON; its temperatures: {category: T} or a list",
    )
    parser.add_argument("--history", type=int, help="turns: at most so many past exchanges in a prompt")
    parser.add_argument(
        "--references",
        type=Path,
        help="mt_bench: FastChat's file of reference answers; alpaca_eval: a file of stored judgements",
    )
    parser.add_argument(
        "--shots", type=int, nargs="*", default=[], help="mbpp: ids of the tasks that are shown solved"
    )
    parser.add_argument(
        "--form",
        choices=("completion", "instruct"),
        default="completion",
        help="humaneval, mbpp: a text to go on with, or a turn of a chat",
    )
    parser.add_argument("--limit", type=int, help="keep the first so many rows")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    arguments = parse_flags(__doc__)
    more = {name: getattr(arguments, name) for name in ("history", "references", "shots", "form")}
    rows, sampling = prompt_set(arguments.kind, arguments.input, arguments.sampling, arguments.limit, **more)
    count = write_jsonl(arguments.output, rows)
    write_manifest(arguments.manifest, [arguments.output], count=count, sampling=sampling)


if __name__ == "__main__":
    run(main)
