"""HumanEval (Chen et al. 2021): complete a function from its docstring, and let its tests decide.

Covers pass@k on the 164 problems, at one temperature or the best of several, the programs run in a sandbox; raw
completions, and whole functions from policies that chat. Not covered: drawing answers.
"""

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.programs.chat_code import closed, looks_like_chat, read_program
from workflow_scripts.common.programs.sandbox import Program
from workflow_scripts.score.flags import answers_parser
from workflow_scripts.score.pass_at_k import Settings, cut_at, score_answers

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
NEEDED = ("task_id", "prompt", "test", "entry_point")


def make_program(problem: dict[str, str], answer: str, chat: bool = False) -> Program:
    """Return an answer with its problem's tests: as a completion of the prompt, or as what a policy that chats says.

    The tests may use what the prompt defines, such as the function whose inverse is asked for.
    """
    prompt, name = problem["prompt"], problem["entry_point"]
    code = read_program(answer, [name], prompt) if chat else f"{prompt}{cut_at(answer, STOPS)}\n"
    return Program(code, (name,), closed(prompt), f"{problem['test']}\ncheck({name})\n")


def is_chat(problem: dict[str, str], answer: dict) -> bool:
    """Return whether a row of generations looks like the answer of a policy that chats."""
    kept = cut_at(answer["text"], STOPS)
    return looks_like_chat(answer, kept, problem["entry_point"], problem["prompt"])


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
    args = answers_parser(main.__doc__, Settings).parse_args()
    score_answers(args, "humaneval", read_problems(args.settings["file"]), make_program, is_chat)


if __name__ == "__main__":
    run(main)
