"""Supervised fine-tuning on token rows, on TRL's SFTTrainer: cross-entropy, and what `objectives` can add to it.

The rows carry their labels (see `tokenise`), so nothing here decides which tokens are learned. A step is `batch_size`
rows; they are packed best-fit into forward passes of at most `pack_tokens` tokens, without attending across their
borders, or batched padding-free (padded, where a model cannot tell rows laid end to end apart). With `batch_of: packs`
all rows are packed before, and a step is `batch_size` packs. Nothing is cut here: a row longer than a pack is refused.
Loss of a step:

    Σ_t s_t (−log π(t) + λ · kl_t) / Σ_t s_t      over the learned tokens t of all its batches and processes,

with s_t = 1 (`loss_norm: token`) or 1 / the learned tokens of t's row (`example`), and λ, kl_t as `kl` says. With
`neftune_alpha` the policy, never the parent it is compared to, reads noisy embeddings while it trains. The validation
loss is the plain mean over learned tokens whatever the objective, so that runs can be compared by it; without
validation rows there is none.

The parent that `kl` compares to is held in memory beside the policy, frozen: a stored reference has one number a token,
and the full KL needs a whole distribution. Not covered: sharding that parent over GPUs, mixtures of experts (their
balancing loss), tensor and sequence parallelism.
"""

from contextlib import nullcontext
from typing import Any, Literal

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer
from typing_extensions import TypedDict

from workflow_scripts.common import processes
from workflow_scripts.common.code import code_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.logprobs import IGNORED, head_of, keeps_rows_apart, through_forward, token_logps
from workflow_scripts.common.models import load_policy, load_tokenizer, precision_of
from workflow_scripts.common.training.arguments import callbacks_of, training_arguments
from workflow_scripts.common.training.batches import share_steps
from workflow_scripts.common.training.checkpoints import work_folder
from workflow_scripts.common.training.command import counts_of, run_training, template_of, training_parser
from workflow_scripts.common.training.loading import load_trainable
from workflow_scripts.common.training.saving import save_trained
from workflow_scripts.common.training.settings import PolicyTraining
from workflow_scripts.common.training.trainer import Shared, train
from workflow_scripts.common.training.watching import watch_of, watched_state
from workflow_scripts.sft.objectives import (
    full_kl,
    gold_kl,
    items_of,
    learned_of,
    lengths_of,
    neftune_noise,
    real_of,
    rows_of,
    shares,
)


class Kl(TypedDict):
    """What holds a policy to its parent, and how much of it is added to the loss."""

    weight: float
    form: Literal["gold", "full"]


class Settings(PolicyTraining):
    """What fine-tuning reads; rows are packed into pack_tokens, or batched where it is None.

    A step is batch_size rows, or packs of them."""

    pack_tokens: int | None
    batch_of: Literal["rows", "packs"]
    neftune_alpha: float | None
    kl: Kl | None
    loss_norm: Literal["token", "example"]


PACKS, NOTHING = "packs", "nothing"  # of a step's batch: its forward passes, and one that learns nothing


def packs_a_step(settings: Settings) -> bool:
    """Tell whether the rows of a step are packed for themselves."""
    return settings["pack_tokens"] is not None and settings["batch_of"] == "rows"


def packed(rows: list[dict], size: int) -> list[list[dict]]:
    """Return rows as packs of at most `size` tokens, best-fit decreasing: each into the fullest that has the room."""
    packs: list[list[dict]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row["input_ids"])):
        length = len(row["input_ids"])
        fits = [place for place, left in enumerate(room) if left >= length]
        if fits:
            best = min(fits, key=lambda place: room[place])
            packs[best].append(row)
            room[best] -= length
        else:
            packs.append([row])
            room.append(size - length)
    return packs


def passes_of(batches: list[dict]) -> list[dict]:
    """Return the forward passes of some batches: a batch is one, or a step's packs."""
    return [each for batch in batches for each in batch.get(PACKS, [batch])]


def learned_states(policy: Any, batch: dict[str, Tensor], noise_alpha: float | None = None) -> Tensor:
    """Return the last hidden states (positions, width) that predict a learned token, with NEFTune's noise if asked."""
    read = {name: batch[name] for name in ("attention_mask", "position_ids") if name in batch}
    if noise_alpha is None:
        read["input_ids"] = batch["input_ids"]
    else:
        embeddings, real = policy.get_input_embeddings()(batch["input_ids"]), real_of(batch)
        noise = torch.zeros_like(embeddings)
        noise[real] = neftune_noise(embeddings.detach()[real], lengths_of(batch)[real], noise_alpha)
        read["inputs_embeds"] = embeddings + noise
    states = policy.base_model(**read, use_cache=False).last_hidden_state[:, :-1]
    return states[learned_of(batch)]


