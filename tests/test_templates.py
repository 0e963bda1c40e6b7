"""Templates: the text each convention asks for, and masks that hold to the character."""

import pytest
from fastchat.conversation import get_conv_template
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.texts import GPT2, LLAMA, STRADDLING, TEMPLATES, TOKENIZERS, byte_level, learned_text
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.templates import (
    IGNORED,
    encode,
    forbidden_text,
    render,
    reply_part,
    tokenise_conversation,
    tokenise_prompt,
    tokenise_reply,
)

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a cell?"},
    {"role": "assistant", "content": "A unit of life."},
    {"role": "user", "content": "And a virus?"},
    {"role": "assistant", "content": "Not a cell."},
]


SYSTEM = TEMPLATES["alpaca"]["default_system"]
VICUNA = TEMPLATES["vicuna"]["default_system"]
TEXTS = {
    "tulu": "<s><|system|>\nBe brief.\n<|user|>\nWhat is a cell?\n<|assistant|>\nA unit of life.</s>\n"
    "<|user|>\nAnd a virus?\n<|assistant|>\nNot a cell.</s>\n",
    "alpaca": "Be brief.\n\n### Instruction:\nWhat is a cell?\n\n### Response:\nA unit of life.</s>"
    "\n\n### Instruction:\nAnd a virus?\n\n### Response:\nNot a cell.</s>",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nWhat is a cell?<|end|>\n<|assistant|>\n"
    "A unit of life.<|end|>\n<|user|>\nAnd a virus?<|end|>\n<|assistant|>\nNot a cell.<|end|>\n",
    "vicuna": "<s>Be brief. USER: What is a cell? ASSISTANT: A unit of life.</s>"
    "USER: And a virus? ASSISTANT: Not a cell.</s>",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is a cell?<|im_end|>\n"
    "<|im_start|>assistant\nA unit of life.<|im_end|>\n<|im_start|>user\nAnd a virus?<|im_end|>\n"
    "<|im_start|>assistant\nNot a cell.<|im_end|>\n",
    "tutor": "<s>System: Be brief.\nStudent: What is a cell?\n\nTutorbot: A unit of life.</s>\n"
    "Student: And a virus?\n\nTutorbot: Not a cell.</s>\n",
    # https://github.com/abaheti95/LoL-RL, the prompts of its dialogue runs.
    "hh": "<s>A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions.\nBe brief. ### Human: What is a cell? ### Assistant: "
    "A unit of life. ### Human: And a virus? ### Assistant: Not a cell.</s>",
    # https://github.com/luffycodes/Tutorbot-Spock, what it is fine-tuned in, and what it is asked and aligned in.
    "tutorbot_sft": "<s>\n\nSystem: Be brief.\n\nStudent: What is a cell?\n\nTutorbot: A unit of life.</s>"
    "\n\nStudent: And a virus?\n\nTutorbot: Not a cell.</s>",
    "tutorbot_asked": "<s>System: Be brief.\n\nStudent: What is a cell?\nTutorbot: A unit of life.\n"
    "Student: And a virus?\n\nTutorbot:Not a cell.</s>",
    # https://github.com/ZhengxiangShi/InstructionModelling, eval/templates.py.
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is a cell? [/INST] A unit of life. </s>"
    "<s>[INST] And a virus? [/INST] Not a cell. </s>",
    "zephyr": "<s><|system|>\nBe brief.</s>\n<|user|>\nWhat is a cell?</s>\n<|assistant|>\nA unit of life.</s>\n"
    "<|user|>\nAnd a virus?</s>\n<|assistant|>\nNot a cell.</s>\n",
    "fastchat": "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: Be brief.\n\nWhat is a cell? ASSISTANT: "
    "A unit of life.</s>USER: And a virus? ASSISTANT: Not a cell.</s>",
    # https://github.com/rasbt/LLMs-from-scratch, chapter 7, the exercise on Phi-3's prompts.
    "phi3_text": "<|system|>\nBe brief.\n<|user|>\nWhat is a cell?\n<|assistant|>:\nA unit of life.</s>\n"
    "<|user|>\nAnd a virus?\n<|assistant|>:\nNot a cell.</s>",
    "task": "Be brief.What is a cell?A unit of life.</s>And a virus?Not a cell.</s>",
    "tutor_perplexity": "<s>Be brief.\n\nStudent: What is a cell?\n\nTutorbot: A unit of life."
    "\n\nStudent: And a virus?\n\nTutorbot: Not a cell.",
    "plain": "<s>Be brief.\nWhat is a cell? A unit of life.</s>And a virus? Not a cell.</s>",
}
TEXTS |= {"xwin": TEXTS["vicuna"], "qwen": TEXTS["chatml"]}
HEADERS = ["<|start_header_id|>", "<|end_header_id|>\n\n"]
TEXTS["llama3"] = "<s>" + "".join(
    f"{HEADERS[0]}{message['role']}{HEADERS[1]}{message['content']}<|eot_id|>" for message in TALK
)
TEXTS["gemma"] = (
    "<s><start_of_turn>user\nBe brief.\n\nWhat is a cell?<end_of_turn>\n<start_of_turn>model\nA unit of life."
    "<end_of_turn>\n<start_of_turn>user\nAnd a virus?<end_of_turn>\n<start_of_turn>model\nNot a cell.<end_of_turn>\n"
)
TEXTS["mistral"] = (
    "<s>[INST] Be brief.\n\nWhat is a cell?[/INST] A unit of life.</s>[INST] And a virus?[/INST] Not a cell.</s>"
)


