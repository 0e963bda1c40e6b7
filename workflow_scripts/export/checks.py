"""Is the folder the policy? What transformers alone makes of it is held against what the study makes of the policy.

Three things, before the folder gets its name: the tokenizer's ids on awkward texts, the chat template's ids against our
rendering, and the tokens of greedy answers, one prompt at a time, against those of the study's own weights: all must be
equal. Last, the answers are held against those that the study has stored. These were made in batches, perhaps on
another machine or by vLLM, so rounding may tell some apart: that is counted and said, and no reason to refuse.
"""

import gc
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from workflow_scripts.common.answering import answer_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl
from workflow_scripts.common.fitting import fit_prompt, fit_text
from workflow_scripts.common.models import load_policy, load_tokenizer, model_ends, precision_of
from workflow_scripts.common.templates import (
    content_of,
    ends_of,
    forbidden_text,
    is_own,
    reply_end,
    tokenise_prompt,
    tokenise_text,
)
from workflow_scripts.export.folder import FORMATS, format_name
from workflow_scripts.export.found import Found
from workflow_scripts.plan.policies import remote_code
from workflow_scripts.plan.prompts import answered

MOST_TOKENS = 64  # of an answer that is compared
AWKWARD = (
    *("Hello, world!", "  two  spaces ", "\n\n\tTabs\r\n", "1234567890 3.14 1,000", "don't we'll I'D", ""),
    *("é ü ß ñ 日本語 العربية हिन्दी", "😀👩‍👩‍👧‍👦 🇪🇺", "e\u0301 \u00a0\u200b\ufeff", "{{ x }} <b>&amp;</b>"),
    *("<s> </s> <|im_end|> [INST]", "a" * 60, "▁_ ▁▁ ▂", "def f(x):\n    return x ** 2\n", "ﬁ Ⅷ ½ ａ"),
)
PLAIN = ("What is osmosis?", "Name two gases.", "Why is the sky blue?", "Say a word.", "And then?")
GREEDY = {"temperature": 0.0, "beams": 1, "repetition_penalty": 1.0, "min_new_tokens": 0}


class Asked(NamedTuple):
    """A prompt that is checked: messages, or None of a plain text; its ids; its set's sampling and stored answer."""

    name: str
    messages: list[dict] | None
    ids: list[int]
    sampling: dict
    stored: dict | None


def sets_of(found: Found) -> list[str]:
    """Return the prompt sets, answered greedily, that a study has written."""
    layout = found.plan.layout
    sets = [name for name in answered(found.plan) if Path(layout.prompts(name)).is_file()]
    samplings = {name: read_json(layout.prompts(name)).get("sampling") or {} for name in sets}
    return [name for name in sets if all(samplings[name].get(key) == value for key, value in GREEDY.items())]


def stored_answers(found: Found, name: str) -> dict[str, dict]:
    """Return a policy's stored answers to first turns by the id of the prompt; {} where it has not answered."""
    rows = Path(found.plan.layout.answer_rows(found.policy, found.seed, name))
    if not rows.is_file():
        return {}
    answers = read_jsonl(rows)
    return {row["id"]: row for row in answers if row.get("sample") == 0 and row.get("turn") == 0}


def asked_row(
    row: dict, name: str, found: Found, tokenizer: Any, sampling: dict, stored: dict | None
) -> Asked:
    """Return a row of a prompt set as it is asked, cut to the context as the study cuts it."""
    room = found.plan.study.models[found.plan.policies[found.policy].model].context
    room -= sampling["max_new_tokens"]
    where = f"{name}/{row['id']}"
    if "text" in row:
        return Asked(
            where, None, fit_text(tokenise_text(row["text"], tokenizer), tokenizer, room), sampling, stored
        )
    fitted = fit_prompt(row["messages"], found.template(), tokenizer, room, where)
    return Asked(where, fitted.messages, fitted.ids, sampling, stored)


def prompts_to_check(found: Found, tokenizer: Any, count: int) -> list[Asked]:
    """Return up to so many prompts: of the study's greedy sets in turn, else a few plain questions of ours."""
    layout, queues = found.plan.layout, []
    for name in sets_of(found):
        sampling, stored = read_json(layout.prompts(name))["sampling"], stored_answers(found, name)
        rows = read_jsonl(layout.prompt_rows(name))
        rows = sorted(rows, key=lambda row: row["id"] not in stored)  # those with an answer first
        queues.append([(row, name, sampling, stored.get(row["id"])) for row in rows[:count]])
    turns = [queue[at] for at in range(count) for queue in queues if at < len(queue)][:count]
    if turns:
        return [asked_row(row, name, found, tokenizer, sampling, own) for row, name, sampling, own in turns]
    sampling = GREEDY | {"top_p": 1.0, "max_new_tokens": MOST_TOKENS, "stop": []}
    talks = [[{"role": "user", "content": text}] for text in PLAIN[:count]]
    return [
        Asked(talk[0]["content"], talk, tokenise_prompt(talk, found.template(), tokenizer), sampling, None)
        for talk in talks
    ]


