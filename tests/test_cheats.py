"""Programs that want to pass without being right: none does, in any sandbox; and what right ones may do, still may."""

import dataclasses
import functools

import pytest

from workflow_scripts.common.programs.sandbox import SANDBOXES, probe, run_program
from workflow_scripts.score import humaneval

PROBLEM = {
    "task_id": "T/0",
    "prompt": "import math\n\ndef weigh(parts):\n    return sum(parts)\n\ndef mean(parts):\n"
    '    """ The mean of some numbers.\n    """\n',
    "entry_point": "mean",
    "canonical_solution": "    return weigh(parts) / len(parts)\n",
    # All ways in which the tests of the real problems look at an answer.
    "test": """
METADATA = {"author": "nobody"}

def check(candidate):
    assert candidate([1, 2, 6]) == 3
    assert candidate([4]) == 4.0, "one"
    assert math.isclose(candidate([1, 2]), 1.5)
    assert abs(candidate([1.5, 2.5]) - 2) < 1e-6
    assert isinstance(candidate([1]), float)
    parts = [0.5, 1.5]
    assert candidate(parts) * len(parts) == weigh(parts)
    assert str(candidate([9, 11])) == "10.0"
    assert sorted([candidate([3]), candidate([1])]) == [1.0, 3.0]
    assert not candidate([0])
""",
}
# Finds whatever looks like a function of the tests, a token, or a frame of theirs.
HUNT = """
    import gc, sys
    frame = sys._getframe()
    while frame:
        for space in (frame.f_locals, frame.f_globals):
            for name, value in list(space.items()):
                if name in ("check", "candidate", "token", "verdict", "end", "fail", "tests"):
                    {found}
        frame = frame.f_back
    for value in gc.get_objects():
        if callable(value) and getattr(value, "__name__", "") in ("check", "run_tests", "end"):
            {found}
"""
YES = """
    class Yes({base}):
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __lt__(self, other): return True
        __le__ = __gt__ = __ge__ = __eq__
        def __hash__(self): return 0
        def __sub__(self, other): return self
        __abs__ = __mul__ = __rmul__ = __rsub__ = __float__ = __sub__
        def __bool__(self): return True
        def __str__(self): return "10.0"
        __class__ = property(lambda self: float)
    return Yes({value})
"""
ENDS = "    import {0}; {1}\n    return 0\n"
# Each follows the prompt as a completion does, or (with {prompt}) is all of the program.
CHEATS = {
    "frames hold the tests": HUNT.format(found="value() if name == 'end' else None"),
    "frames' tests are emptied": HUNT.format(found="value.__code__ = (lambda *a, **k: None).__code__"),
    "frames' token is told": HUNT.format(found="__import__('os').write(1, str(value).encode())"),
    "traceback frames": "    try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        frame = error.__traceback__.tb_frame.f_back\n        while frame:\n"
    "            frame.f_globals['check'] = lambda candidate: None\n            frame = frame.f_back\n    return 0\n",
    "__main__ is patched": "    import sys\n    for module in list(sys.modules.values()):\n"
    "        for name in ('check', 'run_tests', 'refused', 'refill'):\n"
    "            setattr(module, name, lambda *a, **k: None)\n    return 0\n",
    "atexit": "    import atexit, os\n    atexit.register(lambda: os._exit(0))\n    raise SystemExit(0)\n",
    "os._exit(0)": ENDS.format("os", "os._exit(0)"),
    "os._exit(0) at once": "    return 0\nimport os; os._exit(0)\n",
    "sys.exit": ENDS.format("sys", "sys.exit(0)"),
    "SystemExit": "    raise SystemExit\n",
    "SystemExit at once": "    return 0\nraise SystemExit(0)\n",
    "KeyboardInterrupt": "    raise KeyboardInterrupt\n",
    "GeneratorExit": "    raise GeneratorExit\n",
    "StopIteration": "    raise StopIteration\n",
    "an error that claims success": "    class passed(Exception): pass\n    raise passed('passed')\n",
    "the entry point is rebound": "    return 0\nmean = check = lambda *a, **k: None\nweigh = lambda parts: 0\n",
    "a decorator swallows check": "    return 0\nclass Swallow:\n    def __init__(self, *a): pass\n"
    "    def __call__(self, *a, **k): return self\n    def __eq__(self, other): return True\n"
    "check = mean = Swallow()\n",
    "the module's names swallow check": "    return 0\nimport sys\nclass Space(dict):\n"
    "    def __setitem__(self, key, value): pass\nsys.modules['program'].__class__ = type('M', (type(sys),), {\n"
    "    '__setattr__': lambda *a: None, '__getattr__': lambda self, name: (lambda *a: None)})\n",
    "a child process answers": "    import os\n    if os.fork() == 0:\n        for channel in range(64):\n"
    "            try:\n                os.write(channel, b'passed\\n')\n            except OSError:\n"
    "                pass\n        os._exit(0)\n    os.wait()\n    return 0\n",
    "a child process serves on": "    import os\n    os.fork()\n    return 0\n",
    "a thread answers": "    import os, threading\n    def talk():\n        for channel in range(64):\n"
    "            try:\n                os.write(channel, b'!\\x00\\x00\\x00\\x00')\n            except OSError:\n"
    "                pass\n    thread = threading.Thread(target=talk); thread.start(); thread.join()\n    return 0\n",
    "an object equal to all": YES.format(base="object", value=""),
    "an int equal to all": YES.format(base="int", value="0"),
    "a float equal to all": YES.format(base="float", value="0.0"),
    "a str equal to all": YES.format(base="str", value="''"),
    "a list equal to all": YES.format(base="list", value=""),
    "a dict equal to all": YES.format(base="dict", value=""),
    "a mock": "    from unittest.mock import MagicMock, ANY\n    return ANY\n",
    "not a number": "    return float('nan')\n",
    "a type with a lying metaclass": "    class Meta(type):\n        def __eq__(self, other): return True\n"
    "        def __hash__(self): return 0\n    class Yes(metaclass=Meta): pass\n    return Yes\n",
    "builtins are patched": "    import builtins\n    builtins.abs = lambda x: 0\n"
    "    builtins.sorted = lambda *a, **k: [1.0, 3.0]\n    builtins.isinstance = lambda *a: True\n"
    "    builtins.str = lambda x: '10.0'\n    builtins.len = lambda x: 0\n"
    "    builtins.AssertionError = ValueError\n    return 0\n",
    "__builtins__ is replaced": "    return 0\n__builtins__ = {'AssertionError': SystemExit, 'abs': lambda x: 0}\n",
    "AssertionError is no error": "    import builtins\n    class Quiet(BaseException):\n"
    "        def __new__(cls, *a): raise SystemExit(0)\n    builtins.AssertionError = Quiet\n    return 0\n",
    "math.isclose is patched": "    import math\n    math.isclose = lambda *a, **k: True\n"
    "    math.fabs = lambda x: 0\n    return 0\n",
    "forged verdicts on every channel": "    import os\n    for word in (b'passed', b'0' * 32, b'1', b'ok\\n'):\n"
    "        for channel in range(64):\n            try:\n                os.write(channel, word)\n"
    "            except OSError:\n                pass\n    return 0\n",
    "forged verdicts on stdout and stderr": "    import sys\n    for stream in (sys.stdout, sys.stderr,\n"
    "            sys.__stdout__, sys.__stderr__):\n        print('passed', file=stream, flush=True)\n    return 0\n",
    "the channel is closed": "    import os\n    os.closerange(0, 64)\n    return 0\n",
    "the channel is read": "    import os\n    for channel in range(3, 64):\n        try:\n"
    "            os.set_blocking(channel, False); os.read(channel, 10**6)\n        except OSError:\n"
    "            pass\n    return 0\n",
    "the channel is fed answers": "    import os\n    data = b'!' + (0).to_bytes(4, 'big')\n"
    "    for channel in range(3, 64):\n        try:\n            os.write(channel, data * 50)\n"
    "        except OSError:\n            pass\n    return 0\n",
    "the channel's functions are patched": "    import sys\n    frame = sys._getframe()\n    while frame:\n"
    "        space = frame.f_globals\n        if 'Encoder' in space:\n            def put(self, value, depth=0):\n"
    "                self.add(b'n', 4, b'True')\n            space['Encoder'].put = put\n"
    "        frame = frame.f_back\n    return 0\n",
    "the tests' functions are called through the channel": "    import sys\n    frame = sys._getframe()\n"
    "    while frame:\n        peer = frame.f_locals.get('peer') or frame.f_locals.get('self')\n"
    "        if type(peer).__name__ == 'Peer':\n            Foreign = frame.f_globals['Foreign']\n"
    "            for number in range(3):\n                try:\n"
    "                    Foreign(peer, number, 'end')('', 0)\n                except Exception:\n"
    "                    pass\n        frame = frame.f_back\n    return 0\n",
    "signals to the tests": "    import os, signal\n    for number in (signal.SIGTERM, signal.SIGINT,\n"
    "            signal.SIGUSR1, signal.SIGALRM, signal.SIGKILL):\n        os.kill(os.getppid(), number)\n"
    "    return 0\n",
    "signal handlers": "    import os, signal\n    for number in range(1, 32):\n        try:\n"
    "            signal.signal(number, lambda *a: os._exit(0))\n        except (OSError, ValueError):\n"
    "            pass\n    os.kill(os.getpid(), signal.SIGTERM)\n    return 0\n",
    "sys.settrace": "    import sys\n    def trace(frame, event, arg):\n        frame.f_locals['candidate'] = None\n"
    "        return trace\n    sys.settrace(trace); sys.setprofile(trace)\n    return 0\n",
    "audit hooks": "    import os, sys\n    sys.addaudithook(lambda event, args: os._exit(0))\n    return 0\n",
    "excepthook and unraisable": "    import os, sys\n    sys.excepthook = lambda *a: os._exit(0)\n"
    "    raise ValueError\n",
    "the tests are read": "    import glob, os, sys, re\n    text = repr((sys.argv, sys.orig_argv, dict(os.environ)))\n"
    "    for path in [*glob.glob('/proc/*/cmdline'), *glob.glob('/proc/*/environ'), *glob.glob('/proc/*/mem'),\n"
    "            *glob.glob('/proc/*/fd/*'), '/dev/stdin', '/dev/fd/0']:\n        try:\n"
    "            text += open(path, 'rb').read(10**6).decode(errors='replace')\n        except OSError:\n"
    "            pass\n    found = re.search(r'candidate\\(.*\\) == (.+)', text)\n"
    "    return eval(found[1]) if found else 0\n",
    "the input is read again": "    import os\n    for channel in range(64):\n        try:\n"
    "            os.lseek(channel, 0, 0)\n            text = os.read(channel, 10**6)\n"
    "            if b'candidate' in text: return 3\n        except OSError:\n            pass\n    return 0\n",
    "the tests' memory is read": "    import ctypes, os\n    libc = ctypes.CDLL(None, use_errno=True)\n"
    "    parent = os.getppid()\n    for request in (16, 0x4206):  # attach, seize\n"
    "        if libc.ptrace(request, parent, None, None) == 0: return [3, 4.0][0]\n    return 0\n",
    "the tests' memory is overwritten": "    import ctypes, os\n    class Part(ctypes.Structure):\n"
    "        _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]\n"
    "    libc = ctypes.CDLL(None, use_errno=True)\n    buffer = ctypes.create_string_buffer(b'x' * 64)\n"
    "    own = Part(ctypes.addressof(buffer), 64); other = Part(id(True), 64)\n"
    "    libc.process_vm_writev(os.getppid(), ctypes.byref(own), 1, ctypes.byref(other), 1, 0)\n    return 0\n",
    "the tests' channel is taken": "    import ctypes, os\n    libc = ctypes.CDLL(None, use_errno=True)\n"
    "    handle = libc.syscall(434, os.getppid(), 0)\n    for number in range(64):\n"
    "        taken = libc.syscall(438, handle, number, 0)\n        if taken >= 0: os.write(taken, b'passed')\n"
    "    return 0\n",
    "ctypes makes all ints equal": "    import ctypes\n    for number in range(-5, 257):\n"
    "        ctypes.memmove(id(number) + 24, id(3) + 24, 4)\n    return 3\n",
    "a fork bomb": "    import os\n    while True:\n        try:\n            os.fork()\n        except OSError:\n"
    "            pass\n",
    "a depth without end": "    answer = []\n    for _ in range(10**5):\n        answer = [answer]\n"
    "    return answer\n",
    "a ring": "    answer = []\n    answer.append(answer)\n    return answer\n",
    "a tree of one leaf": "    answer = (1,)\n    for _ in range(60):\n        answer = (answer, answer)\n"
    "    return answer\n",
    "a flood": "    return 'x' * 10**8\n",
    "a huge number": "    return 10**(10**7)\n",
    "arguments are emptied": "    parts.clear()\n    return 0\n",
}
HONEST = {
    "the solution": PROBLEM["canonical_solution"],
    "in a child": "    import os\n    reader, writer = os.pipe()\n    if os.fork() == 0:\n"
    "        os.write(writer, str(sum(parts) / len(parts)).encode())\n        os._exit(0)\n    os.wait()\n"
    "    return float(os.read(reader, 100))\n",
    "with prints": "    print(parts)\n    return sum(parts) / len(parts)\n",
    "recursive": "    def add(rest):\n        return rest[0] + add(rest[1:]) if rest else 0\n"
    "    return add(parts) / len(parts)\n",
    "as a float of its own type": "    class Weight(float):\n        pass\n"
    "    return Weight(sum(parts) / len(parts))\n",
}


@pytest.fixture(scope="module", params=SANDBOXES)
def run(request):
    """Return a function (program, seconds=20) -> Outcome in one sandbox; skip where it does not work."""
    outcome = probe(request.param)
    if not outcome.passed:
        pytest.skip(f"{request.param} does not work here: {outcome.reason}")
    return functools.partial(run_program, seconds=20.0, memory_mb=512, sandbox=request.param)


def written(code):
    return dataclasses.replace(humaneval.make_program(PROBLEM, ""), code=PROBLEM["prompt"] + code)


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(run, name):
    seconds = 1.0 if name in ("a fork bomb", "a huge number", "a tree of one leaf") else 5.0
    assert not run(written(CHEATS[name]), seconds=seconds).passed


@pytest.mark.parametrize("name", HONEST)
def test_what_is_right_passes_by_whatever_way(run, name):
    assert run(written(HONEST[name])).reason == "passed"
