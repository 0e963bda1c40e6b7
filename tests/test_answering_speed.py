"""Answers that are made faster are the answers of the library's padded batch, greedy and drawn, token for token."""

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, MistralConfig, MistralForCausalLM

from tests.generation import GREEDY, QUESTIONS, SETTINGS, TEMPLATE
from workflow_scripts.common import beginnings, leaving
from workflow_scripts.common.answering import answer_batch, answer_of
from workflow_scripts.common.beginnings import cuts, laid_out, left_padded
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import ends_of, tokenise_prompt
from workflow_scripts.generate.engine import TransformersEngine

END = TEMPLATE["assistant"]["end"]
LONG = "Here are some facts. Plants make sugar out of light, water and air. Water is made of two gases."
WAYS = [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}, {"repetition_penalty": 1.3}]


@pytest.fixture(scope="module")
def engine(tiny_model) -> TransformersEngine:
    return TransformersEngine(tiny_model, load_tokenizer(tiny_model), SETTINGS)


@pytest.fixture(scope="module")
def asked(engine) -> list[list[int]]:
    """Prompts that share nothing but the system's words, then some that share a long beginning."""
    texts = [
        *QUESTIONS,
        *(f"{LONG} {question}" for question in QUESTIONS),
        *(f"Look. {LONG} {n}" for n in "ab"),
    ]
    return [
        tokenise_prompt([{"role": "user", "content": text}], TEMPLATE, engine.tokenizer) for text in texts
    ]


def by_the_library(engine, prompts: list[list[int]], sampling: dict, ends: list[int]) -> list:
    """Return what one call of `generate` says to a padded batch."""
    ids, mask = left_padded(prompts, engine.tokenizer.pad_token_id)
    engine.model.generation_config = GenerationConfig()
    warm = {"do_sample": True, "top_k": 0, "temperature": sampling["temperature"], "top_p": sampling["top_p"]}
    with torch.inference_mode():
        output = engine.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=sampling["max_new_tokens"],
            eos_token_id=ends,
            pad_token_id=engine.tokenizer.pad_token_id,
            **(warm if sampling["temperature"] else {"do_sample": False}),
        )
    made = output[:, ids.shape[1] :].tolist()
    return [answer_of(engine.tokenizer, *each, ends, sampling) for each in zip(prompts, made, strict=True)]


@pytest.mark.parametrize("changes", WAYS[:3])
def test_answers_are_those_of_one_padded_batch_though_most_leave_it(engine, asked, changes):
    sampling = GREEDY | {"max_new_tokens": 40} | changes
    torch.manual_seed(0)
    first = by_the_library(engine, asked, sampling, [-1])
    ids = [engine.tokenizer(answer.text, add_special_tokens=False)["input_ids"] for answer in first]
    ends = sorted({answer[9] for answer in ids if len(answer) > 9})[
        :3
    ]  # so that answers end at different places
    torch.manual_seed(0)
    expected = by_the_library(engine, asked, sampling, ends)
    lengths = {answer.completion_tokens for answer in expected}
    assert len(lengths) > 3
    assert min(lengths) < 16 < max(lengths)
    torch.manual_seed(0)
    assert answer_batch(engine.model, engine.tokenizer, asked, sampling, ends) == expected


@pytest.mark.parametrize("changes", WAYS)
def test_answers_are_the_same_in_one_round_and_without_shared_beginnings(engine, asked, changes, monkeypatch):
    ends = ends_of(END, engine.tokenizer, engine.ends)
    assert laid_out(asked, 0, torch.device("cpu"), True).columns > 10
    found = []
    for rounds, shared in ((leaving.ROUND, True), (1000, True), (leaving.ROUND, False), (1, True)):
        monkeypatch.setattr("workflow_scripts.common.answering.ROUND", rounds)
        monkeypatch.setattr(
            "workflow_scripts.common.answering.told_of_positions", lambda _, shared=shared: shared
        )
        torch.manual_seed(3)
        sampling = GREEDY | {"max_new_tokens": 30} | changes
        found.append(answer_batch(engine.model, engine.tokenizer, asked, sampling, ends))
    assert found[1:] == found[:1] * 3


