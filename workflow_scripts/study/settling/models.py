"""Models named by `path`, `hf` or `preset`: their files found, what these say found out, and both written out.

Such a model gets a source of its own name, and the format, template and context that its files say, where the study
says none. What was found is said. Of a model hub the commit, the pins and what the files say come from the lock.
"""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of
from workflow_scripts.common.own_template import Unspeakable
from workflow_scripts.common.place import ROOT, SHIPPED
from workflow_scripts.study.basics import REPOSITORY
from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.memory import written
from workflow_scripts.study.messages import nearest, shown, unknown
from workflow_scripts.study.models import ORIGINS, Base, Model
from workflow_scripts.study.settling.gguf_header import read_header
from workflow_scripts.study.settling.lock import Entry, entry_of, hub_file, in_a_job, keep
from workflow_scripts.study.settling.model_files import (
    ADAPTER,
    ESSENTIAL,
    SMALL,
    Facts,
    facts_of,
    files_of_model,
    gguf_facts,
    heard,
    tokenizer_files,
)
from workflow_scripts.study.sources import Source
from workflow_scripts.study.study import Study
from workflow_scripts.study.template_ends import end_of, lasts
from workflow_scripts.study.templates import OWN, all_templates

OFFERED = ("chatml", "qwen", "llama3", "gemma", "tulu", "zephyr", "mistral", "llama2", "alpaca", "vicuna")


class Taken(NamedTuple):
    """What a model is made of: its source and its own keys, as a study writes them; what its files say; in words where
    they are."""

    source: dict[str, Any]
    model: dict[str, Any]
    facts: Facts | None
    where: str


def settle_models(study: Study, folder: Path) -> Iterator[Finding]:
    """Write out the models that name files of this machine, a repository of the hub, or one that is known by name."""
    for name, model in list(study.models.items()):
        if model.source is not None:
            continue
        key = next(key for key in ORIGINS if getattr(model, key) is not None)
        path = f"models.{name}.{key}"
        if name in study.sources:
            yield wrong(
                path,
                f"a source is called {name}, too, and the files would be its: rename the model or the source",
            )
            continue
        try:
            yield from settled_model(study, name, model, TAKEN_BY[key](model, folder))
        except PlumblineError as error:
            yield wrong(path, str(error).replace(f"{ROOT}/", ""))
        except ValidationError as error:
            yield wrong(path, "; ".join(item["msg"] for item in error.errors()))


def settled_model(study: Study, name: str, model: Model, taken: Taken) -> Iterator[Finding]:
    """Give a model its source and whatever else it does not say; yield what was found."""
    said = {key: value for key, value in model.model_dump(exclude_unset=True).items() if value is not None}
    kept = {key: value for key, value in said.items() if key not in (*ORIGINS, "revision", "base")}
    own = taken.model | kept
    facts = taken.facts
    if facts is not None:
        own.setdefault("template", OWN if facts.chat_template is not None else None)
        own.setdefault("context", facts.context)
        if facts.parameters:
            own.setdefault("parameters", float(facts.parameters))
        if own["template"] is None:
            raise PlumblineError(f"the model has no chat template; name one, {offered(study, facts)}")
        if own["context"] is None:
            raise PlumblineError("its files do not say how many tokens it can read: give its `context`")
    whole = Model.model_validate(own | {"source": name})
    study.sources[name], study.models[name] = Source.model_validate(taken.source), whole
    words = [] if facts is None else words_of(facts)
    words += [f"context {whole.context}"]
    if facts is None or whole.template != OWN:
        words += [f"speaks {whole.template}" if whole.template != OWN else "speaks its own chat template"]
    else:
        try:
            end, lacks = heard(facts)
        except Unspeakable as error:
            yield wrong(f"models.{name}.template", f"{error}; here: {offered(study, facts)}")
            return
        ends = list(dict.fromkeys([end, *facts.ends]))
        words += [f"speaks its own chat template, ends with {' or '.join(ends)}"]
        words += lacks
    yield doubt(f"models.{name}", "; ".join([", ".join(words[:4]), *words[4:], taken.where]))


def words_of(facts: Facts) -> list[str]:
    """Return what a model is, in words."""
    weights = [] if facts.parameters is None else [told_weights(facts)]
    return [facts.architecture or "a model", *weights]


def told_weights(facts: Facts) -> str:
    """Return how many weights a model has, and in what format they are kept."""
    count = facts.parameters or 0
    million = f"{count / 1e6:.3g} million weights"
    said = million if 1e6 <= count < 1e9 else written(count)
    return f"{said} in {facts.dtype}" if facts.dtype else said


