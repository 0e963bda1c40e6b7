"""Per-token log-probabilities of completions given prompts, in nats.

Two exact ways: `shared` encodes each prompt once and runs its completions behind the cached keys and values (a
preference pair costs P + 2C tokens instead of 2P + 2C); `flat` lays every prompt + completion end to end, without
padding, as gradient checkpointing needs it. A test holds both equal to padded batches.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workflow_scripts.common.cut_weights import whole_as_called
from workflow_scripts.common.errors import PlumblineError

IGNORED = -100
CHUNK = 1024  # positions whose logits exist at once: CHUNK × vocabulary floats


def padded(rows: list[list[int]], value: int, left: bool = False) -> Tensor:
    """Return rows as a tensor (batch, longest), padded with `value` on the right or the left."""
    width = max(map(len, rows))
    if left:
        return torch.tensor([[value] * (width - len(row)) + row for row in rows])
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


# What some architectures do to logits after the projection; `token_logps` would silently leave it out.
LOGIT_CHANGES = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


def head_of(model: Any) -> Tensor:
    """Return the LM head's weight (vocabulary, width); PlumblineError where logits are more than states times it."""
    head, settings = model.get_output_embeddings(), model.config.get_text_config().to_dict()
    changed = [name for name in LOGIT_CHANGES if settings.get(name) is not None]
    inner = model.base_model
    changed += [
        f"its {name}"
        for name, part in model.named_children()
        if part is not head and part is not inner and next(part.parameters(), None) is not None
    ]
    if changed or getattr(head, "bias", None) is not None:
        raise PlumblineError(
            f"a {model.config.model_type} model does more than its LM head does ({', '.join(changed) or 'bias'}), "
            "which `token_logps` would leave out; teach it there, and test it against the model's own logits"
        )
    return head.weight


def token_logps(hidden: Tensor, targets: Tensor, head: Tensor) -> Tensor:
    """Return log p(target) (positions,) for hidden states (positions, width) and head weights (vocabulary, width)."""

    def some(states: Tensor, tokens: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(states, head).float()
        return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)

    if len(targets) <= CHUNK:
        return some(hidden, targets)
    # More logits than may exist at once: keep none of them, make each chunk's again for its gradient.
    parts = [
        checkpoint(some, states, tokens, use_reentrant=False)
        for states, tokens in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    ]
    return torch.cat(parts)


