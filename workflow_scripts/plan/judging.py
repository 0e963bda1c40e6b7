"""Judges: what they are asked, what a verdict depends on, and how they are reached.

A judge is asked about the answers to a prompt set: those to a benchmark, or those of which pairs are made, which it
ranks. In both cases `benchmark` is the prompt set's name.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan.choosing import compared_seeds
from workflow_scripts.plan.growing import plan_at_hand
from workflow_scripts.plan.outside import answerer, asked, asked_cells
from workflow_scripts.plan.plan import Plan, cells, outside_cells, scored_cells, scored_on
from workflow_scripts.plan.policies import candidates, parent_cell
from workflow_scripts.plan.prompts import owed, ranked_by_judges
from workflow_scripts.plan.sources import located, source_manifest
from workflow_scripts.plan.synthesis import writing_plans
from workflow_scripts.plan.words import as_json, chosen, flag_words, settings
from workflow_scripts.study.benchmarks.judged import JudgeScore
from workflow_scripts.study.judges import Judge
from workflow_scripts.study.lineage import seeds_of
from workflow_scripts.study.machine import asked_judges, unset_keys


def judged(plan: Plan) -> list[str]:
    """Return the benchmarks whose answers go before a judge."""
    return [name for name, part in plan.study.benchmarks.items() if part.is_judged()]


@functools.cache
def judgeable(plan: Plan) -> dict[str, Any]:
    """Return what has a judge, by prompt set: benchmarks, whether they ask it or not, and pairs that it ranks.

    The answers that pairs are made of are scored from 0 to 100: what is asked about them is a benchmark of that kind.
    """
    benchmarks = {name: part for name, part in plan.study.benchmarks.items() if part.asks is not None}
    return benchmarks | {
        name: JudgeScore(
            kind="judge_score", dataset=part.dataset, split=part.split, judge=part.rank, prompt=part.prompt
        )
        for name, part in ranked_by_judges(plan).items()
    }


def judge_of(plan: Plan, benchmark: str) -> Judge:
    return plan.study.judges[judgeable(plan)[benchmark].judge]


def judge_manifest(plan: Plan, benchmark: str) -> list[str]:
    """Return the manifest of the reward model that judges a benchmark, if one does."""
    model = judge_of(plan, benchmark).reward_model()
    return [f"{plan.layout.reward_model(model)}/manifest.json"] if model else []


def judge_settings(plan: Plan, benchmark: str) -> str:
    """Return what a judge's verdicts depend on, as JSON; a reward model's folder stands in place of its name."""
    judge = judge_of(plan, benchmark)
    model = judge.reward_model()
    folder = {"model": f"{plan.layout.reward_model(model)}/model"} if model else {}
    name = judgeable(plan)[benchmark].judge
    draws = {"draws": count} if (count := draws_of(plan, benchmark)) > 1 else {}
    return settings(judge, keys=judge.verdict_keys, name=name, **folder, **draws)


def draws_of(plan: Plan, benchmark: str) -> int:
    """Return how often a judge is asked about each answer: of answers that pairs are made of once."""
    asked = benchmark in plan.study.benchmarks
    return getattr(judge_of(plan, benchmark), "draws", 1) if asked else 1


@functools.cache
def relatives(plan: Plan, benchmark: str) -> dict[str, str]:
    """Return, in words, how the judge of a benchmark is related to policies; {} where it is to none, or to all alike.

    A reward model was trained from a base model, an endpoint is a model by the name that a base model or a policy from
    elsewhere has: models are said to like what they would have said.
    """
    judge, study = judge_of(plan, benchmark), plan.study
    if reward := judge.reward_model():
        base = study.reward_models[reward].parent
        bases, kin, why = {base}, set(), f"the judge is a relative: {reward} was trained from {base}"
    elif judge.reads_words:
        named = {name: {name, part.hf, part.preset} for name, part in study.models.items()}
        bases = {name for name, known in named.items() if judge.model in known}
        kin = {name for name in asked(plan) if answerer(plan, name).model == judge.model}
        why = f"the judge is a relative: it is {judge.model}"
    else:
        return {}
    kin |= {name for name, policy in plan.policies.items() if policy.model in bases}
    everyone = {*plan.policies, *study.policies}
    return dict.fromkeys(sorted(kin), why) if kin < everyone else {}


def recorded(plan: Plan, benchmark: str) -> list[str]:
    """Return the file of recorded replies of a benchmark's judge, if there is one."""
    return [file] if (file := judge_of(plan, benchmark).recordings()) else []


