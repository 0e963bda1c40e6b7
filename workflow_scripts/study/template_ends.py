"""Templates whose end is no token of the model that is to speak in them: none of its answers would end.

What a model's tokenizer knows is read off its files where they are here; the jobs themselves refuse what nobody has
seen before (`common.templates.ends_of`). No tokenizer is loaded.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.lineage import known_policies
from workflow_scripts.study.messages import shown
from workflow_scripts.study.templates import all_templates, asked_in, learned_in

if TYPE_CHECKING:
    from workflow_scripts.study.models import Model
    from workflow_scripts.study.study import Study

LLAMA2C = frozenset({"<unk>", "<s>", "</s>"})  # what any checkpoint of the llama2.c project has
FILES = ("tokenizer.json", "tokenizer_config.json")


def added_tokens(files: dict[str, Path]) -> frozenset[str] | None:
    """Return the texts of the added tokens that a tokenizer's files name; None where they cannot be told from them."""
    found: set[str] = set()
    for name in FILES:
        try:
            told = json.loads(files[name].read_text(encoding="utf-8")) if name in files else {}
        except (OSError, ValueError, RecursionError):  # the making of the model says what is wrong with it
            return None
        if not isinstance(told, dict):
            return None
        added = told.get("added_tokens_decoder")
        tokens = told.get("added_tokens", list(added.values()) if isinstance(added, dict) else [])
        named = [told.get(key) for key in ("eos_token", "bos_token", "unk_token", "pad_token")]
        for token in [*(tokens if isinstance(tokens, list) else []), *named]:
            content = token.get("content") if isinstance(token, dict) else token
            found |= {content} if isinstance(content, str) else set()
    return frozenset(found) or None


def local_tokens(study: "Study", model: "Model", root: Path) -> frozenset[str] | None:
    """Return the added tokens of a model whose tokenizer a place of this machine gives; None where none does."""
    if model.format == "llama2c":
        return LLAMA2C
    source = study.sources.get(model.source)
    places = [place.file.files for place in source.places if place.file] if source else []
    files = {name: root / place[name] for place in places[:1] for name in FILES if name in place}
    return added_tokens(files) if model.format == "hf" and FILES[0] in files else None


def lacking(study: "Study", tokens_of: Callable[[str], frozenset[str] | None]) -> Iterator[Finding]:
    """Find the templates whose end a model has not, by the models' added tokens (by name; None: not known)."""
    policies, templates = known_policies(study) or {}, all_templates(study)
    tokens = {name: tokens_of(name) for name in study.models}
    told = set()
    for name, policy in policies.items():
        known = tokens[policy.model]
        for path, template in spoken(study, policies, name):
            end = end_of(templates.get(template, {}))
            if known is None or lasts(end, known) or (path, policy.model) in told:
                continue
            told.add((path, policy.model))
            yield wrong(
                path,
                f"{template} ends a reply with {shown(end)}, which is no token of models.{policy.model}, so no answer "
                "could end; choose a template whose end the model has, as {eos} is, or one without an end and give "
                "`stop` strings where answers are drawn",
            )


def spoken(study: "Study", policies: dict, name: str) -> Iterator[tuple[str, str]]:
    """Yield (path of the key that names it, template) of what a policy learns in and is asked in, where it says so."""
    run = policies[name].run
    if run is None:
        yield f"models.{name}.template", asked_in(study, policies, name)
    elif study.runs[run].own_template():
        learned, asked = learned_in(study, policies, name), asked_in(study, policies, name)
        yield f"runs.{run}.template", learned
        if asked != learned:
            yield f"runs.{run}.asked_in", asked


def end_of(template: dict[str, Any]) -> str:
    """Return what a template ends the reply with."""
    return (template.get("reply") or template.get("assistant") or {}).get("end", "")


def lasts(end: str, tokens: frozenset[str]) -> bool:
    """Tell whether an end is none, or the model's own, or has one of the tokens in it."""
    return not end or "{eos}" in end or any(token in end for token in tokens)
