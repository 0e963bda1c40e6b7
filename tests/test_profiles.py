"""The profiles: what stands in them means something to this Snakemake, names rules that exist, and alters no result."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

from workflow_scripts.common.code import code_of, module_file
from workflow_scripts.plan.environments import LOADED, read_rules

ROOT = Path(__file__).resolve().parents[1]
FILES = [*ROOT.glob("profiles/*/config.yaml"), *ROOT.glob("contrib/*/config.yaml")]
PROFILES = sorted(str(path.parent.relative_to(ROOT)) for path in FILES)
CLUSTERS = [name for name in PROFILES if name != "profiles/default"]
STUDY = "studies/follow_instructions-small.yaml"
# The executor of a profile → the package that has its options.
PLUGINS = {
    "slurm": "snakemake_executor_plugin_slurm",
    "cluster-generic": "snakemake_executor_plugin_cluster_generic",
}


def read(name):
    return yaml.safe_load((ROOT / name / "config.yaml").read_text())


def options():
    """Return the long options that this Snakemake and its installed plugins know, without their dashes."""
    actions = get_argument_parser()._actions
    return {option.removeprefix("--") for action in actions for option in action.option_strings}


def needs_plugin(name):
    plugin = PLUGINS.get(read(name).get("executor"))
    if plugin and not find_spec(plugin):
        pytest.skip(f"{plugin.replace('_', '-')} is not installed")


def rules_on_gpus():
    """Return the names of the rules that start through the launcher, which gives them GPUs."""
    return {rule.name for rule in read_rules(ROOT / "rules") if "common.launch" in rule.modules}


def amount(expression, attempt):
    """Return what a sum of a profile comes to, as Snakemake reckons it."""
    return eval(str(expression), {"min": min, "max": max, "attempt": attempt})


def test_there_is_a_profile_for_one_machine_for_slurm_and_apart_for_kubernetes():
    assert PROFILES == ["contrib/kubernetes", "profiles/default", "profiles/slurm-a100"]


def test_the_profile_that_was_never_run_on_a_real_cluster_says_so():
    for path in ("contrib/kubernetes/config.yaml", "docs/cluster.md"):
        assert "never been run on a real cluster" in (ROOT / path).read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_is_an_option_of_snakemake_or_of_its_executor(name):
    known = options()
    executor = read(name).get("executor", "local")
    if not find_spec(PLUGINS.get(executor, "snakemake")):
        own = {key for key in read(name) if key.startswith(f"{executor}-")}
    else:
        own = set()
    assert set(read(name)) - known - own == set()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_needs_no_other(name):
    profile = read(name)
    assert profile["rerun-incomplete"] is True and profile["show-failed-logs"] is True
    assert profile["resources"]["judge"] == 1
    # Snakemake's software-env would train everything anew when a study goes on in conda or in a container.
    assert set(profile["rerun-triggers"]) == {"code", "input", "mtime", "params"}
    assert (ROOT / name / "config.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", PROFILES)
def test_no_profile_caps_the_gpus_since_a_cap_would_shrink_what_a_job_asks_for(name):
    assert "gpu" not in read(name)["resources"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_rule_that_a_profile_names_exists_and_every_rule_on_gpus_is_named(name):
    existing = {rule.name for rule in read_rules(ROOT / "rules")}
    for key in ("set-resources", "set-threads"):
        assert set(read(name)[key]) <= existing, key
        assert set(read(name)[key]) >= rules_on_gpus(), key


@pytest.mark.parametrize("name", CLUSTERS)
def test_memory_and_time_grow_with_each_of_the_retries_up_to_what_a_node_has(name):
    profile = read(name)
    assert profile["retries"] == 2
    for asked in [profile["default-resources"], *profile["set-resources"].values()]:
        for key in ("mem_mb", "runtime"):
            first, second, third = (amount(asked[key], attempt) for attempt in (1, 2, 3))
            assert first < second <= third, (key, asked)
        assert amount(asked["mem_mb"], 99) == amount(asked["mem_mb"], 100)


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_cluster_has_arrays_or_groups(name):
    assert not {key for key in read(name) if "array" in key or key.startswith("group")}


def test_retries_stand_in_the_profile_and_in_no_rule():
    text = "".join(path.read_text() for path in ROOT.glob("rules/*.smk"))
    assert not re.findall(r"^    retries:", text, re.MULTILINE)


@pytest.mark.parametrize("name", PROFILES)
def test_a_study_can_be_planned_with_the_profile(repository, name):
    needs_plugin(name)
    flags = [] if name in CLUSTERS else ["--cores", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "PLUMBLINE_GPU_LOCKS"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "-n",
            "--workflow-profile",
            name,
            "--configfile",
            STUDY,
            *flags,
        ],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Fine-tuning tiny.full (seed 1)" in done.stdout


def test_every_rule_whose_code_takes_a_gpu_starts_through_the_launcher_which_leases_it():
    texts = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    lists_only = {"plan_judging", "list_items"}  # they run with --plan and --items, and load no model
    assert all(re.search(rf"rule {name}:.*?(--plan|--items) ", texts, re.DOTALL) for name in lists_only)
    taking = set()
    for rule in read_rules(ROOT / "rules"):
        loaded = [each for module in rule.modules for each in LOADED.get(module, {}).values()]
        ours = code_of(*(f"workflow_scripts.{module}" for module in (*rule.modules, *loaded)))
        if any('"cuda" if torch.cuda' in module_file(each).read_text() for each in ours):
            taking.add(rule.name)
    assert {"judge_answers", "score_reference", "score_lm_eval", "annotate_dataset"} <= taking
    assert taking - lists_only <= rules_on_gpus()
