"""A policy behind OpenAI's protocol, asked by OpenAI's own client: its answers are the study's, no wish is left out."""

import http.client
import json
import threading
from collections.abc import Iterator
from itertools import pairwise

import openai
import pytest

from tests.command import call
from tests.export_study import found_in
from tests.tiny_model import QUESTIONS
from workflow_scripts.chat import serve
from workflow_scripts.chat.serve import openai_server, served_folder, vllm_command
from workflow_scripts.chat.speaker import GREEDY, Speaker
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json
from workflow_scripts.common.templates import tokenise_text
from workflow_scripts.generate.engine import TransformersEngine

SETTINGS = {"engine": {"name": "transformers", "precision": "float32"}, "trust_remote_code": False}
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[0]}]


@pytest.fixture(scope="module")
def speaker(tiny_model) -> Speaker:
    return Speaker(found_in(tiny_model))


def running(speaker: Speaker, key: str = "") -> Iterator[str]:
    with openai_server(speaker, "127.0.0.1", 0, key) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture(scope="module")
def address(speaker) -> Iterator[str]:
    yield from running(speaker)


@pytest.fixture(scope="module")
def client(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)


def engine_says(model, speaker: Speaker, ids: list[int], most: int, stop: list[str]) -> object:
    """Return the answer of the engine that answers a study's prompt sets."""
    engine = TransformersEngine(model, speaker.tokenizer, SETTINGS)
    sampling = GREEDY | {"max_new_tokens": most, "stop": stop, "batch_size": 1}
    [(_, answer)] = engine.answer([ids], sampling, "{eos}", 1, [True])
    return answer


@pytest.mark.parametrize("stop", [[], ["ga", "th"]])
def test_a_greedy_chat_is_the_engine_s_answer_to_the_byte_streamed_or_not(client, speaker, tiny_model, stop):
    for text in QUESTIONS[:4]:
        talk = [TALK[0], {"role": "user", "content": text}]
        asked = {"model": "tiny", "messages": talk, "temperature": 0, "max_tokens": 20, "stop": stop}
        found = client.chat.completions.create(**asked)
        ids = speaker.prompt(talk, GREEDY).ids
        wanted = engine_says(tiny_model, speaker, ids, 20, stop)
        [choice] = found.choices
        assert (choice.message.content, choice.finish_reason) == (wanted.text, wanted.finish_reason)
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (
            len(ids),
            wanted.completion_tokens,
        )
        assert found.usage.total_tokens == len(ids) + wanted.completion_tokens
        parts = list(
            client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        )
        said = [part.choices[0].delta.content or "" for part in parts if part.choices]
        assert "".join(said) == wanted.text and (
            len([each for each in said if each]) > 1 or wanted.completion_tokens < 5
        )
        assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == wanted.finish_reason
        assert parts[-1].usage == found.usage and parts[0].choices[0].delta.role == "assistant"


def test_a_text_is_gone_on_from_as_the_study_goes_on_from_one(client, speaker, tiny_model):
    text = "Why is the sky"
    found = client.completions.create(model="tiny", prompt=[text, "Name"], temperature=0, max_tokens=9, n=2)
    wanted = engine_says(tiny_model, speaker, tokenise_text(text, speaker.tokenizer), 9, [])
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.choices[0].text == found.choices[1].text == wanted.text
    assert found.choices[2].text == found.choices[3].text
    assert found.usage.completion_tokens >= 2 * wanted.completion_tokens
    ids = tokenise_text(text, speaker.tokenizer)
    again = client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=9)
    assert again.choices[0].text == wanted.text and again.usage.prompt_tokens == len(ids)
    parts = client.completions.create(model="tiny", prompt=text, temperature=0, max_tokens=9, stream=True)
    assert "".join(part.choices[0].text for part in parts) == wanted.text
    assert (
        client.completions.create(model="tiny", prompt=text).usage.completion_tokens <= 16
    )  # OpenAI's default


def test_choices_differ_and_follow_from_the_seed(client):
    asked = {"model": "tiny", "messages": TALK, "temperature": 1.0, "top_p": 0.95, "max_tokens": 12, "n": 3}

    def said(**more: object) -> list[str]:
        found = client.chat.completions.create(**asked, **more)
        assert [choice.index for choice in found.choices] == [0, 1, 2]
        return [choice.message.content for choice in found.choices]

    one = said(seed=7)
    assert one == said(seed=7) != said(seed=8) and len(set(one)) == 3
    assert said() != said()  # without a seed, another each time
    streamed = {0: "", 1: "", 2: ""}
    for part in client.chat.completions.create(**asked, seed=7, stream=True):
        streamed[part.choices[0].index] += part.choices[0].delta.content or ""
    assert list(streamed.values()) == one


