"""What a talk is made of: replies as the study's own engine makes them, as a person sees them, and the commands."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from tests.export_study import ENDLESS, found_in
from tests.tiny_model import QUESTIONS
from workflow_scripts.chat.chat import find_all
from workflow_scripts.chat.screen import Screen
from workflow_scripts.chat.shown import Shown, printable, shown
from workflow_scripts.chat.speaker import GREEDY, Speaker, certain, first_system
from workflow_scripts.chat.talk import Talk, command, reply_of
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.tutor_reply import FIELDS
from workflow_scripts.generate.engine import TransformersEngine

SETTINGS = {"engine": {"name": "transformers", "precision": "float32"}, "trust_remote_code": False}
TUTORED = {
    "Evaluation of Student Response": "b",
    "Action Based on Evaluation": "3",
    "Subproblem State": "x",
    "Subproblem": "Where?",
    "Tutorbot": 'Say "where" first.\nThen why.',
}


@pytest.fixture(scope="module")
def speaker(tiny_model) -> Speaker:
    return Speaker(found_in(tiny_model))


def asked(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def engine_says(model: Path, speaker: Speaker, prompts: list[list[int]], sampling: dict) -> list:
    """Return what the engine that answers a study's prompt sets says to prompts, one at a time."""
    engine = TransformersEngine(model, speaker.tokenizer, SETTINGS)
    found = engine.answer(prompts, sampling | {"batch_size": 1}, "{eos}", 1, [True] * len(prompts))
    return [answer for _, answer in sorted(found)]


def test_a_greedy_reply_is_that_of_the_engine_that_answers_prompt_sets_to_the_byte(tiny_model, speaker):
    sampling = GREEDY | {"max_new_tokens": 24, "stop": ["ga", "th"]}
    prompts = [speaker.prompt(asked(text), sampling).ids for text in QUESTIONS]
    heard: list[list[str]] = []
    found = []
    for prompt in prompts:
        heard.append([])
        found.append(speaker.answer(prompt, sampling, 3, heard[-1].append))
    assert found == engine_says(tiny_model, speaker, prompts, sampling)
    assert {answer.finish_reason for answer in found} == {"stop", "length"}
    for answer, texts in zip(found, heard, strict=True):
        assert all(answer.text.startswith(text) for text in texts)
    assert any(len(texts) > 9 and texts[-1] for texts in heard)  # over the border of a round


def test_what_is_heard_of_a_model_that_keeps_nothing_is_heard_once(speaker, monkeypatch):
    sampling = GREEDY | {"max_new_tokens": 12}
    prompt = speaker.prompt(asked(QUESTIONS[0]), sampling).ids
    one, other = [], []
    answer = speaker.answer(prompt, sampling, 1, one.append)
    monkeypatch.setattr("workflow_scripts.common.answering.keeps_all_tokens", lambda _: False)
    monkeypatch.setattr(speaker.model.config, "use_cache", False)
    assert speaker.answer(prompt, sampling, 1, other.append) == answer
    assert one == other and answer.text.startswith(one[-1])


def test_drawn_replies_follow_from_the_seed_and_the_model_stays_as_it_was(speaker):
    sampling = GREEDY | {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 16}
    prompt = speaker.prompt(asked(QUESTIONS[1]), sampling).ids
    one, again, other = (speaker.answer(prompt, sampling, seed).text for seed in (5, 5, 6))
    assert one == again != other
    assert not speaker.model._forward_pre_hooks


def test_who_breaks_a_reply_off_finds_the_policy_as_it_was(speaker):
    sampling = GREEDY | {"max_new_tokens": 16}
    prompt = speaker.prompt(asked(QUESTIONS[1]), sampling).ids
    whole = speaker.answer(prompt, sampling, 1)

    def gone(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        speaker.answer(prompt, sampling, 1, gone)
    assert not speaker.model._forward_pre_hooks and not speaker.lock.locked()
    assert speaker.answer(prompt, sampling, 1) == whole


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("abc", "abc"),
        ("ab\n", "ab"),
        ("ab\n\n", "ab"),
        ("aST", "a"),
        ("aS", "a"),
        ("a\ufffd\ufffd", "a"),
        ("", ""),
    ],
)
def test_what_may_yet_be_a_stop_string_or_half_a_character_is_not_told(text, left):
    assert certain(text, ["\n\n", "STOP"]) == left


def test_a_template_without_an_end_stops_where_the_prompt_sets_do(tiny_model, tmp_path, monkeypatch):
    found = found_in(tiny_model, ENDLESS)
    monkeypatch.chdir(tmp_path)
    assert Talk([Speaker(found)]).sampling["stop"] == []
    sets = Path(found.plan.layout.prompts("words"))
    sets.parent.mkdir(parents=True)
    sets.write_text(json.dumps({"sampling": {"stop": ["\n\n", "U:"]}}))
    assert Talk([Speaker(found)]).sampling["stop"] == ["\n\n", "U:"]


