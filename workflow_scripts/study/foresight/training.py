"""Trainings that cannot run on what is asked for, or learn nothing; rewards that no value can be."""

from collections.abc import Iterator
from importlib.util import find_spec

from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.study import Study

SHARDED = ("fsdp", "zero3", "zero3-offload")  # each GPU has a part of the weights


def resources_that_do_not_fit(study: Study) -> Iterator[Finding]:
    """Find trainings that cannot run on the GPUs that the study asks for."""
    asked = study.training_resources
    trained = {f"runs.{name}": run for name, run in study.trainings().items()}
    trained |= {f"reward_models.{name}": part for name, part in study.reward_models.items()}
    for path, part in trained.items():
        if asked.gpu > 1 and part.batch_size % asked.gpu:
            yield doubt(
                f"{path}.batch_size",
                f"{asked.gpu} GPUs cannot share {part.batch_size} rows of a step evenly, and it would stop there: take "
                f"a multiple of {asked.gpu}, or fewer GPUs",
            )
        started = asked.gpu > 1 or (
            asked.gpu and asked.parallel.endswith("-offload")
        )  # by what shares it out
        shared = started and asked.parallel != "ddp" and not getattr(part, "whole_on_each", False)
        if part.precision == "float16" and (shared or not asked.gpu):
            why = f"is for parallel: ddp, not {asked.parallel}: take bfloat16" if shared else "needs a GPU"
            yield wrong(f"{path}.precision", f"float16 {why}")
    for name, run in study.trainings().items():
        if not run.quantise:
            continue
        if not run.whole_on_each and asked.gpu > 1 and asked.parallel in SHARDED:
            yield wrong(
                f"runs.{name}.quantise",
                f"nf4 needs whole weights on each GPU, and training_resources.parallel is {asked.parallel}: "
                "take ddp or zero2",
            )
        if not asked.gpu and not find_spec("bitsandbytes"):
            yield doubt(
                f"runs.{name}.quantise",
                "nf4 needs bitsandbytes, which is not here: install what envs/cuda.txt names",
            )


def validated_on_what_is_learned(study: Study) -> Iterator[Finding]:
    """Find trainings that keep the best checkpoint by the loss of rows they learn from."""
    for name, run in study.trainings().items():
        if (
            run.keep == "best"
            and run.watch is None
            and getattr(run, "validation", None) == getattr(run, "split", "")
        ):
            yield doubt(
                f"runs.{name}.validation",
                f"{run.split!r} is what it learns from, so keep: best keeps what knows these rows best",
            )


def trainings_of_one_step(study: Study) -> Iterator[Finding]:
    """Find runs that make no step, or one alone."""
    for name, run in study.trainings().items():
        rows = run.most_rows(study)
        if run.steps(rows) == 0:
            yield wrong(
                f"runs.{name}.drop_last",
                f"at most {rows} rows are no whole batch of {run.batch_size}, so there is nothing left to learn from; "
                "lower batch_size, or leave drop_last out",
            )
        elif run.spares_its_warmup(rows):
            why = "max_steps is 1" if run.max_steps else f"at most {rows} rows make one step"
            yield doubt(
                f"runs.{name}",
                f"{why}, which is trained without the warm-up; give it more steps (a smaller batch_size, more epochs) "
                "or warmup: 0.0",
            )


def rewards_out_of_reach(study: Study) -> Iterator[Finding]:
    """Find value heads whose annotation can give rewards that no value can be: below 0, or above max_value."""
    for name, value in study.values.items():
        annotation = study.annotations.get(value.annotation)
        rewards = annotation.rewards if annotation else {}
        for key, reward in rewards.items():
            if reward.weight < 0:
                yield doubt(
                    f"annotations.{value.annotation}.rewards.{key}.weight",
                    f"{reward.weight:g} may make final_reward less than 0, and values.{name} has no value there: it "
                    "would stop",
                )
        if all(reward.is_share() for reward in rewards.values()):
            most = sum(max(0.0, reward.weight) for reward in rewards.values())
            if most > value.max_value * (1 + 1e-9):
                yield doubt(
                    f"values.{name}.max_value",
                    f"{value.max_value:g}, and the rewards of {value.annotation!r} may add up to {most:g}: "
                    "it would stop",
                )
