"""What a change costs: dry runs of finished studies, the default one, one with offline RL, one with endpoint judges."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.workflow import copy_with_study, edit, finish, stale, summary
from workflow_scripts.common.files import sha256_of
from workflow_scripts.study.checking import load_study

OFFLINE = ("--configfile", "studies/tutor_offline_rl.yaml")
TABLES = {
    "results.csv",
    "results_full.csv",
    "policies.csv",
    "results.md",
    "results.tex",
    "overlap.csv",
    "provenance.json",
    "tables.json",
    "costs.csv",
    "policy_bars.svg",
    "report.html",
}
INDEXED = TABLES | {"scores.json"}  # the index holds each benchmark's settings, and which policies there are


def names(files: set[str]) -> set[str]:
    return {Path(file).name for file in files}


def policies(files: set[str]) -> set[str]:
    return {found.group(1) for file in files if (found := re.search(r"/policies/([^/]+)/", file))}


def of_benchmark(name: str, files: set[str]) -> set[str]:
    return {file for file in files if Path(file).stem == name}


def test_a_finished_study_has_nothing_to_do(study):
    assert stale(study) == set()


def test_touching_every_file_makes_nothing_stale(study):
    for path in study.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert stale(study) == set()


def test_a_comment_in_a_loss_makes_nothing_stale(study):
    edit(study / "workflow_scripts/align/dpo.py", "    gap = settings", "    # a remark\n    gap = settings")
    edit(study / "workflow_scripts/align/dpo.py", "Return the mean DPO loss", "Give the mean DPO loss")
    assert stale(study) == set()


def test_a_changed_beta_costs_that_policy_its_scores_and_the_table(study):
    edit(study / "config.yaml", "beta: 0.1\n    learning_rate", "beta: 0.2\n    learning_rate")
    edit(study / "config.yaml", "    method: ipo", "    method: ipo\n    beta: 0.1")
    edit(study / "config.yaml", "    method: kto", "    method: kto\n    beta: 0.1")
    files = stale(study)
    assert policies(files) == {"tiny.sft.dpo"}
    others = {file for file in files if "/policies/" not in file}
    assert names(others) == TABLES | {"loss_curves.svg", "training.csv"}


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto"])
def test_an_edited_loss_retrains_exactly_the_policies_that_use_it(study, method):
    path = study / f"workflow_scripts/align/{method}.py"
    path.write_text(re.sub(r"settings\[\"beta\"\]", '(1.0 * settings["beta"])', path.read_text(), count=1))
    files = stale(study)
    assert policies(files) == {f"tiny.sft.{method}"}
    assert f"results/tutor/policies/tiny.sft.{method}/seed-1/manifest.json" in files


def test_a_scoring_setting_costs_that_benchmark_and_the_table(study):
    edit(study / "config.yaml", "    kind: humaneval\n", "    kind: humaneval\n    timeout_seconds: 4.0\n")
    files = stale(study)
    scored = {file for file in files if "/policies/" in file}
    assert scored == of_benchmark("humaneval", scored)
    assert all("/scores/" in file for file in scored)
    assert len(scored) == 7
    assert names(files - scored) == INDEXED


def test_a_generation_setting_costs_that_benchmark_alone(study):
    edit(study / "config.yaml", "    max_new_tokens: 48\n", "    max_new_tokens: 50\n")
    files = stale(study)
    held = {
        file
        for file in files
        if "/policies/" in file and not {"answered.json", "answers"} & {Path(file).name}
    }
    assert held == of_benchmark("humaneval", held)
    assert not any("manifest.json" in file for file in files)
    assert {file for file in files - held if "/policies/" not in file and Path(file).name not in INDEXED} == {
        "results/tutor/prompts/humaneval.json",
        "results/tutor/prompts/humaneval.jsonl",
        "results/tutor/overlap/humaneval.json",
    }


def test_a_changed_setting_behind_a_job_that_only_orders_is_seen_in_the_same_run(study):
    # All policies answer again; what trains on answers is behind that, and its own answers are what they were.
    edit(study / "config.yaml", "max_new_tokens: 48", "max_new_tokens: 47")
    alone = stale(study)
    assert alone and not any(path.endswith("seed-1/manifest.json") for path in alone)
    edit(study / "config.yaml", "beta: 0.1", "beta: 0.2")
    both = stale(study)
    assert "results/tutor/policies/tiny.sft.dpo/seed-1/manifest.json" in both
    assert alone < both


def test_a_changed_problem_makes_everything_below_it_stale(study):
    edit(study / "data/bundled/biology_problems.jsonl", "Why does water form", "Why does rain form")
    files = stale(study)
    assert {"tiny.sft", "tiny.sft.dpo", "tiny.sft.ipo", "tiny.sft.kto"} <= policies(files)
    assert any("data/clean/tutor/tutor" in file for file in files)
    assert not any(file.startswith(("data/models", "data/sources/stories15m")) for file in files)


def test_an_edited_training_row_costs_the_overlap_with_questions_that_are_as_they_were(study):
    edit(study / "data/bundled/biology_problems.jsonl", "Why does water form", "Why does rain form")
    files = stale(study)
    for name in ("mt_bench", "alpaca_eval", "humaneval", "biology_quiz"):
        assert f"results/tutor/overlap/{name}.json" in files
        assert not {f"results/tutor/prompts/{name}.json", f"results/tutor/items/{name}.jsonl"} & files


def test_a_limit_leaves_the_study_itself_alone(study):
    cut = ("--config", "limit=3", "study=cut")
    rows = summary(study, *cut)
    assert not any(row["output_file"].startswith("results/tutor/") for row in rows)
    shared = [row for row in rows if row["output_file"].startswith(("data/sources", "data/models"))]
    assert {row["plan"] for row in shared} == {"no update"}
    assert stale(study) == set()


def test_an_upgraded_trainer_retrains_and_a_comment_in_the_lock_does_not(study):
    lock = study / "envs/requirements.txt"
    lock.write_text("# a remark\n" + lock.read_text())
    assert stale(study) == set()
    lock.write_text(re.sub(r"^trl==.*$", "trl==99.0", lock.read_text(), flags=re.MULTILINE))
    assert "results/tutor/policies/tiny.sft/seed-1/manifest.json" in stale(study)


def test_a_new_method_computes_only_itself(study):
    edit(
        study / "config.yaml",
        "  kto:\n    <<: *align\n    method: kto\n",
        "  kto:\n    <<: *align\n    method: kto\n  dpo_sharp:\n    <<: *align\n    beta: 0.5\n",
    )
    files = stale(study)
    assert policies(files) == {"tiny.sft.dpo_sharp"}


# Offline RL: the same study with four objectives more.


@pytest.fixture(scope="module")
def finished_offline(tmp_path_factory) -> Path:
    folder = copy_with_study(tmp_path_factory.mktemp("offline"))
    finish(folder, *OFFLINE)
    return folder


@pytest.fixture
def offline(finished_offline, tmp_path) -> Path:
    folder = tmp_path / "offline"
    shutil.copytree(finished_offline, folder, symlinks=True)
    return folder


def outside_policies(files: set[str]) -> set[str]:
    return {
        str(Path(file).relative_to("results/tutor_offline_rl")) for file in files if "/policies/" not in file
    }


TRAINED = {*TABLES, "loss_curves.svg", "training.csv"}


@pytest.mark.parametrize("method", ["r_gold", "r_lol", "a_lol_ref_free", "a_lol_kl"])
def test_a_ninth_method_costs_itself_its_answers_and_its_scores(offline, method):
    value = "" if method.startswith("r_") else "\n    value: expected"
    new = f"runs:\n  ninth:\n    <<: *offline\n    method: {method}{value}\n"
    path = offline / "studies/tutor_offline_rl.yaml"
    text = path.read_text()
    assert text.count("runs:\n  nll: &offline\n") == 1
    last = text.index("\nreport:")
    path.write_text(text[:last] + new.removeprefix("runs:") + text[last:])
    files = stale(offline, *OFFLINE)
    assert policies(files) == {"tiny.sft.ninth"}
    kinds = {file.split("/")[5] for file in files if "/policies/" in file}
    assert {"manifest.json", "generations", "scores"} <= kinds
    # Nothing of the reference, the value head or the advantages is computed again.
    assert names(outside_policies(files)) == TRAINED | INDEXED


@pytest.mark.parametrize("method", ["nll", "wbc", "a_lol", "a_lol_seq"])
def test_an_edited_weight_function_retrains_exactly_its_policy(offline, method):
    path = offline / f"workflow_scripts/align/{method}.py"
    text = path.read_text()
    path.write_text(re.sub(r"\n    return (.*)", r"\n    return 1.0 * (\1)", text, count=1))
    assert path.read_text() != text
    assert policies(stale(offline, *OFFLINE)) == {f"tiny.sft.{method}"}


def test_an_edited_value_head_costs_the_policies_that_weigh_by_advantage_and_no_log_probs(offline):
    edit(offline / "studies/tutor_offline_rl.yaml", "    epochs: 20\n", "    epochs: 21\n")
    files = stale(offline, *OFFLINE)
    assert policies(files) == {"tiny.sft.a_lol", "tiny.sft.a_lol_seq"}
    other = outside_policies(files)
    assert {file.split("/")[0] for file in other} - TRAINED == {"values", "advantages", "figures"}


def test_an_edited_reward_costs_what_learns_from_rewards_alone(offline):
    edit(offline / "config.yaml", "{rule: length, words: 30}", "{rule: length, words: 31}")
    files = stale(offline, *OFFLINE)
    assert {f"tiny.sft.{method}" for method in ("nll", "wbc", "a_lol", "a_lol_seq")} <= policies(files)
    retrained = {file for file in files if file.endswith("/seed-1/manifest.json") and "/policies/" in file}
    assert len(retrained) == 4


# Judges: benchmarks with verdicts of two endpoints, and one without a judge.

JUDGED = """
study: judged
sources:
  weights: {places: [{hf: {repo: nobody/tiny, revision: "0000000000000000000000000000000000000000"}}]}
  lessons: {simulate: {rows: alpaca, problems: data/bundled/lessons.jsonl, seed: 7, count: 40}}
  exam: {simulate: {rows: alpaca, problems: data/bundled/biology_problems.jsonl, seed: 8, count: 20}}
