"""Which policy is meant, and whether it may be taken out: it is there, as it was made, and as its study says now."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.common.diverged import divergence_of, note_text
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.models import adapter_base
from workflow_scripts.common.place import command, snakefile_flags
from workflow_scripts.plan.plan import Plan, plan_of
from workflow_scripts.plan.policies import parent_manifest, template, weights, weights_manifest
from workflow_scripts.report.removed import removed_by
from workflow_scripts.report.verify import Checked, check_file, listed_files
from workflow_scripts.study.checking import load_study
from workflow_scripts.study.lineage import seeds_of
from workflow_scripts.study.messages import unknown

FRESH = "Nothing to be done"  # what `make plan` says where all is up to date
SHOWN = 5  # changed files that a refusal names


class Found(NamedTuple):
    """A policy of a study: `file` is the study's, `model` the folder of its weights and tokenizer."""

    file: Path
    plan: Plan
    policy: str
    seed: int
    model: Path
    manifest: Path

    def template(self) -> dict:
        """Return the template it is asked in."""
        return template(self.plan, self.policy)

    def adapter(self) -> bool:
        """Tell whether its weights are an adapter that was left unmerged."""
        return adapter_base(self.model) is not None


def find(file: Path, policy: str, seed: int | None) -> Found:
    """Return a policy of a study whose weights are there and unchanged; PlumblineError says what to do otherwise."""
    plan = plan_of(load_study(file))
    if policy not in plan.policies:
        raise PlumblineError(f"{file}: {unknown(policy, plan.policies, 'policy')}")
    seeds = seeds_of(plan.study, plan.policies[policy])
    if seed is None:
        seed = seeds[0]
    elif seed not in seeds:
        said = ", ".join(map(str, seeds))
        why = "" if plan.policies[policy].parent else " alone: a base model is trained with none"
        raise PlumblineError(f"{file}: {policy} is there with seed {said}{why}, not with {seed}")
    manifest = Path(weights_manifest(plan, policy, seed))
    found = Found(file, plan, policy, seed, Path(weights(plan, policy, seed)) / "model", manifest)
    refuse_unmade(found)
    refuse_changed(found)
    return found


def whole(text: str, name: str) -> int | None:
    """Return a number given as text, None for ""."""
    if not text:
        return None
    if not text.isdecimal():
        raise PlumblineError(f"{name}={text}: a whole number is needed")
    return int(text)


def make_it(found: Found) -> str:
    """Return the command that makes a policy."""
    return command("results", str(found.file))


def refuse_unmade(found: Found) -> None:
    """Raise PlumblineError for a policy that has no weights, not yet or as its training came to nothing."""
    if not found.manifest.is_file():
        state = "not trained" if found.plan.policies[found.policy].parent else "not fetched and prepared"
        raise PlumblineError(
            f"{found.policy} (seed {found.seed}) is {state} yet: there is no {found.manifest}; run {make_it(found)}"
        )
    if why := removed_by(found.manifest.parent):
        raise PlumblineError(
            f"{found.policy} (seed {found.seed}) has no weights any more: they were removed at the end of a run "
            f"(keep_weights: {why}); set keep_weights: all, delete {found.manifest} and run {make_it(found)}"
        )
    if note := divergence_of(found.manifest):
        raise PlumblineError(
            f"{found.policy} (seed {found.seed}) has no weights: {note_text(note)}; lower its learning_rate"
        )


def refuse_changed(found: Found) -> None:
    """Raise PlumblineError where a file of the weights is not what its manifest says; an adapter's base counts too."""
    manifests = [found.manifest]
    if found.adapter():
        manifests.append(Path(parent_manifest(found.plan, found.policy, found.seed)))
    checked = Checked()
    for manifest in manifests:
        listed = listed_files(str(manifest))
        if not listed:
            raise PlumblineError(
                f"{manifest}: lists no files, so nothing says what the weights were; delete it and run "
                f"{make_it(found)}"
            )
        for path, expected in listed.items():
            check_file(checked, path, expected, f"listed in {manifest}")
    if lines := [*checked.changed, *checked.missing]:
        more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise PlumblineError(
            f"{found.policy} (seed {found.seed}) is not what it was when it was made:\n  "
            + "\n  ".join(lines[:SHOWN])
            + f"{more}\nrestore the files, or delete {found.manifest} and run {make_it(found)}"
        )


def refuse_stale(found: Found) -> None:
    """Raise PlumblineError where a run of the study would make the policy anew; nothing is run to find out."""
    command = [sys.executable, "-m", "workflow_scripts.plan.forecast", "--", "--cores", "1"]
    command += [*snakefile_flags(), "--configfile", str(found.file), "--", str(found.manifest)]
    asked = subprocess.run(command, cwd=Path.cwd(), capture_output=True, text=True, check=False)
    if asked.returncode:
        raise PlumblineError(
            f"whether {found.policy} is up to date could not be found out:\n{asked.stderr.strip()}"
        )
    if not asked.stdout.startswith(FRESH):
        raise PlumblineError(
            f"{found.policy} (seed {found.seed}) is out of date: study or code have changed since it was made.\n"
            f"{asked.stdout.strip()}\nrun {make_it(found)} first"
        )


def made_from(manifest: Path | str) -> dict:
    """Return what a manifest says beside the digests of its files; {} where there is none."""
    if not Path(manifest).is_file():
        return {}
    return {key: value for key, value in read_json(manifest).items() if key != "files"}
