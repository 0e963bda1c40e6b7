"""Prompts, settings and a folder of one policy's answers, for the tests of the engines."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from tests.command import call
from workflow_scripts.common import templates
from workflow_scripts.common.files import read_json, read_jsonl, write_json, write_jsonl, write_manifest
from workflow_scripts.generate import answer, collect

TEMPLATE = yaml.safe_load(Path(templates.__file__).with_suffix(".yaml").read_text())["tutor"]
GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "samples": 1,
    "max_new_tokens": 12,
    "min_new_tokens": 0,
    "beams": 1,
    "repetition_penalty": 1.0,
    "batch_size": 4,
    "stop": [],
}
WARM = GREEDY | {"temperature": 1.0}
# What a rule says of a set that one greedy answer is drawn for.
SAMPLING = {
    "temperature": 0.0,
    "top_p": 1.0,
    "max_new_tokens": 512,
    "temperatures": [],
    "samples": 1,
}
SETTINGS = {
    "engine": {"name": "transformers", "precision": "float32", "gpu_memory_share": 0.9},
    "template": TEMPLATE,
    "context": 256,
    "trust_remote_code": False,
}
QUESTIONS = [
    "Name two gases.",
    "Why?",
    "How do plants make sugar out of light, water and air?",
    "What is it",
    "Yes or no?",
]


def rows_of(words: Sequence[str], followups: Sequence[str] = ()) -> list[dict]:
    """Return a prompt of each text."""
    return [
        {
            "id": f"q{number}",
            "group": "g",
            "messages": [{"role": "user", "content": word}],
            "followups": list(followups),
            "reference": None,
            "meta": {},
        }
        for number, word in enumerate(words)
    ]


class Study:
    """A folder with prompt sets, a model manifest and the work folder of one policy."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model
        write_json(folder / "model.json", {"files": {"weights": "1"}})

    def add(self, name, rows, **sampling):
        path = self.folder / f"{name}.jsonl"
        write_jsonl(path, rows)
        write_manifest(path.with_suffix(".json"), [path], count=len(rows), sampling=GREEDY | sampling)

    def answer(self, *names, seed=1, shards=1, **settings):
        manifests = [str(self.folder / f"{name}.json") for name in names]
        flags = {"model": self.model, "model-manifest": self.folder / "model.json", "seed": seed}
        flags |= {"settings": json.dumps(SETTINGS | settings), "work": self.folder / "work"}
        flags |= {"output": self.folder / "answered.out", "cost": self.folder / "cost.out"}
        flags |= {"answers": self.folder / "answers", "shards": shards}
        call_named(answer.main, flags, "--prompts", *manifests)
        return read_json(self.folder / "answered.out")

    def collect(self, name):
        flags = {"answered": self.folder / "answered.out", "work": self.folder / "work"}
        flags |= {"answers": self.folder / "answers"}
        flags |= {"prompts": self.folder / f"{name}.json"}
        output, manifest = self.folder / f"{name}.answers", self.folder / f"{name}.counts"
        call_named(collect.main, flags | {"output": output, "manifest": manifest})
        return read_jsonl(output)

    def store(self, name, folder="work"):
        return self.folder / folder / f"{read_json(self.folder / 'answered.out')[name]}.jsonl"


def call_named(main: Callable[[], None], flags: dict[str, object], *more: str) -> None:
    """Call a step's main with the flags of these names, and more."""
    call(main, *(part for name, value in flags.items() for part in (f"--{name}", value)), *more)