models:
  tiny: {source: weights, template: alpaca, context: 1024}
datasets:
  lessons: &rows
    {source: lessons, files: [instruction-data.json], schema: alpaca, split: {quotas: {train: 20, validation: 5}}}
  exam: {<<: *rows, source: exam, split: {quotas: {test: 10}}}
runs:
  sft: {method: sft, parent: tiny, dataset: lessons, split: train, learning_rate: 1.0e-3}
judges:
  first: {kind: openai, model: one}
  second: {kind: openai, model: two}
benchmarks:
  talk: {kind: mt_bench, questions: data/bundled/mt_bench_biology.jsonl, judge: first}
  scored: {kind: judge_score, dataset: exam, split: test, judge: first}
  wins: {kind: alpaca_eval, prompts: data/bundled/alpaca_biology.jsonl, judge: second}
  preferred: {kind: preference, dataset: exam, split: test, judge: second, opponent: tiny.sft}
  words: {kind: text_overlap, dataset: exam, split: test, metrics: [bleu]}
report:
  baseline: tiny
  agreement: [[talk, scored]]
"""
ENDPOINTS = ("--configfile", "studies/judged.yaml")
EVERYONE = {"tiny", "tiny.sft", "gold", "empty"}
JUDGED_TABLES = INDEXED - {"policy_bars.svg"}  # the study names no bars


@pytest.fixture(scope="module")
def finished_judged(tmp_path_factory) -> Path:
    folder = copy_with_study(tmp_path_factory.mktemp("judged"))
    (folder / "studies/judged.yaml").write_text(JUDGED)
    shutil.copy(folder / "data/bundled/biology_problems.jsonl", folder / "data/bundled/lessons.jsonl")
    finish(folder, *ENDPOINTS)
    return folder


@pytest.fixture
def judged(finished_judged, tmp_path) -> Path:
    folder = tmp_path / "judged"
    shutil.copytree(finished_judged, folder, symlinks=True)
    return folder


def after(judged: Path, old: str, new: str) -> set[str]:
    """Return the files that a change to the study has made again."""
    edit(judged / "studies/judged.yaml", old, new)
    return stale(judged, *ENDPOINTS)


def by_benchmark(files: set[str]) -> dict[str, dict[str, set[str]]]:
    """Return {benchmark: {generations, verdicts or scores: policies}} of the files that are a policy's."""
    found: dict[str, dict[str, set[str]]] = {}
    for file in files:
        place = re.search(r"/policies/([^/]+)/seed-\d+/(generations|verdicts|scores)/(\w+)\.", file)
        if place:
            policy, kind, benchmark = place.groups()
            found.setdefault(benchmark, {}).setdefault(kind, set()).add(policy)
    return found


