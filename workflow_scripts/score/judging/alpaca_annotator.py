"""AlpacaEval's annotators (Li et al. 2023; Dubois et al. 2024): the package's own, with our judge client behind them.

The prompts, the seeded order of the two answers, the parsing and the weighing by log-probs are those of the
alpaca_eval package 0.6.6, so a preference equals the package's for the same replies; only who sends the prompts is
ours. Which model replies is the study's choice, not the configuration's. Nothing is read from the environment or
written beside the package. Not covered: annotators that call functions, bias a tokeniser's tokens or are no
chat (they are refused), and several annotators' votes.
"""

import logging
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import pandas as pd
from alpaca_eval.annotators import PairwiseAnnotator, SinglePairwiseAnnotator
from alpaca_eval.constants import EVALUATORS_CONFIG_DIR
from alpaca_eval.utils import load_configs, prompt_to_chatml

from workflow_scripts.common.asking.requests import Reply, Request, params_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.score.judging.questions import Question, Verdict

# The package sets INFO for the whole process, which would print every request of every client.
logging.getLogger().setLevel(logging.WARNING)

DEFAULTS = {"max_tokens": 2048, "temperature": 0.7, "top_p": 1.0}  # of the package's openai_completions
NOT_SENT = ("model_name", "client_kwargs", "price_per_token", "requires_chatml", "num_procs", "batch_size")
NOT_OURS = ("tools", "tokens_to_avoid", "tokens_to_favor")
CHAT = "<|im_start|>"
ROLES = ("system", "user", "assistant")

BROKEN = Reply(None, "not asked: chat marks in the answer break the annotator's prompt", None)

Ask = Callable[[list[Request]], list[Reply]]


def messages_of(prompt: str) -> list[dict] | None:
    """Return a ChatML prompt's messages as the package does; None where chat marks in an answer break it."""
    try:
        messages = prompt_to_chatml(prompt)
    except (AssertionError, IndexError):
        return None
    return messages if all(message["role"] in ROLES for message in messages) else None


def words_of(reply: Reply, key: str) -> Any:
    """Return a reply in the form that the package's parsers read; one they cannot read where it failed."""
    if key != "completions_all":
        return reply.text or ""
    return {"text": reply.text or "", "logprobs": {"content": reply.logprobs}} if reply.logprobs else {}


class AskingAnnotator(SinglePairwiseAnnotator):
    """One of the package's annotators that asks through `ask`, and keeps each pair's reply in `replies`."""

    def __init__(self, *args: Any, fn_completions: str, ask: Ask, judge: dict, **kwargs: Any):
        super().__init__(*args, fn_completions=self.complete, **kwargs)
        self.ask = ask
        self.judge = judge
        self.rows = pd.DataFrame()
        self.replies: dict[tuple[str, ...], Reply] = {}

    def _make_prompts(
        self, df_to_annotate: pd.DataFrame, prompt_template: str | None = None
    ) -> tuple[list[str], pd.DataFrame]:
        prompts, self.rows = super()._make_prompts(df_to_annotate, prompt_template)
        return prompts, self.rows

    def complete(self, prompts: list[str], **kwargs: Any) -> dict[str, list]:
        """Ask for a reply per prompt: what stands in the place of the package's `openai_completions`."""
        usual = DEFAULTS | {name: value for name, value in kwargs.items() if name not in NOT_SENT}
        params = params_of(self.judge, usual)
        dialogues = [messages_of(prompt) for prompt in prompts]
        given = iter(self.ask([Request(messages, params) for messages in dialogues if messages]))
        replies = [next(given) if messages else BROKEN for messages in dialogues]
        for number, row in enumerate(self.rows.to_dict("records")):
            self.replies[pair_of(row)] = replies[number // self.batch_size]
        return {self.completion_key: [words_of(reply, self.completion_key) for reply in replies]}


class AskingAnnotators(PairwiseAnnotator):
    """The package's pool of annotators, each of which asks through `ask`."""

    @property
    def SingleAnnotator(self) -> type[AskingAnnotator]:
        return AskingAnnotator


def pair_of(row: dict) -> tuple[str, ...]:
    """Return what names a pair in either order of its answers."""
    return row["instruction"], *sorted((row["output_1"], row["output_2"]))


def check_annotator(name: str) -> None:
    """Raise PlumblineError unless the package has an annotator of that name that can ask through our client."""
    known = sorted(path.parent.name for path in EVALUATORS_CONFIG_DIR.glob("*/configs.yaml"))
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise PlumblineError(f"annotator {name!r}: the alpaca_eval package has none of that name; {hint}")
    for config in load_configs(EVALUATORS_CONFIG_DIR / name / "configs.yaml").values():
        given = config.get("completions_kwargs", {})
        template = (EVALUATORS_CONFIG_DIR / config["prompt_template"]).read_text(encoding="utf-8")
        odd = [key for key in NOT_OURS if key in given]
        if config.get("fn_completions", "openai_completions") != "openai_completions":
            odd.append(config["fn_completions"])
        if not template.strip().startswith(CHAT):
            odd.append("a prompt that is no chat")
        if odd:
            raise PlumblineError(
                f"annotator {name!r} needs {', '.join(odd)}, which a chat endpoint alone does not give; "
                "take alpaca_eval_gpt4 (AlpacaEval 1) or weighted_alpaca_eval_gpt4_turbo (AlpacaEval 2)"
            )


def row_of(question: Question) -> dict[str, str]:
    """Return a question as the package's row: output_1 is the reference, output_2 the policy's answer."""
    if len(question.messages) != 1 or question.reference is None:
        raise PlumblineError(
            f"alpaca_eval prompt {question.id!r}: the package compares answers to one instruction with one "
            f"reference; it has {len(question.messages)} messages and "
            f"{'no' if question.reference is None else 'a'} reference. Set annotator: null"
        )
    return {
        "instruction": question.messages[0]["content"],
        "output_1": question.reference,
        "output_2": question.answer,
    }


def verdict_of(preference: float | None, reply: Reply | None) -> Verdict:
    """Return the verdict on one pair from the package's preference, 1 to 2; equal answers have no reply."""
    said = {} if reply is None or reply.text is None else {"text": reply.text}
    if pd.notna(preference):
        return {"preference": float(preference) - 1, "order": None} | said
    failed = reply.failed if reply is not None else None
    failed = failed or "the reply holds no preference that the annotator can read"
    return {"preference": None, "order": None, "failed": failed} | said


def compare(questions: list[Question], annotator: str, judge: dict, ask: Ask) -> list[Verdict]:
    """Return a verdict per question: the preference for the policy's answer over the reference, 0 to 1.

    `ask` gets all requests at once, but 128 pairs at a time where the annotator batches several in one prompt, as
    the package does. Raises PlumblineError for an annotator or a prompt that the package cannot take.
    """
    check_annotator(annotator)
    rows = [row_of(question) for question in questions]
    logging.disable(logging.CRITICAL)  # the package logs each failed reply with its traceback; we count them
    try:
        pool = AskingAnnotators(annotators_config=annotator, caching_path=None, ask=ask, judge=judge)
        batched = any(single.batch_size > 1 for single in pool.annotators.values())
        annotated = pool(rows, **({} if batched else {"chunksize": None}))
    finally:
        logging.disable(logging.NOTSET)
    replies = {pair: reply for single in pool.annotators.values() for pair, reply in single.replies.items()}
    return [
        verdict_of(found["preference"], replies.get(pair_of(row)))
        for row, found in zip(rows, annotated, strict=True)
    ]
