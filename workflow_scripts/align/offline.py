"""Offline policy gradients on answers that are already there (Leftover Lunch, Baheti et al. 2024): one trainer.

Every objective is a weighted likelihood, L = mean over rows of Σ_t w_t · nll_t with nll_t = −log π(y_t | x, y_<t) in
nats; a method is a module with one small function that gives w (nll, wbc, r_gold, r_lol, a_lol ...). No gradient
flows through w: its importance ratio is that of an off-policy gradient, never PPO's minimum of two surrogates.

No reference model is loaded: what it says is stored beside the rows (`rewarded_reference`), and was said without
dropout; so with `dropout: null` the policy too is trained without (its own and LoRA's), and every ratio starts at 1.
In bfloat16 it does so up to rounding, which adds up over an answer: 0.2 nats over 60 tokens of a small model;
`precision: float32` has none. With a number the policy drops, and its adapters do by `lora.dropout`, as in the
published runs: a ratio then compares a policy with dropout to a reference without, and is not 1 even at the first step.

The validation loss is the same weighted loss over the rank-0 validation rows, their weights those of the policy as it
stands: by it a run can be stopped early, but it is no likelihood, and losses of two methods cannot be compared.
Not covered: making answers or rewards (`annotate`), values and advantages (`fit_value`, `advantages`).
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainingArguments

from workflow_scripts.align.summary import positive_share, summary
from workflow_scripts.common.code import code_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.logprobs import ways_of
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.training.arguments import callbacks_of, training_arguments
from workflow_scripts.common.training.checkpoints import work_folder
from workflow_scripts.common.training.command import template_of, training_parser
from workflow_scripts.common.training.loading import load_trainable
from workflow_scripts.common.training.row_trainer import RowTrainer, read_splits
from workflow_scripts.common.training.saving import save_trained
from workflow_scripts.common.training.settings import PolicyTraining
from workflow_scripts.common.training.trainer import train
from workflow_scripts.common.training.watching import watch_of, watched_state

MAX_LOG_RATIO = (
    20.0  # nats; e^20 ≈ 4.9e8, where a ratio that is not clipped is stopped before float32 overflows
)


class Offline(PolicyTraining):
    """What every offline method reads."""

    sampling: Literal["none", "good_priority", "good_random", "all_priority"]
    padding_free: bool


class Answers(NamedTuple):
    """A batch of answers: log-probs (rows, time) in nats, zero behind each answer's end; the others (rows,).

    `advantage` is reward − value of the prompt, None where the run was given none.
    """

    logps: Tensor
    reference: Tensor
    tokens: Tensor
    reward: Tensor
    advantage: Tensor | None


Weights = Callable[[Answers, dict], Tensor]  # → what broadcasts to (rows, time)


def sequence_log_ratio(batch: Answers) -> Tensor:
    """Return log π(y|x) − log π_ref(y|x) of the whole answer, (rows, 1)."""
    return (batch.logps - batch.reference).sum(1, keepdim=True)


def token_log_ratio(batch: Answers) -> Tensor:
    """Return log π(y_t) − log π_ref(y_t), (rows, time)."""
    return batch.logps - batch.reference


def clipped(log_ratio: Tensor, clip: float | None) -> Tensor:
    """Return e^log_ratio held within [1 − clip, 1 + clip]; without a clip it is stopped at e^MAX_LOG_RATIO alone."""
    if clip is None:
        return log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    return log_ratio.exp().clamp(1 - clip, 1 + clip)


def count_clipped(log_ratio: Tensor, tokens: Tensor, clip: float | None) -> tuple[int, int]:
    """Return (ratios that `clipped` changes, ratios): one a row, or one a token, padding left out."""
    if clip is None:
        outside = log_ratio > MAX_LOG_RATIO
    else:
        outside = (log_ratio.exp() > 1 + clip) | (log_ratio.exp() < 1 - clip)
    per_row = log_ratio.shape[1] == 1
    return int(outside.sum()), len(tokens) if per_row else int(tokens.sum())


def losses(batch: Answers, weights: Tensor) -> Tensor:
    """Return Σ_t w_t · nll_t of each row, (rows,); the weights are constants to it."""
    return (weights.detach() * -batch.logps).sum(1)


def priorities(rows: list[dict], sampling: str, by: str) -> np.ndarray:
    """Return how much each row is to be drawn, (rows,): zero for those never learned from."""
    first = np.array([row["rank"] == 0 for row in rows], dtype=np.float64)
    if sampling == "none":
        return first
    if rows and by not in rows[0]:
        raise PlumblineError(
            f"sampling: {sampling} needs advantages; give a value function, or sample otherwise"
        )
    above = np.maximum([row[by] for row in rows], 0.0)
    return {"good_priority": first * above, "good_random": first * (above > 0), "all_priority": above}[
        sampling
    ]


def draw(rows: list[dict], sampling: str, epochs: int, seed: int, by: str = "advantage") -> list[int]:
    """Return the index of each row learned from, in order, for all epochs; more epochs only append to it.

    rows: {"rank", "reward"} and, unless only rewards are used, {"advantage"}. An epoch is as many draws as there are
    rows with a positive priority, so the steps of a run shrink with the share that is kept, as in the paper.

    none            rank-0 rows, each once an epoch, shuffled
    good_priority   rank-0 rows with probability ∝ max(`by`, 0), with replacement, as the published code draws:
                    `by` is the advantage for the A-LoL family, the reward for the others
    good_random     rank-0 rows of positive advantage, each once an epoch, shuffled
    all_priority    rows of any rank with probability ∝ max(advantage, 0), with replacement
    """
    by = by if sampling == "good_priority" else "advantage"
    wanted = priorities(rows, sampling, by)
    (possible,) = np.nonzero(wanted)
    if not len(possible):
        raise PlumblineError(
            f"sampling: {sampling} leaves none of {len(rows)} rows to learn from; it takes "
            + {"none": "those of rank 0", "all_priority": "those of positive advantage"}.get(
                sampling, f"those of rank 0 and positive {by}"
            )
        )
    generator = np.random.default_rng(seed)
    if sampling in ("good_priority", "all_priority"):
        chances = wanted / wanted.sum()
        return generator.choice(len(rows), size=epochs * len(possible), p=chances).tolist()
    return np.concatenate([generator.permutation(possible) for _ in range(epochs)]).tolist()


def with_advantages(rows: Dataset, advantages: list[dict]) -> Dataset:
    """Return rows with a column `advantage`, found by id; PlumblineError where one is missing or of other rewards."""
    found = {each["id"]: each for each in advantages}
    column = []
    for name, reward in zip(rows["id"], rows["reward"], strict=True):
        if name not in found or not math.isclose(found[name]["reward"], reward, abs_tol=1e-9):
            raise PlumblineError(f"row {name}: no advantage of its reward {reward}; make the advantages anew")
        column.append(float(found[name]["advantage"]))
    return rows.add_column("advantage", column)


def refuse_bad_numbers(rows: Dataset) -> None:
    """Raise PlumblineError for the first row whose reward or advantage is not finite."""
    for column in ("reward", "advantage"):
        if column in rows.column_names:
            for name, value in zip(rows["id"], rows[column], strict=True):
                if value is None or not math.isfinite(value):
                    raise PlumblineError(
                        f"row {name}: its {column} is {value}; mend the source of the rewards"
                    )


class OfflineLoss:
    """The loss as a function of model and rows; `counts` are of the training batches since they were last cleared."""

    def __init__(
        self,
        weights: Weights,
        settings: Offline,
        logps_of: Callable,
        log_ratio: Callable[[Answers], Tensor] | None = None,
        constant: Weights | None = None,
    ) -> None:
        self.weights, self.settings, self.logps_of = weights, settings, logps_of
        self.log_ratio, self.constant = log_ratio, constant
        self.counts: Counter[str] = Counter()

    def answers(self, model: Any, rows: list[dict]) -> Answers:
        """Return what the policy says about rows, beside what its reference said."""
        said = self.logps_of(model, [row["prompt"] for row in rows], [[row["completion"]] for row in rows])
        stored = [torch.tensor(row["reference"], device=model.device) for row in rows]

        def column(name: str) -> Tensor:
            return torch.tensor([float(row[name]) for row in rows], device=model.device)

        return Answers(
            pad_sequence([only for (only,) in said], batch_first=True),
            pad_sequence(stored, batch_first=True),
            torch.tensor([len(row["completion"]) for row in rows], device=model.device),
            column("reward"),
            column("advantage") if "advantage" in rows[0] else None,
        )

    def __call__(self, model: Any, rows: list[dict]) -> tuple[Tensor, dict[str, float]]:
        batch = self.answers(model, rows)
        constants = batch._replace(logps=batch.logps.detach())
        weights = self.weights(constants, self.settings)
        per_row = losses(batch, weights)
        if self.constant:
            per_row = per_row + self.constant(constants, self.settings)
        for row, value in zip(rows, per_row.tolist(), strict=True):
            if not math.isfinite(value):
                # Said here; the trainer ends on it, with all processes.
                print(f"row {row['id']}: its loss is {value}; lower learning_rate or set a clip", flush=True)
        seen, clips = {}, (0, 0)
        if self.log_ratio:
            clips = count_clipped(self.log_ratio(constants), batch.tokens, self.settings["clip"])
            seen = {"clipped_share": clips[0] / clips[1]}
        if torch.is_grad_enabled():
            learned = int((weights != 0).any(1).sum())
            self.counts.update(rows=len(rows), learned=learned, clipped=clips[0], ratios=clips[1])
        return per_row.mean(), seen


class OfflineTrainer(RowTrainer):
    """A RowTrainer whose checkpoints keep the loss's counts, so that a killed run's manifest counts it whole."""

    def compute_loss(self, model: Any, inputs: list[dict], *arguments: Any, **named: Any) -> Tensor:
        before = Counter(self.loss_of.counts)
        loss = super().compute_loss(model, inputs, *arguments, **named)
        if not inputs:  # what stands in for a process's missing rows is not learned from
            self.loss_of.counts = before
        return loss

    def taken_counts(self) -> dict[str, int]:
        """Return the loss's counts over all processes since they were last taken."""
        counts = self.loss_of.counts
        names = ("rows", "learned", "clipped", "ratios")
        own = torch.tensor([[counts[name] for name in names]], device=self.args.device)
        counts.clear()
        return dict(zip(names, self.accelerator.gather(own).sum(0).tolist(), strict=True))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.state.log_history.append({"step": self.state.global_step, "counts": self.taken_counts()})
        super()._save_checkpoint(model, trial)

    def counts(self) -> Counter[str]:
        """Return the counts of the whole run; every process has to ask, and to ask once."""
        total = Counter(self.taken_counts())
        for entry in self.state.log_history:
            total.update(entry.get("counts", {}))
        return total


