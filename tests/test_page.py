"""The report: one file that fetches nothing, shows untrusted text as text, and claims no more than intervals allow."""

import base64
import csv
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.browser import Browser, needs_chromium
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.report import page, samples
from workflow_scripts.report.results import COLUMNS as EVERY_COLUMN

SCRIPT = "<script>alert('model')</script>"
IMAGE = "\"><img src=x onerror=alert('judge')>"
# than_baseline is worked out of the others where a table has none: most rows here say by their numbers what they are.
COLUMNS = [name for name in EVERY_COLUMN if name != "than_baseline"]
NEW = set(
    "interval mcnemar_p mde clean_value clean_low clean_high clean_n clean8_value clean8_n published_value "
    "published_difference training_luck difference_luck seed_sd seed_low seed_high noise".split()
)


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, text, and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.script = ""
        self.rows: dict[str, list[list[str]]] = {}
        self.inside = self.table = ""
        self.feed(text)
        for table in self.rows.values():
            table[:] = [[cell.strip(" \n") for cell in line] for line in table]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "table":
            self.table = dict(attributes)["id"]
            self.rows[self.table] = []
        elif tag == "tr":
            self.rows[self.table].append([])
        elif tag in ("td", "th"):
            self.rows[self.table][-1].append("")

    def handle_endtag(self, tag):
        self.inside = ""
        if tag == "table":
            self.table = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.script += data
            return
        self.text += data
        if self.table and self.rows[self.table] and self.rows[self.table][-1]:
            self.rows[self.table][-1][-1] += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def row(policy="m.sft", **values) -> dict:
    blank = dict.fromkeys(COLUMNS, "")
    known = {
        "study": "toy", "policy": policy, "seed": "1", "seeds": "1", "benchmark": "quiz", "subset": "all",
        "metric": "accuracy", "value": "0.5", "ci_low": "0.4", "ci_high": "0.6", "n": "40", "groups": "8",
        "higher_is_better": "true", "provenance": "0123456789ab",
    }  # fmt: skip
    return blank | known | values


def against(low: str, high: str, baseline="m") -> dict:
    middle = (float(low) + float(high)) / 2
    return {
        "baseline": baseline, "difference": f"{middle:.6g}", "difference_low": low, "difference_high": high,
        "p_value": "0.01", "p_adjusted": "0.02",
    }  # fmt: skip


def write_csv(path: Path, rows: list[dict], columns: list[str] | None = None) -> Path:
    columns = columns or list(dict.fromkeys(name for one in rows for name in one))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def render(folder: Path, rows: list[dict], flags: dict[str, Path] | None = None, **settings) -> str:
    """Run the command line on these rows and return the page."""
    results = write_csv(folder / "results.csv", rows)
    known = {
        "study": "toy", "baseline": "m", "bars": [], "headline": [], "prompts": {}, "sample_count": 4,
        "curves": [], "rewards": [],
        "data": {}, "file": "", "hyper_parameters": {"runs": {}, "defaults": {}},
        "lock": "f" * 12,
    }  # fmt: skip
    arguments = ["page", "--results", str(results), "--settings", json.dumps(known | settings)]
    for flag, path in (flags or {}).items():
        arguments += [f"--{flag}", str(path)]
    before, sys.argv = sys.argv, [*arguments, "--output", str(folder / "report.html")]
    try:
        page.main()
    finally:
        sys.argv = before
    return (folder / "report.html").read_text(encoding="utf-8")


def answered(folder: Path, text: str, words: str = "fine", count: int = 1) -> dict:
    """Write prompts, answers and verdicts of policy m.sft on benchmark quiz; return the page's flags and settings."""
    prompts = [
        {"id": f"q{n}", "group": f"q{n}", "messages": [{"role": "user", "content": f"question {n} {IMAGE}"}],
         "followups": [], "reference": [SCRIPT], "meta": {}}
        for n in range(count)
    ]  # fmt: skip
    own = {"sample": 0, "turn": 0, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 7}
    write_lines(folder / "prompts.jsonl", prompts)
    write_lines(folder / "generations.jsonl", [own | {"id": one["id"], "text": text} for one in prompts])
    verdicts = [{"id": one["id"], "turn": 0, "sample": 0, "rating": 7.25, "text": words} for one in prompts]
    write_lines(folder / "verdicts.jsonl", verdicts)
    entry = {
        "policy": "m.sft", "seed": 1, "benchmark": "quiz", "kind": "policy", "file": str(folder / "scores.json"),
        "generations": str(folder / "generations.json"), "verdicts": str(folder / "verdicts.jsonl"),
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps([entry]))
    return {
        "flags": {"index": folder / "index.json"},
        "prompts": {"quiz": str(folder / "prompts.json")},
    }


