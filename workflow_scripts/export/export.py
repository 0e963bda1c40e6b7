"""Take a policy out of its study: a folder that transformers and vLLM load, with a card of what is known of it.

`make export POLICY=tiny.sft.dpo TO=out/` runs this. The folder gets its name last, once it has been checked.
"""

import argparse
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import finished_file, finished_folder, write_json
from workflow_scripts.export.card import card
from workflow_scripts.export.checks import check
from workflow_scripts.export.facts import facts_of, weight_digests
from workflow_scripts.export.folder import FORMATS, write_folder
from workflow_scripts.export.found import Found, find, refuse_stale, whole
from workflow_scripts.export.push import push, ready_to_push

CARD, FACTS = "README.md", "plumbline.json"
CHECKED = 5  # prompts that are answered twice


def empty_place(path: str) -> Path:
    """Return the folder that is to be made; PlumblineError where something is there already."""
    if not path.strip():
        raise PlumblineError("TO is empty: name the folder to write, TO=out/")
    folder = Path(path)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise PlumblineError(f"{path}: is no folder; name one that is not there yet with TO=")
    if folder.is_dir() and any(folder.iterdir()):
        raise PlumblineError(
            f"{path}: is not empty; name a folder that is not there yet with TO=, or empty it"
        )
    return folder


def export(found: Found, place: Path, gguf: str | None, wanted: str | None, count: int) -> dict[str, Any]:
    """Write a policy's folder; return the facts that stand in it."""
    facts = facts_of(found)
    with finished_folder(place) as folder:
        facts["weights"] = write_folder(found, folder, wanted)
        facts["checks"] = check(found, folder, wanted, count)
        if gguf:
            from workflow_scripts.export.gguf_file import write_gguf

            facts["gguf"] = write_gguf(found, folder, gguf)
        facts["files"] = weight_digests(folder)
        with finished_file(folder / CARD) as temporary:
            temporary.write_text(card(facts), encoding="utf-8")
        write_json(folder / FACTS, facts)
    return facts


def describe(facts: dict[str, Any], place: Path) -> list[str]:
    """Return what is said of a folder that was written."""
    checks, weights = facts["checks"], facts["weights"]
    how = " (its adapter merged)" if weights["adapter"] else ""
    lines = [f"{place}: {facts['policy']}, weights in {weights['format']}{how}"]
    if checks["prompts"]:
        raw = checks["prompts"] - checks["rendered_alike"] - checks["spelling_special_tokens"]
        unrendered = {"asked as raw texts": raw, "spelling special tokens": checks["spelling_special_tokens"]}
        others = "".join(f", {number} {what}" for what, number in unrendered.items() if number)
        lines.append(
            f"  checked: {checks['answered_alike']} of {checks['prompts']} prompts are answered as by the study's "
            f"weights, {checks['as_stored']} of {checks['answers_stored']} as in its stored answers; "
            f"{checks['rendered_alike']} are rendered alike by its chat template{others}"
        )
    else:
        lines.append("  checked: the tokenizer alone (CHECK=0)")
    if "missing" in facts["results"]:
        lines.append(f"  no scores on the card: {facts['results']['missing']}")
    if facts["base_model"]["license"] is None:
        lines.append(
            f"  the licence of {facts['base_model']['name']} is not on the card: set models."
            f"{facts['base_model']['name']}.license in the study"
        )
    for line in facts.get("gguf", {}).get("said", []):
        lines.append(f"  gguf: {line}")
    return lines


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="", help="its lineage, tiny.sft.dpo say")
    parser.add_argument("--to", default="", help="the folder to write: not there yet, or empty")
    parser.add_argument("--study", type=Path, default=Path("config.yaml"))
    parser.add_argument("--seed", default="", help="the training seed; without, the study's first")
    parser.add_argument(
        "--gguf", default="", help="also write model.gguf: 1 as the weights are, or f32, f16, bf16"
    )
    parser.add_argument("--dtype", default="", help="number format of the weights, if not the policy's own")
    parser.add_argument(
        "--check", default="", help=f"how many prompts are compared (default: {CHECKED}; 0: none)"
    )
    parser.add_argument("--push", default="", help="owner/name: upload the folder to a model hub")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    if not arguments.policy:
        raise PlumblineError(
            "name the policy to take out and where to: make export POLICY=tiny.sft.dpo TO=out/"
        )
    if arguments.dtype and arguments.dtype not in FORMATS:
        raise PlumblineError(f"DTYPE={arguments.dtype}: give {', '.join(FORMATS)}, or leave it out")
    count = whole(arguments.check, "CHECK")
    place = empty_place(arguments.to)
    hub = ready_to_push(arguments.push) if arguments.push else None
    found = find(arguments.study, arguments.policy, whole(arguments.seed, "SEED"))
    refuse_stale(found)
    count = CHECKED if count is None else count
    facts = export(found, place, arguments.gguf or None, arguments.dtype or None, count)
    print(*describe(facts, place), sep="\n")
    if hub:
        print(push(hub, arguments.push, place, facts["policy"]))


if __name__ == "__main__":
    run(main)
