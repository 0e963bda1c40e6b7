"""What a training learns from, what prepares it, and what it is told."""

import functools
import json
from collections.abc import Callable
from typing import Any

from workflow_scripts.common.code import code_of, pins
from workflow_scripts.common.files import digest
from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import TRAINERS, Plan, history_turns
from workflow_scripts.plan.policies import learned_template, parent_cell, remote_code, template
from workflow_scripts.plan.prompts import ranked_by_judges
from workflow_scripts.plan.rewards import (
    annotated_dataset,
    annotated_rows,
    classifiers,
    history,
    rewarding_settings,
)
from workflow_scripts.plan.words import as_json, settings
from workflow_scripts.study.datasets import made_of
from workflow_scripts.study.methods import TRAINED_BY, Run
from workflow_scripts.study.pairs import GivenPairs, OwnPairs, Pairs, SampledPairs
from workflow_scripts.study.training import OF_THE_MACHINE

READ_AT_ONCE = 16  # rows in a forward pass of what only reads


def policies_on(plan: Plan, *materials: str) -> list[str]:
    """Return the policies whose method learns from one of these: tokens, pairs, ranked, rewarded or prompts."""
    return [name for name in plan.trained() if plan.run(name).learns_from in materials]


def rule_of(plan: Plan, policy: str) -> str:
    """Return the rule that trains a policy."""
    return TRAINED_BY[plan.run(policy).learns_from]


def module_of(plan: Plan, policy: str) -> str:
    """Return the module that trains a policy."""
    run = plan.run(policy)
    return (
        "workflow_scripts.sft.train"
        if run.learns_from == "tokens"
        else f"workflow_scripts.align.{run.method}"
    )


def code(plan: Plan, policy: str) -> dict[str, str]:
    return code_of(
        module_of(plan, policy), *(["workflow_scripts.align.vllm_process"] if by_vllm(plan, policy) else [])
    )


def by_vllm(plan: Plan, policy: str) -> bool:
    """Return whether vLLM draws the answers that a policy learns from."""
    return getattr(plan.run(policy), "engine", None) == "vllm"


def threads(plan: Plan, policy: str) -> int:
    return plan.run(policy).threads


def training_settings(plan: Plan, policy: str) -> str:
    """Return what a training takes, as JSON: its keys without those that jobs before it have dealt with.

    What answers as it learns is told how it speaks: all others have it in their tokens.
    """
    run = plan.run(policy)
    spoken = (
        {"template": template(plan, plan.policies[policy].parent)} if run.learns_from == "prompts" else {}
    )
    # Neither whose child it is nor how many threads it has makes a training stale.
    drop = ["parent", "method", "threads", "watch", "grid", *OF_THE_MACHINE, *run.read_before]
    named = f"runs.{plan.policies[policy].run}"
    return settings(run, drop=drop, machine_of=named, trust_remote_code=remote_code(plan, policy), **spoken)


# --- what is watched on the way ---------------------------------------------------------------------------------------


def watched(plan: Plan) -> list[str]:
    """Return the policies that are watched while they train."""
    return [name for name in plan.trained() if plan.run(name).watch]


def watching_settings(plan: Plan, policy: str) -> str:
    """Return how a policy is watched, as JSON: in its own template, by an annotation's rewards where it names one.

    It is null where it is not watched.
    """
    part, base = plan.run(policy).watch, plan.study.models[plan.policies[policy].model]
    if part is None:
        return as_json(None)
    rewards = part.annotation and json.loads(rewarding_settings(plan, part.annotation))["rewards"]
    return settings(
        part,
        keys=["metric", "best", "shown", "wordnet"],
        template=template(plan, policy),
        context=base.context,
        rewards=rewards,
    )


def pinned(plan: Plan, policy: str) -> dict[str, str]:
    """Return the locked versions that a training depends on, with METEOR's and vLLM's where it needs them."""
    part = plan.run(policy).watch
    own = pins(*TRAINERS, *(["nltk"] if part and not part.annotation and part.metric == "meteor" else []))
    return own | (pins("vllm", lock="vllm.txt") if by_vllm(plan, policy) else {})


def watch_prompts(plan: Plan, policy: str) -> str:
    """Return the manifest of the prompts that a policy is watched on."""
    return plan.layout.prompts(f"watch-{plan.policies[policy].run}")


def watch_inputs(plan: Plan, policy: str) -> list[str]:
    """Return the manifests of what a policy is watched by: prompts, classifiers, the rows that tf-idf is fitted on."""
    part = plan.run(policy).watch
    if part is None:
        return []
    rewarding = (
        [annotated_dataset(plan, part.annotation), *classifiers(plan, part.annotation)]
        if part.annotation
        else []
    )
    return [watch_prompts(plan, policy), *rewarding]


