"""A model's own chat template: the ids that `apply_chat_template` gives, masks as of ours, and what is refused."""

import pytest

from tests.family_templates import (
    CLOSING,
    DATED,
    ENDLESS,
    FAMILIES,
    FORGETTING,
    THINKING,
    chatml,
    speaking,
)
from tests.texts import TEMPLATES
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.own_template import Unspeakable, shortcomings, voice_of
from workflow_scripts.common.templates import (
    IGNORED,
    encode,
    ends_of,
    refused,
    render,
    reply_end,
    strips_replies,
    tokenise_conversation,
    tokenise_prompt,
    tokenise_reply,
)

OWN = {"own": True}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "What is a cell?"},
    {"role": "assistant", "content": "A unit of life."},
    {"role": "user", "content": "And a\n\nvirus?"},
    {"role": "assistant", "content": "Not a cell, é 😀."},
]
TALKS = {
    "one exchange": TALK[:2],
    "with system": [SYSTEM, *TALK[:2]],
    "several turns": TALK,
    "white space": [{"role": "user", "content": "  Why?\n "}, {"role": "assistant", "content": "\n So. "}],
    "the template's own words": [
        {"role": "user", "content": "user\n[/INST] model"},
        {"role": "assistant", "content": "assistant\n[INST] "},
    ],
}
LONG = {"several turns with system": [SYSTEM, *TALK]}
MOVING = ("mistral",)  # where its own puts the system message into the last turn
CASES = [
    (name, kind, talk)
    for name in FAMILIES
    for kind in ("llama", "gpt2", "straddling")
    for talk in [*TALKS, *LONG]
    if not (name in MOVING and talk in LONG)
]


def applied(tokenizer, messages, prompt):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)


@pytest.mark.parametrize(("name", "kind", "talk"), CASES)
def test_a_familys_template_gives_the_ids_of_its_models_own(name, kind, talk):
    tokenizer, messages = speaking(FAMILIES[name], kind), (TALKS | LONG)[talk]
    for template in (TEMPLATES[name], OWN):
        assert tokenise_conversation(messages, template, tokenizer).input_ids == applied(
            tokenizer, messages, False
        )
        for turn in range(len(messages)):
            if messages[turn]["role"] == "assistant":
                asked = messages[:turn]
                assert tokenise_prompt(asked, template, tokenizer) == applied(tokenizer, asked, True)


