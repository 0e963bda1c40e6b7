"""Whether the weights of a study fit into the GPUs that its jobs get: parameters × bytes, by how a training is shared.

Weights that are trained are held in 32 bits: 4 bytes of weight, 4 of gradient, 8 of AdamW's moments (2 in its
8-bit kinds) for each parameter. Beside them torch's DistributedDataParallel holds the gradients once more, in the
buckets that it sends, and DeepSpeed's second stage each process's part of the weights, which its optimiser steps.
Activations come on top, and nobody knows them beforehand: weights that fit just so are a doubt, and those that do not
are a mistake. What GPUs there are, the profile says (`gpu_memory_gb`), or else the machine, if it has any.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.place import ROOT
from workflow_scripts.study.findings import Finding, doubt, sorted_out, wrong
from workflow_scripts.study.lineage import Policy, known_policies, parents_of
from workflow_scripts.study.methods import TRAINED_BY
from workflow_scripts.study.methods.online import Online
from workflow_scripts.study.methods.sft import Sft
from workflow_scripts.study.reading import read_yaml
from workflow_scripts.study.study import Study
from workflow_scripts.study.training import PolicyTraining, Training

GB = 1e9
TIGHT = 0.8  # of a GPU: what weights may take before there is a doubt that activations have room
LARGEST_HEADER = 2**27  # bytes that the header of a file of safetensors may have

UNKNOWN = (
    "is not given, and its files do not tell: say how many weights it has, and GPUs are held against them"
)

# What a GPU holds for each parameter that is trained, in bytes, by the GPUs that share it and the bytes of its moments.
SHARED: dict[str, Callable[[int, float], float]] = {
    "ddp": lambda gpus, moments: 8 + moments + (4 if gpus > 1 else 0),
    "fsdp": lambda gpus, moments: (8 + moments) / gpus,
    "zero2": lambda gpus, moments: 4 + (8 + moments) / gpus,
    "zero3": lambda gpus, moments: (8 + moments) / gpus,
    "zero2-offload": lambda gpus, moments: 4 + 4 / gpus,
    "zero3-offload": lambda gpus, moments: 4 / gpus,
}
SHARES_WEIGHTS = ("fsdp", "zero3", "zero3-offload")

TRAINERS = {*TRAINED_BY.values(), "train_reward_model"}

Look = Callable[[Study], tuple[list[str], list[str]]]
Profile = Mapping[
    str, Mapping[str, Any]
]  # rule: resource: what a profile says; under "", what it says of all rules


class Share(NamedTuple):
    """The GPUs of one training, and how they share it; `whole_at_first`: each process reads all weights before."""

    gpus: int
    parallel: str
    whole_at_first: bool = False

    def bytes_trained(self, moments: float) -> float:
        """Return the bytes that a GPU holds for each parameter that is trained, when it holds most of them."""
        return self._at_least(SHARED[self.parallel](self.gpus, moments))

    def bytes_frozen(self) -> float:
        """Return the bytes that a GPU holds for each parameter that is not trained beside adapters."""
        return self._at_least(4 / self.gpus if self.parallel in SHARES_WEIGHTS else 4.0)

    def _at_least(self, held: float) -> float:
        """Return what is held where ZeRO may have been given whole weights, which it shares out on the GPU."""
        return max(held, 4.0) if self.whole_at_first and self.parallel != "fsdp" else held


def parameters_of(study: Study, name: str) -> int | None:
    """Return how many weights a model has by the study, else by its files; None where neither tells."""
    model = study.models[name]
    if model.parameters:
        return round(model.parameters)
    source = study.sources.get(model.source)
    for place in source.places if source and model.format == "hf" else ():
        files = place.file.files if place.file else {}
        found = [weights_in(ROOT / path) for file, path in files.items() if file.endswith(".safetensors")]
        if found and None not in found:
            return sum(count for count in found if count is not None)
    return None


def weights_in(path: Any) -> int | None:
    """Return how many numbers a file of safetensors holds, by its header; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= LARGEST_HEADER else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    shapes = [part.get("shape") for key, part in header.items() if key != "__metadata__"]
    return sum(math.prod(shape) for shape in shapes if isinstance(shape, list))


class Trained(NamedTuple):
    """One training of a study: its path there, the rule that trains it, and the models that it may start from."""

    path: str
    rule: str
    training: Training
    models: set[str]


def trainings_of(study: Study, policies: dict[str, Policy]) -> Iterator[Trained]:
    """Yield every training of a study."""
    for name, run in study.trainings().items():
        models = {policy.model for policy in policies.values() if policy.run == name}
        yield Trained(f"runs.{name}", TRAINED_BY[run.learns_from], run, models)
    for name, reward in study.reward_models.items():
        yield Trained(f"reward_models.{name}", "train_reward_model", reward, {reward.parent})


