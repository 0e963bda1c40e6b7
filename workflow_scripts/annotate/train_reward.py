"""Train a reward model on pairs: a scalar head on the parent, L = −log σ(r⁺ − r⁻) (Ouyang et al. 2022, eq. 1).

Trained without dropout unless it is asked for, as TRL's RewardTrainer does, whose weights these are; its loss is here
so that a step, and the accuracy on the held-out pairs, is the same however many processes share the rows.
"""

import random
import sys
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, TrainingArguments, set_seed

from workflow_scripts.common.code import code_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.logprobs import padded
from workflow_scripts.common.models import load_tokenizer, load_whole
from workflow_scripts.common.reward_model import are_cut, encode_texts, render_pair
from workflow_scripts.common.training.arguments import callbacks_of, training_arguments
from workflow_scripts.common.training.checkpoints import work_folder
from workflow_scripts.common.training.command import run_training, training_parser
from workflow_scripts.common.training.loading import set_dropout
from workflow_scripts.common.training.row_trainer import RowTrainer
from workflow_scripts.common.training.saving import save_trained
from workflow_scripts.common.training.settings import Training
from workflow_scripts.common.training.trainer import train


class Settings(Training):
    """What the training of a reward model reads; `validation_share` is of the pairs."""

    max_tokens: int
    validation_share: float


def token_rows(pairs: list[dict], tokenizer: object, max_tokens: int) -> tuple[list[dict], int]:
    """Return (chosen_ids and rejected_ids of each pair, how many texts were cut on the left, to keep the reply).

    Each text is cut by itself, with BOS kept, as it is when the model scores it.
    """
    texts = [
        render_pair(pair["messages"], pair[name], tokenizer.eos_token or "")
        for name in ("chosen", "rejected")
        for pair in pairs
    ]
    ids, count = encode_texts(tokenizer, texts, max_tokens)["input_ids"], len(pairs)
    rows = [
        {"chosen_ids": chosen, "rejected_ids": rejected}
        for chosen, rejected in zip(ids[:count], ids[count:], strict=True)
    ]
    return rows, sum(are_cut(tokenizer, texts, max_tokens))


def pair_loss(model: Any, rows: list[dict]) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss over pairs, and the mean margin r⁺ − r⁻ and how often it is above 0."""
    ids = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
    lengths = torch.tensor([[len(each)] for each in ids], device=model.device)
    tokens = padded(ids, model.config.pad_token_id).to(model.device)
    mask = (torch.arange(tokens.shape[1], device=model.device)[None] < lengths).long()
    chosen, rejected = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, 0].chunk(2)
    margin = (chosen - rejected).detach()
    seen = {"margin": margin.mean().item(), "accuracy": (margin > 0).float().mean().item()}
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean(), seen


class RewardTrainer(RowTrainer):
    """A RowTrainer whose divergence is noted as a reward model's."""

    whose = "the reward model's training"


def main() -> None:
    files = {"pairs": "JSON Lines of pairs", "pairs_manifest": "their manifest"}
    arguments = training_parser(__doc__, Settings, watched=False, **files).parse_args()
    settings = arguments.settings
    code = code_of("workflow_scripts.annotate.train_reward")
    inputs = [arguments.parent_manifest, arguments.pairs_manifest]
    work = work_folder(arguments.work, inputs, settings, arguments.seed, code)
    tokenizer = load_tokenizer(arguments.parent)
    rows, cut = token_rows(read_jsonl(arguments.pairs), tokenizer, settings["max_tokens"])
    if cut:
        print(
            f"warning: {arguments.pairs}: {cut} of {2 * len(rows)} texts lost their start at {settings['max_tokens']} "
            "tokens; raise max_tokens",
            file=sys.stderr,
        )
    random.Random(arguments.seed).shuffle(rows)
    held_out = max(1, round(settings["validation_share"] * len(rows)))
    if held_out >= len(rows):
        raise PlumblineError(
            f"{arguments.pairs}: of {len(rows)} pairs {held_out} are held out and none are left to learn from; give "
            "more rows, or lower validation_share"
        )
    set_seed(arguments.seed)  # the new scalar head is drawn here
    model = load_whole(
        AutoModelForSequenceClassification,
        arguments.parent,
        new="score",
        num_labels=1,
        dtype=torch.float32,  # or weights in 16 bits would be stepped in them
        trust_remote_code=settings["trust_remote_code"],
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    set_dropout(model, settings["dropout"] or 0.0)
    trainer = RewardTrainer(
        loss_of=pair_loss,
        drop_last=settings["drop_last"],
        model=model,
        args=TrainingArguments(
            **training_arguments(settings, work, arguments.seed, evaluate=True), remove_unused_columns=False
        ),
        train_dataset=Dataset.from_list(rows[held_out:]),
        eval_dataset=Dataset.from_list(rows[:held_out]),
        processing_class=tokenizer,
        callbacks=callbacks_of(arguments),
    )
    seconds = train(trainer, work)
    accuracy = trainer.evaluate()["eval_accuracy"]
    tokens = (
        sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows[held_out:])
        * trainer.state.epoch
    )
    counts = {"train": len(rows) - held_out, "validation": held_out, "texts_cut": cut}
    facts = {"counts": counts, "validation_accuracy": round(accuracy, 4)}
    save_trained(trainer, tokenizer, arguments, work, seconds, tokens=tokens, **facts)


if __name__ == "__main__":
    run_training(main)
