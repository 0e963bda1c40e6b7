"""Ranked answers: which become pairs, what PRO makes of them, and that it is the paper's formula."""

import json
import math

import pyarrow.parquet
import pytest
import torch

from tests.tiny import ANSWERS, QUESTIONS, TEMPLATE, call, manifest_of, settings_of, training_flags
from workflow_scripts.align import pro, tokenise_ranked
from workflow_scripts.align.pro import loss_over_answers, ranking_loss
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.logprobs import flat_logps, shared_prompt_logps
from workflow_scripts.common.models import load_policy
from workflow_scripts.pairs import ranked
from workflow_scripts.pairs.build import rank_pairs
from workflow_scripts.pairs.held_out import held_out_groups
from workflow_scripts.pairs.ranked import pairs_of, rank_answers


def answers(prompt: str, told: list[tuple[str, float]]) -> list[dict]:
    """Return annotated rows: the answers to one prompt, in the order they came."""
    return [
        {
            "id": f"{prompt}#{rank}",
            "group": prompt,
            "messages": [{"role": "user", "content": f"Why {prompt}?"}],
            "reference": text,
            "meta": {"rank": rank},
            "rewards": {"final_reward": reward},
        }
        for rank, (text, reward) in enumerate(told)
    ]


# From answers to ranked rows and pairs.


def test_answers_keep_the_order_they_came_in_or_that_of_their_rewards():
    rows = answers("p", [("a", 0.1), ("b", 0.9), ("c", 0.5)])
    by_rank, _ = rank_answers(rows, "rank", "train")
    by_reward, _ = rank_answers(rows[::-1], "reward", "train")
    assert by_rank[0]["answers"] == ["a", "b", "c"]
    assert by_reward[0]["answers"] == ["b", "c", "a"]
    assert by_reward[0]["rewards"] == [0.9, 0.5, 0.1]
    assert [pair["rejected"] for pair in pairs_of(by_rank[0], "rank")] == ["b", "c"]
    assert pairs_of(by_rank[0], "rank")[0]["meta"]["reward_gap"] == pytest.approx(-0.8)


def test_every_answer_is_ranked_or_rejected_with_its_reason():
    rows = answers("p", [("a", 1.0), ("a ", 0.5), ("", 0.1), ("b", 0.0)])
    rows += answers("q", [("alone", 1.0)]) + answers("r", [("same", 1.0), ("same", 0.0)])
    rows += answers("s", [("", 1.0), ("b", 0.0)])
    ranked_rows, rejected = rank_answers(rows, "rank", "train")
    assert [row["answers"] for row in ranked_rows] == [
        ["a", "", "b"]
    ]  # to say nothing is an answer, if not the best
    assert {row["id"]: row["reason"] for row in rejected} == {
        "p#1": "chosen equals rejected",
        "q#0": "no other answer to the prompt",
        "r#0": "no other answer to the prompt",
        "r#1": "chosen equals rejected",
        "s#0": "the best answer is empty",
        "s#1": "the best answer is empty",
    }


def test_labelled_answers_of_several_rows_to_one_prompt_make_pairs_by_their_labels():
    rows = []
    for name, label in (("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", 0.0)):
        (row,) = answers(name, [(f"Answer {name}.", label)])
        rows.append(row | {"meta": {"rank": int(not label), "prompt": "a" if name != "d" else "d"}})
    ranked_rows, rejected = rank_answers(rows[::-1], "reward", "train")
    pairs = [pair for row in ranked_rows for pair in pairs_of(row, "reward")]
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("Answer c.", "Answer b.")]
    assert rejected == [{"id": "d#0", "reason": "no other answer to the prompt"}]
    with pytest.raises(PlumblineError, match="give by: reward"):
        rank_answers(rows, "rank", "train")


