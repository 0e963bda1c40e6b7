"""Programs in the answers of policies that chat: found in any wrapping, and never mistaken for a completion."""

import json

import pytest

from tests.generation import SAMPLING
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.programs.chat_code import fenced_blocks, read_program
from workflow_scripts.generate import calibrate, prompts
from workflow_scripts.score import humaneval, mbpp, pass_at_k
from workflow_scripts.study.benchmarks.programs import HumanEval, Mbpp

PROMPT = (
    "from typing import List\n\ndef half(x):\n    return x / 2\n\n"
    'def odd_sum(numbers: List[int]) -> int:\n    """ Add up the odd numbers of a list.\n'
    '    >>> odd_sum([1, 2, 3])\n    4\n    """\n'
)
PROBLEM = {
    "task_id": "T/0",
    "prompt": PROMPT,
    "test": "def check(candidate):\n    assert candidate([1, 2, 3]) == 4\n    assert candidate([]) == 0\n",
    "entry_point": "odd_sum",
    "canonical_solution": "    total = 0\n    for number in numbers:\n        if number % 2:\n"
    "            total += number\n    return total\n",
}
BODY = PROBLEM["canonical_solution"]
SIGNATURE = "def odd_sum(numbers: List[int]) -> int:\n"
WHOLE = SIGNATURE + BODY
HELPED = (
    "import math\n\ndef is_odd(n):\n    return math.fmod(n, 2) == 1\n\n"
    "def odd_sum(numbers):\n    return sum(n for n in numbers if is_odd(n))\n"
)
HELPER, REST = HELPED.split("def odd_sum")
REST = "def odd_sum" + REST


def fence(code, tag="python"):
    return f"```{tag}\n{code}```\n"


def indent(text, by="   "):
    return "".join(by + line if line.strip() else line for line in text.splitlines(True))


