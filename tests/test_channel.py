"""What comes over between a program and its tests: plain data to the last bit, handles for the rest, and no lies."""

import collections
import datetime
import decimal
import fractions
import math
import random

import pytest

from workflow_scripts.common.programs import sandbox
from workflow_scripts.common.programs.channel import UNSEEN, Decoder, Encoder, Foreign, Peer, Unseen
from workflow_scripts.common.programs.sandbox import Program, find_sandbox, run_program
from workflow_scripts.score import mbpp


def refuse(reason):
    raise AssertionError(reason)


def carried(value):
    """Return a value as the tests' end rebuilds it from what the program's end wrote."""
    encoder = Encoder(Peer(-1, -1))
    encoder.put(value)
    return Decoder(Peer(-1, -1, refuse), b"".join(encoder.parts)).get()


PLAIN = [
    None,
    True,
    False,
    ...,
    NotImplemented,
    0,
    -1,
    127,
    -128,
    2**63,
    -(10**4000),
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    math.inf,
    -math.inf,
    1 - 2j,
    "",
    "é\0\n😀",
    "\ud800",
    "\ud83d\ude00",
    b"",
    b"\xff\0",
    bytearray(b"ab"),
    (),
    (1, (2.0, "x")),
    [],
    [[1], [[]]],
    {1, (2, 3), frozenset({4})},
    frozenset(),
    {"b": 1, "a": [2], (1, None): {}},
    collections.Counter("abca"),
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.defaultdict(list, {"a": [1]}),
    collections.deque([1, 2], maxlen=3),
    range(3, 9, 2),
    slice(1, None, -1),
    decimal.Decimal("-0.10"),
    fractions.Fraction(2, 3),
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.UTC),
    datetime.time(1, 2),
    datetime.timedelta(days=-1, microseconds=5),
    int,
    object,
    type(None),
    KeyError,
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_comes_over_to_the_last_bit(value):
    found = carried(value)
    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value)


def test_not_a_number_stays_none():
    assert math.isnan(carried(math.nan))


def test_random_structures_come_over():
    draw = random.Random(11)

    def grown(depth):
        kind = draw.choice([list, tuple, set, frozenset, dict, "leaf"]) if depth else "leaf"
        if kind == "leaf":
            return draw.choice(
                [
                    None,
                    True,
                    draw.randint(-(10**20), 10**20),
                    draw.uniform(-1, 1),
                    "".join(draw.choices("añ\ud800x", k=3)),
                ]
            )
        if kind is dict:
            return {f"k{number}": grown(depth - 1) for number in range(draw.randint(0, 4))}
        if kind in (set, frozenset):
            return kind(grown(0) for _ in range(draw.randint(0, 4)))
        return kind(grown(depth - 1) for _ in range(draw.randint(0, 4)))

    for _ in range(500):
        value = grown(5)
        assert repr(carried(value)) == repr(value) or carried(value) == value


def test_lists_that_share_or_hold_themselves_still_do():
    part = [1]
    first, second = carried([part, part])
    assert first is second
    ring = []
    ring.append(ring)
    found = carried(ring)
    assert found[0] is found


def test_subclasses_come_over_as_the_data_they_hold():
    def lying(base, *args):
        return type(
            "Yes",
            (base,),
            {"__eq__": lambda *_: True, "__hash__": lambda self: 0, "__iter__": lambda self: iter([7])},
        )(*args)

    held = [
        (int, 5),
        (float, 0.5),
        (str, "x"),
        (bytes, b"x"),
        (list, [1]),
        (tuple, (1,)),
        (set, {1}),
        (frozenset, frozenset({1})),
        (dict, {1: 2}),
    ]
    for base, value in held:
        found = carried(lying(base, value))
        assert type(found) is base
        assert found == value
    assert carried(collections.namedtuple("Point", "x y")(1, 2)) == (1, 2)


