"""What a look at the machine says of how a study would run: its files, the judges' keys, the harness's tasks.

Only the head of a run and `check` look, once: nothing here is a part of the study, so the jobs of a cluster, which read
the study again, need not. Nothing is fetched, and neither torch nor the harness is imported.
"""

import contextlib
import importlib.util
import io
import ipaddress
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from workflow_scripts.common.asking.verdict_store import read_recorded
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import pin_of, read_jsonl
from workflow_scripts.common.place import ROOT
from workflow_scripts.common.programs.sandbox import SandboxMissing, find_sandbox
from workflow_scripts.generate.given import check_rows
from workflow_scripts.generate.prompts import prompt_set
from workflow_scripts.study.benchmarks.answered import TextOverlap
from workflow_scripts.study.benchmarks.judged import AlpacaEval
from workflow_scripts.study.datasets import Dataset
from workflow_scripts.study.findings import Finding, doubt, sorted_out, wrong
from workflow_scripts.study.harness_tasks import harness_tasks
from workflow_scripts.study.lineage import known_policies
from workflow_scripts.study.messages import named, nearest, shown
from workflow_scripts.study.models import Model
from workflow_scripts.study.pairs import SampledPairs
from workflow_scripts.study.sources import Source
from workflow_scripts.study.study import Study
from workflow_scripts.study.synthesis import unknown_fields
from workflow_scripts.study.template_ends import lacking, local_tokens
from workflow_scripts.study.watch import Watch

CHEAP = 64 * 2**20  # bytes of a file that is hashed or counted before the first job
CHARACTERS = 4  # to a token, roughly
# What pip installs of the packages that the lock does not have, by `training_resources.tracking`.
TRACKERS = {"wandb": "wandb", "mlflow": "mlflow-skinny", "trackio": "trackio"}
WORDNET = [f"{kind}.{part}" for part in ("noun", "verb", "adj", "adv") for kind in ("index", "data")]