def test_equal_rewards_prefer_nothing():
    rows, _ = rank_answers(answers("p", [("a", 1.0), ("b", 1.0), ("c", 0.0)]), "reward", "train")
    assert [pair["rejected"] for pair in pairs_of(rows[0], "reward")] == ["c"]


def test_a_reward_that_is_no_number_is_an_error_that_names_the_row():
    with pytest.raises(PlumblineError, match=r"row p#0: final_reward is nan"):
        rank_answers(answers("p", [("a", math.nan), ("b", 1.0)]), "rank", "train")


def test_the_step_writes_pairs_ranked_rows_and_counts_that_add_up(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", answers("p", [("a", 1.0), ("b", 0.0)]) + answers("q", [("x", 0.0)]))
    write_jsonl(tmp_path / "v.jsonl", answers("r", [("a", 0.0), ("b", 1.0)]))
    flags = ["--annotated", f"train={tmp_path}/t.jsonl", f"validation={tmp_path}/v.jsonl"]
    flags += ["--settings", '{"by": "rank", "annotated": true}', "--output", tmp_path / "pairs.jsonl"]
    flags += ["--ranked", tmp_path / "ranked.jsonl", "--rejected", tmp_path / "rejected.jsonl"]
    call(ranked.main, *flags, "--manifest", tmp_path / "m.json")
    assert [row["split"] for row in read_jsonl(tmp_path / "pairs.jsonl")] == ["train", "validation"]
    counts = read_json(tmp_path / "m.json")["counts"]
    assert counts["answers_read"] == counts["answers_ranked"] + sum(counts["rejected"].values()) == 5
    assert counts["pairs"] == {"train": 1, "validation": 1}
    assert counts["reward_agrees"] == 0.5


def test_answers_that_cannot_be_told_apart_are_an_error(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", answers("q", [("x", 0.0)]))
    flags = ["--annotated", f"train={tmp_path}/t.jsonl", "--settings", '{"by": "rank", "annotated": true}']
    for name in ("output", "ranked", "rejected", "manifest"):
        flags += [f"--{name}", tmp_path / name]
    with pytest.raises(PlumblineError, match=r"no prompt has two answers.*no other answer to the prompt"):
        call(ranked.main, *flags)


def test_a_policys_mistakes_are_ranked_by_the_labels_they_got_right():
    gold = {"Evaluation of Student Response": "a", "Action Based on Evaluation": "1", "Subproblem State": "x"}
    gold |= {"Subproblem": "s", "Tutorbot": "t"}
    near = gold | {"Subproblem State": "y"}
    far = gold | {"Subproblem State": "y", "Action Based on Evaluation": "2"}
    pair = {"group": "g", "messages": [], "split": "train", "chosen": json.dumps(gold)}
    told = ["no reply", json.dumps(far), json.dumps(near)]
    rows = rank_pairs([pair | {"id": f"p/{place}", "rejected": text} for place, text in enumerate(told)])
    assert len(rows) == 1
    assert rows[0]["answers"] == [json.dumps(gold), told[2], told[1], told[0]]
    assert rows[0]["rewards"] == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-6)


def test_groups_held_out_are_a_seeded_share_and_never_none_of_them():
    groups = [f"g{number}" for number in range(20)] * 2
    assert held_out_groups(groups, 0.0, 1) == set()
    assert len(held_out_groups(groups, 0.25, 1)) == 5
    assert held_out_groups(groups, 0.25, 1) == held_out_groups(groups[::-1], 0.25, 1)
    assert held_out_groups(groups, 0.25, 1) != held_out_groups(groups, 0.25, 2)
    assert len(held_out_groups(groups, 0.001, 1)) == 1


# PRO.


def paper(scores: list[float], rewards: list[float]) -> float:
    """Return eq. 5 and 7 of Song et al. written out: temperatures T_k^i = 1/(r_k − r_i), T_k^k the smallest of them."""
    total = 0.0
    for k in range(len(scores) - 1):
        temperatures = {i: 1 / (rewards[k] - rewards[i]) for i in range(k + 1, len(scores))}
        temperatures[k] = min(temperatures.values())
        exponents = {i: math.exp(scores[i] / temperature) for i, temperature in temperatures.items()}
        total -= math.log(exponents[k] / sum(exponents.values()))
    return total


@pytest.mark.parametrize("count", [2, 3, 5])
def test_pro_is_the_papers_formula(count):
    generator = torch.Generator().manual_seed(count)
    scores = -5 * torch.rand(count, generator=generator, dtype=torch.float64)
    rewards = torch.rand(count, generator=generator, dtype=torch.float64).sort(descending=True).values
    assert ranking_loss(scores, rewards, "clamped").item() == pytest.approx(
        paper(scores.tolist(), rewards.tolist()), rel=1e-12
    )


def test_pro_over_two_answers_is_ln_2_where_the_policy_is_indifferent():
    equal = torch.tensor([-2.0, -2.0], dtype=torch.float64)
    assert ranking_loss(equal, torch.tensor([1.0, 0.0]), "clamped").item() == pytest.approx(
        math.log(2), rel=1e-12
    )


def test_pro_pulls_the_best_and_pushes_the_rest():
    scores = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    ranking_loss(scores, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), "clamped").backward()
    assert scores.grad[0] < 0 < scores.grad[2]


