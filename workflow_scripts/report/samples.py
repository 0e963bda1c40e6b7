"""Sample answers for the report: the same prompts, each policy's answer beside the others', with what the judge said.

The prompts are those with the smallest digests of their ids: nobody picks them, and adding one moves at most one.
Covered: the first sample of every turn, one seed per policy (the first given); lengths and verdicts of all answers. A
verdict without a number, as it failed or the study skips its prompt, is shown as such and counted.
Not covered: answers to benchmarks that generate nothing (log-likelihoods).
"""

import hashlib
import math
from collections import Counter
from pathlib import Path

from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.report.rows import cell_name


def chosen_prompts(prompts: list[dict], count: int) -> list[dict]:
    """Return `count` of the prompts, by the digests of their ids, in the order they have."""
    by_digest = sorted(prompts, key=lambda prompt: hashlib.sha256(str(prompt["id"]).encode()).digest())
    wanted = {prompt["id"] for prompt in by_digest[:count]}
    return [prompt for prompt in prompts if prompt["id"] in wanted]


def why_without_number(verdict: dict) -> str:
    """Return why a verdict has no number that could be shown or averaged, "" where it has one."""
    if verdict.get("skipped"):
        return "skipped by the study"
    if verdict.get("failed"):
        return f"no verdict: {verdict['failed']}"
    number = verdict.get("rating", verdict.get("preference"))
    if number is None or not math.isfinite(number):
        return f"no verdict: its number is {number}"
    return ""


def verdict_view(verdict: dict) -> dict:
    """Return a verdict for people: {"mark": its number or why there is none, "failed": bool, "words": [str]}.

    A verdict that the study skips has not failed: nobody asked for it.
    """
    words = verdict.get("text") or []
    said = (
        [words] if isinstance(words, str) else [text for text in words if text]
    )  # a pair: one reply per order
    if reason := why_without_number(verdict):
        return {"failed": not verdict.get("skipped"), "words": said, "mark": reason}
    way = "rated" if "rating" in verdict else "preferred"
    return {"failed": False, "words": said, "mark": f"{way} {verdict_number(verdict):.3g}"}


def verdict_number(verdict: dict) -> float:
    """Return a verdict's number; it must have one (see why_without_number)."""
    return verdict.get("rating", verdict.get("preference"))


def count_left_out(verdicts: list[dict]) -> dict[str, int]:
    """Return how many verdicts have no number, by what is to blame: {"failed": count, "skipped": count}, none of 0."""
    left_out = [verdict for verdict in verdicts if why_without_number(verdict)]
    return dict(Counter("skipped" if verdict.get("skipped") else "failed" for verdict in left_out))


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
    "verdicts": {policy: [numbers]}, "left_out": {policy: {"failed" or "skipped": verdicts without a number}}}.
    """
    rows_of = read_jsonl(prompts)
    views = {str(prompt["id"]): prompt_view(prompt) for prompt in chosen_prompts(rows_of, count)}
    found: dict = {
        "benchmark": benchmark,
        "total": len(rows_of),
        "lengths": {},
        "verdicts": {},
        "left_out": {},
    }
    for answer in first_seeds(answers_to(benchmark, index)):
        policy, seed = answer["policy"], answer["seed"]
        rows = read_jsonl(rows_beside(answer["generations"]))
        if not rows:  # its training diverged
            continue
        verdicts = read_jsonl(answer["verdicts"]) if answer["verdicts"] else []
        lengths = [row["completion_tokens"] for row in rows]
        if any(lengths):  # of a policy from elsewhere they are not known
            found["lengths"][policy] = lengths
        judged = [verdict for verdict in verdicts if not why_without_number(verdict)]
        found["verdicts"][policy] = [verdict_number(verdict) for verdict in judged]
        if left_out := count_left_out(verdicts):
            found["left_out"][policy] = left_out
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
                    "marks": marks.get(name, []) if own else ["no answer"],
                }
            )
    return found | {"prompts": list(views.values())}


def read_watched(curves: list[dict]) -> list[dict]:
    """Return what policies answered at each validation, by the curves in {"policy", "seed", "file"}."""
    return watched_answers([curve | {"rows": read_json(curve["file"])} for curve in curves])


def watched_answers(curves: list[dict]) -> list[dict]:
    """Return what policies answered at each validation, where they were watched: one seed per policy, the first given.

    curves: {"policy", "seed", "rows"}. Returns [{"policy", "seed", "prompts": [{"id", "asked", "answers": [{"step",
    "text", "worth"}]}]}].
    """
    found: dict[str, dict] = {}
    for curve in curves:
        points = [row for row in curve["rows"] if row.get("answers")]
        prompts: dict[str, dict] = {}
        for row in points:
            for answer in row["answers"]:
                view = prompts.setdefault(answer["id"], {"asked": answer["asked"], "answers": []})
                view["answers"].append(
                    {"step": row["step"]} | {key: answer[key] for key in ("text", "worth")}
                )
        if prompts and curve["policy"] not in found:
            views = [{"id": name} | view for name, view in prompts.items()]
            found[curve["policy"]] = {"policy": curve["policy"], "seed": curve["seed"], "prompts": views}
    return list(found.values())


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