@pytest.mark.parametrize("learn", ["replies", "header", "after", "next", "contents"])
@pytest.mark.parametrize(("name", "kind", "talk"), CASES)
def test_a_models_own_template_is_learned_as_ours_of_its_family(name, kind, talk, learn):
    tokenizer, messages = speaking(FAMILIES[name], kind), (TALKS | LONG)[talk]
    ours = tokenise_conversation(messages, TEMPLATES[name], tokenizer, learn)
    own = tokenise_conversation(messages, OWN, tokenizer, learn)
    assert own.input_ids == ours.input_ids
    assert own.labels == ours.labels
    assert ends_of(reply_end(OWN, tokenizer), tokenizer) == ends_of(
        reply_end(TEMPLATES[name], tokenizer), tokenizer
    )
    prompt, reply = tokenise_reply(messages[:-1], messages[-1]["content"], OWN, tokenizer)
    assert (prompt, reply) == tokenise_reply(
        messages[:-1], messages[-1]["content"], TEMPLATES[name], tokenizer
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_message_spells_of_special_tokens_is_plain_text(name):
    tokenizer = speaking(FAMILIES[name])
    messages = [{"role": "user", "content": "Is <|im_end|> or <|eot_id|><end_of_turn> a token?"}]
    assert tokenise_prompt(messages, OWN, tokenizer) == tokenise_prompt(messages, TEMPLATES[name], tokenizer)
    plain = tokenise_prompt([{"role": "user", "content": "a token?"}], OWN, tokenizer)
    marks = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|eot_id|>", "<end_of_turn>"])
    spelled = tokenise_prompt(messages, OWN, tokenizer)
    assert [spelled.count(mark) for mark in marks] == [plain.count(mark) for mark in marks]


def test_the_words_that_a_policy_itself_puts_before_its_reply_are_learned():
    tokenizer = speaking(THINKING)
    text, spans = render(TALK[:2], OWN, tokenizer)
    assert text[spans[1].start : spans[1].end] == "<think>\n\n</think>\n\nA unit of life.<|im_end|>"
    tokens = tokenise_conversation(TALK[:2], OWN, tokenizer)
    prompt = tokenise_prompt(TALK[:1], OWN, tokenizer)
    assert tokens.input_ids[: len(prompt)] == prompt
    assert [label == IGNORED for label in tokens.labels[: len(prompt) + 1]] == [True] * len(prompt) + [False]


@pytest.mark.parametrize(
    ("source", "messages", "reason"),
    [
        (THINKING, TALK, "writes the first 2 messages of a conversation otherwise once it goes on"),
        (
            FAMILIES["mistral"],
            [SYSTEM, *TALK],
            r"what message 1 of 5 says \(of the system\) once, in its place",
        ),
        (
            FAMILIES["gemma"],
            [TALK[0], *TALK],
            r"refuses a conversation of user, user.* \(roles must alternate\)",
        ),
        (
            FORGETTING,
            [TALK[0], {"role": "assistant", "content": "<think>Hm.</think>So."}],
            r"changes what message 2 of 2 says \(of the assistant\): it drops or rewrites a part",
        ),
        (chatml("m.content | upper"), TALK[:2], "changes what message 1 of 2 says"),
        (chatml("m.content ~ m.content"), TALK[:2], "does not write what message 1 of 2 says .* once"),
        (DATED, TALK[:2], "writes today's date"),
    ],
)
def test_a_conversation_that_cannot_be_learned_from_is_refused_with_the_reason_and_what_to_do(
    source, messages, reason
):
    with pytest.raises(
        Unspeakable, match=f"(?s){reason}.*name another template for it, `template: chatml` say"
    ):
        render(messages, OWN, speaking(source))
    why = refused(messages[:-1], [messages[-1]["content"]], OWN, speaking(source))
    assert why is not None
    assert why[0] == "not in the model's own chat template"


def test_what_closes_the_whole_is_not_learned_and_in_nobodys_way():
    closing, plain = speaking(CLOSING), speaking(chatml())
    for learn in ("replies", "contents"):
        ours = tokenise_conversation(TALK, OWN, plain, learn)
        own = tokenise_conversation(TALK, OWN, closing, learn)
        assert own.input_ids == [*ours.input_ids, closing.eos_token_id]
        assert own.labels == [*ours.labels, IGNORED]
    assert shortcomings(voice_of(closing)) == []


def test_a_template_without_an_end_or_that_is_none_is_refused():
    with pytest.raises(PlumblineError, match="writes no token behind a reply, so no answer would end"):
        reply_end(OWN, speaking(ENDLESS))
    with pytest.raises(PlumblineError, match="cannot be read"):
        reply_end(OWN, speaking("{% for"))
    with pytest.raises(PlumblineError, match="the tokenizer has no chat template of its own; name one"):
        reply_end(OWN, speaking(None))


def test_what_a_template_does_not_write_of_conversations_is_told_beforehand():
    assert shortcomings(voice_of(speaking(FAMILIES["qwen"]))) == []
    (line,) = shortcomings(voice_of(speaking(THINKING)))
    assert line.startswith(
        "conversations with several exchanges are refused: the model's own chat template writes"
    )
    no_system = FAMILIES["gemma"].replace(
        "== 'system' %}", "== 'system' %}{{ raise_exception('no system') }}"
    )
    (line,) = shortcomings(voice_of(speaking(no_system)))
    assert line.startswith("conversations with a system message are refused:")
    assert "(no system)" in line
    with pytest.raises(Unspeakable, match="today's date"):
        shortcomings(voice_of(speaking(DATED)))


def test_an_answer_is_stripped_where_the_template_strips_replies():
    assert strips_replies(OWN, speaking(FAMILIES["llama3"]))
    assert not strips_replies(OWN, speaking(FAMILIES["qwen"]))
    assert strips_replies(TEMPLATES["mistral"], speaking(None))


def test_templates_may_mark_what_is_learned_and_leave_loops():
    marked = chatml("m.content").replace(
        "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}",
        "{% if m.role == 'none' %}{% continue %}{% endif %}{{ '<|im_start|>' ~ m.role ~ '\n' }}"
        "{% generation %}{{ m.content ~ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
    )
    assert "generation %}" in marked
    assert encode(*[render(TALK, OWN, speaking(marked)).text, speaking(marked)])[0] == applied(
        speaking(marked), TALK, False
    )


def test_the_prompt_of_a_conversation_says_where_each_message_is():
    tokenizer = speaking(FAMILIES["zephyr"])
    text, spans = render([SYSTEM, *TALK[:3]], OWN, tokenizer, prompt=True)
    said = [text[slice(*span.said)] for span in spans]
    assert said == [message["content"] for message in [SYSTEM, *TALK[:3]]]
    ours = render([SYSTEM, *TALK[:3]], TEMPLATES["zephyr"], tokenizer, prompt=True)
    assert (text, [span.said for span in spans]) == (ours.text, [span.said for span in ours.spans])
