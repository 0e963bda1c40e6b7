"""Six methods from one parent, on several seeds: tokens and seconds, shared, each for itself, and by stock TRL.

    .venv/bin/python -m benchmarks.sweep data/models/base-*/model --seeds 3

The commands are those of the workflow's own rules, run one after another in this process: DPO, IPO and KTO on the same
pairs, R-LOL, A-LoL and A-LoL seq on the same rewarded answers. Shared: what the parent says of pairs and answers, and
the advantages, are computed once and read by all methods and seeds. Each its own: every training computes for itself
what it needs, as so many separate scripts do. Stock TRL: the three methods on pairs by its trainers, with a live
reference; it has none for the other three, which are then each its own.

Tokens are those that go through a model, forward or training: padding is not counted, a prompt that is encoded once for
two replies is one prompt. They depend on rows and tokenizer alone, so a small model counts them as well as a large one.
"""

import argparse
import contextlib
import importlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from benchmarks.rows import BASE, benchmarks_plan, call, pairs, refer_to_pairs, rewarded
from workflow_scripts.align import advantages, fit_value, rewarded_reference
from workflow_scripts.common.files import write_jsonl, write_manifest
from workflow_scripts.common.models import load_policy, load_tokenizer, precision_of
from workflow_scripts.plan import training

PAIRWISE, OFFLINE = ("dpo", "ipo", "kto"), ("r_lol", "a_lol", "a_lol_seq")
MISMATCHED = ("mismatched_chosen", "mismatched_rejected")
WAYS = ("shared", "each its own", "stock TRL")


