"""Pairs that a judge ranks: what a study may say of them, what follows from it, and what becomes of its verdicts."""

import json
from typing import Any

import pytest

from tests.command import call
from tests.judge_requests import judge_at
from tests.judge_server import JudgeServer, say
from tests.plans import EVERY_KEY, changed, config_of, told
from tests.studies import put
from tests.workflow import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.pairs import samples
from workflow_scripts.plan import costs, index, judging, prompts, rewards, training
from workflow_scripts.plan.plan import Plan
from workflow_scripts.score.judging import answers
from workflow_scripts.study.checking import examine
from workflow_scripts.study.machine import asked_judges, unset_keys

OWN = {"dataset": "chatted", "from": "samples", "split": "sft", "rank": "replayed"}
RUN = {"method": "dpo", "parent": "sft", "pairs": "own", "learning_rate": 1e-4}
OWN_CELL = ("tiny.sft", 1, "pairs-own")


def planned(**further: Any) -> Plan:
    """Return the plan of the study of every key with a set of pairs that a judge ranks, and a run on them."""
    values = {"pairs.own": OWN, "runs.own": RUN}
    return changed(EVERY_KEY, values | {path.replace("__", "."): to for path, to in further.items()})


# What is asked of whom.


@pytest.mark.parametrize("judge", ["asked", "replayed", "ruled"])
def test_a_judge_that_gives_verdicts_ranks_as_itself_and_scores_each_answer_from_0_to_100(judge):
    plan = planned(pairs__own__rank=judge)
    assert plan.study.pairs["own"].rank == judge
    assert "rank-own" not in plan.study.annotations
    assert judging.asking_kind(plan, "pairs-own") == "judge_score"
    assert told(judging.asking_settings(plan, "pairs-own")) == {"prompt": None}
    assert told(judging.judge_settings(plan, "pairs-own"))["name"] == judge
    assert judging.judging_flags(plan, "pairs-own", "tiny.sft", 1) == []
    assert "pairs-own" not in prompts.rewarded_sets(plan)
    assert "pairs-own" in prompts.owed(plan, "tiny.sft")


def test_a_judge_may_be_asked_in_the_studys_own_words_and_from_recorded_replies():
    plan = planned(pairs__own__prompt="{prompt}|{answer}")
    assert told(judging.asking_settings(plan, "pairs-own")) == {"prompt": "{prompt}|{answer}"}
    assert judging.recorded(plan, "pairs-own") == ["data/bundled/synthesis_replies.jsonl"]


def test_a_judge_that_is_a_reward_model_ranks_by_the_models_raw_output_as_before():
    plan = planned(pairs__own__rank="trained")
    assert "pairs-own" not in judging.judgeable(plan)
    assert "pairs-own" in prompts.rewarded_sets(plan)
    (reward,) = told(rewards.answer_settings(plan, "pairs-own"))["rewards"].values()
    assert {"model": "rm", "squash": "none"}.items() <= reward.items()


def test_pairs_are_made_of_answers_and_verdicts_where_a_judge_ranks():
    plan = planned()
    cell = "results/every-key/policies/tiny.sft/seed-1"
    wanted = [f"{cell}/generations/pairs-own.json", f"{cell}/verdicts/pairs-own.jsonl"]
    assert training.sampled_inputs(plan, "own", "tiny.sft", 1) == [
        "results/every-key/prompts/pairs-own.json",
        *wanted,
    ]
    words = training.sampled_flags(plan, "own", "tiny.sft", 1)
    assert (
        words[words.index("--verdicts") + 1] == "$RESULTS/policies/tiny.sft/seed-1/verdicts/pairs-own.jsonl"
    )
    assert "--rewarded" not in words
    assert training.sampled_flags(plan, "best", "tiny.sft", 1) == [
        "--rewarded",
        "$RESULTS/policies/tiny.sft/seed-1/rewards/pairs-best.jsonl",
    ]


def test_the_judges_model_alters_what_verdicts_rest_on_and_how_it_is_paid_does_not():
    def handed(**judge: object) -> tuple[str, str]:
        plan = planned(**{f"judges__replayed__{key}": value for key, value in judge.items()})
        return judging.judge_settings(plan, "pairs-own"), training.sampled_pairs_settings(plan, "own")

    before = handed()
    prices = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 2.0}
    assert handed(budget_usd=3.0, **prices, base_url="http://localhost:1/v1", retries=1) == before
    verdicts, ranking = handed(model="another-model")
    assert verdicts != before[0] and ranking == before[1]


