"""What the online methods share: prompts as tokens, where an answer ends, and the reward of whatever is answered.

A policy answers a prompt set and its answers are rewarded as annotation rewards gold replies. Prompts are
conversations that end on the user; what follows up on the first answer is left out, and so are raw text prompts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from workflow_scripts.align import vllm_beside
from workflow_scripts.common.answering import cut_at
from workflow_scripts.common.code import code_of
from workflow_scripts.common.cuts import cut_counts, say_cuts, say_rejected
from workflow_scripts.common.decoding import reply_text
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.fitting import fit_prompt
from workflow_scripts.common.models import load_tokenizer, model_ends
from workflow_scripts.common.reward_columns import Reward, Rewards, answer_turn, provenance, reward_function
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.templates import Template, ends_of, refused, reply_end, strips_replies
from workflow_scripts.common.training.checkpoints import work_folder
from workflow_scripts.common.training.command import training_parser
from workflow_scripts.common.training.settings import PolicyTraining
from workflow_scripts.common.training.watching import watched_state
from workflow_scripts.common.turns import turns_of


class OnlineTraining(PolicyTraining):
    """What every online method reads; `clip` is how far a probability ratio counts from 1."""

    template: Template
    max_prompt_tokens: int
    max_new_tokens: int
    temperature: float
    top_p: float
    clip: float
    missing_end_penalty: float | None
    engine: Literal["transformers", "vllm"]
    gpu_memory_share: float


class Scores(NamedTuple):
    """The rewards of some answers, and the share of these that a reward read less than the whole text of."""

    rewards: list[float]
    cut: float


# (prompt rows, the tokens answered to each) → their scores
Score = Callable[[list[dict], list[list[int]]], Scores]


class Online(NamedTuple):
    """What a run needs beside its model: prompts (rows with `prompt`, their tokens), `ends` (the ids that end an
    answer), the reward of answers, how many prompts were kept and cut, and the folder of resumable state."""

    tokenizer: Any
    prompts: list[dict]
    ends: list[int]
    score: Score
    counts: dict[str, int]
    work: Path


def tokenise_prompts(
    rows: list[dict], template: dict, max_prompt_tokens: int, tokenizer: Any
) -> tuple[list[dict], dict[str, int]]:
    """Return (rows with `prompt`, at most max_prompt_tokens cut as `fitting` says; counts read, kept, rejected, cut …).

    A prompt whose content spells out a special token, or that the template does not write, is rejected.
    """
    kept, reasons = [], []
    for row in rows:
        if "messages" not in row:
            raise PlumblineError(f"prompt {row['id']}: has no messages; online training needs conversations")
        if why := refused(row["messages"], [], template, tokenizer):
            reasons.append(why[0])
        else:
            name = f"prompt {row['id']}"
            found = fit_prompt(row["messages"], template, tokenizer, max_prompt_tokens, name)
            kept.append(row | {"prompt": found.ids} | found.facts())
    say_rejected("prompts", reasons, len(rows))
    counts = {"read": len(rows), "kept": len(kept), "rejected": len(reasons)}
    return kept, counts | cut_counts(kept)


def reply_of(
    prompt: list[int], answer: list[int], ends: list[int], stops: list[str], template: dict, tokenizer: Any
) -> str:
    """Return the text of an answer to a prompt without its end token or stop string.

    It is stripped where the template strips replies.
    """
    kept = answer[:-1] if answer[-1] in ends else answer
    text, _ = cut_at(reply_text(tokenizer, prompt, kept), stops)
    return text.strip() if strips_replies(template, tokenizer) else text


def scorer(
    rewards: dict[str, Reward],
    fit_on: list[str],
    ends: list[int],
    stops: list[str],
    template: dict,
    tokenizer: Any,
) -> Score:
    """Return the function that scores answers by final_reward, an answer being the reply to its prompt's messages.

    Its classifiers are loaded once. It raises PlumblineError naming the prompt where a reward is no number.
    """
    given = [name for name, part in rewards.items() if "given" in part]
    if given:
        raise PlumblineError(
            f"rewards.{given[0]}: is given for known answers only; new ones need a rule or a model"
        )

    rewarded = reward_function(fit_on, rewards)

    def score(rows: list[dict], answers: list[list[int]]) -> Scores:
        turns = [
            answer_turn(row, reply_of(row["prompt"], answer, ends, stops, template, tokenizer))
            for row, answer in zip(rows, answers, strict=True)
        ]
        found = rewarded(turns)
        cut = sum("texts_cut" in turn for turn in found) / len(found)
        return Scores([turn["rewards"]["final_reward"] for turn in found], cut)

    return score


def prepare(description: str, kind: type[OnlineTraining], module: str) -> tuple[Any, Online]:
    """Parse the command line of an online method; return its arguments and what it needs beside its model.

    kind: what its settings are.
    """
    files = {"prompts": "JSON Lines of prompts", "prompts_manifest": "their manifest"}
    parser = training_parser(description, kind, **files, fit_rows="rows whose replies tf-idf is fitted on")
    parser.add_argument("--rewards", type=settings_of(Rewards), required=True, help="reward columns, as JSON")
    arguments = parser.parse_args()
    settings, rewards = arguments.settings, arguments.rewards["rewards"]
    if settings["temperature"] <= 0:
        raise PlumblineError(
            f"temperature {settings['temperature']}: online training samples; set it above 0"
        )
    tokenizer = load_tokenizer(arguments.parent)
    template = settings["template"]
    rows = read_jsonl(arguments.prompts)
    prompts, counts = tokenise_prompts(rows, template, settings["max_prompt_tokens"], tokenizer)
    assert counts["kept"] + counts["rejected"] == len(rows)
    if not prompts:
        raise PlumblineError(f"{arguments.prompts}: no usable prompt among {len(rows)}")
    say_cuts(str(arguments.prompts), counts, "raise max_prompt_tokens to keep them whole")
    fit_on = [turn["reference"] for row in read_jsonl(arguments.fit_rows) for turn in turns_of(row)]
    ends = ends_of(reply_end(template, tokenizer), tokenizer, model_ends(arguments.parent))
    inputs = [arguments.parent_manifest, arguments.prompts_manifest, arguments.fit_rows]
    depends = {"settings": settings, "rewards": provenance(rewards)} | watched_state(arguments)
    code = code_of(module, *([vllm_beside.ENGINE] if settings["engine"] == "vllm" else []))
    work = work_folder(arguments.work, inputs, depends, arguments.seed, code)
    score = scorer(rewards, fit_on, ends, settings.get("stop", []), template, tokenizer)
    return arguments, Online(tokenizer, prompts, ends, score, counts, work)
