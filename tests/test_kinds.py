"""Every kind of benchmark, method, judge and reward says of itself all that the check and the plan will ask of it.

A kind that is half added fails here with a sentence that says what is missing.
"""

import copy
import importlib.util
import inspect
import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from tests.workflow import ROOT
from workflow_scripts.common.code import locked_versions
from workflow_scripts.generate.prompts import BUILDERS
from workflow_scripts.study.basics import plain_name, plain_path
from workflow_scripts.study.benchmarks import BENCHMARKS
from workflow_scripts.study.benchmarks.kind import Kind
from workflow_scripts.study.checking import examine
from workflow_scripts.study.datasets import SCHEMAS
from workflow_scripts.study.judges import Judge, JudgeKind, OpenAIJudge
from workflow_scripts.study.methods import METHODS
from workflow_scripts.study.mistakes import models_in, tag_of
from workflow_scripts.study.part import Part
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.rewards import Reward
from workflow_scripts.study.sampling import Sampling
from workflow_scripts.study.study import SECTIONS, Study
from workflow_scripts.study.training import PolicyTraining

JUDGES = models_in(Judge)
REWARDS = models_in(Reward)
HANDED = {"benchmark", "seed", "fidelity"}  # to a scorer, beside keys
# Texts that name something in the study or on the machine, and texts that name nothing a check could look for.
NAMING = {
    *(
        "source",
        "dataset",
        "split",
        "validation",
        "fit_split",
        "annotation",
        "pairs",
        "value",
        "template",
        "asked_in",
        "preset",
    ),
    *("judge", "opponent", "humaneval", "parent", "of", "model", "rank"),
}
FREE = {"system_prompt", "url_token", "input_heading", "prompt", "version", "base_url", "given", "start"}
FREE |= {"between", "input", "verdict"}
FREE |= {"hf", "hf_config", "hf_split", "revision"}  # what a hub has is looked up before names are
FREE |= {"license"}
FREE |= {"default_system", "api_key_env", "annotator"}  # a look at the machine knows the annotators


def module(name: str) -> bool:
    """Tell whether there is such a module below workflow_scripts."""
    return importlib.util.find_spec(f"workflow_scripts.{name}") is not None


def facts_of(kind: type) -> set[str]:
    """Return the names of the facts that the bases of a kind promise."""
    return {
        name
        for base in kind.__mro__
        for name, type_ in inspect.get_annotations(base).items()
        if get_origin(type_) is ClassVar and base.__module__.startswith("workflow_scripts.")
    }


def unsaid(kind: type) -> Iterator[str]:
    """Yield a sentence for each method and each fact that a kind leaves open."""
    for name in sorted(getattr(kind, "__abstractmethods__", ())):
        yield f"has no method {name}()"
    for name in sorted(facts_of(kind)):
        if not hasattr(kind, name):
            yield f"does not say {name}"


def no_keys_of(kind: type, fact: str, more: set[str] = frozenset()) -> Iterator[str]:
    """Yield a sentence for each name in a fact that is no key of the kind."""
    for name in getattr(kind, fact):
        if name not in kind.model_fields and name not in more:
            yield f"{fact} has {name!r}, which is no key of it"


def faults_of_benchmark(kind: type[Kind]) -> list[str]:
    """Return a sentence for all that is missing or at odds in what a kind of benchmark says of itself."""
    faults = list(unsaid(kind))
    if faults:
        return faults
    for fact in ("files", "each_once", "asks_in_words", "measured_keys"):
        faults += no_keys_of(kind, fact)
    faults += no_keys_of(kind, "scorer_keys", HANDED)
    if kind.fidelity_alters and "fidelity" not in kind.model_fields:
        faults.append("fidelity_alters metrics, and there is no key fidelity")
    faults += no_keys_of(kind, "asks") if kind.asks is not None else ()
    if not module(f"score.{kind.scorer}"):
        faults.append(f"scorer {kind.scorer!r} is no module of workflow_scripts/score")
    if kind.measured_by and not module(f"score.{kind.measured_by}"):
        faults.append(f"measured_by {kind.measured_by!r} is no module of workflow_scripts/score")
    if (kind.scores == "likelihoods") != bool(kind.measured_by) or bool(kind.measured_by) != bool(
        kind.measured_keys
    ):
        faults.append("scores likelihoods, measured_by and measured_keys go together")
    if (kind.scores in ("answers", "rewards")) != bool(kind.prompt_kind):
        faults.append("prompt_kind and scores answers (or rewards) go together")
    if kind.prompt_kind and kind.prompt_kind not in BUILDERS:
        faults.append(f"generate.prompts knows no prompt_kind {kind.prompt_kind!r}")
    if bool(kind.prompt_kind) != issubclass(kind, Sampling):
        faults.append("prompt_kind and the keys of Sampling go together")
    if kind.prompt_file and kind.prompt_file not in kind.files:
        faults.append(f"prompt_file {kind.prompt_file!r} is not among its files")
    if kind.prompt_kind and not kind.prompt_file and "split" not in kind.model_fields:
        faults.append("has neither a prompt_file nor a split whose turns are its prompts")
    if kind.files and "source" not in kind.model_fields:
        faults.append("has files and no key source")
    if (kind.asks is not None) != ("judge" in kind.model_fields):
        faults.append("the fact asks and the key judge go together")
    faults += [f"no version of {name} is locked" for name in kind.packages if name not in locked_versions()]
    return faults