def offered(study: Study, facts: Facts) -> str:
    """Return the templates whose end a model has, as advice."""
    known, added = all_templates(study), frozenset({*facts.added, *facts.named.values()})
    fitting = [name for name in OFFERED if lasts(end_of(known[name]), added)]
    written_out = [name for name in fitting if "{eos}" not in end_of(known[name])]
    first, *others = [*written_out, *(name for name in fitting if name not in written_out)]
    return (
        f"`template: {first}` say ({', '.join(others)} would end, too)" if others else f"`template: {first}`"
    )


# --- by where the model comes from ------------------------------------------------------------------------------------


def of_this_machine(model: Model, folder: Path) -> Taken:
    """Find the files that `path` names."""
    place = here(model.path or "", "the model")
    if place.is_file():
        if place.suffix.lower() != ".gguf":
            raise PlumblineError(
                f"{model.path} is a file, and no .gguf: name the folder that has config.json, the weights and the "
                "tokenizer"
            )
        if model.base:
            raise PlumblineError("a .gguf file is a whole model: leave out base")
        facts = gguf_facts(read_header(place))
        files = {place.name: model.path or ""}
        return Taken(of_files(files), {"format": "gguf", "weights": place.name}, facts, f"from {model.path}")
    names = names_in(place)
    if ADAPTER[0] in names:
        return adapter_of_this_machine(model, folder, place, names)
    if model.base:
        raise PlumblineError(f"{model.path} is a whole model, no adapter: leave out base")
    taken = files_of_model(names, f"{model.path}", model.trust_remote_code)
    files = {name: os.path.join(model.path or "", name) for name in taken}
    facts = facts_of({name: place / name for name in taken}, f"{model.path}")
    return Taken(of_files(files), {"format": "hf"}, facts, f"from {model.path}")


def adapter_of_this_machine(model: Model, folder: Path, place: Path, names: list[str]) -> Taken:
    """Find the files of an adapter and of its base, in a folder or a repository of the hub: it is made of both."""
    own = adapter_files(names, f"{model.path}")
    paths = {name: os.path.join(model.path or "", name) for name in own}
    if model.base and model.base.hf:
        entry = entry_of(folder, "model", model.base.hf, model.base.revision)
        taken = beside_adapter(files_of_model(entry.files, model.base.hf), own)
        facts = facts_in_lock(folder, entry)
        if voices := tokenizer_files(own):  # it speaks as its own tokenizer does
            facts = with_voice(facts, facts_of({name: place / name for name in voices}, f"{model.path}"))
        # Files of several places have to be pinned, so that together they are what the study says.
        pins = {name: entry.files[name] for name in taken} | {name: sha256_of(place / name) for name in own}
        places = [hub_place(entry, taken), {"file": {"files": paths}}]
        source, base = {"files": pins, "places": places}, told_repository(entry)
    else:
        base = base_of(model, place)
        names_of_base = names_in(here(base, "the adapter's base"))
        taken = beside_adapter(files_of_model(names_of_base, base, model.trust_remote_code), own)
        files = {name: os.path.join(base, name) for name in taken} | paths
        facts = facts_of({name: ROOT / path for name, path in files.items()}, f"{model.path}")
        source = of_files(files)
    return Taken(source, {"format": "hf"}, facts, f"the adapter {model.path} merged into {base}")


def adapter_files(names: Iterable[str], where: str) -> list[str]:
    """Return those of some files that make an adapter, and its tokenizer if it has one of its own."""
    if ADAPTER[1] not in names:
        raise PlumblineError(
            f"{where} is an adapter without {ADAPTER[1]}: save it again by save_pretrained, which writes safetensors"
        )
    own = tokenizer_files(name for name in names if "/" not in name)
    return [*ADAPTER, *own] if any(map(ESSENTIAL.fullmatch, own)) else list(ADAPTER)


def beside_adapter(base: list[str], own: list[str]) -> list[str]:
    """Return the files of a base that an adapter has not itself: a tokenizer is taken whole from one of them."""
    voices = tokenizer_files(base) if tokenizer_files(own) else []
    return [name for name in base if name not in voices and name not in own]


def with_voice(facts: Facts, other: Facts) -> Facts:
    """Return what files say of a model, that of its tokenizer as others say it."""
    return facts._replace(chat_template=other.chat_template, added=other.added, named=other.named)


def base_of(model: Model, place: Path) -> str:
    """Return the folder of an adapter's base: what the study says, else what the adapter names."""
    if model.base and model.base.path:
        return model.base.path
    named = str(read_json(place / ADAPTER[0]).get("base_model_name_or_path") or "")
    found = os.path.normpath(place / named)
    if named and (Path(found) / "config.json").is_file():
        return found
    raise PlumblineError(
        f"{model.path} is an adapter of {shown(named)}, which is no folder here: say where its base is, "
        "`base: {path: …}` or `base: {hf: owner/name}`"
    )


