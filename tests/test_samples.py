"""Pairs from ranked samples of a policy, and pairs as they came: which answers make them, and what is counted."""

import json

import pytest

from tests.command import call
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.pairs import ranked, samples
from workflow_scripts.pairs.lengths import length_facts

PROMPT = [{"role": "user", "content": "Why?"}]


def answers(prompt: str, *told: tuple[str, float], group: str | None = None) -> list[dict]:
    """Return a policy's rewarded answers to a prompt, as `annotate.answers` writes them."""
    return [
        {
            "id": f"{prompt}/{sample}",
            "group": group or prompt,
            "messages": PROMPT,
            "meta": {},
            "reference": text,
            "rewards": {"final_reward": reward},
        }
        for sample, (text, reward) in enumerate(told)
    ]


def settings(**changed: object) -> dict:
    return {"take": "best_worst", "margin": 0.0, "validation_share": 0.0, "seed": 1} | changed


def made(rows: list[dict], **changed: object) -> tuple[list[dict], list[tuple[str, str]], dict[str, str]]:
    """Return (ranked rows, (chosen, rejected) of each pair, {answer's id: why it was left out})."""
    ranked_rows, pairs, rejected = samples.rank_samples(rows, settings(**changed))
    said = {row["id"]: row["reason"] for row in rejected}
    return ranked_rows, [(pair["chosen"], pair["rejected"]) for pair in pairs], said


ABCD = answers("p#0", ("b", 0.5), ("d", -1.0), ("a", 2.0), ("c", 0.2))


def test_the_best_answer_is_set_against_the_worst():
    rows, pairs, left_out = made(ABCD)
    assert pairs == [("a", "d")]
    assert rows[0]["answers"] == ["a", "b", "c", "d"]
    assert rows[0]["rewards"] == [2.0, 0.5, 0.2, -1.0]
    assert rows[0]["id"] == "p#0"
    assert set(left_out.values()) == {samples.NOT_TAKEN}
    assert set(left_out) == {"p#0/0", "p#0/3"}


def test_all_sets_the_best_answer_against_each_that_it_beats_by_the_margin():
    _, pairs, left_out = made(ABCD, take="all")
    assert pairs == [("a", "b"), ("a", "c"), ("a", "d")]
    assert left_out == {}
    _, pairs, left_out = made(ABCD, take="all", margin=1.6)
    assert pairs == [("a", "c"), ("a", "d")]
    assert left_out == {"p#0/0": samples.NOT_TAKEN}


def test_a_random_loser_is_one_that_the_best_beats_and_the_same_again_by_the_seed():
    many = [
        row
        for number in range(40)
        for row in answers(
            f"p{number}", *[(row["reference"], row["rewards"]["final_reward"]) for row in ABCD]
        )
    ]
    losers = [[pair[1] for pair in made(many, take="best_random", seed=seed)[1]] for seed in (1, 1, 2)]
    assert losers[0] == losers[1] != losers[2]
    assert set(losers[0]) == {"b", "c", "d"}
    assert {pair[1] for pair in made(many, take="best_random", margin=1.6)[1]} == {"c", "d"}


@pytest.mark.parametrize(
    ("rows", "changed", "reasons"),
    [
        (
            answers("p", ("a", 1.0), (" a ", 1.0), ("a\n", 1.0)),
            {},
            [samples.SAME, samples.SAME, samples.ALONE],
        ),
        (answers("p", ("a", 1.0), ("b", 1.0)), {}, [samples.EQUAL, samples.EQUAL]),
        (answers("p", ("a", 1.0), ("b", 0.9)), {"margin": 0.2}, [samples.UNDER, samples.UNDER]),
        (answers("p", ("", 1.0), ("b", 0.9)), {}, [samples.EMPTY, samples.EMPTY]),
    ],
)
def test_a_prompt_without_a_pair_is_left_out_and_says_why(rows, changed, reasons):
    kept, pairs, left_out = made(rows, **changed)
    assert (kept, pairs) == ([], [])
    assert sorted(left_out.values()) == sorted(reasons)


def test_a_difference_of_just_the_margin_makes_a_pair_whatever_floats_say():
    assert made(answers("p", ("a", 0.3), ("b", 0.2)), margin=0.1)[1] == [
        ("a", "b")
    ]  # 0.3 - 0.2 < 0.1 in floats


def test_of_equally_good_answers_the_first_sample_is_chosen_and_an_empty_one_may_lose():
    _, pairs, left_out = made(answers("p", ("a", 1.0), ("b", 1.0), ("", 0.0)))
    assert pairs == [("a", "")]
    assert left_out == {"p/1": samples.NOT_TAKEN}


def test_whole_groups_are_held_out_of_pairs_and_of_ranked_rows_alike():
    rows = [
        row
        for number in range(10)
        for row in answers(f"p{number}", ("a", 1.0), ("b", 0.0), group=f"g{number % 5}")
    ]
    ranked_rows, pairs, _ = samples.rank_samples(rows, settings(validation_share=0.4))
    held = {pair["group"] for pair in pairs if pair["split"] == "validation"}
    assert len(held) == 2
    assert {row["group"] for row in ranked_rows if row["split"] == "validation"} == held
    assert {pair["group"] for pair in pairs if pair["split"] == "train"}.isdisjoint(held)