ANSWERS = {
    "fenced": f"Here is the function:\n\n{fence(WHOLE)}",
    "fenced, with prose after": f"Sure!\n{fence(WHOLE)}\nIt adds up the odd numbers. Note that `0` is even.\n",
    "no tag": fence(WHOLE, ""),
    "tag py": fence(WHOLE, "py"),
    "tag Python 3": fence(WHOLE, "Python 3"),
    "tag python3": fence(WHOLE, "python3"),
    "odd tag": fence(WHOLE, "code"),
    "tag with attributes": fence(WHOLE, 'python title="odd.py"'),
    "tildes": f"~~~python\n{WHOLE}~~~\n",
    "four ticks": f"````python\n{WHOLE}````\n",
    "windows lines": f"Here:\n\n{fence(WHOLE)}".replace("\n", "\r\n"),
    "unclosed": f"Here is the function:\n```python\n{WHOLE}",
    "unclosed, with prose after": f"Here is the function:\n```python\n{WHOLE}\nThis adds up the odd numbers.\n",
    "unclosed, cut within an example": f"```python\n{WHOLE}\nprint(odd_sum([1, 2",
    "indented": "1. The function:\n\n" + indent(fence(WHOLE)) + "\n2. Its use is plain.\n",
    "indented fence, code not": f"   ```python\n{WHOLE}   ```\n",
    "closed at the last line": f"```python\n{WHOLE.rstrip()}```",
    "code in the opening line": f"```def odd_sum(numbers):\n{BODY}```",
    "docstring repeated": fence(PROMPT + BODY),
    "no docstring": fence(f"def odd_sum(numbers):\n{BODY}"),
    "signature without imports": fence(WHOLE),
    "async helper and decorator": fence(f"import functools\n\n@functools.cache\ndef two():\n    return 2\n\n{WHOLE}"),
    "helpers and imports before": fence(HELPED),
    "helpers in a block before": f"First a helper:\n{fence(HELPER)}\nThen the function:\n{fence(REST)}",
    "helpers after": fence(f"{REST}\nimport math\n\ndef is_odd(n):\n    return n % 2 == 1\n"),
    "future import": fence(f"from __future__ import annotations\n\n{WHOLE}"),
    "as a lambda": fence("odd_sum = lambda numbers: sum(n for n in numbers if n % 2)\n"),
    "a constant before": fence(
        "ODD = 1\n\ndef odd_sum(numbers):\n    return sum(n for n in numbers if n % 2 == ODD)\n"
    ),
    "the helper of the prompt is used": fence(
        "def odd_sum(numbers):\n    return int(sum(half(2 * n) for n in numbers if n % 2))\n"
    ),
    "an example block after": f"{fence(WHOLE)}\nUse it so:\n{fence('print(odd_sum([1, 2, 3]))  # 4' + chr(10))}",
    "an example block that fails": f"{fence(WHOLE)}\nUse it so:\n{fence('assert odd_sum(input()) == 5' + chr(10))}",
    "output in a block after": f"{fence(WHOLE)}\nOutput:\n```\n4\n```\n",
    "a shell block before": f"```bash\npip install nothing\n```\n{fence(WHOLE)}",
    "wrong tests in the block": fence(f"{WHOLE}\nassert odd_sum([1]) == 7\nprint(odd_sum(input()))\n"),
    "a main guard": fence(f"{WHOLE}\nif __name__ == '__main__':\n    raise SystemExit(odd_sum([1]))\n"),
    "a corrected second block": f"{fence(SIGNATURE + '    return 0' + chr(10))}\nThat was wrong:\n{fence(WHOLE)}",
    "thoughts before": f"<think>\nMaybe {fence(SIGNATURE + '    pass' + chr(10))} or so.\n</think>\n{fence(WHOLE)}",
    "body alone, fenced": fence(BODY),
    "body alone, fenced, without its indentation": fence(
        "total = 0\nfor number in numbers:\n    if number % 2:\n        total += number\nreturn total\n"
    ),
    "body alone, bare": BODY,
    "body alone, first line without its indentation": BODY.lstrip(),
    "body alone with prose": f"Fill in the body:\n{fence(BODY)}Done.\n",
    "body alone in tabs": fence("\treturn sum(n for n in numbers if n % 2)\n"),
    "bare": WHOLE,
    "bare, after an empty line": "\n\n" + WHOLE,
    "bare, with imports": HELPED,
    "bare, between prose": f"Here is the function:\n\n{WHOLE}\nIt adds up the odd numbers.\n",
    "bare, after prose that looks like code": f"from the list, take the odd numbers:\n\n{WHOLE}",
    "bare, indented as Markdown's code": "The function:\n\n" + indent(WHOLE, "    ") + "\nThat is all.\n",
}  # fmt: skip
WRONG = {
    "nothing": "",
    "a refusal": "I cannot help with that.",
    "a wrong function": fence(SIGNATURE + "    return 0\n"),
    "another name": fence("def add(numbers):\n    return 4\n"),
    "an empty fence": "```python\n```\n",
    "the stub again": fence(PROMPT),
    "cut in the function": "```python\ndef odd_sum(numbers):\n    total = 0\n    for number in",
    "a null byte": fence(WHOLE + "\0"),
}


def passes(text, problem=PROBLEM, chat=True):
    """Return whether an answer's program passes its tests, here and now: what runs apart is tested elsewhere."""
    program = humaneval.make_program(problem, text, chat)
    space = {"__name__": "program"}
    try:
        exec(program.code, space)
        exec(program.setup.split("def odd_sum")[0] + program.tests, space)
    except (Exception, SystemExit):
        return False
    return True


@pytest.mark.parametrize("name", ANSWERS)
def test_a_right_function_is_found_however_it_is_wrapped(name):
    assert passes(ANSWERS[name])


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_stays_wrong(name):
    assert not passes(WRONG[name])