def test_every_template_has_its_text_written_down_here():
    assert set(TEXTS) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_what_the_convention_says(name):
    assert render(TALK, TEMPLATES[name], LLAMA).text == TEXTS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_without_bos_only_the_bos_is_missing(name):
    expected = TEXTS[name].replace("<s>", "").replace("</s>", GPT2.eos_token)
    assert render(TALK, TEMPLATES[name], GPT2).text == expected


@pytest.mark.parametrize("name", TEXTS)
def test_spans_are_the_contents_and_the_ends_of_replies(name):
    text, spans = render(TALK, TEMPLATES[name], LLAMA)
    for place, (span, message) in enumerate(zip(spans, TALK, strict=True)):
        said = message["content"]
        part = reply_part(TEMPLATES[name]) if place == 4 else TEMPLATES[name]["assistant"]
        end = part.get("end", "").replace("{eos}", "</s>")
        expected = part.get("lead", "") + said + end if span.role == "assistant" else said
        assert (span.role, text[span.start : span.end]) == (message["role"], expected)


@pytest.mark.parametrize("name", TEXTS)
def test_a_prompt_is_the_text_up_to_the_reply(name):
    prompt = render(TALK[:-1], TEMPLATES[name], LLAMA, prompt=True).text
    lead = reply_part(TEMPLATES[name]).get("lead", "")
    whole = TEXTS[name]
    assert prompt + lead == whole[: whole.rindex("Not a cell.")]


@pytest.mark.parametrize(
    ("prompt", "completion", "text"),
    [
        ("Why?", "So.", "Why? So."),
        ("Why? ", "So.", "Why? So."),
        ("Why?\n", "So.", "Why?\nSo."),
        ("Why?", "\tSo.", "Why?\tSo."),
        ("Why?\n", " So. ", "Why?\n So. "),
        ("Why?\u00a0", "So.", "Why?\u00a0 So."),  # the published program knows three kinds of white space
    ],
)
def test_plain_joins_by_a_space_where_no_white_space_is(prompt, completion, text):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    whole, spans = render(messages, TEMPLATES["plain"], LLAMA)
    assert whole == f"<s>{text}</s>"
    assert whole[: spans[1].start] == f"<s>{prompt}"
    assert render(messages[:1], TEMPLATES["plain"], LLAMA, prompt=True).text == f"<s>{prompt}"


def test_alpaca_without_a_system_message_is_the_published_prompt():
    # https://github.com/tatsu-lab/stanford_alpaca, "Data Release", prompt for examples with an empty input.
    expected = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nWhat is a cell?\n\n### Response:\n"
    )
    assert render(TALK[1:2], TEMPLATES["alpaca"], LLAMA, prompt=True).text == expected


def vicuna_text(messages, prompt=False):
    conversation = get_conv_template("vicuna_v1.1")
    for message in messages:
        conversation.append_message(conversation.roles[message["role"] == "assistant"], message["content"])
    if prompt:
        conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_vicuna_is_what_fastchat_renders(count):
    messages, prompt = TALK[1 : 1 + count], count % 2 == 1
    assert render(messages, TEMPLATES["vicuna"], LLAMA, prompt).text == "<s>" + vicuna_text(messages, prompt)


def test_a_system_message_replaces_the_default_one():
    text = render(TALK, TEMPLATES["vicuna"], LLAMA).text
    assert VICUNA not in text
    assert VICUNA in render(TALK[1:], TEMPLATES["vicuna"], LLAMA).text


def test_contents_are_stripped_and_never_filled_in():
    messages = [{"role": "user", "content": " {eos} {bos}\n"}, {"role": "assistant", "content": "\n{eos} "}]
    assert (
        render(messages, TEMPLATES["tutor"], LLAMA).text == "<s>Student: {eos} {bos}\n\nTutorbot: {eos}</s>\n"
    )
    unstripped = TEMPLATES["tutor"] | {"strip": False}
    assert "Student:  {eos} {bos}\n\n" in render(messages, unstripped, LLAMA).text


