"""Two thousand hostile rows, the same every time: cleaning keeps them, counts them, or says what is wrong."""

import json
import random

import pytest

from tests.cleaning import cleaning
from tests.good_rows import GOOD
from tests.mutants import KEYS, line_of, mutant
from workflow_scripts.clean import clean
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl

EACH = 80  # mutants of a schema: 2 080 in all
ROWS = 8  # in a file
KEYS += (
    "conversations",
    "messages",
    "prompt",
    "chosen",
    "rejected",
    "score_chosen",
    "sft_index",
    "meta",
    "\ud800",
    "",
)


RULES = [
    {},
    {"url_token": "<url>", "reject_phrases": ["İ"], "max_words": 50},
    {"truncate_at_unparsable": False, "group_by": "conversation", "reject_colon": True},
    {
        "group_by": "question",
        "system_prompt": "Sys.",
        "subset": {"rows": 5, "by": "length_ratio", "ratio": 1.0},
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_no_row_however_hostile_is_lost_or_ends_in_a_traceback(tmp_path, schema):
    rng = random.Random(f"11 {schema}")
    total = 0
    for number in range(EACH // ROWS):
        rows = [mutant(rng.choice(GOOD[schema]), rng) for _ in range(ROWS)]
        as_lines = rng.random() < 0.7
        lines = [line_of(row, rng) for row in rows] if as_lines else [json.dumps(rows)]
        # The one good row lets the file be more than an error.
        text = "\n".join([*lines, json.dumps(GOOD[schema][0])]) if as_lines else lines[0]
        raw = tmp_path / f"{number}.json"
        raw.write_bytes(text.encode("utf-8", "surrogatepass"))
        rules = cleaning(**{"schema": schema, "max_chars": 20_000} | rng.choice(RULES))
        total += len(rows)
        try:
            clean.clean_files([str(raw)], rules, str(tmp_path / "clean"), str(tmp_path / "manifest.json"))
        except PlumblineError as error:
            assert str(error)
            continue
        manifest = read_json(tmp_path / "manifest.json")
        (counts,) = manifest["counts"].values()
        found = {path.stem: read_jsonl(path) for path in (tmp_path / "clean").glob("*.jsonl")}
        dropped = [entry for entry in found.pop("rejected") if entry["level"] == "row"]
        kept = [row for rows in found.values() for row in rows]
        assert counts["rows"] == {
            "read": len(kept) + len(dropped),
            "kept": len(kept),
            "rejected": len(dropped),
        }
        assert counts["rows"]["read"] >= (len(lines) if as_lines else len(rows))
        for row in kept:
            assert row["messages"] and all(isinstance(said["content"], str) for said in row["messages"])
            assert all(isinstance(reply["content"], str) for reply in row.get("candidates", []))
    assert total == EACH


def test_the_mutants_are_two_thousand_of_every_schema_there_is():
    assert SCHEMAS.keys() - GOOD.keys() == set(), "add a row of it to tests/good_rows.py"
    assert set(GOOD) == set(SCHEMAS) and len(GOOD) * EACH >= 2000


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_good_row_of_every_schema_is_kept_with_every_key_read(tmp_path, schema):
    for number, row in enumerate(GOOD[schema]):
        raw = tmp_path / f"{number}.jsonl"
        raw.write_text(json.dumps(row))
        rules = cleaning(schema=schema)
        clean.clean_files([str(raw)], rules, str(tmp_path / "clean"), str(tmp_path / "manifest.json"))
        assert not [note for note in read_json(tmp_path / "manifest.json")["notes"] if note.startswith("key")]
