"""How benchmarks are scored: which module, what it is told, what its numbers depend on."""

from pathlib import Path
from typing import Any

from workflow_scripts.common.code import code_of, pins
from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import TORCH, Plan, history_turns
from workflow_scripts.plan.policies import scored_weights, spoken_to
from workflow_scripts.plan.prompts import engine_of
from workflow_scripts.plan.sources import located, package_folder, source_manifest
from workflow_scripts.plan.words import as_json, chosen, settings
from workflow_scripts.study.benchmarks import Benchmark
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.templates import all_templates

SUITES = "workflow_scripts/score/harness/suites.yaml"


def scored_from(plan: Plan, *material: str) -> list[str]:
    """Return the benchmarks whose scorer reads one of these: answers, likelihoods, rewards, the model."""
    return [name for name, part in plan.study.benchmarks.items() if part.scores in material]


def module(name: str) -> str:
    return f"workflow_scripts.score.{name}"


def scorer(plan: Plan, benchmark: str) -> str:
    """Return the module that scores a benchmark."""
    return module(plan.study.benchmarks[benchmark].scorer)


def scorer_code(plan: Plan, benchmark: str) -> dict[str, str]:
    return code_of(scorer(plan, benchmark))


def scorer_pins(plan: Plan, benchmark: str) -> dict[str, str]:
    return pins(*plan.study.benchmarks[benchmark].packages)


def fidelity(plan: Plan, part: Benchmark) -> str:
    return part.fidelity or plan.study.fidelity


def handed(plan: Plan, benchmark: str, key: str) -> Any:
    """Return what a scorer is handed under a key: of a file its path, of what a benchmark leaves open the study's."""
    part = plan.study.benchmarks[benchmark]
    if key in part.files:
        return located(plan, part, key)
    if key == "fidelity":
        return fidelity(plan, part)
    own = {"benchmark": benchmark, "seed": plan.study.first_seeds()[0]}
    return own[key] if key in own else chosen(part, [key])[key]


def scorer_settings(plan: Plan, benchmark: str) -> str:
    """Return what a benchmark's scorer takes, as JSON."""
    keys = plan.study.benchmarks[benchmark].scorer_keys
    return as_json({key: handed(plan, benchmark, key) for key in keys})


def scorer_input(plan: Plan, benchmark: str) -> list[str]:
    """Return what the files are stale by that a scorer reads beside answers: its source, or the file itself."""
    part = plan.study.benchmarks[benchmark]
    read = [getattr(part, key) for key in part.files if key in part.scorer_keys and getattr(part, key)]
    return [source_manifest(plan, part.source)] if read and part.source else read


# --- likelihoods ------------------------------------------------------------------------------------------------------


def measuring_module(plan: Plan, benchmark: str) -> str:
    return module(plan.study.benchmarks[benchmark].measured_by)


def measuring_code(plan: Plan, benchmark: str) -> dict[str, str]:
    return code_of(measuring_module(plan, benchmark))


def replies(plan: Plan, benchmark: str) -> str:
    """Return the file of the replies whose likelihoods are taken."""
    return plan.layout.rows(*replies_split(plan, benchmark))


def replies_word(plan: Plan, benchmark: str) -> Word:
    return plan.layout.word(replies(plan, benchmark))


def replies_input(plan: Plan, benchmark: str) -> str:
    return f"{plan.layout.clean(replies_split(plan, benchmark)[0])}/manifest.json"


def replies_split(plan: Plan, benchmark: str) -> tuple[str, str]:
    """Return (what is cleaned, split) of the replies: a dataset's, or the benchmark's own file."""
    part = plan.study.benchmarks[benchmark]
    return (part.dataset, part.split) if hasattr(part, "dataset") else (benchmark, "pairs")


def measuring_settings(plan: Plan, benchmark: str, policy: str) -> str:
    """Return how a policy reads the replies whose likelihoods are taken: in its own template, or the benchmark's."""
    part = plan.study.benchmarks[benchmark]
    dataset = getattr(part, "dataset", None)
    more: dict = {"history_turns": history_turns(plan, dataset)} if dataset else {}
    if own := getattr(part, "template", None):
        more["template"] = all_templates(plan.study)[own]
    return settings(part, keys=part.measured_keys, **(spoken_to(plan, policy) | more))


