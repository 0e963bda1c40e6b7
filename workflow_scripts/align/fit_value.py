"""Fit the value function of a frozen policy on the rewards of its own answers (Baheti et al. 2024).

Mean squared error, AdamW, the epoch of the lowest error on held-out groups; the published code keeps that of the
lowest *training* error. Fitting starts from the mean training reward for every prompt: so epoch 0 is the guess every
value function has to beat, and where none does the advantages are rewards less a constant, instead of less the noise of
a random start. The manifest holds both errors and the epoch.
"""

import math
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow_scripts.align.parent import Asking, load_parent, states_by_prompt
from workflow_scripts.align.value_head import ValueHead, batched, read_values, save_head
from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.cuts import cut_counts, say_cuts, say_rejected
from workflow_scripts.common.diverged import Diverged, add_note_flag
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import finished_folder, read_jsonl, write_json, write_manifest
from workflow_scripts.common.fitting import fit_prompt
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.progress import Progress
from workflow_scripts.common.templates import Template, refused
from workflow_scripts.common.training.command import run_training
from workflow_scripts.common.turns import window

MIN_ROWS = 8
WHOSE = "the value function's training"


class Settings(Asking):
    """What the step reads; `batch_size` prompts make a forward pass of the policy, and a step of the fit."""

    max_value: float
    heads: int
    dropout: float
    learning_rate: float
    epochs: int
    held_out: float
    max_prompt_tokens: int
    history_turns: int | None
    template: Template


def tokenise_rows(rows: list[dict], tokenizer: Any, settings: Settings) -> tuple[list[dict], list[str]]:
    """Return ({"id", "group", "prompt", "reward"} of each row, the reason of each that was left out: see `refused`).

    A prompt longer than max_prompt_tokens is cut as `fitting` says, and its row holds what it lost.
    PlumblineError for a reward that is missing, not finite or outside [0, max_value].
    """
    kept, reasons = [], []
    for row in rows:
        reward, largest = row.get("rewards", {}).get("final_reward"), settings["max_value"]
        if not isinstance(reward, int | float) or not math.isfinite(reward):
            raise PlumblineError(
                f"row {row['id']}: its final_reward is {reward}; mend the source of the rewards"
            )
        if not 0 <= reward <= largest:
            raise PlumblineError(
                f"row {row['id']}: its final_reward {reward} is outside [0, {largest}], which values cannot reach; "
                "raise max_value, or squash rewards below 0"
            )
        messages = window(row["messages"], settings["history_turns"])
        if why := refused(messages, [], settings["template"], tokenizer):
            reasons.append(why[0])
            continue
        room = settings["max_prompt_tokens"]
        found = fit_prompt(messages, settings["template"], tokenizer, room, f"row {row['id']}")
        facts = {"history_cut": len(messages) < len(row["messages"])} | found.facts()
        kept.append(
            {"id": row["id"], "group": row["group"], "prompt": found.ids, "reward": float(reward)} | facts
        )
    return kept, reasons