# Where `lead`, end and contents meet, no token of these two tokenizers crosses: labels are exact.
@pytest.mark.parametrize("tokenizer", ["llama", "gpt2"])
@pytest.mark.parametrize("name", TEXTS)
def test_labels_cover_the_replies_and_their_ends_and_nothing_else(name, tokenizer):
    tokenizer = TOKENIZERS[tokenizer]
    text = render(TALK, TEMPLATES[name], tokenizer).text
    tokens = tokenise_conversation(TALK, TEMPLATES[name], tokenizer)
    parts = TEMPLATES[name]["assistant"], reply_part(TEMPLATES[name])
    ends = [part.get("end", "").replace("{eos}", tokenizer.eos_token) for part in parts]
    assert tokens.input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(label in (IGNORED, token) for token, label in zip(*tokens, strict=True))
    leads = [part.get("lead", "") for part in parts]
    said = [TALK[place]["content"] for place in (2, 4)]
    replies = [lead + words + end for lead, words, end in zip(leads, said, ends, strict=True)]
    assert learned_text(text, tokens, tokenizer) == replies


def test_labels_token_by_token_with_bos():
    messages = [{"role": "user", "content": "a cell?"}, {"role": "assistant", "content": "unit é"}] * 2
    tokens = tokenise_conversation(messages, TEMPLATES["tutor"], LLAMA)
    names = LLAMA.convert_ids_to_tokens(tokens.input_ids)
    ask = ["Student", ":", "▁", "a", "▁cell", "?", "<0x0A>", "<0x0A>", "Tutor", "bot", ":"]
    say = ["▁unit", "▁", "<0xC3>", "<0xA9>", "</s>"]
    # SentencePiece's way puts a ▁ at the start and after every special token.
    starts = ["<s>", "▁"], ["▁", "<0x0A>"]
    expected = [(name, False) for name in starts[0] + ask] + [(name, True) for name in say]
    expected += [(name, False) for name in starts[1] + ask] + [(name, True) for name in say]
    expected += [("▁", False), ("<0x0A>", False)]
    assert list(zip(names, [label != IGNORED for label in tokens.labels], strict=True)) == expected


def test_labels_token_by_token_without_bos():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "日"}]
    tokens = tokenise_conversation(messages, TEMPLATES["chatml"], GPT2)
    marked = [label != IGNORED for label in tokens.labels]
    first = marked.index(True)
    assert tokens.input_ids[0] == GPT2.convert_tokens_to_ids("<|im_start|>")
    assert GPT2.decode(tokens.input_ids[:first]) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert marked[first:] == [True] * 4 + [False]  # three bytes, the end token; the newline is not learned
    assert GPT2.decode(tokens.input_ids[first:-1]) == "日<|im_end|>"


