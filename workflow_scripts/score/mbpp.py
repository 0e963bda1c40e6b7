"""MBPP (Austin et al. 2021): write a short program from one sentence, and let its three tests decide.

Covers pass@k on the problems that were asked, at one temperature or the best of several, the programs run in a
sandbox; the file of mbpp.jsonl, of the sanitised MBPP, or of requests whose "doc" is such a row. Not covered: drawing
completions, the challenge tests, and programs inside Markdown fences.
"""

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.programs import cut_at, parse_flags, score_answers

STOPS = ("[DONE]", "\nassert", "\nif", "\nprint", "\n```")


def make_program(problem: dict, completion: str) -> str:
    """Return the program that fails unless a completion passes its problem's tests.

    What the tests need first (test_setup_code, or the sanitised test_imports) may use the completion, so it follows it.
    """
    setup = [problem.get("test_setup_code", ""), *problem.get("test_imports", [])]
    parts = [cut_at(completion, STOPS), *setup, *problem["test_list"]]
    return "\n".join(filter(None, parts)) + "\n"


def read_problems(path: str) -> dict[str, dict]:
    """Return a problem file's problems by the name they are asked under; PlumblineError if one has no tests."""
    problems = [row.get("doc", row) for row in read_jsonl(path)]
    for number, problem in enumerate(problems, 1):
        if "task_id" not in problem or not problem.get("test_list"):
            raise PlumblineError(f"{path}: problem {number} lacks task_id or test_list; is this mbpp.jsonl?")
    return {f"MBPP/{problem['task_id']}": problem for problem in problems}


def main() -> None:
    """Write the pass@k scores of one policy, or why they were refused where no sandbox works."""
    args = parse_flags(main.__doc__, "mbpp.jsonl")
    score_answers(args, "mbpp", read_problems(args.problems), make_program)


if __name__ == "__main__":
    run(main)