def shared_prompt_logps(
    model: Any, prompts: list[list[int]], completions: list[list[list[int]]]
) -> list[list[Tensor]]:
    """Return [prompt][completion] → (tokens,) log-probs, each prompt encoded once for all its completions.

    `model` is an unwrapped decoder-only causal LM. Prompts are padded left and completions right, with explicit
    positions, so padding changes nothing.
    """
    device = model.device
    width = max(map(len, prompts))
    counts = torch.tensor([len(group) for group in completions], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    prompt_ids = padded(prompts, 0, left=True).to(device)
    prompt_mask = (torch.arange(width, device=device)[None] >= width - lengths[:, None]).long()
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
    encoded = model.base_model(
        input_ids=prompt_ids, attention_mask=prompt_mask, position_ids=positions, use_cache=True
    )
    cache = getattr(encoded, "past_key_values", None)
    if cache is None or not all(hasattr(layer, "batch_repeat_interleave") for layer in cache.layers):
        raise PlumblineError(
            f"a {model.config.model_type} model's state after a prompt cannot be taken for each of its answers; train "
            "it with share_prompts: false (of offline methods: padding_free: true), if its rows can be laid end to end"
        )
    cache.batch_repeat_interleave(counts)

    flat = [completion for group in completions for completion in group]
    targets = padded(flat, IGNORED).to(device)
    learned = targets != IGNORED
    inputs = targets.clamp(min=0)
    mask = torch.cat([prompt_mask.repeat_interleave(counts, 0), learned.long()], 1)
    positions = (
        lengths.repeat_interleave(counts)[:, None] + torch.arange(inputs.shape[1], device=device)[None]
    )
    last = encoded.last_hidden_state[:, -1:].repeat_interleave(counts, 0)
    if inputs.shape[1] > 1:
        behind = model.base_model(
            input_ids=inputs[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        last = torch.cat([last, behind.last_hidden_state], 1)
    logps = token_logps(last[learned], targets[learned], head_of(model))
    per_row = iter(logps.split([len(completion) for completion in flat]))
    return [[next(per_row) for _ in group] for group in completions]


def flat_logps(
    model: Any, prompts: list[list[int]], completions: list[list[list[int]]]
) -> list[list[Tensor]]:
    """Return [prompt][completion] → (tokens,) log-probs, all rows laid end to end: no padding at all.

    Positions restart at each row, which is how attention knows the borders (exact only without a cache). This is the
    way for gradient checkpointing, and for completions that do not come in equal numbers.
    """
    rows = [(prompt, each) for prompt, group in zip(prompts, completions, strict=True) for each in group]
    device = model.device
    ids = torch.tensor([token for prompt, each in rows for token in prompt + each], device=device)
    positions = torch.cat([torch.arange(len(prompt) + len(each), device=device) for prompt, each in rows])
    learned = torch.tensor(
        [place >= len(prompt) for prompt, each in rows for place in range(len(prompt) + len(each))],
        device=device,
    )
    states = model.base_model(
        input_ids=ids[None], position_ids=positions[None], use_cache=False
    ).last_hidden_state[0]
    logps = token_logps(states[:-1][learned[1:]], ids[learned], head_of(model))
    per_row = iter(logps.split([len(each) for _, each in rows]))
    return [[next(per_row) for _ in group] for group in completions]


def keeps_rows_apart(model: Any) -> bool:
    """Return whether a model reads rows laid end to end, with positions that restart, as if each stood alone.

    Some architectures (OPT, BLOOM) never tell their attention of positions, and would silently read across the borders.
    Of a model whose processes share its weights (FSDP2), every process has to ask.
    """
    if not hasattr(model, "reshard"):
        return reads_apart(model)
    apart = through_forward(model)(reads_apart)  # only while it is called is it whole
    del model.forward
    model.reshard()
    return bool(apart)


def reads_apart(model: Any) -> bool:
    """Return what `keeps_rows_apart` does of a model that has all its weights."""
    ids = torch.tensor([[1, 2, 3, 1, 2, 3], [4, 5, 6, 1, 2, 3]], device=model.device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]], device=model.device)

    def end_of(row: Tensor) -> Tensor:
        read = model.base_model(input_ids=row[None], position_ids=positions, use_cache=False)
        return read.last_hidden_state[0, 3:]

    with torch.no_grad(), read_by_sdpa(model), whole_as_called(model):
        one, other = end_of(ids[0]), end_of(ids[1])
    return torch.allclose(one, other, atol=1e-5)


@contextlib.contextmanager
def read_by_sdpa(model: Any) -> Iterator[None]:
    """Have a model attend by PyTorch's own attention, then as it did: FlashAttention reads on a GPU alone, in halves.

    A model that is to be trained is still on the CPU when it is asked what it can do.
    """
    own = model.config._attn_implementation
    if own != "flash_attention_2":
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def ways_of(model: Any, share_prompts: bool) -> Any:
    """Return the function that computes log-probs: `shared_prompt_logps`, or `flat_logps` where that is exact."""
    if share_prompts:
        return shared_prompt_logps
    if not keeps_rows_apart(model):
        raise PlumblineError(
            f"a {model.config.model_type} model reads across the borders of rows laid end to end; train it with shared "
            "(or padded) prompts and without gradient_checkpointing"
        )
    return flat_logps


def through_forward(model: Any) -> Any:
    """Let `model(function, *arguments)` return function(model, *arguments), and return the model.

    Wrappers for many processes (DDP, FSDP, DeepSpeed) hook a model's call alone: what a loss computes has to pass
    through it, or gradients are not exchanged. Any other call goes to the model's own forward.
    """
    own = model.forward

    @functools.wraps(own)
    def forward(*arguments: Any, **named: Any) -> Any:
        if arguments and callable(arguments[0]):
            return arguments[0](model, *arguments[1:], **named)
        return own(*arguments, **named)

    model.forward = forward
    return model
