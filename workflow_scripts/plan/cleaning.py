"""What is cleaned: datasets, and the replies in pairs that a benchmark brings."""

from workflow_scripts.common.code import pins
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.scoring import scored_from
from workflow_scripts.plan.sources import base_model, located, source_file, source_manifest
from workflow_scripts.plan.words import as_json, chosen, settings

NOT_CLEANED_BY = ("source", "files", "history_turns", "exclude_groups_of", "token_limits")


def dataset_source(plan: Plan, dataset: str) -> str:
    """Return what a dataset's raw files are stale by."""
    return source_manifest(plan, plan.study.datasets[dataset].source)


def dataset_files(plan: Plan, dataset: str) -> list[str]:
    part = plan.study.datasets[dataset]
    return [source_file(plan, part.source, file) for file in part.files]


def held_out(plan: Plan, dataset: str) -> list[str]:
    """Return the manifests of the datasets whose groups must not appear in this one."""
    names = plan.study.datasets[dataset].exclude_groups_of
    return [f"{plan.layout.clean(name.split('/')[0])}/manifest.json" for name in names]


def counting_model(plan: Plan, dataset: str) -> list[str]:
    """Return the manifest of the base model whose tokens a dataset's rows are counted in, where there is one."""
    limits = plan.study.datasets[dataset].token_limits
    return [f"{base_model(plan, limits.model)}/manifest.json"] if limits else []


def dataset_settings(plan: Plan, dataset: str) -> str:
    part, layout = plan.study.datasets[dataset], plan.layout
    rows = [layout.with_variables(layout.rows(*name.split("/"))) for name in part.exclude_groups_of]
    limits = part.token_limits and chosen(part.token_limits, drop=["model"]) | {
        "tokenizer": f"{base_model(plan, part.token_limits.model)}/model"
    }
    handed = chosen(part, drop=NOT_CLEANED_BY) | {"exclude_groups_of": rows, "token_limits": limits}
    return as_json(handed, in_order=True)  # splits are filled in the order in which the study names them


def dataset_pins(plan: Plan, dataset: str) -> dict[str, str]:
    """Return the packages whose version alters what cleaning finds."""
    return pins("datasketch", "scikit-learn") if plan.study.datasets[dataset].near_duplicates else {}


# --- replies in pairs -------------------------------------------------------------------------------------------------

PAIRED = ("system_prompt", "reply_format", "drop_fields", "replace_na")


def paired(plan: Plan) -> list[str]:
    """Return the benchmarks that bring a file of replies of their own."""
    return [name for name in scored_from(plan, "likelihoods") if plan.study.benchmarks[name].files]


def paired_input(plan: Plan, benchmark: str) -> str:
    return source_manifest(plan, plan.study.benchmarks[benchmark].source)


def paired_files(plan: Plan, benchmark: str) -> list[str]:
    return [located(plan, plan.study.benchmarks[benchmark], "file")]


def paired_settings(plan: Plan, benchmark: str) -> str:
    return settings(plan.study.benchmarks[benchmark], keys=PAIRED)
