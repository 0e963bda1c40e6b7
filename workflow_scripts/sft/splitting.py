"""Long conversations as several rows, cut between exchanges: so ShareGPT's were for Vicuna and the Tulu mixtures.

Those count the tokens of each message and six for its header; here a row is as long as the policy's own template and
tokenizer make it. The system message, if there is one, opens every part; what was said in the parts before is not seen.
"""

from typing import Any

from workflow_scripts.common.own_template import Unspeakable
from workflow_scripts.common.templates import Template, tokenise_conversation

TOO_LONG = "too long"


def split_long(
    rows: list[dict], tokenizer: Any, template: Template, limit: int
) -> tuple[list[dict], list[dict], int]:
    """Return (rows of at most `limit` tokens, what is in none of them, how many conversations were split).

    A part has as many exchanges as it holds. An exchange that is too long by itself is left out, and the next part
    begins behind it.
    """
    kept, rejected, split = [], [], 0

    def size(messages: list[dict]) -> int:
        return len(tokenise_conversation(messages, template, tokenizer).input_ids)

    for row in rows:
        try:
            whole = size(row["messages"])
        except Unspeakable:  # as it is, for it is refused with the others of its kind
            kept.append(row)
            continue
        if whole <= limit:
            kept.append(row)
            continue
        before = row["messages"][: row["messages"][0]["role"] == "system"]
        said = row["messages"][len(before) :]
        exchanges = [said[at : at + 2] for at in range(0, len(said), 2)]
        parts: list[list[dict]] = [[]]
        for number, exchange in enumerate(exchanges, 1):
            alone = size([*before, *exchange])
            if alone > limit:
                rejected.append(
                    {
                        "id": row["id"],
                        "reason": TOO_LONG,
                        "detail": f"exchange {number} of {len(exchanges)}: {alone} tokens, at most {limit}",
                    }
                )
                parts.append([])
            elif parts[-1] and size([*before, *parts[-1], *exchange]) > limit:
                parts.append(exchange)
            else:
                parts[-1] = [*parts[-1], *exchange]
        found = [part for part in parts if part]
        kept += [
            row | {"id": f"{row['id']}/part-{number}", "messages": [*before, *part]}
            for number, part in enumerate(found, 1)
        ]
        split += bool(found)
    return kept, rejected, split