def seen(study: Study) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts) about a checked study on this machine, by path."""
    found = [
        *local_files(study),
        *models_as_they_are(study),
        *lacking(study, lambda name: local_tokens(study, study.models[name], ROOT)),
        *folders(study),
        *checkpoints(study),
        *prompts_here(study),
        *answers_here(study),
        *fields_here(study),
        *few_packs(study),
        *missing_deepspeed(study),
        *missing_vllm(study),
        *missing_trackers(study),
        *missing_sandbox(study),
        *recordings(study),
        *unset_keys(study, [*asked_judges(study), *writers(study), *answerers(study)]),
        *harness_tasks(study),
        *annotators(study),
    ]
    return sorted_out(found)


# --- files ------------------------------------------------------------------------------------------------------------


def local_files(study: Study) -> Iterator[Finding]:
    """Find files of this machine that are not there, or not what was pinned, and wanted files that no place gives."""
    for name, source in study.sources.items():
        for index, place in enumerate(source.places):
            if place.file:
                last = len(source.places) == 1
                yield from files_of_place(
                    f"sources.{name}.places[{index}].file.files", place.file.files, source, last
                )
        yield from ungiven(f"sources.{name}", source)


def files_of_place(path: str, files: dict[str, str], source: Source, last: bool) -> Iterator[Finding]:
    """Find what is wrong with the files of one place; `last`: there is no other to ask."""
    say = wrong if last else doubt
    for file, where in files.items():
        at, here = ROOT / where, f"{path}.{named(file)}"
        if source.files and file not in source.files:
            yield doubt(here, f"is not among the source's files{nearest(file, source.files)}")
        elif not os.path.exists(at):
            if not last:  # else the names' check has said so
                yield doubt(here, f"no such file {shown(where)}: the next place is asked")
        elif not os.path.isfile(at):
            yield say(here, f"{shown(where)} is no file")
        elif not os.access(at, os.R_OK):
            yield say(here, f"{shown(where)} cannot be read")
        elif (pinned := source.files.get(file)) and at.stat().st_size <= CHEAP:
            if (found := pin_of(at, pinned)) != pinned:
                yield say(here, f"{shown(where)} is {found}, not what the source pins")
        elif at.stat().st_size == 0:
            yield say(here, f"{shown(where)} is empty")


def ungiven(path: str, source: Source) -> Iterator[Finding]:
    """Find wanted files that no place names."""
    given: set[str] = set()
    for place in source.places:
        kind = next(part for part in (place.hf, place.https, place.pypi, place.npm, place.file) if part)
        if place.hf and not place.hf.files:
            return  # the whole repository
        given |= kind.files.keys()
    if not source.files and source.places and not any(place.hf for place in source.places):
        yield wrong(
            f"{path}.files", "names none, and only a repository of the hub can be taken whole: name them"
        )
    for file in source.files if source.places else ():
        if file not in given:
            yield wrong(f"{path}.files.{named(file)}", f"no place has it{nearest(file, given)}")


def sizes_of(model: Model, study: Study) -> dict:
    """Return what the config.json of a model says of its language part; {} where none is on this machine to be read."""
    source = study.sources.get(model.source)
    paths = [place.file.files.get("config.json") for place in source.places if place.file] if source else []
    if model.format != "hf" or not paths or paths[0] is None:
        return {}
    try:
        found = json.loads((ROOT / paths[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the making of the model says what is wrong with it
        return {}
    own = found.get("text_config", found) if isinstance(found, dict) else None
    return own if isinstance(own, dict) else {}


def models_as_they_are(study: Study) -> Iterator[Finding]:
    """Find what models of this machine cannot do by their own account: be as long as is said, take a value head."""
    policies = known_policies(study) or {}
    for name, model in study.models.items():
        sizes = sizes_of(model, study)
        positions = sizes.get("max_position_embeddings") or sizes.get("n_positions")
        if isinstance(positions, int) and model.context > positions:
            yield doubt(
                f"models.{name}.context",
                f"{model.context} is more than the {positions} positions of its config.json: "
                "it has not learned what is longer, or cannot read it at all",
            )
        width = sizes.get("hidden_size") or sizes.get("n_embd")
        for key, value in study.values.items():
            users = {run for run, each in study.runs.items() if ("values", key) in each.uses()}
            on_it = any(policy.run in users and policy.model == name for policy in policies.values())
            if isinstance(width, int) and on_it and width % value.heads:
                yield wrong(
                    f"values.{key}.heads", f"{value.heads} do not divide the width {width} of models.{name}"
                )


def folders(study: Study) -> Iterator[Finding]:
    """Find folders that do not hold what they are named for."""
    measures = {f"benchmarks.{name}": part for name, part in study.benchmarks.items()}
    measures |= {f"runs.{name}.watch": run.watch for name, run in study.trainings().items()}
    for path, part in measures.items():
        folder = part.wordnet if isinstance(part, TextOverlap | Watch) else None
        if folder and os.path.exists(ROOT / folder):
            absent = [file for file in WORDNET if not os.path.isfile(ROOT / folder / file)]
            if absent:
                yield wrong(f"{path}.wordnet", f"{shown(folder)} lacks {', '.join(absent)} of WordNet")


def checkpoints(study: Study) -> Iterator[Finding]:
    """Find folders to be adopted that hold no model as safetensors, and no adapter."""
    for policy, folders in study.adopt.items():
        by_seed = folders if isinstance(folders, dict) else {"": folders}
        for seed, folder in by_seed.items():
            path = f"adopt.{policy}.{seed}".rstrip(".")
            if not os.path.exists(ROOT / folder):
                continue  # the names' check has said so
            held = set(os.listdir(ROOT / folder)) if os.path.isdir(ROOT / folder) else set()
            whole = "config.json" in held and any(name.endswith(".safetensors") for name in held)
            if not whole and not {"adapter_config.json", "adapter_model.safetensors"} <= held:
                yield wrong(
                    path,
                    f"{shown(folder)} is no checkpoint: it needs config.json and *.safetensors, or PEFT's "
                    "adapter_config.json and adapter_model.safetensors",
                )


def file_here(study: Study, source: str | None, file: str | None) -> Path | None:
    """Return a file of a source, or of the repository where there is none; None where this machine has not got it."""
    here = file
    if source:
        places = study.sources[source].places if source in study.sources else []
        local = [place.file.files[file] for place in places if place.file and file in place.file.files]
        here = local[0] if local else None
    return ROOT / here if here and os.path.isfile(ROOT / here) else None


def is_the_only_place(study: Study, source: str | None) -> bool:
    """Tell whether a run can read nothing but the file here: the repository's, or that of a source's one place."""
    return source is None or len(study.sources[source].places) == 1


def prompts_here(study: Study) -> Iterator[Finding]:
    """Find files of this machine that make no prompts: what the run would say of them, and warn of."""
    for name, benchmark in study.benchmarks.items():
        path = file_here(study, *(benchmark.item_file() or (None, None)))
        if path is None or not benchmark.prompt_kind or path.stat().st_size > CHEAP:
            continue
        at = f"benchmarks.{name}.{benchmark.prompt_file}"
        more = {key: getattr(benchmark, key) for key in ("shots", "form") if hasattr(benchmark, key)}
        if references := getattr(benchmark, "references", None):
            more["references"] = file_here(study, benchmark.source, references)
        temperatures = {"temperatures": getattr(benchmark, "temperatures", [])}
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                prompt_set(
                    benchmark.prompt_kind, path, temperatures, getattr(benchmark, "limit", None), **more
                )
        except (PlumblineError, OSError) as error:
            say = wrong if is_the_only_place(study, benchmark.source) else doubt
            yield say(at, str(error).replace(f"{ROOT}/", ""))
        for line in said.getvalue().splitlines():
            yield doubt(at, line.removeprefix("warning: ").replace(f"{ROOT}/", ""))


def answers_here(study: Study) -> Iterator[Finding]:
    """Find files of ready answers that cannot be read: a row without an answer, or without the prompt that it is to."""
    for name, part in study.policies.items():
        for file in part.files():
            path = file_here(study, None, file)
            if path is None or path.stat().st_size > CHEAP:
                continue
            try:
                check_rows(read_jsonl(path), file)
            except (PlumblineError, OSError) as error:
                yield wrong(f"policies.{name}.answers", str(error).replace(f"{ROOT}/", ""))


def fields_here(study: Study) -> Iterator[Finding]:
    """Find placeholders of fields that no row of a file on this machine has, where a model is to write about it."""
    for name, source in study.sources.items():
        about = source.synthesise.rows if source.synthesise else None
        path = file_here(study, about.source, about.file) if about and about.source else None
        if source.synthesise is None or path is None or path.stat().st_size > CHEAP:
            continue
        try:
            known = {key for row in read_jsonl(path) for key in row}
        except (PlumblineError, OSError):  # what is wrong with it is the writing's to say
            continue
        yield from unknown_fields(f"sources.{name}.synthesise", source.synthesise, known)


def lines_and_bytes(path: Path) -> tuple[int, int] | None:
    """Return (rows, bytes) of a file of JSON Lines or JSON; None where it is too large or neither."""
    try:
        if path.stat().st_size > CHEAP:
            return None
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] == "[":
            rows = json.loads(text)
        else:
            rows = [line for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError):  # what is wrong with it is the cleaning's to say
        return None
    return len(rows), len(text)


def few_packs(study: Study) -> Iterator[Finding]:
    """Find fine-tunings on files of this machine whose rows or packs make no step, or one alone."""
    for name, run in study.trainings().items():
        most = run.most_rows(study)
        if run.learns_from != "tokens" or not run.one_row_each() or run.steps(most) in (0, 1):
            continue  # not so many tokens to a row, or the study alone says so
        dataset = study.datasets.get(run.dataset)
        plain = isinstance(dataset, Dataset) and dataset.history_turns is None
        counted = rows_here(dataset, run.split, study) if plain else None
        if counted is None:
            continue
        rows, packs = counted.rows, counted.rows
        if run.pack_tokens and run.batch_of == "packs":
            packs = max(1, min(rows, math.ceil(counted.characters / CHARACTERS / run.pack_tokens)))
        certain = packs == rows
        made = f"{rows} rows make" if certain else f"{rows} rows make about {packs} packs,"
        if run.steps(packs) == 0:
            yield (wrong if run.steps(counted.most) == 0 else doubt)(
                f"runs.{name}",
                f"learns nothing: {made} no whole batch of {run.batch_size}, and drop_last leaves them out; lower "
                "batch_size",
            )
        elif run.spares_its_warmup(packs):
            yield doubt(
                f"runs.{name}",
                f"{made} one step, which is trained without the warm-up; give it more steps (a smaller batch_size or "
                "pack_tokens, more epochs) or warmup: 0.0",
            )


class Counted(NamedTuple):
    """How much of a split is on this machine: its rows, and their characters, as they stand in the files.

    `most` are the rows it may have: of a share more than `rows`, as groups are dealt out whole.
    """

    rows: int
    characters: float
    most: int


def rows_here(dataset: Dataset, split: str, study: Study) -> Counted | None:
    """Count a split whose files are all on this machine; None where they are not, or cannot be counted."""
    source = study.sources.get(dataset.source)
    files = dataset.split.by_file.get(split, dataset.files)
    local: dict[str, str] = {}
    for place in source.places if source else ():
        local |= place.file.files if place.file else {}
    counted = [lines_and_bytes(ROOT / local[file]) for file in files if file in local]
    if not files or len(counted) < len(files) or not all(counted):
        return None
    rows, size = (sum(part) for part in zip(*[found for found in counted if found], strict=True))
    used = most = rows
    if split in dataset.split.quotas:
        used = most = min(rows, dataset.split.quotas[split] * (len(files) if dataset.split.per_file else 1))
    elif split in dataset.split.shares:
        used = math.ceil(dataset.split.shares[split] * rows)
    used, most = (min(count, dataset.split.limit or count) for count in (used, most))
    return Counted(used, size * used / rows if rows else 0.0, most)


# --- several GPUs ---------------------------------------------------------------------------------------------------


def missing_deepspeed(study: Study) -> Iterator[Finding]:
    """Find a study that asks for ZeRO where DeepSpeed is not installed."""
    asked = study.training_resources
    if asked.gpu < 2 or not asked.parallel.startswith("zero") or not study.runs:
        return
    if importlib.util.find_spec("deepspeed") is None and not (Path(sys.prefix) / "deepspeed").is_dir():
        yield doubt(
            "training_resources.parallel",
            f"{asked.parallel} needs DeepSpeed, which is not here: run `make deepspeed` where it trains",
        )


def missing_vllm(study: Study) -> Iterator[Finding]:
    """Find an engine that is to be vLLM, the study's or of what answers again, where it is not set up."""
    if (ROOT / ".venv-vllm" / "bin" / "python").exists():
        return
    others = {f"again.{name}.engine": part.engine_in(study).name for name, part in study.again.items()}
    engines = {"engine": study.engine.name} if study.engine.name == "vllm" else others
    missing = "vLLM is not set up here: make gpu, or make .venv-vllm/ready for its CPU build"
    for path, name in engines.items():
        if name == "vllm":
            yield doubt(path, f"{missing} (conda brings its own)")
    for name, run in study.runs.items():
        if getattr(run, "engine", None) == "vllm":
            yield doubt(f"runs.{name}.engine", f"{missing}; conda's environments do not do for a training")


