"""A finished study for the tests of exports: a whole policy, an adapter, a template without an end, llama2.c."""

from pathlib import Path

import yaml

from tests.chain import RUN, chain_of
from tests.llama2c import make_model, make_pieces, write_checkpoint, write_tokenizer
from tests.workflow import copy_with_study, snakemake
from workflow_scripts.export.found import Found
from workflow_scripts.plan.plan import plan_of
from workflow_scripts.study.checking import check_study

PROMPTS = 24
ENDLESS = {
    "start": "",
    "strip": False,
    "system": {"before": "S: ", "after": "\n"},
    "user": {"before": "U: ", "after": "\n"},
    "assistant": {"before": "A:", "lead": " ", "after": "\n"},
}
LORA = {"rank": 2, "alpha": 64.0, "targets": ["q_proj", "v_proj"], "merge": False}
POLICIES = ("tiny", "bare", "stories", "tiny.sft", "tiny.low")


def export_study(model: Path, llama2c: Path) -> dict:
    """Return the study; `llama2c` is a folder that its checkpoint is written into."""
    llama2c.mkdir(parents=True)
    write_checkpoint(llama2c / "w.bin", make_model(tied=True))
    write_tokenizer(llama2c / "t.bin", make_pieces())
    study = chain_of(model, "taken")
    study["sources"]["rows"]["simulate"]["count"] = 70
    study["sources"]["flat"] = {
        "files": {"w.bin": None, "t.bin": None},
        "places": [{"file": {"files": {name: str(llama2c / name) for name in ("w.bin", "t.bin")}}}],
    }
    study["templates"] = {"endless": ENDLESS}
    flat = {"source": "flat", "format": "llama2c", "weights": "w.bin", "tokenizer": "t.bin", "context": 512}
    study["models"] |= {
        "bare": {"source": "weights", "template": "endless", "context": 512, "license": "apache-2.0"},
        "stories": flat | {"template": "tutor"},
    }
    study["datasets"]["chat"] |= {"license": "made up", "split": {"quotas": {"train": 20, "test": PROMPTS}}}
    study["annotations"] = {}
    sft = study["runs"]["sft"] | {"validation": None}
    low = RUN | {"method": "sft", "parent": "tiny", "dataset": "chat", "split": "train", "lora": LORA}
    study["runs"] = {
        "sft": sft,
        "low": low | {"validation": None, "max_tokens": 256, "learning_rate": 0.05, "max_steps": 8},
    }
    study["benchmarks"]["words"] |= {"max_new_tokens": 12, "stop": ["\n\n"]}
    return study


def finished_study(folder: Path, model: Path) -> Path:
    """Run the study in a copy of the repository and return the copy."""
    copy_with_study(folder)
    study = export_study(model, folder / "flat files")
    (folder / "config.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    snakemake(folder)
    return folder


def found_in(folder: Path, template: dict | None = None) -> Found:
    """Return a base model's folder as the policy `tiny` of a study that has not run; its template may be another.

    {"own": True} is the one that its tokenizer brings along.
    """
    study = chain_of(folder)
    if template == {"own": True}:
        study["models"]["tiny"]["template"] = "tokenizer"
    elif template is not None:
        study |= {"templates": {"mine": template}}
        study["models"]["tiny"]["template"] = "mine"
    return Found(Path("mine.yaml"), plan_of(check_study(study)), "tiny", 1, folder, Path("manifest.json"))
