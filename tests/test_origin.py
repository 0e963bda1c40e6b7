"""Two files of one `study:` name: the second is refused before it writes over the first one's results."""

import pytest

from tests.workflow import copy_repository, snakemake
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.study import check, origin


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with results of the study `same`, made from first.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text("study: same\n")
    origin.settle_origin("same", ["first.yaml"])
    return tmp_path


def test_a_run_notes_its_file_and_the_same_file_goes_on(here):
    note = here / "results/same/made_from.json"
    assert read_json(note) == {"file": "first.yaml", "called": "same"}
    before = note.stat().st_mtime_ns
    (here / "link.yaml").symlink_to("first.yaml")
    for path in ("first.yaml", str(here / "first.yaml"), "link.yaml"):
        assert origin.trouble_with_name("same", path) is None
    origin.settle_origin("same", ["first.yaml"])
    assert note.stat().st_mtime_ns == before


def test_another_file_of_that_name_is_refused_and_told_what_to_do(here):
    (here / "second.yaml").write_text("study: same\n")
    with pytest.raises(PlumblineError) as refused:
        origin.settle_origin("same", ["second.yaml"])
    said = str(refused.value)
    assert "results/same was made from first.yaml" in said and "Call this study something else" in said
    assert "delete results/same/made_from.json" in said
    (here / "results/same/made_from.json").unlink()
    origin.settle_origin("same", ["second.yaml"])
    assert read_json(here / "results/same/made_from.json")["file"] == "second.yaml"


def test_a_name_that_comes_by_extends_counts_too(here, monkeypatch):
    monkeypatch.setattr("workflow_scripts.study.reading.ROOT", here)
    (here / "above.yaml").write_text("extends: first.yaml\nseeds: [1]\n")
    assert origin.named("above.yaml") == "same"
    assert "is a study of that name, too" in origin.trouble_with_name("same", "above.yaml")


@pytest.mark.parametrize("how", ["moved", "called otherwise"])
def test_a_moved_or_renamed_file_goes_on_with_a_note(here, capsys, how):
    (here / "second.yaml").write_text("study: same\n")
    if how == "moved":
        (here / "first.yaml").unlink()
    else:
        (here / "first.yaml").write_text("study: other\n")
    origin.settle_origin("same", ["second.yaml"])
    assert "was made from first.yaml, which is gone or has another name by now" in capsys.readouterr().err
    assert read_json(here / "results/same/made_from.json")["file"] == "second.yaml"


def test_a_file_that_cannot_be_read_just_now_has_not_given_up_its_name(here):
    (here / "first.yaml").write_text("study: [\n")
    (here / "second.yaml").write_text("study: same\n")
    assert origin.trouble_with_name("same", "second.yaml")


def test_a_note_of_something_else_is_told(here):
    (here / "results/same/made_from.json").write_text("[]")
    with pytest.raises(PlumblineError, match="does not say which file"):
        origin.trouble_with_name("same", "second.yaml")


def test_a_check_and_a_run_refuse_it_before_the_first_job_and_a_name_given_at_the_command_line_is_its_own(
    tmp_path, capsys, monkeypatch
):
    folder = copy_repository(tmp_path / "copy")
    monkeypatch.chdir(folder)
    text = (folder / "studies/follow_instructions-small.yaml").read_text()
    (folder / "first.yaml").write_text(text)
    (folder / "second.yaml").write_text(text)
    name = origin.named("first.yaml")
    flags = ("--quiet", "--configfile")
    snakemake(folder, *flags, "first.yaml", "--", "sources")
    noted = folder / "results" / name / "made_from.json"
    assert read_json(noted) == {"file": "first.yaml", "called": name}
    with pytest.raises(SystemExit) as ended:
        check.main(["--results", "results", "second.yaml"])
    assert ended.value.code == 1
    assert "second.yaml has 1 mistake:" in capsys.readouterr().err
    refused = snakemake(folder, *flags, "second.yaml", "--", "datasets", check=False)
    assert refused.returncode and "was made from first.yaml" in refused.stderr + refused.stdout
    assert not (folder / "data/clean" / name).exists()
    snakemake(folder, *flags, "second.yaml", "--config", "study=other", "--", "datasets")
    assert read_json(folder / "results/other/made_from.json")["file"] == "second.yaml"
    again = snakemake(folder, "-n", "--configfile", "first.yaml", "--", "sources")
    assert "Nothing to be done" in again.stdout + again.stderr