def missing_trackers(study: Study) -> Iterator[Finding]:
    """Find dashboards that curves are to be written to, where their package is not installed or has no key."""
    path = "training_resources.tracking"
    for name in study.training_resources.tracking if study.trainings() else ():
        installed_as = TRACKERS.get(name)
        package = importlib.util.find_spec(name) if installed_as else None
        if installed_as and (package is None or package.origin is None):  # a folder of that name is none
            yield wrong(
                path,
                f"{name} is not installed here: `{sys.executable} -m pip install {installed_as}` (and where trainings "
                "run, if that is elsewhere), or leave it out",
            )
        elif name == "wandb" and not os.environ.get("WANDB_API_KEY") and not os.environ.get("WANDB_MODE"):
            yield doubt(
                path,
                "WANDB_API_KEY is not set: wandb's runs stay on this machine, and `wandb sync` sends them; "
                "export it, or WANDB_MODE=offline",
            )


# --- judges -----------------------------------------------------------------------------------------------------------


def missing_sandbox(study: Study) -> Iterator[Finding]:
    """Find rewards that run programs, where this machine has no sandbox for them: jobs may run elsewhere."""
    for name, annotation in study.annotations.items():
        for key, reward in annotation.rewards.items():
            if getattr(reward, "rule", None) == "passes_tests" and not reward.allow_unsandboxed:
                try:
                    find_sandbox(False, "this reward")
                except SandboxMissing as error:
                    yield doubt(f"annotations.{name}.rewards.{key}", f"on this machine there is {error}")


