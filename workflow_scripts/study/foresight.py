"""What a study's keys alone say of how its run would go: where it would fail after hours, learn nothing, or mislead.

A finding is certain (the run would fail, or a number be wrong: a mistake) or a doubt (a warning). Nothing is read but the
study; what takes a look at the machine is in `machine`. Names that refer to nothing are the business of `study`.
"""

import graphlib
import math
import re
import string
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from workflow_scripts.common.tutor_reply import FIELDS, LABELS
from workflow_scripts.study.benchmarks import Benchmark
from workflow_scripts.study.benchmarks.answered import Rewards, TextOverlap, Tutor
from workflow_scripts.study.benchmarks.harness import LmEval
from workflow_scripts.study.benchmarks.judged import AlpacaEval, JudgedPreference, JudgeScore, MtBench
from workflow_scripts.study.benchmarks.measured import PairPerplexity, ReplyLoss
from workflow_scripts.study.benchmarks.programs import Programs
from workflow_scripts.study.judges import OpenAIJudge
from workflow_scripts.study.lineage import Policy, files_of
from workflow_scripts.study.methods import Run
from workflow_scripts.study.methods.offline import OfflineRl
from workflow_scripts.study.methods.online import Online, Ppo, Rloo
from workflow_scripts.study.methods.sft import Sft
from workflow_scripts.study.mistakes import nearest, unknown
from workflow_scripts.study.pairs import Pairs, RankedPairs
from workflow_scripts.study.reading import named, shown
from workflow_scripts.study.rewards import GivenReward, Reward, RuleReward
from workflow_scripts.study.sampling import Sampling
from workflow_scripts.study.sources import RowSimulation, Source
from workflow_scripts.study.study import Study

LITTLE_ROOM = 64  # tokens for a prompt and its template
RANKED = (
    "hh",
    "rewarded",
    "judged_pairs",
    "preferences",
    "alpaca_preferences",
    "sharegpt_preferences",
    "labelled",
)
KNOWING = ("rewarded", "hh")  # rows whose meta may have the knowledge that a reply is held to
READ_OF = {  # settings of a dataset: the schemas whose rows are read by them
    "drop_fields": ("tutorbot",),
    "replace_na": ("tutorbot",),
    "reply_format": ("tutorbot",),
    "reject_colon": ("hh",),
}
SHARDED = ("fsdp", "zero3", "zero3-offload")  # each GPU has a part of the weights
SHOWS_TRAINING = (TextOverlap, ReplyLoss)  # these may look at what was learned: memorisation, overfitting
TO_FILL_IN = "0" * 40
BLANK = re.compile(r"OWNER|\byour[-_]|<[^>]*>|\bTODO\b|\bXXX\b")
MOVING = re.compile(r"[/@](main|master|latest|HEAD|nightly)(/|$)")


class Finding(NamedTuple):
    """What is to be said about a value of the study: certainly wrong, or in doubt."""

    certain: bool
    text: str


def wrong(path: str, text: str) -> Finding:
    return Finding(True, f"{path}: {text}")


def doubt(path: str, text: str) -> Finding:
    return Finding(False, f"{path}: {text}")