def test_a_token_that_straddles_a_boundary_belongs_to_the_reply():
    text, spans = render(TALK, TEMPLATES["tutor"], STRADDLING)
    _, offsets = encode(text, STRADDLING)
    replies = [span for span in spans if span.role == "assistant"]
    starts = [span.start for span in replies]
    assert any(begin < start < end for start in starts for begin, end in offsets), (
        "the tokenizer must straddle"
    )
    tokens = tokenise_conversation(TALK, TEMPLATES["tutor"], STRADDLING)
    for (begin, end), label in zip(offsets, tokens.labels, strict=True):
        inside = any(max(begin, span.start) < min(end, span.end) for span in replies)
        assert (label != IGNORED) == inside
    prompt, completion = tokenise_reply(TALK[:-1], TALK[-1]["content"], TEMPLATES["tutor"], STRADDLING)
    learned = [label for label in tokens.labels if label != IGNORED]
    assert learned[-len(completion) :] == completion
    assert prompt == tokens.input_ids[: len(prompt)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", TEXTS)
def test_prompt_and_completion_are_one_tokenisation_of_the_whole(name, tokenizer):
    template, tokenizer = TEMPLATES[name], TOKENIZERS[tokenizer]
    prompt, completion = tokenise_reply(TALK[:-1], TALK[-1]["content"], template, tokenizer)
    whole = tokenise_conversation(TALK, template, tokenizer)
    size = len(prompt) + len(completion)
    assert whole.input_ids[:size] == prompt + completion
    assert whole.labels[len(prompt) : size] == completion
    assert all(label == IGNORED for label in whole.labels[size:])  # only the template's `after` is left


contents = st.text(alphabet='aeinstuvAB \n:{"}é日😀.1<|>#', max_size=12)


# Nothing parts the prompt from the reply in `task`, so a token may hold the end of one and the beginning of the other.
@pytest.mark.parametrize("tokenizer", ["llama", "gpt2"])
@pytest.mark.parametrize("name", [name for name in TEXTS if name != "task"])
@settings(max_examples=15, deadline=None)
@example(question="", reply="<s>")
@given(question=contents, reply=contents)
def test_a_prompt_is_a_prefix_of_the_prompt_with_its_reply(name, tokenizer, question, reply):
    template, tokenizer = TEMPLATES[name], TOKENIZERS[tokenizer]
    messages = [{"role": "user", "content": question}]
    prompt, completion = tokenise_reply(messages, reply, template, tokenizer)
    assert tokenise_prompt(messages, template, tokenizer) == prompt
    conversation = [*messages, {"role": "assistant", "content": reply}]
    text, spans = render(conversation, template, tokenizer)
    tokens = tokenise_conversation(conversation, template, tokenizer)
    assert [label for label in tokens.labels if label != IGNORED] == completion
    # Every character of the reply and its end is learned, and no other.
    assert "".join(learned_text(text, tokens, tokenizer, spans)) == text[spans[-1].start : spans[-1].end]


def test_the_completion_decodes_to_the_reply():
    _, completion = tokenise_reply(TALK[:1], "unit é 日", TEMPLATES["tutor"], LLAMA)
    assert LLAMA.decode(completion) == "unit é 日</s>"


@pytest.mark.parametrize(
    ("tokenizer", "special"),
    [
        ("llama", "<s>"),
        ("llama", "</s>"),
        ("gpt2", "<|endoftext|>"),
        ("gpt2", "<|im_start|>"),
        ("gpt2", "<|end|>"),
    ],
)
def test_a_special_token_spelled_out_in_a_content_is_found(tokenizer, special):
    tokenizer = TOKENIZERS[tokenizer]
    messages = [*TALK, {"role": "user", "content": f"what is {special}?"}]
    assert forbidden_text(messages, tokenizer) == special
    assert forbidden_text(TALK, tokenizer) is None


# What is learned of a conversation whose every content is learned, token by token: stretches of tokens, the first not
# learned, the second learned, and so on in turn.
SHORT = [
    {"role": "system", "content": "Be."},
    {"role": "user", "content": "a cell?"},
    {"role": "assistant", "content": "life"},
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "unit"},
]
HEADER = {"user": "< | u s e r | > <0x0A>", "assistant": "< | a s s i s t a n t | > <0x0A>"}
ASK, ANSWER = "# # # ▁ I ns t r u c t i o n : <0x0A>", "# # # ▁ R e s p o nse : <0x0A>"
HH = (
    "▁A ▁c h a t ▁ b e t w e e n ▁ a ▁c u r i o u s ▁ h u m a n ▁ a n d ▁ a n ▁ a r t i f i c i a l "
    "▁ i n t e l l i g e n c e ▁ a s s i s t a n t . ▁ T h e ▁ a s s i s t a n t ▁ g i v e s "
    "▁ h e l p f u l <0x2C> ▁ d e t a i l e d <0x2C> ▁ a n d ▁ p o l i t e ▁ a ns w e r s ▁ t o ▁ t h e "
    "▁u s e r ' s ▁ q u e s t i o ns . <0x0A>"
)
HH_WITHOUT_BOS = (
    "A Ġ c h at Ġ b e t w e en Ġa Ġ c u r io u s Ġ h u m an Ġa nd Ġa n Ġa r t i f i c i a l "
    "Ġ i n t e ll i g en ce Ġa s sis tant . Ġ T h e Ġa s sis tant Ġ g i v e s "
    "Ġ h e l p f u l , Ġ d e t a i l e d , Ġa nd Ġ p o l it e Ġa ns w er s Ġ t o Ġ t h e "
    "Ġ user ' s Ġ q u e st io ns . Ċ"
)
MASKS = {
    ("tulu", "llama"): [
        *("<s> ▁ < | s y s t e m | > <0x0A>", "B e .", f"<0x0A> {HEADER['user']}", "a ▁cell ?"),
        *(f"<0x0A> {HEADER['assistant']}", "l i f e </s>", f"▁ <0x0A> {HEADER['user']}", "a ?"),
        *(f"<0x0A> {HEADER['assistant']}", "u n i t </s>", "▁ <0x0A>"),
    ],
    ("tulu", "gpt2"): [
        *("<| s y st em |> Ċ", "Be .", "Ċ <| user |> Ċ", "a Ġcell ?"),
        *("Ċ <| assistant |> Ċ", "life <|endoftext|>", "Ċ <| user |> Ċ", "a ?"),
        *("Ċ <| assistant |> Ċ", "unit <|endoftext|>", "Ċ"),
    ],
    ("alpaca", "llama"): [
        *("", "▁ B e .", f"<0x0A> <0x0A> {ASK}", "a ▁cell ?"),
        *(f"<0x0A> <0x0A> {ANSWER}", "l i f e </s>", f"▁ <0x0A> <0x0A> {ASK}", "a ?"),
        *(f"<0x0A> <0x0A> {ANSWER}", "u n i t </s>"),
    ],
    ("alpaca", "gpt2"): [
        *("", "Be .", "Ċ Ċ ### ĠInstruction : Ċ", "a Ġcell ?"),
        *("Ċ Ċ ### ĠResponse : Ċ", "life <|endoftext|>", "Ċ Ċ ### ĠInstruction : Ċ", "a ?"),
        *("Ċ Ċ ### ĠResponse : Ċ", "unit <|endoftext|>"),
    ],
    ("phi3", "llama"): [
        *("▁ < | s y s t e m | > <0x0A>", "B e .", f"<|end|> ▁ <0x0A> {HEADER['user']}", "a ▁cell ?"),
        *(f"<|end|> ▁ <0x0A> {HEADER['assistant']}", "l i f e <|end|>"),
        *(f"▁ <0x0A> {HEADER['user']}", "a ?"),
        *(f"<|end|> ▁ <0x0A> {HEADER['assistant']}", "u n i t <|end|>", "▁ <0x0A>"),
    ],
    ("phi3", "gpt2"): [
        *("<| s y st em |> Ċ", "Be .", "<|end|> Ċ <| user |> Ċ", "a Ġcell ?"),
        *("<|end|> Ċ <| assistant |> Ċ", "life <|end|>", "Ċ <| user |> Ċ", "a ?"),
        *("<|end|> Ċ <| assistant |> Ċ", "unit <|end|>", "Ċ"),
    ],
    ("vicuna", "llama"): [
        *("<s>", "▁ B e .", "▁ USER : ▁", "a ▁cell ?", "▁AS SIST ANT :", "▁life </s>"),
        *("▁ USER : ▁", "a ?", "▁AS SIST ANT :", "▁unit </s>"),
    ],
    ("vicuna", "gpt2"): [  # the space before a question is in its first token
        *("", "Be .", "Ġ USER :", "Ġa Ġcell ?", "ĠASSISTANT :", "Ġlife <|endoftext|>"),
        *("USER :", "Ġa ?", "ĠASSISTANT :", "Ġunit <|endoftext|>"),
    ],
    ("chatml", "llama"): [
        *("<|im_start|> ▁ s y s t e m <0x0A>", "B e .", "<|im_end|> ▁ <0x0A> <|im_start|> ▁u s e r <0x0A>"),
        *("a ▁cell ?", "<|im_end|> ▁ <0x0A> <|im_start|> ▁ a s s i s t a n t <0x0A>", "l i f e <|im_end|>"),
        *("▁ <0x0A> <|im_start|> ▁u s e r <0x0A>", "a ?"),
        *("<|im_end|> ▁ <0x0A> <|im_start|> ▁ a s s i s t a n t <0x0A>", "u n i t <|im_end|>", "▁ <0x0A>"),
    ],
    ("chatml", "gpt2"): [
        *("<|im_start|> s y st em Ċ", "Be .", "<|im_end|> Ċ <|im_start|> user Ċ", "a Ġcell ?"),
        *("<|im_end|> Ċ <|im_start|> assistant Ċ", "life <|im_end|>", "Ċ <|im_start|> user Ċ", "a ?"),
        *("<|im_end|> Ċ <|im_start|> assistant Ċ", "unit <|im_end|>", "Ċ"),
    ],
    ("tutor", "llama"): [
        *("<s> ▁ System : ▁", "B e .", "<0x0A> Student : ▁", "a ▁cell ?"),
        *("<0x0A> <0x0A> Tutor bot :", "▁life </s>", "▁ <0x0A> Student : ▁", "a ?"),
        *("<0x0A> <0x0A> Tutor bot :", "▁unit </s>", "▁ <0x0A>"),
    ],
    ("tutor", "gpt2"): [
        *("System :", "ĠBe .", "Ċ Student :", "Ġa Ġcell ?"),
        *("Ċ Ċ Tutorbot :", "Ġlife <|endoftext|>", "Ċ Student :", "Ġa ?"),
        *("Ċ Ċ Tutorbot :", "Ġunit <|endoftext|>", "Ċ"),
    ],
    ("tutorbot_sft", "llama"): [
        *("<s> ▁ <0x0A> <0x0A> System : ▁", "B e .", "<0x0A> <0x0A> Student : ▁", "a ▁cell ?"),
        *("<0x0A> <0x0A> Tutor bot :", "▁life </s>", "▁ <0x0A> <0x0A> Student : ▁", "a ?"),
        *("<0x0A> <0x0A> Tutor bot :", "▁unit </s>"),
    ],
    ("tutorbot_sft", "gpt2"): [
        *("Ċ Ċ System :", "ĠBe .", "Ċ Ċ Student :", "Ġa Ġcell ?"),
        *("Ċ Ċ Tutorbot :", "Ġlife <|endoftext|>", "Ċ Ċ Student :", "Ġa ?"),
        *("Ċ Ċ Tutorbot :", "Ġunit <|endoftext|>"),
    ],
    ("tutorbot_asked", "llama"): [
        *("<s> ▁ System : ▁", "B e .", "<0x0A> <0x0A> Student : ▁", "a ▁cell ?"),
        *("<0x0A> Tutor bot :", "▁life", "<0x0A> Student : ▁", "a ?"),
        *("<0x0A> <0x0A> Tutor bot :", "u n i t </s>"),
    ],
    ("tutorbot_asked", "gpt2"): [
        *("System :", "ĠBe .", "Ċ Ċ Student :", "Ġa Ġcell ?"),
        *("Ċ Tutorbot :", "Ġlife", "Ċ Student :", "Ġa ?"),
        *("Ċ Ċ Tutorbot :", "unit <|endoftext|>"),
    ],
    ("hh", "llama"): [
        *(f"<s> {HH}", "B e .", "▁ # # # ▁ H u m a n : ▁", "a ▁cell ?"),
        *("▁ # # # ▁A s s i s t a n t :", "▁life", "▁ # # # ▁ H u m a n : ▁", "a ?"),
        *("▁ # # # ▁A s s i s t a n t :", "▁unit </s>"),
    ],
    ("hh", "gpt2"): [
        *(HH_WITHOUT_BOS, "Be .", "Ġ ### Ġ H u m an :", "Ġa Ġcell ?"),
        *("Ġ ### ĠA s sis tant :", "Ġlife", "Ġ ### Ġ H u m an :", "Ġa ?"),
        *("Ġ ### ĠA s sis tant :", "Ġunit <|endoftext|>"),
    ],
    ("phi3_text", "llama"): [
        *("▁ < | s y s t e m | > <0x0A>", "B e .", f"<0x0A> {HEADER['user']}", "a ▁cell ?"),
        *("<0x0A> < | a s s i s t a n t | > : <0x0A>", "l i f e </s>", f"▁ <0x0A> {HEADER['user']}", "a ?"),
        *("<0x0A> < | a s s i s t a n t | > : <0x0A>", "u n i t </s>"),
    ],
    ("phi3_text", "gpt2"): [
        *("<| s y st em |> Ċ", "Be .", "Ċ <| user |> Ċ", "a Ġcell ?"),
        *("Ċ <| assistant |> : Ċ", "life <|endoftext|>", "Ċ <| user |> Ċ", "a ?"),
        *("Ċ <| assistant |> : Ċ", "unit <|endoftext|>"),
    ],
    ("llama2", "llama"): [
        *("<s> ▁ <0x5B> I N S T <0x5D> ▁ < < S Y S > > <0x0A>", "B e ."),
        *("<0x0A> < < <0x2F> S Y S > > <0x0A> <0x0A>", "a ▁cell ?"),
        *("▁ <0x5B> <0x2F> I N S T <0x5D>", "▁life ▁ </s>", "<s> ▁ <0x5B> I N S T <0x5D> ▁", "a ?"),
        *("▁ <0x5B> <0x2F> I N S T <0x5D>", "▁unit ▁ </s>"),
    ],
    ("llama2", "gpt2"): [
        *("[ I N S T ] Ġ < < S Y S > > Ċ", "Be .", "Ċ < < / S Y S > > Ċ Ċ", "a Ġcell ?"),
        *("Ġ [ / I N S T ]", "Ġlife Ġ <|endoftext|>", "[ I N S T ]", "Ġa ?"),
        *("Ġ [ / I N S T ]", "Ġunit Ġ <|endoftext|>"),
    ],
    ("zephyr", "llama"): [
        *("<s> ▁ < | s y s t e m | > <0x0A>", "B e .", f"</s> ▁ <0x0A> {HEADER['user']}", "a ▁cell ?"),
        *(f"</s> ▁ <0x0A> {HEADER['assistant']}", "l i f e </s>", f"▁ <0x0A> {HEADER['user']}", "a ?"),
        *(f"</s> ▁ <0x0A> {HEADER['assistant']}", "u n i t </s>", "▁ <0x0A>"),
    ],
    ("zephyr", "gpt2"): [
        *("<| s y st em |> Ċ", "Be .", "<|endoftext|> Ċ <| user |> Ċ", "a Ġcell ?"),
        *("<|endoftext|> Ċ <| assistant |> Ċ", "life <|endoftext|>", "Ċ <| user |> Ċ", "a ?"),
        *("<|endoftext|> Ċ <| assistant |> Ċ", "unit <|endoftext|>", "Ċ"),
    ],
    ("fastchat", "llama"): [
        "<s> " + HH.replace("▁ h u m a n", "▁u s e r").replace("<0x0A>", "▁ USER : ▁"),
        *("B e .", "<0x0A> <0x0A>", "a ▁cell ?"),
        *("▁AS SIST ANT :", "▁life </s>", "▁ USER : ▁", "a ?", "▁AS SIST ANT :", "▁unit </s>"),
    ],
    ("fastchat", "gpt2"): [
        *(HH_WITHOUT_BOS.replace("h u m an", "user").replace("Ċ", "Ġ USER :"), "ĠBe .", "Ċ Ċ", "a Ġcell ?"),
        *("ĠASSISTANT :", "Ġlife <|endoftext|>", "USER :", "Ġa ?", "ĠASSISTANT :", "Ġunit <|endoftext|>"),
    ],
    ("task", "llama"): ["", "▁ B e . a ▁cell ? l i f e </s> ▁ a ? u n i t </s>"],
    ("task", "gpt2"): ["", "Be . a Ġcell ? life <|endoftext|> a ? unit <|endoftext|>"],
    ("tutor_perplexity", "llama"): [
        *("<s>", "▁ B e .", "<0x0A> <0x0A> Student : ▁", "a ▁cell ?", "<0x0A> <0x0A> Tutor bot :", "▁life"),
        *("<0x0A> <0x0A> Student : ▁", "a ?", "<0x0A> <0x0A> Tutor bot :", "▁unit"),
    ],
    ("tutor_perplexity", "gpt2"): [
        *("", "Be .", "Ċ Ċ Student :", "Ġa Ġcell ?", "Ċ Ċ Tutorbot :", "Ġlife"),
        *("Ċ Ċ Student :", "Ġa ?", "Ċ Ċ Tutorbot :", "Ġunit"),
    ],
    ("plain", "llama"): ["<s>", "▁ B e .", "<0x0A>", "a ▁cell ? ▁life </s> ▁ a ? ▁unit </s>"],
    ("plain", "gpt2"): ["", "Be .", "Ċ", "a Ġcell ? Ġlife <|endoftext|> a ? Ġunit <|endoftext|>"],
}
OPENED, CLOSED = "<|eot_id|> <|start_header_id|> ", " <|end_header_id|> ▁ <0x0A> <0x0A>"
MASKS["llama3", "llama"] = [
    *(f"<s> <|start_header_id|> ▁ s y s t e m{CLOSED}", "B e .", f"{OPENED}▁u s e r{CLOSED}", "a ▁cell ?"),
    *(f"{OPENED}▁ a s s i s t a n t{CLOSED}", "l i f e <|eot_id|>", f"<|start_header_id|> ▁u s e r{CLOSED}"),
    *("a ?", f"{OPENED}▁ a s s i s t a n t{CLOSED}", "u n i t <|eot_id|>"),
]
CLOSED = " <|end_header_id|> Ċ Ċ"
MASKS["llama3", "gpt2"] = [
    *(f"<|start_header_id|> s y st em{CLOSED}", "Be .", f"{OPENED}user{CLOSED}", "a Ġcell ?"),
    *(f"{OPENED}assistant{CLOSED}", "life <|eot_id|>", f"<|start_header_id|> user{CLOSED}", "a ?"),
    *(f"{OPENED}assistant{CLOSED}", "unit <|eot_id|>"),
]
MASKS["gemma", "llama"] = [
    *("<s> <start_of_turn> ▁u s e r <0x0A>", "B e .", "<0x0A> <0x0A>", "a ▁cell ?"),
    *("<end_of_turn> ▁ <0x0A> <start_of_turn> ▁ m o d e l <0x0A>", "l i f e <end_of_turn>"),
    *("▁ <0x0A> <start_of_turn> ▁u s e r <0x0A>", "a ?"),
    *("<end_of_turn> ▁ <0x0A> <start_of_turn> ▁ m o d e l <0x0A>", "u n i t <end_of_turn>", "▁ <0x0A>"),
]
MASKS["gemma", "gpt2"] = [
    *("<start_of_turn> user Ċ", "Be .", "Ċ Ċ", "a Ġcell ?"),
    *("<end_of_turn> Ċ <start_of_turn> m o d e l Ċ", "life <end_of_turn>", "Ċ <start_of_turn> user Ċ", "a ?"),
    *("<end_of_turn> Ċ <start_of_turn> m o d e l Ċ", "unit <end_of_turn>", "Ċ"),
]
MASKS["mistral", "llama"] = [
    *("<s> ▁ <0x5B> I N S T <0x5D> ▁", "B e .", "<0x0A> <0x0A>", "a ▁cell ?", "<0x5B> <0x2F> I N S T <0x5D>"),
    *("▁life </s>", "▁ <0x5B> I N S T <0x5D> ▁", "a ?", "<0x5B> <0x2F> I N S T <0x5D>", "▁unit </s>"),
]
MASKS["mistral", "gpt2"] = [
    *("[ I N S T ]", "ĠBe .", "Ċ Ċ", "a Ġcell ?", "[ / I N S T ]", "Ġlife <|endoftext|>"),
    *("[ I N S T ]", "Ġa ?", "[ / I N S T ]", "Ġunit <|endoftext|>"),
]
for other, like in {"xwin": "vicuna", "qwen": "chatml"}.items():
    MASKS |= {(other, tokenizer): MASKS[like, tokenizer] for tokenizer in ("llama", "gpt2")}