def of_preset(model: Model, folder: Path) -> Taken:
    """Return the model that is known by a name."""
    if model.preset not in presets():
        raise PlumblineError(unknown(str(model.preset), presets(), "preset"))
    preset = presets()[model.preset]
    return Taken(preset["source"], dict(preset["model"]), None, preset["about"])


def of_the_hub(model: Model, folder: Path) -> Taken:
    """Find the files that the lock has of a repository, and what they say, as its commit has them."""
    repo = model.hf or ""
    entry = entry_of(folder, "model", repo, model.revision)
    if ADAPTER[0] in entry.files:
        return adapter_of_the_hub(model, folder, entry)
    if model.base:
        raise PlumblineError(f"{repo} is a whole model, no adapter: leave out base")
    taken = files_of_model(entry.files, repo)
    source = {"files": {name: entry.files[name] for name in taken}, "places": [hub_place(entry, taken)]}
    return Taken(source, {"format": "hf"}, facts_in_lock(folder, entry), f"from {told_repository(entry)}")


def adapter_of_the_hub(model: Model, folder: Path, entry: Entry) -> Taken:
    """Find the files of an adapter and of its base, two repositories of the hub."""
    own = adapter_files(entry.files, entry.repo)
    named = str(facts_in_lock(folder, entry).base or "")
    base = model.base or (Base(hf=named) if re.fullmatch(REPOSITORY, named) and "/" in named else None)
    if base is None or base.path:
        raise PlumblineError(
            f"{entry.repo} is an adapter of {shown(named)}: say which repository its base is, "
            "`base: {hf: owner/name}`, or take the adapter's files to this machine and name both by path"
        )
    below = entry_of(folder, "model", base.hf, base.revision)
    taken = beside_adapter(files_of_model(below.files, base.hf), own)
    facts = facts_in_lock(folder, below)
    facts = with_voice(facts, facts_in_lock(folder, entry)) if tokenizer_files(own) else facts
    pins = {name: below.files[name] for name in taken} | {name: entry.files[name] for name in own}
    source = {"files": pins, "places": [hub_place(below, taken), hub_place(entry, own)]}
    where = f"the adapter {told_repository(entry)} merged into {told_repository(below)}"
    return Taken(source, {"format": "hf"}, facts, where)


def facts_in_lock(folder: Path, entry: Entry) -> Facts:
    """Return what the files of a locked repository say of its model; looked for once, and kept in the lock."""
    known = entry.found.get("model")
    if known is None:
        if in_a_job():
            raise PlumblineError(
                "the lock does not say what its files are, and a job asks no hub: run check-study first"
            )
        small = [name for name in SMALL if name in entry.files and name != "tokenizer.json"]
        files = {name: hub_file(entry, name) for name in small}
        tokenizer = files.get("tokenizer_config.json")
        if "tokenizer.json" in entry.files and not (
            tokenizer and read_json(tokenizer).get("added_tokens_decoder")
        ):
            files["tokenizer.json"] = hub_file(entry, "tokenizer.json")  # large
        known = facts_of(files, entry.repo)._asdict()
        keep(folder, entry, model=known)
    return Facts(**known)


def hub_place(entry: Entry, files: list[str]) -> dict[str, Any]:
    """Return the place of some files of a locked repository."""
    named = {name: name for name in files}
    return {"hf": {"repo": entry.repo, "revision": entry.commit, "repo_type": "model", "files": named}}


def told_repository(entry: Entry) -> str:
    """Return a locked repository in a few words."""
    branch = "" if entry.revision == entry.commit else f" ({entry.revision})"
    return f"{entry.repo}@{entry.commit[:10]}{branch}"


TAKEN_BY = {"path": of_this_machine, "hf": of_the_hub, "preset": of_preset}


@functools.cache
def presets() -> dict[str, dict]:
    """Return the models that are known by name."""
    return yaml.safe_load((SHIPPED / "workflow_scripts/study/presets.yaml").read_text(encoding="utf-8"))


def here(path: str, what: str) -> Path:
    """Return where a path of this machine leads; PlumblineError where there is nothing."""
    place = ROOT / path
    if not os.path.exists(place):
        near = nearest(place.name, os.listdir(place.parent)) if place.parent.is_dir() else ""
        raise PlumblineError(f"no such folder {shown(path)} for {what} (relative to the repository){near}")
    return place


def names_in(place: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(name for name in os.listdir(place) if (place / name).is_file())


def of_files(files: dict[str, str]) -> dict[str, Any]:
    """Return the source of files of this machine, {name: path}: whatever they hold, they are taken."""
    return {"files": dict.fromkeys(files), "places": [{"file": {"files": files}}]}