# What it costs, and what it waits for.


def test_the_verdicts_that_a_policy_learned_from_are_files_behind_its_scores():
    plan = planned(runs__after=RUN | {"parent": "own", "pairs": "mistakes"})
    verdicts = "results/every-key/policies/tiny.sft/seed-1/verdicts/pairs-own.jsonl"
    for policy in ("tiny.sft.own", "tiny.sft.own.after"):
        assert verdicts in index.cell_entry(plan, policy, 1)["files"]
    for policy in ("tiny.sft", "tiny.sft.dpo", "gold"):
        assert verdicts not in index.cell_entry(plan, policy, 1)["files"]


def test_the_judging_of_pairs_is_told_among_the_costs():
    places = [job.place for job in costs.costed_jobs(planned()) if job.stage == "judge_answers"]
    assert places.count("tiny.sft-1-pairs-own") == 1
    rewarded = [job.place for job in costs.costed_jobs(planned()) if job.stage == "annotate_answers"]
    assert "tiny.sft-1-pairs-own" not in rewarded


def test_each_rounds_policy_is_judged_anew_and_the_later_ones_once_the_earlier_are_ranked():
    plan = planned(runs__own__rounds=2, runs__after=RUN | {"parent": "own", "pairs": "mistakes"})
    second, last = ("tiny.sft.own-1", 1, "pairs-own"), "tiny.sft.own-1.own-2"
    assert {OWN_CELL, second} <= set(judging.ranked_cells(plan))
    assert judging.learned_from(plan, last, 1) >= {OWN_CELL, second}
    assert judging.learned_from(plan, f"{last}.after", 1) >= {OWN_CELL, second}

    def counted(unasked: list) -> set[tuple[str, str]]:
        return {(entry["policy"], entry["benchmark"]) for entry in judging.judging_plans(plan, (), unasked)}

    first = counted([OWN_CELL, second])
    assert ("tiny.sft", "pairs-own") in first and ("tiny.sft", "rated") in first
    assert not {policy for policy, _ in first} & {second[0], last, f"{last}.after"}
    assert counted([second]) - first >= {(second[0], "pairs-own"), (second[0], "rated")}
    assert (f"{last}.after", "rated") in counted([]) - counted([second])
    waiting = told(judging.judging_plans_settings(plan, (), [second]))["uncounted"]
    assert f"{last} (seed 1), rated" in waiting and f"{second[0]} (seed 1), pairs-own" not in waiting


def test_what_is_compared_with_a_policy_that_waits_for_verdicts_waits_too():
    plan = planned(benchmarks__questions__opponent="tiny.sft.own")
    assert OWN_CELL in judging.rests_on(plan, "tiny", 1, "questions")
    assert OWN_CELL not in judging.rests_on(plan, "tiny", 1, "rated")


def test_what_one_is_chosen_among_waits_for_its_verdicts():
    choice = {"method": "best_of", "of": ["own"], "by": "loss/validation"}
    plan = planned(
        runs__own__grid={"learning_rate": [1e-4, 2e-4]}, pairs__own__validation_share=0.2, runs__pick=choice
    )
    assert "tiny.sft.pick" in plan.chosen()
    assert OWN_CELL in judging.learned_from(plan, "tiny.sft.pick", 1)


def test_a_plan_that_would_have_to_ask_first_is_stopped_and_that_of_a_rule_is_not():
    with pytest.raises(PlumblineError, match=r"judged anew \(pairs-own\): remove their verdicts"):
        judging.ask_nothing(planned(), {"judge_plan": set(), "judge_answers": {"tiny.sft", "1", "pairs-own"}})
    plan = planned(pairs__own__rank="ruled")
    judging.ask_nothing(plan, {"judge_plan": set(), "judge_answers": {"tiny.sft", "1", "pairs-own"}})
    judging.ask_nothing(planned(), {"judge_answers": {"tiny.sft", "1", "pairs-own"}})