def bytes_a_parameter(training: Training, share: Share) -> float:
    """Return the bytes that each GPU of a training holds for each parameter of its base model."""
    if isinstance(training, PolicyTraining) and training.quantise:
        held = 0.5 + 0.1  # four bits, their scales, and what is not quantised
    elif isinstance(training, PolicyTraining) and training.lora:
        held = share.bytes_frozen()
    else:
        held = share.bytes_trained(2.0 if training.optimizer.endswith("8bit") else 8.0)
    beside = isinstance(training, Online) and not training.lora
    if isinstance(training, Sft):
        beside = training.kl is not None
    return held + (4.0 if beside else 0.0)  # a frozen parent


def read_profile(folder: Path | str) -> Profile:
    """Return what a profile's config.yaml says of jobs; PlumblineError where there is none."""
    path = Path(folder) / "config.yaml" if Path(folder).is_dir() else Path(folder)
    values = read_yaml(path)
    rules = values.get("set-resources") or {}
    return with_threads({"": values.get("default-resources") or {}, **rules}, values.get("set-threads") or {})


def said_in(settings: Any) -> Profile:
    """Return what Snakemake's resource settings say of jobs: what a profile or the command line gave."""

    def plain(words: Any) -> dict[str, Any]:
        return {name: getattr(word, "raw", word) for name, word in dict(words or {}).items()}

    rules = {rule: plain(words) for rule, words in dict(settings.overwrite_resources).items()}
    return with_threads({"": plain(settings.default_resources), **rules}, plain(settings.overwrite_threads))


def with_threads(profile: dict[str, Any], threads: Mapping[str, Any]) -> Profile:
    """Return a profile with the CPUs that it gives jobs, by rule, among what it says of them."""
    return profile | {rule: {**profile.get(rule, {}), "threads": count} for rule, count in threads.items()}


def said_of(profile: Profile, rule: str) -> dict[str, Any]:
    """Return what a profile says of the jobs of a rule."""
    return {**profile.get("", {}), **profile.get(rule, {})}


def number_in(value: Any) -> float | None:
    """Return the number above 0 that a profile's value is, written as one or as a text; None for any other."""
    try:
        found = float(value) if not isinstance(value, bool) else 0.0
    except (TypeError, ValueError):
        return None
    return found if 0 < found < math.inf else None


def memory_of(profile: Profile, rule: str) -> float | None:
    """Return the memory of a GPU of a rule's jobs in GB, if a profile says it as a number."""
    return number_in(said_of(profile, rule).get("gpu_memory_gb"))


def what_cannot_be_read(profile: Profile) -> Iterator[Finding]:
    """Find what a profile says of GPUs in a manner that nothing can be held against."""
    for rule, words in profile.items():
        where = f"the profile's {'set-resources.' + rule if rule else 'default-resources'}"
        if words.get("gpu_memory_gb") is not None and number_in(words["gpu_memory_gb"]) is None:
            yield wrong(f"{where}.gpu_memory_gb", f"is no number of GB above 0: {words['gpu_memory_gb']!r}")
        if rule in TRAINERS and number_in(words.get("gpu", 1)) is None and words.get("gpu") not in (0, "0"):
            yield doubt(
                f"{where}.gpu",
                f"{words['gpu']!r} is known when a job starts: weights are held against the study's GPUs",
            )


def gpus_of(said: Mapping[str, Any], asked: int) -> int:
    """Return the GPUs of a job: those that a profile says of it, else those that the study asks for."""
    given = 0 if said.get("gpu") in (0, "0") else number_in(said.get("gpu"))
    return asked if given is None else int(given)


def share_of(study: Study, trained: Trained, profile: Profile) -> Share:
    """Return the GPUs that a training has by study and profile."""
    said, asked = said_of(profile, trained.rule), study.training_resources
    gpus = gpus_of(said, asked.gpu)
    whole = isinstance(trained.training, PolicyTraining) and trained.training.whole_on_each
    parallel = said["parallel"] if said.get("parallel") in SHARED else asked.parallel
    return Share(gpus, "ddp" if whole else parallel, reads_whole(study, trained))


def reads_whole(study: Study, trained: Trained) -> bool:
    """Tell whether a training may start from what each process reads whole: code of its own, or adapters left alone.

    A part of a multimodal model is read so, too: only its files tell, which need not be here.
    """
    run = study.runs.get(trained.path.removeprefix("runs."))
    parents = [study.runs[name] for name in parents_of(run) if name in study.runs] if run else []
    adapters = [getattr(parent, "lora", None) for parent in parents]
    return any(study.models[name].trust_remote_code for name in trained.models) or any(
        lora and not lora.merge for lora in adapters
    )


