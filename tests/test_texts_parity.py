"""The texts of the four sources, character for character and token for token, on rows of our own.

Each source's rule is written down here in a line or two of ours, beside what the study's template and stops make of the
same rows. FastChat's, whose package is here, is asked itself.
"""

import copy
import json

import pytest
from fastchat.train.train import preprocess
from tokenizers import processors

from tests.families import FAITHFUL, answers
from tests.plans import planned, study_of
from tests.texts import GPT2, TEMPLATES, learned_text, llama_like
from workflow_scripts.clean import clean
from workflow_scripts.common.files import read_jsonl, write_jsonl
from workflow_scripts.common.templates import (
    IGNORED,
    render,
    tokenise_conversation,
    tokenise_prompt,
    tokenise_reply,
)
from workflow_scripts.generate import prompts
from workflow_scripts.plan import cleaning
from workflow_scripts.sft.tokenise import spread, tokenise_rows
from workflow_scripts.study.templates import all_templates


def begun_by_bos():
    """Return the tokenizer of Llama's ways with a BOS before every text, as Llama's own has it."""
    made = llama_like()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


LLAMA = begun_by_bos()


def messages_of(*said: str, system: str | None = None) -> list[dict]:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": words} for place, words in enumerate(said)]
    return [{"role": "system", "content": system}, *messages] if system else messages


# --- Leftover Lunch, the Helpful and Harmless Assistant --------------------------------------------------------------

HH = TEMPLATES["hh"]
SENTENCE = HH["start"].removeprefix("{bos}")
PREFIXES = [
    ["How do I boil an egg?"],
    ["How do I boil an egg?", "In water.", "For how long?"],
    ["Why?", "Because.", "Why\nso?", "No idea.", "Well."],
]
SUFFIXES = ["Six minutes.", "Oh: no", "", "é 日\nThe end"]


def hh_prompt(said: list[str]) -> str:
    """Return what the source writes: a mark before each message, and the whole without white space at its ends."""
    marks = (" ### Human: ", " ### Assistant: ")
    turns = [marks[place % 2] + words for place, words in enumerate([*said, ""])]
    return SENTENCE + "".join(turns).strip()


@pytest.mark.parametrize("said", PREFIXES)
def test_hh_prompts_are_the_sources_with_an_end_on_the_reply_alone(said):
    text = hh_prompt(said)
    messages = messages_of(*said)
    assert render(messages, HH, LLAMA, prompt=True).text == "<s>" + text
    prompt = LLAMA(text)["input_ids"]
    assert tokenise_prompt(messages, HH, LLAMA) == prompt
    for suffix in SUFFIXES:  # the source tokenises prompt and reply apart
        reply = LLAMA(suffix + "</s>", add_special_tokens=False)["input_ids"]
        assert tokenise_reply(messages, suffix, HH, LLAMA) == (prompt, reply)


def hh_answer(drawn: str) -> str:
    """Return what the source keeps of an answer that its generation has ended at the token " ###", if there was one."""
    drawn = drawn[: drawn.index(" ###") + 4] if " ###" in drawn else drawn
    for mark in ("\n Human:", "\nHuman:", "\n### Human"):
        drawn = drawn.split(mark)[0]
    drawn = drawn.strip()
    return drawn.replace("###", "").strip() if drawn.endswith("###") else drawn


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.parametrize(
    "drawn",
    [
        " Six minutes.",
        " Six minutes. ### Human: Thanks! ### Assistant: Bye.",
        " Six minutes.\n\nHuman: Thanks!",
        " Six\n Human: minutes.",
        " Six\n### Human: minutes.",
        " Well:\n### A heading\nSix minutes.",
        " ### Human: And?",
        " Human: six, says he",
    ],
)
@pytest.mark.parametrize("study", ["leftover_lunch_hh", "leftover_lunch_hh-small"])
def test_an_answer_of_hh_ends_where_the_source_cuts_it(drawn, engine, study):
    stops = {tuple(part.stop) for part in study_of(study).benchmarks.values()}
    (stop,) = stops
    tokenizer = FAITHFUL["Llama 2"]
    prompt = tokenise_prompt(messages_of("How long?"), HH, tokenizer)
    said = tokenise_reply(messages_of("How long?"), drawn.removeprefix(" "), HH, tokenizer)[1]
    [found] = answers(engine, tokenizer, [prompt], [said], "{eos}", list(stop))
    assert found.text.strip() == hh_answer(drawn)
    assert found.finish_reason == "stop"


