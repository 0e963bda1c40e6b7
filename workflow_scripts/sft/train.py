"""Supervised fine-tuning on token rows, with TRL's SFTTrainer.

The rows carry their labels (see `tokenise`), so nothing here decides what is learned. Rows are packed best-fit into
`pack_tokens` without attending across their borders, or batched padding-free. Not covered: LoRA, other objectives.
"""

import argparse
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer

import workflow_scripts.common.models  # noqa: F401  (sets the environment before the libraries load)
from workflow_scripts.common.code import code_of
from workflow_scripts.common.errors import run
from workflow_scripts.common.logprobs import head_of, token_logps
from workflow_scripts.common.models import load_policy, load_tokenizer
from workflow_scripts.common.templates import IGNORED
from workflow_scripts.common.training import (
    add_training_flags,
    counts_of,
    save_trained,
    train,
    training_arguments,
    work_folder,
)


class LearnedPositionsTrainer(SFTTrainer):
    """An SFTTrainer that projects only the learned positions through the LM head.

    TRL does so with its Triton kernels; on a CPU it scores every position, which for prompts that are not learned
    from is most of the work of a small model. The loss is the same (a test holds it so).
    """

    def compute_loss(
        self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        if (
            return_outputs
            or model is not self.accelerator.unwrap_model(model)
            or self.args.device.type != "cpu"
        ):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.compute_loss_context_manager():
            labels = inputs["labels"][:, 1:]
            learned = labels != IGNORED
            kept = {
                name: inputs[name]
                for name in ("input_ids", "attention_mask", "position_ids")
                if name in inputs
            }
            states = model.base_model(**kept, use_cache=False).last_hidden_state[:, :-1]
            logps = token_logps(states[learned], labels[learned], head_of(model))
        return -logps.sum() / (learned.sum() if num_items_in_batch is None else num_items_in_batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_flags(parser)
    parser.add_argument(
        "--tokens", type=Path, required=True, help="folder with train.parquet, validation.parquet"
    )
    parser.add_argument("--tokens-manifest", type=Path, required=True)
    arguments = parser.parse_args()
    settings = arguments.settings
    inputs = [arguments.parent_manifest, arguments.tokens_manifest]
    code = code_of("workflow_scripts.sft.train")
    work = work_folder(arguments.work, inputs, settings, arguments.seed, code)

    tokenizer = load_tokenizer(arguments.parent)
    model = load_policy(arguments.parent, trust_remote_code=settings["trust_remote_code"])
    packing = settings["pack_tokens"] is not None
    trainer = LearnedPositionsTrainer(
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