def foreseen(study: Study, policies: dict[str, Policy]) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts) of a study whose parts the schema accepts, by path; `policies` {} where unknown."""
    found = [
        *room_for_answers(study, policies),
        *longer_than_context(study, policies),
        *keys_that_go_together(study),
        *named_twice(study),
        *resources_that_do_not_fit(study),
        *splits_without_rows(study),
        *files_of_splits(study),
        *held_out_in_a_circle(study),
        *validated_on_what_is_learned(study),
        *trainings_of_one_step(study),
        *data_of_another_kind(study),
        *settings_without_effect(study),
        *models_without_weights(study),
        *rewards_out_of_reach(study),
        *cells_there_are_none_of(study),
        *nothing_to_report(study),
        *tests_that_were_learned(study),
        *blanks(study),
        *unpinned(study),
    ]
    return [item.text for item in found if item.certain], [item.text for item in found if not item.certain]


# --- lengths ----------------------------------------------------------------------------------------------------------


def models_trained_by(run: str, study: Study, policies: dict[str, Policy]) -> list[str]:
    """Return the base models of the policies that a run makes."""
    return [name for name in study.models if any(p.run == run and p.model == name for p in policies.values())]


def prompt_sets(
    study: Study, policies: dict[str, Policy]
) -> Iterator[tuple[str, Sampling | Online, list[str]]]:
    """Yield (path, how it is answered, the base models of those who answer) of each set of prompts."""
    for name, benchmark in study.benchmarks.items():
        if benchmark.prompt_kind:
            yield f"benchmarks.{name}", benchmark, list(study.models)
    for section, parts in (("pairs", study.pairs), ("values", study.values)):
        for name, part in parts.items():
            if isinstance(part, RankedPairs) or getattr(part, "targets", "generated") != "generated":
                continue
            key = section.removesuffix("s") if section == "values" else section
            users = [run for run, each in study.runs.items() if getattr(each, key, None) == name]
            models = {model for run in users for model in models_trained_by(run, study, policies)}
            yield f"{section}.{name}", part, sorted(models)
    for name, run in study.runs.items():
        if isinstance(run, Online):
            yield f"runs.{name}", run, models_trained_by(name, study, policies)


def room_for_answers(study: Study, policies: dict[str, Policy]) -> Iterator[Finding]:
    """Find answers that would leave a prompt no room in a model's context."""
    for path, part, models in prompt_sets(study, policies):
        for model in models:
            context = study.models[model].context
            room, asked = context - part.max_new_tokens, f"{path}.max_new_tokens"
            if room < 1:
                yield wrong(
                    asked,
                    f"{part.max_new_tokens} leaves a prompt no room in the context of {context} (models.{model}.context); "
                    "ask for fewer",
                )
            elif room < LITTLE_ROOM:
                yield doubt(
                    asked,
                    f"{part.max_new_tokens} leaves a prompt {room} tokens of the context of {context} "
                    f"(models.{model}.context): longer prompts are cut",
                )


def lengths(study: Study, policies: dict[str, Policy]) -> Iterator[tuple[str, int, list[str], bool]]:
    """Yield (path, the longest row in tokens, the base models that read it, whether every row is that long)."""
    for name, reward in study.reward_models.items():
        yield f"reward_models.{name}.max_tokens", reward.max_tokens, [reward.parent], False
    for name, value in study.values.items():
        users = [run for run, each in study.runs.items() if getattr(each, "value", None) == name]
        models = [model for run in users for model in models_trained_by(run, study, policies)]
        yield f"values.{name}.max_prompt_tokens", value.max_prompt_tokens, models, False
    for name, run in study.runs.items():
        models, path = models_trained_by(name, study, policies), f"runs.{name}.max_tokens"
        pairs = getattr(run, "pairs", None)
        if isinstance(run, Sft):
            yield path, run.max_tokens, models, run.objective == "lm"
        elif isinstance(run, OfflineRl):
            yield path, run.max_tokens, models, False
        elif isinstance(run, Online):
            longest = run.max_prompt_tokens + run.max_new_tokens
            yield f"runs.{name}.max_prompt_tokens + max_new_tokens", longest, models, False
        elif pairs in study.pairs:
            yield f"pairs.{pairs}.max_tokens", study.pairs[pairs].max_tokens, models, False
    for name, benchmark in study.benchmarks.items():
        if isinstance(benchmark, ReplyLoss | PairPerplexity):
            yield f"benchmarks.{name}.max_tokens", benchmark.max_tokens, list(study.models), False


def longer_than_context(study: Study, policies: dict[str, Policy]) -> Iterator[Finding]:
    """Find rows that may be longer than the context of the model that reads them."""
    found: dict[str, Finding] = {}
    for path, longest, models, always in lengths(study, policies):
        for model in models:
            context = study.models[model].context if model in study.models else longest
            if longest > context:
                say = wrong if always else doubt
                found[path] = say(
                    path,
                    f"{longest} is more than the context of {context} (models.{model}.context): "
                    + ("every block" if always else "a row that long")
                    + " is read at positions the model has not; lower it",
                )
    yield from found.values()


# --- keys that go together --------------------------------------------------------------------------------------------


def keys_that_go_together(study: Study) -> Iterator[Finding]:
    """Find numbers that exclude each other, and prompts for a judge that cannot be filled in."""
    for section in ("pairs", "values", "benchmarks"):
        for name, part in getattr(study, section).items():
            if isinstance(part, Sampling) and part.min_new_tokens > part.max_new_tokens:
                yield wrong(
                    f"{section}.{name}.min_new_tokens",
                    f"{part.min_new_tokens} is more than max_new_tokens {part.max_new_tokens}",
                )
    for name, run in study.runs.items():
        if isinstance(run, Ppo) and run.rollout_batch % (run.batch_size or 1):
            yield wrong(
                f"runs.{name}.rollout_batch",
                f"{run.rollout_batch} is no multiple of batch_size {run.batch_size}",
            )
        if isinstance(run, Rloo) and (run.batch_size or 1) % run.num_generations:
            yield wrong(
                f"runs.{name}.batch_size",
                f"{run.batch_size} is no multiple of num_generations {run.num_generations}",
            )
    for name, benchmark in study.benchmarks.items():
        yield from of_a_benchmark(f"benchmarks.{name}", benchmark, study)
    for name, judge in study.judges.items():
        if isinstance(judge, OpenAIJudge) and judge.base_url is not None:
            yield from of_an_address(f"judges.{name}.base_url", judge.base_url)