def test_the_key_of_a_judge_that_only_ranks_is_missed_before_the_run(monkeypatch):
    judge = {"kind": "openai", "model": "m", "api_key_env": "RANKING_KEY"}
    monkeypatch.delenv("RANKING_KEY", raising=False)
    plan = planned(judges__ranking=judge, pairs__own__rank="ranking")
    assert "ranking" in asked_judges(plan.study)
    said = [str(finding.text) for finding in unset_keys(plan.study, asked_judges(plan.study))]
    assert any("judges.ranking.api_key_env" in line and "RANKING_KEY is not set" in line for line in said)
    with pytest.raises(PlumblineError, match="RANKING_KEY"):
        judging.need_keys(plan, {"answer_prompts", "judge_answers"})
    unused = planned(judges__ranking=judge, pairs__own__rank="ranking", runs__own__pairs="best")
    assert "ranking" not in asked_judges(unused.study)


# What the check says.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"pairs.own.rank": "askde"},
            "pairs.own.rank: no reward model, annotation, judge or function FILE.py:NAME is called 'askde'",
        ),
        (
            {
                "annotations.replayed": {
                    "dataset": "chatted",
                    "fit_split": "sft",
                    "rewards": {"a": {"rule": "length"}},
                }
            },
            "pairs.own.rank: 'replayed' is the name of annotation and of judge",
        ),
        (
            {"pairs.own.rank": "rm", "judges.rank-own": {"kind": "rule", "rule": "length"}},
            "would be called rank-own, and there is a judge of that name",
        ),
        ({"pairs.own.split": "nowhere"}, "pairs.own.split: no split of dataset 'chatted'"),
    ],
)
def test_a_judge_that_cannot_rank_is_refused_with_the_path(changes, said):
    config = put(put(config_of(EVERY_KEY), "pairs.own", OWN), "runs.own", RUN)
    for path, value in changes.items():
        config = put(config, path, value)
    assert said in "\n".join(examine(config, folder=ROOT / "tests").wrong)


# Verdicts to pairs.

PROMPTS = [
    {
        "id": f"p{number}#0",
        "group": f"p{number}",
        "messages": [{"role": "user", "content": f"Question {number}?"}],
        "followups": [],
        "reference": [reference],
        "meta": {},
    }
    for number, reference in enumerate(["The answer.", "The answer.", ""])
]
TEXTS = [["30 good", "7", "mumble", ""], ["mumble", "mumble a lot", "mumble", " "], ["5", "60", "5", "2"]]
TOLD = [
    {"id": prompt["id"], "turn": 0, "sample": sample, "text": text}
    for prompt, texts in zip(PROMPTS, TEXTS, strict=True)
    for sample, text in enumerate(texts)
]
RANKING = {"take": "all", "margin": 0.0, "validation_share": 0.0, "seed": 1}


def words_to(handler) -> str:
    """Return the number that an answer begins with; of one that mumbles nothing that is a score."""
    answer = handler.text.partition("<model response>\n")[2].split()[0]
    return answer if answer.isdigit() else "Well."


def judged(folder, judge: dict, told_by: list[dict] = TOLD, name: str = "one") -> list[dict]:
    """Return a judge's verdicts on answers, as the workflow has it asked."""
    write_jsonl(folder / "prompts.jsonl", PROMPTS)
    write_jsonl(folder / f"{name}.jsonl", told_by)
    flags = ["--benchmark", "pairs-own", "--kind", "judge_score", "--settings", '{"prompt": null}']
    flags += ["--prompts", folder / "prompts.jsonl", "--generations", folder / f"{name}.jsonl"]
    flags += ["--judge", json.dumps(judge), "--store", folder / "store", "--cell", name]
    flags += ["--output", folder / f"{name}-verdicts.jsonl", "--cost", folder / f"{name}-cost.json"]
    call(answers.main, *flags)
    return read_jsonl(folder / f"{name}-verdicts.jsonl")


def paired(folder, name: str = "one", **changed: object) -> list[tuple[str, str]]:
    """Return (chosen, rejected) of the pairs that come of answers and verdicts."""
    flags = ["--prompts", folder / "prompts.jsonl", "--generations", folder / f"{name}.jsonl"]
    flags += ["--verdicts", folder / f"{name}-verdicts.jsonl", "--settings", json.dumps(RANKING | changed)]
    for kind in ("ranked", "rejected"):
        flags += [f"--{kind}", folder / f"{kind}.jsonl"]
    call(samples.main, *flags, "--output", folder / "pairs.jsonl", "--manifest", folder / "manifest.json")
    return [(pair["chosen"], pair["rejected"]) for pair in read_jsonl(folder / "pairs.jsonl")]