def trainings_that_do_not_fit(
    study: Study, policies: dict[str, Policy], profile: Profile, counts: dict[str, int]
) -> Iterator[Finding]:
    """Find trainings whose weights are more than the GPUs they get, each with the largest model that it starts from."""
    for trained in trainings_of(study, policies):
        share, memory = share_of(study, trained, profile), memory_of(profile, trained.rule)
        models = sorted(trained.models & counts.keys())
        if not models or not share.gpus or memory is None:
            continue
        model = max(models, key=counts.__getitem__)
        beside = vllm_beside(trained.training)
        held = counts[model] * (4 if trained.training.precision == "float32" else 2) / GB
        if beside and held > TIGHT * beside * memory:
            yield too_much(
                f"{trained.path}.gpu_memory_share",
                f"vLLM beside the training holds {written(counts[model])}",
                held,
                beside * memory,
                "raise it, or leave engine: vllm out",
                f"the {beside * memory:g} GB of a GPU that are its own",
            )
        memory *= 1 - beside
        room = f"the {memory:g} GB of a GPU that vLLM leaves" if beside else ""
        needed = counts[model] * bytes_a_parameter(trained.training, share) / GB
        if needed > TIGHT * memory:
            over = f"over {share.gpus} GPUs by {share.parallel}" if share.gpus > 1 else "on one GPU"
            said = f"trains {written(counts[model])} of {model!r} {over}"
            instead = remedy(counts[model], trained.training, share, memory)
            yield too_much(trained.path, said, needed, memory, instead, room)


def vllm_beside(training: Training) -> float:
    """Return the share of each GPU that vLLM takes beside a training."""
    return training.gpu_memory_share if isinstance(training, Online) and training.engine == "vllm" else 0.0


def readers_that_do_not_fit(study: Study, profile: Profile, counts: dict[str, int]) -> Iterator[Finding]:
    """Find models that are too large for the GPUs on which one engine answers; of several each has its part of them."""
    memory, said = memory_of(profile, "answer_prompts"), said_of(profile, "answer_prompts")
    asked = study.generation_resources
    gpus = gpus_of(said, asked.gpu)
    shards = int(number_in(said.get("shards")) or asked.shards)
    over = max(1, gpus // shards) if study.engine.name == "vllm" and gpus else min(1, gpus)
    a_weight = 4 if study.engine.precision == "float32" else 2
    for model, count in counts.items():
        if memory is None or not over:
            continue
        needed = count * a_weight / over / GB
        if needed > TIGHT * memory:
            yield too_much(
                f"models.{model}",
                f"answers with {written(count)} on {over} GPU{'s' * (over > 1)}",
                needed,
                memory,
                "take engine: {name: vllm} and more GPUs in generation_resources (for each shard), or a smaller "
                "model",
            )


def too_much(path: str, said: str, needed: float, memory: float, instead: str, room: str = "") -> Finding:
    """Return what is to be said of weights that take more of a GPU than there is, or all but all of it.

    room: in words, what of a GPU `memory` is, where it is not all of one.
    """
    if needed > memory:
        return wrong(path, f"{said}: {needed:.0f} GB on {room or f'a GPU of {memory:g} GB'}; {instead}")
    where = room or f"a GPU's {memory:g} GB"
    return doubt(path, f"{said}: {needed:.0f} GB of {where}, which leaves little for activations; {instead}")


def written(count: int) -> str:
    """Return a number of weights as it is said."""
    return f"{count / 1e9:.3g} billion weights" if count >= 1e8 else f"{count:,} weights"


def remedy(count: int, training: Training, share: Share, memory: float) -> str:
    """Return what would make a training fit: the first way of sharing it that does, else what else there is."""
    whole = isinstance(training, PolicyTraining) and (training.quantise or training.whole_on_each)
    for parallel in ("zero2", "fsdp", "zero3-offload") if share.gpus > 1 and not whole else ():
        held = count * bytes_a_parameter(training, share._replace(parallel=parallel)) / GB
        if held <= TIGHT * memory and parallel != share.parallel:
            return f"with training_resources.parallel: {parallel} it would be {held:.0f} GB"
    if whole or not isinstance(training, PolicyTraining):
        return "take a smaller model, or larger GPUs"
    return "take more GPUs with parallel: fsdp or zero3, adapters (lora), or a smaller model"


def fitting(profile: Profile, machine: Callable[[], float | None]) -> Look:
    """Return the look at a study that holds its weights against a profile's GPUs, else against this machine's.

    `machine` returns the memory of this machine's smallest GPU in GB, None where it has none.
    """

    def look(study: Study) -> tuple[list[str], list[str]]:
        wanted = study.training_resources.gpu or study.generation_resources.gpu
        known = any("gpu_memory_gb" in words for words in profile.values())
        here = machine() if wanted and not known else None
        said = {**profile, "": {**profile.get("", {}), "gpu_memory_gb": here}} if here else profile
        if not (wanted and (known or here)):
            return [], []
        counts = {name: parameters_of(study, name) for name in study.models}
        found = list(what_cannot_be_read(profile))
        found += [
            doubt(f"models.{name}.parameters", UNKNOWN) for name, count in counts.items() if count is None
        ]
        told = {name: count for name, count in counts.items() if count is not None}
        policies = known_policies(study) or {}
        found += trainings_that_do_not_fit(study, policies, said, told)
        found += readers_that_do_not_fit(study, said, told)
        return sorted_out(found)

    return look
