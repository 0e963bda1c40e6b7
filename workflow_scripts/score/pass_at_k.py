"""Programs that a policy wrote, run in a sandbox, and pass@k from what passed: what HumanEval and MBPP share.

Covers unbiased pass@k at each temperature that was drawn from, and at the best of them. Not covered: which program an
answer makes (each benchmark knows that), and drawing the answers.
"""

import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import NamedTuple

from typing_extensions import TypedDict

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.programs.sandbox import (
    Outcome,
    Program,
    SandboxMissing,
    find_sandbox,
    run_programs,
)
from workflow_scripts.common.programs.wire import UNSEEN
from workflow_scripts.score.items import SHARE, first_turns_by_id, make_cell, write_scores

CHAT = "answers failed and look like chat (a fence, the function anew, no word before a stop): try form: instruct"
READ = "answers were read as chat"
CUT = "answers failed and were cut at max_new_tokens"
BLIND = "answers returned what the tests cannot see"
CHOSEN = "T={:g} was chosen on these same items, which favours it; the interval takes the choice as given"


class Settings(TypedDict):
    file: str  # with the problems
    form: str | None
    k: list[int]
    timeout_seconds: float
    memory_mb: int
    allow_unsandboxed: bool
    workers: int


def cut_at(text: str, stops: Iterable[str]) -> str:
    """Return an answer up to the first stop string: what follows belongs to no program of the task."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased chance that one of k programs is right, given that `correct` of `samples` are.

    1 - C(n-c, k) / C(n, k), as a product over n-c < i <= n of (1 - k/i), which overflows nowhere
    (Chen et al. 2021, eq. 1).
    """
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


class Written(NamedTuple):
    """One answer: its program, and what is worth saying of it beside whether it passes."""

    program: Program
    chat: bool = False  # looks like the answer of a policy that chats
    cut: bool = False  # ended at the longest length


def notes_on(written: list[Written], outcomes: dict[Program, Outcome], form: str | None) -> list[str]:
    """Return what a reader of the scores must know: how the answers were read, and which failed for being odd."""
    failed = [answer for answer in written if not outcomes[answer.program].passed]
    counts = {
        CHAT: sum(answer.chat for answer in failed) if form == "completion" else 0,
        READ: sum(answer.chat for answer in written) if form is None else 0,
        CUT: sum(answer.cut for answer in failed) if form == "instruct" else 0,
        BLIND: sum(outcomes[answer.program].reason.startswith(UNSEEN) for answer in failed),
    }
    said = [f"{count} of {len(written)} {what}" for what, count in counts.items() if count]
    return ["form: instruct", *said] if form == "instruct" else said


def score(prompts: list[dict], answers: dict[str, list[Written]], settings: dict, sandbox: str) -> list[dict]:
    """Return the pass@k cells for each k in the settings; `answers` holds each prompt's, one per sample.

    Items are tasks, the prompts' groups. Prompts at one temperature are subset "all". At several (meta "temperature")
    they are a subset "T=<temperature>" each, and "best": for each k the temperature of the highest pass@k, the lowest
    of equals. Raises PlumblineError when a prompt has fewer than k answers.
    """
    for name, written in answers.items():
        if len(written) < max(settings["k"]):
            raise PlumblineError(
                f"{name} has {len(written)} completions, too few for pass@{max(settings['k'])}: "
                "draw more samples, or lower this benchmark's k"
            )
    outcomes = run_programs(
        (answer.program for row in prompts for answer in answers[row["id"]]),
        settings["timeout_seconds"],
        settings["memory_mb"],
        sandbox,
        settings["workers"],
    )
    results: dict[float | None, dict[str, tuple[int, int]]] = {}
    written_at: dict[float | None, list[Written]] = {}
    for row in prompts:
        written, temperature = answers[row["id"]], row["meta"].get("temperature")
        counts = len(written), sum(outcomes[answer.program].passed for answer in written)
        results.setdefault(temperature, {})[row["group"]] = counts
        written_at.setdefault(temperature, []).extend(written)
    notes = {
        temperature: notes_on(written, outcomes, settings["form"])
        for temperature, written in written_at.items()
    }

    def cell(subset: str, temperature: float | None, k: int, *more: str) -> dict:
        tasks = list(results[temperature])
        values = [pass_at_k(*counts, k) for counts in results[temperature].values()]
        note = "; ".join([*more, *notes[temperature]])
        extra = {"note": note} if note else {}
        return make_cell(subset, f"pass@{k}", tasks, tasks, {"value": values}, bounds=SHARE, **extra)

    if len(results) == 1:
        (only,) = results
        return [cell("all", only, k) for k in settings["k"]]
    cells = [cell(f"T={temperature:g}", temperature, k) for temperature in results for k in settings["k"]]
    for k in settings["k"]:
        means = {
            temperature: math.fsum(pass_at_k(*counts, k) for counts in tasks.values())
            for temperature, tasks in results.items()
        }
        best = max(sorted(means), key=means.__getitem__)
        cells.append(cell("best", best, k, CHOSEN.format(best)))
    return cells


def score_answers(
    args: Namespace,
    benchmark: str,
    problems: dict[str, dict],
    make_program: Callable[[dict, str, bool], Program],
    is_chat: Callable[[dict, dict], bool],
) -> None:
    """Write the scores of a prompt set's answers, or why they were refused where no sandbox works.

    `problems` are by task; `make_program` gives a problem's program from an answer's text, read as a completion or as
    chat: as the setting `form` says, and without one (by hand) as `is_chat` finds each answer to look. Raises
    PlumblineError when a task that was asked is no problem, or has no answer.
    """
    prompts = answered_prompts(args.prompts, args.generations)
    names = [row["id"] for row in prompts]
    answers = first_turns_by_id(read_jsonl(args.generations), names, args.generations)
    unknown = [row["group"] for row in prompts if row["group"] not in problems]
    if unknown:
        raise PlumblineError(
            f"{args.settings['file']}: no problem {unknown[0]!r}, which was asked; build the prompts again"
        )
    form = args.settings["form"]

    def written(problem: dict, answer: dict) -> Written:
        chat = is_chat(problem, answer)
        program = make_program(problem, answer["text"], form == "instruct" or (form is None and chat))
        return Written(program, chat, answer.get("finish_reason") == "length")

    programs = {
        row["id"]: [written(problems[row["group"]], answer) for answer in answers[row["id"]]]
        for row in prompts
    }
    try:
        sandbox = find_sandbox(args.settings["allow_unsandboxed"])
    except SandboxMissing as error:
        print(f"warning: {benchmark} is not scored: {error}", file=sys.stderr)
        write_scores(args.output, benchmark, [], refused=str(error))
        return
    cells = score(prompts, programs, args.settings, sandbox)
    for cell in cells:
        if "note" in cell:
            print(f"{benchmark} {cell['subset']} {cell['metric']}: {cell['note']}", file=sys.stderr)
    write_scores(args.output, benchmark, cells)
