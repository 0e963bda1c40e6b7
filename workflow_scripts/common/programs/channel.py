"""A program that a policy wrote and its tests, in two processes of one sandbox, with plain data between them.

The program's process has nothing but its own code and what it is called with; it serves calls. The tests run in a fresh
interpreter that it can neither patch nor read, and see of an answer only what is rebuilt here from plain data (see
`wire`). Arguments that were changed in place are changed for the tests, too. Everything else is a handle: tests may
call it, read and set its attributes, index it and go through it, but not compare it.

Covers what runs inside; `sandbox` compiles this file and `wire`, hands them in, and decides what the outcome was. It
imports little, because every program pays for it. Not covered: the walls around both processes, which are the
sandbox's.
"""

import builtins
import ctypes
import os
import resource
import signal
import sys

from workflow_scripts.common.programs.wire import (
    LONGEST,
    NAMES,
    UNSEEN,
    Broken,
    Decoder,
    Encoder,
    Foreign,
    Unseen,
    contents,
    refill,
)

UNDUMPABLE = 4  # PR_SET_DUMPABLE: without it no process of the same user may read this one's memory


class Closed(Exception):
    """The other process has gone."""


def _next(iterator):
    """Return the next value in a tuple, or an empty one at the end."""
    for value in iterator:
        return (value,)
    return ()


OPERATIONS = {
    "call": lambda function, args, named: function(*args, **dict(named)),
    "get": getattr,
    "set": setattr,
    "item": lambda value, key: value[key],
    "iter": iter,
    "next": _next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
}
SERVED_BY_TESTS = ("call", "iter", "next")


class Peer:
    """One end of the channel: asks the other for something, and serves what the other asks meanwhile."""

    def __init__(self, reader, writer, fail=None):
        """Make the tests' end if there is a `fail`, a function of a reason that never returns; else the program's."""
        self.reader, self.writer, self.fail = reader, writer, fail
        self.exports, self.numbers, self.imports = [], {}, {}
        every = vars(builtins) | NAMES  # the tests may hand over any function; what comes back is data
        self.names = NAMES if fail else every
        self.named = {id(value): name for name, value in (every if fail else NAMES).items()}

    def export(self, value):
        """Return the number under which the other side may use an object; the tests lend functions and iterators."""
        if self.fail and not (callable(value) or hasattr(value, "__next__")):
            raise Unseen(f"{UNSEEN}they ask with an object of type {type(value).__name__}")
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.exports)
            self.exports.append(value)
        return self.numbers[id(value)]

    def foreign(self, number, kind):
        if not isinstance(kind, str):
            raise Broken
        return self.imports.setdefault(number, Foreign(self, number, kind[:80]))

    def send(self, kind, parts):
        data = b"".join([kind, sum(map(len, parts)).to_bytes(4, "big"), *parts])
        while data:
            data = data[os.write(self.writer, data) :]

    def read(self, count):
        parts = []
        while count:
            part = os.read(self.reader, min(count, 2**16))
            if not part:
                raise Closed
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def receive(self):
        """Return the next message: whether it is a request, and its bytes."""
        head = self.read(5)
        size = int.from_bytes(head[1:], "big")
        if head[:1] not in (b"?", b"!") or size > LONGEST + 2**10:
            raise Broken
        return head[:1] == b"?", self.read(size)

    def ask(self, operation, *operands):
        """Return what the other side answers, or raise what it raised; on the tests' end what is odd ends it all."""
        try:
            outcome, value = self.exchange((operation, *operands))
        except Closed:
            raise
        except Exception as error:
            if not self.fail:
                raise
            self.fail(str(error) if isinstance(error, Unseen) else "the program sent what is no answer")
        if outcome == "returned":
            return value
        if self.fail and not isinstance(value, Exception):  # an exit, or what could not be carried over
            self.fail(value if isinstance(value, str) else f"{type(value).__name__}: {value}")
        raise value if isinstance(value, Exception) else Unseen(value)

    def exchange(self, request):
        encoder = Encoder(self)
        encoder.put(request)
        self.send(b"?", encoder.parts)
        while True:
            asked, data = self.receive()
            if not asked:
                break
            self.answer(data)
        decoder = Decoder(self, data, encoder.objects)
        outcome, value, changed = decoder.get()
        if outcome not in ("returned", "raised") or (
            outcome == "raised" and not isinstance(value, (BaseException, str))
        ):
            raise Broken
        for number, items in changed:
            if number >= len(encoder.objects):
                raise Broken
            refill(encoder.objects[number], items)
        return outcome, value

    def answer(self, data):
        """Serve one request."""
        decoder = Decoder(self, data)
        operation, *operands = decoder.get()
        if self.fail and (operation not in SERVED_BY_TESTS or id(operands[0]) not in self.numbers):
            raise Broken
        try:
            result = "returned", OPERATIONS[operation](*operands)
        except Closed:
            raise
        except BaseException as error:
            result = "raised", error
        encoder = Encoder(self, decoder.objects)
        try:
            encoder.put(
                (*result, tuple((number, contents(value)) for number, value in enumerate(decoder.objects)))
            )
        except BaseException as error:
            encoder = Encoder(self)
            reason = str(error) if isinstance(error, Unseen) else f"{UNSEEN}{type(error).__name__}"
            encoder.put(("raised", reason, ()))
        self.send(b"!", encoder.parts)


