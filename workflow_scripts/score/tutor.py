"""Scores of structured tutor replies: their three labels against the gold reply's, and their form.

Covers accuracy and macro-F1 of evaluation, action and state (the labels; the report computes F1 from them), and how
many replies can be used at all. Where rows bring the solutions of their sub-problems, also the give-away rate, which is
better low: the share of replies to a failed attempt (by the gold reply's label) that say the solution in so many words,
whatever their own labels claim. Not covered: what else the tutor says.
"""

import json

from typing_extensions import TypedDict

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.tutor_reply import (
    EVALUATION,
    FAILED,
    FIELDS,
    LABEL_FIELDS,
    LABEL_NAMES,
    gives_away,
    is_well_formed,
    label_of,
    parse_reply,
    read_answer,
    solution_of,
)
from workflow_scripts.score.flags import answers_parser
from workflow_scripts.score.items import SHARE, first_turns_by_id, make_cell, write_scores


class Settings(TypedDict):
    skip_first_turn: bool
    fidelity: str


def is_whole(reply: object) -> bool:
    """Tell whether a parsed reply is a dict with all five fields, each a string that is not empty."""
    return isinstance(reply, dict) and all(
        isinstance(reply.get(field), str) and reply[field].strip() for field in FIELDS
    )


def is_valid_json(text: str) -> bool:
    """Tell whether a reply's text is one whole reply and JSON, nothing before it or after it."""
    try:
        return is_whole(json.loads(text))
    except (ValueError, RecursionError):
        return False


def gold_of(prompt: dict) -> dict:
    """Return a prompt's gold reply; PlumblineError where it has none with the three labels."""
    reply = parse_reply(prompt["reference"][0]) if prompt.get("reference") else None
    missing = [field for field in LABEL_FIELDS if field not in (reply or {})]
    if reply is None or missing:
        raise PlumblineError(
            f"tutor prompt {prompt['id']}: its reference lacks {', '.join(missing)}; clean again"
        )
    return reply


def score(prompts: list[dict], answers: dict[str, dict], settings: dict) -> list[dict]:
    """Return the cells of one policy; `answers` holds each prompt's generation row.

    The labels are scored on all turns but the first (if `skip_first_turn`), whose labels never vary; the
    form on all. Turns whose gold reply cannot be compared with (a dataset's lenient_labels) are in no label's score,
    which a note says. Raises PlumblineError when a gold reply does not parse, or no turn is left.
    """
    fidelity = settings["fidelity"]
    replies = {row["id"]: read_answer(answers[row["id"]]["text"], fidelity) for row in prompts}
    every = [row for row in prompts if row["meta"]["turn"] > 0 or not settings["skip_first_turn"]]
    gold = {row["id"]: gold_of(row) for row in every}
    later = [row for row in every if is_well_formed(gold[row["id"]])]
    if not later:
        raise PlumblineError(
            "the tutor prompt set has no turn to score; with skip_first_turn it needs later turns"
        )
    note = f"{len(every) - len(later)} of {len(every)} turns not scored: no gold labels to compare with"
    told = {"note": note} if len(later) < len(every) else {}

    def cell(subset: str, metric: str, rows: list[dict], columns: dict[str, list], **extra) -> dict:
        ids, groups = [row["id"] for row in rows], [row["group"] for row in rows]
        return make_cell(subset, metric, ids, groups, columns, **extra)

    cells = []
    exact = [1.0] * len(later)
    for field, subset in LABEL_NAMES.items():
        truth = [label_of(gold[row["id"]], field, fidelity) for row in later]
        guess = [label_of(replies[row["id"]], field, fidelity) for row in later]
        right = [float(a == b) for a, b in zip(truth, guess, strict=True)]
        exact = [a * b for a, b in zip(exact, right, strict=True)]
        labels = {"gold": truth, "predicted": guess}
        cells.append(cell(subset, "accuracy", later, {"value": right}, bounds=SHARE, **told))
        cells.append(cell(subset, "macro_f1", later, labels, estimator="macro_f1", fidelity=fidelity, **told))
    cells.append(cell("reply", "exact_labels", later, {"value": exact}, bounds=SHARE, **told))
    failed = [row for row in later if gold[row["id"]][EVALUATION].strip() in FAILED and solution_of(row)]
    if failed:
        said = [gives_away(answers[row["id"]]["text"], solution_of(row)) for row in failed]
        value = {"value": [float(each) for each in said]}
        cells.append(cell("reply", "give_away", failed, value, bounds=SHARE, higher_is_better=False))
    form = {
        "valid_json": [is_valid_json(answers[row["id"]]["text"]) for row in prompts],
        "parsed": [set(FIELDS) <= set(replies[row["id"]] or ()) for row in prompts],
        "finished": [answers[row["id"]]["finish_reason"] == "stop" for row in prompts],
    }
    for metric, held in form.items():
        cells.append(
            cell("reply", metric, prompts, {"value": [float(value) for value in held]}, bounds=SHARE)
        )
    return cells


def main() -> None:
    """Write the tutor scores of one policy."""
    args = answers_parser(main.__doc__, Settings).parse_args()
    prompts = answered_prompts(args.prompts, args.generations)
    samples = first_turns_by_id(
        read_jsonl(args.generations), [row["id"] for row in prompts], args.generations
    )
    for name, rows in samples.items():
        if len(rows) > 1:
            raise PlumblineError(
                f"{args.generations}: {len(rows)} samples of {name!r}; the tutor is scored on one"
            )
    answers = {name: rows[0] for name, rows in samples.items()}
    write_scores(args.output, "tutor", score(prompts, answers, args.settings))


if __name__ == "__main__":
    run(main)
