"""Generation: prompt sets, an engine whose answers do not depend on the batch, and a store that survives a kill."""

import json
import shutil

import pytest

from tests.generation import GREEDY, QUESTIONS, SETTINGS, TEMPLATE, WARM, Study, call_named, rows_of
from workflow_scripts.common import templates
from workflow_scripts.common.answering import Answer, Engine, cut_at
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_json, write_jsonl
from workflow_scripts.common.models import model_ends
from workflow_scripts.generate import answer, calibrate, prompts
from workflow_scripts.generate import engine as engine_module
from workflow_scripts.generate.engine import TransformersEngine


@pytest.fixture(scope="module")
def engine(tiny_model):
    tokenizer = answer.load_tokenizer(tiny_model)
    return TransformersEngine(tiny_model, tokenizer, SETTINGS)


@pytest.fixture(scope="module")
def asked(engine):
    messages = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [templates.tokenise_prompt(each, TEMPLATE, engine.tokenizer) for each in messages]


def answers_of(engine, asked, sampling, end="{eos}", seed=1):
    found = dict(engine.answer(asked, sampling, end, seed, [True] * len(asked)))
    assert sorted(found) == list(range(len(asked)))
    return [found[index] for index in range(len(asked))]


# The engine.


def test_greedy_answers_are_the_model_s_own_argmax(engine, asked):
    import torch

    for prompt, found in zip(asked, answers_of(engine, asked, GREEDY), strict=True):
        ids = list(prompt)
        for _ in range(GREEDY["max_new_tokens"]):
            ids.append(engine.model(torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] == engine.tokenizer.eos_token_id:
                break
        made = ids[len(prompt) :]
        assert found.text == engine.tokenizer.decode(made, skip_special_tokens=True)
        ended = made[-1] == engine.tokenizer.eos_token_id
        assert found[1:] == ("stop" if ended else "length", len(prompt), len(made))


@pytest.mark.parametrize("stop", [False, True])
def test_greedy_answers_do_not_depend_on_the_batch_size(engine, asked, stop):
    sampling = GREEDY
    if stop:
        text = answers_of(engine, asked, GREEDY)[0].text
        sampling = GREEDY | {"stop": [text[3:5]]}
    expected = answers_of(engine, asked, sampling | {"batch_size": 1})
    assert len({found.completion_tokens for found in expected}) > 1 or not stop
    for size in (2, 3, 100):
        assert answers_of(engine, asked, sampling | {"batch_size": size}) == expected


def test_an_answer_ends_before_the_first_stop_string(engine, asked):
    whole = answers_of(engine, asked, GREEDY)[0]
    stops = [whole.text[6:9], whole.text[4:6]]
    found = answers_of(engine, asked, GREEDY | {"stop": stops})[0]
    assert found.text == whole.text[: min(whole.text.index(stop) for stop in stops)]
    assert found.finish_reason == "stop"
    assert found.completion_tokens < whole.completion_tokens
    assert found.prompt_tokens == len(asked[0])


def test_a_stop_string_that_the_prompt_begins_ends_no_answer(engine, asked):
    whole = answers_of(engine, asked, GREEDY)
    sampling = GREEDY | {"stop": [":" + whole[0].text[:2]]}
    for size in (1, 100):
        assert answers_of(engine, asked, sampling | {"batch_size": size})[0] == whole[0]


def test_an_answer_ends_at_every_end_token_of_the_model(engine, asked, monkeypatch):
    whole = answers_of(engine, asked, GREEDY)[0]
    tokens = engine.tokenizer(whole.text)["input_ids"]
    end = next(token for token in tokens[2:] if len(engine.tokenizer.decode([token])) > 1)
    monkeypatch.setattr(engine, "ends", [engine.tokenizer.bos_token_id, end])
    found = answers_of(engine, asked, GREEDY)[0]
    assert found.finish_reason == "stop"
    assert found.text == whole.text[: whole.text.index(engine.tokenizer.decode([end]))]
    assert found.completion_tokens < whole.completion_tokens
    assert answers_of(engine, asked[:1], GREEDY)[0] == found


def test_an_answer_ends_before_a_stop_string(engine, asked):
    whole = answers_of(engine, asked, GREEDY)[0]
    for end in (whole.text[4:9], whole.text[5:6]):
        found = answers_of(engine, asked, GREEDY | {"stop": [end]})[0]
        assert found.text == whole.text[: whole.text.index(end)]
        assert found.finish_reason == "stop"
        assert found.completion_tokens < whole.completion_tokens


def test_the_ends_of_a_model_are_all_that_its_files_name(tmp_path):
    assert model_ends(tmp_path) == []
    write_json(tmp_path / "config.json", {"eos_token_id": 5})
    assert model_ends(tmp_path) == [5]
    for named, expected in (([2, 7], [2, 7]), (3, [3]), (None, [])):
        write_json(tmp_path / "generation_config.json", {"eos_token_id": named})
        assert model_ends(tmp_path) == expected


def test_a_stop_string_ends_an_answer_however_many_tokens_it_takes(engine, asked, monkeypatch):
    made = []
    own = engine.model.generate

    def spy(*arguments, **named):
        output = own(*arguments, **named)
        made.append(output.shape[1] - arguments[0].shape[1])
        return output

    sampling = GREEDY | {"max_new_tokens": 60, "min_new_tokens": 60}
    whole = answers_of(engine, asked[:1], sampling)[0]
    stop = whole.text[5:-25]
    assert len(engine.tokenizer(stop)["input_ids"]) > 20
    monkeypatch.setattr(engine.model, "generate", spy)
    found = answers_of(engine, asked[:1], sampling | {"stop": [stop]})[0]
    assert (found.text, found.finish_reason) == (whole.text[:5], "stop")
    assert sum(made) == found.completion_tokens, "and no token is made after it"


def test_a_padding_token_the_model_has_not_is_not_used(tmp_path, tiny_model, asked, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = answer.load_tokenizer(folder)
    expected = answers_of(TransformersEngine(folder, tokenizer, SETTINGS), asked, GREEDY)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    size = read_json(folder / "config.json")["vocab_size"]
    assert tokenizer.pad_token_id >= size
    found = answer.load_tokenizer(folder)
    assert found.pad_token_id < size
    assert "padding token '[PAD]' is not among the model's" in capsys.readouterr().err
    assert answers_of(TransformersEngine(folder, found, SETTINGS), asked, GREEDY) == expected


def test_a_token_the_model_has_not_is_named_when_loaded_and_refused_when_asked(tmp_path, tiny_model, capsys):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = answer.load_tokenizer(folder)
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    own = answer.load_tokenizer(folder)
    assert "<|im_end|> of its tokenizer are not among them" in capsys.readouterr().err
    engine = TransformersEngine(folder, own, SETTINGS)
    with pytest.raises(PlumblineError, match="tokens that the model does not know"):
        answers_of(engine, [own("Why?<|im_end|>")["input_ids"]], GREEDY)


def test_an_unfinished_answer_says_so(engine, asked):
    found = answers_of(engine, asked, GREEDY | {"max_new_tokens": 2, "min_new_tokens": 2})
    assert {(each.finish_reason, each.completion_tokens) for each in found} == {("length", 2)}


def test_the_least_number_of_new_tokens_is_kept_to(engine, asked, monkeypatch):
    whole = answers_of(engine, asked, GREEDY)[0]
    monkeypatch.setattr(engine, "ends", engine.tokenizer(whole.text)["input_ids"][:1])
    assert answers_of(engine, asked, GREEDY)[0].completion_tokens < 12
    assert answers_of(engine, asked, GREEDY | {"min_new_tokens": 12})[0].completion_tokens == 12


def test_sampling_is_repeated_by_its_seed_and_changed_by_another(engine, asked):
    first = answers_of(engine, asked, WARM, seed=1)
    assert answers_of(engine, asked, WARM, seed=1) == first
    assert answers_of(engine, asked, WARM, seed=2) != first
    assert (
        answers_of(engine, [asked[0]] * 2, WARM | {"batch_size": 1})[0]
        != answers_of(engine, [asked[0]] * 2, WARM | {"batch_size": 1})[1]
    ), "two batches of one run are drawn apart"


@pytest.mark.parametrize(
    ("stops", "expected"),
    [([], ("a b c", False)), (["x"], ("a b c", False)), (["c", " b"], ("a", True)), (["a"], ("", True))],
)
def test_a_text_is_cut_at_its_first_stop_string(stops, expected):
    assert cut_at("a b c", stops) == expected


# The store. A made-up engine answers with what it was asked, so that a test can see it.


class Echo(Engine):
    """Answers with the last words of the prompt, the seed, and counts what it is asked."""

    asked: list[str]
    seeds: list[int]
    temperatures: list[float]
    loaded = 0
    patience: int | None = None

    def __init__(self, model, tokenizer, settings):
        self.tokenizer = tokenizer
        type(self).loaded += 1

    def batches(self, prompts, sampling, end, seed, missing):
        for index, prompt in enumerate(prompts):
            if type(self).patience is not None:
                type(self).patience -= 1
                if self.patience < 0:
                    raise KeyboardInterrupt
            text = self.tokenizer.decode(prompt)
            self.asked.append(text)
            self.seeds.append(seed)
            self.temperatures.append(sampling["temperature"])
            yield [(index, Answer(f"é:{seed}:{text[-25:]}", "stop", len(prompt), 3))]


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(engine_module, "TransformersEngine", Echo)
    Echo.asked, Echo.seeds, Echo.temperatures, Echo.loaded, Echo.patience = [], [], [], 0, None
    return Echo


@pytest.fixture
def study(tmp_path, tiny_model):
    return Study(tmp_path, tiny_model)


@pytest.fixture
def asked_of_engine(engine, monkeypatch) -> list[list[int]]:
    """The prompts that the engine is given, which answers them."""
    asked = []

    class Counted(Engine):
        tokenizer = engine.tokenizer

        def batches(self, prompts, *more):
            asked.extend(prompts)
            return engine.batches(prompts, *more)

    monkeypatch.setattr(engine_module, "TransformersEngine", lambda *_: Counted())
    return asked


def test_every_prompt_sample_and_turn_has_one_answer_in_order(study, echo):
    study.add("talk", rows_of(["One?", "Two two?"], ["And?"]), samples=2, temperature=0.5)
    study.answer("talk")
    rows = study.collect("talk")
    assert [(row["id"], row["sample"], row["turn"]) for row in rows] == [
        (name, sample, turn) for name in ("q0", "q1") for sample in (0, 1) for turn in (0, 1)
    ]
    assert read_json(study.folder / "talk.counts")["counts"] == {
        "answers": 8,
        "finished": 8,
        "prompts_cut": 0,
        "last_turns_cut": 0,
        "systems_lost": 0,
        "special_spelled": 0,
    }
    assert len(set(echo.seeds)) == 4, "every sample and turn draws by itself"
    assert read_json(study.folder / "cost.out")["tokens"] == 24


def test_a_followup_sees_the_answer_before_it(study, echo):
    study.add("talk", rows_of(["One?"], ["And then?", "Why?"]), samples=2, temperature=0.5)
    study.answer("talk")
    answers = {(row["sample"], row["turn"]): row["text"].strip() for row in study.collect("talk")}
    last = [text for text in echo.asked if "Why?" in text]
    assert len(last) == 2
    for sample, text in enumerate(last):
        said = [answers[sample, 0], answers[sample, 1]]
        tokenizer = answer.load_tokenizer(study.model)
        messages = [{"role": "user", "content": "One?"}]
        for word, followup in zip(said, ["And then?", "Why?"], strict=True):
            messages += [{"role": "assistant", "content": word}, {"role": "user", "content": followup}]
        assert text == tokenizer.decode(templates.tokenise_prompt(messages, TEMPLATE, tokenizer))


def test_rows_without_followups_are_not_asked_again(study, echo):
    study.add("talk", [*rows_of(["One?"], ["And?"]), rows_of(["a", "Two?"])[1]])
    study.answer("talk")
    assert [(row["id"], row["turn"]) for row in study.collect("talk")] == [("q0", 0), ("q0", 1), ("q1", 0)]


def test_a_raw_text_is_asked_as_it_is(study, echo):
    study.add(
        "code",
        [{"id": "0", "group": "0", "text": "Name two ", "followups": [], "reference": None, "meta": {}}],
    )
    study.answer("code")
    assert echo.asked == ["Name two "]


def test_another_prompt_set_leaves_the_first_one_s_answers_unasked(study, echo):
    study.add("one", rows_of(["One?", "Two?"]))
    first = study.answer("one")
    before = study.store("one").read_bytes()
    study.add("two", rows_of(["Three?"]))
    echo.asked.clear()
    both = study.answer("one", "two")
    assert len(echo.asked) == 1
    assert "Three?" in echo.asked[0]
    assert both["one"] == first["one"]
    assert study.store("one").read_bytes() == before
    study.add("two", rows_of(["Yes?"]))
    echo.asked.clear()
    study.answer("one", "two")
    assert len(echo.asked) == 1
    assert "Yes?" in echo.asked[0]


def test_a_set_answered_before_does_not_even_load_the_engine(study, echo):
    study.add("one", rows_of(["One?"]))
    study.answer("one")
    study.answer("one")
    assert (echo.loaded, len(echo.asked)) == (1, 1)


def test_two_sets_that_ask_the_same_with_the_same_sampling_are_answered_once(study, asked_of_engine):
    asked = asked_of_engine
    for name, sampling in {"rewards": {}, "words": {}, "warmer": {"temperature": 0.5}}.items():
        study.add(name, rows_of(QUESTIONS), **({"temperature": 1.0, "max_new_tokens": 6} | sampling))
    answered = study.answer("rewards", "words")
    assert answered["rewards"] == answered["words"]
    assert len(asked) == len(QUESTIONS)
    assert study.collect("rewards") == study.collect("words")
    both = study.answer("rewards", "words", "warmer")
    assert both["warmer"] != both["words"] == answered["words"]
    assert len(asked) == 2 * len(QUESTIONS), "other sampling is asked for itself"
    assert study.collect("warmer") != study.collect("words")
    study.answer("words")
    assert study.collect("words"), "the store of a set outlives another set that shared it"


def test_what_two_sets_ask_alike_and_do_not_draw_is_answered_once_killed_or_not(study, asked_of_engine):
    asked = asked_of_engine
    alone = ["What else is there?", "Who says so?"]
    study.add("one", rows_of(QUESTIONS), temperature=0.0, max_new_tokens=6)
    study.add("two", rows_of([*QUESTIONS, *alone]), temperature=0.0, max_new_tokens=6, batch_size=2)
    study.add("longer", rows_of(QUESTIONS), temperature=0.0, max_new_tokens=7)
    study.add("drawn", rows_of(QUESTIONS), temperature=0.5, max_new_tokens=6)
    study.answer("two")
    by_itself = study.collect("two")
    study.store("two").unlink()
    asked.clear()
    study.answer("one", "two", "longer", "drawn")
    assert len(asked) == 3 * len(QUESTIONS) + len(alone)
    assert study.collect("two") == by_itself
    first = study.store("two").read_bytes()
    assert set(study.store("one").read_bytes().splitlines()) < set(first.splitlines())
    study.store("two").write_bytes(first[: len(first) // 2])
    asked.clear()
    study.answer("one", "two", "longer", "drawn")
    assert len(asked) <= len(alone)
    assert study.store("two").read_bytes() == first


@pytest.mark.parametrize("change", ["seed", "sampling", "template", "weights", "code"])
def test_what_answers_depend_on_has_them_made_anew_and_the_old_ones_removed(study, echo, monkeypatch, change):
    study.add("one", rows_of(["One?"]))
    study.answer("one")
    if change == "sampling":
        study.add("one", rows_of(["One?"]), temperature=0.5)
    if change == "weights":
        write_json(study.folder / "model.json", {"files": {"weights": "2"}})
    if change == "code":
        monkeypatch.setattr(answer, "code_of", lambda *modules: dict.fromkeys(modules, "edited"))
    template = {"template": TEMPLATE | {"start": ""}} if change == "template" else {}
    study.answer("one", seed=2 if change == "seed" else 1, **template)
    assert len(echo.asked) == 2
    left = {path.name.split(".")[0] for path in (study.folder / "work").iterdir()}
    assert len(left) == 1, "of what was answered before neither answers nor costs are left"


@pytest.mark.parametrize("cut", [0, 1, 30, "inside a character", "after the line"])
def test_a_store_cut_short_by_a_kill_is_mended(study, echo, cut):
    study.add("talk", rows_of(QUESTIONS, ["And?"]), samples=2)
    study.answer("talk")
    unbroken = study.collect("talk")
    whole, store = study.store("talk").read_bytes(), study.store("talk")
    lines = whole.splitlines(keepends=True)
    kept = b"".join(lines[:7])
    if cut == "inside a character":
        kept += lines[7][: lines[7].index("é".encode()) + 1]
    elif cut == "after the line":
        kept += lines[7][:-1]  # all but the newline: it may be whole, but nothing says so
    else:
        kept += lines[7][:cut]
    store.write_bytes(kept)
    echo.asked.clear()
    study.answer("talk")
    assert store.read_bytes() == whole
    assert study.collect("talk") == unbroken
    assert len(echo.asked) < len(unbroken)


@pytest.mark.parametrize("answers", [0, 3, 7, 12])
def test_an_interrupted_run_goes_on_to_the_same_answers(study, echo, answers):
    study.add("talk", rows_of(QUESTIONS, ["And?"]), samples=2, temperature=0.5)
    echo.patience = answers
    with pytest.raises(KeyboardInterrupt):
        study.answer("talk")
    assert not (study.folder / "answered.out").exists()
    stored = [line for path in (study.folder / "work").iterdir() for line in path.read_text().splitlines()]
    assert len(stored) == answers
    echo.patience = None
    study.answer("talk")
    resumed = study.collect("talk")
    study.answer("talk", seed=2)
    study.answer("talk")  # afresh: seed 2 removed the store
    assert study.collect("talk") == resumed


def test_a_resumed_run_of_the_real_engine_draws_the_same_answers(study, engine, monkeypatch):
    study.add(
        "talk", rows_of(QUESTIONS, ["And?"]), samples=2, temperature=1.0, batch_size=2, max_new_tokens=6
    )
    monkeypatch.setattr(engine_module, "TransformersEngine", lambda *_: engine)
    study.answer("talk")
    unbroken = study.collect("talk")
    assert len({row["text"] for row in unbroken}) > 10
    by_sample = [[row["text"] for row in unbroken if row["sample"] == sample] for sample in (0, 1)]
    assert by_sample[0] != by_sample[1]
    store = study.store("talk")
    for kept in (0.2, 0.5, 0.9):
        whole = store.read_bytes()
        store.write_bytes(whole[: int(len(whole) * kept)])
        study.answer("talk")
        assert study.collect("talk") == unbroken


def rows_at(temperatures, followups=()):
    rows = rows_of(QUESTIONS[: len(temperatures)], followups)
    return [
        row if temperature is None else row | {"temperature": temperature}
        for row, temperature in zip(rows, temperatures, strict=True)
    ]


def test_a_row_s_own_temperature_goes_before_the_set_s(study, echo):
    study.add("talk", rows_at([0.7, None, 0.0, 0.7], ["And?"]), samples=2, temperature=0.3)
    study.answer("talk")
    asked = list(zip(echo.asked, echo.temperatures, strict=True))
    expected = [0.7, 0.3, 0.0, 0.7]
    for question, temperature in zip(QUESTIONS, expected, strict=False):
        found = [at for text, at in asked if f": {question}" in text]
        often = 4 if temperature else 2  # what is not drawn is asked once, however many samples there are
        assert found == [temperature] * often, question
    rows = study.collect("talk")
    assert [row["id"] for row in rows] == [f"q{number}" for number in range(4) for _ in range(4)]


def test_temperatures_of_one_round_are_drawn_apart_and_rows_of_one_together(study, echo):
    study.add("talk", rows_at([0.7, 0.1, 0.7, 0.1]), samples=2)
    study.answer("talk")
    drawn = list(zip(echo.temperatures, echo.seeds, strict=True))
    assert [at for at, _ in drawn] == [0.1, 0.1, 0.7, 0.7] * 2
    assert len(set(drawn)) == len({seed for _, seed in drawn}) == 4


def test_a_temperature_that_all_rows_share_draws_as_the_set_s_own_does(study, echo):
    study.add("own", rows_at([0.7, 0.7], ["And?"]), samples=2)
    study.add("set", rows_of(QUESTIONS[:2], ["And?"]), samples=2, temperature=0.7)
    study.answer("own", "set")
    assert study.collect("own") == study.collect("set")
    assert set(echo.temperatures) == {0.7}


def test_a_greedy_row_answers_beside_warm_ones_as_it_does_alone(study, engine, monkeypatch):
    monkeypatch.setattr(engine_module, "TransformersEngine", lambda *_: engine)
    study.add("mixed", rows_at([0.0, 1.0, 0.0, 1.0, 0.0]), max_new_tokens=6)
    study.add("greedy", rows_of(QUESTIONS), max_new_tokens=6)
    study.answer("mixed", "greedy")
    mixed, greedy = study.collect("mixed"), study.collect("greedy")
    assert mixed[::2] == greedy[::2]
    assert mixed[1::2] != greedy[1::2]


@pytest.mark.parametrize("kept", [0.1, 0.4, 0.8])
def test_a_resumed_run_of_several_temperatures_draws_the_same_answers(study, engine, monkeypatch, kept):
    rows = rows_at([1.0, 0.0, 2.0, 1.0, 2.0], ["And?"])
    study.add("talk", rows, samples=2, batch_size=2, max_new_tokens=4)
    monkeypatch.setattr(engine_module, "TransformersEngine", lambda *_: engine)
    study.answer("talk")
    unbroken, store = study.collect("talk"), study.store("talk")
    whole = store.read_bytes()
    store.write_bytes(whole[: int(len(whole) * kept)])
    study.answer("talk")
    assert study.collect("talk") == unbroken


def test_a_prompt_longer_than_the_context_keeps_its_header_loses_its_start_and_says_so(study, echo, capsys):
    tokenizer = answer.load_tokenizer(study.model)
    study.add("long", rows_of(["Yes?", "Name two gases. " * 20]))
    study.answer("long", context=40)
    short, long = study.collect("long")
    assert "prompt_tokens_cut" not in short
    room = 40 - GREEDY["max_new_tokens"]
    messages = [{"role": "user", "content": "Name two gases. " * 20}]
    whole = templates.tokenise_prompt(messages, TEMPLATE, tokenizer)
    assert long["prompt_tokens"] <= room < long["prompt_tokens"] + 4
    assert long["prompt_tokens_cut"] == len(whole) - long["prompt_tokens"]
    assert long["last_turn_cut"] is True
    header, text, end = "<s>Student: ", "Name two gases. " * 20, "\n\nTutorbot:"
    assert echo.asked[1].startswith(header) and echo.asked[1].endswith(end)
    assert text.strip().endswith(echo.asked[1].removeprefix(header).removesuffix(end))
    counts = read_json(study.folder / "long.counts")["counts"]
    assert (counts["prompts_cut"], counts["last_turns_cut"], counts["systems_lost"]) == (1, 1, 0)
    assert "prompts of long: 1 of 2 rows cut: 1 prompt cut at the start" in capsys.readouterr().err


def test_a_dialogue_longer_than_the_context_loses_its_oldest_exchanges_and_keeps_its_last_turn(study, echo):
    row = {
        "id": "q",
        "group": "q",
        "messages": [{"role": "system", "content": "Tutor the student."}],
        "followups": [],
    }
    for said in ("One?", "Two two?", "Three?"):
        row["messages"] += [{"role": "user", "content": said}, {"role": "assistant", "content": "Yes"}]
    row["messages"].pop()
    study.add("long", [row])
    whole = len(templates.tokenise_prompt(row["messages"], TEMPLATE, answer.load_tokenizer(study.model)))
    study.answer("long", context=whole - 1 + GREEDY["max_new_tokens"])
    (found,) = study.collect("long")
    assert echo.asked == [
        "<s>System: Tutor the student.\nStudent: Two two?\n\nTutorbot: Yes</s>\nStudent: Three?\n\nTutorbot:"
    ]
    assert "last_turn_cut" not in found
    assert read_json(study.folder / "long.counts")["counts"]["prompts_cut"] == 1


def test_prompts_that_spell_the_end_of_a_turn_are_counted_and_said(study, echo, capsys):
    study.add("marks", rows_of(["What is </s>?", "Is Why? an end?", "One?"], ["And </s>?"]), samples=2)
    study.answer("marks")
    study.collect("marks")
    assert read_json(study.folder / "marks.counts")["counts"]["special_spelled"] == 12
    said = capsys.readouterr().err
    assert "marks: 3 prompts spell a special token; it is asked as plain text" in said


def test_a_context_filled_by_new_tokens_is_an_error(study, echo):
    study.add("one", rows_of(["One?"]))
    with pytest.raises(PlumblineError, match="max_new_tokens 12 fills the context of 12"):
        study.answer("one", context=12)


def test_collect_says_what_to_do_when_the_store_is_gone_or_short(study, echo):
    study.add("one", rows_of(["One?", "Two?"]))
    study.answer("one")
    store = study.store("one", "answers")
    lines = store.read_text().splitlines(keepends=True)
    store.write_text(lines[0])
    with pytest.raises(PlumblineError, match=r"1 answers, 2 are owed; delete .*answered\.out"):
        study.collect("one")
    store.unlink()
    with pytest.raises(PlumblineError, match=r"are gone; delete .*answered\.out and run again"):
        study.collect("one")
    study.add("never", rows_of(["One?"]))
    with pytest.raises(PlumblineError, match="are gone"):
        study.collect("never")


# Prompt sets and calibration.


def test_answers_that_were_fetched_are_gone_on_from(study, echo):
    study.add("one", rows_of(["One?", "Two?"]))
    study.answer("one")
    study.store("one").unlink()  # as if answered by somebody else
    study.collect("one")
    study.add("two", rows_of(["Three?"]))
    echo.asked.clear()
    study.answer("one", "two")
    assert [text for text in echo.asked if "Three?" in text] == echo.asked != []


def build(tmp_path, kind, rows, *more, **sampling):
    write_jsonl(tmp_path / "input.jsonl", rows)
    return build_from(tmp_path / "input.jsonl", tmp_path, kind, *more, **sampling)


def build_from(file, tmp_path, kind, *more, **sampling):
    drawn = {key: WARM[key] for key in WARM if key != "stop"} | {"temperatures": []} | sampling
    flags = {"kind": kind, "input": file, "sampling": json.dumps(drawn)}
    flags |= {"output": tmp_path / "set.jsonl", "manifest": tmp_path / "set.json"}
    call_named(prompts.main, flags, *more)
    return read_jsonl(tmp_path / "set.jsonl")


CONVERSATION = {
    "id": "1:x",
    "group": "g",
    "messages": [
        {"role": "system", "content": "s"},
        *({"role": role, "content": f"{role}{turn}"} for turn in range(3) for role in ("user", "assistant")),
    ],
    "meta": {},
}


@pytest.mark.parametrize(("history", "sizes"), [([], [2, 4, 6]), (["--history", "1"], [2, 4, 4])])
def test_a_tutor_turn_is_a_prompt_with_its_gold_reply(tmp_path, history, sizes):
    rows = build(tmp_path, "turns", [CONVERSATION], *history)
    assert [row["id"] for row in rows] == ["1:x#0", "1:x#1", "1:x#2"]
    assert [row["reference"] for row in rows] == [["assistant0"], ["assistant1"], ["assistant2"]]
    assert [len(row["messages"]) for row in rows] == sizes
    assert len(build(tmp_path, "turns", [CONVERSATION], "--limit", "2")) == 2
    assert read_json(tmp_path / "set.json")["sampling"] == WARM


def test_humaneval_stops_where_a_function_ends(tmp_path):
    problem = {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "    pass\n"}
    rows = build(tmp_path, "humaneval", [problem])
    assert rows[0]["text"] == problem["prompt"]
    assert read_json(tmp_path / "set.json")["sampling"]["stop"] == [
        "\nclass",
        "\ndef",
        "\n#",
        "\nif",
        "\nprint",
    ]


def test_mt_bench_asks_its_second_turn_afterwards(tmp_path):
    question = {"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."]}
    row = build(tmp_path, "mt_bench", [question])[0]
    assert (row["id"], row["messages"][0]["content"], row["followups"]) == ("81", "Write.", ["Rewrite."])
    assert row["reference"] is None


CATEGORIES = ["writing", "math", "stem"]
TALKS = [
    {"question_id": 81 + number, "category": category, "turns": ["a", "b"], "reference": ["own", ""]}
    for number, category in enumerate(CATEGORIES * 2)
]


def test_mt_bench_questions_have_their_category_s_temperature_and_others_the_set_s(tmp_path):
    rows = build(tmp_path, "mt_bench", TALKS, temperatures={"writing": 0.7, "math": 0})
    assert [row.get("temperature") for row in rows] == [0.7, 0, None] * 2
    assert "temperatures" not in read_json(tmp_path / "set.json")["sampling"]
    cut = build(tmp_path, "mt_bench", TALKS, "--limit", "1", temperatures={"writing": 0.7, "math": 0})
    assert cut == rows[:1], "a category that only the cut rows have is no mistake"
    with pytest.raises(PlumblineError, match=r"no question of .*input\.jsonl is in category maths"):
        build(tmp_path, "mt_bench", TALKS, temperatures={"maths": 0})


def test_mt_bench_takes_its_references_from_fastchat_s_file_alone(tmp_path):
    given = [{"question_id": 82, "choices": [{"index": 0, "turns": ["4", "5"]}]}]
    given.append(
        {"question_id": 999, "choices": [{"index": 0, "turns": ["of a question that was left out"]}]}
    )
    write_jsonl(tmp_path / "answers.jsonl", given)
    rows = build(tmp_path, "mt_bench", TALKS, "--references", str(tmp_path / "answers.jsonl"))
    assert [row["reference"] for row in rows] == [None, ["4", "5"], None, None, None, None]
    assert [row["reference"] for row in build(tmp_path, "mt_bench", TALKS)] == [["own", ""]] * 6


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([{"question_id": 82, "choices": [{"turns": ["4"]}]}], "answers 1 turns of question 82, which has 2"),
        ([{"question_id": 7, "choices": [{"turns": ["4"]}]}], "answers none of the questions"),
        ([{"question_id": 82}], "row 1 has no 'choices'"),
    ],
)
def test_references_to_other_questions_are_refused(tmp_path, answers, message):
    write_jsonl(tmp_path / "answers.jsonl", answers)
    with pytest.raises(PlumblineError, match=message):
        build(tmp_path, "mt_bench", TALKS, "--references", str(tmp_path / "answers.jsonl"))


def test_a_json_list_of_instructions_makes_the_same_set_as_json_lines(tmp_path):
    rows = [{"instruction": f"q{number}", "output": "a", "dataset": "koala"} for number in range(3)]
    lines = build(tmp_path, "alpaca_eval", rows)
    manifest = (tmp_path / "set.json").read_bytes()
    write_json(tmp_path / "outputs.json", rows)
    assert build_from(tmp_path / "outputs.json", tmp_path, "alpaca_eval") == lines
    assert (tmp_path / "set.json").read_bytes() == manifest
    assert [row["id"] for row in lines] == ["0", "1", "2"]
    write_json(tmp_path / "outputs.json", {"rows": rows})
    with pytest.raises(PlumblineError, match="a list of rows is needed, not one dict"):
        build_from(tmp_path / "outputs.json", tmp_path, "alpaca_eval")


INSTRUCTIONS = [{"instruction": word, "output": f"own {word}", "dataset": "koala"} for word in ("a", "b")]


def judgement(instruction, reference):
    return {"instruction": instruction, "output_1": reference, "output_2": "a model's", "preference": 1}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_alpaca_eval_takes_its_references_from_most_of_the_stored_judgements(tmp_path, suffix):
    given = [("b", "odd"), ("a", "A"), ("b", "B"), ("c", "unasked"), ("b", "B"), ("a", "tied with A")]
    (write_json if suffix == "json" else write_jsonl)(
        tmp_path / f"judged.{suffix}", [judgement(*each) for each in given]
    )
    flags = ("--references", str(tmp_path / f"judged.{suffix}"))
    rows = build(tmp_path, "alpaca_eval", INSTRUCTIONS, *flags)
    assert [row["reference"] for row in rows] == [["A"], ["B"]]
    own = build(tmp_path, "alpaca_eval", INSTRUCTIONS)
    assert [row["reference"] for row in own] == [["own a"], ["own b"]]
    assert [row | {"reference": None} for row in rows] == [row | {"reference": None} for row in own]
    bare = [{"instruction": row["instruction"]} for row in INSTRUCTIONS]
    asked = build(tmp_path, "alpaca_eval", bare, *flags)
    assert [row["reference"] for row in asked] == [["A"], ["B"]]


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        ([judgement("a", "A")], "no judgement of the instruction in row 2 of "),
        ([judgement("a", "A"), {"instruction": "b"}], r"judged\.jsonl: row 2 has no 'output_1'"),
        ([judgement("a", "A"), {"output_1": "B"}], r"judged\.jsonl: row 2 has no 'instruction'"),
    ],
)
def test_judgements_that_leave_an_instruction_without_a_reference_are_refused(tmp_path, judged, message):
    write_jsonl(tmp_path / "judged.jsonl", judged)
    with pytest.raises(PlumblineError, match=message):
        build(tmp_path, "alpaca_eval", INSTRUCTIONS, "--references", str(tmp_path / "judged.jsonl"))
    assert not (tmp_path / "set.json").exists()


