"""A policy in memory that is talked to: asked in its study's own template, answering as its study has it answer.

Nothing here renders, cuts, samples or decodes: `common` does, as for the study's prompt sets. What is added is that a
reply can be followed as it is made, and be broken off. A greedy reply is the study's own, to the byte, of the same
prompt asked alone. Not covered: beams, and vLLM, whose last digits may differ.
"""

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from workflow_scripts.common.answering import Answer, answer_batch, refuse_unknown_tokens
from workflow_scripts.common.decoding import reply_text
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import open_text
from workflow_scripts.common.fitting import Prompt, fit_prompt
from workflow_scripts.common.models import load_policy, load_tokenizer, model_ends, precision_of
from workflow_scripts.common.templates import ends_of, reply_end
from workflow_scripts.common.turns import window
from workflow_scripts.export.found import Found
from workflow_scripts.export.ollama import shared_stops
from workflow_scripts.plan.plan import history_turns
from workflow_scripts.plan.policies import remote_code, training_sets

Tell = Callable[[str], None]  # is handed all of a reply that is certain so far

LOOKED_AT = 200  # rows
GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "beams": 1,
    "repetition_penalty": 1.0,
    "min_new_tokens": 0,
    "max_new_tokens": 256,
    "stop": [],
}


class Speaker:
    """One loaded policy; one reply at a time is made, whoever asks.

    `history` is how many past exchanges it is shown, as in the rows it learned from; None is all of them.
    """

    def __init__(self, found: Found) -> None:
        plan, policy = found.plan, found.policy
        self.name, self.seed, self.template = policy, found.seed, found.template()
        self.context = plan.study.models[plan.policies[policy].model].context
        self.history = learned_history(found)
        self.stops = shared_stops(found)
        self.tokenizer = load_tokenizer(found.model)
        self.ends = ends_of(reply_end(self.template, self.tokenizer), self.tokenizer, model_ends(found.model))
        dtype = precision_of(plan.study.engine.precision)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_policy(found.model, dtype, remote_code(plan, policy)).to(device)
        self.lock = threading.Lock()

    def room(self, sampling: dict) -> int:
        """Return how many tokens a prompt may have; PlumblineError where replies of this length leave none."""
        room = self.context - sampling["max_new_tokens"]
        if room < 1:
            raise PlumblineError(
                f"{sampling['max_new_tokens']} tokens of a reply fill the context of {self.name}, {self.context}: "
                "ask for fewer"
            )
        return room

    def prompt(self, messages: list[dict], sampling: dict) -> Prompt:
        """Return a talk up to the reply as the policy reads it: cut to its context as the study cuts."""
        return fit_prompt(
            window(messages, self.history), self.template, self.tokenizer, self.room(sampling), "this talk"
        )

    def answer(self, prompt: list[int], sampling: dict, seed: int, tell: Tell | None = None) -> Answer:
        """Return the reply to a prompt, token ids; `tell` may raise what breaks it off."""
        refuse_unknown_tokens(self.model, [prompt])
        with self.lock, torch.inference_mode():
            torch.manual_seed(seed)
            with followed(self.model, len(prompt), self.teller(prompt, sampling, tell)):
                [answer] = answer_batch(self.model, self.tokenizer, [prompt], sampling, self.ends)
        return answer

    def teller(self, prompt: list[int], sampling: dict, tell: Tell | None) -> Callable[[list[int]], None]:
        """Return what is called with a reply's tokens so far."""

        def heard(tokens: list[int]) -> None:
            tell(certain(reply_text(self.tokenizer, prompt, tokens), sampling["stop"]))

        return heard if tell else lambda tokens: None


def learned_history(found: Found) -> int | None:
    """Return how many past exchanges a policy's own training showed it, None where that was all."""
    sets = training_sets(found.plan, found.policy)
    return history_turns(found.plan, sets[-1].split("/")[0]) if sets else None


def certain(text: str, stops: list[str]) -> str:
    """Return how much of an unfinished reply will stay: no half character, nor what may become a stop string."""
    text = text.rstrip("\ufffd")
    begun = [size for stop in stops for size in range(1, len(stop) + 1) if text.endswith(stop[:size])]
    return text[: len(text) - max(begun, default=0)]


@contextlib.contextmanager
def followed(model: Any, asked: int, heard: Callable[[list[int]], None]) -> Iterator[None]:
    """Have `heard` called with the tokens of a reply whenever the model reads on; its prompt has `asked` of them.

    The model is looked at from outside, as it is called: what it computes is the same. The last token of a reply is
    read by nobody, and so not heard of.
    """
    read = 0
    tokens: list[int] = []

    def called(_: Any, positional: tuple, named: dict) -> None:
        nonlocal read, tokens
        given = named["input_ids"] if named.get("input_ids") is not None else positional[0]
        row = given[0].tolist()
        if read and len(row) > asked:  # a model that keeps nothing reads all of it again
            tokens = row[asked:]
        elif read >= asked:
            tokens = tokens + row
        else:
            read += len(row)
            return
        heard(tokens)

    handle = model.register_forward_pre_hook(called, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def first_system(found: Found) -> str | None:
    """Return the system message that all rows begin with which a policy learned from last; None where they do not.

    The first rows are looked at, of the last training whose rows are still here.
    """
    for name in reversed(training_sets(found.plan, found.policy)):
        path = Path(found.plan.layout.rows(*name.split("/")))
        if path.is_file():
            with open_text(path) as stream:
                rows = [json.loads(line) for line in itertools.islice(stream, LOOKED_AT)]
            said = {system_of(row) for row in rows}
            return said.pop() if len(said) == 1 else None
    return None


def system_of(row: dict) -> str | None:
    """Return the system message that a row begins with, None where it has none."""
    first = next(iter(row.get("messages", [])), None)
    return first["content"] if first and first["role"] == "system" else None