def test_a_talk_goes_on_and_is_cut_to_the_context_as_the_study_cuts(speaker):
    talk = Talk([speaker], "Tutor the student.")
    command(talk, "/tokens 100")
    remarks = []
    for text in QUESTIONS:
        talk.hear(text)
        remarks.append(talk.reply(0).remark)
    assert [message["role"] for message in talk.said[0]] == ["user", "assistant"] * len(QUESTIONS)
    assert "no longer fit" not in remarks[0] and "no longer fit its context" in remarks[-1]
    messages = [{"role": "system", "content": talk.system}, *talk.said[0][:-1]]
    fitted = speaker.prompt(messages, talk.sampling)
    assert len(fitted.ids) <= 412 and fitted.messages[0]["content"] == talk.system
    talk.unhear()
    assert len(talk.said[0]) == 2 * len(QUESTIONS) - 2


def test_only_the_exchanges_that_a_policy_learned_from_are_shown_to_it(speaker, monkeypatch):
    said = [*asked("a"), {"role": "assistant", "content": "b"}] * 2 + asked("c")
    whole = speaker.prompt(said, GREEDY)
    monkeypatch.setattr(speaker, "history", 0)
    short = speaker.prompt(said, GREEDY)
    assert len(short.messages) == 2 < len(whole.messages) == 5


def test_two_policies_hear_the_same_and_each_its_own_replies(speaker, tiny_model):
    other = Speaker(found_in(tiny_model, ENDLESS))
    talk = Talk([speaker, other])
    command(talk, "/tokens 6")
    talk.hear("What is osmosis?")
    replies = [talk.reply(place).text for place in (0, 1)]
    assert [messages[0]["content"] for messages in talk.said] == ["What is osmosis?"] * 2
    assert [messages[1]["content"] for messages in talk.said] == replies


# --- as a person sees it ----------------------------------------------------------------------------------------------


def test_a_tutor_s_reply_is_what_the_student_would_see_and_its_labels_stand_apart():
    found = shown(json.dumps(TUTORED))
    assert found.said == TUTORED["Tutorbot"]
    assert found.beside() == "evaluation b · action 3 · state x · subproblem Where?"
    assert shown(str(TUTORED)) == found  # a Python literal, as published data has it


def test_an_unfinished_tutor_s_reply_is_shown_as_far_as_it_says_something():
    text = json.dumps(TUTORED)
    seen = [shown(text[:size], whole=False) for size in range(1, len(text) + 1)]
    said = [found.said for found in seen]
    assert said[0] == "" and said[-1] == TUTORED["Tutorbot"]
    assert any(0 < len(each) < len(said[-1]) for each in said)
    whole = [each for each in said if not each.endswith("\\")]  # half an escape
    assert all(TUTORED["Tutorbot"].startswith(each) for each in whole)


@pytest.mark.parametrize("text", ["{not a reply", '{"a": 1}', "{", "plain words", ""])
def test_what_is_no_tutor_s_reply_is_shown_as_it_is(text):
    assert shown(text) == Shown(text)


def test_nothing_that_is_shown_can_command_a_terminal_or_turn_the_order_of_words():
    evil = "a\x1b[31mb\x07\x08\x9b\u202ec\r\n\td"
    for text in (evil, json.dumps(TUTORED | {"Tutorbot": evil, "Subproblem": evil})):
        found = shown(text)
        assert not set("\x1b\x07\x08\x9b\u202e\r") & set(found.said + found.beside())
    assert printable("a\n\tb\u200d") == "a\n\tb\u200d"
    assert printable("\x1b") == "␛" and printable("\u202e") == "\\u202e"


# --- commands ---------------------------------------------------------------------------------------------------------


def talk_of(speaker: Speaker) -> Talk:
    talk = Talk([speaker])
    talk.hear("x")
    return talk


def test_sampling_is_shown_and_changed(speaker):
    talk = talk_of(speaker)
    assert talk.drawn() == "greedy (temperature 0), at most 256 tokens"
    assert command(talk, "/temperature 0.7") == "temperature 0.7, top_p 1, seed 1, at most 256 tokens"
    assert "seed 9" in command(talk, "/seed 9") and "top_p 0.5" in command(talk, "/top_p 0.5")
    assert talk.sampling["temperature"] == 0.7 and talk.seed == 9
    assert len(talk.said[0]) == 1  # the talk goes on