FUNCTIONS = [
    {"task_id": f"HumanEval/{number}", "prompt": "def f():\n", "canonical_solution": "    pass\n"}
    for number in range(3)
]


def test_each_problem_is_asked_once_at_each_of_several_temperatures(tmp_path):
    rows = build(tmp_path, "humaneval", FUNCTIONS, "--limit", "2", temperatures=[0.1, 0.7])
    assert [row["id"] for row in rows] == [f"HumanEval/{n}@{t}" for n in (0, 1) for t in (0.1, 0.7)]
    assert [row["group"] for row in rows] == [f"HumanEval/{n}" for n in (0, 0, 1, 1)]
    assert [row["temperature"] for row in rows] == [row["meta"]["temperature"] for row in rows]
    assert [row["temperature"] for row in rows] == [0.1, 0.7] * 2
    assert len({row["text"] for row in rows}) == 1
    with pytest.raises(PlumblineError, match="ids repeat"):
        build(tmp_path, "humaneval", FUNCTIONS, temperatures=[0.1, 0.10])


@pytest.mark.parametrize(("given", "temperature"), [([], 1.0), ({}, 1.0), ([0.7], 0.7)])
def test_no_list_of_temperatures_or_one_alone_leaves_the_prompt_set_as_it_was(tmp_path, given, temperature):
    build(tmp_path, "humaneval", FUNCTIONS, temperature=temperature)
    before = [(tmp_path / name).read_bytes() for name in ("set.jsonl", "set.json")]
    build(tmp_path, "humaneval", FUNCTIONS, temperatures=given)
    assert [(tmp_path / name).read_bytes() for name in ("set.jsonl", "set.json")] == before


