"""Preference pairs from several answers of a policy to each prompt, ranked by their rewards: the best one is chosen.

Rewards stand in the answers' rows (`--rewarded`), or are a judge's ratings of them (`--prompts`, `--generations` and
`--verdicts`); an answer whose verdict failed is left out.

Which answers lose to it, `take` says: the worst (best_worst), a random one of those it beats by the margin
(best_random), or all of these (all). An answer that a prompt has already counts once. Every answer ends in a pair or in
the rejections, with the reason; a prompt without a pair has no ranked row either. The chosen answers are what
fine-tuning by rejection sampling learns (best of n: Dong et al. 2023, RAFT).
"""

import argparse
import random
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.pairs.held_out import held_out_groups
from workflow_scripts.pairs.output import told_reasons, write_pairs

SAME = "same answer again"
ALONE = "no other answer to the prompt"
FAILED = "its verdict failed"
ALONE_JUDGED = "no other answer to the prompt has a verdict"
EMPTY = "the best answer is empty"
EQUAL = "all answers have the same reward"
UNDER = "under the margin"
NOT_TAKEN = "neither the best answer nor one that was taken to lose"


class Settings(TypedDict):
    """What the step reads; `validation_share` is of the groups."""

    take: Literal["best_worst", "best_random", "all"]
    margin: float
    validation_share: float
    seed: int


def judged_rows(prompts: list[dict], generations: list[dict], verdicts: list[dict], where: str) -> list[dict]:
    """Return a row per answer with a judge's rating as its reward, as `annotate.answers` writes them.

    Where the verdict failed the reward is None, and `failed` says why. `where` names the verdicts. Raises
    PlumblineError where answers and verdicts are not one to one.
    """
    given = {(row["id"], row["turn"], row["sample"]): row for row in verdicts}
    answers = {(row["id"], row["turn"], row["sample"]): row["text"] for row in generations}
    if odd := sorted(given.keys() ^ answers.keys()):
        name, turn, sample = odd[0]
        raise PlumblineError(
            f"{where}: not one verdict per answer; see turn {turn}, sample {sample} of {name!r}; judge again"
        )
    by_id = {prompt["id"]: prompt for prompt in prompts}
    rows = []
    for key, text in sorted(answers.items(), key=lambda item: item[0][2]):
        name, verdict = key[0], given[key]
        shared = {field: by_id[name][field] for field in ("group", "messages")}
        row = {"id": f"{name}/{key[2]}", **shared, "reference": text}
        row["rewards"] = {"final_reward": verdict["rating"]}
        rows.append(row | ({"failed": verdict["failed"]} if verdict["rating"] is None else {}))
    order = {prompt["id"]: place for place, prompt in enumerate(prompts)}
    return sorted(rows, key=lambda row: order[row["id"].rpartition("/")[0]])


def reward_of(row: dict) -> float:
    return row["rewards"]["final_reward"]


def gap_of(best: dict, other: dict) -> float:
    """Return by how much one answer's reward is above another's; rewards have six decimals."""
    return round(reward_of(best) - reward_of(other), 6)


def losing(others: list[dict], take: str, seed: int, prompt: str) -> list[dict]:
    """Return those of the answers that a prompt's best one beats which are to lose; they stand best first."""
    if take == "best_worst":
        return others[-1:]
    if take == "best_random":
        return [random.Random(f"{seed}/{prompt}").choice(others)]
    if take == "all":
        return others
    raise PlumblineError(f"take is {take!r}; there are best_worst, best_random, all")


def rank_prompt(
    prompt: str, rows: list[dict], settings: Settings
) -> tuple[dict | None, list[dict], list[dict]]:
    """Return (a prompt's ranked row or None, its pairs, its rejected answers) of its rewarded answers.

    An answer without a reward, whose verdict failed, is among the rejected ones.
    """
    distinct: dict[str, dict] = {}
    rejected = []
    for row in rows:
        if reward_of(row) is None:
            rejected.append({"id": row["id"], "reason": FAILED, "why": row["failed"]})
        elif row["reference"].strip() in distinct:
            rejected.append({"id": row["id"], "reason": SAME})
        else:
            distinct[row["reference"].strip()] = row
    ranked = sorted(distinct.values(), key=lambda row: -reward_of(row))  # of equal ones the first sample
    if not ranked:
        return None, [], rejected
    best, *others = ranked
    beaten = [row for row in others if gap_of(best, row) > 0]
    clearly = [row for row in beaten if gap_of(best, row) >= settings["margin"]]
    why = None
    if not others:
        why = ALONE_JUDGED if any(row["reason"] == FAILED for row in rejected) else ALONE
    elif not beaten:
        why = EQUAL
    elif not clearly:
        why = UNDER
    elif not best["reference"].strip():
        why = EMPTY
    if why:
        return None, [], rejected + [{"id": row["id"], "reason": why} for row in ranked]
    taken = losing(clearly, settings["take"], settings["seed"], prompt)
    used = {row["id"] for row in [best, *taken]}
    rejected += [{"id": row["id"], "reason": NOT_TAKEN} for row in ranked if row["id"] not in used]
    shared = {name: best[name] for name in ("group", "messages")}
    pairs = [
        {
            "id": row["id"],
            **shared,
            "chosen": best["reference"],
            "rejected": row["reference"],
            "meta": {"reward_gap": gap_of(best, row)},
        }
        for row in taken
    ]
    answers = [row["reference"] for row in ranked]
    whole = {"id": prompt, **shared, "answers": answers, "rewards": list(map(reward_of, ranked)), "meta": {}}
    return whole, pairs, rejected


