"""The texts that classifiers of rewards read of a turn (`common.turns`): its reply, in as much context as they know.

A text that knows who says what (`Rendered`) keeps what somebody says from being read as a special token.
"""

import itertools
import random
import re

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.templates import Rendered, joined
from workflow_scripts.common.turns import reward_context

Text = str | Rendered | tuple[str, str]  # see `reward_model.Text`

# What stands in for the placeholders of an event: the critic was trained on sentences about people.
NAMES = (
    "Alice Anna Ben Carl Carol Clara Daniel David Emma Eric Eva Frank Grace Hannah Helen Henry Irene Jack Jane John "
    "Julia Karen Kevin Laura Linda Lisa Lucas Maria Mark Martin Mary Nina Oliver Paul Peter Rachel Robert Ruth Sam "
    "Sarah Simon Sophie Steven Susan Thomas Tim Victor William"
).split()
# The seven relations of ATOMIC-10X as the critic read them in training (West et al. 2022).
RELATIONS = {
    "HinderedBy": "can be hindered by",
    "xNeed": "but before, PersonX needed",
    "xWant": "as a result, PersonX wants",
    "xIntent": "because PersonX wanted",
    "xReact": "as a result, PersonX feels",
    "xAttr": "so, PersonX is seen as",
    "xEffect": "as a result, PersonX",
}
EVENT = re.compile(r"<head>(.*?)</head>\s*<relation>(.*?)</relation>", re.DOTALL)
OASST = {"user": "<|prompter|>", "assistant": "<|assistant|>"}


def spoken(turn: dict) -> list[dict]:
    """Return the messages of a turn without instructions, the reply last."""
    said = [message for message in turn["messages"] if message["role"] != "system"]
    return [*said, {"role": "assistant", "content": turn["reference"]}]


def dialogue_text(turn: dict, eos: str) -> Text:
    """Return the problem and the last exchange, a "Speaker: words" line each: what this pipeline's models read."""
    from workflow_scripts.common.reward_model import render_pair

    return render_pair(reward_context(turn["messages"]), turn["reference"], eos)


def reply_text(turn: dict, eos: str) -> Text:
    """Return the reply alone."""
    return turn["reference"].strip()


def context_text(turn: dict, eos: str) -> Text:
    """Return all that is said, joined by the end token: what DialogRPT reads (Gao et al. 2020)."""
    first, *others = ((message["role"], message["content"].strip()) for message in spoken(turn))
    return joined([first, *itertools.chain.from_iterable((("", eos), said) for said in others)])


def oasst_text(turn: dict, eos: str) -> Text:
    """Return all that is said with OpenAssistant's speaker tokens, an end token after each message."""
    said = [(message["role"], message["content"].strip()) for message in spoken(turn)]
    return joined(part for role, words in said for part in (("", OASST[role]), (role, words), ("", eos)))


def knowledge_text(turn: dict, eos: str) -> Text:
    """Return the pair (knowledge, reply), as a critic of faithfulness reads it (Dziri et al. 2022)."""
    knowledge = turn["meta"].get("knowledge")
    if not isinstance(knowledge, str):
        raise PlumblineError(
            f"row {turn['id']}: its meta has no 'knowledge', which this reward reads; clean a dataset that has it"
        )
    return knowledge.strip(), turn["reference"].strip()


def event_text(turn: dict, eos: str) -> Text:
    """Return the pair (head, "relation tail") of a commonsense event, PersonX, Y and Z replaced by names.

    Head and relation are the meta's, or stand in the prompt as <head>…</head> <relation>…</relation>. The names are
    drawn by the row's id, so a row always has the same. A relation that is not ATOMIC's is used as it stands.
    """
    head, relation = turn["meta"].get("head"), turn["meta"].get("relation")
    if head is None or relation is None:
        asked = EVENT.search(turn["messages"][-1]["content"])
        if asked is None:
            raise PlumblineError(
                f"row {turn['id']}: no event: neither its meta nor its prompt has a head and a relation"
            )
        head, relation = asked.groups()
    pair = [head.strip(), f"{RELATIONS.get(relation.strip(), relation.strip())} {turn['reference'].strip()}"]
    for person, name in zip("XYZ", random.Random(turn["id"]).sample(NAMES, 3), strict=True):
        pair = [text.replace(f"Person{person}", name) for text in pair]
    return pair[0], pair[1]


TEXTS = {
    "dialogue": dialogue_text,
    "reply": reply_text,
    "context": context_text,
    "oasst": oasst_text,
    "knowledge": knowledge_text,
    "event": event_text,
}
