"""What the AlpacaEval scores promise."""

import json
import math
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from alpaca_eval import metrics
from alpaca_eval.metrics import glm_winrate

from benchmarks.length_control import draw, estimates, true_rate
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.score.alpaca_eval import model_outputs, score
from workflow_scripts.score.length_control import EVALUATION_SET, gamed_features, refit

PROMPTS = [
    {
        "id": str(number),
        "group": f"g{number}",
        "messages": [{"role": "user", "content": f"Do {number}"}],
        "reference": ["r" * 15],
        "meta": {"dataset": "helpful_base"},
    }
    for number in range(4)
]
LENGTHS = {"0": 10, "1": 20, "2": 30, "3": 40}
VERDICTS = [
    {"id": str(number), "turn": 0, "sample": 0, "preference": preference, "order": None}
    for number, preference in enumerate([1, 0.5, 0, None])
]
DATA = Path(__file__).parents[1] / "data" / "bundled"
SETTINGS = {
    "benchmark": "mine",
    "evaluate": True,
    "length_controlled": False,
    "gamed": None,
    "lc_draws": 3,
    "seed": 1,
}
SETS = [name for name, size in EVALUATION_SET.items() for _ in range(size)]


def answers_of(lengths=LENGTHS, samples=1):
    return {
        name: [{"id": name, "sample": sample, "turn": 0, "text": "x" * length} for sample in range(samples)]
        for name, length in lengths.items()
    }


def cells(verdicts=VERDICTS, samples=1, **settings):
    found = score(PROMPTS, answers_of(samples=samples), verdicts, SETTINGS | settings, "verdicts.jsonl")
    return {cell["metric"]: cell for cell in found}


def study_of(preferences, shorter_by, identical=False):
    """Return prompts of AlpacaEval's order, answers and verdicts with these preferences and length differences."""
    prompts, answers, verdicts = [], {}, []
    for number, (preference, difference) in enumerate(zip(preferences, shorter_by, strict=True)):
        reference = "r" * (2000 + max(0, int(difference)))
        text = reference if identical else "p" * (len(reference) - int(difference))
        name = str(number)
        prompts.append(PROMPTS[0] | {"id": name, "group": name, "reference": [reference]})
        prompts[-1] |= {
            "meta": {"dataset": SETS[number]},
            "messages": [{"role": "user", "content": f"Do {number}"}],
        }
        answers[name] = [{"id": name, "sample": 0, "turn": 0, "text": text}]
        verdicts.append(
            {"id": name, "sample": 0, "turn": 0, "preference": None if math.isnan(preference) else preference}
        )
    return prompts, answers, verdicts