def marked(messages, template, tokenizer, learn):
    """Return (token, learned) for each token of a conversation."""
    tokens = tokenise_conversation(messages, template, tokenizer, learn)
    assert all(label in (IGNORED, token) for token, label in zip(*tokens, strict=True))
    names = tokenizer.convert_ids_to_tokens(tokens.input_ids)
    return list(zip(names, [label != IGNORED for label in tokens.labels], strict=True))


def test_every_template_has_its_masks_written_down_here():
    assert set(MASKS) == {(name, tokenizer) for name in TEMPLATES for tokenizer in ("llama", "gpt2")}


@pytest.mark.parametrize(("name", "tokenizer"), MASKS)
def test_contents_are_learned_token_by_token_and_no_word_of_the_template(name, tokenizer):
    expected = [
        (token, place % 2 == 1)
        for place, stretch in enumerate(MASKS[name, tokenizer])
        for token in stretch.split()
    ]
    assert marked(SHORT, TEMPLATES[name], TOKENIZERS[tokenizer], "contents") == expected


@pytest.mark.parametrize(("name", "tokenizer"), MASKS)
def test_text_is_all_but_the_first_header_and_ends_with_the_last_message(name, tokenizer):
    header, *rest = MASKS[name, tokenizer]
    after = rest.pop() if len(rest) % 2 == 0 else ""
    after = after if after.strip("\u2581\u0120\u010a <0xA>") else ""  # white space at the end is left out
    expected = [(token, False) for token in header.split()]
    expected += [(token, token != "<s>") for stretch in rest for token in stretch.split()]  # BOS never is
    expected += [(token, False) for token in after.split()]
    assert marked(SHORT, TEMPLATES[name], TOKENIZERS[tokenizer], "text") == expected


