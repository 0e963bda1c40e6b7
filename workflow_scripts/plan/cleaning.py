"""What is cleaned: datasets, and the replies in pairs that a benchmark brings; what is mixed of cleaned datasets."""

from workflow_scripts.common.code import pins
from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.scoring import scored_from
from workflow_scripts.plan.sources import base_model, located, source_file, source_manifest
from workflow_scripts.plan.words import as_json, chosen, settings
from workflow_scripts.study.datasets import OTHER_ASSISTANTS, Dataset, made_of
from workflow_scripts.study.mixtures import Mixture

NOT_CLEANED_BY = (
    *("source", "files", "history_turns", "exclude_groups_of"),
    *("reject_other_assistants", "retrieve", "token_limits", "license"),
)
BARE = ".bare"  # ends no dataset's name: a name has no dot


def bare(dataset: str) -> str:
    """Return the folder name of a dataset's rows as cleaning leaves them, where passages are then written into them."""
    return f"{dataset}{BARE}"


def cleaned(plan: Plan) -> list[str]:
    """Return the datasets that are made of files."""
    return [name for name, part in plan.study.datasets.items() if isinstance(part, Dataset)]


def folders(plan: Plan) -> list[str]:
    """Return the names of the folders that datasets are cleaned into, each a wildcard of the rule."""
    return [bare(name) if plan.study.datasets[name].retrieve else name for name in cleaned(plan)]


def dataset_in(plan: Plan, folder: str) -> Dataset:
    """Return the dataset that is cleaned into a folder."""
    return plan.study.datasets[folder.removesuffix(BARE)]


def dataset_source(plan: Plan, dataset: str) -> str:
    """Return what a dataset's raw files are stale by."""
    return source_manifest(plan, dataset_in(plan, dataset).source)


def dataset_files(plan: Plan, dataset: str) -> list[Word]:
    part = dataset_in(plan, dataset)
    return [plan.layout.word(source_file(plan, part.source, file)) for file in part.files]


def held_out(plan: Plan, dataset: str) -> list[str]:
    """Return the manifests of the datasets whose groups must not appear in this one."""
    names = dataset_in(plan, dataset).exclude_groups_of
    return [f"{plan.layout.clean(name.split('/')[0])}/manifest.json" for name in names]


def counting_model(plan: Plan, dataset: str) -> list[str]:
    """Return the manifest of the base model whose tokens a dataset's rows are counted in, where there is one."""
    limits = dataset_in(plan, dataset).token_limits
    return [f"{base_model(plan, limits.model)}/manifest.json"] if limits else []


def dataset_settings(plan: Plan, dataset: str) -> str:
    part, layout = dataset_in(plan, dataset), plan.layout
    rows = [layout.with_variables(layout.rows(*name.split("/"))) for name in part.exclude_groups_of]
    refused = [*part.reject_phrases, *(OTHER_ASSISTANTS if part.reject_other_assistants else ())]
    limits = part.token_limits and chosen(part.token_limits, drop=["model"]) | {
        "tokenizer": f"{base_model(plan, part.token_limits.model)}/model"
    }
    handed = {"exclude_groups_of": rows, "reject_phrases": refused, "token_limits": limits}
    # Splits are filled in the order in which the study names them, unless groups are shuffled over them.
    filled_in_turn = part.split.order == "file" or bool(part.split.by_file)
    return as_json(chosen(part, drop=NOT_CLEANED_BY) | handed, in_order=filled_in_turn)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def mixed(plan: Plan) -> list[str]:
    """Return the datasets that are made of others."""
    return [name for name, part in plan.study.datasets.items() if isinstance(part, Mixture)]


def mixed_datasets(plan: Plan, dataset: str) -> list[str]:
    """Return what a mixture is made of, as manifests."""
    return [f"{plan.layout.clean(name)}/manifest.json" for name in plan.study.datasets[dataset].mixture]


def mixed_rows(plan: Plan, dataset: str) -> list[Word]:
    """Return NAME/SPLIT=… for each file of rows that a mixture is made of, split by split, as words."""
    part = plan.study.datasets[dataset]
    return [
        plan.layout.word(f"{name}/{split}={plan.layout.rows(name, split)}")
        for split in part.splits(plan.study)
        for name in part.mixture
    ]


def mixture_settings(plan: Plan, dataset: str) -> str:
    """Return how a mixture is made; the conversations of a dataset that groups nothing else are groups of its own."""
    part = plan.study.datasets[dataset]
    parts = made_of(plan.study, dataset)
    own = [name for name, each in parts.items() if each.group_by == "conversation"]
    return settings(part, own_groups=own)


def dataset_pins(plan: Plan, dataset: str) -> dict[str, str]:
    """Return the packages whose version alters what cleaning finds."""
    return pins("datasketch", "scikit-learn") if dataset_in(plan, dataset).near_duplicates else {}


# --- replies in pairs -------------------------------------------------------------------------------------------------

PAIRED = ("raw_rows", "system_prompt", "reply_format", "drop_fields", "replace_na")


def paired(plan: Plan) -> list[str]:
    """Return the benchmarks that bring a file of replies of their own."""
    return [name for name in scored_from(plan, "likelihoods") if plan.study.benchmarks[name].files]


def paired_input(plan: Plan, benchmark: str) -> str:
    return source_manifest(plan, plan.study.benchmarks[benchmark].source)


def paired_files(plan: Plan, benchmark: str) -> list[str]:
    return [located(plan, plan.study.benchmarks[benchmark], "file")]


def paired_settings(plan: Plan, benchmark: str) -> str:
    return settings(plan.study.benchmarks[benchmark], keys=PAIRED)