def faults_of_method(kind: type[PolicyTraining]) -> list[str]:
    """Return a sentence for all that is missing or at odds in what a method says of itself."""
    faults = list(unsaid(kind))
    if faults:
        return faults
    faults += no_keys_of(kind, "read_before")
    reads = {"tokens": "dataset", "pairs": "pairs", "ranked": "pairs", "rewarded": "annotation"}
    reads["prompts"] = "annotation"
    if kind.learns_from not in reads:
        return [*faults, f"learns_from {kind.learns_from!r} is none of {', '.join(reads)}"]
    for key in ("parent", reads[kind.learns_from]):
        if key not in kind.model_fields:
            faults.append(f"has no key {key}")
    trainer = "sft.train" if kind.learns_from == "tokens" else f"align.{tag_of(kind)}"
    if not module(trainer):
        faults.append(f"{trainer} is no module of workflow_scripts")
    return faults


def faults_of_judge(kind: type[JudgeKind]) -> list[str]:
    """Return a sentence for all that is missing or at odds in what a kind of judge says of itself."""
    faults = list(unsaid(kind))
    if faults:
        return faults
    faults += no_keys_of(kind, "verdict_keys")
    return faults if "kind" in kind.verdict_keys else [*faults, "verdict_keys lacks kind"]


def name_of(kind: type) -> str:
    return kind.__name__


@pytest.mark.parametrize("kind", BENCHMARKS, ids=name_of)
def test_a_kind_of_benchmark_says_all_of_itself(kind):
    assert faults_of_benchmark(kind) == []


@pytest.mark.parametrize("kind", METHODS, ids=name_of)
def test_a_method_says_all_of_itself(kind):
    assert faults_of_method(kind) == []


@pytest.mark.parametrize("kind", JUDGES, ids=name_of)
def test_a_kind_of_judge_says_all_of_itself(kind):
    assert faults_of_judge(kind) == []


@pytest.mark.parametrize("kind", REWARDS, ids=name_of)
def test_a_kind_of_reward_says_all_of_itself(kind):
    assert list(unsaid(kind)) == []


def test_a_half_added_kind_is_told_what_it_lacks():
    class Half(Kind):
        kind: Literal["half"]

    assert faults_of_benchmark(Half) == [
        "has no method cells()",
        "has no method names()",
        "does not say scorer",
        "does not say scorer_keys",
        "does not say scores",
    ]

    class Odd(BENCHMARKS[0]):
        scorer = "nowhere"
        scorer_keys = ("nothing",)
        prompt_kind = "unheard"
        asks = ("judge",)
        packages = ("no-such-package",)

    assert faults_of_benchmark(Odd) == [
        "scorer_keys has 'nothing', which is no key of it",
        "asks has 'judge', which is no key of it",
        "scorer 'nowhere' is no module of workflow_scripts/score",
        "generate.prompts knows no prompt_kind 'unheard'",
        "the fact asks and the key judge go together",
        "no version of no-such-package is locked",
    ]

    class Method(PolicyTraining):
        method: Literal["half"]

    assert faults_of_method(Method) == [
        "has no method is_validated()",
        "has no method names_of_material()",
        "does not say learns_from",
        "does not say read_before",
    ]

    class Renamed(METHODS[1]):
        method: Literal["no_such_method"]

    assert faults_of_method(Renamed) == ["align.no_such_method is no module of workflow_scripts"]

    class Silent(JudgeKind):
        kind: Literal["silent"]

    assert faults_of_judge(Silent) == ["has no method names()", "does not say verdict_keys"]