def watch_flags(plan: Plan, policy: str) -> list[Word]:
    """Return the flags that name the files a policy is watched by, as words; none where it is not."""
    part, layout = plan.run(policy).watch, plan.layout
    if part is None:
        return []
    flags = {"--watch-prompts": layout.word(watch_prompts(plan, policy))}
    if part.annotation:
        fitted = plan.study.annotations[part.annotation]
        flags["--watch-fit-rows"] = layout.word(layout.rows(fitted.dataset, fitted.fit_split))
    return [word for flag, value in flags.items() for word in (Word(flag), value)]


# --- tokens of a dataset ----------------------------------------------------------------------------------------------


def on_datasets(plan: Plan) -> list[str]:
    """Return the policies that are fine-tuned on a dataset."""
    return [name for name in policies_on(plan, "tokens") if not plan.run(name).pairs]


def on_chosen(plan: Plan) -> list[str]:
    """Return the policies that are fine-tuned on the chosen answers of pairs."""
    return [name for name in policies_on(plan, "tokens") if plan.run(name).pairs]


def chosen_manifest(plan: Plan, policy: str, seed: int | str) -> str:
    """Return the manifest of the pairs whose chosen answers a policy is fine-tuned on."""
    return pairs_manifest(plan, plan.run(policy).pairs, *parent_cell(plan, policy, seed))


def tokens_dataset(plan: Plan, policy: str) -> str:
    return f"{plan.layout.clean(plan.run(policy).dataset)}/manifest.json"


def tokens_settings(plan: Plan, policy: str) -> str:
    """Return how a fine-tuning's rows become tokens, and what its policy is asked in where that is something else."""
    run, learned, asked = plan.run(policy), learned_template(plan, policy), template(plan, policy)
    return settings(
        run,
        keys=["max_tokens", "overflow", "objective", "im_mask", "it_mask", "lm_text", "lm_rows"],
        template=learned,
        history_turns=history_turns(plan, run.dataset),
        **({} if asked == learned else {"asked_in": asked}),
    )


def tokens_splits(plan: Plan, policy: str) -> list[Word]:
    """Return train=… and, where there is one, validation=…, the files that are tokenised, as words."""
    run, layout = plan.run(policy), plan.layout
    splits = {"train": run.split, "validation": run.validation}
    return [
        layout.word(f"{name}={layout.rows(run.dataset, split)}") for name, split in splits.items() if split
    ]


# --- pairs and ranked answers -----------------------------------------------------------------------------------------


def ranked_pairs(plan: Plan) -> list[str]:
    """Return the sets of pairs that are made of answers which came ranked: they are the same for every policy."""
    return [name for name, part in plan.study.pairs.items() if not isinstance(part, OwnPairs)]


def mistaken_pairs(plan: Plan) -> list[str]:
    """Return the sets of pairs that are made of a policy's own mistakes."""
    return [name for name, part in plan.study.pairs.items() if isinstance(part, Pairs)]


def sampled_pairs(plan: Plan) -> list[str]:
    """Return the sets of pairs that are made of a policy's own answers, ranked by rewards or by a judge."""
    return [name for name, part in plan.study.pairs.items() if isinstance(part, SampledPairs)]


def pairs_folder(plan: Plan, pairs: str, policy: str, seed: int | str) -> str:
    """Return where pairs are: those of a policy's own answers are its own, ranked ones are everybody's."""
    if pairs in ranked_pairs(plan):
        return plan.layout.ranked_pairs(pairs)
    return plan.layout.own_pairs(pairs, policy, seed)


def pairs_manifest(plan: Plan, pairs: str, policy: str, seed: int | str) -> str:
    return f"{pairs_folder(plan, pairs, policy, seed)}/manifest.json"


def own_pairs_settings(plan: Plan, pairs: str) -> str:
    part = plan.study.pairs[pairs]
    return settings(
        next(iter(made_of(plan.study, part.dataset).values())),
        keys=["reply_format"],
        which=part.which,
        fidelity=part.fidelity or plan.study.fidelity,
        validation_share=part.validation_share,
        seed=plan.study.first_seeds()[0],
    )


def sampled_pairs_settings(plan: Plan, pairs: str) -> str:
    keys = ["take", "margin", "validation_share"]
    return settings(plan.study.pairs[pairs], keys=keys, seed=plan.study.first_seeds()[0])


def sampled_inputs(plan: Plan, pairs: str, policy: str, seed: int | str) -> list[str]:
    """Return what pairs of a policy's samples are stale by: their rewards, or prompts, answers, a judge's verdicts."""
    layout, name = plan.layout, f"pairs-{pairs}"
    if name in ranked_by_judges(plan):
        cell = (policy, seed, name)
        return [layout.prompts(name), layout.answers(*cell), layout.verdicts(*cell)]
    return [layout.rewards(policy, seed, name)]