def test_the_published_mask_leaves_out_bos_and_the_first_header_alone():
    found = marked(SHORT[1:], TEMPLATES["tulu"], LLAMA, "text")
    unlearned = [name for name, learned in found if not learned]
    assert unlearned == ["<s>", "▁", *"<|user|>", "<0x0A>"]
    assert [learned for _, learned in found] == [False] * 11 + [True] * (len(found) - 11)
    assert found[-1] == ("</s>", True)


# The space before vicuna's questions is in their first tokens, ▁What and ▁A.
@pytest.mark.parametrize(("name", "before", "space"), [("alpaca", "", ""), ("vicuna", "<s>", " ")])
def test_a_default_system_message_is_the_templates_word_but_part_of_the_text(name, before, space):
    text = render(TALK[1:], TEMPLATES[name], LLAMA).text
    contents = tokenise_conversation(TALK[1:], TEMPLATES[name], LLAMA, "contents")
    lead = TEMPLATES[name]["assistant"].get("lead", "")
    said = [
        f"{space}What is a cell?",
        f"{lead}A unit of life.</s>",
        f"{space}And a virus?",
        f"{lead}Not a cell.</s>",
    ]
    assert learned_text(text, contents, LLAMA) == said
    whole = tokenise_conversation(TALK[1:], TEMPLATES[name], LLAMA, "text")
    assert learned_text(text, whole, LLAMA) == [text.removeprefix(before)]