@pytest.mark.parametrize(
    "line",
    [
        *("/temperature", "/temperature x", "/temperature -1", "/temperature nan", "/top_p 0", "/top_p 2"),
        *("/seed 1.5", "/tokens 0", "/tokens 512", "/tokens 99999999", "/nonsense", "/"),
    ],
)
def test_what_is_no_command_changes_nothing_and_says_why(speaker, line):
    talk = talk_of(speaker)
    before = dict(talk.sampling)
    with pytest.raises(PlumblineError):
        command(talk, line)
    assert (talk.sampling, talk.seed, len(talk.said[0])) == (before, 1, 1)


def test_a_talk_begins_anew_with_another_system_message_and_on_request(speaker):
    talk = talk_of(speaker)
    assert "Be brief." in command(talk, "/system Be brief.") and talk.said == [[]]
    talk.hear("x")
    assert "anew" in command(talk, "/reset") and talk.said == [[]] and talk.system == "Be brief."
    command(talk, "/system")
    assert talk.system is None
    for name in ("temperature", "top_p", "tokens", "seed", "system", "raw", "undo", "reset", "help", "quit"):
        assert f"/{name}" in command(talk, "/help")


def test_replies_can_be_seen_as_they_are(speaker, monkeypatch):
    text = json.dumps(TUTORED)
    answer = SimpleNamespace(text=text, completion_tokens=5, finish_reason="stop")
    monkeypatch.setattr(speaker, "answer", lambda *_: answer)
    for raw, said in ((False, TUTORED["Tutorbot"]), (True, text)):
        found = reply_of(speaker, None, asked("x"), GREEDY, 1, raw=raw)
        assert found.shown.said == said and found.text == text
    assert all(field in text for field in FIELDS)


# --- the screen -------------------------------------------------------------------------------------------------------


def screened(speakers: list[Speaker], width: int) -> str:
    console = Console(width=width, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    talk = Talk(speakers)
    command(talk, "/tokens 8")
    talk.hear("What is osmosis?")
    Screen(console).replies(talk)
    return console.export_text()


def test_two_replies_stand_side_by_side_where_there_is_room(speaker):
    wide, narrow = (screened([speaker, speaker], width) for width in (100, 50))
    assert wide.splitlines()[0].count("tiny>") == 2
    assert [line.startswith("tiny>") for line in narrow.splitlines()].count(True) == 2
    assert wide.count("8 tokens, cut at the most tokens") == 2


def test_brackets_of_a_reply_are_no_markup(speaker, monkeypatch):
    answer = SimpleNamespace(text="[bold]x[/bold] :smile:", completion_tokens=5, finish_reason="stop")
    monkeypatch.setattr(speaker, "answer", lambda *_: answer)
    assert "[bold]x[/bold] :smile:" in screened([speaker], 80)


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_who_cannot_be_talked_to_is_named_with_what_to_do(tmp_path, monkeypatch):
    study = SimpleNamespace(policies={"gpt": None}, models={"tiny": None})
    monkeypatch.setattr("workflow_scripts.chat.chat.load_study", lambda _: study)
    monkeypatch.setattr("workflow_scripts.chat.chat.find", lambda *given: given)
    path = Path("mine.yaml")
    with pytest.raises(PlumblineError, match="make chat POLICY="):
        find_all(path, [""], None, "chat")
    with pytest.raises(PlumblineError, match="gpt answers from elsewhere"):
        find_all(path, ["gpt"], None, "chat")
    with pytest.raises(PlumblineError, match=r"ask for tiny\.sft|is tiny\.sft, answering again"):
        find_all(path, ["tiny.sft@twice"], None, "chat")
    assert find_all(path, ["tiny.sft", "tiny"], 2, "chat") == [(path, "tiny.sft", 2), (path, "tiny", None)]


def test_the_system_message_of_all_rows_that_were_learned_from_is_taken(tiny_model, tmp_path, monkeypatch):
    found = found_in(tiny_model)._replace(policy="tiny.sft")
    monkeypatch.chdir(tmp_path)
    assert first_system(found) is None
    rows = Path(found.plan.layout.rows("chat", "train"))
    rows.parent.mkdir(parents=True)

    def write(*systems: str | None) -> None:
        told = [[{"role": "system", "content": each}] if each else [] for each in systems]
        rows.write_text("".join(json.dumps({"messages": [*each, *asked("x")]}) + "\n" for each in told))

    write("Be a tutor.", "Be a tutor.")
    assert first_system(found) == "Be a tutor."
    write("Be a tutor.", None)
    assert first_system(found) is None


def test_nothing_of_a_talk_is_drawn_from_where_it_should_not(speaker):
    torch.manual_seed(3)
    before = speaker.model.generation_config
    speaker.answer(speaker.prompt(asked("x"), GREEDY).ids, GREEDY | {"max_new_tokens": 2}, 1)
    assert speaker.model.generation_config is before