def sampled_flags(plan: Plan, pairs: str, policy: str, seed: int | str) -> list[Word]:
    """Return the flags that name the files of a policy's samples and of what ranks them, as words."""
    layout, name = plan.layout, f"pairs-{pairs}"
    if name in ranked_by_judges(plan):
        files = {
            "--prompts": layout.prompt_rows(name),
            "--generations": layout.answer_rows(policy, seed, name),
            "--verdicts": layout.verdicts(policy, seed, name),
        }
    else:
        files = {"--rewarded": layout.reward_rows(policy, seed, name)}
    return [word for flag, file in files.items() for word in (Word(flag), layout.word(file))]


def ranking_input(plan: Plan, pairs: str) -> str:
    """Return the manifest of the ranked answers: of an annotation's, or of a dataset's as they came."""
    part, layout = plan.study.pairs[pairs], plan.layout
    given = isinstance(part, GivenPairs)
    return f"{layout.clean(part.dataset) if given else layout.annotation(part.annotation)}/manifest.json"


def ranking_settings(plan: Plan, pairs: str) -> str:
    part = plan.study.pairs[pairs]
    if isinstance(part, GivenPairs):
        return as_json({"by": "reward", "annotated": False})
    return settings(part, keys=["by"], annotated=True)


def ranking_rows(plan: Plan, pairs: str) -> list[Word]:
    """Return train=… and validation=…, the files of the ranked answers, as words."""
    part, layout = plan.study.pairs[pairs], plan.layout
    if not isinstance(part, GivenPairs):
        return annotated_rows(plan, part)
    splits = {"train": part.split, "validation": part.validation}
    return [layout.word(f"{name}={layout.rows(part.dataset, at)}") for name, at in splits.items() if at]


def reference_settings(plan: Plan, pairs: str, policy: str) -> str:
    """Return how a policy reads pairs whose log-probs are taken."""
    return settings(
        plan.study.pairs[pairs],
        keys=["max_prompt_tokens", "max_tokens"],
        batch_size=READ_AT_ONCE,
        template=template(plan, policy),
        precision=plan.study.engine.precision,
        trust_remote_code=remote_code(plan, policy),
    )


def ranked_settings(plan: Plan, pairs: str, policy: str) -> str:
    """Return how ranked answers become a policy's tokens."""
    keys = ["max_prompt_tokens", "max_tokens"]
    return settings(plan.study.pairs[pairs], keys=keys, template=template(plan, policy))


# --- rewarded answers, value heads, advantages ------------------------------------------------------------------------

REWARDED = ("annotation", "split", "validation", "max_prompt_tokens", "max_tokens")


def rewarded_key(run: Run) -> str:
    """Return the name of the rewarded rows a run learns from; runs that agree in these keys share them."""
    return f"{run.annotation}-{digest(settings(run, keys=REWARDED))[:8]}"


@functools.cache
def rewarded_sets(plan: Plan) -> dict[str, Run]:
    """Return {name of rewarded rows: a run that learns from them}."""
    return {rewarded_key(run): run for run in plan.study.runs.values() if run.learns_from == "rewarded"}


def rewarded_input(plan: Plan, rewarded: str) -> str:
    return f"{plan.layout.annotation(rewarded_sets(plan)[rewarded].annotation)}/manifest.json"


def rewarded_rows(plan: Plan, rewarded: str) -> list[Word]:
    return annotated_rows(plan, rewarded_sets(plan)[rewarded])


def rewarded_settings(plan: Plan, rewarded: str, policy: str) -> str:
    """Return how a policy reads rewarded answers whose log-probs are taken."""
    part = rewarded_sets(plan)[rewarded]
    return settings(
        part,
        keys=["max_prompt_tokens", "max_tokens"],
        batch_size=READ_AT_ONCE,
        history_turns=history(plan, part.annotation),
        template=template(plan, policy),
        precision=plan.study.engine.precision,
        trust_remote_code=remote_code(plan, policy),
    )


FIT = ("max_value", "heads", "dropout", "learning_rate", "epochs", "held_out", "max_prompt_tokens")


def value_settings(plan: Plan, value: str, policy: str) -> str:
    """Return how a value head is fitted on a policy."""
    part = plan.study.values[value]
    return settings(
        part,
        keys=FIT,
        batch_size=part.fit_batch,
        history_turns=history(plan, part.annotation),
        template=template(plan, policy),
        precision=plan.study.engine.precision,
        trust_remote_code=remote_code(plan, policy),
    )