def rank_samples(rows: list[dict], settings: Settings) -> tuple[list[dict], list[dict], list[dict]]:
    """Return (ranked rows, pairs, rejected answers) of a policy's rewarded answers: each is in pairs or rejected."""
    prompts: dict[str, list[dict]] = {}
    for row in rows:
        prompts.setdefault(row["id"].rpartition("/")[0], []).append(row)
    ranked: list[dict] = []
    pairs: list[dict] = []
    rejected: list[dict] = []
    for prompt, answers in prompts.items():
        whole, made, lost = rank_prompt(prompt, answers, settings)
        ranked += [whole] if whole else []
        pairs, rejected = pairs + made, rejected + lost
    assert len(pairs) + len(ranked) + len(rejected) == len(rows)
    held_out = held_out_groups(
        [row["group"] for row in ranked], settings["validation_share"], settings["seed"]
    )
    split: dict[bool, dict[str, Any]] = {True: {"split": "validation"}, False: {"split": "train"}}
    ranked = [row | split[row["group"] in held_out] for row in ranked]
    return ranked, [pair | split[pair["group"] in held_out] for pair in pairs], rejected


def counts_of(rows: list[dict], ranked: list[dict], pairs: list[dict]) -> dict[str, Any]:
    """Return what the manifest counts; `share_kept` is the share of prompts that made a pair."""
    prompts = len({row["id"].rpartition("/")[0] for row in rows})
    return {
        "read": len(rows),
        "prompts": prompts,
        "prompts_kept": len(ranked),
        "share_kept": round(len(ranked) / prompts, 4),
        "kept": len(pairs),
        "splits": dict(Counter(pair["split"] for pair in pairs)),
        "mean_gap": round(sum(pair["meta"]["reward_gap"] for pair in pairs) / len(pairs), 6),
    }


def parse_flags() -> argparse.Namespace:
    files = {"ranked": "JSON Lines of ranked rows to write", "rejected": "the answers left out"}
    parser = step_parser(__doc__, Settings, **files)
    parser.add_argument("--rewarded", type=Path, help="the policy's answers, rewarded; else the next three")
    parser.add_argument("--prompts", type=Path, help="the prompt set")
    parser.add_argument("--generations", type=Path, help="the policy's answers to it")
    parser.add_argument("--verdicts", type=Path, help="a judge's ratings of them")
    arguments = parser.parse_args()
    judged = [arguments.prompts, arguments.generations, arguments.verdicts]
    if not (all(judged) if arguments.rewarded is None else not any(judged)):
        parser.error("give either --rewarded, or --prompts, --generations and --verdicts")
    return arguments


def main() -> None:
    arguments = parse_flags()
    if arguments.rewarded:
        rows, where = read_jsonl(arguments.rewarded), arguments.rewarded
    else:
        where = arguments.verdicts
        files = (arguments.prompts, arguments.generations, arguments.verdicts)
        rows = judged_rows(*map(read_jsonl, files), str(where))
    ranked, pairs, rejected = rank_samples(rows, arguments.settings)
    if not pairs:
        raise PlumblineError(
            f"{where}: no prompt has two answers whose rewards make a pair ({told_reasons(rejected)}; "
            "each counts answers). Draw more that differ (samples, temperature, max_new_tokens), lower margin, or rank "
            "by a reward that tells these answers apart"
        )
    counts = counts_of(rows, ranked, pairs)
    print(f"{len(pairs)} pairs of {len(ranked)} of {counts['prompts']} prompts, {len(rows)} answers")
    write_pairs(arguments, pairs, ranked, rejected, counts)


if __name__ == "__main__":
    run(main)
