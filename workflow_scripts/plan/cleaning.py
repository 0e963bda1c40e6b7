"""What is cleaned: datasets, and the replies in pairs that a benchmark brings; what is kept apart from what others hold
out; what is mixed of cleaned datasets.

A dataset's rows are in the folder of its name. Where something is done to them after cleaning, they are in DATASET.bare
before it, and in DATASET.apart where they have lost what others hold out and still get passages.
"""

import functools

from workflow_scripts.common.code import pins
from workflow_scripts.plan.layout import Word
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.scoring import scored_from
from workflow_scripts.plan.sources import base_model, located, source_file, source_manifest
from workflow_scripts.plan.words import as_json, chosen, settings
from workflow_scripts.study import apart
from workflow_scripts.study.datasets import OTHER_ASSISTANTS, Dataset, made_of
from workflow_scripts.study.mixtures import Mixture

NOT_CLEANED_BY = (
    *("path", "hf", "revision", "hf_config", "hf_split", "shape"),
    *("source", "files", "history_turns", "exclude_groups_of"),
    *("reject_other_assistants", "retrieve", "token_limits", "license"),
)
BARE, APART = ".bare", ".apart"  # end no dataset's name: a name has no dot


def bare(dataset: str) -> str:
    """Return the folder name of a dataset's rows as cleaning leaves them, where more is done to them."""
    return f"{dataset}{BARE}"


def cleaned(plan: Plan) -> list[str]:
    """Return the datasets that are made of files."""
    return [name for name, part in plan.study.datasets.items() if isinstance(part, Dataset)]


def first_folder(plan: Plan, dataset: str) -> str:
    """Return the name of the folder that a dataset is cleaned into."""
    later = plan.study.datasets[dataset].retrieve or dataset in kept_apart(plan)
    return bare(dataset) if later else dataset


def folders(plan: Plan) -> list[str]:
    """Return the names of the folders that datasets are cleaned into, each a wildcard of the rule."""
    return [first_folder(plan, name) for name in cleaned(plan)]


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
    return [f"{plan.layout.clean(first_folder(plan, name.split('/')[0]))}/manifest.json" for name in names]


def counting_model(plan: Plan, dataset: str) -> list[str]:
    """Return the manifest of the base model whose tokens a dataset's rows are counted in, where there is one."""
    limits = dataset_in(plan, dataset).token_limits
    return [f"{base_model(plan, limits.model)}/manifest.json"] if limits else []


def dataset_settings(plan: Plan, dataset: str) -> str:
    part, layout = dataset_in(plan, dataset), plan.layout
    rows = [layout.with_variables(first_rows(plan, *name.split("/"))) for name in part.exclude_groups_of]
    refused = [*part.reject_phrases, *(OTHER_ASSISTANTS if part.reject_other_assistants else ())]
    limits = part.token_limits and chosen(part.token_limits, drop=["model"]) | {
        "tokenizer": f"{base_model(plan, part.token_limits.model)}/model"
    }
    named = {"columns": part.columns_of_files(), "renames": part.renames()}
    handed = {"exclude_groups_of": rows, "reject_phrases": refused, "token_limits": limits} | named
    # Splits are filled in the order in which the study names them, unless groups are shuffled over them.
    filled_in_turn = part.split.order == "file" or bool(part.split.by_file)
    return as_json(chosen(part, drop=NOT_CLEANED_BY) | handed, in_order=filled_in_turn)


def first_rows(plan: Plan, dataset: str, split: str) -> str:
    """Return the file of a dataset's rows as cleaning leaves them."""
    return plan.layout.rows(first_folder(plan, dataset), split)


# --- kept apart -------------------------------------------------------------------------------------------------------


@functools.cache
def kept_apart(plan: Plan) -> dict[str, apart.Apart]:
    """Return the datasets that lose the questions which others hold out, and what these are."""
    return apart.kept_apart(plan.study)


def apart_folder(plan: Plan, dataset: str) -> str:
    """Return the name of the folder of a dataset's rows once they have lost them."""
    return f"{dataset}{APART}" if plan.study.datasets[dataset].retrieve else dataset


def apart_folders(plan: Plan) -> list[str]:
    """Return the names of the folders of rows that are kept apart, each a wildcard of the rule."""
    return [apart_folder(plan, name) for name in kept_apart(plan)]


def _apart(plan: Plan, folder: str) -> apart.Apart:
    return kept_apart(plan)[folder.removesuffix(APART)]


def apart_from(plan: Plan, dataset: str) -> str:
    """Return the manifest of a dataset's rows before they lose what others hold out."""
    return f"{plan.layout.clean(bare(dataset.removesuffix(APART)))}/manifest.json"


def apart_inputs(plan: Plan, dataset: str) -> list[str]:
    """Return the manifests of the datasets that hold questions out."""
    others = dict.fromkeys(other for other, _ in _apart(plan, dataset).held_out)
    return [f"{plan.layout.clean(first_folder(plan, other))}/manifest.json" for other in others]


def apart_rows(plan: Plan, dataset: str) -> list[Word]:
    """Return NAME/SPLIT=… for each file of rows whose questions are held out, as words."""
    held_out = _apart(plan, dataset).held_out
    return [plan.layout.word(f"{name}/{split}={first_rows(plan, name, split)}") for name, split in held_out]


def apart_settings(plan: Plan, dataset: str) -> str:
    """Return what is learned from, and which rows are compared by problem, as JSON."""
    part, own = _apart(plan, dataset), plan.study.datasets[dataset.removesuffix(APART)]
    by_problem = {
        f"{other}/{split}": "problem" in (own.group_by, plan.study.datasets[other].group_by)
        for other, split in part.held_out
    }
    return as_json({"learned": part.learned, "by_problem": by_problem})


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
