"""Sample answers for the report: the same prompts, each policy's answer beside the others', with what the judge said.

The prompts are those with the smallest digests of their ids: nobody picks them, and adding one moves at most one.
Covered: the first sample of every turn, one seed per policy (the first given); lengths and verdicts of all answers.
Not covered: answers to benchmarks that generate nothing (log-likelihoods).
"""

import hashlib
from pathlib import Path

from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.report.table import cell_name


def chosen_prompts(prompts: list[dict], count: int) -> list[dict]:
    """Return `count` of the prompts, by the digests of their ids, in the order they have."""
    by_digest = sorted(prompts, key=lambda prompt: hashlib.sha256(str(prompt["id"]).encode()).digest())
    wanted = {prompt["id"] for prompt in by_digest[:count]}
    return [prompt for prompt in prompts if prompt["id"] in wanted]


def verdict_view(verdict: dict) -> dict:
    """Return a verdict for people: {"mark": its number or why there is none, "failed": bool, "words": [str]}."""
    words = verdict.get("text") or []
    said = (
        [words] if isinstance(words, str) else [text for text in words if text]
    )  # a pair: one reply per order
    view = {"failed": bool(verdict.get("failed")), "words": said}
    if view["failed"]:
        return view | {"mark": f"no verdict: {verdict['failed']}"}
    if "rating" in verdict:
        return view | {"mark": f"rated {verdict['rating']:.3g}"}
    return view | {"mark": f"preferred {verdict['preference']:.3g}"}


def verdict_value(verdict: dict) -> float | None:
    """Return a verdict's number, None where the judge gave none."""
    return verdict.get("rating", verdict.get("preference"))


def item_marks(path: str) -> dict[str, list[str]]:
    """Return {item: ["subset/metric value"]} of a score file: what a rule, not a judge, said of each answer."""
    marks: dict[str, list[str]] = {}
    for cell in read_json(path).get("cells") or []:
        if cell["estimator"] in ("mean", "macro_mean"):
            name = cell_name({"benchmark": "", "subset": cell["subset"], "metric": cell["metric"]})
            for item, value in zip(cell["items"], cell["columns"]["value"], strict=True):
                marks.setdefault(item, []).append(f"{name} {value:.3g}")
    return marks


def rows_beside(manifest: str) -> Path:
    """Return the JSON Lines file that a manifest of answers or prompts stands beside."""
    return Path(manifest).with_suffix(".jsonl")


def answers_to(benchmark: str, index: list[dict]) -> list[dict]:
    """Return the policies' entries of scores.json that have answers to a benchmark; calibration answers are none."""
    own = [entry for entry in index if entry["benchmark"] == benchmark and entry["kind"] == "policy"]
    return [entry for entry in own if entry["generations"]]


def first_seeds(answers: list[dict]) -> list[dict]:
    """Return the first entry of each policy."""
    kept: dict[str, dict] = {}
    for answer in answers:
        kept.setdefault(answer["policy"], answer)
    return list(kept.values())


def read_samples(benchmark: str, prompts: Path, index: list[dict], count: int) -> dict:
    """Return a benchmark's chosen prompts with every policy's answers, and the lengths and verdicts of all answers.

    index: entries of scores.json: {"policy", "seed", "benchmark", "kind", "file", "generations": manifest or null,
    "verdicts": path or null}. Returns {"benchmark", "total", "prompts": [...], "lengths": {policy: [tokens]},
    "verdicts": {policy: [numbers]}}.
    """
    rows_of = read_jsonl(prompts)
    views = {str(prompt["id"]): prompt_view(prompt) for prompt in chosen_prompts(rows_of, count)}
    found: dict = {"benchmark": benchmark, "total": len(rows_of), "lengths": {}, "verdicts": {}}
    for answer in first_seeds(answers_to(benchmark, index)):
        policy, seed = answer["policy"], answer["seed"]
        rows = read_jsonl(rows_beside(answer["generations"]))
        if not rows:  # its training diverged
            continue
        verdicts = read_jsonl(answer["verdicts"]) if answer["verdicts"] else []
        found["lengths"][policy] = [row["completion_tokens"] for row in rows]
        numbers = [verdict_value(verdict) for verdict in verdicts]
        found["verdicts"][policy] = [number for number in numbers if number is not None]
        marks = {} if verdicts else item_marks(answer["file"])
        for name, view in views.items():
            own = sorted(
                (row for row in rows if str(row["id"]) == name and row["sample"] == 0),
                key=lambda r: r["turn"],
            )
            view["answers"].append(
                {
                    "policy": policy,
                    "seed": seed,
                    "turns": [turn_view(row, verdicts) for row in own],
                    "marks": marks.get(name, []),
                }
            )
    return found | {"prompts": list(views.values())}


def prompt_view(prompt: dict) -> dict:
    """Return a prompt for people: what was said (role and text), later user turns, and the reference, if any."""
    said = [{"role": message["role"], "text": message["content"]} for message in prompt.get("messages", [])]
    return {
        "id": prompt["id"],
        "said": said or [{"role": "text", "text": prompt["text"]}],
        "followups": prompt["followups"],
        "reference": prompt["reference"] or [],
        "answers": [],
    }


def turn_view(row: dict, verdicts: list[dict]) -> dict:
    """Return one turn of an answer with its verdicts."""
    key = (row["id"], row["turn"], row["sample"])
    own = [verdict for verdict in verdicts if (verdict["id"], verdict["turn"], verdict["sample"]) == key]
    return {
        "text": row["text"],
        "cut": row["finish_reason"] == "length",
        "tokens": row["completion_tokens"],
        "verdicts": [verdict_view(verdict) for verdict in own],
    }
