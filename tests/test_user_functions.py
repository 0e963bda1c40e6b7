"""Reward functions of a user's own file: what they are called with, what they may return, and what their errors say."""

import textwrap

import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.reward_columns import answer_turn, provenance, reward_rows
from workflow_scripts.common.reward_rules import normal
from workflow_scripts.common.user_functions import caller_of, digests_of, files_of
from workflow_scripts.study.functions import fault_of_function

TURN = answer_turn(
    {
        "id": "p#0",
        "group": "g",
        "messages": [{"role": "user", "content": "Why?"}],
        "meta": {"turn": 0},
        "reference": ["Because."],
    },
    "Who knows?",
)


def written(folder, code: str, name: str = "mine.py") -> str:
    """Return FILE.py:score of a file that is written here."""
    (folder / name).write_text(textwrap.dedent(code))
    return f"{folder / name}:score"


def test_a_function_is_called_by_keyword_with_what_it_takes(tmp_path):
    code = """
        def score(*, reply, prompt, reference="none", meta=None, weight=2.0):
            assert (prompt, meta) == ([{"role": "user", "content": "Why?"}], {"turn": 0})
            return weight * (reply == "Who knows?") + (reference == "Because.")
    """
    assert caller_of(written(tmp_path, code))(TURN) == 3.0
    assert caller_of(written(tmp_path, "def score(**all): return len(all)", "all.py"))(TURN) == 5.0
    assert caller_of(written(tmp_path, "score = lambda id: id == 'p#0'", "lambda.py"))(TURN) == 1.0


@pytest.mark.parametrize("value", ["'good'", "None", "float('nan')", "float('inf')", "[1.0]", "1j"])
def test_what_is_no_finite_number_is_refused_by_its_row(tmp_path, value):
    reward = caller_of(written(tmp_path, f"def score(reply): return {value}"))
    with pytest.raises(PlumblineError, match=r"row p#0: .*mine\.py:score returned .* finite number"):
        reward(TURN)


def test_numbers_of_numpy_and_truth_values_are_numbers(tmp_path):
    code = "import numpy\ndef score(reply): return numpy.float32(0.5)"
    assert caller_of(written(tmp_path, code))(TURN) == 0.5
    assert caller_of(written(tmp_path, "def score(reply): return True", "truth.py"))(TURN) == 1.0


def test_an_error_names_the_users_file_the_line_and_the_row(tmp_path):
    code = """
        import json

        def inner(reply):
            return json.loads(reply)

        def score(reply):
            return inner(reply)
    """
    with pytest.raises(PlumblineError, match=r"mine\.py:5: JSONDecodeError: .* \(at row p#0\)"):
        caller_of(written(tmp_path, code))(TURN)
    with pytest.raises(PlumblineError, match=r"mine\.py:2: ZeroDivisionError"):
        caller_of(written(tmp_path, "\n1 / 0\ndef score(reply): return 1"))
    with pytest.raises(PlumblineError, match=r"mine\.py:1: SystemExit"):
        caller_of(written(tmp_path, "def score(reply): raise SystemExit(0)"))(TURN)


def test_a_file_may_import_what_stands_beside_it_and_that_belongs_to_it(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").write_text("")
    (tmp_path / "parts/deep.py").write_text("VALUE = 2.0")
    (tmp_path / "sibling_of_mine.py").write_text("from parts.deep import VALUE")
    (tmp_path / "stranger.py").write_text("")
    function = written(tmp_path, "import sibling_of_mine\ndef score(reply): return sibling_of_mine.VALUE")
    assert caller_of(function)(TURN) == 2.0
    wanted = {"mine.py", "sibling_of_mine.py", "parts/__init__.py", "parts/deep.py"}
    assert {path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path / "mine.py")} == wanted
    before = digests_of(function)
    assert set(before) == wanted
    (tmp_path / "stranger.py").write_text("1")
    assert digests_of(function) == before
    (tmp_path / "parts/deep.py").write_text("VALUE = 3.0")
    changed = digests_of(function)
    assert {file for file in wanted if changed[file] != before[file]} == {"parts/deep.py"}


