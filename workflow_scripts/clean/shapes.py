"""Which schema fits rows that nobody has named one for: told by their columns, and tried on the first of them.

The shapes are those that trainers name (language modelling, conversation, prompt and completion, preference, unpaired
preference), each in the columns in which it is usually published. Nothing is guessed from a column's name alone: rows
must open with the schema. A column with another name for what a shape needs is no fit; what it could be renamed to is
said, for the study to say so itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from workflow_scripts.clean.fields import holds
from workflow_scripts.clean.reading import LABELS, Fault, RawRow
from workflow_scripts.clean.rows import open_row
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.tested import COLUMNS as TESTS
from workflow_scripts.clean.turns import check_ranked, read_turns
from workflow_scripts.common.errors import PlumblineError

ShapeName = Literal["text", "conversation", "prompt_completion", "preference", "unpaired_preference"]
Columns = dict[str, Any]  # of the first rows: each column that says anything, and the first value in it


class Pattern(NamedTuple):
    """Columns by which a schema is known. `needs`: each of one of several names; `when`: what their values must be."""

    shape: ShapeName
    schema: str
    needs: tuple[tuple[str, ...], ...]
    when: Callable[[Columns], bool] = lambda columns: True
    beside: tuple[str, ...] = ()  # columns that are read where they are there

    def fits(self, columns: Columns) -> bool:
        """Tell whether rows with these columns may be of this schema."""
        return all(any(name in columns for name in names) for names in self.needs) and self.when(columns)

    def read(self, columns: Columns) -> list[str]:
        """Return which of the columns are read."""
        found = [next(name for name in names if name in columns) for names in self.needs]
        return [*found, *(name for name in self.beside if name in columns)]


def of_type(column: str, kind: type) -> Callable[[Columns], bool]:
    """Return a test of whether a column's values are of a type, lists being of objects."""

    def test(columns: Columns) -> bool:
        value = columns.get(column)
        return isinstance(value, kind) and (not isinstance(value, list) or isinstance(value[0], dict))

    return test


def is_labelled(columns: Columns) -> bool:
    """Tell whether rows say true or false of their answers."""
    return any(isinstance(columns.get(name), bool) for name in LABELS)


def is_structured(columns: Columns) -> bool:
    """Tell whether the replies of `conversations` are a tutor's, in fields."""
    if not of_type("conversations", list)(columns):
        return False
    replies = [turn.get("value") for turn in columns["conversations"] if isinstance(turn, dict)]
    return any(isinstance(reply, str) and "Evaluation of Student Response" in reply for reply in replies)


PROMPTED = (("prompt",), ("completion",))
INSTRUCTED = (("instruction",), ("output",))
SAID_BESIDE = ("system", *TESTS)
INSTRUCTED_BESIDE = ("input", "system", "history", *TESTS)
PROMPTS = ("prompt", "messages", "conversations", "instruction", "input", "system", "history")
SCORES = ("score_chosen", "score_rejected", "chosen_score", "rejected_score")
PATTERNS = (  # the first that fits is taken
    Pattern("preference", "preferences", (("chosen",), ("rejected",)), beside=(*PROMPTS, *SCORES, *TESTS)),
    Pattern(
        "preference",
        "judged_pairs",
        (("instruction",), ("output_1",), ("output_2",), ("preference",)),
        beside=("input",),
    ),
    Pattern("unpaired_preference", "labelled", (*PROMPTED, LABELS), is_labelled, SAID_BESIDE),
    Pattern("unpaired_preference", "labelled", (("messages",), LABELS), is_labelled, SAID_BESIDE),
    Pattern("unpaired_preference", "labelled", (("conversations",), LABELS), is_labelled, SAID_BESIDE),
    Pattern("unpaired_preference", "labelled", (*INSTRUCTED, LABELS), is_labelled, INSTRUCTED_BESIDE),
    Pattern("conversation", "messages", (("messages",),), of_type("messages", list), SAID_BESIDE),
    Pattern("conversation", "tutorbot", (("conversations",),), is_structured),
    Pattern("conversation", "sharegpt", (("conversations",),), of_type("conversations", list), SAID_BESIDE),
    Pattern("prompt_completion", "alpaca", INSTRUCTED, beside=INSTRUCTED_BESIDE),
    Pattern("prompt_completion", "prompt_completion", PROMPTED, beside=SAID_BESIDE),
    Pattern("text", "text", (("text",),), of_type("text", str)),
)
# What others call the columns of a shape: only ever suggested.
OTHER_NAMES = {
    "prompt": (
        "question",
        "query",
        "input",
        "instruction",
        "problem",
        "source",
        "request",
        "Question",
        "Prompt",
    ),
    "completion": (
        "answer",
        "response",
        "output",
        "reply",
        "target",
        "solution",
        "Answer",
        "Completion",
        "Response",
    ),
    "chosen": (
        "preferred",
        "accepted",
        "better",
        "winner",
        "chosen_response",
        "response_chosen",
        "answer_chosen",
    ),
    "rejected": (
        "dispreferred",
        "refused",
        "worse",
        "loser",
        "rejected_response",
        "response_rejected",
        "answer_rejected",
    ),
    "messages": ("conversation", "dialogue", "dialog", "chat", "turns", "conversations"),
    "text": ("content", "document", "body", "passage", "story", "article", "Text"),
}
RENAMED = (("chosen", "rejected", "prompt"), ("prompt", "completion"), ("messages",), ("text",))


