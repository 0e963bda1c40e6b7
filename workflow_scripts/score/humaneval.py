"""HumanEval (Chen et al. 2021): complete a function from its docstring, and let its tests decide.

Covers pass@k on the 164 problems, at one temperature or the best of several, the programs run in a sandbox. Not
covered: drawing completions.
"""

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.programs import cut_at, parse_flags, score_answers

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
NEEDED = ("task_id", "prompt", "test", "entry_point")


def make_program(problem: dict[str, str], completion: str) -> str:
    """Return the program that fails unless the completed function passes its problem's tests."""
    kept = cut_at(completion, STOPS)
    return f"{problem['prompt']}{kept}\n{problem['test']}\ncheck({problem['entry_point']})\n"


def read_problems(path: str) -> dict[str, dict]:
    """Return a problem file's problems by task; PlumblineError if one lacks a field."""
    problems = read_jsonl(path)
    for number, problem in enumerate(problems, 1):
        missing = [name for name in NEEDED if not isinstance(problem.get(name), str)]
        if missing:
            raise PlumblineError(
                f"{path}: problem {number} lacks {', '.join(missing)}; is this HumanEval.jsonl?"
            )
    return {problem["task_id"]: problem for problem in problems}


def main() -> None:
    """Write the pass@k scores of one policy, or why they were refused where no sandbox works."""
    args = parse_flags(main.__doc__, "HumanEval.jsonl")
    score_answers(args, "humaneval", read_problems(args.problems), make_program)


if __name__ == "__main__":
    run(main)
