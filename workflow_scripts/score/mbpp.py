"""MBPP (Austin et al. 2021): write a short program from one sentence, and let its three tests decide.

Covers pass@k on the problems that were asked, at one temperature or the best of several, the programs run in a
sandbox; raw completions, and programs from policies that chat; the file of mbpp.jsonl, of the sanitised MBPP, or of
requests whose "doc" is such a row. Not covered: drawing answers, and the challenge tests.
"""

import ast
import builtins

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.raw_files import field
from workflow_scripts.score.flags import answers_parser
from workflow_scripts.score.programs.chat_code import (
    bound_names,
    defined,
    looks_like_chat,
    parse,
    read_program,
)
from workflow_scripts.score.programs.pass_at_k import Settings, cut_at, score_answers
from workflow_scripts.score.programs.sandbox import Program

KINDS = {
    "task_id": "name",
    "test_list": "texts",
    "test_imports": "texts",
    "test_setup_code": "text",
    "code": "text",
}
IMPORTS = (ast.Import, ast.ImportFrom)
STOPS = ("[DONE]", "\nassert", "\nif", "\nprint", "\n```")


def used_names(code: str) -> set[str]:
    """Return the names that code reads, anywhere in it."""
    tree = parse(code)
    nodes = ast.walk(tree) if isinstance(tree, ast.Module) else []
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def tests_of(problem: dict) -> tuple[tuple[str, ...], str, str]:
    """Return the names that a problem's tests take from the program, what the tests need first, and the tests.

    They take what the problem's own solution defines, and no other name: a `sum` of the program is no `sum` of theirs.
    What that solution imports for them is imported. Without a solution it is each name that nothing else defines.
    """
    tests = "\n".join(
        [problem.get("test_setup_code", ""), *problem.get("test_imports", []), *problem["test_list"]]
    )
    used = used_names(tests)
    solution = parse(problem.get("code", "").replace("\r\n", "\n"))
    if not isinstance(solution, ast.Module) or not solution.body:
        return tuple(sorted(used - defined(tests) - set(dir(builtins)))), "", tests
    own = set().union(*map(bound_names, solution.body))
    imports = [node for node in solution.body if isinstance(node, IMPORTS)]
    wanted = [
        node
        for node in imports
        if {(name.asname or name.name).split(".")[0] for name in node.names} & {*used, "*"}
    ]
    return tuple(sorted(used & own)), "\n".join(map(ast.unparse, wanted)), tests


def make_program(problem: dict, answer: str, chat: bool = False) -> Program:
    """Return an answer with its problem's tests: up to the first stop string, or what a policy that chats says.

    What the tests import may be used by the answer, too, as it was where they shared an interpreter.
    """
    names, setup, tests = tests_of(problem)
    code = read_program(answer, names) if chat else cut_at(answer, STOPS)
    first = [problem.get("test_setup_code", ""), *problem.get("test_imports", [])]
    imports = [
        node for part in first for node in getattr(parse(part), "body", []) if isinstance(node, IMPORTS)
    ]
    return Program("\n".join([code, *map(ast.unparse, imports)]), names, setup, tests)


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