def run_samples(folder, rows, **changed):
    write_jsonl(folder / "rows.jsonl", rows)
    flags = ["--rewarded", folder / "rows.jsonl", "--settings", json.dumps(settings(**changed))]
    for name in ("ranked", "rejected"):
        flags += [f"--{name}", folder / f"{name}.jsonl"]
    call(samples.main, *flags, "--output", folder / "pairs.jsonl", "--manifest", folder / "manifest.json")
    return read_json(folder / "manifest.json")["counts"]


def test_the_step_counts_every_answer_once_and_how_long_both_sides_are(tmp_path, capsys):
    rows = [
        *ABCD,
        *answers("q", ("same", 1.0), ("same", 1.0)),
        *answers("r", ("one two three", 1.0), ("one", 0.0)),
    ]
    counts = run_samples(tmp_path, rows)
    assert (counts["read"], counts["prompts"], counts["prompts_kept"], counts["kept"]) == (8, 3, 2, 2)
    assert counts["share_kept"] == pytest.approx(2 / 3, abs=1e-4)
    assert counts["rejected"] == {samples.NOT_TAKEN: 2, samples.SAME: 1, samples.ALONE: 1}
    assert counts["lengths"] == {
        "chosen_words": 2.0,
        "rejected_words": 1.0,
        "chosen_longer": 0.5,
        "equal_lengths": 0.5,
    }
    assert counts["mean_gap"] == pytest.approx(2.0)
    pairs, rejected = read_jsonl(tmp_path / "pairs.jsonl"), read_jsonl(tmp_path / "rejected.jsonl")
    assert len(pairs) + len(read_jsonl(tmp_path / "ranked.jsonl")) + len(rejected) == len(rows)
    assert "left out, same answer again: 1 answers" in capsys.readouterr().out


def test_no_pair_at_all_is_an_error_that_counts_the_reasons_and_says_what_to_do(tmp_path):
    rows = [*answers("p", ("a", 1.0), ("b", 1.0)), *answers("q", ("a", 1.0), ("a", 1.0))]
    with pytest.raises(PlumblineError, match=r"same reward: 2.*same answer again: 1.*temperature"):
        run_samples(tmp_path, rows)
    assert not (tmp_path / "manifest.json").exists()


def test_lengths_are_counted_in_words():
    pairs = [
        {"chosen": "a b c", "rejected": "a"},
        {"chosen": "a", "rejected": ""},
        {"chosen": "a", "rejected": "b"},
    ]
    facts = length_facts(pairs)
    assert facts["chosen_words"] == pytest.approx(5 / 3, abs=1e-4)
    assert facts["rejected_words"] == pytest.approx(2 / 3, abs=1e-4)
    assert (facts["chosen_longer"], facts["equal_lengths"]) == (0.6667, 0.3333)


# Pairs as they came.


def came(name: str, *texts: str, meta: dict | None = None, **facts: object) -> dict:
    candidates = [{"content": text, "rewards": {}} | facts for text in texts]
    return {"id": name, "group": name, "messages": PROMPT, "candidates": candidates, "meta": meta or {}}


def run_given(folder, rows):
    write_jsonl(folder / "rows.jsonl", rows)
    flags = [
        "--annotated",
        f"train={folder}/rows.jsonl",
        "--settings",
        '{"by": "reward", "annotated": false}',
    ]
    for name in ("ranked", "rejected"):
        flags += [f"--{name}", folder / f"{name}.jsonl"]
    call(ranked.main, *flags, "--output", folder / "pairs.jsonl", "--manifest", folder / "manifest.json")
    return [(pair["chosen"], pair["rejected"]) for pair in read_jsonl(folder / "pairs.jsonl")]


def test_answers_that_came_ranked_make_pairs_without_an_annotation(tmp_path):
    pairs = run_given(
        tmp_path, [came("p", "a", "b", "c"), came("q", "d", "e"), came("r", "f", "f"), came("s", "g")]
    )
    assert pairs == [("a", "b"), ("a", "c"), ("d", "e")]
    rows = read_jsonl(tmp_path / "ranked.jsonl")
    assert [row["rewards"] for row in rows] == [[1.0, 0.5, 0.0], [1.0, 0.0]]
    counts = read_json(tmp_path / "manifest.json")["counts"]
    assert counts["rejected"] == {"chosen equals rejected": 1, "no other answer to the prompt": 2}
    assert counts["lengths"]["equal_lengths"] == 1.0
    assert "reward_agrees" not in counts  # their rewards are made of their ranks


def test_labelled_answers_of_one_prompt_make_pairs_of_good_and_bad_ones(tmp_path):
    rows = [
        came(f"r{number}", text, meta={"prompt": "r0"}, rewards={"label": label}, rank=int(not label))
        for number, (text, label) in enumerate([("bad", 0.0), ("good", 1.0), ("worse", 0.0)])
    ]
    assert sorted(run_given(tmp_path, rows)) == [("good", "bad"), ("good", "worse")]