def hold_out(groups: list[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of the rows fitted on and held out: whole groups, until about `share` of the rows are held.

    At least one group is on either side; PlumblineError if there is but one.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise PlumblineError(
            f"value function: {len(names)} group of prompts cannot be split; give more prompts"
        )
    held: set[str] = set()
    for place in np.random.default_rng(seed).permutation(len(names))[:-1]:
        if held and sum(group in held for group in groups) >= share * len(groups):
            break
        held.add(names[place])
    fitted = [index for index, group in enumerate(groups) if group not in held]
    return fitted, [index for index, group in enumerate(groups) if group in held]


def squared_error(head: ValueHead, states: list[Tensor], rewards: Tensor, batch: int) -> float:
    """Return the mean squared error of a head on prompts, dropout off."""
    return (read_values(head, states, batch) - rewards).square().mean().item()


def fit(
    states: list[Tensor], rewards: Tensor, fitted: list[int], held: list[int], settings: Settings, seed: int
) -> tuple[ValueHead, list[dict], int]:
    """Return (the head of the lowest held-out error, a curve row an epoch, the epoch it is of; 0 guesses the mean)."""
    torch.manual_seed(seed)
    width = states[0].shape[1]
    head = ValueHead(width, settings["heads"], settings["dropout"], settings["max_value"]).to(rewards.device)
    head.start_at(rewards[fitted].mean().item())
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings["learning_rate"])
    generator, batch = np.random.default_rng(seed), settings["batch_size"]

    def held_error() -> float:
        return squared_error(head, [states[index] for index in held], rewards[held], batch)

    best, best_epoch, lowest, step = deepcopy(head), 0, held_error(), 0
    curve = [{"step": 0, "validation_loss": round(lowest, 6)}]
    progress = Progress("training", "epochs", settings["epochs"])
    for epoch in range(1, settings["epochs"] + 1):
        head.train()
        order, total = generator.permutation(fitted).tolist(), 0.0
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            loss = (head(*batched([states[index] for index in chosen])) - rewards[chosen]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            total += loss.item() * len(chosen)
            if not math.isfinite(total):
                raise Diverged(step, settings["learning_rate"], "the loss is", WHOSE, curve)
        error = held_error()
        if not math.isfinite(error):
            raise Diverged(step, settings["learning_rate"], "the held-out error is", WHOSE, curve)
        curve.append(
            {"step": epoch, "train_loss": round(total / len(order), 6), "validation_loss": round(error, 6)}
        )
        progress.at(epoch, loss=total / len(order), validation_loss=error)
        if error < lowest:
            best, best_epoch, lowest = deepcopy(head), epoch, error
    return best.eval(), curve, best_epoch


def main() -> None:
    files = {"annotated": "JSON Lines of rewarded answers", "curve": "the errors of each epoch"}
    parser = step_parser(__doc__, Settings, parent="model folder", **files)
    parser.add_argument("--seed", type=int, required=True)
    add_note_flag(parser)
    arguments = parser.parse_args()
    settings = arguments.settings
    tokenizer = load_tokenizer(arguments.parent)
    annotated = read_jsonl(arguments.annotated)
    rows, reasons = tokenise_rows(annotated, tokenizer, settings)
    assert len(rows) + len(reasons) == len(annotated)
    if len(rows) < MIN_ROWS:
        raise PlumblineError(
            f"{arguments.annotated}: {len(rows)} rows are too few to fit a value function on; it takes {MIN_ROWS}"
        )
    fitted, held = hold_out([row["group"] for row in rows], settings["held_out"], arguments.seed)
    model = load_parent(arguments.parent, settings)
    prompts = [tuple(row["prompt"]) for row in rows]
    found = dict(states_by_prompt(model, prompts, settings["batch_size"], settings["precision"]))
    states = [found[prompt] for prompt in prompts]
    rewards = torch.tensor([row["reward"] for row in rows], device=model.device)
    head, curve, epoch = fit(states, rewards, fitted, held, settings, arguments.seed)
    error = squared_error(head, [states[index] for index in held], rewards[held], settings["batch_size"])
    guess = (rewards[held] - rewards[fitted].mean()).square().mean().item()
    if epoch == 0:
        print(f"no epoch beats guessing the mean reward (error {guess:.4g}), so every value is that mean")
    with finished_folder(arguments.output) as folder:
        save_head(head.cpu(), folder)
    write_json(arguments.curve, curve)
    counts = {"read": len(annotated), "kept": len(rows), "rejected": len(reasons)}
    counts |= {"fitted": len(fitted), "held_out": len(held), "prompts": len(found)}
    counts |= cut_counts(rows) | {"histories_cut": sum(row["history_cut"] for row in rows)}
    say_rejected(str(arguments.annotated), reasons, len(annotated))
    say_cuts(str(arguments.annotated), counts, "raise max_prompt_tokens to keep them whole")
    write_manifest(
        arguments.manifest,
        [arguments.output],
        counts=counts,
        best_epoch=epoch,
        held_out_error=round(error, 6),
        held_out_error_of_mean=round(guess, 6),
    )


if __name__ == "__main__":
    run_training(main)
