"""Likelihoods: each reply's nats and tokens are those of a plain forward pass over the whole text."""

import json
import math

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from tests.families import FAITHFUL
from workflow_scripts.common import templates
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl, write_jsonl
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.score import pair_likelihoods
from workflow_scripts.score.pair_likelihoods import calibration_rows, likelihood_rows

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TEMPLATES = yaml.safe_load(stream)
SETTINGS = {"template": TEMPLATES["tutor"], "max_tokens": 200, "dtype": torch.float32}


def pair(name, question, original, altered):
    return {
        "id": name,
        "group": f"group of {name}",
        "messages": [{"role": "system", "content": "Tutor."}, {"role": "user", "content": question}],
        "original": original,
        "altered": altered,
        "meta": {"original_action": "1", "altered_action": "2"},
    }


PAIRS = [
    pair("a", "What is osmosis?", "Think of water. What does it do?", "It is water through a wall."),
    pair("b", "Why?", "No.", "Good! Now say why the sky is blue and a whale is not."),
    pair("c", "Is a whale a fish, or is it a mammal?", "", "Yes"),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_policy(tiny_model)


@torch.no_grad()
def plain(model, tokenizer, messages, reply, template):
    """Return (nats, tokens) of a reply, by one forward pass over the text and its labels."""
    whole = templates.tokenise_conversation(
        [*messages, {"role": "assistant", "content": reply}], template, tokenizer
    )
    logps = model(torch.tensor([whole.input_ids])).logits[0].double().log_softmax(-1)
    nats = [
        -logps[at - 1, label].item() for at, label in enumerate(whole.labels) if label != templates.IGNORED
    ]
    return math.fsum(nats), len(nats)


@pytest.mark.parametrize("template", ["tutor", "tulu", "vicuna"])
def test_sum_and_tokens_equal_a_plain_forward_pass(model, tokenizer, template):
    settings = SETTINGS | {"template": TEMPLATES[template], "max_tokens": 400}
    rows = likelihood_rows(model, tokenizer, PAIRS, settings)
    assert [row["id"] for row in rows] == [
        f"{name}/{kind}" for name in "abc" for kind in ("original", "altered")
    ]
    for row, (each, name) in zip(
        rows, ((each, name) for each in PAIRS for name in pair_likelihoods.REPLIES), strict=True
    ):
        nats, tokens = plain(model, tokenizer, each["messages"], each[name], settings["template"])
        assert (row["nll"], row["tokens"]) == (pytest.approx(nats, abs=1e-3), tokens)
        assert (row["group"], row["action"]) == (each["group"], each["meta"][f"{name}_action"])


def test_a_reply_does_not_depend_on_the_one_it_is_paired_with(model, tokenizer):
    turned = [each | {"original": each["altered"], "altered": each["original"]} for each in PAIRS]
    found = [
        {row["id"]: row["nll"] for row in likelihood_rows(model, tokenizer, rows, SETTINGS)}
        for rows in (PAIRS, turned)
    ]
    for name in "abc":
        assert found[0][f"{name}/original"] == pytest.approx(found[1][f"{name}/altered"], abs=1e-3)
        assert found[0][f"{name}/altered"] == pytest.approx(found[1][f"{name}/original"], abs=1e-3)


def test_two_replies_whose_prompts_are_cut_in_two_ways_each_have_their_own():
    tokenizer = FAITHFUL["byte level"]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    rows = [pair("a", "What is a cell?", "Oxygen", "<|end|>")]
    rows[0]["messages"] = rows[0]["messages"][1:]
    template = TEMPLATES["task"]
    tokens = [
        templates.tokenise_reply(rows[0]["messages"], rows[0][name], template, tokenizer)
        for name in ("original", "altered")
    ]
    assert (
        tokens[0][0] != tokens[1][0]
    )  # a token holds the end of the question and the beginning of the reply
    found = likelihood_rows(model, tokenizer, rows, SETTINGS | {"template": template})
    for row, name in zip(found, ("original", "altered"), strict=True):
        nats, count = plain(model, tokenizer, rows[0]["messages"], rows[0][name], template)
        assert (row["nll"], row["tokens"]) == (pytest.approx(nats, abs=1e-3), count)


def test_a_pair_that_does_not_fit_is_named(model, tokenizer):
    with pytest.raises(PlumblineError, match=r"pair b: \d+ tokens, at most 40 \(max_tokens\)"):
        likelihood_rows(model, tokenizer, PAIRS[1:], SETTINGS | {"max_tokens": 40})


def perplexity(rows):
    return math.exp(math.fsum(row["nll"] for row in rows) / sum(row["tokens"] for row in rows))


def test_calibration_has_perplexity_one_and_the_vocabulary_size(model, tokenizer):
    found = {policy: calibration_rows(tokenizer, PAIRS, SETTINGS, policy) for policy in ("gold", "empty")}
    assert perplexity(found["gold"]) == 1.0
    assert perplexity(found["empty"]) == pytest.approx(len(tokenizer))
    same = ("id", "group", "action", "tokens")
    for rows in found.values():
        for row, expected in zip(rows, likelihood_rows(model, tokenizer, PAIRS, SETTINGS), strict=True):
            assert [row[key] for key in same] == [expected[key] for key in same]


@pytest.mark.parametrize("calibration", [None, "gold"])
def test_the_step_writes_one_row_per_reply(tmp_path, tiny_model, calibration):
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    settings = {
        "template": TEMPLATES["tutor"],
        "max_tokens": 200,
        "precision": "float32",
        "trust_remote_code": False,
    }
    flags = ["--model", tiny_model, "--rows", tmp_path / "pairs.jsonl", "--settings", json.dumps(settings)]
    flags += ["--calibration", calibration] if calibration else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["step", *map(str, flags), "--output", str(tmp_path / "out.jsonl")])
        pair_likelihoods.main()
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert len(rows) == 2 * len(PAIRS)
    assert all((row["nll"] == 0) == (calibration == "gold") for row in rows)