@pytest.mark.parametrize("learn", ["replies", "after", "contents", "text"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_token_that_overlaps_a_learned_character_is_learned(name, learn):
    text, spans = render(TALK, TEMPLATES[name], STRADDLING)
    if learn in ("after", "text"):
        text = text[: spans[-1].end]
    behind = len(TEMPLATES[name]["assistant"]["after"])
    stretches = {
        "after": [(span.start, span.end + behind) for span in spans if span.role == "assistant"],
        "replies": [span[1:3] for span in spans if span.role == "assistant"],
        "contents": [span[1:3] for span in spans],
        "text": [(spans[0].start, spans[-1].end)],
    }[learn]
    characters = {place for start, end in stretches for place in range(start, end)}
    tokens = tokenise_conversation(TALK, TEMPLATES[name], STRADDLING, learn)
    _, offsets = encode(text, STRADDLING)
    for (begin, end), label in zip(offsets, tokens.labels, strict=True):
        assert (label != IGNORED) == any(place in characters for place in range(begin, end))


@pytest.mark.parametrize("learn", ["replies", "after", "contents", "text"])
def test_bos_is_never_learned_wherever_a_template_puts_it(learn):
    template = TEMPLATES["tulu"] | {"user": {"before": "{bos}[", "after": "]"}}
    found = marked(SHORT[1:], template, LLAMA, learn)
    assert [learned for name, learned in found if name == "<s>"] == [False] * 3
    assert [learned for name, learned in found if name == "</s>"] == [True] * 2


@pytest.mark.parametrize("learn", ["replies", "after", "contents", "text"])
def test_where_bos_and_eos_are_one_token_the_ends_are_learned_and_the_start_is_not(learn):
    both = byte_level(True)
    both.bos_token = both.eos_token
    found = marked(SHORT, TEMPLATES["tulu"], both, learn)
    assert [learned for name, learned in found if name == both.eos_token] == [False, True, True]


def test_an_unknown_wish_to_learn_is_an_error():
    with pytest.raises(PlumblineError, match="give replies, header, after, next, contents or text"):
        tokenise_conversation(TALK, TEMPLATES["tulu"], LLAMA, "everything")