def annotations_of(prompts, answers, verdicts):
    """Return the same as the package's annotations: output_1 is the reference, 1 its win and 2 the policy's."""
    return pd.DataFrame(
        {
            "instruction": [row["messages"][0]["content"] for row in prompts],
            "output_1": [row["reference"][0] for row in prompts],
            "output_2": [answers[row["id"]][0]["text"] for row in prompts],
            "generator_1": "reference",
            "generator_2": "policy",
            "annotator": "judge",
            "preference": [
                math.nan if row["preference"] is None else row["preference"] + 1 for row in verdicts
            ],
        }
    )


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A study of 150 prompts, with a few failed verdicts, and its df_gamed.csv."""
    judged, gamed = draw(np.random.default_rng(7), 150, full=True)
    shown = np.random.default_rng(8)
    preferences = np.where(judged.preference == 1, shown.uniform(0.5, 1, 150), shown.uniform(0, 0.5, 150))
    preferences = (
        np.round(preferences * 2**20) / 2**20
    )  # 1 to 2, as the package has them, and back without a loss
    preferences[[3, 70]] = math.nan
    preferences[[5, 6]] = 0.5
    path = tmp_path_factory.mktemp("gamed") / "df_gamed.csv"
    gamed.assign(model="gamed").to_csv(path, index=False)
    return study_of(preferences.tolist(), judged.shorter_by), path


def test_the_win_rate_is_the_mean_preference_of_the_verdicts_there_are():
    cell = cells()["win_rate"]
    assert cell["columns"]["value"] == [1, 0.5, 0]
    assert cell["items"] == ["0", "1", "2"] and cell["groups"] == ["g0", "g1", "g2"]
    assert cell["higher_is_better"] is True


def test_the_discrete_win_rate_counts_wins_and_half_of_the_draws():
    found = cells(
        [row | {"preference": value} for row, value in zip(VERDICTS, [0.51, 0.5, 0.49, 1], strict=True)]
    )
    assert found["discrete_win_rate"]["columns"]["value"] == [1, 0.5, 0, 1]
    assert found["win_rate"]["columns"]["value"] == [0.51, 0.5, 0.49, 1]


def test_a_failed_verdict_is_counted():
    assert cells()["failed"]["columns"]["value"] == [0, 0, 0, 1]
    assert cells()["failed"]["higher_is_better"] is False


def test_length_covers_every_answer_and_is_neither_good_nor_bad():
    assert cells()["length"]["columns"]["value"] == [10, 20, 30, 40]
    assert cells()["length"]["higher_is_better"] is None


def test_an_item_is_the_mean_over_its_samples():
    found = cells(VERDICTS + [row | {"sample": 1, "preference": 1} for row in VERDICTS], samples=2)
    assert found["win_rate"]["columns"]["value"] == [1, 0.75, 0.5, 1]
    assert found["discrete_win_rate"]["columns"]["value"] == [1, 0.75, 0.5, 1]
    assert found["failed"]["columns"]["value"] == [0, 0, 0, 0.5]


def test_without_any_verdict_there_is_no_win_rate():
    lost = [row | {"preference": None} for row in VERDICTS]
    assert list(cells(lost, length_controlled=True)) == ["length", "failed"]


def test_a_prompt_without_a_verdict_or_a_verdict_without_an_answer_is_an_error():
    with pytest.raises(PlumblineError, match="no verdict on '3'"):
        cells(VERDICTS[:3])
    with pytest.raises(PlumblineError, match="'9', which is not asked"):
        cells([*VERDICTS, VERDICTS[0] | {"id": "9"}])
    with pytest.raises(PlumblineError, match="two verdicts on sample 0 of '0'"):
        cells([*VERDICTS, VERDICTS[0]])
    with pytest.raises(PlumblineError, match="'0', sample 1"):
        cells([*VERDICTS, VERDICTS[0] | {"sample": 1}])


def test_win_rates_and_counts_equal_the_packages(simulated):
    (prompts, answers, verdicts), _ = simulated
    own = {
        cell["metric"]: cell["columns"]["value"] for cell in score(prompts, answers, verdicts, SETTINGS, "v")
    }
    package = metrics.get_winrate(annotations_of(prompts, answers, verdicts))
    assert 100 * np.mean(own["win_rate"]) == pytest.approx(package["win_rate"], rel=1e-12)
    assert 100 * np.mean(own["discrete_win_rate"]) == pytest.approx(package["discrete_win_rate"], rel=1e-12)
    error = 100 * np.std(own["win_rate"], ddof=1) / math.sqrt(len(own["win_rate"]))
    assert error == pytest.approx(package["standard_error"], rel=1e-12)
    counts = [own["discrete_win_rate"].count(value) for value in (1, 0, 0.5)]
    assert counts == [package["n_wins"], package["n_wins_base"], package["n_draws"]]
    assert len(own["win_rate"]) == package["n_total"] == 148


@pytest.mark.parametrize("full", [True, False])
def test_the_length_controlled_rate_is_the_packages_to_the_last_bit(simulated, full):
    (prompts, answers, verdicts), path = simulated
    settings = {"length_controlled": True, "gamed": str(path) if full else None, "lc_draws": 1, "seed": 0}
    cell = score(prompts, answers, verdicts, settings, "v")[2]
    annotations = annotations_of(prompts, answers, verdicts)
    with mock.patch.object(glm_winrate, "hf_hub_download", lambda **_: str(path)):
        package = metrics.get_length_controlled_winrate(
            annotations,
            glm_name="length_controlled_v1" if full else "length_controlled_minimal",
            save_weights_dir=None,
        )
    assert cell["metric"] == ("lc_win_rate" if full else "lc_win_rate_minimal")
    assert cell["estimator"] == "replicates" and len(cell["items"]) == 150
    assert cell["columns"]["value"] == annotations["glm_preference"].tolist()
    assert 100 * cell["point"] == package["length_controlled_winrate"]
    assert (
        abs(cell["point"] - package["win_rate"] / 100) > 0.005
    )  # length mattered, or the test shows nothing


def test_refits_are_spread_as_new_sets_of_prompts_are_and_the_packages_error_is_not():
    generator, datasets = np.random.default_rng(0), 25
    points = [estimates(generator, 100, 0, True)[0] for _ in range(datasets)]
    found = [estimates(generator, 100, 20, True) for _ in range(2)]
    spread = np.std(points, ddof=1)
    assert np.mean(points) == pytest.approx(true_rate(True), abs=3 * spread / math.sqrt(datasets) + 0.02)
    # Each spread is known to a tenth or so; the package's is less than half of what it should be.
    assert 0.7 < np.mean([rates.std(ddof=1) for _, rates, _ in found]) / spread < 1.4
    assert np.mean([error for _, _, error in found]) / spread < 0.5


def test_refits_draw_whole_groups_and_the_same_for_every_policy():
    judged, gamed = draw(np.random.default_rng(3), 40, full=True)
    prior, groups = gamed_features(gamed), [str(number) for number in range(40)]
    assert refit(judged, groups, prior, 2, seed=5) == refit(judged, groups, prior, 2, seed=5)
    assert refit(judged, groups, prior, 2, seed=5) != refit(judged, groups, prior, 2, seed=6)
    # One group of all rows: every draw is the sample itself.
    assert len(set(refit(judged, ["all"] * 40, prior, 2, seed=5))) == 1


def test_the_reference_itself_wins_exactly_half(simulated):
    prompts, answers, verdicts = study_of([0.5] * 30, [0] * 30, identical=True)
    settings = {"length_controlled": True, "gamed": None, "lc_draws": 5, "seed": 0}
    found = {cell["metric"]: cell for cell in score(prompts, answers, verdicts, settings, "v")}
    assert set(found["win_rate"]["columns"]["value"]) == {0.5}
    assert found["lc_win_rate_minimal"]["point"] == 0.5
    assert found["lc_win_rate_minimal"]["replicates"] == [0.5] * 5


@pytest.mark.parametrize("count", [3, 9])
@pytest.mark.parametrize("verdict", [0, 1])
def test_unanimous_verdicts_are_the_length_controlled_rate_too(verdict, count):
    prompts, answers, verdicts = study_of([verdict] * count, [-5, 8, 120, -300, 20, 1, 0, 40, -2][:count])
    settings = {"length_controlled": True, "gamed": None, "lc_draws": 3, "seed": 0}
    cell = score(prompts, answers, verdicts, settings, "v")[2]
    assert cell["point"] == verdict and cell["replicates"] == [verdict] * 3


@pytest.mark.parametrize(
    ("preferences", "shorter_by"),
    [
        ([1, 0, 1, 0.2, 0.9, 1, 0], [100] * 7),  # all as much shorter: length tells nothing
        ([1, 0], [10, -30]),  # fewer rows than folds
        ([1.0], [10]),
        ([1, math.nan, math.nan, math.nan], [10, 20, 30, 40]),  # draws without any verdict
        ([0.7310585786300049, 0.2, 0.9999999, 1e-9, 0.5, 0.31], [3, -9, 14, 70, 0, -200]),  # a reward model's
        ([1] * 9, [-5, 8, 120, -300, 20, 1, 0, 40, -2]),
    ],
)
def test_few_or_uniform_verdicts_still_give_a_rate_and_finite_refits(preferences, shorter_by):
    prompts, answers, verdicts = study_of(preferences, shorter_by)
    settings = {"length_controlled": True, "gamed": None, "lc_draws": 6, "seed": 0}
    cell = score(prompts, answers, verdicts, settings, "v")[2]
    assert cell["metric"] == "lc_win_rate_minimal" and len(cell["items"]) == len(preferences)
    assert all(0 <= value <= 1 for value in [cell["point"], *cell["replicates"], *cell["columns"]["value"]])
    assert len(cell["replicates"]) == 6


def test_difficulties_are_not_lent_to_other_prompts(simulated):
    (prompts, answers, verdicts), path = simulated
    settings = {"length_controlled": True, "gamed": str(path), "lc_draws": 1, "seed": 0}
    other = [row | {"meta": {"dataset": "bundled"}} for row in prompts]
    with pytest.raises(PlumblineError, match=r"'0' is none of AlpacaEval's 805 in their order.*gamed: null"):
        score(other, answers, verdicts, settings, "v")
    shuffled = [row | {"id": str(149 - int(row["id"]))} for row in prompts]
    with pytest.raises(PlumblineError, match="is none of AlpacaEval's 805"):
        score(shuffled, answers, verdicts, settings, "v")


def test_a_gamed_file_of_another_kind_is_named(simulated, tmp_path):
    (prompts, answers, verdicts), _ = simulated
    path = tmp_path / "other.csv"
    path.write_text("index,preference\n0,1\n")
    settings = {"length_controlled": True, "gamed": str(path), "lc_draws": 1, "seed": 0}
    with pytest.raises(PlumblineError, match=r"other.csv: .* no column instruction_difficulty"):
        score(prompts, answers, verdicts, settings, "v")


def command(tmp_path, *flags, **settings):
    generations = [row | {"finish_reason": "stop"} for rows in answers_of().values() for row in rows]
    for name, rows in (("prompts", PROMPTS), ("generations", generations), ("verdicts", VERDICTS)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    files = [
        part for name in ("prompts", "generations") for part in (f"--{name}", str(tmp_path / f"{name}.jsonl"))
    ]
    output = ["--output", str(tmp_path / "out.json"), "--settings", json.dumps(SETTINGS | settings)]
    code = (
        "import sys, runpy; sys.argv = ['score', *sys.argv[1:]]\n"
        "runpy.run_module('workflow_scripts.score.alpaca_eval', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *files, *output, *flags],
        capture_output=True,
        text=True,
    )


def test_the_command_line_writes_a_score_file_without_torch(tmp_path):
    done = command(tmp_path, "--verdicts", str(tmp_path / "verdicts.jsonl"), length_controlled=True)
    assert done.returncode == 0, done.stderr
    written = read_json(tmp_path / "out.json")
    assert written["benchmark"] == "mine"
    found = {cell["metric"]: cell for cell in written["cells"]}
    assert list(found) == ["win_rate", "discrete_win_rate", "lc_win_rate_minimal", "length", "failed"]
    assert found["length"]["columns"]["value"] == [10, 20, 30, 40]
    assert len(found["lc_win_rate_minimal"]["replicates"]) == 3


def test_generation_alone_gives_lengths_and_needs_no_verdict(tmp_path):
    done = command(tmp_path, evaluate=False)
    assert done.returncode == 0, done.stderr
    assert [cell["metric"] for cell in read_json(tmp_path / "out.json")["cells"]] == ["length"]
    done = command(tmp_path)
    assert done.returncode == 1 and "--verdicts is missing" in done.stderr


def test_answers_are_exported_as_the_packages_own_file(tmp_path):
    done = command(tmp_path, "--export", "tiny.sft-greedy-long")
    assert done.returncode == 0, done.stderr
    rows = read_json(tmp_path / "out.json")
    assert rows[1] == {
        "instruction": "Do 1",
        "output": "x" * 20,
        "generator": "tiny.sft-greedy-long",
        "dataset": "helpful_base",
    }
    assert [row["instruction"] for row in rows] == [f"Do {number}" for number in range(4)]
    with pytest.raises(PlumblineError, match="2 samples"):
        model_outputs(PROMPTS, answers_of(samples=2), "tiny")


def test_the_bundled_instructions_are_forty_distinct_ones_with_answers():
    rows = read_jsonl(DATA / "alpaca_biology.jsonl")
    assert len({row["instruction"] for row in rows}) == 40
    assert all(
        row["output"] and row["dataset"] == "bundled" and row["generator"] == "reference" for row in rows
    )
    assert (DATA / "alpaca_biology.jsonl").read_text().isascii()