def below(kind: type) -> Iterator[type]:
    """Yield the classes that stand on a class, at any depth."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


@pytest.mark.parametrize(
    ("base", "key", "known"),
    [(Kind, "kind", BENCHMARKS), (PolicyTraining, "method", METHODS), (JudgeKind, "kind", JUDGES)],
    ids=["benchmarks", "methods", "judges"],
)
def test_a_class_with_a_name_of_its_own_is_one_that_a_study_can_name(base, key, known):
    """Else it lacks in the last line of its family's file."""
    named = {
        kind
        for kind in below(base)
        if kind.__module__.startswith("workflow_scripts.")
        and get_origin(inspect.get_annotations(kind).get(key)) is Literal
    }
    assert {kind.__name__ for kind in named} == {kind.__name__ for kind in known}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("methods", [tag_of(kind) for kind in METHODS]),
        ("evaluation", [tag_of(kind) for kind in BENCHMARKS]),
        ("data", get_args(SCHEMAS)),
    ],
    ids=["methods", "benchmarks", "schemas"],
)
def test_every_method_kind_and_schema_stands_on_its_page(page, names):
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(?:\w+: )?(\w+)`", text))
    assert set(names) - told == set(), f"tell of it in docs/{page}.md"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_key() -> dict:
    config = read_yaml(ROOT / "tests/every_key.yaml")
    for kind in METHODS:
        method = tag_of(kind)
        if not any(run["method"] == method for run in config["runs"].values()):
            config["runs"][f"every-{method}"] = run_of(kind, config["runs"])
    return config


def run_of(kind: type[PolicyTraining], runs: dict[str, dict]) -> dict:
    """Return a run of a method: what it must be given, as runs give it that learn from the like."""
    materials = {tag_of(other): other.learns_from for other in METHODS}
    trained = [run for run in runs.values() if run["method"] in materials]
    alike = sorted(trained, key=lambda run: materials[run["method"]] != kind.learns_from)
    given = {"method": tag_of(kind)}
    for key, field in kind.model_fields.items():
        if field.is_required() and key != "method":
            given[key] = next(run[key] for run in alike if key in run)
    return given


def is_text(annotation: Any) -> bool:
    """Tell whether a key holds a text of any kind: str, or str and something else."""
    if get_origin(annotation) is Annotated:
        return is_text(get_args(annotation)[0])
    either = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return annotation is str or any(is_text(part) for part in either)


def is_file(field: FieldInfo) -> bool:
    """Tell whether a key names a file or a folder."""
    checks = [getattr(part, "func", None) for part in field.metadata]
    for part in get_args(field.annotation):
        checks += [getattr(mark, "func", None) for mark in getattr(part, "__metadata__", ())]
    return plain_path in checks or plain_name in checks


def keys_that_name(part: Part) -> list[str]:
    """Return the keys of a part that name something; AssertionError for a text of which that is not known."""
    found = []
    for key, field in type(part).model_fields.items():
        if is_text(field.annotation):
            names = is_file(field) or (key in NAMING and not isinstance(part, OpenAIJudge))
            known = names or key in FREE or isinstance(part, OpenAIJudge)  # whose model its endpoint knows
            assert known, f"{type(part).__name__}.{key}: name it in NAMING or in FREE"
            found += [key] if names else []
    return found


def test_the_study_of_every_key_has_every_kind(every_key):
    kinds = {part["kind"] for part in every_key["benchmarks"].values()}
    assert {tag_of(kind) for kind in BENCHMARKS} <= kinds, "add a benchmark of it to tests/every_key.yaml"
    assert {tag_of(kind) for kind in JUDGES} <= {part["kind"] for part in every_key["judges"].values()}


def test_a_name_that_refers_to_nothing_is_refused_wherever_a_part_can_hold_one(every_key):
    missed, tried = [], 0
    for section, name, part in Study.model_validate(every_key).parts():
        for key in keys_that_name(part):
            config = copy.deepcopy(every_key)
            config[section][name][key] = "nowhere"
            whole, path = f"{section}.{name}: ", f"{section}.{name}.{key}"
            tried += 1
            if not any(
                line.startswith((whole, path, f"{section}.{name}.grid: "))
                for line in examine(config, folder=ROOT / "tests").wrong
            ):
                missed.append(path)
    assert missed == []
    assert tried > 100


def test_every_entry_of_every_section_is_a_part(every_key):
    parts = list(Study.model_validate(every_key).parts())
    assert {section for section, _, _ in parts} == set(SECTIONS)
    assert [name for _, name, part in parts if not isinstance(part, Part)] == []