def draws_of(rows: list[dict], settings: Offline, batch: int, seed: int, by: str) -> list[int]:
    """Return the indices a whole run walks: `epochs` of them, or as many as `max_steps` batches take."""
    one = len(draw(rows, settings["sampling"], 1, seed, by))
    wanted = settings["max_steps"] * batch if settings["max_steps"] else round(settings["epochs"] * one)
    return draw(rows, settings["sampling"], math.ceil(wanted / one), seed, by)[:wanted]


def facts_of(rows: list[dict], learned: int, counts: Counter[str], steps: int, by: str) -> dict[str, Any]:
    """Return what a run's manifest says of it.

    kept_share: of the rows it could have learned from (rank 0, or all), those of positive advantage or reward;
    clipped_share: of the ratios seen in training, those that were clipped; effective_steps: `steps` times the share of
    the rows walked whose weight was not zero.
    """
    facts: dict[str, Any] = {
        "rows": learned,
        "kept_share": positive_share([row[by] for row in rows]),
        "effective_steps": round(steps * counts["learned"] / counts["rows"], 3),
        "reward": summary([row["reward"] for row in rows]),
    }
    if "advantage" in rows[0]:
        facts["advantage"] = summary([row["advantage"] for row in rows])
    if counts["ratios"]:
        facts["clipped_share"] = round(counts["clipped"] / counts["ratios"], 6)
    return facts