def everything(folder: Path) -> dict:
    """Write every input the page can take; return flags and settings."""
    given = answered(folder, "an answer", "a verdict")
    flags = given["flags"]
    training = {
        "policy": "m.sft",
        "seed": "1",
        "steps": "9",
        "warning": "overfits: validation loss 2 where 1 was",
    }
    flags["training"] = write_csv(folder / "training.csv", [training])
    costs = [
        {
            "stage": "train_sft",
            "policy": "m.sft",
            "seed": "1",
            "name": "a",
            "wall_seconds": "3600",
            "usd": "",
        },
        {
            "stage": "train_sft",
            "policy": "m.dpo",
            "seed": "1",
            "name": "b",
            "wall_seconds": "9000",
            "usd": "",
        },
        {
            "stage": "judge",
            "policy": "m.sft",
            "seed": "1",
            "name": "c",
            "wall_seconds": "30",
            "usd": "1.5",
        },
        {
            "stage": "train_sft",
            "policy": "",
            "seed": "",
            "name": "total",
            "wall_seconds": "12600",
            "usd": "",
        },
        {"stage": "total", "policy": "", "seed": "", "name": "total", "wall_seconds": "12630", "usd": "1.5"},
    ]
    flags["costs"] = write_csv(folder / "costs.csv", costs)
    shares = [("q0", "books", "0.5", "0.7"), ("q1", "books", "0", "0.69"), ("q1", "web", "0.01", "0")]
    overlap = [
        {
            "benchmark": "quiz",
            "item": item,
            "training_set": name,
            "share13": at13,
            "share8": at8,
            "match": "the same",
        }
        for item, name, at13, at8 in shares
    ]
    flags["overlap"] = write_csv(folder / "overlap.csv", overlap)
    flags["agreement"] = write_csv(
        folder / "judges.csv", [{"first": "one", "measure": "pearson", "value": "0.9"}]
    )
    record = {"id": "0123456789ab", "judge": {"name": "local"}, "files": {"a/score.json": "9" * 64}}
    records = {"study": "a" * 64, "lock": "b" * 64, "records": {"m.sft|1|quiz": record}}
    flags["provenance"] = folder / "provenance.json"
    flags["provenance"].write_text(json.dumps(records))
    curve = [{"step": 5, "train_loss": 2.0}, {"step": 9, "train_loss": 1.0, "validation_loss": 1.2}]
    (folder / "curve.json").write_text(json.dumps(curve))
    rewarded = [{"id": str(n), "rewards": {"valid": n / 9, "final_reward": n / 3}} for n in range(9)]
    rewards = write_lines(folder / "annotation" / "rows" / "train.jsonl", rewarded)
    return given | {
        "curves": [{"policy": "m.sft", "seed": 1, "file": str(folder / "curve.json")}],
        "rewards": [str(rewards)],
        "file": "studies/toy.yaml",
    }


ROWS = [row("m"), row(**against("0.1", "0.3"), value="0.7", ci_low="0.6", ci_high="0.8")]


def test_untrusted_text_is_shown_and_never_runs(tmp_path):
    given = answered(tmp_path, f"{SCRIPT} and {IMAGE}", f"{IMAGE} {SCRIPT}")
    found = Page(render(tmp_path, [*ROWS, row("m.dpo", value="", note=SCRIPT)], **given))
    assert found.text.count(SCRIPT) >= 5  # answer, judge, reference, the note and its warning
    assert found.text.count(IMAGE) >= 3
    assert len(found.all("script")) == 1 and not found.all("img")
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]