def access(plan: Plan) -> str:
    """Return how endpoints are reached and paid, as JSON by judge: it alters no verdict."""
    judges = {name: judge for name, judge in plan.study.judges.items() if judge.reads_words}
    return as_json(
        {name: chosen(judge, drop=[*judge.verdict_keys, "draws"]) for name, judge in judges.items()}
    )


def asking_kind(plan: Plan, benchmark: str) -> str:
    return judgeable(plan)[benchmark].kind


def asking_settings(plan: Plan, benchmark: str) -> str:
    """Return what a benchmark asks of its judge, as JSON."""
    part = judgeable(plan)[benchmark]
    return settings(part, keys=part.asks)


def judge_prompts(plan: Plan, benchmark: str) -> list[str]:
    """Return what the file of judge prompts is stale by that a benchmark brings, if it does."""
    return brought(plan, benchmark, "judge_prompts")


def skip_file(plan: Plan, benchmark: str) -> list[str]:
    """Return what the file of prompts that are not judged is stale by, if a benchmark brings one."""
    return brought(plan, benchmark, "skip_file")


def brought(plan: Plan, benchmark: str, key: str) -> list[str]:
    """Return what a benchmark's file is stale by: its source, or the file itself; nothing where it brings none."""
    part = judgeable(plan)[benchmark]
    if not getattr(part, key, None):
        return []
    return [source_manifest(plan, part.source) if part.source else getattr(part, key)]


def opponent_cell(plan: Plan, benchmark: str, policy: str, seed: int | str) -> tuple[str, int] | None:
    """Return the (policy, seed) whose answers a policy's are compared with: of the same seed, if there is one."""
    part = judgeable(plan).get(benchmark)
    opponent = part.opponent_in(plan.study.report) if part else None
    if not opponent:
        return None
    if opponent in plan.study.policies:
        return opponent, plan.study.first_seeds()[0]
    seeds = seeds_of(plan.study, plan.policies[opponent])
    same = plan.speaker(policy) in plan.policies and int(seed) in seeds
    return opponent, int(seed) if same else seeds[0]


def opponent_answers(plan: Plan, benchmark: str, policy: str, seed: int | str) -> list[str]:
    """Return the manifest of the answers that a policy's are compared with, where they are another policy's."""
    cell = opponent_cell(plan, benchmark, policy, seed)
    return [plan.layout.answers(*cell, benchmark)] if cell else []


def judging_flags(plan: Plan, benchmark: str, policy: str, seed: int | str) -> list[str]:
    """Return the flags of a judging job that not every benchmark has."""
    part = judgeable(plan)[benchmark]
    cell = opponent_cell(plan, benchmark, policy, seed)
    flags = {
        "--opponent": plan.layout.answer_rows(*cell, benchmark) if cell else None,
        "--templates": located(plan, part, "judge_prompts") if hasattr(part, "judge_prompts") else None,
        "--skip-file": located(plan, part, "skip_file") if hasattr(part, "skip_file") else None,
    }
    return flag_words(flags)


def verdicts(plan: Plan, benchmark: str, policy: str, seed: int | str) -> list[str]:
    """Return the verdicts that a scorer reads, where a judge is asked."""
    asked = plan.study.benchmarks[benchmark].is_judged()
    return [plan.layout.verdicts(policy, seed, benchmark)] if asked else []