@pytest.mark.parametrize(
    "name", [name for name in ANSWERS if name != "body alone, first line without its indentation"]
)
def test_a_completion_is_never_wrong_in_silence_for_being_chat(name):
    answer = {"text": ANSWERS[name], "completion_tokens": 9}
    assert passes(answer["text"], chat=False) or humaneval.is_chat(PROBLEM, answer)


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        "    return 0\n",
        "    return helper(numbers)\n\ndef helper(numbers):\n    return 0\n",
        "    pass\n\n# Try it:\n```python\n",
        '    """\n    ```\n    """\n    return 0\n',
        "    return 0\n\nif __name__ == '__main__':\n    def odd_sum(numbers): return 4\n",
        "    return 1\n\nclass Other:\n    pass\n",
        "    def odd_sum_of(x):\n        return x\n    return 0\n",
    ],
)
def test_a_raw_completion_does_not_look_like_chat(text):
    assert not humaneval.is_chat(PROBLEM, {"text": text, "completion_tokens": 9})


@pytest.mark.parametrize("text", ["", "\n", "```python", "Here it is:\n\n```python\n"])
def test_what_the_engine_leaves_of_a_chat_answer_is_seen(text):
    assert humaneval.is_chat(PROBLEM, {"text": text, "completion_tokens": 9})
    assert not humaneval.is_chat(PROBLEM, {"text": "", "completion_tokens": 0})  # the calibration row


def test_an_mbpp_answer_in_a_fence_is_seen_and_a_program_before_one_is_not():
    problem = {"test_list": ["assert f() == 1"], "code": "def f():\n    return 1"}
    for text in ("```python\ndef f():\n    return 1\n```", "Here is it:\n```python\ndef f(): ...", "Sure:\n"):
        assert mbpp.is_chat(problem, {"text": text, "completion_tokens": 9}) == (text != "Sure:\n")
    assert not mbpp.is_chat(
        problem, {"text": "def f():\n    return 2\n```\nThat is it.", "completion_tokens": 9}
    )


def test_an_mbpp_program_is_found_with_its_classes_wherever_they_stand():
    text = "A class:\n" + fence("class P:\n    n = 1\n") + "\nAnd:\n" + fence("def f():\n    return P.n\n")
    assert read_program(text, ["f"]).split() == "class P: n = 1 def f(): return P.n".split()
    assert "class P" in read_program(text, ["P", "f"])
    assert read_program("No code at all.", ["f"]).strip() == "No code at all."


