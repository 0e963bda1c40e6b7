"""A program that a policy wrote and its tests, in two processes of one sandbox, with plain data between them.

The program's process has nothing but its own code and what it is called with; it serves calls. The tests run in a fresh
interpreter that it can neither patch nor read, and see of an answer only what is rebuilt here from plain data: None,
numbers, texts, bytes, list, tuple, set, frozenset, dict, deque and their kin in `collections`, range, Decimal, Fraction,
dates, exceptions, the built-in types. Subclasses come over as the data they hold, so an `__eq__` of theirs is never
asked. Arguments that were changed in place are changed for the tests, too. Everything else is a handle: tests may call
it, read and set its attributes, index it and go through it, but not compare it.

Covers what runs inside; `sandbox` compiles this file, hands it in, and decides what the outcome was. It imports little,
because every program pays for it. Not covered: the walls around both processes, which are the sandbox's.
"""

import builtins
import ctypes
import os
import resource
import signal
import struct
import sys
from _collections import OrderedDict, defaultdict, deque  # `collections` costs more than all of this module

LONGEST = 4 * 2**20  # bytes of one message
DEEPEST = 100  # levels of containers within containers
UNSEEN = "the tests cannot see the answer: "  # begins the reason of what could not be carried over
UNDUMPABLE = 4  # PR_SET_DUMPABLE: without it no process of the same user may read this one's memory
CONSTANTS = {"None": None, "True": True, "False": False, "Ellipsis": ..., "NotImplemented": NotImplemented}
PLAIN = (int, float, complex, bool, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, object)
ERRORS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
NAMES = CONSTANTS | {kind.__name__: kind for kind in (*PLAIN, type(None))} | ERRORS
# Types of the standard library: the arguments that say all of a value, and what makes it anew.
MADE = {
    "builtins.range": (lambda value: (value.start, value.stop, value.step), "range"),
    "builtins.slice": (lambda value: (value.start, value.stop, value.step), "slice"),
    "decimal.Decimal": (lambda value: (str(value),), "Decimal"),
    "fractions.Fraction": (lambda value: (value.numerator, value.denominator), "Fraction"),
    "datetime.date": (lambda value: (value.isoformat(),), "date.fromisoformat"),
    "datetime.time": (lambda value: (value.isoformat(),), "time.fromisoformat"),
    "datetime.datetime": (lambda value: (value.isoformat(),), "datetime.fromisoformat"),
    "datetime.timedelta": (lambda value: (value.days, value.seconds, value.microseconds), "timedelta"),
}
# What is in a value of a type or of its subclasses, read past whatever the subclass defines.
MUTABLE = (
    (b"o", OrderedDict, OrderedDict.items),
    (b"y", defaultdict, dict.items),
    (b"d", dict, dict.items),
    (b"l", list, list.__iter__),
    (b"S", set, set.__iter__),
    (b"q", deque, deque.__iter__),
    (b"a", bytearray, bytearray.__iter__),
)
EMPTY = {b"l": list, b"d": dict, b"S": set, b"o": OrderedDict, b"a": bytearray}
FROZEN = ((b"t", tuple, tuple.__iter__), (b"z", frozenset, frozenset.__iter__))


class Unseen(TypeError):
    """Something cannot be carried from one process to the other, or not be compared there."""


class Broken(Exception):
    """The other process sent what is no message."""


class Closed(Exception):
    """The other process has gone."""


class Foreign:
    """A handle on an object of the other process."""

    __slots__ = ("_kind", "_number", "_peer")

    def __init__(self, peer, number, kind):
        for name, value in zip(Foreign.__slots__, (kind, number, peer), strict=True):
            object.__setattr__(self, name, value)

    def __call__(self, *args, **named):
        return self._peer.ask("call", self, args, tuple(named.items()))

    def __getattr__(self, name):
        if name.startswith("__"):  # protocols, such as those of copy, would take any answer for a yes
            raise AttributeError(name)
        return self._peer.ask("get", self, name)

    def __setattr__(self, name, value):
        self._peer.ask("set", self, name, value)

    def __getitem__(self, key):
        return self._peer.ask("item", self, key)

    def __iter__(self):
        iterator = self._peer.ask("iter", self)
        while found := self._peer.ask("next", iterator):
            yield found[0]

    def __next__(self):
        if found := self._peer.ask("next", self):
            return found[0]
        raise StopIteration

    def __len__(self):
        return self._peer.ask("len", self)

    def __bool__(self):
        return self._peer.ask("bool", self)

    def __str__(self):
        return self._peer.ask("str", self)

    def __repr__(self):
        return self._peer.ask("repr", self)

    __hash__ = object.__hash__


