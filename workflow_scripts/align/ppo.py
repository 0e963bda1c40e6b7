"""Proximal Policy Optimization against a reward (Schulman et al. 2017; on language models, Ziegler et al. 2019).

Each step samples answers to a batch of prompts, rewards them, charges every token for leaving the parent, and fits
policy and value head to them for `ppo_epochs` passes. TRL has no PPO any more, so the loop is here and plain. Log-probs
are those of the policy at `temperature`; what top_p cuts off is not made up for. The last policy is kept, or by what is
watched the best one. Steps of the run are batches of answers; every step draws from a seed of its own, so that a run
that was killed goes on exactly as it would have. Of several processes each draws its answers from a seed of its own:
their number alters what is answered, as another seed would, and nothing else.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import get_scheduler

from workflow_scripts.align.online import Online, prepare
from workflow_scripts.align.ppo_learner import Learner, State
from workflow_scripts.align.ppo_numbers import Settings, curve_with, steps_of
from workflow_scripts.align.vllm_beside import beside
from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.progress import Progress
from workflow_scripts.common.time_limit import TimeLimit
from workflow_scripts.common.training.arguments import spared_warmup
from workflow_scripts.common.training.checkpoints import last_checkpoint
from workflow_scripts.common.training.command import run_training
from workflow_scripts.common.training.curve import curve_of
from workflow_scripts.common.training.handing_over import guess_of, validations_within
from workflow_scripts.common.training.reporting import told_of
from workflow_scripts.common.training.saving import save_policy, say_skipped
from workflow_scripts.common.training.sharding import uses_fsdp
from workflow_scripts.common.training.tracking import Sinks
from workflow_scripts.common.training.watching import Watch, since_best, watch_of, watched_facts
from workflow_scripts.common.training.zero import uses_deepspeed

APART = 2**40  # between the seeds of one process and the next


def batch_of(prompts: list[dict], step: int, size: int, seed: int) -> list[dict]:
    """Return the prompts of a step: the step-th `size` of shuffled passes over all of them, laid end to end."""
    count = len(prompts)
    wanted = range(step * size, (step + 1) * size)
    passes = {at // count: None for at in wanted}
    orders = {each: np.random.default_rng([seed, each]).permutation(count) for each in passes}
    return [prompts[orders[at // count][at % count]] for at in wanted]


def look(learner: Learner, watch: Watch, state: State, work: Path) -> bool:
    """Add a look at the policy's answers to the state, keep the best; tell whether patience is at its end.

    Nothing but the looks decides: a run that was killed goes on to the same end.
    """
    settings = learner.settings
    leads = processes.number() == 0
    numbers, answers = watch.look(
        learner.policy, state.step, learner.computing, processes.count(), processes.number()
    )
    seen = {"step": state.step} | {f"eval_{name}": value for name, value in numbers.items()}
    if leads:
        print(json.dumps(seen), flush=True)
    state.looks += curve_of([seen | ({"answers": answers} if answers else {})])
    since = since_best([each["watch"] for each in state.looks], watch.watching["best"])
    if settings["keep"] == "best" and not since and leads:
        learner.keep(work / f"best-{state.step}")
        for other in work.glob("best-*"):
            # A checkpoint of before this step, from which a killed run goes on, finds it anew.
            if other.name != f"best-{state.step}":
                shutil.rmtree(other)
    return settings["patience"] is not None and since >= settings["patience"]


class Schedule(NamedTuple):
    """How long a run is: its steps, the most updates of each, and the learning rate of every update."""

    steps: int
    updates: int
    rate: Callable[[int], float]


def schedule_of(settings: Settings, prompts: int, optimizer: Any) -> Schedule:
    """Return the schedule of a run over so many prompts."""
    size = settings["rollout_batch"]
    steps = settings["max_steps"] or steps_of(settings, prompts)
    updates = settings["ppo_epochs"] * size // settings["batch_size"]
    warmup = math.ceil(
        spared_warmup(steps * updates, settings["warmup"], settings["schedule"]) * steps * updates
    )
    # Asked for its factor only: the learning rate is a function of the step and needs no state.
    [*_, share] = get_scheduler(settings["schedule"], optimizer, warmup, steps * updates).lr_lambdas
    return Schedule(steps, updates, lambda update: settings["learning_rate"] * share(update))


def refuse_settings(settings: Settings) -> None:
    """Raise PlumblineError where a step cannot be cut into updates, or processes share out the weights."""
    size, update = settings["rollout_batch"], settings["batch_size"]
    if size % update:
        raise PlumblineError(f"rollout_batch {size} is no multiple of batch_size {update}")
    if uses_fsdp() or uses_deepspeed():
        raise PlumblineError("ppo holds the whole policy on each GPU: start it with parallel: ddp")


def run_steps(arguments: Any, online: Online, learner: Learner, watch: Watch | None) -> State:
    """Make the steps of a run, resuming if it can; return where it ended, the weights that are kept in the learner."""
    settings, work = arguments.settings, online.work
    size, every = settings["rollout_batch"], settings["evaluate_every"]
    steps, updates, rate = schedule_of(settings, len(online.prompts), learner.optimizer)
    state, limit, leads = State(settings["kl_coef"]), TimeLimit(work), processes.number() == 0
    limit.recall()
    [checkpoint, *_] = processes.gathered(last_checkpoint(work) if leads else None)
    if checkpoint:
        state = learner.load(checkpoint)
        if leads:
            print(f"resuming from {checkpoint}", flush=True)
    sinks = Sinks(arguments.curve, state.step, settings)
    progress = Progress("training", "steps", steps, state.step)
    limit.begin(guess_of(learner.policy))
    while state.step < steps:
        torch.manual_seed(arguments.seed * 1_000_003 + state.step + processes.number() * APART)
        prompts = batch_of(online.prompts, state.step, size, arguments.seed)
        batch, facts = learner.play(prompts, online, state)
        facts |= learner.improve(batch, rate, state.step * updates)
        learner.refuse(facts, state, settings["log_every"])
        state.step += 1
        facts |= {"rows": state.step * size, "tokens": state.tokens}
        state.rows.append({"step": state.step, **facts})
        if leads:
            print(json.dumps(state.rows[-1]), flush=True)
        sinks.write(state.rows[-1:])
        progress.at(state.step, **told_of(state.rows[-1]))
        enough, next_look = False, validations_within(state.step, 1, every, steps) if watch else 0
        late = limit.late(validations=next_look)
        if watch is not None and (state.step % every == 0 or state.step == steps):
            enough = look(learner, watch, state, work)
            sinks.write(state.looks[-1:])
            limit.validated()
        late = not enough and state.step < steps and any(processes.gathered(late))
        if late or state.step % settings["checkpoint_every"] == 0:
            began = time.monotonic()
            if leads:
                learner.save(work / f"checkpoint-{state.step}", state)
            processes.gathered(state.step)  # it is written
            limit.saved(time.monotonic() - began)
        if late:
            limit.hand_over(f"step {state.step} of {steps}")
        if enough:
            break
    sinks.close()
    return state


def main() -> None:
    arguments, online = prepare(__doc__, Settings, "workflow_scripts.align.ppo")
    settings, started = arguments.settings, time.monotonic()
    refuse_settings(settings)
    watch = watch_of(arguments, online.tokenizer)
    learner = Learner(arguments.parent, settings, online.work, arguments.seed, arguments.watch)
    learner.engine = beside(online, settings)
    state = run_steps(arguments, online, learner, watch)
    if learner.engine is not None:
        learner.engine.close()
    facts: dict[str, Any] = {"counts": online.counts}
    if skipped := round(sum(row.get("skipped_updates", 0) for row in state.rows)):
        say_skipped(skipped, round(sum(row["updates"] for row in state.rows)) + skipped)
        facts["skipped_steps"] = skipped
    if settings["keep"] == "best" and watch is not None:
        values = [row["watch"] for row in state.looks]
        facts["best_step"] = state.looks[-1 - since_best(values, watch.watching["best"])]["step"]
        learner.take(online.work / f"best-{facts['best_step']}")
    if processes.number() > 0:
        return
    save_policy(
        learner.policy,
        online.tokenizer,
        arguments,
        online.work,
        curve=curve_with(state.looks, state.rows, settings["log_every"]),
        seconds=time.monotonic() - started,
        processes=processes.count(),
        tokens=state.tokens,
        steps=state.step,
        template=settings["template"],
        **facts | watched_facts(watch, state.looks, facts.get("best_step")),
    )


if __name__ == "__main__":
    run_training(main)
