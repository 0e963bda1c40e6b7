"""Rows without a named schema: every shape is found in every kind of file, or the message says what would help."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from tests.cleaning import cleaned_files, cleaning
from workflow_scripts.clean.reading import read_first, read_rows
from workflow_scripts.clean.rows import renamed
from workflow_scripts.clean.shapes import found_shape
from workflow_scripts.common.errors import PlumblineError

REPLY = json.dumps(
    {
        "Evaluation of Student Response": "g",
        "Action Based on Evaluation": "12",
        "Subproblem State": "w",
        "Subproblem": "What?",
        "Tutorbot": "Say more.",
    }
)


def said(*texts):
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def shared(*texts):
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def transcript(*texts):
    return "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {text}" for place, text in enumerate(texts))


SHAPES = {  # name: (schema, its shape, a row of a number)
    "text": ("text", "text", lambda n: {"text": f"It was {n} o'clock."}),
    "messages": (
        "messages",
        "conversation",
        lambda n: {"messages": [{"role": "system", "content": "Be."}, *said(f"Why {n}?", "So.")]},
    ),
    "sharegpt": (
        "sharegpt",
        "conversation",
        lambda n: {"system": "Be.", "conversations": shared(f"Why {n}?", "So.")},
    ),
    "tutorbot": (
        "tutorbot",
        "conversation",
        lambda n: {"conversations": shared(f"Student: Q. Why {n}?", REPLY)},
    ),
    "prompt-completion": (
        "prompt_completion",
        "prompt_completion",
        lambda n: {"prompt": f"Why {n}?", "completion": "So."},
    ),
    "prompt-completion-messages": (
        "prompt_completion",
        "prompt_completion",
        lambda n: {"prompt": said(f"Why {n}?"), "completion": said("", "So.")[1:]},
    ),
    "alpaca": (
        "alpaca",
        "prompt_completion",
        lambda n: {"instruction": f"Why {n}?", "input": "", "output": "So."},
    ),
    "preference": (
        "preferences",
        "preference",
        lambda n: {"prompt": f"Why {n}?", "chosen": "So.", "rejected": "No."},
    ),
    "preference-messages": (
        "preferences",
        "preference",
        lambda n: {
            "prompt": said(f"Why {n}?"),
            "chosen": said("", "So.")[1:],
            "rejected": said("", "No.")[1:],
        },
    ),
    "preference-implicit": (
        "preferences",
        "preference",
        lambda n: {"chosen": said(f"Why {n}?", "So."), "rejected": said(f"Why {n}?", "No.")},
    ),
    "ultrafeedback": (
        "preferences",
        "preference",
        lambda n: {
            "prompt": f"Why {n}?",
            "chosen": said(f"Why {n}?", "So."),
            "rejected": said(f"Why {n}?", "No."),
            "messages": said(f"Why {n}?", "So."),
            "score_chosen": 8.0,
            "score_rejected": 2.5,
        },
    ),
    "hh": (
        "preferences",
        "preference",
        lambda n: {"chosen": transcript(f"Why {n}?", "So."), "rejected": transcript(f"Why {n}?", "No.")},
    ),
    "judged-pairs": (
        "judged_pairs",
        "preference",
        lambda n: {"instruction": f"Why {n}?", "output_1": "So.", "output_2": "No.", "preference": 1},
    ),
    "unpaired": (
        "labelled",
        "unpaired_preference",
        lambda n: {"prompt": f"Why {n}?", "completion": "So.", "label": n % 2 == 0},
    ),
    "unpaired-messages": (
        "labelled",
        "unpaired_preference",
        lambda n: {"prompt": said(f"Why {n}?"), "completion": said("", "So.")[1:], "label": n % 2 == 0},
    ),
}
TYPED = ("ultrafeedback", "judged-pairs")  # their numbers are no numbers in a table of text


def of_text(rows, delimiter=","):
    stream = io.StringIO()
    table = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
    table.writeheader()
    table.writerows(
        {key: json.dumps(cell) if isinstance(cell, list) else cell for key, cell in row.items()}
        for row in rows
    )
    return stream.getvalue().encode()


def parquet(rows):
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def arrow(rows, new=pyarrow.ipc.new_file):
    stream, table = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with new(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


KINDS = {
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    ".csv": of_text,
    ".tsv": lambda rows: of_text(rows, "\t"),
    ".parquet": parquet,
    ".arrow": arrow,
    ".stream.arrow": lambda rows: arrow(rows, pyarrow.ipc.new_stream),
}
PACKED = {
    ".jsonl.gz": lambda rows: gzip.compress(KINDS[".jsonl"](rows)),
    ".csv.bz2": lambda rows: bz2.compress(KINDS[".csv"](rows)),
    ".parquet.xz": lambda rows: lzma.compress(KINDS[".parquet"](rows)),
    ".arrow.gz": lambda rows: gzip.compress(KINDS[".arrow"](rows)),
    ".stream.arrow.zst": lambda rows: pyarrow.compress(KINDS[".stream.arrow"](rows), "zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", [*KINDS, *PACKED])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_found_and_cleaned_in_every_kind_of_file(tmp_path, name, ending):
    schema, shape, row = SHAPES[name]
    if name in TYPED and ending.partition(".bz2")[0] in (".csv", ".tsv"):
        pytest.skip("its numbers would be texts")
    path = tmp_path / f"rows{ending}"
    path.write_bytes((KINDS | PACKED)[ending]([row(n) for n in range(3)]))
    found = found_shape(read_first(path, 50, 1000), cleaning())
    assert (found.schema, found.shape) == (schema, shape)
    assert found_shape(read_first(path, 50, 1000), cleaning(), shape).schema == schema
    manifest, splits = cleaned_files(tmp_path, path, schema=schema)
    assert len(splits["train"]) == 3 and not splits["rejected"], manifest


@pytest.mark.parametrize(
    "sample_by, texts",
    [
        ("line", ["One.", "Two.", "[Three]", "{four}"]),
        ("paragraph", ["One.\nTwo.", "[Three]\n{four}"]),
        ("document", ["One.\nTwo.\n\n\n[Three]\n{four}"]),
    ],
)
def test_plain_text_is_read_by_line_by_paragraph_or_whole(tmp_path, sample_by, texts):
    for path in (tmp_path / "book.txt", tmp_path / "book.md.gz"):
        text = b"\nOne.\nTwo.\n\n\n[Three]\n{four}\n\n"
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        rows = list(read_rows(path, 1000, sample_by=sample_by))
        assert [row.value["text"] for row in rows] == texts and rows[0].line == 2
        assert found_shape(rows, cleaning()).schema == "text"


def test_text_that_is_json_lines_is_read_as_rows_whatever_its_name(tmp_path):
    (tmp_path / "rows.txt").write_text('{"prompt": "Why?", "completion": "So."}\n')
    assert found_shape(read_first(tmp_path / "rows.txt", 9, 1000), cleaning()).schema == "prompt_completion"


def test_of_a_large_list_no_more_is_read_than_its_first_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("workflow_scripts.clean.reading.FIRST_CHARS", 200)
    rows = [{"text": f"Number {n}."} for n in range(99)]
    (tmp_path / "rows.json").write_text(json.dumps(rows)[:-1] + ", broken")
    assert [row.value for row in read_first(tmp_path / "rows.json", 5, 1000)] == rows[:5]


def test_a_shape_that_is_asked_for_is_looked_for_alone(tmp_path):
    rows = [{"messages": said("Why?", "So."), "prompt": "Why?", "completion": "So.", "text": "Why? So."}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    read = read_first(tmp_path / "rows.json", 9, 1000)
    found = found_shape(read, cleaning())
    assert found.schema == "messages" and found.others == ["prompt_completion", "text"]
    for shape, schema in {"prompt_completion": "prompt_completion", "text": "text"}.items():
        assert found_shape(read, cleaning(), shape).schema == schema


def raw(tmp_path, *rows):
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return read_first(tmp_path / "rows.json", 50, 1000)


@pytest.mark.parametrize(
    "row, words",
    [
        (
            {"id": 1, "question": "Why?", "answer": "So."},
            ["id (number), question (text)", "perhaps columns: {prompt: question, completion: answer}"],
        ),
        ({"query": "Why?", "completion": "So."}, ["perhaps columns: {prompt: query};"]),
        ({"dialogue": said("Why?")}, ["dialogue (list of objects)", "perhaps columns: {messages: dialogue}"]),
        ({"a": "b", "c": {}, "d": [1.5], "e": True}, ["a (text), d (list of numbers), e (true or false)"]),
        (
            {"sha": "x"},
            ["no shape fits", "chosen + rejected", "columns: {prompt: QUESTION, completion: ANSWER}"],
        ),
        (
            {"prompt": "Why?", "completion": 5},
            ["prompt_completion", "of the first 1 rows 1 cannot", "not a string"],
        ),
        ({"messages": "Why?"}, ["no shape fits the columns messages (text)"]),
    ],
)
def test_rows_that_fit_no_shape_are_told_what_there_is_and_what_would_help(tmp_path, row, words):
    with pytest.raises(PlumblineError) as caught:
        found_shape(raw(tmp_path, row), cleaning())
    for word in words:
        assert word in str(caught.value)


def test_a_column_of_another_name_is_never_taken_in_silence(tmp_path):
    rows = raw(tmp_path, {"question": "Why?", "answer": "So."})
    with pytest.raises(PlumblineError):
        found_shape(rows, cleaning())
    renames = {"prompt": "question", "completion": "answer"}
    found = found_shape([renamed(row, renames) for row in rows], cleaning())
    assert (found.schema, found.columns) == ("prompt_completion", ["prompt", "completion"])


def test_some_bad_rows_hide_no_shape(tmp_path):
    good = {"prompt": "Why?", "completion": "So."}
    assert (
        found_shape(raw(tmp_path, {"prompt": "Why?"}, good, good), cleaning()).schema == "prompt_completion"
    )


def test_rows_that_are_no_objects_are_named(tmp_path):
    with pytest.raises(PlumblineError, match="no objects with columns"):
        found_shape(raw(tmp_path, "Why?", "So."), cleaning())
