"""MBPP (Austin et al. 2021): write a short program from one sentence, and let its three tests decide.

Covers pass@k on the problems that were asked, at one temperature or the best of several, the programs run in a
sandbox; raw completions, and programs from policies that chat; the file of mbpp.jsonl, of the sanitised MBPP, or of
requests whose "doc" is such a row. Not covered: drawing answers, and the challenge tests.
"""

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.programs.chat_code import defined, looks_like_chat, read_program
from workflow_scripts.common.programs.sandbox import Program
from workflow_scripts.common.programs.tested import Trial, read_tests, with_tests
from workflow_scripts.common.raw_files import field
from workflow_scripts.score.flags import answers_parser
from workflow_scripts.score.pass_at_k import Settings, cut_at, score_answers

KINDS = {
    "task_id": "name",
    "test_list": "texts",
    "test_imports": "texts",
    "test_setup_code": "text",
    "code": "text",
}
STOPS = ("[DONE]", "\nassert", "\nif", "\nprint", "\n```")


def tests_of(problem: dict) -> Trial:
    """Return a problem's tests, which take from a program what its own solution defines."""
    first = [problem.get("test_setup_code", ""), *problem.get("test_imports", [])]
    return read_tests(problem["test_list"], first, problem.get("code", ""))


def make_program(problem: dict, answer: str, chat: bool = False) -> Program:
    """Return an answer with its problem's tests: up to the first stop string, or what a policy that chats says."""
    tests = tests_of(problem)
    return with_tests(read_program(answer, tests.names) if chat else cut_at(answer, STOPS), tests)


def is_chat(problem: dict, answer: dict) -> bool:
    """Return whether a row of generations looks like a policy that chats; a program has its own function."""
    kept = cut_at(answer["text"], STOPS)
    return not defined(kept) and looks_like_chat(answer, kept, "")


def read_problems(path: str) -> dict[str, dict]:
    """Return a problem file's problems by the name they are asked under; PlumblineError if one is none.

    What a problem may leave out, and a table has as null, is left out.
    """
    problems: dict[str, dict] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        where = f"{path}: problem {number}"
        doc = field(row, "doc", where, "object") if "doc" in row else row
        problem = {name: value for name, value in doc.items() if value not in (None, [])}
        if "task_id" not in problem or "test_list" not in problem:
            raise PlumblineError(f"{where} lacks task_id or test_list; is this mbpp.jsonl?")
        for name, kind in KINDS.items():
            if name in problem:
                field(problem, name, where, kind)
        problems[f"MBPP/{problem['task_id']}"] = problem
    return problems


def main() -> None:
    """Write the pass@k scores of one policy, or why they were refused where no sandbox works."""
    args = answers_parser(main.__doc__, Settings).parse_args()
    score_answers(args, "mbpp", read_problems(args.settings["file"]), make_program, is_chat)


if __name__ == "__main__":
    run(main)
