"""How likely a policy finds each reply of the perplexity file: summed negative log-likelihood and token count.

Rows without a model are the calibration: `gold` finds every token certain, `empty` finds all tokens equally likely.
"""

import math

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl
from workflow_scripts.common.logprobs import shared_prompt_logps
from workflow_scripts.common.models import load_policy, load_tokenizer, precision_of, torch
from workflow_scripts.common.progress import counted
from workflow_scripts.common.templates import tokenise_reply
from workflow_scripts.score.flags import measuring_parser

REPLIES = ("original", "altered")


class Settings(TypedDict):
    max_tokens: int
    precision: str
    template: dict
    trust_remote_code: bool


def said_of(model: object, tokens: list[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    """Return the log-probs of each (prompt, reply), in one pass where the prompts are one.

    A tokenizer that merges across the border may have cut one text in two ways before two replies.
    """
    (prompt, _), *others = tokens
    if all(other == prompt for other, _ in others):
        return shared_prompt_logps(model, [prompt], [[reply for _, reply in tokens]])[0]
    prompts, replies = zip(*tokens, strict=True)
    return [each for (each,) in shared_prompt_logps(model, list(prompts), [[reply] for reply in replies])]


def likelihood_rows(model: object, tokenizer: object, pairs: list[dict], settings: dict) -> list[dict]:
    """Return one row per reply: {id, group, action, nll (nats, summed), tokens}."""
    rows = []
    for (pair,) in counted([[pair] for pair in pairs], "measuring", "pairs", len(pairs)):
        tokens = [
            tokenise_reply(pair["messages"], pair[name], settings["template"], tokenizer) for name in REPLIES
        ]
        too_long = max(len(prompt) + len(reply) for prompt, reply in tokens)
        if too_long > settings["max_tokens"]:
            raise PlumblineError(
                f"pair {pair['id']}: {too_long} tokens, at most {settings['max_tokens']} (max_tokens)"
            )
        with (
            torch.inference_mode(),
            torch.autocast(model.device.type, settings["dtype"], enabled=settings["dtype"] != torch.float32),
        ):
            found = said_of(model, tokens)
        for name, logps in zip(REPLIES, found, strict=True):
            rows.append(
                {
                    "id": f"{pair['id']}/{name}",
                    "group": pair["group"],
                    "action": pair["meta"][f"{name}_action"],
                    "nll": round(-logps.sum().item(), 4),
                    "tokens": len(logps),
                }
            )
    return rows


def calibration_rows(tokenizer: object, pairs: list[dict], settings: dict, policy: str) -> list[dict]:
    """Return the rows of `gold` (perplexity 1) or `empty` (perplexity = vocabulary size)."""
    nats = 0.0 if policy == "gold" else math.log(len(tokenizer))
    rows = []
    for pair in pairs:
        for name in REPLIES:
            count = len(tokenise_reply(pair["messages"], pair[name], settings["template"], tokenizer)[1])
            action = pair["meta"][f"{name}_action"]
            named = {"id": f"{pair['id']}/{name}", "group": pair["group"], "action": action}
            rows.append(named | {"nll": nats * count, "tokens": count})
    return rows


def main() -> None:
    arguments = measuring_parser(__doc__, Settings, "the pairs of the perplexity file").parse_args()
    settings = arguments.settings
    tokenizer, pairs = load_tokenizer(arguments.model), read_jsonl(arguments.rows)
    if arguments.calibration:
        rows = calibration_rows(tokenizer, pairs, settings, arguments.calibration)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        computing = precision_of(settings["precision"])
        model = load_policy(
            arguments.model, trust_remote_code=settings["trust_remote_code"], computing=computing
        ).to(device)
        rows = likelihood_rows(
            model, tokenizer, pairs, settings | {"dtype": precision_of(settings["precision"])}
        )
    write_jsonl(arguments.output, rows)


if __name__ == "__main__":
    run(main)