def packed(*values):
    """Return values of ours as bytes, of any length, for `main` in the sandbox."""
    encoder = Encoder(Peer(-1, -1), longest=2**32 - 1)
    encoder.put(values)
    return b"".join(encoder.parts)


def limit(kind, value):
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def confine(seconds, memory, user):
    """Become a user, unless that is 0, and limit what this process and its children may take."""
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_CPU, int(seconds) + 2)
    limit(resource.RLIMIT_FSIZE, 2**20)
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_CORE, 0)


def serve_program(peer):
    """Run the program that the tests' end sends, and serve what it asks of it, until it goes."""
    program = type(sys)("program")
    sys.modules["program"] = program
    sys.argv = ["program"]

    def run(code):
        exec(compile(code, "program", "exec"), program.__dict__)

    def find(name):
        return program.__dict__[name]

    OPERATIONS.update(run=run, find=find)
    while True:
        _, data = peer.receive()
        peer.answer(data)


def run_tests(peer, code, names, setup, tests):
    """Run tests with these names of the program's; what `setup` says of them gives way."""
    peer.ask("run", code)
    module = type(sys)("program")
    exec(compile(setup, "setup", "exec"), module.__dict__)
    for name in names:
        module.__dict__.pop(name, None)
        try:
            module.__dict__[name] = peer.ask("find", name)
        except KeyError:
            continue  # the tests will say that the name is not defined
    exec(compile(tests, "tests", "exec"), module.__dict__)


def main(needed, seconds, memory, processes, user):
    """Judge the program that stands in the input, and write its token, or why not, as the only output.

    `needed` are modules of the standard library, with commas between, that both processes will import: so they are
    imported once.
    """
    given, verdict, null = os.dup(0), os.dup(1), os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    confine(seconds, memory, user)

    def end(text, status):
        os.write(verdict, text[:500].encode(errors="replace"))
        os._exit(status)

    if ctypes.CDLL(None).prctl(UNDUMPABLE, 0, 0, 0, 0):
        end("the tests could not be shut off from the program", 1)
    (to_program, asking), (to_tests, serving) = os.pipe(), os.pipe()
    for name in filter(None, needed.split(",")):
        try:
            __import__(name)
        except ImportError:
            continue  # whoever needs it will say so
    child = os.fork()  # before any word of the tests was read
    limit(resource.RLIMIT_NPROC, processes)  # after the fork: other programs of this user must not hinder it
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if child == 0:
        for ours in (given, verdict, null, asking, to_tests):
            os.close(ours)
        try:
            serve_program(Peer(to_program, serving))
        finally:
            os._exit(0)
    os.close(to_program)
    os.close(serving)
    with open(given, "rb") as stream:
        token, *program = Decoder(Peer(-1, -1), stream.read()).get()
    try:
        run_tests(Peer(to_tests, asking, lambda reason: end(reason, 1)), *program)
    except (Closed, BrokenPipeError):
        os.kill(child, signal.SIGKILL)  # unless it has ended by itself, as its status then says
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end("", 128 - status if status < 0 else status)
    except BaseException as error:
        end(str(error) if isinstance(error, Unseen) else f"{type(error).__name__}: {error}", 1)
    end(token, 0)
