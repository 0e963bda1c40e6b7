"""Every value that a study may choose from has its code: a value without it would do nothing, or something else.

Each Literal of the study that chooses code is held equal to the table that acts on it. A new one fails here until it
is written down with its table.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from pydantic import BaseModel

from workflow_scripts.align import dpo, offline, online, ppo, pro
from workflow_scripts.clean import mix, near_duplicates, selecting, turns, written
from workflow_scripts.clean import settings as cleaning_settings
from workflow_scripts.clean.clean import CLEANERS
from workflow_scripts.clean.reading import SampleBy
from workflow_scripts.clean.schemas import SCHEMAS
from workflow_scripts.clean.schemas.row import Schema
from workflow_scripts.clean.shapes import PATTERNS
from workflow_scripts.common import classifier_heads, reward_columns, reward_rules, reward_texts, tutor_reply
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.training import settings as training_settings
from workflow_scripts.common.training import tracking, watching
from workflow_scripts.download import hub, places, prepare_model, simulate_dialogues, simulate_rows
from workflow_scripts.generate import loading
from workflow_scripts.pairs import build, ranked, samples
from workflow_scripts.report.statistics.cells import FIDELITIES
from workflow_scripts.retrieve import retrieve
from workflow_scripts.score import text_overlap
from workflow_scripts.score.judging import forms, numbers
from workflow_scripts.score.judging import settings as judging_settings
from workflow_scripts.sft import tokenise, train
from workflow_scripts.study import datasets
from workflow_scripts.study.rewards import RuleReward
from workflow_scripts.study.sources import ROW_FILES
from workflow_scripts.study.study import Study
from workflow_scripts.synthesise import write

ROOT = Path(__file__).resolve().parents[1]
SUITES = yaml.safe_load((ROOT / "workflow_scripts/score/harness/suites.yaml").read_text())
HEDGED = {"a", "b", "c"}  # the answers among simulate_dialogues.BEHAVIOURS

TABLES = {
    "Study.fidelity": FIDELITIES,
    "Tutor.fidelity": FIDELITIES,
    "PairPerplexity.fidelity": FIDELITIES,
    "LmEval.fidelity": FIDELITIES,
    "HfPlace.repo_type": hub.REPOSITORIES,
    "Simulation.behaviours": simulate_dialogues.BEHAVIOURS,
    "Simulation.hedge_rates": HEDGED,
    "RowSimulation.rows": simulate_rows.MAKERS,
    "Synthesis.prompt_as": {*write.ROLES, write.RAW},
    "Answer.form": written.FORMS,
    "Model.format": prepare_model.CONVERTERS,
    "Dataset.data_schema": set(SCHEMAS)
    - {"tutorbot_pairs", "tutorbot_raw_pairs"},  # the reply pairs of a benchmark
    "Dataset.shape": {pattern.shape for pattern in PATTERNS},
    "Dataset.sample_by": get_args(SampleBy),
    "Dataset.reply_format": tutor_reply.WRITERS,
    "PairPerplexity.reply_format": {*tutor_reply.WRITERS, turns.RAW},
    "Dataset.group_by": turns.GROUPS,
    "Subset.by": selecting.SUBSETS,
    "NearDuplicates.fields": near_duplicates.FIELDS,
    "NearDuplicates.remove": near_duplicates.FIELDS,
    "NearDuplicates.candidates": near_duplicates.CANDIDATES,
    "Split.order": selecting.ORDERS,
    "Mixture.by": mix.ORDERS,
    "RuleReward.rule": reward_rules.RULES,
    "ClassifierReward.text": reward_texts.TEXTS,
    "ClassifierReward.head": {"sequence", *classifier_heads.HEADS},
    "Engine.name": loading.ENGINES,
    "MtBench.mode": forms.FASTCHAT_NAMES,
    "Pairs.which": build.RULES,
    "Pairs.fidelity": FIDELITIES,
    "TextOverlap.metrics": text_overlap.METRICS,
    "LmEval.suite": SUITES,
    "TrainingResources.tracking": tracking.SINKS,
    "TrainingResources.parallel": {path.stem for path in (ROOT / "envs/accelerate").glob("*.yaml")},
}
KINDS = ("kind", "method")  # these tell the classes of a union apart: see test_study


def literals_in(annotation: Any) -> Iterator[tuple]:
    """Yield the values of each Literal in an annotation."""
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from literals_in(part)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def home_of(model: type[BaseModel], field: str) -> str:
    """Return "Class.field" with the class that declares a field: several inherit it."""
    owner = next(cls for cls in model.__mro__ if field in inspect.get_annotations(cls))
    return f"{owner.__name__}.{field}"


def choices(model: type[BaseModel], seen: set) -> Iterator[tuple[str, set]]:
    """Yield ("Class.field", values) of every Literal of a model and of the models in it."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        if name not in KINDS:
            for values in literals_in(field.annotation):
                yield home_of(model, name), set(values)
        for inner in models_in(field.annotation):
            yield from choices(inner, seen)


