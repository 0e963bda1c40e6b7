"""The last lines of a run: where the tables are and the warnings that matter, or which log tells of the failure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow import copy_with_study, snakemake
from workflow_scripts.common.files import write_json
from workflow_scripts.report.last_words import LINES, Failed, command_again, failed_words, last_words
from workflow_scripts.report.reasons import LONGEST
from workflow_scripts.report.spreadsheets import write_csv

COLUMNS = ["policy", "benchmark", "subset", "metric", "value", "note"]


@pytest.fixture
def study(tmp_path) -> tuple[Path, list[Path]]:
    """A study's results and the manifest of its one dataset, with something to say of each."""
    results, manifest = tmp_path / "results", tmp_path / "clean/chats/manifest.json"
    write_json(
        manifest,
        {
            "counts": {
                "a.json": {"rows": {"read": 9, "kept": 6, "rejected": 3}},
                "b.json": {"rows": {"read": 1, "kept": 1, "rejected": 0}},
            },
            "rejected": {
                "row: no text": {"entries": 2, "turns": 0},
                "row: over quota": {"entries": 1, "turns": 1},
                "turn: too long": {"entries": 4, "turns": 4},
            },
            "notes": {"key not read: mood": 5, "N/A replaced": 3},
        },
    )
    results.mkdir()
    for name in ("results.md", "report.html"):
        (results / name).write_text("x")
    trained = [
        ["a", "1", "training diverged at step 3"],
        ["a", "2", "training diverged at step 3"],
        ["b", "1", ""],
    ]
    write_csv(results / "training.csv", ["policy", "seed", "warning"], trained)
    rows = [
        ["gold", "he", "all", "pass@1", "0.98", ""],
        ["gold", "tutor", "state", "accuracy", "1.0", ""],
        ["gold", "judged", "all", "win_rate", "0.5", ""],
        ["a", "he", "all", "pass@1", "0.1", "fidelity: paper; 3 failed verdicts"],
        ["b", "he", "all", "pass@1", "0.2", "3 failed verdicts"],
    ]
    write_csv(results / "results.csv", COLUMNS, rows)
    return results, [manifest]


def test_the_last_lines_name_the_tables_and_the_warnings_that_matter(study):
    results, cleaned = study
    write_json(results / "reward_models/rm/manifest.json", {"refused": "training diverged at step 2"})
    write_json(results / "values/v/tiny/seed-1/manifest.json", {"counts": {"kept": 3}})
    for name, count in (("he", 2), ("old", 3)):  # `old` is a benchmark no more
        counts = {"answers": 164, "changed_by_tokens": {"tiny": count, "other": 0}}
        write_json(results / f"policies/gold/seed-0/generations/{name}.json", {"counts": counts})
    assert last_words(results, cleaned, ["sources.x: to be filled in"]) == [
        f"results: {results}/results.md and {results}/report.html",
        "warning: training of a (seed 1), a (seed 2): training diverged at step 3",
        "warning: reward_models/rm: training diverged at step 2",
        "warning: the right answers (gold) do not score 1: he/all/pass@1 0.98; scores there are held down by as much",
        "warning: he: right answers are others in a model's tokens: 2 of 164 in those of tiny",
        "warning: dataset chats: 2 of 10 rows rejected: no text (2)",
        "warning: dataset chats: keys not read: mood (in 5 rows)",
        "warning: on 2 rows of results.csv: 3 failed verdicts",
        "warning: sources.x: to be filled in",
    ]


def test_what_is_not_there_is_not_spoken_of(tmp_path):
    assert last_words(tmp_path, [tmp_path / "clean/x/manifest.json"]) == []


def test_no_run_fails_by_its_last_words(study):
    results, cleaned = study
    for path in (*cleaned, results / "training.csv", results / "results.csv"):
        path.write_text("what stands here is something else\n{]\n")
    assert last_words(results, cleaned) == [f"results: {results}/results.md and {results}/report.html"]


def test_there_are_few_last_lines_and_none_is_long(study):
    results, cleaned = study
    rows = [["a", "he", "all", "pass@1", "0", f"note {number} {'x' * 500}"] for number in range(30)]
    write_csv(results / "results.csv", COLUMNS, rows)
    lines = last_words(results, cleaned)
    assert len(lines) <= LINES + 2 and all(len(line) <= LONGEST + len("warning: ") for line in lines)
    assert lines[-1].startswith("and 25 warnings more")