def test_a_function_is_a_reward_column_like_any_other(tmp_path):
    function = written(tmp_path, "def score(reply): return len(reply)")
    mine = {"function": function, "weight": 0.5, "code": digests_of(function)}
    rewards = {"mine": mine, "match": {"rule": "exact_match", "weight": 1.0, "words": 40}}
    (row,) = reward_rows([TURN], [], rewards)
    assert row["rewards"] == {"mine": 10.0, "match": 0.0, "final_reward": 5.0}
    assert provenance(rewards)["mine"] == {"settings": mine}
    broken = {"mine": mine | {"function": written(tmp_path, "def score(reply): return None", "none.py")}}
    with pytest.raises(PlumblineError, match="reward mine: row p#0"):
        reward_rows([TURN], [], broken)


def test_an_exact_match_looks_past_case_white_space_and_marks_at_the_ends():
    match = {"match": {"rule": "exact_match", "weight": 1.0, "words": 40}}
    texts = ["because", ' "BECAUSE"\n', "Because. It is", "3.5"]
    turns = [TURN | {"reference": text} for text in texts]
    assert [row["rewards"]["match"] for row in reward_rows(turns, [], match)] == [1.0, 1.0, 0.0, 0.0]
    assert normal("3.5") != normal("35")
    assert normal("ﬁne  Straße") == normal("FINE STRASSE")
    with pytest.raises(PlumblineError, match="reward match: row p#0: has no reference"):
        reward_rows([TURN | {"gold": None}], [], match)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def score(reply): return 1", None),
        ("def score(reply, *, meta=None, tuning=3, **rest): return 1", None),
        ("from elsewhere import score", None),
        ("score = len", None),
        ("def scores(reply): return 1", "has no function 'score'; did you mean 'scores'?"),
        ("def score(completion): return 1", "takes completion, and a reward is called with prompt, reply"),
        ("def score(reply, *, answer): return 1", "takes answer"),
        ("def score(reply, /): return 1", "by position alone"),
        ("async def score(reply): return 1", "is async"),
        ("def score(reply) return 1", "is no Python"),
        ("raise SystemExit('it was run')\ndef score(reply): return 1", None),
    ],
)
def test_a_check_reads_a_function_without_running_it(tmp_path, code, said):
    found = fault_of_function(written(tmp_path, code))
    assert found is None if said is None else said in found


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("mine.py", "must be FILE.py:NAME"),
        ("mine.txt:score", "must be FILE.py:NAME"),
        ("nowhere/mine.py:score", "no such file 'nowhere/mine.py'"),
        ("studies/rewards/example.py:score", None),  # relative to the repository
    ],
)
def test_a_check_says_what_a_function_must_be_called(function, said):
    found = fault_of_function(function)
    assert found is None if said is None else said in found


def test_two_functions_never_share_a_module_of_one_name(tmp_path):
    for place, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "the_worth_of_it.py").write_text(f"WORTH = {value}")
    code = "import the_worth_of_it\ndef score(reply): return the_worth_of_it.WORTH"
    assert caller_of(written(tmp_path / "one", code))(TURN) == 1.0
    with pytest.raises(
        PlumblineError, match=r"two/the_worth_of_it\.py: mine\.py imports it as the_worth_of_it"
    ):
        caller_of(written(tmp_path / "two", code))
    with pytest.raises(PlumblineError, match="another module of that name"):
        (tmp_path / "json.py").write_text("")
        caller_of(written(tmp_path, "import json\ndef score(reply): return 1.0", "shadow.py"))


def test_a_file_may_define_dataclasses(tmp_path):
    code = """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass
        class Worth:
            value: float

        def score(reply):
            return Worth(0.5).value
    """
    assert caller_of(written(tmp_path, code))(TURN) == 0.5
