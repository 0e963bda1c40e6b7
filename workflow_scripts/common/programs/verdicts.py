"""The verdict of a row's tests on an answer: whether the program in it passes all of them.

A row brings its tests in meta: `tests`, a list of code, and perhaps `test_setup`, code that runs before them. Its
reference answer, where it has a program, says which names the tests take from an answer. Not covered: which share of
the tests an answer passes.
"""

import sys
from collections.abc import Callable

import numpy as np

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.programs.chat_code import read_program
from workflow_scripts.common.programs.sandbox import TIMED_OUT, find_sandbox, run_programs
from workflow_scripts.common.programs.tested import Program, trial_of, with_tests
from workflow_scripts.common.programs.wire import UNSEEN

# How an outcome begins that may be no fault of the program's, and what is said of it.
ODD = {
    UNSEEN: "returned what the tests cannot see",
    TIMED_OUT: "were not done in their time (timeout_seconds)",
}

Turns = list[dict]  # answers as rewards know them: `reference`, its context, and `gold`, the row's own answer


def program_of(turn: dict) -> Program:
    """Return the program in an answer, fenced or bare, else its whole text, with its row's tests.

    PlumblineError, with the row, where it has none, or they take nothing from a program: any would pass.
    """
    trial = trial_of(turn.get("meta") or {}, turn.get("gold") or "")
    if trial is None:
        raise PlumblineError(
            f"row {turn['id']}: has no tests to pass; every row needs a text or a list in its column `tests` "
            "(docs/your-data.md)"
        )
    if not trial.names:
        raise PlumblineError(
            f"row {turn['id']}: its tests use no name that an answer would define, so any would pass; mend its column "
            "`tests`, or give it a reference answer that defines what they use"
        )
    return with_tests(read_program(turn["reference"], trial.names), trial)


def verdicts_of(
    timeout_seconds: float, memory_mb: int, allow_unsandboxed: bool, workers: int
) -> Callable[[Turns], np.ndarray]:
    """Return the function from turns to verdicts, 1 where an answer passes all its tests, else 0, (turns,).

    The log says once of how many answers the tests could not tell, or had not the time. SandboxMissing, at once, where
    this machine has no sandbox, and doing without is not allowed.
    """
    sandbox = find_sandbox(allow_unsandboxed, "this reward")
    told: set[str] = set()

    def verdicts(turns: Turns) -> np.ndarray:
        programs = [program_of(turn) for turn in turns]
        outcomes = run_programs(programs, timeout_seconds, memory_mb, sandbox, workers)
        reasons = [outcomes[program].reason for program in programs]
        for start, what in ODD.items():
            if (count := sum(reason.startswith(start) for reason in reasons)) and what not in told:
                told.add(what)
                print(f"passes_tests: {count} of {len(turns)} answers {what}; they earn 0", file=sys.stderr)
        return np.array([float(outcomes[program].passed) for program in programs])

    return verdicts