def of_an_address(path: str, url: str) -> Iterator[Finding]:
    """Find what keeps an endpoint from being asked, in its address."""
    if not re.match(r"https?://[^/]", url):
        yield wrong(path, f"must begin with http:// or https://, not {url!r}")
        return
    try:
        host = urlsplit(url).hostname
        urlsplit(url).port  # noqa: B018 - raises where it is none
    except ValueError as error:
        yield wrong(path, f"is no address ({error}): {url!r}")
        return
    if not host or re.search(r"\s", url):
        yield wrong(path, f"is no address: {url!r}")


def named_twice(study: Study) -> Iterator[Finding]:
    """Find lists that name a thing twice: it would be read, asked, scored or drawn twice, or make two of one name."""
    lists: list[tuple[str, list]] = [("seeds", study.seeds)]
    for name, dataset in study.datasets.items():
        lists.append((f"datasets.{name}.files", dataset.files))
    for name, annotation in study.annotations.items():
        lists.append((f"annotations.{name}.splits", annotation.splits))
    for name, benchmark in study.benchmarks.items():
        for key in ("k", "temperatures", "shots", "metrics"):
            if isinstance(found := getattr(benchmark, key, None), list):
                lists.append((f"benchmarks.{name}.{key}", found))
    for path, entries in lists:
        if len(set(entries)) < len(entries):
            yield wrong(path, f"each once, not {entries}")
    cells: set[tuple] = set()
    for index, entry in enumerate(study.report.published):
        cell = (entry.policy, entry.benchmark, entry.subset, entry.metric)
        if cell in cells:
            yield wrong(f"report.published[{index}]", f"{' '.join(filter(None, cell))} stands there already")
        cells.add(cell)
    for index, pair in enumerate(study.report.agreement):
        if len(set(pair)) < len(pair):
            yield wrong(f"report.agreement[{index}]", f"{pair[0]!r} with itself: name two benchmarks")


def resources_that_do_not_fit(study: Study) -> Iterator[Finding]:
    """Find trainings that cannot run on the GPUs that the study asks for."""
    asked = study.training_resources
    for name, run in study.runs.items():
        if isinstance(run, Ppo) or not run.quantise:
            continue
        if asked.gpu > 1 and asked.parallel in SHARDED:
            yield wrong(
                f"runs.{name}.quantise",
                f"nf4 needs whole weights on each GPU, and training_resources.parallel is {asked.parallel}: take ddp or "
                "zero2",
            )
        if not asked.gpu:
            yield doubt(
                f"runs.{name}.quantise",
                "nf4 needs CUDA, and training_resources.gpu is 0: ask for one, unless a profile does",
            )


def of_a_benchmark(path: str, benchmark: Benchmark, study: Study) -> Iterator[Finding]:
    """Find keys of one benchmark that exclude each other."""
    if isinstance(benchmark, Tutor) and benchmark.samples > 1:
        yield wrong(f"{path}.samples", f"the tutor is scored on one answer, not {benchmark.samples}")
    if isinstance(benchmark, Programs):
        if max(benchmark.k, default=1) > benchmark.samples:
            yield wrong(
                f"{path}.k",
                f"pass@{max(benchmark.k)} needs as many samples, and there are {benchmark.samples}",
            )
        if not benchmark.k:
            yield wrong(f"{path}.k", "names no k, so nothing would be scored")
        if benchmark.samples > 1 and 0.0 in (benchmark.temperatures or [benchmark.temperature]):
            yield doubt(f"{path}.samples", "at temperature 0 all samples of a prompt are alike")
    if isinstance(benchmark, LmEval) and benchmark.humaneval in study.benchmarks:
        counted = study.benchmarks[benchmark.humaneval]
        if isinstance(counted, Programs) and 1 not in counted.k:
            yield wrong(f"benchmarks.{benchmark.humaneval}.k", f"{path} counts its pass@1: add 1")
    if isinstance(benchmark, JudgeScore) and benchmark.prompt is not None:
        try:
            asked = {
                field for _, field, _, _ in string.Formatter().parse(benchmark.prompt) if field is not None
            }
        except ValueError as error:
            yield wrong(f"{path}.prompt", f"{error}; write {{{{ and }}}} for braces")
            return
        for field in sorted(asked - {"prompt", "reference", "answer"}):
            yield wrong(
                f"{path}.prompt", f"has {{{field}}}; there are {{prompt}}, {{reference}} and {{answer}}"
            )
        if "answer" not in asked:
            yield wrong(f"{path}.prompt", "has no {answer}, so the judge would not see what it judges")


