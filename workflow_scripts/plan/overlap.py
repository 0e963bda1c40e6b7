"""Decontamination: the items of each benchmark are looked for in all that any policy was trained on."""

from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.policies import all_training_sets
from workflow_scripts.plan.scoring import replies, replies_input
from workflow_scripts.plan.words import as_json

SETTINGS = as_json({"sizes": [13, 8], "common": 10})


def compared(plan: Plan) -> list[str]:
    """Return the benchmarks whose items are looked for: all, whenever there are training sets."""
    due = plan.study.report.decontaminate and all_training_sets(plan)
    return list(plan.study.benchmarks) if due else []


def overlap_files(plan: Plan) -> list[str]:
    return [plan.layout.overlap(name) for name in compared(plan)]


def items_file(plan: Plan, benchmark: str) -> str:
    """Return the file with a benchmark's items as texts: its prompts, the replies it measures, or a list of them."""
    part = plan.study.benchmarks[benchmark]
    if part.measured_by:
        return replies(plan, benchmark)
    return plan.layout.prompt_rows(benchmark) if part.prompt_kind else plan.layout.items(benchmark)


def items_input(plan: Plan, benchmark: str) -> str:
    """Return what the texts of a benchmark's items are stale by."""
    part = plan.study.benchmarks[benchmark]
    if part.measured_by:
        return replies_input(plan, benchmark)
    return plan.layout.prompts(benchmark) if part.prompt_kind else plan.layout.items(benchmark)


def training_inputs(plan: Plan) -> list[str]:
    return [f"{plan.layout.clean(name.split('/')[0])}/manifest.json" for name in all_training_sets(plan)]


def training_words(plan: Plan) -> list[str]:
    return [f"{name}={plan.layout.rows(*name.split('/'))}" for name in all_training_sets(plan)]