def test_an_error_comes_over_by_its_nearest_built_in_type():
    class OwnError(KeyError):
        def __init__(self, one, two):
            super().__init__(one, two)

    found = carried(OwnError("a", 2))
    assert isinstance(found, KeyError)
    assert (type(found).__name__, found.args) == ("OwnError", ("a", 2))
    assert "'utf-8' codec" in str(carried(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")))
    assert carried(OSError(2, "gone")).errno == 2


def test_an_object_is_a_handle_that_will_not_be_compared():
    found = carried(object())
    assert type(found) is Foreign
    assert found == found
    for compare in (
        lambda: found == 1,
        lambda: 1 == found,  # noqa: SIM300
        lambda: [1] != [found],  # noqa: SIM300
        lambda: found < 1,
        lambda: abs(found),
        lambda: 2 - found,
        lambda: float(found),
    ):
        with pytest.raises(Unseen, match="it is an object of type object"):
            compare()


def test_broken_messages_make_no_value_and_no_crash():
    draw = random.Random(12)
    encoder = Encoder(Peer(-1, -1))
    encoder.put(("returned", [1, "a", {2.0: (None, b"x")}, collections.deque([3]), range(4)], ()))
    whole = b"".join(encoder.parts)
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            Decoder(Peer(-1, -1, refuse), bytes(data[: draw.randint(1, len(data))])).get()
        except Exception as error:
            assert not isinstance(error, AssertionError)


@pytest.fixture(scope="module")
def run(found_sandbox):
    return lambda code, tests, *names: run_program(
        Program(code, names or ("f",), "", tests), 10.0, 512, found_sandbox
    )


HONEST = {
    "arguments changed in place": (
        "def f(a, b, c, d):\n    a.append(1); a[0].append(2); b['x'] = a; c.add(3); d.appendleft(4)",
        "import collections\ninner = []\na, b, c, d = [inner], {}, set(), collections.deque()\n"
        "assert f(a, b, c, d) is None\nassert a == [[2], 1] and a[0] is inner and b['x'] is a\n"
        "assert c == {3} and list(d) == [4]",
    ),
    "the argument comes back": (
        "def f(a):\n    a.sort()\n    return a",
        "a = [2, 1]\nassert f(a) is a and a == [1, 2]",
    ),
    "named and default arguments": (
        "def f(a, *b, c=1, **d):\n    return a, b, c, d",
        "assert f(1, 2, c=3, e=4) == (1, (2,), 3, {'e': 4})",
    ),
    "a generator": (
        "def f(n):\n    while True:\n        yield n\n        n += 1",
        "import itertools\nassert list(itertools.islice(f(3), 3)) == [3, 4, 5]",
    ),
    "map, zip, keys and items": (
        "def f(kind):\n    return {'map': map(str, [1, 2]), 'zip': zip('ab', [1, 2]),"
        " 'keys': {1: 2}.keys(), 'items': {1: 2}.items()}[kind]",
        "assert list(f('map')) == ['1', '2'] and dict(f('zip')) == {'a': 1, 'b': 2}\n"
        "assert set(f('keys')) == {1} and len(f('items')) == 1 and 1 in f('keys')",
    ),
    "a function comes back": ("def f(n):\n    return lambda m: n + m", "assert f(2)(3) == 5"),
    "a function goes over": (
        "def f(g, values):\n    return sorted(values, key=g), list(map(len, values)), g",
        "g = lambda x: -len(x)\nassert f(g, ['a', 'bb'])[:2] == (['bb', 'a'], [1, 2])\n"
        "assert f(g, [])[2] is g\nassert f(len, ['a'])[0] == ['a']",
    ),
    "types, iterators and their like go over": (
        "def f(kind, values):\n    return [v for v in values if not isinstance(v, kind)]",
        "assert f(int, iter((1, 'a'))) == ['a']\nassert f(str, (x for x in [1, 'a'])) == [1]",
    ),
    "an error that is expected": (
        "class Odd(ValueError): pass\ndef f(n):\n    raise Odd('odd', n)",
        "try:\n    f(3)\nexcept ValueError as error:\n    assert error.args == ('odd', 3)\n"
        "else:\n    raise AssertionError('no error')",
    ),
    "an error within a function of the tests": (
        "def f(g):\n    try:\n        return g(0)\n    except ZeroDivisionError:\n        return 'caught'",
        "assert f(lambda x: 1 / x) == 'caught'",
    ),
    "calls back and forth": (
        "def f(n, g):\n    return 0 if n == 0 else g(n - 1) + 1",
        "def g(n): return f(n, g)\nassert f(20, g) == 20",
    ),
    "a count between calls": (
        "count = 0\ndef f():\n    global count\n    count += 1\n    return count",
        "assert [f(), f(), f()] == [1, 2, 3]",
    ),
    "a match": (
        "import re\ndef f(text):\n    return re.match('(a)(b)?', text)",
        "assert f('ab') and not f('x') and f('ab').group(1) == 'a'\nassert f('ab')[2] == 'b'",
    ),
    "an object with a text": (
        "class V:\n    def __str__(self): return 'v'\ndef f(): return V()",
        "assert str(f()) == 'v' and f'{f()}' == 'v'",
    ),
    "many calls": ("def f(n): return n + 1", "assert all(f(n) == n + 1 for n in range(5000))"),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_tests_do_with_a_function_they_may_do_through_the_channel(run, name):
    code, tests = HONEST[name]
    assert run(code, tests).reason == "passed"


def test_classes_of_the_program_are_used_by_handles(run):
    code = (
        "class Node:\n    def __init__(self, value):\n        self.value, self.left = value, None\n"
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n"
        "def depth(node):\n    return 1 + depth(node.left) if node else 0\n"
        "def deepest(node):\n    return deepest(node.left) if node.left else node"
    )
    tests = (
        "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)\n"
        "assert depth(root) == 3 and root.left.value == 2\n"
        "assert deepest(root) is root.left.left and deepest(root) == root.left.left\n"
        "stack = Stack()\nstack.push(4)\nstack.push([5])\n"
        "assert stack.pop() == [5] and stack.items == [4]\nassert isinstance(stack.items, list)"
    )
    assert run(code, tests, "Node", "Stack", "depth", "deepest").reason == "passed"


@pytest.mark.parametrize(
    ("code", "tests", "reason"),
    [
        ("def f():\n    return object()", "assert f() == 1", f"{UNSEEN}it is an object of type object"),
        ("def f(x):\n    return 1", "class Own: pass\nf(Own())", f"{UNSEEN}they ask with an object of type Own"),
        ("def f():\n    return [[]] * 10**7", "f()", f"{UNSEEN}it has more than 4 MiB"),
        ("def f():\n    raise SystemExit(0)", "try:\n    f()\nexcept BaseException:\n    pass", "SystemExit: 0"),
        ("def f():\n    raise StopIteration", "assert not list(map(lambda _: f(), [1]))", "StopIteration: "),
    ],
)  # fmt: skip
def test_what_cannot_come_over_fails_with_its_reason(run, code, tests, reason):
    outcome = run(code, tests)
    assert not outcome.passed
    assert outcome.reason.strip() == reason.strip()


def mbpp_problem(**more):
    return {"task_id": 1, "test_list": ["assert add(2, 3) == 5", "assert set(pair(1, 2)) == {1, 2}"]} | more


def test_tests_take_from_a_program_what_the_solution_defines_and_nothing_else(run):
    problem = mbpp_problem(
        code="import math\ndef add(a, b):\n    return a + b\ndef pair(a, b):\n    return a, b"
    )
    assert mbpp.make_program(problem, "").names == ("add", "pair")
    lies = (
        "class Yes:\n    def __init__(self, *a): pass\n    def __eq__(self, other): return True\n"
        "set = add = pair = Yes"
    )
    assert not run_program(mbpp.make_program(problem, lies), 10.0, 512, find_sandbox()).passed
    problem["test_list"].append("assert math.isclose(add(0.1, 0.2), 0.3)")
    program = mbpp.make_program(problem, problem["code"])
    assert program.setup == "import math"
    assert run_program(program, 10.0, 512, find_sandbox()).passed
    math_lies = (
        problem["code"].replace("import math", "class math:\n    isclose = lambda *a: True")
        + "\ndef add(a, b):\n    return 5\n"
    )
    assert not run_program(mbpp.make_program(problem, math_lies), 10.0, 512, find_sandbox()).passed


def test_a_function_by_the_name_of_a_built_in_one_is_the_programs(run):
    problem = {"task_id": 1, "test_list": ["assert sum(10, 15) == 6"], "code": "def sum(a, b):\n    return 6"}
    assert run_program(
        mbpp.make_program(problem, "def sum(x, y):\n    return 6"), 10.0, 512, find_sandbox()
    ).passed


def test_the_program_has_what_the_tests_import(run):
    problem = mbpp_problem(
        code="def add(a, b):\n    return a + b\ndef pair(a, b):\n    return a, b",
        test_imports=["import operator"],
    )
    answer = "def add(a, b):\n    return operator.add(a, b)\ndef pair(a, b):\n    return a, b"
    assert run_program(mbpp.make_program(problem, answer), 10.0, 512, find_sandbox()).passed


def test_the_tests_are_nowhere_in_the_programs_memory_or_command(run):
    code = (
        "import gc, sys\ndef f():\n    seen = {id(x): x for x in gc.get_objects()}\n"
        "    for _ in range(3):\n        for x in list(seen.values()):\n"
        "            for y in gc.get_referents(x): seen[id(y)] = y\n"
        "    texts = [str(x) for x in seen.values() if type(x) in (str, bytes)] + sys.orig_argv\n"
        "    word = '-'.join(['secret', 'of', 'the', 'tests'])\n    assert any('orig_argv' in text for text in texts)\n"
        "    return not any(word in text for text in texts)"
    )
    assert run(code, "word = 'secret-of-the-tests'\nassert f()").reason == "passed"


def test_the_interpreter_inside_runs_the_channel_as_it_stands_here():
    assert sandbox.compiled_channel() == sandbox.compiled_channel.__wrapped__()