TASKS = [
    {
        "task_id": task,
        "text": f"Do {task}. ",
        "code": f"def f():\r\n    return {task}\r\n",
        "test_list": [f"assert f() == {task}", "assert f"],
    }
    for task in (2, 10, 11, 510, 511)
]


def test_mbpp_asks_the_test_problems_after_the_solved_ones(tmp_path):
    rows = build(tmp_path, "mbpp", TASKS, "--shots", "10", "2")
    assert [(row["id"], row["group"]) for row in rows] == [(f"MBPP/{task}",) * 2 for task in (11, 510)]
    solved = [
        f"Your task: Do {task}.\nYour code must pass:\nassert f() == {task}\nassert f\n[BEGIN]\n"
        f"def f():\n    return {task}\n[DONE]\n\n"
        for task in (10, 2)
    ]
    asked = "Your task: Do 11.\nYour code must pass:\nassert f() == 11\nassert f\n[BEGIN]\n"
    opening = "You are an expert Python programmer. "
    assert rows[0]["text"] == "".join(opening + part for part in [*solved, asked])
    assert rows[0]["reference"] == ["def f():\n    return 11"]
    assert "[DONE]" in read_json(tmp_path / "set.json")["sampling"]["stop"]


def test_mbpp_shows_nothing_unasked_and_never_asks_what_it_shows(tmp_path):
    plain = build(tmp_path, "mbpp", TASKS)
    assert [row["id"] for row in plain] == ["MBPP/11", "MBPP/510"]
    assert plain[0]["text"].count("[BEGIN]") == 1
    shown = build(tmp_path, "mbpp", TASKS, "--shots", "11")
    assert [row["id"] for row in shown] == ["MBPP/510"]
    with pytest.raises(PlumblineError, match="no task 3, 4 to show solved"):
        build(tmp_path, "mbpp", TASKS, "--shots", "2", "3", "4")