@pytest.fixture
def asked(quick_client, tmp_path):
    """Return the folder of an endpoint's verdicts, and what it was asked."""
    with JudgeServer(default=say(words_to)) as server:
        judged(tmp_path, judge_at(server.url))
        yield tmp_path, server


def test_verdicts_rank_the_answers_and_those_that_failed_are_left_out_with_the_reason(asked, capsys):
    folder, _ = asked
    pairs = paired(folder)
    assert pairs == [("30 good", "7"), ("30 good", ""), ("60", "5"), ("60", "2")]
    counts = read_json(folder / "manifest.json")["counts"]
    assert counts["rejected"] == {samples.FAILED: 4, samples.ALONE_JUDGED: 1, samples.SAME: 1}
    assert (counts["read"], counts["prompts"], counts["prompts_kept"]) == (12, 3, 2)
    failed = [row for row in read_jsonl(folder / "rejected.jsonl") if row["reason"] == samples.FAILED]
    assert {row["why"] for row in failed} == {"the reply holds no lone integer from 0 to 100"}
    assert f"left out, {samples.FAILED}: 4 answers" in capsys.readouterr().out
    rows = read_jsonl(folder / "ranked.jsonl")
    assert [row["rewards"] for row in rows] == [[30, 7, 0], [60, 5, 2]]


def test_an_empty_answer_has_0_and_costs_no_call_and_an_empty_reference_is_not_shown(asked, capsys):
    folder, server = asked
    shown = [call["text"] for call in server.calls]
    assert len(shown) == len(set(shown)) == 8  # of 12 two are empty and two are said twice
    assert all(("<correct response>" in text) != ("Question 2?" in text) for text in shown)
    judged(folder, judge_at(server.url), name="again")
    said = capsys.readouterr().err
    assert "4 of 12 answers have an empty reference and are scored without one" in said


def test_another_rounds_answers_are_asked_about_only_where_they_are_new(asked):
    folder, server = asked
    before = server.asked()
    later = [
        row | {"text": "88 better"} if (row["id"], row["sample"]) == ("p0#0", 3) else row for row in TOLD
    ]
    judged(folder, judge_at(server.url), later, "two")
    assert server.asked() == before + 1
    assert paired(folder, "two")[0] == ("88 better", "30 good")
    cost = read_json(folder / "two-cost.json")
    assert (cost["judge_calls"], cost["judge_stored"]) == (1, 10)


def test_the_rule_of_length_ranks_without_a_call(tmp_path):
    judged(tmp_path, {"kind": "rule", "name": "longer", "rule": "length"})
    assert paired(tmp_path, take="best_worst") == [("30 good", ""), ("mumble a lot", " "), ("60", "2")]


def test_where_no_verdict_came_the_error_says_so_and_names_the_pairs(quick_client, tmp_path):
    mumbled = [row | {"text": "mumble"} for row in TOLD]
    with JudgeServer(default=say(words_to)) as server:
        with pytest.raises(
            PlumblineError, match="judging 'pairs-own': the judge gave not one verdict; the first"
        ):
            judged(tmp_path, judge_at(server.url), mumbled)


def test_where_verdicts_leave_no_pair_the_error_counts_the_reasons(tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    write_jsonl(tmp_path / "one.jsonl", TOLD)
    given = [
        {key: row[key] for key in ("id", "turn", "sample")}
        | ({"rating": 5} if row["sample"] == 0 else {"rating": None, "failed": "no"})
        for row in TOLD
    ]
    write_jsonl(tmp_path / "one-verdicts.jsonl", given)
    with pytest.raises(PlumblineError, match=f"{samples.FAILED}: 9, {samples.ALONE_JUDGED}: 3"):
        paired(tmp_path)
    write_jsonl(tmp_path / "one-verdicts.jsonl", given[:-1])
    with pytest.raises(PlumblineError, match=r"not one verdict per answer; see turn 0, sample 3 of 'p2#0'"):
        paired(tmp_path)


def test_the_step_takes_rewards_or_verdicts_and_not_both(tmp_path, capsys):
    for flags in (["--verdicts", "v"], ["--rewarded", "r", "--verdicts", "v"], []):
        common = ["--settings", json.dumps(RANKING), "--output", "o", "--manifest", "m"]
        with pytest.raises(SystemExit):
            call(samples.main, *flags, *common, "--ranked", "k", "--rejected", "l")
        assert "give either --rewarded, or --prompts" in capsys.readouterr().err