class Tokenised:
    """TRL's trainers on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class TokenisedDPOTrainer(Tokenised, DPOTrainer):
    """DPO and IPO."""


class TokenisedKTOTrainer(Tokenised, KTOTrainer):
    """KTO, on rows that bring their mismatched completions."""


@contextlib.contextmanager
def counting(padding: set[int], vocabulary: int) -> Iterator[list[int]]:
    """Give a list of one number: the tokens, without padding, that any model embeds in this block."""
    found, own = [0], torch.nn.Embedding.forward

    def forward(self: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if self.num_embeddings >= vocabulary:
            found[0] += int((~torch.isin(ids, torch.tensor(sorted(padding), device=ids.device))).sum())
        return own(self, ids)

    torch.nn.Embedding.forward = forward
    try:
        yield found
    finally:
        torch.nn.Embedding.forward = own


class Sweep:
    """The six methods on one parent, in a folder of its own."""

    def __init__(self, model: Path, rows: int, folder: Path) -> None:
        self.plan, self.model, self.folder, self.rows = benchmarks_plan(), model, folder, rows
        write_jsonl(folder / "annotated.jsonl", rewarded(rows))
        write_manifest(folder / "parent.json", [model])
        (self.key,) = training.rewarded_sets(self.plan)
        flags = ["--annotated", folder / "annotated.jsonl", "--seed", 1, "--curve", folder / "value.curve"]
        settings = training.value_settings(self.plan, "expected", BASE)
        self.ask(fit_value, settings, *flags, output="head", manifest="head.json")

    def ask(self, module: Any, settings: str, *flags: object, output: str, manifest: str) -> None:
        """Run a step that asks the parent."""
        named = ["--parent", self.model, "--settings", settings, "--output", self.folder / output]
        call(module.main, *named, *flags, "--manifest", self.folder / manifest)

    def prepare(self, method: str) -> None:
        """Compute what a method learns from: what the parent says of pairs or of rewarded answers, and advantages."""
        if method in PAIRWISE:
            refer_to_pairs(self.plan, self.model, self.folder, pairs(self.rows))
            return
        settings = training.rewarded_settings(self.plan, self.key, BASE)
        flags = ["--annotated", f"train={self.folder / 'annotated.jsonl'}"]
        flags += ["--rejected", self.folder / "rewarded.rejected"]
        self.ask(rewarded_reference, settings, *flags, output="rewarded.parquet", manifest="rewarded.json")

    def estimate(self) -> None:
        """Compute the advantages of the rewarded answers."""
        flags = ["--head", self.folder / "head", "--rewarded", self.folder / "rewarded.parquet"]
        settings = training.advantage_settings(self.plan, BASE)
        self.ask(advantages, settings, *flags, output="advantages.jsonl", manifest="advantages.json")

    def learn(self, method: str, seed: int) -> None:
        """Train one method on what `prepare` and `estimate` have left."""
        module = importlib.import_module(f"workflow_scripts.align.{method}")
        what, flag = ("pairs", "reference") if method in PAIRWISE else ("rewarded", "rewarded")
        place = self.folder / f"{method}-{seed}"
        flags = ["--parent", self.model, "--parent-manifest", self.folder / "parent.json", "--seed", seed]
        flags += ["--settings", training.training_settings(self.plan, f"{BASE}.{method}")]
        flags += ["--work", place / "work", "--output", place / "model"]
        for name in ("manifest", "curve", "cost"):
            flags += [f"--{name}", place / f"{name}.json"]
        flags += [f"--{flag}", self.folder / f"{what}.parquet"]
        flags += [f"--{flag}-manifest", self.folder / f"{what}.json"]
        if method.startswith("a_lol"):
            flags += ["--advantages", self.folder / "advantages.jsonl"]
            flags += ["--advantages-manifest", self.folder / "advantages.json"]
        call(module.main, *flags)

    def run(self, seeds: int, shared: bool, methods: tuple[str, ...] = PAIRWISE + OFFLINE) -> None:
        """Train methods on seeds; what they learn from is computed once, or for each of them."""
        done: set[str] = set()
        for seed in range(1, seeds + 1):
            for method in methods:
                kind = "pairs" if method in PAIRWISE else "rewarded"
                if kind not in done or not shared:
                    self.prepare(method)
                if method.startswith("a_lol") and ("advantages" not in done or not shared):
                    self.estimate()
                    done.add("advantages")
                done.add(kind)
                self.learn(method, seed)

    def by_trl(self, method: str, seed: int) -> None:
        """Train a method on pairs by TRL's own trainer, with a live reference."""
        names = ["prompt", "chosen", "rejected", *MISMATCHED]
        rows = pyarrow.parquet.read_table(self.folder / "pairs.parquet", columns=names).to_pylist()
        part = self.plan.study.runs[method]
        if method == "kto":
            trainer, kind, size, own = TokenisedKTOTrainer, KTOConfig, 2 * part.batch_size, {}
            rows = [
                {"prompt_ids": row["prompt"], "completion_ids": row[side], "label": side == "chosen"}
                | {"KL_completion_ids": row[f"mismatched_{side}"]}
                for row in rows
                for side in ("chosen", "rejected")
            ]
        else:
            trainer, kind, size = TokenisedDPOTrainer, DPOConfig, part.batch_size
            own = {"loss_type": ["sigmoid" if method == "dpo" else "ipo"]}
            rows = [{f"{name}_ids": row[name] for name in names[:3]} for row in rows]
        arguments = {
            "output_dir": self.folder / "trl",
            "num_train_epochs": 1,
            "report_to": "none",
            "seed": seed,
        }
        arguments |= {"per_device_train_batch_size": size, "beta": part.beta, "max_length": None}
        arguments |= {"learning_rate": part.learning_rate, "save_strategy": "no", "disable_tqdm": True}
        arguments |= {
            "bf16": precision_of("auto") == torch.bfloat16,
            "use_cpu": not torch.cuda.is_available(),
        }
        trainer(
            model=load_policy(self.model),
            ref_model=load_policy(self.model),
            args=kind(**arguments, **own, gradient_checkpointing=False),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(self.model),
        ).train()


def measured(arguments: argparse.Namespace, way: str) -> tuple[int, float]:
    """Return (tokens, seconds) of the six methods on all seeds, one way; what is common to all ways is not counted."""
    tokenizer = load_tokenizer(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        sweep = Sweep(arguments.model, arguments.rows, Path(name))
        if way == "stock TRL":
            sweep.prepare("dpo")  # its tokens alone are read, so it counts for nothing
        started = time.perf_counter()
        with counting({0, tokenizer.pad_token_id}, min(len(tokenizer), 100)) as tokens:
            if way == "stock TRL":
                for seed in range(1, arguments.seeds + 1):
                    for method in PAIRWISE:
                        sweep.by_trl(method, seed)
            sweep.run(arguments.seeds, way == "shared", OFFLINE if way == "stock TRL" else PAIRWISE + OFFLINE)
        return tokens[0], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder of the parent")
    parser.add_argument("--rows", type=int, default=64, help="pairs, and rewarded answers")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each method")
    arguments = parser.parse_args()
    print(
        f"6 methods x {arguments.seeds} seeds, {arguments.rows} pairs and {arguments.rows} rewarded answers"
    )
    found = {way: measured(arguments, way) for way in WAYS}
    tokens, seconds = found["shared"]
    for way, (more, longer) in found.items():
        print(
            f"{way:<14} {more:10d} tokens {longer:8.1f} s   "
            f"shared takes {tokens / more:.2f} of the tokens, {seconds / longer:.2f} of the seconds"
        )


if __name__ == "__main__":
    main()
