"""A policy behind the tests' server: real text by a model's own weights and chat template, for rows that it writes."""

import threading
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.judge_server import Handler


def policy_words(folder: Path) -> Callable[[Handler], str]:
    """Return what a policy says to a request: to messages by its chat template, to raw text by going on from it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    lock = threading.Lock()  # the seed is the whole process's

    def words(handler: Handler) -> str:
        body = handler.body
        if "messages" in body:
            text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        else:
            text = body["prompt"]
        tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with lock, torch.no_grad():
            torch.manual_seed(body["seed"])
            made = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=body["temperature"] > 0,
                max_new_tokens=body["max_tokens"],
                pad_token_id=tokenizer.pad_token_id,
            )
        return tokenizer.decode(made[0, tokens.shape[1] :], skip_special_tokens=True)

    return words