def test_parts_of_a_message_and_the_developer_s_words_are_read(client):
    usual = {"model": "tiny", "temperature": 0, "max_completion_tokens": 8}
    plain = client.chat.completions.create(messages=TALK, **usual)
    parts = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": part} for part in (TALK[1]["content"], "")]},
    ]
    assert client.chat.completions.create(messages=parts, **usual).choices == plain.choices
    assert plain.usage.completion_tokens <= 8


def test_the_policy_is_named_and_another_is_an_error(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    for ask in (
        lambda: client.chat.completions.create(model="gpt", messages=TALK),
        lambda: client.completions.create(model="gpt", prompt="x"),
        lambda: client.models.retrieve("gpt"),
        lambda: client.embeddings.create(model="tiny", input="x"),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    with pytest.raises(openai.NotFoundError, match="'gpt' does not exist: here is 'tiny' alone"):
        client.chat.completions.create(model="gpt", messages=TALK)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n: 0"),
        ({"n": 1.5}, "n: 1.5"),
        ({"seed": "x"}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 511}, "shorten the prompt"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content"),
        ({"messages": [*TALK, {"role": "assistant", "content": "x"}]}, "nothing is left to reply"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "context"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, wrong, said):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": TALK} | wrong)
    assert said in caught.value.body["message"]


@pytest.mark.parametrize("prompt", [[], [[]], [10**9], [-1], None, 3, ["x", 3], [True]])
def test_a_prompt_that_is_none_is_refused(client, prompt):
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt=prompt)


def test_a_reply_that_fails_is_an_error_and_the_next_one_is_made(client, speaker, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(speaker, "answer", full)
    with pytest.raises(openai.InternalServerError, match="no memory left"):
        client.chat.completions.create(model="tiny", messages=TALK, max_tokens=2)
    monkeypatch.undo()
    assert client.chat.completions.create(model="tiny", messages=TALK, max_tokens=2).choices


def test_what_says_nothing_is_taken(client):
    idle = {"frequency_penalty": 0, "logprobs": False, "tools": [], "response_format": {"type": "text"}}
    client.chat.completions.create(model="tiny", messages=TALK, max_tokens=2, user="me", **idle)


def test_a_key_is_asked_for_where_there_is_one(speaker):
    for address in running(speaker, "secret"):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=address, api_key="wrong", max_retries=0).models.list()
        assert openai.OpenAI(base_url=address, api_key="secret", max_retries=0).models.list().data


def test_pages_of_other_sites_are_not_answered(address):
    port = int(address.split(":")[-1].split("/")[0])
    body = json.dumps({"model": "tiny", "messages": TALK, "max_tokens": 2})
    sent = {"Content-Type": "application/json"}
    for headers, status in (
        (sent, 200),
        (sent | {"Origin": "https://evil.example"}, 403),
        (sent | {"Host": "evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/chat/completions", body, headers)
        assert connection.getresponse().status == status
        connection.close()


def test_whoever_goes_away_in_the_middle_of_a_stream_frees_the_policy(client, speaker):
    parts = client.chat.completions.create(
        model="tiny", messages=TALK, temperature=0, max_tokens=400, stream=True, stop=["never said"]
    )
    next(iter(parts))
    parts.close()
    assert client.chat.completions.create(model="tiny", messages=TALK, max_tokens=2).choices


# --- the command ------------------------------------------------------------------------------------------------------


def test_vllm_serves_a_folder_that_is_made_once(tiny_model, tmp_path, monkeypatch):
    found = found_in(tiny_model)
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    found = found._replace(manifest=manifest)
    monkeypatch.chdir(tmp_path)
    made = []

    def export(found: object, place, *more: object) -> None:
        made.append(place)
        place.mkdir(parents=True)
        (place / "plumbline.json").write_text("{}")
        (place / "config.json").write_text((tiny_model / "config.json").read_text())

    monkeypatch.setattr("workflow_scripts.export.export.export", export)
    folder = served_folder(found)
    assert served_folder(found) == folder and len(made) == 1
    command = vllm_command(found, folder, "127.0.0.1", 8000)
    assert ("--model", str(folder)) in pairwise(command)
    assert ("--served-model-name", "tiny") in pairwise(command)
    assert ("--dtype", "float32") in pairwise(command)
    assert ("--max-model-len", "512") in pairwise(command)
    manifest.write_text('{"other": 1}')
    assert served_folder(found) != folder and not folder.exists()
    assert read_json(made[-1] / "plumbline.json") == {}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--policy="], "make serve POLICY="),
        (["--policy=x", "--engine=llama"], "ENGINE=llama: give vllm or transformers"),
        (["--policy=x", "--engine=vllm"], "it is not installed"),
        (["--policy=x", "--port=99999"], "ports are numbers"),
        (["--policy=x", "--port=x"], "a whole number"),
    ],
)
def test_what_it_is_told_wrong_is_said_before_anything_is_loaded(tmp_path, monkeypatch, flags, said):
    monkeypatch.setattr(serve, "VLLM", tmp_path / "none")
    with pytest.raises(PlumblineError, match=said):
        call(serve.main, *flags)
