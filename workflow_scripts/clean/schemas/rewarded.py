"""The schemas of Leftover Lunch's files (Baheti et al. 2024): a prompt, and replies with the rewards they came with."""

import re

from workflow_scripts.clean.fields import Fields, Unfit, shown
from workflow_scripts.clean.schemas.row import (
    NO_REWARD,
    Opened,
    Row,
    Schema,
    assistant,
    finite,
    plain,
    user,
)
from workflow_scripts.clean.settings import Settings

# The end-of-text tokens that sources write between the turns of a text.
END_OF_TEXT = re.compile(r"<\|endoftext\|>|</s>|<eos>")
HH_SPEAKERS = {"prompter": "user", "assistant": "assistant"}


def hh(row: Fields, settings: Settings) -> Opened:
    """Read a row of A-LoL's HH files: {"prefix": [[marked text, …], …], "suffix": [text, …], "reward": [logit, …]}.

    The prefix stands there once per candidate; the candidate at `sft_index` is the one people preferred. Rewards are
    the reward model's raw logits. With `reject_colon`, a row with a reply that breaks off at a colon is left out.
    """
    replies, prefixes = row.list("suffix"), row.list("prefix")
    numbers = [finite(reward) for reward in (row.list("reward") if "reward" in row else [None])]
    if len(replies) < 2:
        raise Unfit("fewer than 2 candidates", str(len(replies)))
    if not all(isinstance(prefix, list) for prefix in prefixes):
        raise Unfit("text is not a string", "prefix")
    if not all(isinstance(text, str) for prefix in prefixes for text in prefix):
        raise Unfit("text is not a string", "prefix")
    if len(prefixes) != len(replies) or prefixes.count(prefixes[0]) != len(prefixes):
        raise Unfit("candidates do not share one prompt")
    if len(numbers) != len(replies):
        raise Unfit("not one reward per candidate", f"{len(numbers)} for {len(replies)}")
    if settings["reject_colon"] and any(isinstance(text, str) and text.endswith(":") for text in replies):
        raise Unfit("reply ends on a colon")
    first = row.raw("sft_index") if "sft_index" in row else 0
    if type(first) is not int or not 0 <= first < len(replies):
        raise Unfit("'sft_index' names no candidate", shown(first))
    ranked = [
        {"content": text, "rewards": {"rm": number}} for text, number in zip(replies, numbers, strict=True)
    ]
    ranked.insert(0, ranked.pop(first))
    meta = row.of_type("meta", dict) or {}
    return Opened(read_marks("".join(prefixes[0])), candidates=ranked, meta=meta)


def read_marks(text: str) -> list[Row]:
    """Return the turns of "<|prompter|>text<|assistant|>text…", without the empty one that a prompt ends with."""
    before, *pieces = re.split(r"<\|(prompter|assistant)\|>", text)
    if before.strip() or not pieces or pieces[-2] != "assistant" or pieces[-1].strip():
        raise Unfit("prompt is not marked as one")
    pairs = zip(pieces[:-2:2], pieces[1:-2:2], strict=True)
    return [{"role": HH_SPEAKERS[mark], "content": content} for mark, content in pairs]


def rewarded(row: Fields, settings: Settings) -> Opened:
    """Read {"id", "prompt_or_input_text", "references", "meta_data", "reward_components"}: A-LoL's small tasks.

    An end-of-text token stands behind each turn of the text, whose last is the user's. Where the text opens with
    "Knowledge: …" and a turn follows, that is the system message and, without its heading, meta["knowledge"]. The
    reward named final_reward is left out: it is the sum of the others. A row without reward_components brings no
    rewards: they are then an annotation's own, and one that asks for a given reward says that the row has none.
    """
    reply = row.text("references")
    if match := re.search(rf"(?:{END_OF_TEXT.pattern})\s*$", reply):
        reply = reply[: match.start()]
    texts = [part for part in END_OF_TEXT.split(row.text("prompt_or_input_text")) if part.strip()]
    meta: Row = {"meta_data": row.raw("meta_data") if "meta_data" in row else None}
    system = None
    if len(texts) > 1 and texts[0].startswith("Knowledge:"):
        system = texts.pop(0).strip()
        meta["knowledge"] = system.removeprefix("Knowledge:").strip()
    # Counted from the end: a talk that the other side opened still ends on the user.
    turns = [(user, assistant)[(len(texts) - place) % 2 == 0](text) for place, text in enumerate(texts)]
    components = row.get("reward_components")
    if not isinstance(components, dict | None):
        raise Unfit(NO_REWARD, f"reward_components: {type(components).__name__}")
    rewards = {
        name: finite(value) for name, value in plain(components or {}).items() if name != "final_reward"
    }
    return Opened(turns, system=system, candidates=[{"content": reply, "rewards": rewards}], meta=meta)


SCHEMAS = {"hh": Schema(hh, "ranked"), "rewarded": Schema(rewarded, "ranked")}