def test_the_browser_may_run_our_script_alone_and_fetch_nothing(tmp_path):
    text = render(tmp_path, ROWS, **everything(tmp_path))
    found = Page(text)
    policy = next(
        one["content"] for one in found.all("meta") if "content" in one and "script-src" in one["content"]
    )
    digest = base64.b64encode(hashlib.sha256(found.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy
    links = [
        a[name] for _, a in found.elements for name in ("src", "href", "xlink:href", "action") if a.get(name)
    ]
    assert links and all(link.startswith("#") for link in links)
    assert not re.findall(r"@import|url\((?!#)", text)


def test_same_inputs_give_the_same_bytes(tmp_path):
    given = everything(tmp_path)
    assert render(tmp_path, ROWS, **given) == render(tmp_path, ROWS, **given)


def test_every_section_stands_where_its_data_is_and_only_there(tmp_path):
    def sections(text: str) -> list[str]:
        found = Page(text)
        ids = [one["id"] for one in found.all("section")]
        assert [one["href"] for one in found.all("a")] == [f"#{name}" for name in ids]
        return ids

    bare = ["reading", "headlines", "results", "reproduce"]
    assert sections(render(tmp_path, [row("m", metric="accuracy")])) == bare
    length = row("m", metric="length", higher_is_better="")
    rows = [*ROWS, length, row("m", metric="win_rate")]
    assert sections(render(tmp_path, rows, **everything(tmp_path))) == [
        "reading", "headlines", "forest", "results", "decontamination", "lengths", "samples", "training",
        "distributions", "costs", "agreement", "provenance", "reproduce",
    ]  # fmt: skip


def test_every_headline_row_is_in_the_table_and_single_seeds_are_not(tmp_path):
    seeds = [row("m.sft", seed=seed, seeds=count) for seed, count in (("1", "1"), ("2", "1"), ("all", "2"))]
    found = Page(render(tmp_path, [row("m"), *seeds, row("m.sft", seed="all", metric="f1")]))
    lines = found.rows["table-results"][1:]
    assert [line[:4] for line in lines] == [
        ["m", "quiz", "all", "accuracy\N{NO-BREAK SPACE}↑"],
        ["m.sft", "quiz", "all", "accuracy\N{NO-BREAK SPACE}↑"],
        ["m.sft", "quiz", "all", "f1\N{NO-BREAK SPACE}↑"],
    ]
    assert "0.500 ±0.100" in lines[0][4] and lines[0][5] == "40 (8)"


def test_a_row_without_a_value_says_why(tmp_path):
    found = Page(
        render(tmp_path, [row("m"), row("m.sft", benchmark="code", value="", note="no sandbox here")])
    )
    line = next(line for line in found.rows["table-results"] if "code" in line)
    assert "–" in line and line[-1] == "no sandbox here0123456789ab"
    assert "Not scored (m.sft): code: no sandbox here" in found.text


def bold(rows: list[dict[str, str]], folder: Path) -> list[str]:
    """Return the policies whose value is bold in the table of all results."""
    text = re.search(r'<table id="table-results".*?</table>', render(folder, rows), re.DOTALL).group(0)
    return [
        re.search('data-policy="([^"]+)"', line).group(1)
        for line in text.split("<tr")[2:]
        if "<strong>" in line
    ]


def test_bold_is_what_an_interval_that_holds_training_luck_says_is_better(tmp_path):
    base, better, unclear = row("m"), against("0.1", "0.3"), against("-0.1", "0.3")
    rows = [base, row("m.a", **better), row("m.b", **better), row("m.c", **unclear)]
    assert bold(rows, tmp_path) == ["m.a", "m.b"]  # each that is better, not the best alone
    assert (
        bold([base, row("m.a", **against("-0.3", "-0.1"))], tmp_path) == []
    )  # nor the baseline that they lose to
    lower = {"higher_is_better": "false"}
    assert bold([base | lower, row("m.a", **against("-0.3", "-0.1")) | lower], tmp_path) == ["m.a"]
    assert bold([base, row("m.a", **better) | {"difference_luck": "not included"}], tmp_path) == []
    # the table's own column decides where it is there
    assert bold([base, row("m.a", **better) | {"than_baseline": ""}], tmp_path) == []
    assert bold([base, row("m.a", **unclear) | {"than_baseline": "better"}], tmp_path) == ["m.a"]


def test_the_headline_table_ends_with_its_items_and_tells_each_seed(tmp_path):
    seeds = [
        row("m.sft", seed="1", value="0.4"),
        row("m.sft", seed="2", value="0.6"),
        row("m.sft", seed="all", seeds="2"),
    ]
    text = render(tmp_path, [row("m", n="38"), *seeds])
    found = Page(text)
    assert found.rows["table-headlines"][-1] == ["items (in groups)", "38–40 in 8"]
    assert found.rows["table-headlines"][2][0] == "m.sft2 seeds"
    assert [line[:3] for line in found.rows["table-seeds"][1:]] == [
        ["m.sft", "1", "0.400 [0.400, 0.600]"],
        ["m.sft", "2", "0.600 [0.400, 0.600]"],
    ]
    assert "<tfoot>" in text  # where sorting leaves it
    assert "table-seeds" not in Page(render(tmp_path, [row("m")])).rows


def test_what_each_run_was_told_begins_with_what_differs_from_the_defaults(tmp_path):
    told = {
        "runs": {
            "dpo": {
                "method": "dpo",
                "policies": ["m.dpo", "n.dpo"],
                "changed": {"beta": 0.5, "pairs": "own"},
            },
            "low": {"method": "dpo", "policies": ["m.low"], "changed": {"pairs": "own"}},
        },
        "defaults": {"dpo": {"beta": 0.1, "lora": None, "epochs": 1.0}},
    }
    lines = Page(render(tmp_path, ROWS, hyper_parameters=told)).rows["table-settings"][1:]
    assert lines[0] == ["m.dpo, n.dpo", "dpo", "dpo", "beta: 0.5; pairs: own", "2 settingsloranullepochs1"]
    assert lines[1][3:] == ["pairs: own", "3 settingsbeta0.1loranullepochs1"]


def test_clean_published_and_detectable_values_stand_beside_the_value(tmp_path):
    extra = {
        "mde": "0.05", "clean_value": "0.45", "clean_n": "30", "clean8_value": "0.48", "clean8_n": "35",
        "published_value": "0.55", "published_difference": "-0.05",
    }  # fmt: skip
    found = Page(render(tmp_path, [row("m"), row(**against("0.1", "0.3")) | extra]))
    head, _, line = found.rows["table-results"]
    cells = dict(zip(head, line, strict=True))
    assert cells["detectable"] == "0.050"
    assert cells["clean items"] == "0.450n = 30"
    assert cells["published"] == "0.550ours −0.050"
    assert cells["difference to baseline"] == "+0.200+0.100 to +0.300"
    untouched = Page(render(tmp_path, [row("m", clean_value="0.5", clean_n="40")]))
    assert "clean items" not in untouched.rows["table-results"][0]  # nothing overlaps: the value is the value


def test_a_table_from_before_the_new_columns_opens(tmp_path):
    old = [{name: value for name, value in one.items() if name not in NEW} for one in ROWS]
    assert "0.700 ±0.100" in Page(render(tmp_path, old)).text


def test_what_was_answered_while_training_is_shown_as_text_beside_its_step(tmp_path):
    answers = [{"id": "p<1>", "asked": "Why <b>?", "text": "<script>alert(1)</script>", "worth": 0.5}]
    curve = [{"step": 2, "watch": 0.5, "watch_error": 0.1}, {"step": 2, "answers": answers}]
    (tmp_path / "curve.json").write_text(json.dumps([{"step": 1, "train_loss": 2.0}, *curve]))
    own = {"policy": "m.sft", "seed": 1, "file": str(tmp_path / "curve.json")}
    page = render(tmp_path, [row()], curves=[own, own | {"seed": 2}])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert page.count("what it answered while it trained") == 1
    assert "<h4>step 2</h4>" in page
    assert "What the answers of m.sft were worth by optimiser step" in page
    plain = render(tmp_path, [row()], curves=[own | {"file": str(plain_curve(tmp_path))}])
    assert "while it trained" not in plain


def plain_curve(folder: Path) -> Path:
    """Write a curve of losses alone."""
    path = folder / "plain.json"
    path.write_text(json.dumps([{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.0}]))
    return path


def test_samples_are_those_with_the_smallest_digests_of_their_ids():
    prompts = [{"id": f"p{n}"} for n in range(50)]
    order = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt["id"].encode()).hexdigest())
    wanted = {prompt["id"] for prompt in order[:4]}
    chosen = [prompt["id"] for prompt in samples.chosen_prompts(prompts, 4)]
    assert set(chosen) == wanted
    assert chosen == [
        prompt["id"] for prompt in prompts if prompt["id"] in wanted
    ]  # in the prompts' own order
    assert {prompt["id"] for prompt in samples.chosen_prompts(prompts[::-1], 4)} == wanted