JUDGED_AGAIN = {"verdicts": EVERYONE, "scores": EVERYONE}
COMPARED = {"judges.csv"}  # talk with scored


def test_how_a_judge_is_reached_and_paid_makes_nothing_stale(judged):
    reached = "base_url: http://localhost:8000/v1, api_key_env: KEY, concurrency: 1, requests_per_minute: 9.0"
    paid = "budget_usd: 5.0, usd_per_million_prompt_tokens: 1.0, usd_per_million_completion_tokens: 2.0"
    paid += ", retries: 2, timeout_seconds: 9.0, unanswered: count"
    assert after(judged, "model: one}", f"model: one, {reached}, {paid}}}") == set()


@pytest.mark.parametrize(
    ("old", "new", "benchmarks", "compared"),
    [
        ("model: one", "model: three", {"talk", "scored"}, COMPARED),
        ("model: one", "model: one, version: b", {"talk", "scored"}, COMPARED),
        ("model: two", "model: two, temperature: 1.0", {"wins", "preferred"}, set()),
    ],
)
def test_another_judge_costs_its_own_verdicts_and_their_scores(judged, old, new, benchmarks, compared):
    files = after(judged, old, new)
    assert by_benchmark(files) == dict.fromkeys(benchmarks, JUDGED_AGAIN)
    assert names({file for file in files if "/policies/" not in file}) == JUDGED_TABLES | compared