class LearnedPositionsTrainer(Shared, SFTTrainer):
    """An SFTTrainer that projects only the learned positions through the LM head, and takes the losses above.

    With the defaults its loss is TRL's own (a test holds it so). `reference` is the parent, where `kl` needs one.
    """

    def __init__(self, *, settings: Settings, reference: Any = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self.aux_loss_enabled:
            raise PlumblineError(
                f"a {self.model.config.model_type} model balances its experts by a loss that is not covered here; "
                "set router_aux_loss_coef: 0 in its config.json to train it without"
            )
        self.settings = settings
        self.reference = None if reference is None else reference.requires_grad_(False).to(self.args.device)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the whole step's items itself
        self.divergence = torch.zeros(2, device=self.args.device)  # Σ s·kl and Σ s since the last log
        self.validated: list[Tensor] = []  # of each batch: Σ −log π(t), learned tokens
        through_forward(self.model)

    def get_train_dataloader(self) -> Any:
        inner = super().get_train_dataloader()

        def nothing() -> dict[str, Tensor]:
            # Nothing left for this process, but it has to pass with the others: a row of which nothing is learned.
            batch = inner.collate_fn([inner.dataset[0]])
            return batch | {"labels": torch.full_like(batch["labels"], IGNORED)}

        def collate(rows: list[dict]) -> dict[str, Any]:
            if packs_a_step(self.settings):
                packs = packed(rows, self.settings["pack_tokens"])
                return {PACKS: [inner.collate_fn(pack) for pack in packs], NOTHING: nothing()}
            return inner.collate_fn(rows) if rows else nothing()

        return share_steps(inner, self.args, collate, self.settings["drop_last"])

    def training_step(self, model: Any, inputs: dict, num_items_in_batch: Any = None) -> Tensor:
        """Learn from a batch; of a step's packs from one after the other, as if they were a step's batches."""
        if PACKS not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        packs, total = inputs[PACKS], torch.zeros((), device=self.args.device)
        for number, pack in enumerate(packs, 1):
            last = number == len(packs)
            self.accelerator.gradient_state._set_sync_gradients(last)
            by_itself = last or self.accelerator.distributed_type == DistributedType.DEEPSPEED
            with nullcontext() if by_itself else self.accelerator.no_sync(model):
                total += super().training_step(model, pack, num_items_in_batch)
        return total

    def floating_point_ops(self, inputs: dict) -> int:
        return sum(
            super(LearnedPositionsTrainer, self).floating_point_ops(each) for each in passes_of([inputs])
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, Tensor]:
        """Return the batches of an optimiser step and its items over all processes, whatever they are normalised by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            if PACKS in batch:  # all processes have to make as many passes
                own = torch.tensor(len(batch[PACKS]), device=device)
                most = int(self.accelerator.gather(own).max())
                batch[PACKS] += [batch[NOTHING]] * (most - len(batch[PACKS]))
        items = torch.zeros((), dtype=torch.long, device=device)
        for batch in passes_of(batches):
            items += items_of(batch, self.settings["loss_norm"]).to(device)
            if learned_of(batch).any():  # none is, where the batch stands in for a process's missing rows
                real = real_of(batch)
                self.count(rows_of(batch)[real].unique().numel(), int(real.sum()))
        return batches, self.accelerator.gather(items).sum()

    def compute_loss(
        self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        kl, targets = self.settings["kl"], inputs["labels"][:, 1:][learned_of(inputs)]

        def terms(policy: Any) -> tuple[Tensor, Tensor | None]:
            states = learned_states(
                policy, inputs, self.settings["neftune_alpha"] if policy.training else None
            )
            logps = token_logps(states, targets, head_of(policy))
            if kl is None:
                return logps, None
            with torch.no_grad():
                parent = learned_states(self.reference, inputs)
                if kl["form"] == "gold":
                    parent_logps = token_logps(parent, targets, head_of(self.reference))
            if kl["form"] == "gold":
                return logps, gold_kl(logps, parent_logps)
            return logps, full_kl(states, head_of(policy), parent, head_of(self.reference))

        with self.compute_loss_context_manager():
            logps, distances = model(terms)
            weights = shares(rows_of(inputs)[:, 1:][learned_of(inputs)], self.settings["loss_norm"])
        loss = -(weights * logps).sum()
        if kl is not None:
            loss = loss + kl["weight"] * (weights * distances).sum()
            self.divergence += torch.stack([(weights * distances).sum(), weights.sum()]).detach()
        if num_items_in_batch is None:
            return loss / items_of(inputs, self.settings["loss_norm"]).clamp(min=1)
        # The items are those of all processes, whose gradients are then averaged.
        return loss * self.accelerator.num_processes / num_items_in_batch.clamp(min=1)

    def prediction_step(self, model: Any, inputs: dict, *_: Any, **__: Any) -> tuple[None, None, None]:
        """Add up a validation batch row by row: at the end processes are given rows twice, which gathering drops."""
        inputs = self._prepare_inputs(inputs)
        learned, rows = learned_of(inputs), rows_of(inputs)
        targets, numbers = inputs["labels"][:, 1:][learned], rows[:, 1:][learned]

        def terms(policy: Any) -> Tensor:
            return token_logps(learned_states(policy, inputs), targets, head_of(policy))

        with torch.no_grad(), self.compute_loss_context_manager():
            logps = model(terms)
        sums = torch.zeros(int(rows.max()) + 1, 2, device=logps.device, dtype=torch.float64)
        sums.index_add_(0, numbers, torch.stack([-logps, torch.ones_like(logps)], 1).double())
        self.validated.append(self.accelerator.gather_for_metrics(sums).sum(0))
        return None, None, None

    def evaluate(
        self, eval_dataset: Dataset | None = None, *arguments: Any, **named: Any
    ) -> dict[str, float]:
        """Return what a validation says; where there are no rows to validate on, a look at the answers alone."""
        if len(self.eval_dataset if eval_dataset is None else eval_dataset):
            return super().evaluate(eval_dataset, *arguments, **named)
        self.model.eval()  # or TRL would take what it logs for a step of the training
        metrics = self.tell({})
        self.model.train()
        return metrics

    def evaluation_loop(
        self, *arguments: Any, metric_key_prefix: str = "eval", **named: Any
    ) -> EvalLoopOutput:
        """Return the mean loss over the learned tokens of the whole validation set, as `<prefix>_loss`, and a look."""
        self.validated = []
        output = super().evaluation_loop(*arguments, metric_key_prefix=metric_key_prefix, **named)
        loss, tokens = torch.stack(self.validated).sum(0).tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = loss / tokens
        output.metrics.update(self.looked())
        return output

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        if "loss" in logs and self.reference is not None:
            distance, weight = self.accelerator.gather(self.divergence).view(-1, 2).sum(0).tolist()
            logs["kl"] = distance / weight
            self.divergence.zero_()
        super().log(logs, *arguments, **named)


def sharing(settings: Settings, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a Trainer; where a step's rows are packed, a process's share of them is one batch."""
    if not packs_a_step(settings):
        return arguments
    share = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]
    if processes.number() == 0:
        print(
            f"the {share} rows of a process are packed into passes of {settings['pack_tokens']} tokens",
            flush=True,
        )
    return arguments | {"per_device_train_batch_size": share, "gradient_accumulation_steps": 1}