def verdicts_flags(plan: Plan, benchmark: str, policy: str, seed: int | str) -> list[str]:
    return [word for file in verdicts(plan, benchmark, policy, seed) for word in ("--verdicts", file)]


Answers = tuple[str, int, str]  # of a policy, with a seed, to a prompt set


def asking_plans(plan: Plan) -> list[dict[str, Any]]:
    """Return one entry per policy and benchmark that an endpoint answers."""
    return [
        {
            "policy": policy,
            "seed": seed,
            "benchmark": f"{name} (answers)",
            "judge": plan.study.policies[policy].judge,
            "file": plan.layout.asking(policy, seed, name),
        }
        for policy, seed, name in asked_cells(plan)
    ]


def ranked_cells(plan: Plan) -> list[Answers]:
    """Return every (policy, seed, prompt set) whose answers an endpoint ranks, for its children to learn from."""
    return [
        (policy, seed, name)
        for policy, seed in cells(plan)
        for name in owed(plan, policy)
        if name in ranked_by_judges(plan) and judge_of(plan, name).reads_words
    ]


def judged_cells(plan: Plan) -> list[Answers]:
    """Return every (policy, seed, prompt set) whose answers go before an endpoint."""
    return ranked_cells(plan) + [
        (policy, seed, name)
        for policy, seed in scored_cells(plan)
        for name in judged(plan)
        if name in scored_on(plan, policy) and judge_of(plan, name).reads_words
    ]


@functools.cache
def learned_from(plan: Plan, policy: str, seed: int | str) -> frozenset[Answers]:
    """Return the answers that a policy or one behind it, chosen among others too, learned from as pairs."""
    policy = plan.speaker(policy)
    if policy not in plan.made():
        return frozenset()
    run, parent = plan.run(policy), parent_cell(plan, policy, seed)
    found = {(*parent, f"pairs-{run.pairs}")} if getattr(run, "pairs", None) else set()
    among = [(name, each) for name in candidates(plan, policy) for each in compared_seeds(plan, seed)]
    return frozenset(found).union(*(learned_from(plan, *cell) for cell in [parent, *among]))


def rests_on(plan: Plan, policy: str, seed: int, benchmark: str) -> set[Answers]:
    """Return the answers that an endpoint has to have given, or ranked for a training, before a judge can read those
    of a policy and of its opponent.
    """
    cell = opponent_cell(plan, benchmark, policy, seed)
    read = [(policy, seed), *([cell] if cell else [])]
    given = {(*who, benchmark) for who in read if who[0] in asked(plan)}
    return given.union(*(learned_from(plan, *who) for who in read))


def judging_plans(
    plan: Plan, waiting: Sequence[str] = (), unasked: Collection[Answers] = ()
) -> list[dict[str, Any]]:
    """Return one entry per written source, and one per policy and prompt set that an endpoint answers or judges.

    While sources are `waiting` to be written no policy can answer: then only writing is counted. Where answers are
    `unasked`, to be given or ranked by an endpoint first, no judge of what rests on them can be counted. Where the
    number of seeds is yet to be chosen, it is what the first take.
    """
    plan = plan_at_hand(plan)
    due = [cell for cell in judged_cells(plan) if not rests_on(plan, *cell) & set(unasked)]
    judging = [
        {
            "policy": policy,
            "seed": seed,
            "benchmark": name,
            "judge": judgeable(plan)[name].judge,
            "file": plan.layout.judging(policy, seed, name),
        }
        for policy, seed, name in due
    ]
    return writing_plans(plan, waiting) + ([] if waiting else asking_plans(plan) + judging)


def judging_plans_settings(plan: Plan, waiting: Sequence[str], unasked: Collection[Answers] = ()) -> str:
    """Return what `judge_plan` counts, as JSON: also the verdicts that cannot be counted yet, and why."""
    plan = plan_at_hand(plan)
    uncounted = [
        f"{policy} (seed {seed}), {name}"
        for policy, seed, name in judged_cells(plan)
        if rests_on(plan, policy, seed, name) & set(unasked)
    ]
    plans = judging_plans(plan, waiting, unasked)
    return as_json({"plans": plans, "waiting": list(waiting), "uncounted": [] if waiting else uncounted})


