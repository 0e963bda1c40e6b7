"""The six pair perplexities: pooled over tokens, in both fidelities, in float64."""

import json
import math
import sys

import numpy as np
import pytest

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.score import pair_perplexity
from workflow_scripts.score.pair_perplexity import perplexity, score

ACTIONS = {"1": "2", "4": "5"}


def make_rows(pairs=6, seed=0):
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(pairs):
        hint = "1" if number % 2 == 0 else "4"
        for action in (hint, ACTIONS[hint]):
            tokens = int(draw.integers(5, 80))
            nll = float(draw.uniform(0.5, 4.0) * tokens)
            rows.append(
                {"id": f"c{number}", "group": f"g{number}", "action": action, "nll": nll, "tokens": tokens}
            )
    return rows


def values_of(cells):
    pooled = {
        c["subset"]: perplexity(np.array(c["columns"]["nll"]), np.array(c["columns"]["tokens"]))
        for c in cells
    }
    assert list(pooled) == ["action1", "action2", "action4", "action5", "action1+4", "action2+5"]
    return pooled


def test_paper_is_the_exponential_of_all_nats_over_all_tokens():
    rows = make_rows()
    values = values_of(score(rows, "paper", "rows"))
    for subset, actions in pair_perplexity.SUBSETS.items():
        chosen = [row for row in rows if row["action"] in actions]
        expected = math.exp(math.fsum(r["nll"] for r in chosen) / sum(r["tokens"] for r in chosen))
        assert values[subset] == pytest.approx(expected, rel=1e-14)


def test_code_weights_each_mean_by_its_tokens_less_one():
    # L = mean nll of a reply, n its tokens: the published program pools exp(sum L (n - 1) / sum (n - 1)).
    rows = make_rows()
    values = values_of(score(rows, "code", "rows"))
    for subset, actions in pair_perplexity.SUBSETS.items():
        chosen = [row for row in rows if row["action"] in actions]
        nats = math.fsum(r["nll"] / r["tokens"] * (r["tokens"] - 1) for r in chosen)
        expected = math.exp(nats / sum(r["tokens"] - 1 for r in chosen))
        assert values[subset] == pytest.approx(expected, rel=1e-14)


def test_the_two_fidelities_agree_on_one_reply_and_differ_on_two():
    rows = [
        {"id": "a", "group": "a", "action": action, "nll": nll, "tokens": tokens}
        for action, nll, tokens in (("1", 2.0, 2), ("2", 3.0, 4), ("4", 90.0, 30), ("5", 5.0, 5))
    ]
    paper, code = values_of(score(rows, "paper", "rows")), values_of(score(rows, "code", "rows"))
    assert code["action1"] == pytest.approx(paper["action1"]) == pytest.approx(math.e)
    assert paper["action1+4"] == pytest.approx(math.exp(92 / 32))
    assert code["action1+4"] == pytest.approx(math.exp((1.0 * 1 + 3.0 * 29) / 30))


def test_a_uniform_model_has_its_vocabulary_as_perplexity():
    rows = [row | {"nll": row["tokens"] * math.log(32_000)} for row in make_rows()]
    for fidelity in ("paper", "code"):
        assert list(values_of(score(rows, fidelity, "rows")).values()) == pytest.approx([32_000.0] * 6)


def test_pooling_stays_exact_over_many_replies():
    rows = make_rows(pairs=4000, seed=1)
    chosen = [row for row in rows if row["action"] in "14"]
    expected = math.exp(math.fsum(r["nll"] for r in chosen) / sum(r["tokens"] for r in chosen))
    assert values_of(score(rows, "paper", "rows"))["action1+4"] == pytest.approx(expected, rel=1e-13)


def test_lower_is_better_and_every_reply_is_an_item():
    cells = {cell["subset"]: cell for cell in score(make_rows(), "paper", "rows")}
    assert not any(cell["higher_is_better"] for cell in cells.values())
    assert {cell["estimator"] for cell in cells.values()} == {"perplexity"}
    assert cells["action1"]["items"] == ["c0", "c2", "c4"]
    assert cells["action2+5"]["items"] == [f"c{number}" for number in range(6)]
    assert cells["action2+5"]["groups"] == [f"g{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("change", "fidelity", "message"),
    [
        ({"action": "3"}, "paper", "reply 1: action is '3'"),
        ({"nll": float("nan")}, "paper", "reply 1: nll is nan"),
        ({"nll": None}, "paper", "reply 1: nll is None"),
        ({"tokens": 0}, "paper", "reply 1: tokens is 0"),
        ({"tokens": 1}, "code", "reply 1: tokens is 1; at least 2"),
    ],
)
def test_a_row_that_cannot_be_pooled_is_named(change, fidelity, message):
    rows = make_rows()
    rows[0] |= change
    with pytest.raises(PlumblineError, match=message):
        score(rows, fidelity, "rows")


def test_a_missing_key_a_double_reply_and_an_absent_action_are_refused():
    with pytest.raises(PlumblineError, match="reply 1: lacks nll, tokens"):
        score([{"id": "a", "group": "a", "action": "1"}], "paper", "rows")
    with pytest.raises(PlumblineError, match="'c0' with action 1 occurs twice"):
        score([*make_rows(), make_rows()[0]], "paper", "rows")
    with pytest.raises(PlumblineError, match="no reply with action4"):
        score(make_rows(pairs=1), "paper", "rows")


def test_the_command_writes_six_cells(monkeypatch, tmp_path):
    write_jsonl(tmp_path / "likelihoods.jsonl", make_rows())
    flags = ["--measured", str(tmp_path / "likelihoods.jsonl"), "--output", str(tmp_path / "scores.json")]
    monkeypatch.setattr(
        sys, "argv", ["pair_perplexity", *flags, "--settings", json.dumps({"fidelity": "paper"})]
    )
    pair_perplexity.main()
    scores = read_json(tmp_path / "scores.json")
    assert scores["benchmark"] == "pair_perplexity"
    assert len(scores["cells"]) == 6