def test_an_answer_ranked_lower_but_rewarded_higher_neither_pulls_nor_pushes():
    scores = torch.tensor([-1.0, -3.0], dtype=torch.float64, requires_grad=True)
    ranking_loss(scores, torch.tensor([0.2, 0.9], dtype=torch.float64), "clamped").backward()
    assert scores.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_signed_gaps_are_the_published_codes_loss_on_raw_rewards(seed):
    # Of its loop over stages: ln(1e-10 + e^{s_k τ} + Σ_{j>k} e^{s_j τ_j}) − s_k τ, τ_j = r_k − r_j, τ the largest.
    generator = torch.Generator().manual_seed(seed)
    scores = -3 * torch.rand(4, generator=generator, dtype=torch.float64)
    rewards = 4 * torch.randn(4, generator=generator, dtype=torch.float64)  # logits, in no order
    total = 0.0
    for stage, (score, reward) in enumerate(zip(scores.tolist()[:-1], rewards.tolist()[:-1], strict=True)):
        gaps = [reward - other for other in rewards.tolist()[stage + 1 :]]
        own = score * max(gaps)
        rest = zip(scores.tolist()[stage + 1 :], gaps, strict=True)
        total += math.log(1e-10 + math.exp(own) + sum(math.exp(s * gap) for s, gap in rest)) - own
    assert ranking_loss(scores, rewards, "signed").item() == pytest.approx(total, rel=1e-8)
    assert ranking_loss(scores, rewards, "clamped").item() != pytest.approx(total, rel=1e-3)


def test_signed_gaps_learn_a_pair_whose_rewards_disagree_the_other_way_round():
    # τ = 0.2 − 0.9 and s₁ − s₂ = 0.3: ln(1 + e^{0.21}) = 0.804, and the slope by s₁ is 0.7 σ(0.21) = 0.387.
    scores = torch.tensor([-1.0, -1.3], dtype=torch.float64, requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([0.2, 0.9], dtype=torch.float64), "signed")
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.21)), rel=1e-12)
    assert loss.item() == pytest.approx(0.804, abs=5e-4)
    slope = 0.7 / (1 + math.exp(-0.21))
    assert scores.grad.tolist() == pytest.approx([slope, -slope], rel=1e-12)
    assert slope == pytest.approx(0.387, abs=5e-4)


def test_one_answer_is_an_error():
    with pytest.raises(PlumblineError, match="two answers or more"):
        ranking_loss(torch.tensor([-1.0]), torch.tensor([1.0]), "clamped")