def test_a_long_answer_is_folded_and_whole(tmp_path):
    text = "word " * 300 + "the end"
    given = answered(tmp_path, text)
    raw = render(tmp_path, ROWS, **given)
    folded = re.search(r'<details class="text">(.*?)</details>', raw, re.DOTALL).group(1)
    assert text in folded
    assert '<details class="text">' not in render(tmp_path, ROWS, **answered(tmp_path, "short"))


def test_a_verdict_that_failed_says_so():
    view = samples.verdict_view({"rating": None, "failed": "no rating in the reply", "text": "I refuse"})
    assert view == {"mark": "no verdict: no rating in the reply", "failed": True, "words": ["I refuse"]}
    assert samples.verdict_view({"preference": 0.5, "order": [1.0, 0.0]})["mark"] == "preferred 0.5"


def test_a_verdict_that_the_study_skips_or_that_has_no_number_is_shown_and_counted(tmp_path):
    given = answered(tmp_path, "an answer", count=4)
    own = {"turn": 0, "sample": 0}
    verdicts = [
        own | {"id": "q0", "preference": 1.0},
        own | {"id": "q1", "preference": None, "skipped": True},
        own | {"id": "q2", "preference": None, "failed": "no rating in the reply"},
        own | {"id": "q3", "preference": float("nan")},
    ]
    write_lines(tmp_path / "verdicts.jsonl", verdicts)
    found = Page(render(tmp_path, ROWS, **given))
    marks = ["preferred 1", "skipped by the study", "no verdict: no rating in the reply"]
    assert all(mark in found.text for mark in [*marks, "no verdict: its number is nan"])
    failed = [one["class"] for one in found.all("span") if one.get("class", "").startswith("verdict")]
    assert sorted(failed) == ["verdict", "verdict", "verdict failed", "verdict failed"]
    assert "quiz: verdicts left out: 1 of m.sft (skipped by the study), 2 of m.sft (failed)." in found.text


