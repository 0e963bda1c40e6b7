"""REINFORCE Leave-One-Out against a reward (Ahmadian et al. 2024), with TRL's RLOOTrainer.

Each prompt is answered `num_generations` times; an answer's advantage is its reward, less beta times its KL from the
parent, less the mean of its siblings' (eq. 8). Prompts come to the trainer as our template's tokens, so it adds no
second bos. There are no rows to validate on: the best policy is kept by what is watched, or else the last. A prompt's
answers are compared wherever they were made, but each process draws its own from a seed of its own: other than for the
methods that learn from given answers, the number of processes alters what is answered, as another seed would. Where
`dropout` has a number TRL draws the answers with it, too (vLLM does not); the parent is read without.
"""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer

from workflow_scripts.align.online import Online, OnlineTraining, prepare
from workflow_scripts.align.vllm_beside import VllmBeside, beside, gap_between
from workflow_scripts.common import processes
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.training.arguments import callbacks_of, training_arguments
from workflow_scripts.common.training.command import run_training
from workflow_scripts.common.training.loading import load_trainable
from workflow_scripts.common.training.saving import save_trained
from workflow_scripts.common.training.trainer import Shared, train
from workflow_scripts.common.training.watching import watch_of


class Settings(OnlineTraining):
    """What RLOO reads."""

    num_generations: int
    beta: float


class TokenPromptsTrainer(Shared, RLOOTrainer):
    """An RLOOTrainer whose prompts are token ids already, and which vLLM may answer for."""

    engine: VllmBeside | None = None
    drops = False  # whether the policy drops something as it is read
    handed = -1  # the step whose weights the engine has
    # The engine's log-probs of what it drew last, until they were looked at.
    told: list[list[float]] | None = None

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return what a look at the answers says: there are no rows to validate on."""
        self.model.eval()  # or TRL would take what it logs for a step of the training
        metrics = self.tell({})
        self.model.train()
        return metrics

    def learned_from(self) -> dict[str, int]:
        """Return the answers and the tokens that all processes have learned from so far."""
        rows = self.state.global_step * self.args.train_batch_size * self.args.gradient_accumulation_steps
        return {"rows": rows * self.args.world_size, "tokens": int(self.state.num_input_tokens_seen)}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *more: Any) -> list[list[int]]:
        if self.engine is None:
            return super()._generate_single_turn(prompt_ids, *more)
        if self.handed != self.state.global_step:
            self.reshard()
            self.engine.hand_over(self.accelerator.unwrap_model(self.model_wrapped))
            self.handed = self.state.global_step
        drawn = self.engine.sample(prompt_ids)
        self.told = [each.logps for each in drawn]
        return [each.tokens for each in drawn]

    def _get_per_token_logps_and_entropies(self, *asked: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*asked, **named)
        if self.told:  # the first look at what was drawn
            own = [row[: len(logps)] for row, logps in zip(found[0].float().cpu(), self.told, strict=True)]
            gap = fmean(processes.gathered(fmean(gap_between(self.told, own))))
            self._log_metric("engine_gap", gap)
            if not self.drops:  # else what is dropped sets them apart as well
                self.engine.refuse_other_weights(gap)
            self.told = None
        return found

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict]:
        return prompts, None, {}


def reward_of(online: Online, penalty: float) -> Any:
    """Return the reward as TRL calls it: on rows' places among the prompts and the answers' tokens.

    `penalty` is taken off the answers that did not come to an end. The share of them that a reward read less than the
    whole text of is logged, as `texts_cut`.
    """

    def reward(
        completion_ids: list[list[int]], place: list[int], log_metric: Callable[[str, float], None], **_: Any
    ) -> list[float]:
        scores = online.score([online.prompts[each] for each in place], completion_ids)
        log_metric("texts_cut", scores.cut)
        return [
            score - penalty * (answer[-1] not in online.ends)
            for score, answer in zip(scores.rewards, completion_ids, strict=True)
        ]

    return reward


def main() -> None:
    arguments, online = prepare(__doc__, Settings, "workflow_scripts.align.rloo")
    settings = arguments.settings
    # Before TRL's settings, which bring DeepSpeed's along: these are read once. TRL lets a policy answer outside of
    # autocast, in its weights' float32.
    model = load_trainable(
        arguments.parent, settings, arguments.seed, computing=torch.float32, drops_nothing=True
    )
    try:
        config = RLOOConfig(
            **training_arguments(settings, online.work, arguments.seed, False, arguments.watch)
            | {"per_device_eval_batch_size": settings["num_generations"]},  # of no rows; TRL wants a multiple
            beta=settings["beta"],
            num_generations=settings["num_generations"],
            epsilon=settings["clip"],
            max_completion_length=settings["max_new_tokens"],
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            generation_kwargs={"remove_invalid_values": True},  # sampling would fail before the loss says why
            disable_dropout=False,  # the policy comes with as much as it is to have
            trust_remote_code=settings["trust_remote_code"],
        )
    except ValueError as error:
        raise PlumblineError(f"rloo: {error}") from None
    asked = config.generation_batch_size // config.num_generations
    if asked > len(online.prompts):
        raise PlumblineError(
            f"{arguments.prompts}: {len(online.prompts)} usable prompts, and a step asks {asked}; "
            "lower batch_size"
        )
    if left := len(online.prompts) % asked:
        said = "drop_last" if settings["drop_last"] else "warning: TRL makes whole steps alone"
        print(f"{said}: {left} of {len(online.prompts)} prompts are left out of each epoch", flush=True)
    own_ends, model.generation_config.eos_token_id = model.generation_config.eos_token_id, online.ends
    trainer = TokenPromptsTrainer(
        model=model,
        reward_funcs=reward_of(online, settings["missing_end_penalty"] or 0.0),
        args=config,
        train_dataset=Dataset.from_list(
            [{"prompt": row["prompt"], "place": place} for place, row in enumerate(online.prompts)]
        ),
        eval_dataset=Dataset.from_list([]) if arguments.watch else None,
        processing_class=online.tokenizer,
        callbacks=callbacks_of(arguments),
        watch=watch_of(arguments, online.tokenizer),
    )
    model.generation_config.eos_token_id = (
        own_ends  # the trainer has read it; what is saved, `save_policy` says
    )
    trainer.engine, trainer.drops = beside(online, settings), bool(settings["dropout"])
    seconds = train(trainer, online.work)
    if trainer.engine is not None:
        trainer.engine.close()
    save_trained(
        trainer,
        online.tokenizer,
        arguments,
        online.work,
        seconds,
        tokens=trainer.state.num_input_tokens_seen,
        counts=online.counts,
        template=settings["template"],
    )


if __name__ == "__main__":
    run_training(main)