def measured(plan: Plan, benchmark: str, policy: str, seed: int | str) -> str:
    """Return what the rows of `measured_rows` are stale by."""
    if plan.study.benchmarks[benchmark].scores == "rewards":
        return plan.layout.rewards(policy, seed, benchmark)
    return plan.layout.likelihoods(policy, seed, benchmark)


def measured_rows(plan: Plan, benchmark: str, policy: str, seed: int | str) -> str:
    """Return the file of likelihoods or rewards that a scorer reads."""
    if plan.study.benchmarks[benchmark].scores == "rewards":
        return plan.layout.reward_rows(policy, seed, benchmark)
    return plan.layout.likelihoods(policy, seed, benchmark)


def calibration_flag(plan: Plan, policy: str) -> list[str]:
    return ["--calibration", policy] if policy in CALIBRATION else []


# --- the harness ------------------------------------------------------------------------------------------------------


def task_files(plan: Plan, benchmark: str) -> list[str]:
    """Return the local task files a benchmark reads, so that an edited question is a changed input."""
    part = plan.study.benchmarks[benchmark]
    if part.source:
        return [f"{package_folder(plan, part)}/manifest.json"]
    folder = part.include_path
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file()) if folder else []


def suites_file(plan: Plan, benchmark: str) -> list[str]:
    """Return the file of suites where a benchmark is one: code does not tell when it changes."""
    return [SUITES] if plan.study.benchmarks[benchmark].suite else []


def counted_programs(plan: Plan, benchmark: str, policy: str, seed: int | str) -> list[str]:
    """Return the policy's HumanEval scores, where a suite of the harness counts them in."""
    name = plan.study.benchmarks[benchmark].humaneval
    return [plan.layout.scores(policy, seed, name)] if name else []


def counted_flags(plan: Plan, benchmark: str, policy: str, seed: int | str) -> list[str]:
    return [
        word for file in counted_programs(plan, benchmark, policy, seed) for word in ("--human-eval", file)
    ]


def harness_settings(plan: Plan, benchmark: str) -> str:
    """Return a harness benchmark's settings as JSON, the folder of its task files among them."""
    part = plan.study.benchmarks[benchmark]
    folder = f"{package_folder(plan, part)}/tasks" if part.source else part.include_path
    drop = ["kind", "source", "package_file", "humaneval"]
    return settings(part, drop=drop, include_path=folder, fidelity=fidelity(plan, part))


def harness_subject(plan: Plan, policy: str, seed: int | str) -> list[str]:
    """Return the flags that say who takes the harness's tasks."""
    if policy in CALIBRATION:
        return ["--oracle", policy]
    return ["--model", f"{scored_weights(plan, policy, seed)}/model"]


def harness_backend(plan: Plan) -> str:
    """Return what runs a policy in the harness, as JSON."""
    return settings(plan.study.engine, keys=["name", "gpu_memory_share"])


def harness_code(plan: Plan, benchmark: str, policy: str) -> dict[str, str]:
    name = scorer(plan, benchmark)
    by_engine = f"{name.rpartition('.')[0]}.by_{plan.study.engine.name}"
    return code_of(name) if policy in CALIBRATION else code_of(name, by_engine)


def harness_pins(plan: Plan, policy: str) -> dict[str, str]:
    by_vllm = plan.study.engine.name == "vllm" and policy not in CALIBRATION
    return pins("vllm", *TORCH, "lm-eval", lock="vllm.txt") if by_vllm else pins(*TORCH, "lm-eval")


# --- what alters every answer -----------------------------------------------------------------------------------------


def engine_code(plan: Plan, policy: str | None = None) -> dict[str, str]:
    engine = {"vllm": "vllm_engine", "transformers": "engine"}[engine_of(plan, policy).name]
    return code_of("workflow_scripts.generate.answer", f"workflow_scripts.generate.{engine}")


def engine_pins(plan: Plan, policy: str | None = None) -> dict[str, str]:
    by_vllm = engine_of(plan, policy).name == "vllm"
    return pins("vllm", *TORCH, lock="vllm.txt") if by_vllm else pins(*TORCH)
