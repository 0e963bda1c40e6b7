"""The conda environments under envs/, made from the lock; `--check` names every place where they and it disagree.

One lock (envs/requirements.txt) is what the local install uses. A tool-chain that needs more than it has a list of its
own beside it: deepspeed.txt, cuda.txt, vllm.txt. A conda YAML holds the pins themselves, since Snakemake copies it to
.snakemake/conda before conda reads it, where no `-r requirements.txt` would be found. What a YAML pins follows from the
distributions named here and what these require, read from what is installed. Covered: that every pin agrees with the
lock or says why not, that every rule's environment exists and provides what the modules that the rule runs import.
Not covered: packages of conda itself, and what a wheel pins on its own (torch its CUDA libraries).
"""

import argparse
import ast
import functools
import importlib.metadata
import re
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workflow_scripts.common.code import PACKAGE, ROOT, code_of, module_file
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file
from workflow_scripts.study.benchmarks import BENCHMARKS
from workflow_scripts.study.methods import TRAINED_BY, methods_on

LOCK = "requirements.txt"
PYTHON = "3.11"  # what the lock was resolved for
PIN = re.compile(r"(?:\s*-?\s*)(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s#;]+)\s*(?:#\s*(?P<why>.*))?")


class Environment(NamedTuple):
    """One conda YAML."""

    purpose: str
    roots: str
    """Distributions that our modules import, or that these load unasked; what they require follows."""
    conda: str = ""
    """Packages of conda-forge beside python and pip."""
    lists: tuple[str, ...] = ()
    """Lists of pins under envs/ that hold beside the lock, and before it."""


ENVIRONMENTS = {
    "plumbline": Environment(
        "Everything that never loads torch: data, cleaning, pairs, scores from answers, tables, report."
        " nodejs has the npm client that sources may name; bubblewrap is HumanEval's sandbox.",
        "alpaca-eval datasketch filelock httpx huggingface-hub jinja2 lm-eval markupsafe matplotlib nltk numpy"
        " packaging pandas pyarrow pydantic pypi-simple pyyaml sacrebleu scikit-learn setuptools tenacity tokenizers"
        " tqdm",
        conda="bubblewrap nodejs",
    ),
    "train": Environment(
        "Everything that loads torch: tokens, training, references, rewards, answers by transformers, likelihoods,"
        " lm-eval, reward models as judges, keras weights. Apart from plumbline.yaml for torch's weight: gigabytes,"
        " where scores and tables need none. DeepSpeed compiles its optimiser at first use, with conda's compiler.",
        "accelerate alpaca-eval datasets filelock gguf h5py httpx huggingface-hub lm-eval nltk numpy openai pandas peft"
        " psutil pyarrow pydantic pyyaml sacrebleu safetensors scikit-learn scipy setuptools tenacity tensorboardx"
        " tokenizers torch tqdm transformers trl",
        conda="bubblewrap cxx-compiler",
        lists=("deepspeed.txt", "cuda.txt"),
    ),
    "vllm": Environment(
        "Answers by vLLM on GPUs, and lm-eval by it. Apart from train.yaml because vLLM wants other versions of"
        " some packages than the lock has; where it does is said at the pin.",
        "accelerate filelock lm-eval numpy peft psutil pyarrow safetensors torch transformers",
        conda="cxx-compiler",
        lists=("vllm.txt",),
    ),
}


def trainers(material: str) -> tuple[str, ...]:
    """Return the modules that train on this."""
    return tuple(f"align.{method}" for method in methods_on(material))


def scorers(*materials: str) -> tuple[str, ...]:
    """Return the modules that score one of these: answers, likelihoods, rewards."""
    return tuple(dict.fromkeys(f"score.{kind.scorer}" for kind in BENCHMARKS if kind.scores in materials))


# What a rule runs where its text names no whole module: which ones it may be.
CHOSEN = {
    "simulate_source": ("download.simulate_dialogues", "download.simulate_rows"),
    **{rule: trainers(material) for material, rule in TRAINED_BY.items() if material != "tokens"},
    "score_answers": scorers("answers"),
    "measure_likelihoods": tuple(f"score.{kind.measured_by}" for kind in BENCHMARKS if kind.measured_by),
    "score_measured": scorers("likelihoods", "rewards"),
}
# Loaded by name, by what the study's engine is: {module: {environment: what it loads there}}.
LOADED = {
    "generate.answer": {"train": "generate.engine", "vllm": "generate.vllm_engine"},
    "score.harness.run": {"train": "score.harness.by_transformers", "vllm": "score.harness.by_vllm"},
}


class Pin(NamedTuple):
    """One pinned distribution and where it stands."""

    file: Path
    line: int
    version: str
    why: str
    """The comment behind it."""


