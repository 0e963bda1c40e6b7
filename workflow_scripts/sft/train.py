"""Supervised fine-tuning on token rows, with TRL's SFTTrainer.

The rows carry their labels (see `tokenise`), so nothing here decides what is learned. Rows are packed best-fit into
`pack_tokens` without attending across their borders, or batched padding-free. Not covered: LoRA, other objectives.
"""

import argparse
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from workflow_scripts.common.code import code_of
from workflow_scripts.common.errors import run
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.training import (
    add_training_flags,
    counts_of,
    save_trained,
    train,
    training_arguments,
    work_folder,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_flags(parser)
    parser.add_argument("--tokens", type=Path, required=True, help="folder with train.parquet, validation.parquet")
    parser.add_argument("--tokens-manifest", type=Path, required=True)
    arguments = parser.parse_args()
    settings = arguments.settings
    inputs = [arguments.parent_manifest, arguments.tokens_manifest]
    code = code_of("workflow_scripts.sft.train")
    work = work_folder(arguments.work, inputs, settings, arguments.seed, code)

    tokenizer = load_tokenizer(arguments.parent)
    model = load_policy(arguments.parent, trust_remote_code=settings["trust_remote_code"])
    packing = settings["pack_tokens"] is not None
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **training_arguments(settings, work, arguments.seed, evaluate=True),
            packing=packing,
            padding_free=not packing,
            max_length=settings["pack_tokens"],
            shuffle_dataset=True,
        ),
        train_dataset=Dataset.from_parquet(str(arguments.tokens / "train.parquet"), keep_in_memory=True),
        eval_dataset=Dataset.from_parquet(str(arguments.tokens / "validation.parquet"), keep_in_memory=True),
        processing_class=tokenizer,
    )
    seconds = train(trainer, work)
    tokens = counts_of(arguments.tokens_manifest)["train"]["tokens"] * trainer.state.epoch
    save_trained(trainer, tokenizer, arguments, work, seconds, tokens=tokens)


if __name__ == "__main__":
    run(main)