def value_seed(plan: Plan, value: str) -> int:
    return plan.study.values[value].seed


def value_input(plan: Plan, value: str, policy: str, seed: int | str) -> str:
    """Return the manifest of the rewarded answers a value head is fitted on."""
    part = plan.study.values[value]
    if part.targets == "generated":
        return plan.layout.rewards(policy, seed, f"values-{value}")
    return f"{plan.layout.annotation(part.annotation)}/manifest.json"


def value_rows(plan: Plan, value: str, policy: str, seed: int | str) -> Word:
    """Return the file of the rewarded answers a value head is fitted on, as a word."""
    part, layout = plan.study.values[value], plan.layout
    if part.targets == "generated":
        return layout.word(layout.reward_rows(policy, seed, f"values-{value}"))
    return layout.word(layout.annotated(part.annotation, part.split))


def advantage_settings(plan: Plan, policy: str) -> str:
    return as_json(
        {
            "batch_size": READ_AT_ONCE,
            "precision": plan.study.engine.precision,
            "trust_remote_code": remote_code(plan, policy),
        }
    )


def advantages_folder(plan: Plan, policy: str, seed: int | str) -> str | None:
    """Return the folder of the advantages a policy's run weighs by, or None where it weighs by none."""
    run = plan.run(policy)
    if not getattr(run, "value", None):
        return None
    return plan.layout.advantages(rewarded_key(run), run.value, *parent_cell(plan, policy, seed))


def advantages_manifest(plan: Plan, policy: str, seed: int | str) -> list[str]:
    folder = advantages_folder(plan, policy, seed)
    return [f"{folder}/manifest.json"] if folder else []


def advantages_flags(plan: Plan, policy: str, seed: int | str) -> list[Word]:
    folder = advantages_folder(plan, policy, seed)
    if not folder:
        return []
    files = {"--advantages": "advantages.jsonl", "--advantages-manifest": "manifest.json"}
    return [word for flag, file in files.items() for word in (flag, plan.layout.word(f"{folder}/{file}"))]


# --- a policy's own answers -------------------------------------------------------------------------------------------


def online_prompts(plan: Plan, policy: str) -> str:
    """Return the name of the prompt set that a policy answers as it learns."""
    return f"runs-{plan.policies[policy].run}"


def online_manifest(plan: Plan, policy: str) -> str:
    return plan.layout.prompts(online_prompts(plan, policy))


def online_rows(plan: Plan, policy: str) -> Word:
    return plan.layout.word(plan.layout.prompt_rows(online_prompts(plan, policy)))


def online_classifiers(plan: Plan, policy: str) -> list[str]:
    return classifiers(plan, plan.run(policy).annotation)


def online_rewards(plan: Plan, policy: str) -> str:
    return rewarding_settings(plan, plan.run(policy).annotation)


def online_fit_rows(plan: Plan, policy: str) -> Word:
    """Return the conversations that the tf-idf weights of a policy's rewards are fitted on, as a word."""
    part = plan.study.annotations[plan.run(policy).annotation]
    return plan.layout.word(plan.layout.rows(part.dataset, part.fit_split))


# --- by what a method learns from -------------------------------------------------------------------------------------


def material(plan: Plan, policy: str, seed: int | str) -> str:
    """Return the manifest of what a policy learns from: it counts the rows kept, rejected and cut.

    That of a policy which answers as it learns counts its prompts itself.
    """
    layout, run = plan.layout, plan.run(policy)
    cell = parent_cell(plan, policy, seed)
    folder: dict[str, Callable[[], Any]] = {
        "tokens": lambda: layout.chosen_tokens(policy, seed) if run.pairs else layout.tokens(policy),
        "pairs": lambda: layout.reference(run.pairs, *cell),
        "ranked": lambda: layout.ranked(run.pairs, *cell),
        "rewarded": lambda: layout.rewarded(rewarded_key(run), *cell),
        "prompts": lambda: layout.policy(policy, seed),
    }
    return f"{folder[run.learns_from]()}/manifest.json"


def preparing_jobs(plan: Plan, policy: str, seed: int) -> list[tuple[str, str, str, int]]:
    """Return (rule, name, parent, its seed) of the jobs with a model that prepare what a policy learns from."""
    run, cell = plan.run(policy), parent_cell(plan, policy, seed)
    if run.learns_from == "pairs":
        return [("score_reference", run.pairs, *cell)]
    if run.learns_from != "rewarded":
        return []
    key, value = rewarded_key(run), getattr(run, "value", None)
    jobs = [("score_rewarded", key, *cell)]
    if value:
        jobs += [("fit_value", value, *cell), ("estimate_advantages", f"{key}-{value}", *cell)]
    return jobs