@pytest.mark.parametrize("character", ["\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_line_of_code_ends_where_python_ends_it_and_at_no_other_character(character):
    body = f'    marks = "a{character}b"\n    assert len(marks) == 3\n{BODY}'
    for answer in (
        fence(f"{SIGNATURE}{body}"),
        f"{SIGNATURE}{body}",
        fence(body),
        fence(f"{SIGNATURE}{body}\nodd_sum([])"),
    ):
        names: dict = {}
        exec(read_program(answer, ["odd_sum"], PROMPT), names)
        assert names["odd_sum"]([1, 2, 3]) == 4


def test_blocks_end_where_they_are_closed():
    assert fenced_blocks("a\n```\nb\n```\nc\n~~~ x\n```\nd\n~~~\n```py\ne") == ["b", "```\nd", "e"]
    assert fenced_blocks("```py\na\n```py\nb\n```") == ["a", "b"]
    assert fenced_blocks("`x` and ```y``` are no blocks") == []


@pytest.mark.parametrize(
    "text",
    [
        "import a\n" * 5000,
        "from\n" * 5000,
        "```\n" * 5000,
        "(" * 20000,
        "x=" * 20000 + "1",
        "```python\n" + "def f(:\n" * 5000,
        "a" + ".b" * 20000,
    ],
)
def test_answers_of_any_kind_are_read_in_bounded_time(text):
    assert read_program(text, ["odd_sum"], PROMPT)  # where it is not bounded, this takes hours


def make_prompts(monkeypatch, tmp_path, kind, rows, form, policy="gold", *more):
    """Return the prompt set's rows and manifest, and the calibration answers to them."""
    write_jsonl(tmp_path / "problems.jsonl", rows)
    flags = [
        "--kind",
        kind,
        "--input",
        tmp_path / "problems.jsonl",
        "--sampling",
        json.dumps(SAMPLING),
        "--form",
        form,
    ]
    flags += [*more, "--output", tmp_path / "set.jsonl", "--manifest", tmp_path / "set.json"]
    monkeypatch.setattr("sys.argv", ["prompts", *map(str, flags)])
    prompts.main()
    asked = read_jsonl(tmp_path / "set.jsonl")
    return asked, read_json(tmp_path / "set.json"), calibrate.calibration_answers(asked, 1, policy)


MBPP_ROWS = [
    {
        "task_id": number,
        "text": f"Return {number}.",
        "code": f"def f():\r\n    return {number}",
        "test_list": [f"assert f() == {number}"],
    }
    for number in (11, 12)
]


def test_an_instruct_prompt_is_a_users_turn_and_no_stop_string_cuts_its_answer(monkeypatch, tmp_path):
    (row,), manifest, (gold,) = make_prompts(monkeypatch, tmp_path, "humaneval", [PROBLEM], "instruct")
    assert "text" not in row
    assert [message["role"] for message in row["messages"]] == ["user"]
    assert PROMPT.strip() in row["messages"][0]["content"]
    assert manifest["sampling"]["stop"] == []
    assert passes(gold["text"])
    (row,), manifest, (gold,) = make_prompts(monkeypatch, tmp_path, "humaneval", [PROBLEM], "completion")
    assert (row["text"], gold["text"]) == (PROMPT, BODY)
    assert manifest["sampling"]["stop"] == prompts.CODE_STOPS


def test_instruct_prompts_of_mbpp_show_solved_problems_as_turns(monkeypatch, tmp_path):
    (row,), manifest, (gold,) = make_prompts(
        monkeypatch, tmp_path, "mbpp", MBPP_ROWS, "instruct", "gold", "--shots", 12
    )
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "user"]
    assert "return 12" in row["messages"][1]["content"]
    assert "assert f() == 11" in row["messages"][2]["content"]
    assert "return 11" not in row["messages"][2]["content"]
    assert manifest["sampling"]["stop"] == []
    assert read_program(gold["text"], ["f"]).strip() == "def f():\n    return 11"


def test_an_instruct_benchmark_has_room_to_talk_unless_told():
    common = {"source": "s", "form": "instruct"}
    assert HumanEval(kind="humaneval", **common).max_new_tokens == 1024
    assert Mbpp(kind="mbpp", file="f", **common, max_new_tokens=50).max_new_tokens == 50
    assert HumanEval(kind="humaneval", source="s").max_new_tokens == 512


def test_settings_without_a_form_read_each_answer_for_what_it_is(monkeypatch, tmp_path):
    seen = []

    def fake(asked, written, settings, sandbox):
        seen.extend(answer.program.code for answer in written["T/0"])
        return []

    monkeypatch.setattr(pass_at_k, "score", fake)
    monkeypatch.setattr(pass_at_k, "find_sandbox", lambda allowed: "none")
    make_prompts(monkeypatch, tmp_path, "humaneval", [PROBLEM], "completion")
    rows = [
        {"id": "T/0", "sample": n, "turn": 0, "text": text} for n, text in enumerate((BODY, fence(WHOLE)))
    ]
    write_jsonl(tmp_path / "answers.jsonl", rows)
    flags = [
        "--prompts",
        "set.jsonl",
        "--generations",
        "answers.jsonl",
        "--output",
        "s.json",
    ]
    argv = [part if part.startswith("--") else str(tmp_path / part) for part in flags]
    settings = {"form": None, "k": [1], "timeout_seconds": 3.0, "memory_mb": 512, "workers": 2}
    settings = json.dumps(settings | {"allow_unsandboxed": True, "file": str(tmp_path / "problems.jsonl")})
    monkeypatch.setattr("sys.argv", ["humaneval", *argv, "--settings", settings])
    humaneval.main()
    assert seen == [
        humaneval.make_program(PROBLEM, BODY).code,
        humaneval.make_program(PROBLEM, fence(WHOLE), True).code,
    ]
    with pytest.raises(PlumblineError):
        humaneval.read_problems(str(tmp_path / "set.jsonl"))
