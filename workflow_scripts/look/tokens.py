"""Cleaned rows as a model reads them: by its tokenizer and template, with what a fine-tuning learns marked."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.place import ROOT
from workflow_scripts.common.templates import (
    IGNORED,
    Tokens,
    tokenise_conversation,
    tokenise_reply,
)
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.plan.sources import base_model
from workflow_scripts.sft.texts import are_texts, tokenise_texts
from workflow_scripts.study.study import Study
from workflow_scripts.study.templates import all_templates


class Speech(NamedTuple):
    """A tokenizer, the template its model speaks in, and how many tokens it can read."""

    tokenizer: Any
    template: dict[str, Any]
    context: int

    def tokens(self, row: dict[str, Any]) -> Tokens:
        """Return a row's tokens, with the labels that instruction tuning learns; of ranked answers the first's."""
        if are_texts([row]):
            (whole,), _, _ = tokenise_texts([row], self.tokenizer, sys.maxsize, "cut")
            return Tokens(whole["input_ids"], whole["labels"])
        if "candidates" in row:
            answer = row["candidates"][0]["content"]
            prompt, reply = tokenise_reply(row["messages"], answer, self.template, self.tokenizer)
            return Tokens(prompt + reply, [IGNORED] * len(prompt) + reply)
        return tokenise_conversation(row["messages"], self.template, self.tokenizer)

    def length(self, row: dict[str, Any]) -> int:
        """Return how many tokens a row has."""
        return len(self.tokens(row).input_ids)

    def marked(self, row: dict[str, Any]) -> str:
        """Return a row's text, special tokens among it, what is learned between « and »."""
        tokens = self.tokens(row)
        pieces, held, learned = [], [], False
        for identity, label in [*zip(tokens.input_ids, tokens.labels, strict=True), (None, None)]:
            if identity is None or (label != IGNORED) != learned:
                text = self.tokenizer.decode(held) if held else ""
                pieces.append(f"«{text}»" if learned else text)
                held, learned = [], not learned
            if identity is not None:
                held.append(identity)
        return "".join(pieces)


def speech_of(study: Study, config: dict[str, Any], folder: Path) -> Speech:
    """Return how the only model of a study speaks; where its files are not here yet, it is made as a run would."""
    from workflow_scripts.common.models import load_tokenizer  # torch, which takes seconds

    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = load_tokenizer(local_tokenizer(study) or prepared(study, config, folder))
    model = study.models["model"]
    return Speech(tokenizer, all_templates(study)[model.template], model.context)


def local_tokenizer(study: Study) -> Path | None:
    """Return the folder of this machine that the model's tokenizer is in; None where a place of its own gives none."""
    places = study.sources[study.models["model"].source].places
    local = [path for place in places if place.file for path in place.file.files.values()]
    tokenizers = [ROOT / path for path in local if Path(path).name == "tokenizer.json"]
    return tokenizers[0].parent if tokenizers else None


def prepared(study: Study, config: dict[str, Any], folder: Path) -> Path:
    """Return the folder of the study's base model, fetched and converted where it is not there yet."""
    base = base_model(plan_of(study), "model")
    if not (ROOT / base / "model" / "tokenizer.json").is_file():
        print(f"fetching the model, into {base}", file=sys.stderr, flush=True)
        written = folder / "look.yaml"
        written.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        flags = ["--cores", "1", "--quiet", "all", "--nolock", "--configfile", str(written)]
        command = [sys.executable, "-m", "snakemake", f"{base}/manifest.json", *flags]
        made = subprocess.run(command, cwd=ROOT, check=False)
        if made.returncode:
            raise PlumblineError(
                "MODEL: it could not be made, as said above; look without MODEL, or name another"
            )
    return ROOT / base / "model"
