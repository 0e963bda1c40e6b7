"""How likely a policy finds the gold replies of a split: summed negative log-likelihood and token count of each.

Asked of the training split and of the test split, it shows how far a policy has learned its rows by heart. Covers every
reply of a conversation and the preferred candidate of a ranked row. Rows without a model are the calibration: `gold`
finds every token certain, `empty` finds all tokens equally likely. Not covered: losses over prompts.
"""

import math

from typing_extensions import TypedDict

from workflow_scripts.common.cuts import cut_counts, say_cuts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl
from workflow_scripts.common.fitting import fit_row
from workflow_scripts.common.logprobs import shared_prompt_logps
from workflow_scripts.common.models import load_policy, load_tokenizer, precision_of, torch
from workflow_scripts.common.progress import counted
from workflow_scripts.common.templates import tokenise_prompt, tokenise_reply
from workflow_scripts.common.turns import turns_of
from workflow_scripts.score.flags import measuring_parser


class Settings(TypedDict):
    batch_size: int
    history_turns: int | None
    limit: int | None
    max_tokens: int
    precision: str
    template: dict
    trust_remote_code: bool


def gold_turns(rows: list[dict], history: int | None, limit: int | None, where: str) -> list[dict]:
    """Return the first `limit` gold replies of a split's rows as turns; PlumblineError where there are none."""
    turns = [turn for row in rows for turn in turns_of(row, history) if turn["meta"].get("rank", 0) == 0]
    if not turns:
        raise PlumblineError(f"{where}: {len(rows)} rows without a reply; a loss needs a split that has some")
    return turns[:limit]


def token_row(turn: dict, tokenizer: object, settings: dict) -> dict:
    """Return a turn's id, group, prompt and completion, in token ids, at most `max_tokens` together, and what was cut.

    What is too long loses oldest turns of the prompt (see `fitting`), as the reply is what is measured; a reply that
    leaves no room for the shortest of prompts also loses its end.
    """
    template, longest, said = settings["template"], settings["max_tokens"], turn["reference"]
    completion = tokenise_reply(turn["messages"], said, template, tokenizer)[1]
    shortest = len(tokenise_prompt([{"role": "user", "content": "?"}], template, tokenizer))
    room, name = max(longest - len(completion), shortest), f"reply {turn['id']}"
    row = fit_row(turn["messages"], [said], template, tokenizer, longest, room, name)
    tokens = {"prompt": row.prompts[0], "completion": row.completions[0]}
    return {"id": turn["id"], "group": turn["group"]} | tokens | {"facts": row.facts}


def likelihood_rows(model: object, rows: list[dict], batch_size: int, dtype: torch.dtype) -> list[dict]:
    """Return one row per token row, in order: {id, group, nll (nats, summed), tokens}, and what was cut."""
    found = [0.0] * len(rows)
    order = sorted(
        range(len(rows)), key=lambda index: len(rows[index]["prompt"]) + len(rows[index]["completion"])
    )
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for chosen in counted(batches, "measuring", "replies", len(order)):
        with (
            torch.inference_mode(),
            torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32),
        ):
            logps = shared_prompt_logps(
                model,
                [rows[index]["prompt"] for index in chosen],
                [[rows[index]["completion"]] for index in chosen],
            )
        for index, (each,) in zip(chosen, logps, strict=True):
            found[index] = -each.double().sum().item()
    return [measured(row, nats) for row, nats in zip(rows, found, strict=True)]


def calibration_rows(tokenizer: object, rows: list[dict], policy: str) -> list[dict]:
    """Return the rows of `gold` (0 nats a token) or `empty` (the logarithm of the vocabulary's size)."""
    nats = 0.0 if policy == "gold" else math.log(len(tokenizer))
    return [measured(row, nats * len(row["completion"])) for row in rows]


def measured(row: dict, nats: float) -> dict:
    """Return the likelihood row of a token row, with what was cut where something was."""
    said = {"id": row["id"], "group": row["group"], "nll": round(nats, 4), "tokens": len(row["completion"])}
    return said | {name: lost for name, lost in row["facts"].items() if lost}


def main() -> None:
    arguments = measuring_parser(__doc__, Settings, "conversations or ranked rows of a split").parse_args()
    settings = arguments.settings
    tokenizer = load_tokenizer(arguments.model)
    turns = gold_turns(
        read_jsonl(arguments.rows), settings["history_turns"], settings["limit"], str(arguments.rows)
    )
    rows = [token_row(turn, tokenizer, settings) for turn in turns]
    if arguments.calibration:
        measures = calibration_rows(tokenizer, rows, arguments.calibration)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        computing = precision_of(settings["precision"])
        model = load_policy(
            arguments.model, trust_remote_code=settings["trust_remote_code"], computing=computing
        ).to(device)
        measures = likelihood_rows(model, rows, settings["batch_size"], precision_of(settings["precision"]))
    if len(measures) != len(turns):
        raise AssertionError(f"{len(turns)} replies, {len(measures)} likelihoods")
    counts = {"kept": len(measures)} | cut_counts(measures)
    say_cuts(str(arguments.rows), counts, "raise the benchmark's max_tokens to measure them whole")
    write_jsonl(arguments.output, measures)


if __name__ == "__main__":
    run(main)