def test_the_stops_of_a_study_reach_its_prompt_sets_beside_those_of_a_kind(tmp_path):
    write_jsonl(
        tmp_path / "rows.jsonl",
        [{"id": "a", "group": "a", "meta": {}, "messages": messages_of("What is a cell?", "A unit.")}],
    )
    sampling = {
        "max_new_tokens": 9,
        "temperature": 0.0,
        "top_p": 1.0,
        "temperatures": [],
        "stop": ["\nHuman:"],
    }
    assert prompts.prompt_set("turns", tmp_path / "rows.jsonl", sampling)[1]["stop"] == ["\nHuman:"]
    problem = {"task_id": "t", "prompt": "def f():\n", "canonical_solution": "    pass\n"}
    write_jsonl(tmp_path / "code.jsonl", [problem])
    found = prompts.prompt_set("humaneval", tmp_path / "code.jsonl", sampling)[1]["stop"]
    assert found == [*prompts.CODE_STOPS, "\nHuman:"]


def test_a_reply_that_is_written_apart_makes_each_turn_a_row_that_is_learned_as_it_is_asked_for():
    row = {"id": "c", "group": "c", "meta": {}, "messages": messages_of("How?", "So.", "And?", "Thus.")}
    settings = {
        "objective": "it",
        "im_mask": "paper",
        "it_mask": "reply",
        "max_tokens": 999,
        "overflow": "reject",
    }
    settings |= {"history_turns": None, "template": HH}
    kept, rejected, _ = tokenise_rows(spread([row], settings), LLAMA, settings)
    assert rejected == []
    for tokens, count in zip(kept, (1, 3), strict=True):
        asked = tokenise_prompt(row["messages"][:count], HH, LLAMA)
        learned = [label for label in tokens["labels"] if label != IGNORED]
        assert tokens["input_ids"] == asked + learned
        assert learned[-1] == LLAMA.eos_token_id
    whole = settings | {"template": TEMPLATES["tutor"]}
    assert spread([row], whole) == [row]


# --- Tutorbot-Spock --------------------------------------------------------------------------------------------------