def read_answers(arguments: Any, module: str, by: str) -> tuple[Dataset, Dataset]:
    """Return (rows to learn from, validation rows of rank 0), with a column `advantage` where advantages were given.

    PlumblineError where a method knows good rows by their advantage and has none, and for a number that is not finite.
    """
    splits = read_splits(arguments.rewarded)
    if arguments.advantages:
        advantages = read_jsonl(arguments.advantages)
        splits = tuple(with_advantages(rows, advantages) for rows in splits)
    elif by == "advantage":
        raise PlumblineError(f"{module}: needs advantages; give --advantages and --advantages-manifest")
    for rows in splits:
        refuse_bad_numbers(rows)
    learned, held_out = splits
    first = [place for place, rank in enumerate(held_out["rank"]) if rank == 0]
    return learned, held_out.select(first)


def tokens_in(rows: Dataset, walked: list[int]) -> int:
    """Return how many tokens a run read that walked over rows at these places."""
    lengths = [len(row["prompt"]) + len(row["completion"]) for row in rows]
    return sum(lengths[place] for place in walked)


def learn(
    weights: Weights,
    kind: type[Offline],
    module: str,
    by: str = "reward",
    log_ratio: Callable[[Answers], Tensor] | None = None,
    constant: Weights | None = None,
) -> None:
    """Run one method from the command line: parse, draw, train (resuming if it can), write.

    kind: what its settings are; by: the column good rows are known by, "reward" or "advantage";
    log_ratio: the one the weights clip, if they do;
    constant: what the loss has beside the weighted likelihood, without a gradient, (rows,).
    """
    files = {"rewarded": "parquet of tokens, reference, reward", "rewarded_manifest": "its manifest"}
    parser = training_parser(__doc__, kind, **files)
    parser.add_argument("--advantages", type=Path, help="jsonl of advantages, for what needs them")
    parser.add_argument("--advantages-manifest", type=Path)
    arguments = parser.parse_args()
    settings, batch = arguments.settings, arguments.settings["batch_size"]
    learned, held_out = read_answers(arguments, module, by)
    manifests = [arguments.parent_manifest, arguments.rewarded_manifest, arguments.advantages_manifest]
    inputs = [manifest for manifest in manifests if manifest]
    depends = settings | watched_state(arguments)
    work = work_folder(arguments.work, inputs, depends, arguments.seed, code_of(module))

    columns = [name for name in ("rank", "reward", "advantage") if name in learned.column_names]
    candidates = learned.select_columns(columns).to_list()
    order = draws_of(candidates, settings, batch, arguments.seed, by)
    tokenizer = load_tokenizer(arguments.parent)
    model = load_trainable(arguments.parent, settings, arguments.seed, drops_nothing=True)
    logps_of = ways_of(model, not settings["padding_free"])
    # One epoch of the Trainer is the whole run: its rows are drawn beforehand, so it has none of its own.
    training = TrainingArguments(
        **training_arguments(settings, work, arguments.seed, len(held_out) > 0, arguments.watch)
        | {"num_train_epochs": 1},
        remove_unused_columns=False,
    )
    trainer = OfflineTrainer(
        loss_of=OfflineLoss(weights, settings, logps_of, log_ratio, constant),
        in_order=True,
        drop_last=settings["drop_last"],
        model=model,
        args=training,
        train_dataset=learned.select(order, keep_in_memory=True),
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks_of(arguments),
        watch=watch_of(arguments, tokenizer),
    )
    seconds = train(trainer, work)
    walked = order[: trainer.state.global_step * batch]
    eligible = [row for row in candidates if settings["sampling"] == "all_priority" or row["rank"] == 0]
    by = by if settings["sampling"] in ("none", "good_priority") else "advantage"
    facts = facts_of(eligible, len(walked), trainer.counts(), trainer.state.global_step, by)
    facts["tokens"] = tokens_in(learned, walked)
    facts["template"] = template_of(arguments.rewarded_manifest)
    save_trained(trainer, tokenizer, arguments, work, seconds, **facts)