def refuse_cutting(rows: dict[str, Dataset], pack_tokens: int) -> None:
    """Raise PlumblineError where a split has rows longer than a pack: TRL would cut them there without a word."""
    for split, dataset in rows.items():
        lengths = [len(row) for row in dataset["input_ids"]]
        if too_long := sum(length > pack_tokens for length in lengths):
            raise PlumblineError(
                f"pack_tokens {pack_tokens}: {too_long} of {len(lengths)} rows of {split} are longer (up to "
                f"{max(lengths)} tokens) and would lose what stands past it; raise pack_tokens to max_tokens, "
                "lower max_tokens, or set pack_tokens: null"
            )


def main() -> None:
    files = {
        "tokens": "folder with train.parquet and, if any, validation.parquet",
        "tokens_manifest": "its manifest",
    }
    arguments = training_parser(__doc__, Settings, **files).parse_args()
    settings = arguments.settings
    inputs = [arguments.parent_manifest, arguments.tokens_manifest]
    code = code_of("workflow_scripts.sft.train")
    depends = settings | watched_state(arguments)
    work = work_folder(arguments.work, inputs, depends, arguments.seed, code)

    tokenizer = load_tokenizer(arguments.parent)
    reference = None
    if settings["kl"] is not None:
        reference = load_policy(
            arguments.parent,
            trust_remote_code=settings["trust_remote_code"],
            computing=precision_of(settings["precision"]),
        )
    model = load_trainable(arguments.parent, settings, arguments.seed)
    packing = settings["pack_tokens"] is not None
    files = {split: arguments.tokens / f"{split}.parquet" for split in ("train", "validation")}
    validated = files["validation"].exists()
    rows = {
        split: Dataset.from_parquet(str(file), keep_in_memory=True)
        for split, file in files.items()
        if split == "train" or validated
    }
    if packing:
        refuse_cutting(rows, settings["pack_tokens"])
    apart = keeps_rows_apart(model)
    if packing and not apart:
        raise PlumblineError(
            f"pack_tokens: a {model.config.model_type} model reads across the borders of packed rows; set it to null"
        )
    trainer = LearnedPositionsTrainer(
        settings=settings,
        reference=reference,
        model=model,
        args=SFTConfig(
            **sharing(
                settings, training_arguments(settings, work, arguments.seed, validated, arguments.watch)
            ),
            packing=packing and settings["batch_of"] == "packs",
            eval_packing=False,  # so that a validation batch is rows, which can be told apart when processes share them
            padding_free=apart and (not packing or packs_a_step(settings)),
            max_length=None if packs_a_step(settings) else settings["pack_tokens"],
            shuffle_dataset=True,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation", rows["train"].select([]) if arguments.watch else None),
        processing_class=tokenizer,
        callbacks=callbacks_of(arguments),
        watch=watch_of(arguments, tokenizer),
    )
    seconds = train(trainer, work)
    tokens = counts_of(arguments.tokens_manifest)["train"]["tokens"] * trainer.state.epoch
    template = template_of(arguments.tokens_manifest)
    save_trained(trainer, tokenizer, arguments, work, seconds, tokens=tokens, template=template)


if __name__ == "__main__":
    run_training(main)