SYSTEM = "You are a tutor.\nHelp the student."
TUTORED = [
    "Q. Why is a leaf green?",
    "{'Tutorbot': 'Which light?'}",
    " Red ",
    "{'Tutorbot': 'Yes.'}",
    "Ah\n",
    "{'Tutorbot': 'Well.'}",
]
TUTOR = all_templates(study_of("tutorbot"))
NAMES = ("Student", "Tutorbot")


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("tokenizer", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_tutor_is_asked_and_aligned_in_the_sources_text(count, tokenizer):
    # System: …, a line for each turn after it, and an empty line before the reply, which has no space before it.
    lines = [f"{NAMES[place % 2]}: {words}\n" for place, words in enumerate(TUTORED[:count])]
    asked = f"System: {SYSTEM}\n\n{''.join(lines)}\nTutorbot:"
    messages = messages_of(*TUTORED[:count], system=SYSTEM)
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token
    template = TUTOR["tutorbot_asked"]
    assert render(messages, template, tokenizer, prompt=True).text == bos + asked
    whole = tokenizer(bos + asked + TUTORED[count] + eos, add_special_tokens=False)["input_ids"]
    prompt, reply = tokenise_reply(messages, TUTORED[count], template, tokenizer)
    assert prompt + reply == whole
    assert tokenise_prompt(messages, template, tokenizer) == prompt
    assert tokenizer.decode(reply) == TUTORED[count] + eos


@pytest.mark.parametrize("tokenizer", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_tutor_is_fine_tuned_in_the_sources_text(tokenizer):
    # A paragraph for each turn, stripped, the end token on every turn of the tutor's.
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token
    turns = [
        f"\n\n{NAMES[place % 2]}: {words.strip()}{eos * (place % 2)}" for place, words in enumerate(TUTORED)
    ]
    text = f"{bos}\n\nSystem: {SYSTEM}{''.join(turns)}"
    messages = messages_of(*TUTORED, system=SYSTEM)
    assert render(messages, TUTOR["tutorbot_sft"], tokenizer).text == text
    tokens = tokenise_conversation(messages, TUTOR["tutorbot_sft"], tokenizer)
    assert tokens.input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert learned_text(text, tokens, tokenizer) == [f" {words}{eos}" for words in TUTORED[1::2]]


@pytest.mark.parametrize("count", [2, 4, 6])
@pytest.mark.parametrize("name", ["tutorbot_fastchat", "fastchat", "vicuna"])
def test_ids_and_labels_are_those_of_fastchats_own_preprocessing(count, name):
    tokenizer = copy.deepcopy(LLAMA)  # FastChat asks for a length to pad to, and for the legacy mode
    tokenizer.model_max_length, tokenizer.legacy = 999, True
    between = {"tutorbot_fastchat": "\n\nStudent: ", "fastchat": "\n\n"}.get(name)
    said = [words.strip() for words in TUTORED[:count]]
    messages = messages_of(*said, system=SYSTEM if between else None)
    opened = [SYSTEM + between + said[0] if between else said[0], *said[1:]]
    rows = [{"from": ("human", "gpt")[place % 2], "value": words} for place, words in enumerate(opened)]
    theirs = preprocess([rows], tokenizer)
    ours = tokenise_conversation(messages, TUTOR[name], tokenizer)
    size = len(ours.input_ids)
    assert theirs["input_ids"][0].tolist()[:size] == ours.input_ids
    assert theirs["labels"][0].tolist()[:size] == ours.labels
    assert set(theirs["labels"][0].tolist()[size:]) == {IGNORED}


# --- chapter 7 -------------------------------------------------------------------------------------------------------

PHI3 = [
    {"instruction": "Rewrite in past tense.", "input": "She runs.", "output": "She ran."},
    {"instruction": "Name a gas.", "input": "", "output": "Neon."},
]


def cleaned(tmp_path, rows: list[dict]) -> list[dict]:
    """Return rows as the book's study cleans them, by a file of its own."""
    settings = json.loads(cleaning.dataset_settings(planned("follow_instructions"), "instructions"))
    settings["split"] |= {"quotas": {"train": len(rows)}}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    clean.clean_files(
        [str(tmp_path / "rows.json")], settings, str(tmp_path / "out"), str(tmp_path / "manifest")
    )
    return read_jsonl(tmp_path / "out/train.jsonl")


def book(row: dict) -> str:
    """Return the prompt of the exercise: a user's mark, a line for the instruction and one for its input, if any."""
    return "\n".join(["<|user|>", row["instruction"], *filter(None, [row["input"]]), "<|assistant|>:", ""])


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_exercise_on_phi3s_prompts_is_the_books_text_and_its_answers_finish(tmp_path, engine):
    template, end = TEMPLATES["phi3_text"], GPT2.eos_token
    rows = cleaned(tmp_path, PHI3)
    made = {row["meta"]["instruction"]: row for row in rows}
    asked = prompts.turn_prompts(tmp_path / "out/train.jsonl")
    for row in PHI3:
        messages = made[row["instruction"]]["messages"]
        whole = GPT2(book(row) + row["output"] + end)["input_ids"]
        prompt, reply = tokenise_reply(messages[:1], row["output"], template, GPT2)
        assert prompt + reply == whole
        assert tokenise_conversation(messages, template, GPT2, "text").input_ids == whole
        assert GPT2.decode(prompt) == book(row)
        (turn,) = [each for each in asked if each["reference"] == [row["output"]]]
        assert tokenise_prompt(turn["messages"], template, GPT2) == prompt
        [found] = answers(engine, GPT2, [prompt], [reply], template["assistant"]["end"], [])
        assert (found.text, found.finish_reason) == (row["output"], "stop")


def test_the_same_rows_have_the_datasets_own_heading_in_every_other_template(tmp_path):
    made = {row["meta"]["instruction"]: row for row in cleaned(tmp_path, PHI3)}
    messages = made["Rewrite in past tense."]["messages"]
    text = render(messages[:1], TEMPLATES["alpaca"], GPT2, prompt=True).text
    assert "\n\n### Instruction:\nRewrite in past tense.\n\n### Input:\nShe runs.\n\n### Response:\n" in text
    assert messages[0]["input"] == [22, 35]
    assert "input" not in made["Name a gas."]["messages"][0]


# --- Instruction modelling's other formats ---------------------------------------------------------------------------


def open_instruct(name: str, messages: list[dict]) -> str:
    """Return the prompt of open-instruct's functions for the formats of other chat models, stripped contents given."""
    text = ""
    if name == "llama2":
        system = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n" if messages[0]["role"] == "system" else ""
        for message in messages[bool(system) :]:
            if message["role"] == "user":
                text, system = f"{text}<s>[INST] {system}{message['content']} [/INST]", ""
            else:
                text += f" {message['content']} </s>"
        return text
    if name == "zephyr":
        lines = [f"<|{message['role']}|>\n{message['content']}</s>\n" for message in messages]
        return "<s>" + "".join([*lines, "<|assistant|>\n"])
    marks = {"user": ("USER: ", " "), "assistant": ("ASSISTANT: ", "</s>")}
    said = [
        marks[message["role"]][0] + message["content"] + marks[message["role"]][1] for message in messages
    ]
    return f"<s>{TEMPLATES['vicuna']['default_system']} {''.join(said)}ASSISTANT:"


# The source's function for Xwin leaves system messages out.
@pytest.mark.parametrize(
    ("name", "system"),
    [(name, system) for name in ("llama2", "zephyr") for system in (None, "Be brief.")] + [("xwin", None)],
)
@pytest.mark.parametrize("count", [1, 3])
def test_other_chat_models_are_asked_in_their_own_formats(name, count, system):
    messages = messages_of("What is a cell?", "A unit.", "And?", system=system)[: count + bool(system)]
    assert render(messages, TEMPLATES[name], LLAMA, prompt=True).text == open_instruct(name, messages)