CHOICES = dict(choices(Study, set()))
# Chosen by an `if` in the script that reads the key: the values that the script takes, and refuses any other.
TAKEN = {
    "PypiPlace.archive": (places.PypiPlace, "archive"),
    "Training.keep": (training_settings.Training, "keep"),
    "Training.precision": (training_settings.Training, "precision"),
    "PolicyTraining.quantise": (training_settings.PolicyTraining, "quantise"),
    "Sft.overflow": (tokenise.Settings, "overflow"),
    "Sft.objective": (tokenise.Settings, "objective"),
    "Sft.it_mask": (tokenise.Settings, "it_mask"),
    "Sft.im_mask": (tokenise.Settings, "im_mask"),
    "Sft.lm_text": (tokenise.Settings, "lm_text"),
    "Sft.loss_norm": (train.Settings, "loss_norm"),
    "Sft.batch_of": (train.Settings, "batch_of"),
    "Kl.form": (train.Kl, "form"),
    "Dpo.loss": (dpo.Settings, "loss"),
    "Pro.gaps": (pro.Settings, "gaps"),
    "Dpo.logp_reduction": (dpo.Settings, "logp_reduction"),
    "Dataset.duplicates": (cleaning_settings.Settings, "duplicates"),
    "Retrieval.turns": (retrieve.Settings, "turns"),
    "Retrieval.into": (retrieve.Settings, "into"),
    "Dataset.empty_replies": (cleaning_settings.Settings, "empty_replies"),
    "OfflineRl.sampling": (offline.Offline, "sampling"),
    "Online.engine": (online.OnlineTraining, "engine"),
    "Ppo.kl_control": (ppo.Settings, "kl_control"),
    "GivenReward.squash": (reward_columns.GivenReward, "squash"),
    "ClassifierReward.squash": (reward_columns.ClassifierReward, "squash"),
    "RankedPairs.by": (ranked.Settings, "by"),
    "SampledPairs.take": (samples.Settings, "take"),
    "OpenAIJudge.unanswered": (judging_settings.Endpoint, "unanswered"),
    "RuleJudge.rule": (judging_settings.LengthRule, "rule"),
    "Watch.best": (watching.Watching, "best"),
}
# Chosen by the plan (which prompts a value head answers, whose weights are kept), or handed on to a library or a flag
# that refuses any other.
ELSEWHERE = {
    "Study.keep_weights",
    "Sft.backend",
    "SaidPairs.from_",
    "Value.targets",
    "Best.by",
    "BestOf.by",
    "Programs.form",
    "LmEval.dtype",
    "Engine.precision",
}
LIBRARY = {
    "Training.schedule": "SchedulerType",
    "Training.optimizer": "OptimizerNames",
}  # transformers' own names


@pytest.mark.parametrize("where", sorted(TABLES))
def test_the_values_of_a_choice_are_the_keys_of_the_table_that_acts_on_it(where):
    assert CHOICES[where] == set(TABLES[where])


@pytest.mark.parametrize("where", sorted(TAKEN))
def test_the_values_of_a_choice_are_those_that_its_script_takes(where):
    kind, key = TAKEN[where]
    (values,) = literals_in(get_type_hints(kind)[key])
    assert CHOICES[where] == set(values)


def test_every_choice_of_a_study_has_its_table_written_down_here():
    assert set(CHOICES) == {*TABLES, *TAKEN, *ELSEWHERE, *LIBRARY}


def test_values_that_are_handed_on_are_names_that_the_library_knows():
    from transformers import training_args

    for where, name in LIBRARY.items():
        assert CHOICES[where] <= {str(kind.value) for kind in getattr(training_args, name)}


def test_what_holds_for_a_schema_beside_its_reader_holds_where_it_is_named():
    assert set(CLEANERS) == set(get_args(Schema.__annotations__["kind"]))
    assert set(datasets.RANKED) == {name for name, schema in SCHEMAS.items() if schema.kind == "ranked"}
    assert set().union(*datasets.READ_OF.values(), datasets.KNOWING) <= set(SCHEMAS)


def test_simulated_rows_have_files_here_and_in_the_study():
    assert set(simulate_rows.MAKERS) == set(simulate_rows.FILES) == set(ROW_FILES)
    assert {kind: list(files) for kind, files in simulate_rows.FILES.items()} == ROW_FILES


def test_judges_that_answer_by_numbers_are_those_that_are_no_endpoint():
    assert set(numbers.SHARES) == set(numbers.PREFERENCES) == {"rule", "reward_model"}


def test_a_key_of_a_rules_reward_is_read_by_some_rule_and_what_a_rule_reads_is_a_key():
    read = {key for rule in reward_rules.RULES.values() for key in rule.reads}
    assert RuleReward.model_fields.keys() - {"rule", "weight"} == read


def test_a_reward_rule_that_is_not_there_is_an_error():
    with pytest.raises(PlumblineError, match=r"no rule 'grammar'; there are .*length"):
        reward_columns.column_of({"rule": "grammar"}, [])
