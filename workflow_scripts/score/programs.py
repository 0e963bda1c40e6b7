"""Programs that a policy wrote, run in a sandbox, and pass@k from what passed: what HumanEval and MBPP share.

Covers unbiased pass@k at each temperature that was drawn from, and at the best of them. Not covered: which program an
answer makes (each benchmark knows that), and drawing the answers.
"""

import json
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.items import first_turns_by_id, make_cell, write_scores
from workflow_scripts.score.sandbox import SandboxMissing, find_sandbox, run_python

CHOSEN = "T={:g} was chosen on these same items, which favours it; the interval takes the choice as given"


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


def run_programs(programs: Iterable[str], settings: dict, sandbox: str) -> dict[str, bool]:
    """Return whether each distinct program passed, `workers` of them running at a time."""
    distinct = list(dict.fromkeys(programs))

    def passed(program: str) -> bool:
        return run_python(program, settings["timeout_seconds"], settings["memory_mb"], sandbox).passed

    with ThreadPoolExecutor(settings["workers"]) as pool:
        return dict(zip(distinct, pool.map(passed, distinct), strict=True))


def score(prompts: list[dict], programs: dict[str, list[str]], settings: dict, sandbox: str) -> list[dict]:
    """Return the pass@k cells for each k in the settings; `programs` holds each prompt's, one per sample.

    Items are tasks, the prompts' groups. Prompts at one temperature are subset "all". At several (meta "temperature")
    they are a subset "T=<temperature>" each, and "best": for each k the temperature of the highest pass@k, the lowest
    of equals. Raises PlumblineError when a prompt has fewer than k programs.
    """
    for name, written in programs.items():
        if len(written) < max(settings["k"]):
            raise PlumblineError(
                f"{name} has {len(written)} completions, too few for pass@{max(settings['k'])}: "
                "draw more samples, or lower this benchmark's k"
            )
    passed = run_programs((program for row in prompts for program in programs[row["id"]]), settings, sandbox)
    results: dict[float | None, dict[str, tuple[int, int]]] = {}
    for row in prompts:
        counts = len(programs[row["id"]]), sum(passed[program] for program in programs[row["id"]])
        results.setdefault(row["meta"].get("temperature"), {})[row["group"]] = counts

    def cell(subset: str, temperature: float | None, k: int, **extra: str) -> dict:
        tasks = list(results[temperature])
        values = [pass_at_k(*counts, k) for counts in results[temperature].values()]
        return make_cell(subset, f"pass@{k}", tasks, tasks, {"value": values}, **extra)

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
        cells.append(cell("best", best, k, note=CHOSEN.format(best)))
    return cells


def parse_flags(description: str | None, problems: str) -> Namespace:
    """Return the command line of a benchmark of programs; `problems` says which file holds its tests."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--problems", required=True, help=problems)
    parser.add_argument("--prompts", required=True, help="the prompt set")
    parser.add_argument("--generations", required=True, help="the policy's completions")
    parser.add_argument(
        "--settings", required=True, type=json.loads, help="the benchmark's settings, as JSON"
    )
    parser.add_argument("--output", required=True, help="score file to write")
    return parser.parse_args()


def score_answers(
    args: Namespace, benchmark: str, problems: dict[str, dict], make_program: Callable[[dict, str], str]
) -> None:
    """Write the scores of a prompt set's answers, or why they were refused where no sandbox works.

    `problems` are by task; `make_program` gives a problem's program from a completion. Raises PlumblineError when a
    task that was asked is no problem, or has no completion.
    """
    prompts = read_jsonl(args.prompts)
    names = [row["id"] for row in prompts]
    answers = first_turns_by_id(read_jsonl(args.generations), names, args.generations)
    unknown = [row["group"] for row in prompts if row["group"] not in problems]
    if unknown:
        raise PlumblineError(
            f"{args.problems}: no problem {unknown[0]!r}, which was asked; build the prompts again"
        )
    programs = {
        row["id"]: [make_program(problems[row["group"]], answer["text"]) for answer in answers[row["id"]]]
        for row in prompts
    }
    try:
        sandbox = find_sandbox(args.settings["allow_unsandboxed"])
    except SandboxMissing as error:
        print(f"warning: {benchmark} is not scored: {error}", file=sys.stderr)
        write_scores(args.output, benchmark, [], refused=str(error))
        return
    write_scores(args.output, benchmark, score(prompts, programs, args.settings, sandbox))