class Found(NamedTuple):
    """The schema that fits; which columns it reads; schemas of other shapes that the columns would fit as well."""

    shape: str
    schema: str
    columns: list[str]
    others: list[str]


def columns_of(rows: Iterable[RawRow]) -> Columns:
    """Return each column that says anything in the first rows, with the first value that stands there."""
    columns: Columns = {}
    for row in rows:
        if isinstance(row.value, dict):
            for name, value in row.value.items():
                if name not in columns and holds(value):
                    columns[name] = value
    return columns


def found_shape(rows: Sequence[RawRow], settings: Settings, shape: ShapeName | None = None) -> Found:
    """Return what fits the first rows of a file (renamed already); `shape` leaves one kind of schema to choose from.

    PlumblineError, with the columns there are, what was looked for, and what renaming would help, where none fits.
    """
    columns = columns_of(rows)
    fitting = [
        pattern for pattern in PATTERNS if pattern.shape == (shape or pattern.shape) and pattern.fits(columns)
    ]
    if not fitting:
        raise PlumblineError(no_shape(rows, columns, shape))
    first = fitting[0]
    faults = [fault for row in rows if (fault := fault_of(row, settings | {"schema": first.schema}))]
    if len(faults) * 2 > len(rows):
        counts = Counter(fault.reason for fault in faults).most_common(3)
        raise PlumblineError(
            f"the columns are those of {first.schema} ({', '.join(first.read(columns))}), but of the first {len(rows)} "
            f"rows {len(faults)} cannot be read so ({'; '.join(f'{reason}: {count}' for reason, count in counts)}); "
            f"mend them, or set schema: {first.schema} to have such rows rejected one by one"
        )
    others = list(dict.fromkeys(pattern.schema for pattern in fitting if pattern.shape != first.shape))
    return Found(first.shape, first.schema, first.read(columns), others)


def fault_of(row: RawRow, settings: Settings) -> Fault | None:
    """Return what makes a row unusable under the schema of the settings, or None."""
    opened, fault = open_row(row, settings)
    if fault or SCHEMAS[settings["schema"]].kind == "text":
        return fault
    if opened.candidates is not None:
        return check_ranked(opened.system, opened.turns, opened.candidates, settings)
    turns = read_turns(opened.turns, opened.style, settings)
    return turns.fault if len(turns.messages) < 2 else None


def no_shape(rows: Sequence[RawRow], columns: Columns, shape: str | None) -> str:
    """Return what there is, what was looked for, and what could be done."""
    if not columns:
        fault = next((row.fault for row in rows if row.fault), None)
        told = f": {fault.reason}, {fault.detail}" if fault else ""
        return f"its first rows are no objects with columns{told}"
    looked = "; ".join(
        dict.fromkeys(
            " + ".join("|".join(names) for names in pattern.needs)
            for pattern in PATTERNS
            if pattern.shape == shape or (not shape and pattern.schema != "labelled")
        )
    )
    looked += "" if shape else f"; and the last of these with {' or '.join(LABELS)}, true or false"
    kinds = ", ".join(f"{name} ({kind_of(value)})" for name, value in list(columns.items())[:20])
    hint = suggested(columns)
    which = "say by columns which is which, as in columns: {prompt: QUESTION, completion: ANSWER}"
    advice = f"perhaps columns: {{{hint}}}" if hint else which
    told = f"shape {shape} does not fit" if shape else "no shape fits"
    return (
        f"{told} the columns {kinds}; looked for: {looked}. Where they are called otherwise: {advice}; where they are "
        "written in a published source's own way, name it by schema"
    )


def suggested(columns: Columns) -> str:
    """Return the renaming that would make a shape of the columns by what others call them; empty if none would."""
    for wanted in RENAMED:
        names = {
            name: name
            if name in columns
            else next((other for other in OTHER_NAMES[name] if other in columns), None)
            for name in wanted
        }
        given = [name for name in names.values() if name]
        if len(given) == len(wanted) == len(set(given)):
            return ", ".join(f"{name}: {other}" for name, other in names.items() if name != other)
    return ""


def kind_of(value: Any) -> str:
    """Return what a value is, in a word or two."""
    if isinstance(value, list):
        return f"list of {kind_of(value[0])}s" if value else "list"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, bool):
        return "true or false"
    return (
        "text"
        if isinstance(value, str)
        else "number"
        if isinstance(value, int | float)
        else type(value).__name__
    )