def is_here(url: str | None) -> bool:
    """Tell whether an endpoint is on this machine."""
    try:
        host = urlsplit(url or "").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def recordings(study: Study) -> Iterator[Finding]:
    """Find files of recorded replies that hold none."""
    for name, judge in study.judges.items():
        path = judge.recordings()
        if path and os.path.isfile(ROOT / path) and os.path.getsize(ROOT / path) <= CHEAP:
            try:
                read_recorded(ROOT / path)
            except PlumblineError as error:
                yield wrong(f"judges.{name}.recorded", str(error).replace(f"{ROOT}/", ""))


def asked_judges(study: Study) -> list[str]:
    """Return the names of the judges that a benchmark asks, and of those that rank the pairs a run learns from."""
    used = {name for run in study.runs.values() for section, name in run.uses() if section == "pairs"}
    ranked = [part for name, part in study.pairs.items() if name in used and isinstance(part, SampledPairs)]
    ranking = [part.judge_in(study) for part in ranked]
    return [
        *(part.judge for part in study.benchmarks.values() if part.is_judged()),
        *(judge for judge in ranking if judge is not None),
    ]


def writers(study: Study) -> list[str]:
    """Return the names of the judges that write sources."""
    return [part.synthesise.judge for part in study.sources.values() if part.synthesise]


