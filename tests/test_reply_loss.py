"""Loss on gold replies: likelihoods are those of a plain forward pass, and both metrics pool over all tokens."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import yaml

from workflow_scripts.common import templates
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.turns import turns_of
from workflow_scripts.report.statistics.cells import read_cell
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.score import reply_loss
from workflow_scripts.score.reply_loss import score

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TEMPLATES = yaml.safe_load(stream)
SETTINGS = {
    "max_tokens": 200,
    "template": TEMPLATES["tutor"],
    "precision": "float32",
    "history_turns": None,
    "trust_remote_code": False,
    "batch_size": 3,
    "limit": None,
}


def talk(name, *words):
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": word} for at, word in enumerate(words)]
    return {
        "id": name,
        "group": f"group of {name}",
        "messages": [{"role": "system", "content": "Tutor."}, *messages],
    }


TALKS = [
    talk("a", "What is osmosis?", "Think of water. What does it do?", "It moves", "Good! Now say why."),
    talk("b", "Why is the sky blue", "No."),
    talk(
        "c", "Is a whale a fish?", "", "Name two gases.", "Yes", "Where does digestion begin", "Try once more"
    ),
]
RANKED = {
    "id": "r",
    "group": "group of r",
    "messages": [{"role": "user", "content": "Why?"}],
    "candidates": [{"content": "Yes", "rewards": {}}, {"content": "No. Never.", "rewards": {}}],
}
NAMES = ["a#0", "a#1", "b#0", "c#0", "c#1", "c#2"]


@pytest.fixture(scope="module")
def loaded(tiny_model):
    from workflow_scripts.common.models import load_policy, load_tokenizer

    return load_policy(tiny_model), load_tokenizer(tiny_model)


def measured(loaded, rows, **changed):
    from workflow_scripts.score.reply_likelihoods import gold_turns, likelihood_rows, token_row, torch

    settings = SETTINGS | changed
    model, tokenizer = loaded
    turns = gold_turns(rows, settings["history_turns"], settings["limit"], "rows")
    return likelihood_rows(
        model, [token_row(turn, tokenizer, settings) for turn in turns], settings["batch_size"], torch.float32
    )


def plain(loaded, turn, template):
    """Return (nats, tokens) of a turn's reply, by one forward pass over the whole text and its labels."""
    import torch

    model, tokenizer = loaded
    messages = [*turn["messages"], {"role": "assistant", "content": turn["reference"]}]
    prompt, completion = templates.tokenise_reply(messages[:-1], turn["reference"], template, tokenizer)
    with torch.no_grad():
        logps = model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
    at = range(len(prompt), len(prompt) + len(completion))
    return math.fsum(-logps[place - 1, (prompt + completion)[place]].item() for place in at), len(completion)


@pytest.mark.parametrize("template", ["tutor", "tulu"])
@pytest.mark.parametrize("history", [None, 0])
def test_every_reply_has_the_likelihood_of_a_plain_forward_pass(loaded, template, history):
    rows = measured(loaded, TALKS, template=TEMPLATES[template], history_turns=history, max_tokens=400)
    assert [row["id"] for row in rows] == NAMES
    turns = [turn for row in TALKS for turn in turns_of(row, history)]
    for row, turn in zip(rows, turns, strict=True):
        nats, tokens = plain(loaded, turn, TEMPLATES[template])
        assert (row["nll"], row["tokens"]) == (pytest.approx(nats, abs=1e-3), tokens)
        assert row["group"] == turn["group"]


def test_likelihoods_do_not_depend_on_the_batch(loaded):
    whole = measured(loaded, TALKS, batch_size=16)
    for batch_size in (1, 4):
        for row, other in zip(measured(loaded, TALKS, batch_size=batch_size), whole, strict=True):
            assert row == other | {"nll": pytest.approx(other["nll"], abs=1e-3)}


def test_the_gold_of_a_ranked_row_is_its_preferred_candidate(loaded):
    (row,) = measured(loaded, [RANKED])
    gold = turns_of(RANKED)[0]
    assert row["id"] == "r#0" and gold["reference"] == "Yes"
    assert row["nll"] == pytest.approx(plain(loaded, gold, TEMPLATES["tutor"])[0], abs=1e-3)


def test_a_limit_keeps_the_first_replies_and_an_empty_split_is_refused(loaded):
    assert [row["id"] for row in measured(loaded, TALKS, limit=3)] == NAMES[:3]
    with pytest.raises(PlumblineError, match="rows: 0 rows without a reply"):
        measured(loaded, [])


def test_what_is_too_long_loses_its_oldest_turns_and_keeps_its_reply(loaded):
    from workflow_scripts.score.reply_likelihoods import token_row

    tokenizer = loaded[1]
    turn = turns_of(TALKS[0])[1]
    whole = token_row(turn, tokenizer, SETTINGS)
    prompt, reply = len(whole["prompt"]), len(whole["completion"])
    assert not any(whole["facts"].values())
    assert token_row(turn, tokenizer, SETTINGS | {"max_tokens": prompt + reply}) == whole
    cut = token_row(turn, tokenizer, SETTINGS | {"max_tokens": prompt + reply - 1})
    assert cut["completion"] == whole["completion"]
    assert len(cut["prompt"]) < prompt and cut["facts"]["prompt_tokens_cut"] == prompt - len(cut["prompt"])
    assert cut["prompt"][0] == tokenizer.bos_token_id
    shortest = len(
        templates.tokenise_prompt([{"role": "user", "content": "?"}], TEMPLATES["tutor"], tokenizer)
    )
    short = token_row(turn, tokenizer, SETTINGS | {"max_tokens": shortest + reply - 2})
    assert short["completion"] == whole["completion"][: shortest + reply - 2 - len(short["prompt"])]
    assert short["prompt"][0] == tokenizer.bos_token_id
    assert short["facts"]["completions_cut"] == short["facts"]["ends_lost"] == 1