def related_judge(plan: Plan, benchmark: str, policy: str) -> bool:
    """Tell whether a benchmark's judge, if it has one, is a relative of a policy and not of all."""
    return plan.study.benchmarks[benchmark].is_judged() and policy in relatives(plan, benchmark)


def agreement_pairs(plan: Plan) -> list[list[dict[str, Any]]]:
    """Return the pairs of score files whose judges are compared, policy by policy."""
    return [
        [
            {
                "policy": policy,
                "seed": seed,
                "benchmark": name,
                "file": plan.layout.scores(policy, seed, name),
            }
            | ({"relative": True} if related_judge(plan, name, policy) else {})
            for name in pair
        ]
        for pair in plan.study.report.agreement
        for policy, seed in [*cells(plan), *outside_cells(plan)]
    ]


def drawn_scores(plan: Plan) -> list[dict[str, Any]]:
    """Return the score files of judges that were drawn several times, whose draws are compared."""
    return [
        {"policy": policy, "seed": seed, "benchmark": name, "file": plan.layout.scores(policy, seed, name)}
        for name in judged(plan)
        if draws_of(plan, name) > 1
        for policy, seed in [*cells(plan), *outside_cells(plan)]
    ]


def agreement_files(plan: Plan) -> list[str]:
    entries = [entry for pair in agreement_pairs(plan) for entry in pair]
    return list(dict.fromkeys(entry["file"] for entry in [*entries, *drawn_scores(plan)]))


def agreement_settings(plan: Plan) -> str:
    report = plan.study.report
    drawn = {"drawn": entries} if (entries := drawn_scores(plan)) else {}
    seed = plan.study.first_seeds()[0]
    known = {"pairs": agreement_pairs(plan), "seed": seed, "confidence": report.confidence}
    return as_json(known | drawn)


def need_keys(plan: Plan, rules: set[str]) -> None:
    """Stop a run before it answers if its judges would then be asked without a key; `rules` are those of its jobs.

    Where judging alone is due, the verdicts may all be stored; else it says at once what it lacks. PlumblineError.
    """
    lacking = [finding.text for finding in unset_keys(plan.study, asked_judges(plan.study))]
    if lacking and {"judge_answers", "answer_prompts"} <= rules:
        raise PlumblineError("\n".join(lacking))


def ask_nothing(plan: Plan, due: Mapping[str, set[str]]) -> None:
    """Stop `make judge-plan` where a model would have to write first; `due` has the sources of each rule's jobs.

    PlumblineError.
    """
    if "judge_plan" in due and due.get("ask_policy"):
        raise PlumblineError(
            "judge_plan asks nothing, and an endpoint would have to answer anew before its answers can be judged: "
            "remove its answers (results/…/policies/NAME/…/generations/), and the giving of them is counted alone"
        )
    ranked = {name for name in ranked_by_judges(plan) if judge_of(plan, name).reads_words}
    if "judge_plan" in due and (names := sorted(ranked & due.get("judge_answers", set()))):
        files = ", ".join(f"results/…/verdicts/{name}.jsonl" for name in names)
        raise PlumblineError(
            f"judge_plan asks nothing, and policies would have to learn from pairs whose answers are to be judged anew "
            f"({', '.join(names)}): remove their verdicts ({files}), and the judging of them is counted alone"
        )
    if "judge_plan" in due and due.get("write_rows"):
        names = sorted(due["write_rows"])
        manifests = ", ".join(source_manifest(plan, name) for name in names)
        raise PlumblineError(
            f"judge_plan asks nothing, and {', '.join(names)} would have to be written anew before policies can "
            f"answer: remove {manifests}, and their writing is counted alone"
        )