class Rule(NamedTuple):
    """What the text of one rule says."""

    name: str
    file: Path
    line: int
    """Of its conda directive."""
    environments: tuple[str, ...]
    modules: tuple[str, ...]


def read_pins(path: Path) -> dict[str, Pin]:
    """Return {distribution: its pin} of a list, a conda YAML or an Apptainer definition."""
    pins = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for found in PIN.finditer(line) if path.suffix == ".def" else filter(None, [PIN.match(line)]):
            name = canonicalize_name(found["name"])
            pins[name] = Pin(path, number, found["version"], found["why"] or "")
    return pins


def required_by(roots: str, without: set[str]) -> set[str]:
    """Return these distributions and all that they require on this platform; `without` is not followed."""
    found: dict[str, set[str]] = {}
    waiting = [Requirement(root) for root in roots.split()]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in without or (name in found and wanted.extras <= found[name]):
            continue
        extras = found.setdefault(name, set()) | wanted.extras
        found[name] = extras
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            raise PlumblineError(
                f"{name} is not installed, so what it requires is not known; run envs/install.sh first"
            ) from None
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
                waiting.append(requirement)
    return set(found)


def planned_pins(name: str, envs: Path) -> dict[str, tuple[str, str]]:
    """Return {distribution: (version, why it is not the lock's)} of an environment."""
    lock = read_pins(envs / LOCK)
    own: dict[str, Pin] = {}
    for listed in ENVIRONMENTS[name].lists:
        own |= read_pins(envs / listed)
    # A wheel that we do not install (vLLM) says itself what it requires; its list holds that too.
    wanted = required_by(ENVIRONMENTS[name].roots, without=own.keys() - lock.keys())
    unknown = sorted(wanted - lock.keys() - own.keys())
    if unknown:
        raise PlumblineError(f"{name}.yaml needs {', '.join(unknown)}, which envs/{LOCK} does not pin")
    pins = {}
    for distribution in sorted(wanted | own.keys()):
        pin = own.get(distribution) or lock[distribution]
        pins[distribution] = (pin.version, pin.why if distribution in own else "")
    return pins


def render(name: str, envs: Path) -> str:
    """Return the text of a conda YAML."""
    environment = ENVIRONMENTS[name]
    made = "Made from the lock by python -m workflow_scripts.plan.environments --write; not to be edited."
    lines = [f"# {line}" for line in [*textwrap.wrap(environment.purpose, 110, break_on_hyphens=False), made]]
    lines += [
        f"name: plumbline-{name}" if name != "plumbline" else "name: plumbline",
        "channels: [conda-forge]",
    ]
    lines += ["dependencies:", f"  - python={PYTHON}", "  - pip"]
    lines += [f"  - {package}" for package in environment.conda.split()]
    lines.append("  - pip:")
    for distribution, (version, why) in planned_pins(name, envs).items():
        lines.append(f"      - {distribution}=={version}" + (f"  # {why}" if why else ""))
    return "\n".join(lines) + "\n"


def read_rules(rules: Path) -> list[Rule]:
    """Return every rule of the .smk files that has an environment or runs a module of ours."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(rules.glob("*.smk"))}
    constants: dict[str, str] = {}
    for text in texts.values():
        constants |= dict(re.findall(r"^([A-Z_]+) = (.+(?:\n[ )].*)*)", text, re.MULTILINE))

    def spelled_out(text: str, depth: int = 3) -> str:
        """Return text with each constant that it names replaced by the expression which gives it its value."""
        for _ in range(depth):
            text = re.sub(r"\b[A-Z][A-Z_]+\b", lambda name: constants.get(name[0], name[0]), text)
        return text

    found = []
    for path, text in texts.items():
        for start in re.finditer(r"^(?:rule|checkpoint) (\w+):.*$", text, re.MULTILINE):
            body = re.split(r"^\S", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
            command = spelled_out(body.partition("    shell:")[2])
            modules = {
                *re.findall(rf"{PACKAGE}\.([a-z_]+(?:\.[a-z_]+)+)", command),
                *CHOSEN.get(start[1], ()),
            }
            directive = re.search(r"^    conda:\s*(.*)$", body, re.MULTILINE)
            environments = re.findall(r"([\w-]+)\.ya?ml", spelled_out(directive[1])) if directive else []
            if directive or command:
                line = text.count("\n", 0, start.end() + (directive.start(1) if directive else 0)) + 1
                found.append(Rule(start[1], path, line, tuple(environments), tuple(sorted(modules))))
    return found


@functools.cache
def distributions() -> dict[str, str]:
    """Return {name to import: the distribution that has it} of what is installed."""
    return {
        name: canonicalize_name(held[0]) for name, held in importlib.metadata.packages_distributions().items()
    }


@functools.cache
def imported_by(ours: str) -> frozenset[str]:
    """Return the distributions that one module of ours imports, anywhere in its text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module_file(ours).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    foreign = found - sys.stdlib_module_names - {PACKAGE}
    return frozenset(distributions().get(name, canonicalize_name(name)) for name in foreign)


