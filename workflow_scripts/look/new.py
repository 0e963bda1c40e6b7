"""Write a study of one's own data and model that runs: `make new STUDY=studies/mine.yaml DATA=qa.csv MODEL=…`.

It fine-tunes the model on the rows (of preferences it aligns it) and scores it on rows held out, beside the model as it
came. It is checked as it is written: what was found out of the data and the model is said.
"""

import re
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.place import command
from workflow_scripts.look.look import SPLIT, Asked, asked_in, flow, read_arguments, settled
from workflow_scripts.study.basics import LONGEST_NAME, NAME
from workflow_scripts.study.check import report
from workflow_scripts.study.datasets import RANKED
from workflow_scripts.study.settling.models import presets
from workflow_scripts.study.study import Study

LONGEST_ROW = 1024  # tokens
LONGEST_ANSWER = 128  # tokens


def lines_of(name: str, asked: Asked, study: Study) -> list[str]:
    """Return the lines of a study of some data and a model, of which `study` has what was found out."""
    model, schema = study.models["model"], study.datasets["data"].data_schema
    longest = min(LONGEST_ROW, model.context)
    rows = {"dataset": "own", "split": "train", "validation": "validation"}
    steps = {"epochs": 3.0, "batch_size": 8}
    pairs: dict[str, Any] = {}
    benchmarks: dict[str, Any] = {
        "loss": {"kind": "loss", "dataset": "own", "split": "test", "max_tokens": longest}
    }
    if schema in RANKED:
        prompt = longest - min(LONGEST_ANSWER, longest // 4)
        pairs = {"given": rows | {"max_prompt_tokens": prompt, "max_tokens": longest}}
        runs = {
            "dpo": {"method": "dpo", "parent": "base", "pairs": "given", "learning_rate": 5.0e-6, **steps}
        }
    else:
        plain = {"objective": "lm"} if schema == "text" else {}
        lengths = {"max_tokens": longest, "pack_tokens": longest}
        sft = {
            "method": "sft",
            "parent": "base",
            **rows,
            **plain,
            "learning_rate": 2.0e-5,
            **steps,
            **lengths,
        }
        runs = {"sft": sft}
        answered = {"kind": "text_overlap", "dataset": "own", "split": "test", "metrics": ["bleu", "length"]}
        benchmarks["answers"] = answered | {"max_new_tokens": min(LONGEST_ANSWER, model.context // 4)}
    if schema == "text":  # no question and no answer: its validation loss stands in training.csv
        benchmarks = {
            "quiz": {"kind": "lm_eval", "tasks": ["biology_quiz"], "include_path": "data/bundled/lm_eval"}
        }
    sections: dict[str, dict[str, Any]] = {
        "models": {"base": asked.model},
        "datasets": {"own": asked.dataset | {"split": SPLIT}},
        "pairs": pairs,
        "runs": runs,
        "benchmarks": benchmarks,
    }
    lines = [f"study: {name}", "seeds: [1]"]
    for section, entries in sections.items():
        if entries:
            lines += [f"{section}:", *(f"  {key}: {flow(entry)}" for key, entry in entries.items())]
    return [*lines, "report: {baseline: base}"]


def name_of(path: Path) -> str:
    """Return what a study in a file is called: as the file is, of letters, digits, _ and -."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_")[:LONGEST_NAME]
    if not re.fullmatch(NAME, name):
        raise PlumblineError(
            f"STUDY={path}: call the file by a name of letters and digits, studies/mine.yaml say"
        )
    return name


def main(argv: list[str] | None = None) -> None:
    parser = read_arguments(__doc__)
    parser.add_argument("--study", required=True, type=Path, help="the file to write")
    arguments = parser.parse_args(argv)
    if arguments.study.exists():
        raise PlumblineError(f"STUDY={arguments.study}: is there already; name another file, or delete it")
    if not arguments.model:
        raise PlumblineError(
            f"MODEL: name a model's folder, one that Plumbline knows ({', '.join(presets())}), or owner/name of a hub"
        )
    asked = asked_in(arguments)
    arguments.study.parent.mkdir(parents=True, exist_ok=True)  # for the lock beside it
    asked, study, found = settled(asked, arguments.study.parent)
    lines = lines_of(name_of(arguments.study), asked, study)
    arguments.study.write_text("\n".join(lines) + "\n", encoding="utf-8")
    right, said = report(arguments.study)
    print("\n".join([*(line for line in found if line.startswith("taken")), said]))
    if not right:
        raise PlumblineError(f"{arguments.study}: was written, and a check finds the above; mend it there")
    print(f"\nnow: {command('results', str(arguments.study))}")


if __name__ == "__main__":
    run(main)
