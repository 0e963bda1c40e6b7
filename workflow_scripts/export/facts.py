"""What is known of a policy, from manifests and results alone: `plumbline.json`, which the card puts into words."""

from pathlib import Path
from typing import Any

from workflow_scripts.common.code import code_of, pins
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import digest, sha256_of
from workflow_scripts.export.found import Found, made_from, make_it
from workflow_scripts.plan.index import lock_digest, policy_facts, study_digest
from workflow_scripts.plan.plan import TRAINERS
from workflow_scripts.plan.policies import (
    base_manifest,
    learned_split,
    lineage,
    parent_cell,
    training_sets,
    weights_manifest,
)
from workflow_scripts.plan.sources import origin
from workflow_scripts.plan.training import material, module_of, training_settings
from workflow_scripts.plan.words import chosen
from workflow_scripts.report.provenance import PROVENANCE, record_key
from workflow_scripts.report.scores import ALL
from workflow_scripts.report.spreadsheets import read_csv
from workflow_scripts.report.verify import RESULTS, TABLES, Checked, check_records, check_tables, read_records
from workflow_scripts.study.datasets import made_of

DIGITS = 12
UNSAID = ("study", "policy", "parent", "method")  # columns of the table that the card says once


def facts_of(found: Found) -> dict[str, Any]:
    """Return what manifests and results say of a policy."""
    plan, policy = found.plan, found.policy
    trained = [name for name in reversed(lineage(plan, policy)) if plan.policies[name].parent]
    return {
        "study": plan.study.study,
        "policy": policy,
        "seed": found.seed if trained else None,
        "base_model": base_facts(found),
        "lineage": [run_facts(found, name) for name in trained],
        "datasets": [dataset_facts(found, name) for name in training_sets(plan, policy)],
        "template": found.template(),
        "context": plan.study.models[plan.policies[policy].model].context,
        "manifest": {"file": str(found.manifest), "sha256": sha256_of(found.manifest)},
        "digests": policy_facts(plan, policy)
        | {"study": study_digest(plan)[:DIGITS], "lock": lock_digest()[:DIGITS]},
        "versions": pins(*TRAINERS),
        "results": results_facts(found),
    }


def base_facts(found: Found) -> dict[str, Any]:
    """Return the base model's name, where its files come from, and the licence that the study gives."""
    name = found.plan.policies[found.policy].model
    model = found.plan.study.models[name]
    manifest = Path(base_manifest(found.plan, found.policy))
    return {
        "name": name,
        "source": origin(found.plan, model.source),
        "license": model.license,
        "made": made_from(manifest),
        "sha256": sha256_of(manifest) if manifest.is_file() else None,
    }


def run_facts(found: Found, policy: str) -> dict[str, Any]:
    """Return one training of a lineage: its settings, what it learned from, what came of it, the code that did it."""
    plan = found.plan
    seed = seed_in(found, policy)
    run = plan.run(policy)
    manifest = Path(weights_manifest(plan, policy, seed))
    return {
        "policy": policy,
        "run": plan.policies[policy].run,
        "method": plan.policies[policy].method,
        "parent": plan.policies[policy].parent,
        "seed": seed,
        "learned_from": "/".join(learned_split(plan, run)),
        "settings": chosen(run, drop=["method", "parent", "threads"]),
        "settings_digest": digest(training_settings(plan, policy))[:DIGITS],
        "material": made_from(material(plan, policy, seed)).get("counts"),
        "made": made_from(manifest),
        "sha256": sha256_of(manifest) if manifest.is_file() else None,
        "code": digest(code_of(module_of(plan, policy)))[:DIGITS],
    }


def seed_in(found: Found, ancestor: str) -> int | str:
    """Return the seed of an ancestor of a policy."""
    policy, seed = found.policy, found.seed
    while policy != ancestor:
        policy, seed = parent_cell(found.plan, policy, seed)
    return seed


def dataset_facts(found: Found, name: str) -> dict[str, Any]:
    """Return what a data set and one of its splits hold, where it comes from, and its licence, as far as is known."""
    plan = found.plan
    dataset, split = name.split("/")
    manifest = Path(f"{plan.layout.clean(dataset)}/manifest.json")
    said = made_from(manifest)
    parts = made_of(plan.study, dataset)
    return {
        "dataset": dataset,
        "split": split,
        "made_of": [
            {"dataset": each, "license": part.license, "source": origin(plan, part.source)}
            for each, part in parts.items()
        ],
        "splits": said.get("splits"),
        "rejected": said.get("rejected"),
        "sha256": sha256_of(manifest) if manifest.is_file() else None,
    }


# --- the table --------------------------------------------------------------------------------------------------------


def results_facts(found: Found) -> dict[str, Any]:
    """Return a policy's rows of the results table and the ids of their records, or why there are none.

    PlumblineError where the table, or a file that the policy's rows rest on, is not what it was.
    """
    folder = Path(found.plan.layout.results)
    if not (folder / RESULTS).is_file() or not (folder / PROVENANCE).is_file():
        return {"missing": f"the study has no {RESULTS} yet: {make_it(found)} makes it"}
    records = {
        key: record
        for key, record in read_records(folder / PROVENANCE).items()
        if key.startswith(record_key(found.policy, found.seed, ""))
    }
    refuse_edited(found, folder, records)
    rows = [
        {column: text for column, text in row.items() if text != "" and column not in UNSAID}
        for row in read_csv(folder / RESULTS)
        if row["policy"] == found.policy and row["seed"] in (str(found.seed), ALL)
    ]
    if not rows:
        return {"missing": f"the study's {RESULTS} has no row of {found.policy} with seed {found.seed}"}
    return {
        "file": str(folder / RESULTS),
        "sha256": sha256_of(folder / RESULTS),
        "baseline": found.plan.study.report.baseline,
        "confidence": found.plan.study.report.confidence,
        "rows": rows,
        "records": {key: record["id"] for key, record in records.items()},
    }


def refuse_edited(found: Found, folder: Path, records: dict[str, dict]) -> None:
    """Raise PlumblineError where the table or what it says of a policy rests on files that have changed."""
    checked = Checked()
    check_tables(checked, folder / TABLES)
    check_records(checked, records, folder / PROVENANCE)
    own = str(found.manifest)
    now = sha256_of(own)
    of_others = [record for record in records.values() if record["files"].get(own) not in (None, now)]
    if of_others:
        raise PlumblineError(
            f"{folder / RESULTS}: its rows of {found.policy} are of other weights than those that are there now; run "
            f"{make_it(found)} first"
        )
    if lines := [*checked.changed, *checked.missing]:
        raise PlumblineError(
            f"the table's rows of {found.policy} do not rest on what is there now:\n  "
            + "\n  ".join(lines[:5])
            + f"\nrestore the files, or delete {folder / RESULTS} and run {make_it(found)}"
        )


def weight_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a folder, by its name."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
