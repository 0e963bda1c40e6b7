"""The environments of --sdm conda and of Apptainer against the one lock: each planted disagreement is named."""

import importlib.metadata
import re
import shutil

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from workflow_scripts.common.code import ROOT
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.plan import environments


@pytest.fixture
def copy(tmp_path):
    """The repository's environments and rules, to be spoiled."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    return tmp_path


def edit(path, pattern, replacement):
    """Replace a pattern that occurs once, and return the number of its line."""
    text = path.read_text()
    (found,) = re.finditer(pattern, text, re.MULTILINE)
    path.write_text(text[: found.start()] + found.expand(replacement) + text[found.end() :])
    return text.count("\n", 0, found.start()) + 1


def test_the_lock_the_lists_the_environments_and_the_rules_agree():
    assert environments.find_problems(ROOT) == []


@pytest.mark.parametrize("name", environments.ENVIRONMENTS)
def test_an_environment_stands_alone_for_snakemake_copies_it_elsewhere(name):
    held = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    *conda, pip = held["dependencies"]
    assert f"python={environments.PYTHON}" in conda and "pip" in conda
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", line) for line in pip["pip"])


def test_scores_and_tables_need_no_torch():
    light = environments.read_pins(ROOT / "envs" / "plumbline.yaml")
    assert not {"torch", "transformers", "trl", "accelerate"} & light.keys()


def test_an_environment_pins_what_its_packages_require():
    train = environments.read_pins(ROOT / "envs" / "train.yaml")
    assert {"jinja2", "sympy", "tokenizers", "networkx"} <= train.keys()  # torch's and transformers'
    assert (
        train["deepspeed"].version
        == environments.read_pins(ROOT / "envs" / "deepspeed.txt")["deepspeed"].version
    )


@pytest.mark.parametrize("file", ["plumbline.yaml", "train.yaml", "vllm.yaml", "vllm.txt", "vllm-cpu.txt"])
def test_a_pin_that_differs_from_the_lock_is_found_with_both_lines(copy, file):
    line = edit(copy / "envs" / file, r"^( *-? ?)requests==\S+$", r"\1requests==1.0")
    locked = environments.read_pins(copy / "envs" / "requirements.txt")["requests"]
    (problem,) = environments.disagreeing_pins(copy / "envs")
    assert problem.startswith(
        f"{copy}/envs/{file}:{line}: requests==1.0, but {copy}/envs/requirements.txt:{locked.line} has"
    )


def test_a_list_may_differ_where_it_says_why_and_its_environment_says_it_too(copy):
    edit(copy / "envs" / "vllm.txt", r"^requests==\S+$", "requests==1.0  # vLLM wants < 2")
    assert environments.disagreeing_pins(copy / "envs") == []
    assert "      - requests==1.0  # vLLM wants < 2\n" in environments.render("vllm", copy / "envs")


def test_a_pin_of_the_apptainer_definition_counts_too_and_so_do_the_files_it_copies(copy):
    pinned = edit(
        copy / "envs" / "plumbline.def", r"^    bwrap --version$", "    pip install torch==2.0 trl==0.1"
    )
    copied = edit(copy / "envs" / "plumbline.def", r"^    envs/cuda.txt ", "    envs/gone.txt ")
    problems = environments.disagreeing_pins(copy / "envs")
    assert [problem.split(" ")[:2] for problem in problems] == [
        [f"{copy}/envs/plumbline.def:{pinned}:", "torch==2.0,"],
        [f"{copy}/envs/plumbline.def:{pinned}:", "trl==0.1,"],
        [f"{copy}/envs/plumbline.def:{copied}:", "envs/gone.txt"],
    ]


def test_a_package_that_is_in_no_list_of_its_tool_chain_is_found(copy):
    line = edit(copy / "envs" / "train.yaml", r"^      - torch==", "      - xformers==1.0\n      - torch==")
    (problem,) = environments.disagreeing_pins(copy / "envs")
    assert problem.startswith(f"{copy}/envs/train.yaml:{line}: xformers is pinned neither in")


def test_a_package_of_a_list_without_a_version_is_found(copy):
    line = edit(copy / "envs" / "cuda.txt", r"^bitsandbytes==\S+$", "bitsandbytes>=0.40  # any will do")
    problems = environments.disagreeing_pins(copy / "envs")
    assert f"{copy}/envs/cuda.txt:{line}: bitsandbytes>=0.40 is not pinned to one version" in problems


@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.13.9"])
def test_every_pin_may_be_installed_on_every_python_that_plumbline_asks_for(python):
    """By what the installed packages say of themselves; a pin that is not installed here is not looked at."""
    refusing, looked_at = [], 0
    for name, pin in environments.read_pins(ROOT / "envs" / "requirements.txt").items():
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.version.partition("+")[0] != pin.version:
            continue  # an older environment: what this pin wants is not known
        looked_at += 1
        if python not in SpecifierSet(found.metadata.get("Requires-Python") or ""):
            refusing.append(f"{name}=={pin.version} wants Python {found.metadata['Requires-Python']}")
    assert looked_at > 150 and not refusing


def test_an_upgrade_of_the_lock_makes_the_environments_stale_and_writing_them_mends_it(
    copy, monkeypatch, capsys
):
    monkeypatch.setattr(environments, "ROOT", copy)
    edit(copy / "envs" / "requirements.txt", r"^trl==\S+$", "trl==9.9.9")
    with pytest.raises(
        PlumblineError, match=r"train.yaml:\d+: trl==\S+, but envs/requirements.txt:\d+ has 9.9.9"
    ):
        environments.main(["--check"])
    environments.main(["--write"])
    assert capsys.readouterr().out == "wrote envs/train.yaml\n"
    environments.main(["--check"])
    assert environments.read_pins(copy / "envs" / "train.yaml")["trl"].version == "9.9.9"


def test_an_environment_edited_by_hand_is_found(copy):
    edit(copy / "envs" / "train.yaml", r"^  - cxx-compiler\n", "")
    assert list(environments.stale_environments(copy / "envs")) == [copy / "envs" / "train.yaml"]


def test_a_rule_whose_environment_lacks_what_its_modules_import_is_found_with_the_importing_module(copy):
    line = edit(
        copy / "rules" / "sft.smk",
        r'(rule train_sft:(?:.*\n)*?    conda:\n        "../envs/)train(.yaml")',
        r"\1plumbline\2",
    )
    line += (
        (copy / "rules" / "sft.smk")
        .read_text()
        .split("rule train_sft:")[1]
        .split("plumbline.yaml")[0]
        .count("\n")
    )
    (problem,) = environments.misplaced_rules(copy / "rules", copy / "envs")
    assert problem.startswith(
        f"{copy}/rules/sft.smk:{line}: rule train_sft imports what envs/plumbline.yaml lacks: "
    )
    assert "torch (workflow_scripts.sft.train)" in problem and "trl (workflow_scripts.sft.train)" in problem


def test_what_is_loaded_by_name_alone_counts_for_the_environment_it_is_loaded_in(copy):
    edit(copy / "envs" / "vllm.yaml", r"^      - vllm==\S+\n", "")
    problems = environments.misplaced_rules(copy / "rules", copy / "envs")
    named = {
        "answer_prompts": "generate.vllm_engine",
        "answer_otherwise": "generate.vllm_engine",
        "score_lm_eval": "common.vllm_policy",
    }
    for (rule, module), problem in zip(named.items(), problems, strict=True):
        lacks = f"imports what envs/vllm.yaml lacks: vllm (workflow_scripts.{module})"
        assert f"rule {rule} {lacks}" in problem


RULE = """rule count_words:
    output:
        "x"
    conda:
        "../envs/{environment}.yaml"
    shell:
        "python -m workflow_scripts.{module} > {{output}}"
"""


@pytest.mark.parametrize(
    ("environment", "module", "said"),
    [
        ("wordy", "score.tutor", "words.smk:5: rule count_words: {}/envs/wordy.yaml does not exist"),
        ("plumbline", "score.{params.kind}", "words.smk:5: rule count_words names no module whole"),
    ],
)
def test_a_rule_that_cannot_be_checked_is_named(copy, environment, module, said):
    (copy / "rules" / "words.smk").write_text(RULE.format(environment=environment, module=module))
    (problem,) = environments.misplaced_rules(copy / "rules", copy / "envs")
    assert said.format(copy) in problem


def test_a_rule_without_an_environment_is_named(copy):
    text = re.sub(r"    conda:\n.*\n", "", RULE).format(module="score.tutor")
    (copy / "rules" / "words.smk").write_text(text)
    (problem,) = environments.misplaced_rules(copy / "rules", copy / "envs")
    assert "words.smk:1: rule count_words names no file under envs/" in problem