def test_mbpp_reads_requests_and_the_sanitised_rows_alike(tmp_path):
    plain = build(tmp_path, "mbpp", TASKS)
    assert build(tmp_path, "mbpp", [{"doc": row, "idx": 0} for row in TASKS]) == plain
    sanitised = [{("prompt" if key == "text" else key): value for key, value in row.items()} for row in TASKS]
    assert build(tmp_path, "mbpp", sanitised) == plain


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("mbpp", [TASKS[2] | {"task_id": "x"}], "row 1: task_id 'x' is no number"),
        ("mbpp", [TASKS[2], TASKS[2]], "ids repeat"),
        ("mbpp", TASKS[:2], "holds no prompts"),
        ("mbpp", [{"task_id": 11, "text": "a", "code": "b"}], "row 1 has no 'test_list'"),
        ("humaneval", [{"task_id": "a", "prompt": "p"}], "row 1 has no 'canonical_solution'"),
        ("mt_bench", [{"question_id": 1, "turns": ["a"]}], "row 1 has no 'category'"),
        ("alpaca_eval", [{"instruction": "a", "output": "b"}, {"instruction": "a"}], "row 2 has no 'output'"),
        ("turns", [], "holds no prompts"),
        ("turns", [CONVERSATION, CONVERSATION], "ids repeat"),
    ],
)
def test_a_file_that_makes_no_prompt_set_is_named(tmp_path, kind, rows, message):
    with pytest.raises(PlumblineError, match=message):
        build(tmp_path, kind, rows)
    assert not (tmp_path / "set.json").exists()


def test_gold_gives_every_reference_and_empty_says_nothing(tmp_path):
    rows = rows_of(["a", "b"], ["c"])
    rows[0]["reference"] = ["first", "second"]
    write_jsonl(tmp_path / "set.jsonl", rows)
    write_json(tmp_path / "set.json", {"sampling": {"samples": 2}})
    texts = {}
    for policy in ("gold", "empty"):
        flags = {"policy": policy, "prompts": tmp_path / "set.json"}
        call_named(calibrate.main, flags | {"output": tmp_path / "out", "manifest": tmp_path / "manifest"})
        found = read_jsonl(tmp_path / "out")
        assert len({(row["id"], row["sample"], row["turn"]) for row in found}) == len(found) == 8
        texts[policy] = [row["text"] for row in found]
    assert texts == {"gold": ["first", "second"] * 2 + [""] * 4, "empty": [""] * 8}


def test_a_limit_takes_mt_bench_questions_from_the_categories_in_turn():
    rows = [{"id": str(n), "meta": {"category": category}} for n, category in enumerate("aaabbc")]
    assert [row["id"] for row in prompts.in_turn(rows)] == ["0", "3", "5", "1", "4", "2"]