def test_a_round_takes_those_alone_that_have_not_ended(engine, asked, monkeypatch):
    widths, own = [], engine.model.generate

    def spy(ids, **named):
        widths.append(len(ids))
        return own(ids, **named)

    sampling = GREEDY | {"max_new_tokens": 64}
    text = answer_batch(engine.model, engine.tokenizer, asked, sampling, [-1])[0].text
    monkeypatch.setattr(engine.model, "generate", spy)
    answers = answer_batch(engine.model, engine.tokenizer, asked, sampling | {"stop": [text[2:5]]}, [-1])
    rounds = widths[1:]  # the first call reads the beginnings
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[-1] < rounds[0] == len(asked)
    assert answers[0].text == text[:2]
    late = [sum(answer.completion_tokens > 8 * number for answer in answers) for number in range(len(rounds))]
    assert rounds == late


def test_what_is_not_drawn_is_answered_once_however_often_it_is_asked(engine, asked, monkeypatch):
    rows, own = [], engine.answer_batch

    def spy(prompts, *more):
        rows.append(len(prompts))
        return own(prompts, *more)

    monkeypatch.setattr(engine, "answer_batch", spy)
    many = [*asked, *asked[:5]]
    greedy = dict(engine.answer(many, GREEDY | {"batch_size": 100}, END, 1, [True] * len(many)))
    assert rows == [len(asked)]
    assert [greedy[len(asked) + place] for place in range(5)] == [greedy[place] for place in range(5)]
    assert sorted(greedy) == list(range(len(many)))
    dict(engine.answer(many, GREEDY | {"batch_size": 100, "temperature": 1.0}, END, 1, [True] * len(many)))
    assert rows == [len(asked), len(many)]
    late = [False] * len(asked) + [True] * 5  # the same prompt, and only its second answer is missing
    again = dict(engine.answer(many, GREEDY | {"batch_size": 100}, END, 1, late))
    assert again == greedy


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[1, 2, 3, 4, 5, 6, 7, 8, 9]] * 2, [8, 8]),
        ([[1] * 9 + [2], [1] * 9 + [3], [1] * 9 + [4]], [9, 9, 9]),
        ([[1, 2, 3], [4, 5, 6]], [0, 0]),
        ([[1, 2, 3]], [0]),
        ([[1, *range(20)], [1, *range(30, 50)]], [0, 0]),  # two passes for a token
    ],
)
def test_beginnings_are_cut_where_that_saves_most(prompts, expected):
    assert cuts(prompts) == expected


def test_a_prompt_keeps_a_token_behind_its_beginning_and_all_of_them_in_order(asked):
    layout = laid_out(asked, 0, torch.device("cpu"), True)
    assert len(layout.firsts) < len(asked)
    for ids, mask, prompt, group in zip(layout.ids, layout.mask, asked, layout.groups, strict=True):
        assert ids[mask.bool()].tolist() == prompt
        assert mask[-1] == 1
        first = layout.firsts[group]
        assert torch.equal(layout.ids[first, : layout.columns], ids[: layout.columns])
        assert torch.equal(layout.mask[first, : layout.columns], mask[: layout.columns])


def test_noise_is_drawn_as_the_library_draws():
    scores = torch.randn(6, 50)
    torch.manual_seed(1)
    expected = torch.multinomial(scores.softmax(-1), 1)[:, 0]
    draw = leaving.Drawn(6)
    torch.manual_seed(1)
    assert draw(torch.zeros(6, 1), scores.clone()).argmax(-1).tolist() == expected.tolist()
    draw.rows = torch.tensor([1, 4])
    torch.manual_seed(1)
    assert draw(torch.zeros(2, 1), scores[[1, 4]]).argmax(-1).tolist() == expected[[1, 4]].tolist()


def test_a_model_with_a_window_is_left_to_the_library():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"vocab_size": 50, "num_key_value_heads": 2}
    windowed = MistralForCausalLM(MistralConfig(**sizes, sliding_window=4))
    whole = MistralForCausalLM(MistralConfig(**sizes, sliding_window=None))
    assert not leaving.keeps_all_tokens(windowed)
    assert leaving.keeps_all_tokens(whole)
    assert beginnings.told_of_positions(whole)


def test_keys_and_values_are_those_of_the_library_s_cache():
    layer, own = leaving.RoomyLayer(8), DynamicCache()
    for count in (3, 1, 1):
        new = torch.randn(2, 2, count, 4), torch.randn(2, 2, count, 4)
        for found, expected in zip(layer.update(*new), own.update(*new, 0), strict=True):
            assert torch.equal(found, expected)
    layer.batch_select_indices(torch.tensor([1, 1, 0]))
    assert torch.equal(layer.keys, own.layers[0].keys[[1, 1, 0]])
    assert layer.get_seq_length() == 5