def check_tokenizer(ours: Any, theirs: Any, folder: Path) -> None:
    """Raise PlumblineError where a text has other ids by the exported tokenizer."""
    for text in AWKWARD:
        one, other = (each(text, add_special_tokens=False)["input_ids"] for each in (ours, theirs))
        if one != other:
            raise PlumblineError(f"{folder}: its tokenizer reads {text!r} as {other}, the study's as {one}")


def as_written(message: dict, template: dict) -> dict:
    """Return a message whose content is as a template of ours writes it; the model's own does so itself."""
    content = message["content"] if is_own(template) else content_of(message, template)
    return {"role": message["role"], "content": content}


def check_rendering(asked: list[Asked], found: Found, theirs: Any, folder: Path) -> dict[str, int]:
    """Return how many prompts `apply_chat_template` renders to our ids, and how many spell special tokens.

    PlumblineError where the ids of another one differ. A special token that a message spells is plain text in a study,
    and to `apply_chat_template` the token itself: such prompts are not compared.
    """
    same = spelled = 0
    for each in asked:
        if each.messages is None:
            continue
        said = [as_written(message, found.template()) for message in each.messages]
        if forbidden_text(said, theirs):
            spelled += 1
            continue
        ids = theirs.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=False)
        if ids != each.ids:
            raise PlumblineError(
                f"{folder}: apply_chat_template renders prompt {each.name} to other tokens than the study: {ids} and "
                f"not {each.ids}"
            )
        same += 1
    return {"rendered_alike": same, "spelling_special_tokens": spelled}


@torch.no_grad()
def greedy(model: Any, ids: list[int], most: int, **more: Any) -> list[int]:
    """Return the tokens that a model goes on with, alone; `more` goes to `generate`."""
    prompt = torch.tensor([ids], device=model.device)
    made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=most, **more)
    return made[0, len(ids) :].tolist()


def most_of(asked: Asked) -> int:
    return min(MOST_TOKENS, asked.sampling["max_new_tokens"])


def agrees(asked: Asked, tokens: list[int], tokenizer: Any, ends: list[int]) -> bool:
    """Tell whether tokens say what the study has stored; of an answer that is longer, whether they begin it."""
    most = most_of(asked)
    answer = answer_of(tokenizer, asked.ids, tokens, ends, asked.sampling | {"max_new_tokens": most})
    if answer.finish_reason == "length" and most < asked.sampling["max_new_tokens"]:
        return asked.stored["text"].startswith(answer.text.rstrip("\ufffd"))
    return answer.text == asked.stored["text"]


def check(found: Found, folder: Path, wanted: str | None, count: int) -> dict[str, Any]:
    """Return what was compared of a folder; PlumblineError where it is not the policy of the study.

    In a number format that the study does not compute in (`wanted`), answers may differ: they are counted.
    """
    ours = load_tokenizer(found.model)
    theirs = AutoTokenizer.from_pretrained(folder)
    check_tokenizer(ours, theirs, folder)
    asked = prompts_to_check(found, ours, count)
    facts = {"prompts": len(asked)} | check_rendering(asked, found, theirs, folder)
    if not asked:
        return facts
    dtype, remote = precision_of(found.plan.study.engine.precision), remote_code(found.plan, found.policy)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ends = ends_of(reply_end(found.template(), ours), ours, model_ends(found.model))
    model = load_policy(found.model, dtype, remote).to(device)
    attention = model.config._attn_implementation
    how = {"eos_token_id": ends, "pad_token_id": ours.pad_token_id, "do_sample": False}
    model.generation_config = GenerationConfig()  # as where the study asks it: its own may draw
    before = [greedy(model, each.ids, most_of(each), **how) for each in asked]
    del model
    gc.collect()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, trust_remote_code=remote
    ).to(device)
    after = [greedy(model, each.ids, most_of(each)) for each in asked]
    differing = [each.name for each, one, other in zip(asked, before, after, strict=True) if one != other]
    exact = wanted is None or FORMATS[wanted] == torch.promote_types(FORMATS[wanted], dtype)
    if differing and exact:
        raise PlumblineError(
            f"{folder}: answers {len(differing)} of {len(asked)} prompts otherwise than the policy of the study, "
            f"first {differing[0]}; this should not be: please report it with the study"
        )
    stored = [
        agrees(each, tokens, theirs, ends) for each, tokens in zip(asked, after, strict=True) if each.stored
    ]
    return facts | {
        "compared_in": format_name(dtype),
        "tokens_each": MOST_TOKENS,
        "answered_alike": len(asked) - len(differing),
        "answers_stored": len(stored),
        "as_stored": sum(stored),
    }
