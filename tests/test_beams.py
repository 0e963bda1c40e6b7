"""Beams and the penalty on repetition: the library's own answers token for token, however prompts are batched."""

import pytest
import torch
from transformers import GenerationConfig

from tests.generation import GREEDY, QUESTIONS, SETTINGS, TEMPLATE
from tests.plans import EVERY_KEY, changed
from workflow_scripts.common.answering import Answer, answer_of
from workflow_scripts.common.beginnings import left_padded
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import ends_of, tokenise_prompt
from workflow_scripts.generate.engine import TransformersEngine
from workflow_scripts.generate.vllm_engine import VllmEngine

END = TEMPLATE["assistant"]["end"]
PUBLISHED = GREEDY | {"beams": 2, "repetition_penalty": 2.5}  # of Leftover Lunch's small tasks
TUTORBOT = GREEDY | {"temperature": 0.3, "repetition_penalty": 1.2}


@pytest.fixture(scope="module")
def engine(tiny_model) -> TransformersEngine:
    found = TransformersEngine(tiny_model, load_tokenizer(tiny_model), SETTINGS)
    # As GPT-2 has it: a row is padded with what ends it.
    found.tokenizer.pad_token = found.tokenizer.eos_token
    return found


@pytest.fixture(scope="module")
def asked(engine) -> list[list[int]]:
    return [
        tokenise_prompt([{"role": "user", "content": text}], TEMPLATE, engine.tokenizer) for text in QUESTIONS
    ]


def answered(engine: TransformersEngine, asked: list[list[int]], sampling: dict) -> list[Answer]:
    found = dict(engine.answer(asked, sampling, END, 1, [True] * len(asked)))
    return [found[place] for place in range(len(asked))]


def by_the_library(engine: TransformersEngine, prompt: list[int], sampling: dict) -> Answer:
    """Return what `generate` says to one prompt alone, told of beams and penalty by its own names."""
    ends = ends_of(END, engine.tokenizer, engine.ends)
    engine.model.generation_config = GenerationConfig()
    output = engine.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=sampling["max_new_tokens"],
        num_beams=sampling["beams"],
        repetition_penalty=sampling["repetition_penalty"],
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=engine.tokenizer.pad_token_id,
    )
    return answer_of(engine.tokenizer, prompt, output[0, len(prompt) :].tolist(), ends, sampling)


@pytest.mark.parametrize(
    "changes", [{"beams": 3}, {"repetition_penalty": 2.5}, {"beams": 2, "repetition_penalty": 2.5}]
)
def test_a_prompt_is_answered_as_the_library_answers_it_alone(engine, asked, changes):
    sampling = GREEDY | changes | {"batch_size": len(asked)}
    found = answered(engine, asked, sampling)
    assert found == [by_the_library(engine, prompt, sampling) for prompt in asked]
    assert found != answered(engine, asked, GREEDY)


@pytest.mark.parametrize("sampling", [PUBLISHED, GREEDY | {"repetition_penalty": 2.5}])
def test_answers_are_the_same_however_prompts_are_batched(engine, asked, sampling):
    alone = answered(engine, asked, sampling | {"batch_size": 1})
    for size in (2, 3, len(asked)):
        assert answered(engine, asked, sampling | {"batch_size": size}) == alone


def test_padding_counts_as_said_where_the_library_is_left_to_itself(engine, asked):
    """What PenaltyOnWords is for: the end token of a padded row would be penalised, and no other row's."""
    ids, mask = left_padded(asked, engine.tokenizer.pad_token_id)
    short = min(range(len(asked)), key=lambda place: len(asked[place]))
    said = {"attention_mask": mask, "max_new_tokens": 1, "do_sample": False, "output_scores": True}
    said |= {"return_dict_in_generate": True, "pad_token_id": engine.tokenizer.pad_token_id}
    end = engine.tokenizer.eos_token_id

    def chance(penalty: float) -> float:
        scores = engine.model.generate(ids, repetition_penalty=penalty, **said).scores[0]
        return scores[short, end].item()

    assert end not in asked[short]
    assert chance(2.5) != pytest.approx(chance(1.0))


def test_a_penalty_goes_with_drawing(engine, asked):
    drawn = answered(engine, asked, TUTORBOT)
    assert drawn == answered(engine, asked, TUTORBOT)
    assert drawn != answered(engine, asked, TUTORBOT | {"repetition_penalty": 1.0})


def test_beams_end_at_a_stop_string(engine, asked):
    whole = answered(engine, asked, PUBLISHED | {"min_new_tokens": 12})
    stop = whole[0].text[3:6]
    found = answered(engine, asked, PUBLISHED | {"stop": [stop]})
    assert all(stop not in answer.text for answer in found)


def test_vllm_refuses_beams():
    engine = object.__new__(VllmEngine)
    with pytest.raises(PlumblineError, match=r"beams: 2: vLLM searches by beams without stop strings"):
        next(engine.answer([[1]], PUBLISHED, END, 1, [True]))


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"benchmarks.labels.beams": 2, "engine.name": "vllm"}, r"benchmarks\.labels\.beams: 2, and vLLM"),
        (
            {"benchmarks.rewarded.beams": 2, "benchmarks.rewarded.temperature": 0.7},
            "beams are searched for one",
        ),
        ({"pairs.mistakes.beams": 2, "pairs.mistakes.samples": 2}, "beams are searched for one"),
        ({"benchmarks.code.beams": 2, "benchmarks.code.temperatures": [0.1]}, "beams are searched for one"),
        ({"benchmarks.labels.beams": 0}, r"benchmarks\.labels\.beams"),
        ({"benchmarks.labels.repetition_penalty": 0.0}, r"benchmarks\.labels\.repetition_penalty"),
    ],
)
def test_beams_that_cannot_be_searched_are_refused_before_anything_runs(values, refused):
    with pytest.raises(PlumblineError, match=refused):
        changed(EVERY_KEY, values)


def test_a_watch_searches_by_beams_whatever_the_engine():
    """A training answers by itself."""
    assert changed(EVERY_KEY, {"engine.name": "vllm"}).run("tiny.sft.dpo").watch.beams == 2