# --- rows -------------------------------------------------------------------------------------------------------------


def learned_splits(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield (path of what learns, dataset, split) of all training data."""
    for name, reward in study.reward_models.items():
        if reward.dataset in study.datasets:
            yield f"reward_models.{name}", reward.dataset, reward.split
    for section in ("values", "runs"):
        for name, part in getattr(study, section).items():
            learned = study.pairs.get(getattr(part, "pairs", None) or "", part)
            annotation = study.annotations.get(getattr(learned, "annotation", None) or "")
            dataset = annotation.dataset if annotation else getattr(learned, "dataset", None)
            if dataset in study.datasets and hasattr(learned, "split"):
                yield f"{section}.{name}", dataset, learned.split


def tested_splits(study: Study) -> Iterator[tuple[str, Benchmark, str, str]]:
    """Yield (path, benchmark, dataset, split) of the benchmarks that ask a dataset's prompts."""
    for name, benchmark in study.benchmarks.items():
        annotation = study.annotations.get(getattr(benchmark, "annotation", None) or "")
        dataset = annotation.dataset if annotation else getattr(benchmark, "dataset", None)
        if dataset in study.datasets:
            yield f"benchmarks.{name}", benchmark, dataset, benchmark.split


def splits_without_rows(study: Study) -> Iterator[Finding]:
    """Find splits that are used though their quota is 0."""
    used = [(path, dataset, split) for path, _, dataset, split in tested_splits(study)]
    for path, dataset, split in [*learned_splits(study), *used]:
        if study.datasets[dataset].split.quotas.get(split) == 0:
            yield wrong(f"{path}.split", f"datasets.{dataset}.split.quotas.{split} is 0, so it has no rows")


def files_of_splits(study: Study) -> Iterator[Finding]:
    """Find files that are in no split or in several, and splits without a file, where splits are made of files."""
    for name, dataset in study.datasets.items():
        path = f"datasets.{name}.split.by_file"
        placed = [file for files in dataset.split.by_file.values() for file in files]
        for split, files in dataset.split.by_file.items():
            if not files:
                yield wrong(f"{path}.{split}", "names no file, so it has no rows")
        for file in dict.fromkeys(placed):
            if placed.count(file) > 1:
                yield wrong(path, f"{file!r} stands there twice: name every file in exactly one split")
        for file in dataset.files if placed else ():
            if file not in placed:
                yield wrong(path, f"{file!r} is in no split: name every file in exactly one split")


def held_out_in_a_circle(study: Study) -> Iterator[Finding]:
    """Find datasets each of which is to be made after the other, as either keeps the other's groups out."""
    needs = {
        name: {held_out.partition("/")[0] for held_out in dataset.exclude_groups_of}
        for name, dataset in study.datasets.items()
    }
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        yield wrong(
            f"datasets.{circle[-1]}.exclude_groups_of",
            f"a circle ({' → '.join(reversed(circle))}): one of them has to be made first",
        )


def validated_on_what_is_learned(study: Study) -> Iterator[Finding]:
    """Find trainings that keep the best checkpoint by the loss of rows they learn from."""
    for name, run in study.runs.items():
        if run.keep == "best" and getattr(run, "validation", None) == getattr(run, "split", ""):
            yield doubt(
                f"runs.{name}.validation",
                f"{run.split!r} is what it learns from, so keep: best keeps what knows these rows best",
            )


def most_rows(study: Study, name: str, split: str) -> int | None:
    """Return how many conversations a split has at most, or None where only the data tell."""
    dataset = study.datasets.get(name)
    if dataset is None:
        return None
    source, bounds = study.sources.get(dataset.source), [dataset.split.limit]
    if split in dataset.split.quotas:
        bounds.append(dataset.split.quotas[split] * (len(dataset.files) if dataset.split.per_file else 1))
    if dataset.subset:
        bounds.append(dataset.subset.rows)
    if source and isinstance(source.simulate, RowSimulation):
        bounds.append(source.simulate.count)
    return min((bound for bound in bounds if bound is not None), default=None)


def steps_of(run: Run, rows: int | None) -> int | None:
    """Return the optimiser steps of a training on so many rows (packs, pairs); None where they are not known."""
    if run.max_steps or rows is None:
        return run.max_steps
    return math.ceil(math.ceil(rows / (run.batch_size or 1)) * run.epochs)


def learns_nothing(run: Run, steps: int | None) -> bool:
    """Tell whether so many steps are all at learning rate 0: a warm-up of any length begins with one of these."""
    return steps is not None and steps <= 1 and run.warmup > 0 and run.schedule != "constant"


def trainings_of_one_step(study: Study) -> Iterator[Finding]:
    """Find runs whose only step is the first of their warm-up, where the learning rate is 0."""
    for name, run in study.runs.items():
        rows = None
        if isinstance(run, Sft) and run.objective != "lm" and run.dataset in study.datasets:
            by_turn = (
                study.datasets[run.dataset].history_turns is not None
            )  # then a conversation is several rows
            rows = None if by_turn else most_rows(study, run.dataset, run.split)
        pairs = study.pairs.get(getattr(run, "pairs", None) or "")
        if isinstance(pairs, Pairs) and pairs.limit:
            rows = pairs.limit * pairs.samples
        if learns_nothing(run, steps_of(run, rows)):
            why = f"at most {rows} rows make one step" if not run.max_steps else "max_steps is 1"
            yield wrong(
                f"runs.{name}",
                f"learns nothing: {why}, and a warm-up's first step has the learning rate 0; give it more steps "
                "(a smaller batch_size, more epochs) or warmup: 0.0",
            )


def data_of_another_kind(study: Study) -> Iterator[Finding]:
    """Find pairs, rewards and benchmarks that the rows of their dataset cannot give."""
    structured = [(f"pairs.{name}", part) for name, part in study.pairs.items() if isinstance(part, Pairs)]
    structured += [
        (f"benchmarks.{name}", part) for name, part in study.benchmarks.items() if isinstance(part, Tutor)
    ]
    for path, part in structured:
        dataset = study.datasets.get(part.dataset)
        if dataset and dataset.data_schema != "tutorbot":
            yield wrong(
                f"{path}.dataset",
                f"compares the labels of structured replies (schema tutorbot), and {part.dataset!r} has rows of schema "
                f"{dataset.data_schema}"
                + ("; name an annotation of ranked answers" if path.startswith("pairs") else ""),
            )
    for name, pairs in study.pairs.items():
        annotation = study.annotations.get(pairs.annotation) if isinstance(pairs, RankedPairs) else None
        dataset = study.datasets.get(annotation.dataset) if annotation else None
        if dataset and dataset.data_schema not in RANKED:
            yield wrong(
                f"pairs.{name}.annotation",
                f"ranks several answers to a prompt, and rows of schema {dataset.data_schema} have one; "
                f"these have more: {', '.join(RANKED)}",
            )
        elif dataset and dataset.data_schema == "labelled" and pairs.by == "rank":
            yield wrong(
                f"pairs.{name}.by",
                "answers labelled good or bad came in no order: give by: reward, of their labels",
            )
    for name, run in study.runs.items():
        dataset = study.datasets.get(run.dataset) if isinstance(run, Sft) else None
        if dataset and dataset.data_schema in RANKED:
            yield wrong(
                f"runs.{name}.dataset",
                f"rows of schema {dataset.data_schema} are prompts with ranked answers, none of which it would learn, or "
                "all of them: method nll learns the preferred ones of an annotation, and dpo, pro … the order of pairs",
            )
    for name, annotation in study.annotations.items():
        dataset = study.datasets.get(annotation.dataset)
        for key, reward in annotation.rewards.items():
            if (
                getattr(reward, "text", None) == "knowledge"
                and dataset
                and dataset.data_schema not in KNOWING
            ):
                yield wrong(
                    f"annotations.{name}.rewards.{key}.text",
                    f"rows of schema {dataset.data_schema} bring no knowledge to talk about; these may: "
                    + ", ".join(KNOWING),
                )
            if isinstance(reward, GivenReward) and dataset and dataset.data_schema not in RANKED:
                yield wrong(
                    f"annotations.{name}.rewards.{key}.given",
                    f"rows of schema {dataset.data_schema} come with no rewards; these may: {', '.join(RANKED)}",
                )


def settings_without_effect(study: Study) -> Iterator[Finding]:
    """Find settings of datasets that rows of their schema do not read, and names of fields and labels there are none of."""
    structured = [
        (f"benchmarks.{name}", part)
        for name, part in study.benchmarks.items()
        if isinstance(part, PairPerplexity)
    ]
    for name, dataset in study.datasets.items():
        path, schema = f"datasets.{name}", dataset.data_schema
        if schema == "tutorbot":
            structured.append((path, dataset))
        for key, schemas in READ_OF.items():
            given = getattr(dataset, key) != type(dataset).model_fields[key].default
            if given and schema not in schemas:
                yield doubt(
                    f"{path}.{key}", f"is read of rows of schema {', '.join(schemas)} alone, not of {schema}"
                )
    for path, part in structured:
        for field in part.drop_fields:
            if field in FIELDS:
                yield doubt(
                    f"{path}.drop_fields", f"a reply without {field!r} is unusable: all would be rejected"
                )
        for field, label in part.replace_na.items():
            if field not in LABELS:
                yield doubt(
                    f"{path}.replace_na.{named(field)}",
                    f"no label stands in a field called {shown(field)}{nearest(field, LABELS)}: nothing is replaced",
                )
            elif label not in LABELS[field]:
                yield doubt(
                    f"{path}.replace_na.{named(field)}",
                    f"{shown(label)} is no label, so each such turn is unusable (there are: {', '.join(LABELS[field])})",
                )


def models_without_weights(study: Study) -> Iterator[Finding]:
    """Find models of format hf whose source has not what makes one."""
    for name, model in study.models.items():
        source = study.sources.get(model.source)
        files = files_of(source) if source else None
        if model.format != "hf" or files is None:
            continue
        if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
            yield wrong(
                f"models.{name}.source",
                f"a model of format hf is config.json and *.safetensors, and {model.source!r} has {', '.join(files)}",
            )


def rewards_out_of_reach(study: Study) -> Iterator[Finding]:
    """Find value heads whose annotation can give rewards that no value can be: below 0, or above max_value."""
    for name, value in study.values.items():
        annotation = study.annotations.get(value.annotation)
        rewards = annotation.rewards if annotation else {}
        for key, reward in rewards.items():
            if reward.weight < 0:
                yield doubt(
                    f"annotations.{value.annotation}.rewards.{key}.weight",
                    f"{reward.weight:g} may make final_reward less than 0, and values.{name} has no value there: it "
                    "would stop",
                )
        if all(between_0_and_1(reward) for reward in rewards.values()):
            most = sum(max(0.0, reward.weight) for reward in rewards.values())
            if most > value.max_value * (1 + 1e-9):
                yield doubt(
                    f"values.{name}.max_value",
                    f"{value.max_value:g}, and the rewards of {value.annotation!r} may add up to {most:g}: it would stop",
                )


def between_0_and_1(reward: Reward) -> bool:
    """Tell whether nothing but 0 to 1 can come of a reward, before it is weighed."""
    if isinstance(reward, GivenReward):
        return reward.squash == "sigmoid"
    return (
        isinstance(reward, RuleReward)
        or reward.squash == "sigmoid"
        or reward.label is not None
        or reward.head == "critic"
    )


# --- cells ------------------------------------------------------------------------------------------------------------


class Cells(NamedTuple):
    """The (subset, metric) cells a benchmark can have; `any_subset`: these metrics in any subset."""

    named: list[tuple[str, str]]
    any_subset: tuple[str, ...] = ()


def across(subsets: list[str], metrics: list[str]) -> list[tuple[str, str]]:
    return [(subset, metric) for subset in subsets for metric in metrics]


def cells_of(benchmark: Benchmark, study: Study) -> Cells | None:
    """Return the cells that a benchmark can have in results.csv; None where only the harness's tasks tell."""
    if isinstance(benchmark, Tutor):
        labels = across(["evaluation", "action", "state"], ["accuracy", "macro_f1"])
        return Cells([*labels, *across(["reply"], ["exact_labels", "valid_json", "parsed", "finished"])])
    if isinstance(benchmark, PairPerplexity):
        subsets = [f"action{actions}" for actions in ("1", "2", "4", "5", "1+4", "2+5")]
        return Cells(across(subsets, ["perplexity"]))
    if isinstance(benchmark, Programs):
        several = len(set(benchmark.temperatures)) > 1
        subsets = [f"T={at:g}" for at in benchmark.temperatures] + ["best"] if several else ["all"]
        return Cells(across(subsets, [f"pass@{k}" for k in benchmark.k]))
    if isinstance(benchmark, MtBench):
        if benchmark.mode == "single":
            return Cells(across(["overall"], ["rating", "failed", "off_scale"]), ("rating",))
        rates = ["win_rate_adjusted", "win_rate", "loss_rate", "failed"]
        return Cells(across(["overall"], rates), ("win_rate_adjusted",))
    if isinstance(benchmark, AlpacaEval):
        controlled = "lc_win_rate" if benchmark.gamed else "lc_win_rate_minimal"
        judged = [
            "win_rate",
            "discrete_win_rate",
            *([controlled] if benchmark.length_controlled else []),
            "failed",
        ]
        return Cells(across(["overall"], ["length", *(judged if benchmark.evaluate else [])]))
    if isinstance(benchmark, JudgeScore):
        return Cells(across(["overall"], ["score", "failed"]))
    if isinstance(benchmark, JudgedPreference):
        return Cells(across(["overall"], ["win_rate", "wins", "ties", "losses", "failed"]))
    if isinstance(benchmark, ReplyLoss):
        return Cells(across(["reply"], ["nll_per_token", "perplexity"]))
    diversity = [f"distinct_{n}_per_answer" for n in (1, 2, 3)]
    if isinstance(benchmark, Rewards):
        annotation = study.annotations.get(benchmark.annotation)
        columns = [*(annotation.rewards if annotation else []), "final_reward"]
        return Cells([*across(columns, ["reward"]), *across(["text"], ["words", *diversity])])
    if isinstance(benchmark, TextOverlap):
        of_corpus = [f"distinct_{n}" for n in (1, 2, 3)]
        more = {"distinct": [*diversity, *of_corpus], "length": ["words", "tokens"]}
        return Cells(across(["all"], [name for key in benchmark.metrics for name in more.get(key, [key])]))
    return None


def cells_there_are_none_of(study: Study) -> Iterator[Finding]:
    """Find bars and published values of cells that their benchmark cannot have."""
    for section in ("bars", "published"):
        for index, entry in enumerate(getattr(study.report, section)):
            benchmark = study.benchmarks.get(entry.benchmark)
            cells = cells_of(benchmark, study) if benchmark else None
            if (
                cells is None
                or (entry.subset, entry.metric) in cells.named
                or entry.metric in cells.any_subset
            ):
                continue
            path = f"report.{section}[{index}]"
            every = list(dict.fromkeys(metric for _, metric in cells.named))
            subsets = list(dict.fromkeys(subset for subset, _ in cells.named))
            metrics = [metric for subset, metric in cells.named if subset == entry.subset]
            if entry.metric not in every:
                yield wrong(f"{path}.metric", unknown(entry.metric, every, f"metric of {entry.benchmark!r}"))
            elif not metrics:
                yield wrong(
                    f"{path}.subset", unknown(entry.subset, subsets, f"subset of {entry.benchmark!r}")
                )
            else:
                what = f"metric of {entry.benchmark!r} in subset {entry.subset!r}"
                yield wrong(f"{path}.metric", unknown(entry.metric, metrics, what))


def nothing_to_report(study: Study) -> Iterator[Finding]:
    """Find studies without a score, which have no table, and comparisons of judges where none judges."""
    if not study.benchmarks:
        yield doubt(
            "benchmarks",
            "there are none, so there is no table: `snakemake policies` makes the policies, and all else stops at the end",
        )
    for index, pair in enumerate(study.report.agreement):
        for name in pair:
            benchmark = study.benchmarks.get(name)
            if benchmark and not benchmark.is_judged():
                yield doubt(f"report.agreement[{index}]", f"{name!r} asks no judge: nothing will be compared")


# --- what was learned before it is asked --------------------------------------------------------------------------------


def contents_of(source: str, files: list[str], study: Study) -> set[str]:
    """Return what tells a source's files apart: their sha256, else where they are read from."""
    part = study.sources.get(source)
    if part is None:
        return set()
    local = {name: path for place in part.places if place.file for name, path in place.file.files.items()}
    return {part.files.get(file) or local.get(file) or f"{source}/{file}" for file in files}


def files_of_split(dataset: str, split: str, study: Study) -> set[str]:
    """Return what tells the files apart that a split's rows come from."""
    part = study.datasets[dataset]
    return contents_of(part.source, part.split.by_file.get(split, part.files), study)


def tests_that_were_learned(study: Study) -> Iterator[Finding]:
    """Find benchmarks that ask what a run was trained on, or rows of the same file that nothing keeps apart."""
    learned = list(dict.fromkeys((dataset, split) for _, dataset, split in learned_splits(study)))
    by = {(dataset, split): path for path, dataset, split in reversed(list(learned_splits(study)))}
    for path, benchmark, dataset, split in tested_splits(study):
        if isinstance(benchmark, SHOWS_TRAINING):
            continue
        for other, trained in learned:
            where = f"{by[other, trained]} learns from {other}/{trained}"
            if (other, trained) == (dataset, split):
                yield doubt(f"{path}.split", f"{where}, the very rows that are asked: its number is no test")
            elif other != dataset and files_of_split(other, trained, study) & files_of_split(
                dataset, split, study
            ):
                apart = f"{dataset}/{split}" in study.datasets[other].exclude_groups_of
                if not apart and f"{other}/{trained}" not in study.datasets[dataset].exclude_groups_of:
                    yield doubt(
                        f"{path}.split",
                        f"{where}, made of the same file as {dataset}/{split}; keep them apart with "
                        f"datasets.{other}.exclude_groups_of: [{dataset}/{split}]",
                    )
    for name, benchmark in study.benchmarks.items():
        source = getattr(benchmark, "source", None)
        asked = [getattr(benchmark, key, None) for key in ("file", "questions", "prompts")]
        own = contents_of(source, [file for file in asked if file], study) if source else set()
        for other, trained in learned:
            if own & files_of_split(other, trained, study):
                yield doubt(
                    f"benchmarks.{name}.source",
                    f"{by[other, trained]} learns from {other}/{trained}, the same file",
                )


# --- what is still to be filled in ----------------------------------------------------------------------------------------


def names_of_places(source: Source) -> Iterator[tuple[str, str]]:
    """Yield (path below the source, text) of what names a place."""
    for index, place in enumerate(source.places):
        path = f"places[{index}]"
        if place.hf:
            yield f"{path}.hf.repo", place.hf.repo
        if place.https:
            for name, url in place.https.files.items():
                yield f"{path}.https.files.{name}", url
        for kind in ("pypi", "npm"):
            if packed := getattr(place, kind):
                yield f"{path}.{kind}.package", packed.package
                yield f"{path}.{kind}.version", packed.version
        if place.file:
            for name, file in place.file.files.items():
                yield f"{path}.file.files.{name}", file


def blanks(study: Study) -> Iterator[Finding]:
    """Find what is still to be filled in before a study can run."""
    for name, source in study.sources.items():
        for index, place in enumerate(source.places):
            if place.hf and place.hf.revision == TO_FILL_IN:
                yield doubt(
                    f"sources.{name}.places[{index}].hf.revision",
                    "to be filled in before it can run: forty zeros are no commit",
                )
        for path, text in names_of_places(source):
            if BLANK.search(text):
                yield doubt(f"sources.{name}.{path}", f"to be filled in before it can run: {text!r}")
        for file, sha256 in source.files.items():
            if sha256 is not None and len(set(sha256)) == 1:
                yield doubt(
                    f"sources.{name}.files.{file}",
                    "to be filled in before it can run: no file has this sha256",
                )
    for name, judge in study.judges.items():
        for key in ("model", "base_url"):
            if isinstance(judge, OpenAIJudge) and BLANK.search(getattr(judge, key) or ""):
                yield doubt(
                    f"judges.{name}.{key}", f"to be filled in before it can run: {getattr(judge, key)!r}"
                )


def unpinned(study: Study) -> Iterator[Finding]:
    """Find what may be something else tomorrow: files without a sha256 that no commit pins, names that move."""
    for name, source in study.sources.items():
        by_commit = {file for place in source.places if place.hf for file in place.hf.files or source.files}
        elsewhere = {file for place in source.places if not place.hf for file in files_at(place)}
        for file, sha256 in source.files.items():
            if sha256 is None and (file in elsewhere or file not in by_commit):
                yield doubt(
                    f"sources.{name}.files.{file}",
                    "has no sha256: nothing tells it from another file of this name",
                )
        for path, text in names_of_places(source):
            pinned = path.rpartition(".files.")[2] if ".https.files." in path else None
            moves = MOVING.search(text) if pinned else path.endswith(".version") and text.lower() == "latest"
            if moves and not source.files.get(pinned or ""):
                yield doubt(f"sources.{name}.{path}", f"{text!r} moves: name a commit or an exact version")
    for name, judge in study.judges.items():
        if isinstance(judge, OpenAIJudge) and not judge.version and re.search(r"\blatest$", judge.model):
            yield doubt(f"judges.{name}.model", f"{judge.model!r} moves: name an exact model, or its version")


def files_at(place: object) -> list[str]:
    """Return the names that a place gives."""
    kinds = [getattr(place, kind) for kind in ("https", "pypi", "npm", "file")]
    return [name for kind in kinds if kind for name in kind.files]