def test_a_loss_over_replies_that_were_cut_says_so_in_its_note():
    rows = [{"id": name, "group": name, "nll": 1.0, "tokens": 2} for name in "ab"]
    assert not any("note" in cell for cell in score(rows, "rows"))
    rows[1] |= {"prompt_tokens_cut": 7, "completions_cut": 1, "ends_lost": 1}
    (note,) = {cell["note"] for cell in score(rows, "rows")}
    assert note == "of 2 replies: 1 prompt cut at the start, 1 reply cut, 1 reply without its end token"


@pytest.mark.parametrize("calibration", [None, "gold", "empty"])
def test_the_step_writes_a_row_per_reply(tmp_path, tiny_model, loaded, calibration):
    from workflow_scripts.score import reply_likelihoods

    write_jsonl(tmp_path / "rows.jsonl", TALKS)
    flags = ["--model", tiny_model, "--rows", tmp_path / "rows.jsonl", "--settings", json.dumps(SETTINGS)]
    flags += ["--calibration", calibration] if calibration else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["step", *map(str, flags), "--output", str(tmp_path / "out.jsonl")])
        reply_likelihoods.main()
    rows, expected = read_jsonl(tmp_path / "out.jsonl"), measured(loaded, TALKS)
    if calibration is None:
        assert rows == expected
    nats = {"gold": 0.0, "empty": math.log(len(loaded[1]))}.get(calibration)
    for row, other in zip(rows, expected, strict=True):
        assert [row[key] for key in ("id", "group", "tokens")] == [
            other[key] for key in ("id", "group", "tokens")
        ]
        if calibration:
            assert row["nll"] == pytest.approx(nats * row["tokens"], abs=1e-4)


# The scores.


def likelihoods(count=12, seed=0):
    draw = np.random.default_rng(seed)
    return [
        {
            "id": f"c{number}",
            "group": f"g{number // 2}",
            "nll": float(draw.uniform(5, 90)),
            "tokens": int(draw.integers(2, 60)),
        }
        for number in range(count)
    ]


def test_nats_per_token_and_perplexity_pool_over_all_tokens():
    rows = likelihoods()
    loss, perplexity, _ = score(rows, "x")
    pooled = math.fsum(row["nll"] for row in rows) / sum(row["tokens"] for row in rows)
    columns = loss["columns"]
    assert sum(columns["numerator"]) / sum(columns["denominator"]) == pytest.approx(pooled, rel=1e-12)
    found = point_estimate([read_cell(perplexity, "x")])
    assert found == pytest.approx(math.exp(pooled), rel=1e-12)
    assert pooled != pytest.approx(np.mean([row["nll"] / row["tokens"] for row in rows]), rel=1e-3)
    for cell, metric, estimator in (
        (loss, "nll_per_token", "ratio"),
        (perplexity, "perplexity", "perplexity"),
    ):
        assert (cell["subset"], cell["metric"], cell["estimator"]) == ("reply", metric, estimator)
        assert cell["higher_is_better"] is False
        assert cell["items"] == [f"c{number}" for number in range(12)]
        assert cell["groups"] == [row["group"] for row in rows]


def test_nats_per_example_are_the_mean_over_conversations_whatever_their_length():
    said = [("a#0", 6.0, 2), ("a#1", 4.0, 8), ("b#0", 30.0, 10), ("c", 1.0, 4)]
    rows = [{"id": name, "group": name[0], "nll": nll, "tokens": tokens} for name, nll, tokens in said]
    cell = score(rows, "x")[2]
    assert (cell["metric"], cell["items"]) == ("nll_per_example", [name for name, *_ in said])
    assert point_estimate([read_cell(cell, "x")]) == pytest.approx((10 / 10 + 30 / 10 + 1 / 4) / 3)
    assert cell["higher_is_better"] is False
    without = {
        name: values[2:] for name, values in cell["columns"].items()
    }  # a conversation seen in training
    assert sum(without["numerator"]) / sum(without["denominator"]) == pytest.approx((30 / 10 + 1 / 4) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nll": math.nan}, "x: reply 1: nll is nan"),
        ({"nll": None}, "x: reply 1: nll is None"),
        ({"tokens": 0}, "x: reply 1: tokens is 0"),
        ({"tokens": 2.5}, "x: reply 1: tokens is 2.5"),
        ({"id": "c1"}, "x: reply 2: 'c1' occurs twice"),
    ],
)
def test_a_row_that_cannot_be_pooled_is_named(change, message):
    rows = likelihoods()
    rows[0] |= change
    with pytest.raises(PlumblineError, match=message):
        score(rows, "x")


def test_no_rows_and_a_missing_key_are_refused():
    with pytest.raises(PlumblineError, match="x: no replies"):
        score([], "x")
    with pytest.raises(PlumblineError, match="x: reply 1: lacks nll, tokens"):
        score([{"id": "a", "group": "a"}], "x")


def test_the_command_writes_both_cells_without_torch(tmp_path):
    write_jsonl(tmp_path / "likelihoods.jsonl", likelihoods())
    flags = ["--measured", str(tmp_path / "likelihoods.jsonl"), "--output", str(tmp_path / "scores.json")]
    code = (
        "import sys, runpy; sys.argv = ['step', *sys.argv[1:]]\n"
        f"runpy.run_module({reply_loss.__name__!r}, run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    flags += ["--settings", '{"benchmark": "train_loss"}']
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *flags], check=True)
    scores = read_json(tmp_path / "scores.json")
    assert scores["benchmark"] == "train_loss"
    assert [cell["metric"] for cell in scores["cells"]] == ["nll_per_token", "perplexity", "nll_per_example"]