def _refuse(self, *others):
    raise Unseen(f"{UNSEEN}it is an object of type {self._kind}")


def _equal(self, other):
    return True if self is other else _refuse(self)


def _unequal(self, other):
    return False if self is other else _refuse(self)


# An object that answered a comparison or a sum itself could say whatever the tests want to hear.
for _name in "lt le gt ge add radd sub rsub mul rmul truediv rtruediv floordiv mod pow neg abs round".split():
    setattr(Foreign, f"__{_name}__", _refuse)
for _name in ("int", "float", "index", "complex"):
    setattr(Foreign, f"__{_name}__", _refuse)
Foreign.__eq__, Foreign.__ne__ = _equal, _unequal


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


def full_name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


class Encoder:
    """Writes values; `objects` are the mutable ones by number, which a reply may name again."""

    def __init__(self, peer, objects=(), longest=LONGEST):
        self.peer, self.longest, self.parts, self.size, self.objects = peer, longest, [], 0, list(objects)
        self.numbers = {id(value): number for number, value in enumerate(self.objects)}

    def add(self, tag, count, payload=b""):
        """Write a tag, a count of bytes or of values that follow, and those bytes."""
        self.size += 5 + len(payload)
        if self.size > self.longest:
            raise Unseen(f"{UNSEEN}it has more than {LONGEST >> 20} MiB")
        self.parts.append(tag + count.to_bytes(4, "big") + payload)

    def put(self, value, depth=0):
        """Write one value; Unseen if it is too large, too deep, or may not be carried."""
        if depth > DEEPEST:
            raise Unseen(f"{UNSEEN}its containers are nested more than {DEEPEST} deep")
        kind = type(value)  # and not isinstance, which believes a __class__
        name = self.peer.named.get(id(value))
        if name is not None:
            self.add(b"n", len(name), name.encode())
        elif kind is Foreign:
            self.add(b"H", value._number)
        elif issubclass(kind, int):
            value = int.__int__(value)
            payload = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
            self.add(b"i", len(payload), payload)
        elif issubclass(kind, str):
            payload = str.encode(value, "utf-8", "surrogatepass")
            self.add(b"s", len(payload), payload)
        elif issubclass(kind, float):
            self.add(b"f", 8, struct.pack(">d", value))
        elif issubclass(kind, complex):
            self.add(b"c", 16, struct.pack(">dd", complex.real.__get__(value), complex.imag.__get__(value)))
        elif issubclass(kind, bytes):
            payload = bytes.__getitem__(value, slice(None))
            self.add(b"b", len(payload), payload)
        elif found := next((row for row in FROZEN if issubclass(kind, row[1])), None):
            self.put_all(found[0], list(found[2](value)), depth)
        elif id(value) in self.numbers:
            self.add(b"r", self.numbers[id(value)])
        elif found := next((row for row in MUTABLE if issubclass(kind, row[1])), None):
            self.put_mutable(found, value, depth)
        elif made := MADE.get(full_name(kind)):
            name = full_name(kind).encode()
            self.add(b"k", len(name), name)
            self.put(tuple(made[0](value)), depth + 1)
        elif issubclass(kind, BaseException):
            self.add(b"x", 0)
            self.put(described(value), depth + 1)
        else:
            self.add(b"h", self.peer.export(value))
            self.put(kind.__name__, depth + 1)

    def put_all(self, tag, values, depth):
        self.add(tag, len(values))
        if 5 * len(values) > self.longest:
            raise Unseen(f"{UNSEEN}it has more than {LONGEST >> 20} MiB")
        for value in values:
            self.put(value, depth + 1)

    def put_mutable(self, found, value, depth):
        tag, base, items = found
        self.numbers[id(value)] = len(self.objects)
        self.objects.append(value)
        if full_name(type(value)) == "collections.Counter":
            tag = b"C"
        more = None
        if base is deque:
            more = deque.maxlen.__get__(value)
        elif base is defaultdict and id(value.default_factory) in self.peer.named:
            more = value.default_factory
        self.put_all(tag, [more, *items(value)], depth)


