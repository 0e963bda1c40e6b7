"""Values as they go from the program's process to its tests', and back: written as plain data, and rebuilt from it.

None, numbers, texts, bytes, list, tuple, set, frozenset, dict, deque and their kin in `collections`, range, Decimal,
Fraction, dates, exceptions, the built-in types. Subclasses come over as the data they hold, so an `__eq__` of theirs is
never asked. Everything else is a handle (`Foreign`). Imports little, as `channel` does. Not covered: sending (see
`channel`).
"""

import builtins
import struct
from _collections import OrderedDict, defaultdict, deque  # `collections` costs more than all of this module

LONGEST = 4 * 2**20  # bytes of one message
DEEPEST = 100  # levels of containers within containers
UNSEEN = "the tests cannot see the answer: "  # begins the reason of what could not be carried over
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
    """Return the names of an exception's types, nearest first, and its arguments, or its text if one is not plain."""
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
