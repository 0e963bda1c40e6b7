"""All studies in one page: their headline tables, what they are, and a word on those that have no table."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.browser import Browser, needs_chromium
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report.gallery import gallery
from workflow_scripts.report.results import FEWER
from workflow_scripts.report.spreadsheets import write_table


def row(policy: str, **more) -> dict:
    known = {
        "policy": policy, "seed": 1, "seeds": 1, "benchmark": "quiz", "subset": "all", "metric": "accuracy",
        "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 40, "groups": 8, "higher_is_better": True,
        "training_luck": "none",
    }  # fmt: skip
    return known | more


def study(results: Path, name: str, rows: list[dict], copy: dict | None = None) -> Path:
    folder = results / name
    folder.mkdir(parents=True)
    write_table(folder / "results.csv", FEWER, rows)
    (folder / "report.html").write_text("a report")
    if copy is not None:
        (folder / "study.yaml").write_text(yaml.safe_dump(copy))
    return folder


@pytest.fixture
def results(tmp_path) -> Path:
    """Two studies, one of them with seeds and a copy that names its headline; and folders that are none."""
    folder = tmp_path / "results"
    better = {"baseline": "m", "difference": 0.2, "than_baseline": "better", "training_luck": "included"}
    rows = [
        row("m"),
        row("m", metric="f1"),
        row("m.sft", seed=1, value=0.6),
        row("m.sft", seed="all", seeds=3, value=0.7, **better),
        row("m.sft", seed="all", seeds=3, value=0.3, metric="f1", baseline="m"),
        row("m.sft", seed="all", benchmark="code", value="", note="no sandbox"),
    ]
    f1 = {"benchmark": "quiz", "subset": "all", "metric": "f1"}
    accuracy = f1 | {"metric": "accuracy"}
    own = study(folder, "seeds one", rows, {"report": {"headline": [f1, accuracy], "bars": []}})
    os.utime(own / "results.csv", (0, 86_400))
    study(folder, "plain", [row("<script>alert(1)</script>", training_luck="not included"), row("gold")])
    (folder / "begun").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "results.csv").write_text("policy,value\nm,much\n")
    return folder


def tables(page: str) -> dict[str, list[list[str]]]:
    """Return the texts of each table's cells by its id."""
    found = {}
    for name, inside in re.findall(r'<table id="table-([^"]+)".*?>(.*?)</table>', page, re.DOTALL):
        lines = re.findall(r"<tr.*?>(.*?)</tr>", inside, re.DOTALL)
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line, re.DOTALL) for line in lines]
        found[name] = [[" ".join(re.sub("<[^>]*>", " ", text).split()) for text in line] for line in cells]
    return found


def test_every_study_with_a_table_is_there_with_its_own_headline_and_its_facts(results):
    page = gallery(results)
    found = tables(page)
    assert [line[0] for line in found["overview"][1:]] == ["plain", "seeds one"]
    assert found["overview"][2] == ["seeds one", "1970-01-02 00:00", "3", "2", "2", "m"]
    head, base, trained, foot = found["headlines-1"]
    assert head[1:] == ["quiz f1 ↑", "quiz accuracy ↑"]  # as its study.yaml orders them
    assert trained[0] == "m.sft 3 seeds" and base[0] == "m"
    assert "better: ▲ 0.700" in trained[2] and "▲" not in trained[1]
    assert foot == ["items (in groups)", "40 in 8", "40 in 8"]
    assert found["headlines-0"][0][1:] == [
        "quiz accuracy ↑"
    ]  # without a copy: the first cell of each benchmark
    assert 'href="seeds%20one/report.html"' in page and 'href="plain/report.html"' in page
    assert "1 of 2 benchmarks have policies without a score" in page


def test_what_is_not_shown_is_named_with_the_reason(results):
    page = gallery(results)
    assert "<code>begun</code> has no table yet" in page
    assert "<code>broken</code> cannot be read" in page


def test_names_are_text_and_the_page_fetches_nothing(results):
    page = gallery(results)
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page
    assert not re.findall(r'(?:src|href)="(?!#|[\w%]+/report\.html")', page)
    assert "default-src 'none'" in page


def test_a_study_of_one_seed_says_so(results):
    assert "One seed: training luck is not included" in gallery(results)


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_a_table_is_refused_with_what_to_do(tmp_path, made):
    if made:
        (tmp_path / "results" / "begun").mkdir(parents=True)
    with pytest.raises(PlumblineError, match=r"run (a study|one) first \(make results\)"):
        gallery(tmp_path / "results")


@needs_chromium
def test_the_page_opens_without_errors_and_within_its_window(results, tmp_path):
    (results / "gallery.html").write_text(gallery(results), encoding="utf-8")
    with Browser((results / "gallery.html").as_uri(), tmp_path / "profile", width=1280) as browser:
        assert browser.errors == []
        assert browser.value("document.documentElement.scrollWidth") <= 1280
        tops = browser.value(
            "[...document.querySelectorAll('.gallery > section')].map((each) => each.getBoundingClientRect().top)"
        )
        assert len(tops) == 2 and tops[0] == tops[1]  # side by side
        assert browser.value("document.querySelector('a').protocol") == "file:"
