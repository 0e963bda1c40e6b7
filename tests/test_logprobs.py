"""Log-probs of completions: the shared, the plain and the naive way agree, in value and in gradient."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from workflow_scripts.common import logprobs
from workflow_scripts.common.logprobs import flat_logps, shared_prompt_logps, through_forward
from workflow_scripts.common.models import load_policy

VALUE = {"rtol": 0, "atol": 2e-5}
GRADIENT = {"rtol": 1e-3, "atol": 2e-4}  # of sums of up to 200 log-probs


@pytest.fixture(scope="module")
def model(tiny_model):
    policy = load_policy(tiny_model)
    return policy


def batch(completions: int, prompts: int = 3, seed: int = 0) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Return prompts of 1 to 40 tokens, each with completions of 1 to 25; the first has one token."""
    generator = torch.Generator().manual_seed(seed)

    def row(length: int) -> list[int]:
        return torch.randint(4, 150, (length,), generator=generator).tolist()

    def length(most: int) -> int:
        return int(torch.randint(1, most + 1, (1,), generator=generator))

    asked = [row(1), row(40), *(row(length(40)) for _ in range(prompts - 2))]
    told = [[row(length(25)) for _ in range(completions)] for _ in asked]
    told[0][0] = row(1)
    return asked, told


def naive_logps(model, prompts, completions):
    """Return the same log-probs by one forward a row and a log_softmax: no padding, no cache."""
    found = []
    for prompt, group in zip(prompts, completions, strict=True):
        rows = []
        for completion in group:
            logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
            picked = logits[len(prompt) - 1 : -1].log_softmax(-1)
            rows.append(picked[torch.arange(len(completion)), completion])
        found.append(rows)
    return found


def flat(found) -> torch.Tensor:
    return torch.cat([each for group in found for each in group])


def gradients(model, found) -> dict[str, torch.Tensor]:
    """Return the gradient of every parameter by a weighted sum, in which no two tokens weigh the same."""
    model.zero_grad()
    logps = flat(found)
    (logps * torch.linspace(0.5, 1.5, len(logps))).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def agree(model, way, other, prompts, completions) -> None:
    """Hold two ways to the same values, shapes and gradients."""
    one, two = way(model, prompts, completions), other(model, prompts, completions)
    lengths = [[len(each) for each in group] for group in completions]
    assert [[len(each) for each in group] for group in one] == lengths
    assert [[len(each) for each in group] for group in two] == lengths
    torch.testing.assert_close(flat(one), flat(two), **VALUE)
    torch.testing.assert_close(gradients(model, one), gradients(model, two), **GRADIENT)


@pytest.mark.parametrize("completions", [1, 2, 3, 4])
@pytest.mark.parametrize("way", [shared_prompt_logps, flat_logps])
def test_both_ways_equal_a_log_softmax_row_by_row(model, way, completions):
    agree(model, way, naive_logps, *batch(completions))


@pytest.mark.parametrize("way", [shared_prompt_logps, flat_logps])
def test_a_batch_of_one_token_completions_needs_no_second_forward(model, way):
    prompts, _ = batch(1)
    agree(model, way, naive_logps, prompts, [[[7], [9]] for _ in prompts])


def test_sharing_prompts_is_exact_across_a_sliding_window():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 160}
    config = MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=8)
    model = MistralForCausalLM(config).eval()
    agree(model, shared_prompt_logps, naive_logps, *batch(2))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_making_logits_in_chunks_changes_nothing(model, monkeypatch, chunk):
    prompts, completions = batch(2)
    whole = shared_prompt_logps(model, prompts, completions)
    wanted = gradients(model, whole)
    assert len(flat(whole)) < logprobs.CHUNK
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    parts = shared_prompt_logps(model, prompts, completions)
    torch.testing.assert_close(flat(parts), flat(whole), **VALUE)
    torch.testing.assert_close(gradients(model, parts), wanted, **GRADIENT)


@pytest.mark.parametrize("way", [shared_prompt_logps, flat_logps])
def test_padding_changes_nothing(model, way):
    prompts, completions = batch(2, prompts=4)
    together = way(model, prompts, completions)
    alone = [way(model, [prompt], [group])[0] for prompt, group in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(flat(together), flat(alone), **VALUE)
    torch.testing.assert_close(gradients(model, together), gradients(model, alone), **GRADIENT)


@pytest.mark.parametrize("way", [shared_prompt_logps, flat_logps])
def test_the_order_of_a_batch_changes_nothing(model, way):
    prompts, completions = batch(3, prompts=4)
    forth = way(model, prompts, completions)
    back = way(model, prompts[::-1], [group[::-1] for group in completions[::-1]])
    torch.testing.assert_close(flat([group[::-1] for group in back[::-1]]), flat(forth), **VALUE)


@pytest.mark.parametrize("way", [shared_prompt_logps, flat_logps])
def test_prompts_may_have_different_numbers_of_completions(model, way):
    prompts, completions = batch(3, prompts=4)
    ragged = [group[: 1 + place % 3] for place, group in enumerate(completions)]
    agree(model, way, naive_logps, prompts, ragged)


def test_what_passes_through_forward_is_computed_on_the_model_itself(tiny_model):
    model = load_policy(tiny_model)
    ids = torch.tensor([[5, 6, 7]])
    plain = model(input_ids=ids).logits
    through_forward(model)
    torch.testing.assert_close(model(input_ids=ids).logits, plain)
    seen = model(lambda inner, value: (inner, value), 3)
    assert seen[0] is model
    assert seen[1] == 3