def test_verdicts_that_are_all_without_a_number_draw_nothing_and_are_counted(tmp_path):
    given = answered(tmp_path, "an answer")
    skipped = {"id": "q0", "turn": 0, "sample": 0, "preference": None, "skipped": True}
    write_lines(tmp_path / "verdicts.jsonl", [skipped])
    found = Page(render(tmp_path, ROWS, **given))
    assert "quiz: verdicts left out: 1 of m.sft (skipped by the study)." in found.text
    assert "Rewards and verdicts" in found.text and "quiz verdicts" not in found.text


def test_answers_without_a_judge_show_what_the_scorer_said(tmp_path):
    given = answered(tmp_path, "an answer")
    entries = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps([entries[0] | {"verdicts": None}]))
    cell = {
        "subset": "all",
        "metric": "exact",
        "estimator": "mean",
        "items": ["q0"],
        "columns": {"value": [1.0]},
    }
    (tmp_path / "scores.json").write_text(json.dumps({"cells": [cell]}))
    assert "all/exact 1" in Page(render(tmp_path, ROWS, **given)).text


def test_costs_are_summed_once_per_stage_and_policy(tmp_path):
    found = Page(render(tmp_path, ROWS, **everything(tmp_path)))
    assert found.rows["table-costs-stage"] == [
        ["stage", "jobs", "wall time", "US dollars"],
        ["train_sft", "2", "3.5 h", ""],
        ["judge", "1", "30 s", "1.50"],
    ]
    assert found.rows["table-costs-policy"][1:] == [
        ["m.sft", "2", "60 min", "1.50"],
        ["m.dpo", "1", "2.5 h", ""],
    ]


def test_what_cleaning_rejected_and_did_not_read_stands_in_the_report(tmp_path):
    counts = {"rows": {"read": 9, "kept": 7, "rejected": 2}, "turns": {"read": 18, "kept": 14, "rejected": 4}}
    manifest = {
        "counts": {"a.jsonl": counts, "b.jsonl": counts},
        "rejected": {
            "turn: no label": {"entries": 3, "turns": 5},
            "row: calls a tool": {"entries": 4, "turns": 8},
            "row: twice": {"entries": 6, "turns": 6},
        },
        "notes": {"key not read: tools": 3},
    }
    (tmp_path / "clean.json").write_text(json.dumps(manifest))
    found = Page(render(tmp_path, ROWS, data={"books": str(tmp_path / "clean.json")}))
    told = ["twice (6), calls a tool (4)", "no label (3)", "key not read: tools (3)"]
    assert found.rows["table-data"][1:] == [["books", "18", "14", "4", "36", "28", "8", *told]]


def test_overlaps_are_counted_by_both_rules_and_listed(tmp_path):
    found = Page(render(tmp_path, ROWS, **everything(tmp_path)))
    # books: q0 shares a 13-gram and 70 % of its 8-grams, q1 only 69 %; web: q1 shares a 13-gram
    assert found.rows["table-overlap-counts"][1:] == [["quiz", "books", "1", "1"], ["quiz", "web", "1", "0"]]
    assert len(found.rows["table-overlap-items"]) == 1 + 3
    assert "2 items of the benchmarks share n-grams" in found.text


