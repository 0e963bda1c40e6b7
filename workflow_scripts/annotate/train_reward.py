"""Train a reward model on pairs with TRL's RewardTrainer: a scalar head on the parent (Ouyang et al. 2022, eq. 1)."""

import argparse
import random
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, set_seed
from trl import RewardConfig, RewardTrainer

import workflow_scripts.common.models  # noqa: F401  (sets the environment before the libraries load)
from workflow_scripts.common.code import code_of
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.reward import render_pair
from workflow_scripts.common.training import (
    add_training_flags,
    callbacks_of,
    save_trained,
    train,
    training_arguments,
    work_folder,
)


def token_rows(pairs: list[dict], tokenizer: object, max_tokens: int) -> list[dict]:
    """Return chosen_ids and rejected_ids of each pair, cut on the left so that the reply survives."""

    def ids(pair: dict, name: str) -> list[int]:
        return tokenizer(render_pair(pair["messages"], pair[name], tokenizer.eos_token))["input_ids"][
            -max_tokens:
        ]

    return [{"chosen_ids": ids(pair, "chosen"), "rejected_ids": ids(pair, "rejected")} for pair in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_flags(parser)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--pairs-manifest", type=Path, required=True)
    arguments = parser.parse_args()
    settings = arguments.settings
    code = code_of("workflow_scripts.annotate.train_reward")
    inputs = [arguments.parent_manifest, arguments.pairs_manifest]
    work = work_folder(arguments.work, inputs, settings, arguments.seed, code)
    tokenizer = load_tokenizer(arguments.parent)
    rows = token_rows(read_jsonl(arguments.pairs), tokenizer, settings["max_tokens"])
    random.Random(arguments.seed).shuffle(rows)
    held_out = max(1, round(settings["validation_share"] * len(rows)))
    set_seed(arguments.seed)  # the new scalar head is drawn here
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.parent, num_labels=1, use_safetensors=True, trust_remote_code=settings["trust_remote_code"]
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            **training_arguments(settings, work, arguments.seed, evaluate=True), max_length=None
        ),
        train_dataset=Dataset.from_list(rows[held_out:]),
        eval_dataset=Dataset.from_list(rows[:held_out]),
        processing_class=tokenizer,
        callbacks=callbacks_of(settings),
    )
    seconds = train(trainer, work)
    accuracy = trainer.evaluate()["eval_accuracy"]
    tokens = (
        sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows[held_out:])
        * trainer.state.epoch
    )
    counts = {"train": len(rows) - held_out, "validation": held_out}
    facts = {"counts": counts, "validation_accuracy": round(accuracy, 4)}
    save_trained(trainer, tokenizer, arguments, work, seconds, tokens=tokens, **facts)


if __name__ == "__main__":
    run(main)