def contents(value):
    """Return what is in a mutable value, as a tuple."""
    return next(tuple(items(value)) for _, base, items in MUTABLE if issubclass(type(value), base))


def refill(value, items):
    """Put these items in the place of those that a mutable value holds."""
    if isinstance(value, (list, bytearray)):
        value[:] = items
        return
    value.clear()
    if isinstance(value, dict):
        for key, item in items:
            value[key] = item
    elif isinstance(value, set):
        value.update(items)
    else:
        value.extend(items)


def described(error):
    """Return the names of an exception's types, nearest first, and its arguments, or its text where one is not plain."""
    kinds = tuple(kind.__name__ for kind in type(error).__mro__ if issubclass(kind, BaseException))
    plain = all(type(value) in (int, float, bool, str, bytes, type(None)) for value in error.args)
    return kinds, error.args if plain else (str(error),)


def rebuilt(kinds, args):
    """Return the exception of a description: the nearest built-in type, under the name that it had."""
    base = next(ERRORS[name] for name in kinds if name in ERRORS)
    if issubclass(
        base, (StopIteration, StopAsyncIteration)
    ):  # either would end a loop of the tests in silence
        base = RuntimeError
    kind = base if base.__name__ == kinds[0] else type(kinds[0], (base,), {})
    try:
        return kind(*args)
    except TypeError:  # a type of its own may take other arguments than the built-in one
        return kind.__new__(kind, *args)


class Decoder:
    """Reads values; whatever is not as Encoder writes it raises Broken, or an error of the type it would make."""

    def __init__(self, peer, data, objects=()):
        self.peer, self.data, self.place, self.objects = peer, data, 0, list(objects)

    def take(self, count):
        part = self.data[self.place : self.place + count]
        if len(part) < count:
            raise Broken
        self.place += count
        return part

    def get(self, depth=0):
        """Return the next value."""
        if depth > DEEPEST + 10:
            raise Broken
        head = self.take(5)
        tag, count = head[:1], int.from_bytes(head[1:], "big")
        if tag == b"n":
            return self.peer.names[self.take(count).decode()]
        if tag == b"i":
            return int.from_bytes(self.take(count), "big", signed=True)
        if tag == b"s":
            return self.take(count).decode("utf-8", "surrogatepass")
        if tag == b"f":
            return struct.unpack(">d", self.take(8))[0]
        if tag == b"c":
            return complex(*struct.unpack(">dd", self.take(16)))
        if tag == b"b":
            return self.take(count)
        if tag == b"t":
            return tuple([self.get(depth + 1) for _ in range(count)])
        if tag == b"z":
            return frozenset([self.get(depth + 1) for _ in range(count)])
        if tag == b"r":
            return self.objects[count]
        if tag == b"k":
            name = self.take(count).decode()
            _, maker = MADE[name]
            value = __import__(name.partition(".")[0])
            for part in maker.split("."):
                value = getattr(value, part)
            return value(*self.get(depth + 1))
        if tag == b"x":
            return rebuilt(*self.get(depth + 1))
        if tag == b"h":
            return self.peer.foreign(count, self.get(depth + 1))
        if tag == b"H":
            return self.peer.exports[count]
        return self.get_mutable(tag, count, depth)

    def get_mutable(self, tag, count, depth):
        place = len(self.objects)
        self.objects.append(None)
        more = self.get(depth + 1)
        if tag in EMPTY:
            value = EMPTY[tag]()
        elif tag == b"y":
            value = defaultdict(more)
        elif tag == b"q":
            value = deque((), more)
        elif tag == b"C":
            value = __import__("collections").Counter()
        else:
            raise Broken
        self.objects[place] = value
        refill(value, [self.get(depth + 1) for _ in range(count - 1)])
        return value


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
        """Return what the other side answers, or raise what it raised; on the tests' end whatever is odd ends it all."""
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
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_CPU, int(seconds) + 2)
    limit(resource.RLIMIT_FSIZE, 2**20)
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_CORE, 0)

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
    limit(
        resource.RLIMIT_NPROC, processes
    )  # after the fork, which other programs of this user must not hinder
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