def test_no_overlap_is_claimed_only_where_it_was_looked_for(tmp_path):
    empty = {
        "flags": {"overlap": write_csv(tmp_path / "overlap.csv", [], "benchmark item training_set".split())}
    }
    assert "decontamination" not in render(tmp_path, [row("m")], **empty)
    found = Page(render(tmp_path, [row("m", clean_value="0.5", clean_n="40")], **empty))
    assert "No item of any benchmark shares an n-gram with a training set" in found.text


def test_a_training_warning_and_the_provenance_are_shown(tmp_path):
    found = Page(render(tmp_path, ROWS, **everything(tmp_path)))
    assert "overfits: validation loss 2 where 1 was" in found.text
    assert found.rows["table-provenance"][1][3].startswith("0123456789ab")
    assert "9" * 64 in found.text and "make results STUDY=studies/toy.yaml" in found.text
    copied = [one["data-copy"] for one in found.all("button") if "data-copy" in one]
    assert {"a" * 64, "b" * 64, "0123456789ab"} <= set(copied)


def test_a_missing_results_table_is_named(tmp_path):
    with pytest.raises(PlumblineError, match=r"nowhere\.csv"):
        page.read_csv(tmp_path / "nowhere.csv")


ADDRESS = "#benchmark=quiz&sort=-value"


@needs_chromium
def test_the_address_opens_filters_and_sorts_the_results_in_a_browser(tmp_path):
    values = {"a": "0.3", "b": "0.1", "c": "0.2"}
    rows = [row(f"m.{name}", value=value) for name, value in values.items()]
    render(tmp_path, [*rows, row("m.a", benchmark="code", value="0.9"), row("m.d", value="", note="refused")])
    address = f"{(tmp_path / 'report.html').as_uri()}{ADDRESS}"
    with Browser(address, tmp_path / "profile") as browser:
        assert browser.value("document.querySelector('#results details').open")
        head = "document.querySelector('#table-results th[data-key=value]').getAttribute('aria-sort')"
        assert browser.value(head) == "descending"
        lines = "[...document.querySelectorAll('#table-results tbody tr')].filter((row) => !row.hidden)"
        shown = browser.value(f"{lines}.map((row) => row.dataset.policy)")
        assert shown == ["m.a", "m.c", "m.b", "m.d"]  # what has no value comes last
        assert browser.value("document.querySelector('output').textContent") == "4 of 5 rows"
        assert browser.errors == []


@needs_chromium
def test_all_results_are_folded_and_the_last_column_lies_inside_a_page_of_1280(tmp_path):
    extra = {
        "mde": "0.05", "clean_value": "0.45", "clean_n": "30", "clean8_value": "0.48", "clean8_n": "35",
        "published_value": "-1234.5", "published_difference": "-0.05", "seed_sd": "1.25", "seed_low": "-1234.5",
        "seed_high": "-1230.5", "noise": "0.125", "seeds": "3", "interval": "two_level_korn_graubard",
        "metric": "rouge_l_f_measure", "benchmark": "instructions_of_many", "subset": "humanities_and_arts",
        "value": "-1234.5", "ci_low": "-1240.5", "ci_high": "-1220.5",
        "note": "fidelity: paper; compared on 38 of 40 items; averaged over the seeds on 39 of 40 items",
    }  # fmt: skip
    wide = (
        row("smollm2.sft-lr5e-4-beta1e-1.dpo-lr2e-5.a_lol", **against("-12.5", "-3.25", "smollm2.sft"))
        | extra
    )
    given = everything(tmp_path)
    render(tmp_path, [row("m"), *ROWS[1:], wide], **given)
    with Browser((tmp_path / "report.html").as_uri(), tmp_path / "profile", width=1280) as browser:
        assert browser.value("document.querySelector('#results details').open") is False
        browser.value("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        heads = browser.value("document.querySelectorAll('#table-results th[data-key]').length")
        assert heads == 14  # every column that there can be
        right = "document.querySelector('#table-results th:last-child').getBoundingClientRect().right"
        assert browser.value(right) <= 1280 - 24
        assert browser.value("document.documentElement.scrollWidth") <= 1280
        box = "document.querySelector('#table-results').parentElement"
        assert browser.value(f"{box}.scrollWidth <= {box}.clientWidth")
        assert browser.errors == []