def test_pro_scores_every_token_of_an_answer_the_first_one_too(tiny_model):
    model = load_policy(tiny_model).double()
    row = {"prompt": [5, 6, 7], "answers": [[8, 9, 10], [11, 12]], "rewards": [0.9, 0.4]}

    def token_logps(answer: list[int]) -> list[float]:
        logits = model(input_ids=torch.tensor([row["prompt"] + answer])).logits[0].log_softmax(-1)
        return [logits[len(row["prompt"]) - 1 + place, token].item() for place, token in enumerate(answer)]

    best, other = (token_logps(answer) for answer in row["answers"])
    wanted = paper([sum(best) / 3, sum(other) / 2], row["rewards"]) + 0.05 * 1 * -sum(best)
    for logps_of in (shared_prompt_logps, flat_logps):
        loss, seen = loss_over_answers({"sft_weight": 0.05, "candidates": None, "gaps": "clamped"}, logps_of)(
            model, [row]
        )
        assert loss.item() == pytest.approx(wanted, rel=1e-5)  # log-probs are float32
        assert seen["accuracy"] == float(sum(best) / 3 > sum(other) / 2)


def write_ranked(model, folder, rows, **changed) -> None:
    write_jsonl(folder / "ranked.jsonl", rows)
    settings = {"max_prompt_tokens": 100, "max_tokens": 160, "template": TEMPLATE} | changed
    flags = ["--ranked", folder / "ranked.jsonl", "--parent", model, "--settings", json.dumps(settings)]
    flags += ["--output", folder / "rows.parquet", "--rejected", folder / "rejected.jsonl"]
    call(tokenise_ranked.main, *flags, "--manifest", folder / "rows.json")


def ranked_rows(count: int) -> list[dict]:
    return [
        {
            "id": f"p{number}",
            "group": f"p{number}",
            "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            "answers": [ANSWERS[(number + place) % len(ANSWERS)] for place in range(2 + number % 2)],
            "rewards": [1.0, 0.5, 0.2][: 2 + number % 2],
            "split": "validation" if number == 0 else "train",
        }
        for number in range(count)
    ]


def test_pro_trains_on_ragged_numbers_of_answers_and_is_validated(tiny_model, tmp_path):
    write_ranked(tiny_model, tmp_path, ranked_rows(7))
    settings = settings_of(
        sft_weight=0.05, candidates=None, gaps="clamped", per_device_batch=3, evaluate_every=1, keep="best"
    )
    flags = training_flags(tiny_model, settings, tmp_path)
    flags += ["--ranked", str(tmp_path / "rows.parquet"), "--ranked-manifest", str(tmp_path / "rows.json")]
    call(pro.main, *flags)
    curve = read_json(tmp_path / "curve.json")
    losses = [row["validation_loss"] for row in curve if "validation_loss" in row]
    assert len(losses) == 2
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["steps"] == 2
    assert losses[manifest["best_step"] - 1] == min(losses)
    assert manifest_of(tiny_model) != tmp_path / "manifest.json"


def test_prompts_that_are_cut_are_counted_and_equal_answers_rejected(tiny_model, tmp_path):
    rows = ranked_rows(4)
    rows[1] |= {"answers": ["Yes", "Yes"], "rewards": [1.0, 0.5]}
    write_ranked(tiny_model, tmp_path, rows, max_prompt_tokens=20, max_tokens=30)
    counts = read_json(tmp_path / "rows.json")["counts"]
    assert counts["prompts_cut"] == counts["last_turns_cut"] > 0
    assert counts["cut"] == counts["kept"] == 3
    assert counts["rejected"] == 1
    assert read_jsonl(tmp_path / "rejected.jsonl")[0]["reason"] == "answers equal"
    kept = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert all(len(row["prompt"]) <= 20 for row in kept)
    assert all(len(row["prompt"]) + len(answer) <= 30 for row in kept for answer in row["answers"])
