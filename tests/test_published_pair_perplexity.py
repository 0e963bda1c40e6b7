"""Pair perplexity as published: raw rows, the evaluation's own text, n − 1 weights; held to the formula written anew.

The formula here reads the raw file by itself and shares no code with ours: it joins the turns, tokenises prompt and
whole, and takes the model's mean loss over what stands behind the prompt (Sonkar et al. 2024).
"""

import ast
import json
import math
import shutil

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tests.command import call
from tests.plans import DEFAULT, changed
from workflow_scripts.clean import reply_pairs
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.tutor_reply import ACTION, EVALUATION, SPOKEN, STATE, SUBPROBLEM
from workflow_scripts.plan.cleaning import paired_settings
from workflow_scripts.plan.scoring import measuring_settings, scorer_settings
from workflow_scripts.score import pair_likelihoods, pair_perplexity

STARTS = 'Instructions to Act as a Tutorbot:\nBreak the problem down.\n\nStudent: "\n'


def reply(action, spoken, **more):
    fields = {EVALUATION: "a", ACTION: action, STATE: "x", SUBPROBLEM: "What is a cell?", SPOKEN: spoken}
    return str({**more, **fields})


def row(name, actions, question, *talk, quoted=True):
    opening = STARTS if quoted else STARTS.replace('"\n', "")
    turns = [{"from": "human", "value": f'{opening}Q. {question}"\n'}]
    turns += [{"from": ("gpt", "human")[at % 2], "value": said} for at, said in enumerate(talk)]
    said = {
        "1": f"Think: {question}",
        "2": "It is {a} room.",
        "4": "Not quite. Why?",
        "5": f"Yes, {name}. Oxygen.",
    }
    last = [{"from": "gpt", "value": reply(action, said.get(action, "Yes"))} for action in actions]
    return {"id": name, "conversations": [*turns, *last]}


ROWS = [
    row("one", "12", "What is a cell?", reply("12", "Hello.", **{"Thoughts of Tutorbot": "hm"}), " A room? "),
    row("four", "45", "Why do plants need light?", "this is no dict", "To see.", "{'a': 1}", "To grow."),
    row("again", "12", "What is a whale?", reply("h", "Hello."), "A fish."),
    row("again", "12", "What is a whale?", reply("h", "Hello."), "A fish."),  # counted twice
    row("bare", "45", "What is osmosis?", reply("12", "Hello."), "Water.", quoted=False),
    {
        "id": "short",
        "conversations": [
            {"from": "human", "value": "Hi"},
            *({"from": "gpt", "value": f"{{'{ACTION}': '{action}'}}"} for action in ("12", "1", "2")),
        ],
    },
    row("not a pair", "13", "What is rain?", reply("12", "Hello."), "Water."),
]


@pytest.fixture(scope="module")
def model_folder(tiny_model, tmp_path_factory):
    """The tiny model with a tokenizer that puts BOS before every text, as those of the published policies do."""
    folder = tmp_path_factory.mktemp("begins") / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = load_tokenizer(folder)
    bos = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=bos)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def published(rows, model, tokenizer):
    """Return the six perplexities by the published rules."""
    sums = {action: [0.0, 0] for action in "1245"}
    for each in rows:
        turns = each["conversations"]
        actions = [ast.literal_eval(turn["value"])[ACTION] for turn in turns[-2:]]
        if actions not in (["1", "2"], ["4", "5"]):
            continue
        text = turns[0]["value"].replace('Student: "\nQ', "Student: Q")
        for turn in turns[1:-2]:
            text += "\n\n" + {"human": "Student: ", "gpt": "Tutorbot: "}[turn["from"]] + turn["value"]
        text += "\n\nTutorbot:"
        behind = len(tokenizer(text)["input_ids"])
        for action, turn in zip(actions, turns[-2:], strict=True):
            ids = torch.tensor([tokenizer(text + " " + turn["value"])["input_ids"]])
            labels = ids.clone()
            labels[:, :behind] = -100
            less = int((labels != -100).sum()) - 1
            sums[action][0] += model(ids, labels=labels).loss.item() * less
            sums[action][1] += less
    pooled = {"1": "1", "2": "2", "4": "4", "5": "5", "1+4": "14", "2+5": "25"}
    return {
        f"action{name}": math.exp(sum(sums[a][0] for a in actions) / sum(sums[a][1] for a in actions))
        for name, actions in pooled.items()
    }


KEYS = {"fidelity": "code", "raw_rows": True, "template": "tutor_perplexity", "max_tokens": 2000}


def ours(folder, model_folder, **keys):
    """Return {subset: perplexity} by the whole chain of jobs, each with the settings that the plan hands it."""
    told = {f"benchmarks.pair_perplexity.{key}": value for key, value in (KEYS | keys).items()}
    plan = changed(DEFAULT, told | {"engine.precision": "float32"})  # whatever the machine multiplies
    policy = next(iter(plan.policies))
    (folder / "raw.json").write_text(json.dumps(ROWS))
    call(
        reply_pairs.main, "--inputs", folder / "raw.json", "--settings", paired_settings(plan, "pair_perplexity"),
        "--output", folder / "pairs", "--manifest", folder / "pairs.json",
    )  # fmt: skip
    call(
        pair_likelihoods.main, "--rows", folder / "pairs/pairs.jsonl", "--model", model_folder,
        "--settings", measuring_settings(plan, "pair_perplexity", policy), "--output", folder / "measured.jsonl",
    )  # fmt: skip
    call(
        pair_perplexity.main, "--measured", folder / "measured.jsonl",
        "--settings", scorer_settings(plan, "pair_perplexity"), "--output", folder / "scores.json",
    )  # fmt: skip
    return {
        cell["subset"]: math.exp(sum(cell["columns"]["nll"]) / sum(cell["columns"]["tokens"]))
        for cell in read_json(folder / "scores.json")["cells"]
    }


def test_raw_rows_in_the_published_text_have_the_published_perplexities(tmp_path, model_folder):
    expected = published(ROWS, load_policy(model_folder), load_tokenizer(model_folder))
    assert ours(tmp_path, model_folder) == {
        name: pytest.approx(value, rel=1e-5) for name, value in expected.items()
    }


@pytest.mark.parametrize("keys", [{"template": None}, {"raw_rows": False}, {"fidelity": "paper"}])
def test_each_of_the_keys_is_needed_for_them(tmp_path, model_folder, keys):
    expected = published(ROWS, load_policy(model_folder), load_tokenizer(model_folder))
    found = ours(tmp_path, model_folder, **keys)
    assert found["action1+4"] != pytest.approx(expected["action1+4"], rel=1e-4)


def test_raw_rows_are_kept_as_they_stand_and_what_is_no_pair_is_counted(tmp_path, model_folder):
    ours(tmp_path, model_folder)
    rows = read_jsonl(tmp_path / "pairs/pairs.jsonl")
    assert len(rows) == 6
    assert rows[0]["messages"][0] == {
        "role": "system",
        "content": ROWS[0]["conversations"][0]["value"].replace('Student: "\nQ', "Student: Q"),
    }
    assert [each["content"] for each in rows[1]["messages"][1:]] == [
        turn["value"] for turn in ROWS[1]["conversations"][1:-2]
    ]
    assert rows[0]["altered"] == ROWS[0]["conversations"][-1]["value"]
    assert read_json(tmp_path / "pairs.json")["rejected"] == {
        "row: actions are not 1 and 2 or 4 and 5": {"entries": 1, "turns": 5}
    }
