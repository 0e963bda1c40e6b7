"""Six methods from one parent, with and without shared references: tokens, seconds and the ratio.

Run after `make results STUDY=studies/tutor_offline_rl.yaml`:

    .venv/bin/python -m benchmarks.sweep results/tutor_offline_rl --policy tiny.sft

The commands are those of the study's own rules, run one after another in this process: DPO, IPO and KTO on the parent's
pairs, R-LOL, A-LoL and A-LoL seq on the rewarded answers. Shared: what the parent says about pairs and answers, and the
advantages, are computed once and read by all. Not shared: each method computes for itself what it needs, as six
separate training scripts do. Trainings take `--steps` steps each; tokens are those that went through a model, forward
or training.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path

from workflow_scripts.align import advantages, pair_reference, rewarded_reference
from workflow_scripts.common.code import ROOT
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.study.checking import load_study
from workflow_scripts.study.templates import all_templates

PAIRWISE, OFFLINE = ("dpo", "ipo", "kto"), ("r_lol", "a_lol", "a_lol_seq")
TRAINING = {
    "epochs": 1.0, "batch_size": 8, "per_device_batch": 8, "learning_rate": 5e-6, "schedule": "cosine",
    "warmup": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0, "adam_beta2": 0.999, "optimizer": "adamw_torch",
    "precision": "auto", "gradient_checkpointing": False, "log_every": 5, "evaluate_every": 1000,
    "checkpoint_every": 1000, "trust_remote_code": False, "keep": "last", "patience": None, "lora": None,
    "quantise": None,
}  # fmt: skip
PREFERENCE = {
    "beta": 0.1, "share_prompts": True, "loss": "sigmoid", "logp_reduction": "sum", "reference_free": False,
    "sft_weight": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0,
}  # fmt: skip
REWARDED = {"sampling": "none", "clip": 0.9, "padding_free": False}


def call(main: object, *flags: object) -> float:
    """Run a step's main as its command line would; return its seconds."""
    kept, sys.argv = sys.argv, ["step", *map(str, flags)]
    started = time.perf_counter()
    try:
        main()
    finally:
        sys.argv = kept
    return time.perf_counter() - started


class Sweep:
    """The six methods on one parent, in a folder of its own; tokens and seconds are summed over what it runs."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        results, policy = arguments.results, arguments.policy
        self.folder, self.steps = folder, arguments.steps
        self.parent = results / "policies" / policy / "seed-1"
        pairs = next((results / "pairs").glob(f"*/{policy}/seed-1"))
        annotation = next((results / "annotations").glob("*/rows/*.jsonl"))
        self.head = next((results / "values").glob(f"*/{policy}/seed-1"))
        study = load_study(arguments.study)
        template = all_templates(study)[study.models[policy.split(".")[0]].template]
        history = next(iter(study.datasets.values())).history_turns
        shared = {"max_prompt_tokens": 384, "max_tokens": 512, "batch_size": 16, "precision": "auto"}
        shared |= {"trust_remote_code": False, "template": template}
        self.settings = {"pairs": shared, "rewarded": shared | {"history_turns": history}}
        self.settings["advantages"] = {
            key: shared[key] for key in ("batch_size", "precision", "trust_remote_code")
        }
        self.files = {"pairs": folder / "pairs.jsonl", "rewarded": folder / "annotated.jsonl"}
        write_jsonl(self.files["pairs"], read_jsonl(pairs / "pairs.jsonl")[: arguments.rows])
        write_jsonl(self.files["rewarded"], read_jsonl(annotation)[: arguments.rows])
        self.tokens, self.seconds = 0, 0.0

    def count(self, tokens: int, seconds: float) -> None:
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds

    def refer(self, what: str) -> None:
        """Compute what the parent says about pairs or rewarded answers."""
        module = {"pairs": pair_reference, "rewarded": rewarded_reference}[what]
        data = (
            ["--pairs", self.files[what]] if what == "pairs" else ["--annotated", f"train={self.files[what]}"]
        )
        manifest = self.folder / f"{what}.json"
        flags = ["--parent", self.parent / "model", *data, "--settings", json.dumps(self.settings[what])]
        flags += ["--output", self.folder / f"{what}.parquet", "--rejected", self.folder / f"{what}.rejected"]
        seconds = call(module.main, *flags, "--manifest", manifest)
        self.count(read_json(manifest)["counts"]["tokens"], seconds)

    def estimate(self) -> None:
        """Compute the advantages of the rewarded answers."""
        flags = ["--parent", self.parent / "model", "--head", self.head / "head"]
        flags += ["--rewarded", self.folder / "rewarded.parquet"]
        flags += ["--settings", json.dumps(self.settings["advantages"])]
        flags += ["--output", self.folder / "advantages.jsonl", "--manifest", self.folder / "advantages.json"]
        self.count(
            read_json(self.folder / "rewarded.json")["counts"]["tokens"], call(advantages.main, *flags)
        )

    def learn(self, method: str) -> None:
        """Train one method on what `refer` and `estimate` have left."""
        module = importlib.import_module(f"workflow_scripts.align.{method}")
        what = "pairs" if method in PAIRWISE else "rewarded"
        own = PREFERENCE if method in PAIRWISE else REWARDED
        settings = TRAINING | own | {"max_steps": self.steps}
        settings = {name: settings[name] for name in module.Settings.__annotations__}
        flags = ["--parent", self.parent / "model", "--parent-manifest", self.parent / "manifest.json"]
        flags += ["--settings", json.dumps(settings), "--seed", 1]
        flags += ["--work", self.folder / "work" / method, "--output", self.folder / method / "model"]
        for name in ("manifest", "curve", "cost"):
            flags += [f"--{name}", self.folder / method / f"{name}.json"]
        flag = "reference" if method in PAIRWISE else "rewarded"
        flags += [
            f"--{flag}",
            self.folder / f"{what}.parquet",
            f"--{flag}-manifest",
            self.folder / f"{what}.json",
        ]
        if method.startswith("a_lol"):
            flags += ["--advantages", self.folder / "advantages.jsonl"]
            flags += ["--advantages-manifest", self.folder / "advantages.json"]
        seconds = call(module.main, *flags)
        self.count(read_json(self.folder / method / "cost.json")["tokens"], seconds)


def run_sweep(arguments: argparse.Namespace, shared: bool) -> tuple[int, float]:
    """Return (tokens, seconds) of the six methods."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(arguments, Path(folder))
        for methods, what in ((PAIRWISE, "pairs"), (OFFLINE, "rewarded")):
            for place, method in enumerate(methods):
                if place == 0 or not shared:
                    sweep.refer(what)
                needs_value = method.startswith("a_lol")
                if needs_value and (not shared or method == "a_lol"):
                    sweep.estimate()
                sweep.learn(method)
        return sweep.tokens, sweep.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="results/<study> of a study with pairs and a value head")
    parser.add_argument("--study", type=Path, default=ROOT / "config.yaml", help="its YAML")
    parser.add_argument("--policy", required=True, help="the parent, by its lineage")
    parser.add_argument("--rows", type=int, default=160, help="pairs and answers at most")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps of each training")
    arguments = parser.parse_args()
    found = {name: run_sweep(arguments, name == "shared") for name in ("shared", "each its own")}
    for name, (tokens, seconds) in found.items():
        print(f"{name:<14} {tokens:9d} tokens {seconds:8.1f} s")
    (tokens, seconds), (more, longer) = found["shared"], found["each its own"]
    print(f"ratio {'':<8} {more / tokens:9.2f} tokens {longer / seconds:8.2f} seconds")


if __name__ == "__main__":
    main()