def test_the_headline_table_comes_first_aligned_and_of_five_columns_at_most(study, monkeypatch):
    results, cleaned = study
    (results / "results.md").write_text(
        "# Results\n\nA legend | with a bar\n\n## Headlines\n\n"
        "| policy | tutor accuracy ↑ | a | b | c | d ↓ |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| `tiny` | 0.100 ± 0.010 | 1 | 2 | 3 | 4 |\n| `tiny.sft` (3 seeds) | **0.200 ± 0.010** | 1 |  | 3 | 4 |\n"
        "| *items (in groups)* | 9 in 3 | 1 | 2 | 3 | 4 |\n\nMore.\n\n## tutor\n\n| policy | x |\n"
    )
    monkeypatch.setenv("COLUMNS", "100")
    assert last_words(results, cleaned)[:8] == [
        "                            tutor",
        "policy                 accuracy ↑  a  b  c",
        "──────────────────────────────────────────",
        "tiny                0.100 ± 0.010  1  2  3",
        "tiny.sft (3 seeds)  0.200 ± 0.010  1     3",
        "items (in groups)          9 in 3  1  2  3",
        f"(1 more column in {results}/results.md)",
        "",
    ]
    monkeypatch.setenv("COLUMNS", "37")
    assert "(3 more columns in" in "\n".join(last_words(results, cleaned))


def test_a_run_says_what_it_took_and_what_may_be_done_now(study):
    results, cleaned = study
    assert last_words(results, cleaned, seconds=200)[-1] == "it took 3 minutes"
    columns = ["stage", "name", "tokens", "prompt_tokens", "completion_tokens", "judge_calls", "usd"]
    totals = ["total", "total", "1500000", "4000", "1000", "12", "0.25"]
    write_csv(results / "costs.csv", columns, [["train_sft", "total", "9", "", "", "", ""], totals])
    rows = [["tiny", "1"], ["tiny.sft", "1"], ["tiny.diverged", ""], ["tiny.sft@by_vllm", "1"]]
    rows += [["tiny.sft.gone", "1"], ["gold", "1"]]  # its weights were not kept
    for name in ("tiny.sft", "tiny.diverged"):
        (results / f"policies/{name}/seed-2/model").mkdir(parents=True)
    write_csv(results / "results.csv", ["policy", "value"], rows)
    assert last_words(results, cleaned, seconds=7200, files=["studies/my own.yaml"])[-4:] == [
        f"it took 2.0 hours; the study so far: 1.5 million tokens, $0.25 for 12 calls (by job: {results}/costs.csv)",
        f"next: open {results}/report.html in a browser",
        "      talk to a policy: make chat 'STUDY=studies/my own.yaml' POLICY=tiny.sft",
        "      take one out: make export 'STUDY=studies/my own.yaml' POLICY=tiny.sft TO=out/",
    ]


def test_a_failure_names_the_job_its_reason_its_log_and_how_to_go_on(tmp_path):
    log = tmp_path / "train.log"
    lines = [f"line {number} " + "x" * 300 for number in range(20)]
    log.write_text("\n".join([*lines, "error: no space left in /x (OSError: y): free some", "", ""]))
    other = tmp_path / "other.log"
    other.write_text("")
    jobs = [
        Failed("train_sft", "Fine-tuning a (seed 1)", [str(log)], 1),
        Failed("train_aligned", "Aligning b (seed 2)", [str(other)], 137),
        Failed("fetch_source", "Fetching c", [str(tmp_path / "none.log")]),
        Failed("judge_answers", "Judging d", [], 1, "SLURM status is: 'TIMEOUT'"),
    ]
    said = failed_words(jobs, "make results")
    assert said[:3] == [
        "failed: Fine-tuning a (seed 1)",
        "  why: no space left in /x",
        "  try: free some (`du -sh results work data`), or make results, work or data a link to another disk; TMPDIR "
        "names where temporary files go",
    ]
    assert said[3] == f"  log: {log}, which ends:"
    assert said[4].startswith("    | line 13 xx") and said[11].startswith("    | error: no space left")
    assert all(len(line) <= LONGEST for line in said)
    assert said[12:15] == [
        "failed: Aligning b (seed 2)",
        "  why: killed by SIGKILL (signal 9): out of memory, most likely, for that is how the system ends who takes "
        "too much",
        said[14],
    ]
    assert "per_device_batch" in said[14] and said[15] == f"  log: {other}, which is empty"
    assert said[16:] == [
        "failed: Fetching c",
        "  why: it ended without a word in its log",
        "failed: Judging d: it took longer than the scheduler lets it",
        "4 jobs failed; what needs nothing of them was made, and is kept. To go on: make results",
    ]
    assert failed_words([], "make results") == []


