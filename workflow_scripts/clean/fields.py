"""Asking a raw object for its fields, by name and type: the one way in which all schemas read what others wrote.

A field of another type than the schema says is Unfit, whatever it is; and what no schema asked for is known afterwards,
so that it can be counted.
"""

from typing import Any

from workflow_scripts.clean.reading import Fault

ID_KEYS = ("id", "message_tree_id", "idx")  # what sources call a row's id
SHOWN = 80  # characters of a key in the account


class Unfit(Exception):
    """A row or a turn that is not what its schema says."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.fault = Fault(reason, detail)


def holds(value: Any) -> bool:
    """Tell whether a value says anything: columns of tables stand empty in most rows."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value != [] and value != {}


def shown(value: Any) -> str:
    """Return a value for the account: a scalar as it is, of anything that may be deep or endless its type."""
    short = isinstance(value, str | float | None) or (isinstance(value, int) and abs(value) < 10**SHOWN)
    return str(value) if short else type(value).__name__


class Fields:
    """The fields of one raw object; `unread` is what it holds and nobody asked for."""

    def __init__(self, value: dict[str, Any], name: str = "") -> None:
        self.value, self.name = value, name
        self.asked: set[str] = set() if name else set(ID_KEYS)
        self.inner: list[Fields] = []
        self.missed: frozenset[str] = frozenset()  # what reading its turns left unread

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def which(self, *keys: str) -> str | None:
        """Return the first of the keys that says anything, else the first that is there, else None.

        In a table every row has the columns of all shapes that its rows come in, most of them empty.
        """
        there = [key for key in keys if key in self.value]
        return next((key for key in there if holds(self.value[key])), there[0] if there else None)

    def raw(self, key: str) -> Any:
        """Return a field that must be there, whatever it is."""
        if key not in self.value:
            raise Unfit(f"missing field '{key}'")
        self.asked.add(key)
        return self.value[key]

    def get(self, key: str) -> Any:
        """Return a field if it is there and says anything, or None."""
        self.asked.add(key)
        value = self.value.get(key)
        return value if holds(value) else None

    def of_type(self, key: str, kind: type) -> Any:
        """Return a field if it is of a type, else None: then nobody has read it."""
        return self.get(key) if isinstance(self.value.get(key), kind) else None

    def text(self, key: str) -> str:
        """Return a field that must be there and be text."""
        if not isinstance(text := self.raw(key), str):
            raise Unfit("text is not a string", f"'{key}': {type(text).__name__}")
        return text

    def optional_text(self, key: str) -> str:
        """Return a field that may be missing or null and else is text."""
        return "" if self.get(key) is None else self.text(key)

    def list(self, key: str) -> list[Any]:
        """Return a field that must be there and be a list."""
        if not isinstance(found := self.raw(key), list):
            raise Unfit(f"'{key}' is not a list", type(found).__name__)
        return found

    def object(self, key: str) -> "Fields":
        """Return a field that must be there and be an object."""
        if not isinstance(found := self.raw(key), dict):
            raise Unfit(f"'{key}' is not an object", type(found).__name__)
        return self.within(found, key)

    def within(self, value: dict[str, Any], name: str) -> "Fields":
        """Return the fields of an object somewhere in this one."""
        self.inner.append(Fields(value, f"{self.name}.{name}" if self.name else name))
        return self.inner[-1]

    @property
    def unread(self) -> frozenset[str]:
        """The names of fields that say something and were not asked for, those of inner objects as "outer.inner"."""
        own = [key for key, value in self.value.items() if key not in self.asked and holds(value)]
        if not own and not self.inner:
            return self.missed
        names = {f"{self.name}.{key}" if self.name else key for key in own}
        names = {name.encode("utf-8", "backslashreplace").decode()[:SHOWN] for name in names}
        return frozenset(names.union(self.missed, *(inner.unread for inner in self.inner)))
