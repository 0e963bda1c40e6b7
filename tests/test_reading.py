"""How a study's YAML is read: numbers as in YAML 1.2, and null for an entry that the study below has."""

import pytest
import yaml

from tests.workflow import ROOT, snakemake
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.study.checking import check_config, check_study, load_study
from workflow_scripts.study.reading import as_read, extended, read_yaml

ON_TOP = "extends: tests/tutoring.yaml\nstudy: mine\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5e3", 5e3),
        ("-2.5E+3", -2.5e3),
        ("+.5e1", 5.0),
        ("3.e-2", 0.03),
        ("1.0e-4", 1e-4),
        ("0.5", 0.5),
        ('"1e-4"', "1e-4"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1e1234567", "1e1234567"),
        ("0x1e4", 0x1E4),
    ],
)
def test_numbers_are_those_of_yaml_1_2_and_what_is_in_quotes_is_text(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"value: {text}\nlist: [{text}]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"value": value, "list": [value]}


def by_snakemake(path, **more):
    """Return what Snakemake makes of a file: YAML 1.1."""
    return yaml.safe_load(path.read_text()) | more


def test_a_number_that_snakemake_takes_for_text_is_one_and_text_in_quotes_is_none(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{ON_TOP}runs: {{sft: {{learning_rate: 1e-3}}}}\n")
    assert by_snakemake(path)["runs"]["sft"]["learning_rate"] == "1e-3"
    study, _, _ = check_config(by_snakemake(path), [path])
    assert study.runs["sft"].learning_rate == 1e-3 == load_study(path).runs["sft"].learning_rate
    path.write_text(f'{ON_TOP}runs: {{sft: {{learning_rate: "1e-3"}}}}\n')
    with pytest.raises(PlumblineError, match=r"a number > 0, not '1e-3' \(a number, in quotes: leave them"):
        check_config(by_snakemake(path), [path])


def test_what_the_command_line_says_is_read_as_a_file_is():
    given = {"runs": {"sft": {"learning_rate": "1e-3", "epochs": "2", "validation": "null"}}}
    read = {"runs": {"sft": {"validation": "null"}}}
    assert as_read(given, read) == {
        "runs": {"sft": {"learning_rate": 1e-3, "epochs": 2, "validation": "null"}}
    }
    assert as_read({"a": ["1e-3", "true", "x", "1.0.0"]}, {}) == {"a": [1e-3, True, "x", "1.0.0"]}


def test_snakemake_plans_a_study_whose_numbers_have_no_dot(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{ON_TOP}runs: {{sft: {{learning_rate: 1e-3}}, ipo: null}}\n")
    flags = (
        "--configfile",
        str(path),
        "--config",
        "runs={dpo: {beta: 2e-1}}",
        "--dry-run",
        "--printshellcmds",
    )
    shown = snakemake(ROOT, "results/mine/policies/tiny.sft.dpo/seed-1/manifest.json", *flags).stdout
    assert '"learning_rate": 0.001' in shown and '"beta": 0.2' in shown
    assert "1e-3" not in shown


# --- null ------------------------------------------------------------------------------------------------------------


def test_null_drops_an_entry_of_the_study_below(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{ON_TOP}runs: {{ipo: null, kto: null}}\nbenchmarks: {{humaneval: null}}\n")
    study = load_study(path)
    assert list(study.runs) == ["sft", "dpo"]
    assert "humaneval" not in study.benchmarks and "tutor" in study.benchmarks


def test_null_deeper_down_is_a_value():
    study = check_study({"extends": "tests/tutoring.yaml", "runs": {"sft": {"pack_tokens": None}}})
    assert study.runs["sft"].pack_tokens is None


def test_what_was_dropped_can_be_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.setattr("workflow_scripts.study.reading.ROOT", tmp_path)
    (tmp_path / "a.yaml").write_text("runs: {x: {one: 1}, y: {two: 2}}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nruns: {x: null}\n")
    assert extended({"extends": "b.yaml", "runs": {"x": {"three": 3}}}) == {
        "runs": {"x": {"three": 3}, "y": {"two": 2}}
    }


def test_null_for_what_is_not_there_says_what_it_would_do_and_which_is_near():
    with pytest.raises(PlumblineError) as caught:
        check_study({"extends": "tests/tutoring.yaml", "runs": {"dpoo": None}, "pairs": {"x": None}})
    lines = str(caught.value).splitlines()[1:]
    assert lines[0].strip() == (
        "runs.dpoo: null drops what the study below has of this name, and tests/tutoring.yaml has no such entry; did "
        "you mean 'dpo'?"
    )
    assert lines[1].strip().startswith("pairs.x: null drops")
    with pytest.raises(PlumblineError, match=r"models.a: has no value: give one, or leave the key out"):
        check_study({"study": "a", "sources": {}, "models": {"a": None}})


def test_who_names_a_dropped_entry_is_told_which_there_are():
    with pytest.raises(PlumblineError, match=r"runs.dpo.parent: no model or run is called 'sft'"):
        check_study({"extends": "tests/tutoring.yaml", "runs": {"sft": None}})