def answerers(study: Study) -> list[str]:
    """Return the names of the judges that answer as policies."""
    return [part.judge for part in study.policies.values() if part.judge is not None]


def unset_keys(study: Study, judges: Iterable[str]) -> Iterator[Finding]:
    """Find those of some judges whose key is not set."""
    for name in dict.fromkeys(judges):
        judge = study.judges.get(name)
        variable = judge.key_variable() if judge and not judge.recordings() else None
        if variable and not os.environ.get(variable, "").strip():
            path = f"judges.{name}.api_key_env"
            if is_here(judge.places().get("base_url")):
                advice = f"export {variable}=any-word, if the server asks for none"
            else:
                advice = "export it before the judge is asked, or the run stops there"
            yield doubt(path, f"{variable} is not set: {advice}")


def annotators(study: Study) -> Iterator[Finding]:
    """Find annotators that the alpaca_eval package has not."""
    package = importlib.util.find_spec("alpaca_eval")
    folder = Path(package.origin).parent / "evaluators_configs" if package and package.origin else None
    known = sorted(path.parent.name for path in folder.glob("*/configs.yaml")) if folder else []
    for name, benchmark in study.benchmarks.items():
        annotator = benchmark.annotator if isinstance(benchmark, AlpacaEval) else None
        if annotator and known and annotator not in known:
            yield wrong(
                f"benchmarks.{name}.annotator",
                f"the alpaca_eval package has none called {shown(annotator)}{nearest(annotator, known)}",
            )