def test_a_job_that_could_not_say_so_ended_for_want_of_room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/toy").mkdir(parents=True)
    log = Path("results/toy/logs/train_sft/a.log")
    job = Failed("train_sft", "Fine-tuning a", [str(log)], 1)
    assert "without a word" in job.why().reason
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=4096))
    assert job.why().reason == "no space left in results/toy" and "du -sh" in job.why().advice
    log.parent.mkdir(parents=True)
    log.write_text("loss 1.0\n")
    assert job.why().reason == "no space left in results/toy/logs/train_sft"


def test_jobs_that_failed_alike_are_told_together(tmp_path):
    jobs = []
    for number in range(20):
        log = tmp_path / f"{number}.log"
        log.write_text(
            "error: judge 'x' cannot be reached (Connection refused); start it; 2 verdicts are missing\n"
            if number < 5
            else f"KeyError: {number}\n"
        )
        jobs.append(Failed("judge_answers", f"Judging {number}", [str(log)], 1))
    said = failed_words(jobs, "make results")
    assert said[:2] == [
        "failed: Judging 0, Judging 1, Judging 2 and 2 more",
        "  why: judge 'x' cannot be reached (Connection refused)",
    ]
    assert said[-2:] == [
        "and 8 kinds of failures more",
        "20 jobs failed; what needs nothing of them was made, and is kept. To go on: make results",
    ]


@pytest.mark.parametrize(
    ("files", "arguments", "command"),
    [
        (["config.yaml"], ["snakemake", "--cores", "2"], "make results"),
        (["studies/my study.yaml"], ["snakemake"], "make results 'STUDY=studies/my study.yaml'"),
        (
            ["studies/a.yaml"],
            ["snakemake", "--workflow-profile", "profiles/slurm-a100"],
            "make results STUDY=studies/a.yaml PROFILE=profiles/slurm-a100",
        ),
    ],
)
def test_the_command_that_goes_on_is_the_one_that_began(files, arguments, command):
    assert command_again(files, arguments) == command


def test_snakemake_says_them_at_the_end_of_a_run_and_of_a_failure(tmp_path):
    folder = copy_with_study(tmp_path / "copy")
    (folder / "own.jsonl").write_text(
        '{"mood": "glad", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
        + '{"messages": []}\n'
    )
    (folder / "broken.jsonl").write_text("{\n")
    text = """
study: small
sources:
  own: {files: {own.jsonl: null}, places: [{file: {files: {own.jsonl: FILE}}}]}
  weights: {places: [{hf: {repo: a/b, revision: "REVISION"}}]}
models: {tiny: {source: weights, template: tutor, context: 99}}
datasets: {own: {source: own, files: [own.jsonl], schema: messages, group_by: conversation, split: {quotas: {sft: 9}}}}
"""
    text = text.replace("REVISION", "1" * 40)
    (folder / "small.yaml").write_text(text.replace("FILE", "own.jsonl"))
    done = snakemake(folder, "--configfile", "small.yaml", "--", "datasets")
    told = [line for line in done.stderr.splitlines() if line.startswith("warning: dataset own: ")]
    assert told == [
        "warning: dataset own: 1 of 2 rows rejected: fewer than 2 messages (1)",
        "warning: dataset own: keys not read: mood (in 1 row)",
    ]
    assert (
        told[-1] in done.stderr.splitlines()[-6:]
    )  # a doubt of the check, what it took and two lines of Snakemake come after it
    again = snakemake(folder, "-n", "--configfile", "small.yaml", "--", "datasets")
    assert "Nothing to be done" in again.stdout + again.stderr
    (folder / "small.yaml").write_text(text.replace("FILE", "broken.jsonl"))
    failed = snakemake(folder, "--configfile", "small.yaml", "--", "datasets", check=False)
    said = failed.stderr.splitlines()
    place = said.index("failed: Cleaning dataset own")
    assert said[place + 1].startswith("  why: ") and "own.jsonl: not JSON" in said[place + 1]
    assert "  log: results/small/logs/clean_dataset/own.log, which ends:" in said[place:]
    assert any(line.endswith("To go on: make results STUDY=small.yaml") for line in said)


def test_nothing_heavy_is_imported_for_the_last_lines():
    code = "import sys, workflow_scripts.report.last_words; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "set()"