@pytest.mark.parametrize(
    ("benchmark", "old", "new"),
    [
        ("wins", "biology.jsonl, judge: second", "biology.jsonl, judge: second, length_controlled: true"),
        ("words", "metrics: [bleu]", "metrics: [bleu, length]"),
    ],
)
def test_what_scoring_alone_reads_costs_scores_provenance_and_tables(judged, benchmark, old, new):
    files = after(judged, old, new)
    assert by_benchmark(files) == {benchmark: {"scores": EVERYONE}}
    assert names({file for file in files if "/policies/" not in file}) == JUDGED_TABLES


@pytest.mark.parametrize(
    ("benchmark", "old", "new"),
    [
        ("scored", "test, judge: first", 'test, judge: first, prompt: "{prompt} {reference} {answer}"'),
        ("preferred", "test, judge: second", 'test, judge: second, skip: ["0"]'),
        ("preferred", "opponent: tiny.sft", "opponent: tiny"),
    ],
)
def test_what_a_judge_is_asked_costs_that_benchmarks_verdicts_and_no_answers(judged, benchmark, old, new):
    assert by_benchmark(after(judged, old, new)) == {benchmark: JUDGED_AGAIN}


def test_an_opponent_trained_anew_costs_the_verdicts_of_all_that_are_compared_with_it(judged):
    found = by_benchmark(after(judged, "1.0e-3", "2.0e-3"))
    own = {"generations": {"tiny.sft"}, "verdicts": {"tiny.sft"}, "scores": {"tiny.sft"}}
    assert found == {
        "talk": own,
        "scored": own,
        "wins": own,
        "words": {kind: {"tiny.sft"} for kind in ("generations", "scores")},
        "preferred": own | JUDGED_AGAIN,
    }


def test_an_edited_training_row_costs_training_and_every_overlap_but_no_prompts(judged):
    edit(judged / "data/bundled/lessons.jsonl", "Why does water form", "Why does rain form")
    files = stale(judged, *ENDPOINTS)
    found = {file for file in files if "/overlap/" in file}
    assert {Path(file).stem for file in found} == {"talk", "scored", "wins", "preferred", "words"}
    assert not any("/prompts/" in file or "/clean/judged/exam/" in file for file in files)
    assert policies({file for file in files if "/generations/" in file}) == {"tiny.sft"}


def test_a_changed_book_costs_the_rows_with_passages_and_what_follows_and_cleans_nothing_anew(tmp_path):
    small = "studies/tutor_retrieval-small.yaml"
    folder, flags = copy_with_study(tmp_path), ("--configfile", small)
    finish(folder, *flags)
    assert stale(folder, *flags) == set()
    (pinned,) = load_study(folder / small).sources["book"].files.values()
    book = folder / "data/bundled/biology_passages.jsonl"
    edit(book, "Photosynthesis", "Light and leaves")
    edit(folder / small, pinned, sha256_of(book))
    files = stale(folder, *flags)
    clean = "data/clean/tutor_retrieval-small"
    assert {f"{clean}/problems/manifest.json", f"{clean}/problems/rows"} <= files
    assert policies(files) >= {"tiny", "tiny.sft"}  # both are asked with passages
    data = {file for file in files if file.startswith("data/")} - {
        f"{clean}/problems/manifest.json",
        f"{clean}/problems/rows",
    }
    assert data and all(file.startswith("data/sources/book-") for file in data)