def disagreeing_pins(envs: Path) -> list[str]:
    """Return what is wrong with the pins of the lists, the YAMLs and the Apptainer definition."""
    lock = read_pins(envs / LOCK)
    problems = []
    for path in sorted([*envs.glob("*.txt"), *envs.glob("*.yaml"), *envs.glob("*.def")]):
        if path.name == LOCK:
            continue
        environment = ENVIRONMENTS.get(path.stem) if path.suffix == ".yaml" else None
        listed = (
            {name for part in environment.lists for name in read_pins(envs / part)} if environment else set()
        )
        for name, pin in read_pins(path).items():
            where = f"{path}:{pin.line}"
            locked = lock.get(name)
            if locked and locked.version != pin.version and not pin.why:
                problems.append(
                    f"{where}: {name}=={pin.version}, but {envs / LOCK}:{locked.line} has {locked.version};"
                    " take that, or say behind it, as a comment, why this tool-chain needs another"
                )
            if environment and not locked and name not in listed:
                problems.append(
                    f"{where}: {name} is pinned neither in {envs / LOCK} nor in a list of this tool-chain"
                )
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if path.suffix == ".txt" and re.match(r"[A-Za-z0-9]", line) and not PIN.match(line):
                problems.append(f"{path}:{number}: {line.split('#')[0].strip()} is not pinned to one version")
            copied = re.fullmatch(r"\s+(envs/\S+)\s+\S+", line) if path.suffix == ".def" else None
            if copied and not (envs.parent / copied[1]).is_file():
                problems.append(f"{path}:{number}: {copied[1]} does not exist")
    return problems


def stale_environments(envs: Path) -> dict[Path, str]:
    """Return {YAML: what it should hold} of those that hold something else."""
    made = {envs / f"{name}.yaml": render(name, envs) for name in ENVIRONMENTS}
    return {
        path: text
        for path, text in made.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }


def misplaced_rules(rules: Path, envs: Path) -> list[str]:
    """Return what is wrong with the environments that rules name."""
    problems = []
    for rule in read_rules(rules):
        where = f"{rule.file}:{rule.line}: rule {rule.name}"
        if not rule.environments:
            problems.append(f"{where} names no file under envs/ in a conda directive")
        if not rule.modules:
            problems.append(
                f"{where} names no module whole; say in CHOSEN ({__name__}) which ones it may run"
            )
        for name in rule.environments:
            if not (envs / f"{name}.yaml").is_file():
                problems.append(f"{where}: {envs / name}.yaml does not exist")
                continue
            provided = read_pins(envs / f"{name}.yaml").keys()
            loaded = [LOADED[module][name] for module in rule.modules if name in LOADED.get(module, ())]
            lacking = {
                distribution: ours
                for module in [*rule.modules, *loaded]
                for ours in code_of(f"{PACKAGE}.{module}")
                for distribution in imported_by(ours) - provided
            }
            if lacking:
                wanted = ", ".join(
                    f"{distribution} ({ours})" for distribution, ours in sorted(lacking.items())
                )
                problems.append(f"{where} imports what envs/{name}.yaml lacks: {wanted}")
    return problems


def find_problems(root: Path) -> list[str]:
    """Return every disagreement between the lock, the lists, the YAMLs, the Apptainer definition and the rules."""
    envs = root / "envs"
    problems = disagreeing_pins(envs)
    problems += [
        f"{path}: not what the lock makes of it; run python -m {PACKAGE}.plan.environments --write"
        for path in stale_environments(envs)
    ]
    return problems + misplaced_rules(root / "rules", envs)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    doing = parser.add_mutually_exclusive_group(required=True)
    doing.add_argument("--check", action="store_true", help="write nothing; name every disagreement")
    doing.add_argument("--write", action="store_true", help="write the YAMLs anew")
    arguments = parser.parse_args(argv)
    if arguments.write:
        for path, text in stale_environments(ROOT / "envs").items():
            with finished_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    elif problems := find_problems(ROOT):
        raise PlumblineError(
            f"{len(problems)} disagreements between the environments and the lock\n"
            + "\n".join(problem.replace(f"{ROOT}/", "") for problem in problems)
        )


if __name__ == "__main__":
    run(main)
