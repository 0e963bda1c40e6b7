"""Rewards: each rule and each text by hand, classifiers by their own numbers, kept scores, and the reward benchmark."""

import json
import math
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from tests.reward_settings import given_reward, rule_reward
from workflow_scripts.annotate import annotate as annotate_module
from workflow_scripts.common import classifiers as loaders
from workflow_scripts.common import reward_columns
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, sha256_of, write_jsonl, write_manifest
from workflow_scripts.common.reward_columns import provenance, reward_function, reward_rows, weights_of
from workflow_scripts.common.reward_rules import json_validity, length_reward, tfidf_diversity, withholds
from workflow_scripts.common.reward_texts import NAMES, TEXTS
from workflow_scripts.common.templates import Rendered
from workflow_scripts.common.text_measures import distinct
from workflow_scripts.report.statistics.cells import read_cell
from workflow_scripts.report.statistics.estimators import point_estimate
from workflow_scripts.score import reward_scores as score_module
from workflow_scripts.score.reward_scores import score

# Rules.


def test_json_validity_by_hand():
    replies = ['{"a": 1}', " [1]\n", "{'a': 1}", "", "so", '{"a": 1', "[" * 100_000]
    assert json_validity(replies).tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_length_by_hand():
    replies = ["", "one", " one  two\nthree ", "a b c d", "a b c d e f g h"]
    assert length_reward(replies, 4).tolist() == [0, 0.25, 0.75, 1, 1]


FIT_ON = ["the cat sat", "the dog sat down", "a cat and the dog ran"]


def diversity_by_formula(reply, fit_on):
    """Return it from tf, smoothed idf = ln((1 + n) / (1 + df)) + 1 and the l2 norm, without sklearn."""
    texts = [[word for word in text.lower().split() if len(word) > 1] for text in fit_on]
    known = {word for text in texts for word in text}
    counts = Counter(word for word in reply.lower().split() if word in known)
    if not counts:
        return 0.0
    frequency = {word: sum(word in text for text in texts) for word in counts}
    values = [n * (math.log((1 + len(texts)) / (1 + frequency[word])) + 1) for word, n in counts.items()]
    norm = math.sqrt(sum(value**2 for value in values))
    mean = sum(values) / norm / len(values)
    return mean * len(values) / 10 if len(values) < 5 else mean


@pytest.mark.parametrize(
    "reply",
    [
        "the cat sat",
        "The the CAT",
        "the cat and dog",
        "the cat and dog ran",
        "the cat and the dog sat down and ran and ran",
        "cat",
        "nothing of it known",
        "",
    ],
)
def test_diversity_is_the_mean_of_the_non_zero_values_and_less_for_few_words(reply):
    found = tfidf_diversity([reply], FIT_ON)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(diversity_by_formula(reply, FIT_ON), abs=1e-12)


def test_diversity_equals_counts_and_weights_of_the_library():
    replies = ["the cat sat", "the cat and the dog ran and ran", "unknown"]
    counts = CountVectorizer().fit(FIT_ON)
    weights = TfidfTransformer().fit(counts.transform(FIT_ON))
    expected = []
    for row in weights.transform(counts.transform(replies)).toarray():
        present = row[row > 0]
        factor = len(present) / 10 if len(present) < 5 else 1.0
        expected.append(present.mean() * factor if len(present) else 0.0)
    np.testing.assert_allclose(tfidf_diversity(replies, FIT_ON), expected, rtol=1e-12)


def test_four_words_are_discounted_and_five_are_not():
    # Words that are all equally rare have the value 1 / sqrt(n) each.
    fit_on = ["aa bb cc dd ee"]
    four, five = tfidf_diversity(["aa bb cc dd", "aa bb cc dd ee"], fit_on)
    assert four == pytest.approx(0.5 * 0.4)
    assert five == pytest.approx(1 / math.sqrt(5))


def test_weights_cannot_be_fitted_on_replies_without_words():
    with pytest.raises(PlumblineError, match="2 replies to fit on hold no word; choose another fit_split"):
        tfidf_diversity(["the"], ["", "a"])


# The columns.


def turn(reply, at=0, messages=({"role": "user", "content": "Hi"},), **more):
    return {
        "id": f"r{at}",
        "group": "g",
        "messages": list(messages),
        "reference": reply,
        "meta": {"turn": 0},
    } | more


def turns(*replies):
    return [turn(reply, at) for at, reply in enumerate(replies)]


REWARDS = {
    "valid": rule_reward("json_validity", weight=2.0),
    "length": rule_reward("length", words=4, weight=-0.5),
    "diversity": rule_reward("tfidf_diversity", weight=1.0),
}


def test_withholding_a_solution_is_rewarded_and_saying_it_is_not():
    def turn(reply, solutions, place=1):
        return {"id": "r", "reference": reply, "meta": {"turn": place, "solutions": solutions}}

    turns = [
        turn("Look at the Cell, wall!", [None, "cell wall"]),
        turn("Look at the wall.", [None, "cell wall"]),
        turn("cell wall", [None, None]),
        turn("cell wall", [None, "cell wall"], place=2),
    ]
    assert withholds(turns).tolist() == [0.0, 1.0, 1.0, 1.0]
    with pytest.raises(PlumblineError, match="bring no solutions"):
        withholds([{"id": "r", "reference": "x", "meta": {"turn": 0}}])


def test_the_final_reward_is_the_weighted_sum():
    replies = ['"the cat"', "the cat sat down", "unknown"]
    rows = reward_rows(turns(*replies), FIT_ON, REWARDS)
    for row, reply in zip(rows, replies, strict=True):
        found = row["rewards"]
        assert list(found) == ["valid", "length", "diversity", "final_reward"]
        by_hand = tfidf_diversity([reply], FIT_ON)[0]
        expected = 2.0 * (reply[0] == '"') - 0.5 * min(1, len(reply.split()) / 4) + by_hand
        assert found["final_reward"] == pytest.approx(expected, abs=2e-6)
        total = sum(REWARDS[name]["weight"] * found[name] for name in REWARDS)
        assert found["final_reward"] == pytest.approx(total, abs=1e-6)
    assert [row["reference"] for row in rows] == replies
    assert {key: rows[0][key] for key in turns("")[0]} == turns(replies[0])[0]


def test_with_weights_of_one_the_final_reward_is_the_plain_sum():
    plain = {name: part | {"weight": 1.0} for name, part in REWARDS.items()}
    for row in reward_rows(turns('"the cat"', "the cat sat down"), FIT_ON, plain):
        parts = [value for name, value in row["rewards"].items() if name != "final_reward"]
        assert row["rewards"]["final_reward"] == pytest.approx(sum(parts), abs=1e-6)
        assert sum(parts) > 1


def test_a_function_of_turns_alone_gives_what_all_at_once_gives():
    rewarded = reward_function(FIT_ON, REWARDS)
    rows = turns('"the cat"', "the cat sat down", "unknown")
    assert [*rewarded(rows[:1]), *rewarded([]), *rewarded(rows[1:])] == reward_rows(rows, FIT_ON, REWARDS)
    assert reward_rows([], FIT_ON, REWARDS) == []


def test_given_rewards_are_taken_from_the_row_and_squashed_if_so_set():
    rows = [turn("a", 0, given={"rm": 1.5, "depth": 2}), turn("b", 1, given={"rm": -800.0, "depth": 0})]
    parts = {"rm": given_reward("rm", squash="sigmoid"), "raw": given_reward("rm")}
    parts["deep"] = given_reward("depth", squash="none", weight=3)
    first, second = (row["rewards"] for row in reward_rows(rows, FIT_ON, parts))
    sigma = 1 / (1 + math.exp(-1.5))
    assert first == pytest.approx({"rm": sigma, "raw": 1.5, "deep": 2, "final_reward": sigma + 7.5}, abs=1e-6)
    assert second == {"rm": 0, "raw": -800, "deep": 0, "final_reward": -800}


@pytest.mark.parametrize(
    ("brought", "message"),
    [
        ({"given": {"other": 1.0}}, r"reward hh: row r1: no given 'rm' \(it brings other\)"),
        ({}, r"reward hh: row r1: no given 'rm' \(it brings no rewards\)"),
        ({"given": {"rm": math.nan}}, "reward hh: row r1: given 'rm' is nan"),
        ({"given": {"rm": math.inf}}, "reward hh: row r1: given 'rm' is inf"),
        ({"given": {"rm": None}}, "reward hh: row r1: given 'rm' is None"),
        ({"given": {"rm": "0.5"}}, "reward hh: row r1: given 'rm' is '0.5'"),
        ({"given": {"rm": True}}, "reward hh: row r1: given 'rm' is True"),
    ],
)
def test_a_row_without_its_given_reward_is_named_with_the_column(brought, message):
    rows = [turn("a", 0, given={"rm": 0.5}), turn("b", 1, **brought)]
    with pytest.raises(PlumblineError, match=message):
        reward_rows(rows, FIT_ON, {"hh": given_reward("rm", squash="sigmoid")})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused_with_row_and_name(monkeypatch, value):
    monkeypatch.setattr(reward_columns, "classifier_column", lambda *_: lambda rows: np.array([0.5, value]))
    parts = REWARDS | {"model": {"folder": "x", "weight": 0.0}}
    with pytest.raises(PlumblineError, match=r"row r1: reward model is -?(nan|inf)"):
        reward_rows(turns("a", "b"), FIT_ON, parts)


# What classifiers read.

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " How do I boil an egg?"},
    {"role": "assistant", "content": "In water.\n"},
    {"role": "user", "content": "How long?"},
    {"role": "assistant", "content": "Soft or hard?"},
    {"role": "user", "content": "Hard"},
]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "dialogue",
            "User: How do I boil an egg?\nAssistant: Soft or hard?\nUser: Hard\nAssistant: Ten minutes.<eos>",
        ),
        ("reply", "Ten minutes."),
        (
            "context",
            "How do I boil an egg?<eos>In water.<eos>How long?<eos>Soft or hard?<eos>Hard<eos>Ten minutes.",
        ),
        (
            "oasst",
            "<|prompter|>How do I boil an egg?<eos><|assistant|>In water.<eos><|prompter|>How long?<eos>"
            "<|assistant|>Soft or hard?<eos><|prompter|>Hard<eos><|assistant|>Ten minutes.<eos>",
        ),
        ("knowledge", ("Eggs set at 62 degrees.", "Ten minutes.")),
    ],
)
def test_texts_by_hand(form, expected):
    row = turn(" Ten minutes.\n", messages=TALK, meta={"knowledge": "Eggs set at 62 degrees. "})
    text = TEXTS[form](row, "<eos>")
    assert (text.text if isinstance(text, Rendered) else text) == expected


@pytest.mark.parametrize("form", ["dialogue", "context", "oasst"])
def test_of_a_text_it_is_known_what_somebody_said(form):
    text, spans = TEXTS[form](turn(" Ten <eos> minutes.\n", messages=TALK), "<eos>")
    assert [text[slice(*span.said)] for span in spans][-3:] == ["Soft or hard?", "Hard", "Ten <eos> minutes."]


def test_knowledge_that_a_row_lacks_is_named():
    with pytest.raises(PlumblineError, match="row r0: its meta has no 'knowledge'"):
        TEXTS["knowledge"](turn("a"), "")


def event(
    name, head="PersonX meets PersonY", relation="xWant", tail="to greet PersonY and PersonZ", asked="Hi"
):
    meta = {"head": head, "relation": relation} if head else {}
    return TEXTS["event"](
        turn(tail, messages=[{"role": "user", "content": asked}]) | {"id": name, "meta": meta}, ""
    )


def test_an_event_is_a_sentence_and_its_consequence_with_names():
    met = "PersonX meets PersonY"
    people = []
    for name in map(str, range(200)):
        head, tail = event(name)
        x, middle, y = head.partition(" meets ")
        assert middle and tail.startswith(f"as a result, {x} wants to greet {y} and ")
        z = tail.removeprefix(f"as a result, {x} wants to greet {y} and ")
        assert len({x, y, z}) == 3 and {x, y, z} <= set(NAMES)
        people.append((x, y, z))
        assert event(name) == (head, tail), "a row always gets the same names"
    assert len(set(people)) > 190
    asked = f"<head> {met} </head> <relation> xWant </relation> [GEN] "
    assert event("7", head=None, asked=asked) == event("7")
    assert event("7", head="It rains", relation="is followed by", tail=" sun ") == (
        "It rains",
        "is followed by sun",
    )


def test_the_names_of_a_row_are_the_same_in_every_process():
    # Python's own hash of a text differs from process to process.
    greeting = "as a result, Robert wants to greet Emma and Julia"
    assert event("COMET-17") == ("Robert meets Emma", greeting)


def test_a_row_without_an_event_is_named():
    with pytest.raises(PlumblineError, match="row r9: no event"):
        event("r9", head=None, asked="What does PersonX want?")


# Classifiers.

WORDS = "User Assistant : Hi a cell is box of life good bad the what you are kind rude . ?".split()


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Return {"one", "three", "critic", "offensive": folder} of tiny random classifiers."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2Model,
        LlamaConfig,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
        RobertaConfig,
        RobertaModel,
    )

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=60,
    )
    llama = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama |= {"vocab_size": len(vocabulary), "pad_token_id": 1, "initializer_range": 0.5}
    roberta = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    gpt2 = GPT2Config(
        vocab_size=len(vocabulary),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=64,
        eos_token_id=2,
        bos_token_id=2,
    )
    models_of = {
        "one": LlamaForSequenceClassification(LlamaConfig(**llama, num_labels=1)),
        "three": LlamaForSequenceClassification(LlamaConfig(**llama, num_labels=3)),
        "critic": RobertaModel(roberta, add_pooling_layer=False),
        "offensive": GPT2Model(gpt2),
    }
    folders = {}
    for name, model in models_of.items():
        folders[name] = tmp_path_factory.mktemp(name) / "model"
        model.save_pretrained(folders[name])
        fast.save_pretrained(folders[name])
    draw = torch.randn
    head = {"dense.weight": draw(8, 16), "dense.bias": draw(8), "out.weight": draw(1, 8), "out.bias": draw(1)}
    save_file(head, folders["critic"] / "head.safetensors")
    save_file({"out.weight": draw(2, 16), "out.bias": draw(2)}, folders["offensive"] / "head.safetensors")
    return folders


def part(folder, **changed):
    return {
        "model": None,
        "source": None,
        "folder": str(folder),
        "weight": 1.0,
        "squash": "none",
        "label": None,
        "text": "dialogue",
        "head": "sequence",
        "max_tokens": 60,
        "batch_size": 2,
    } | changed


def alone(folder, text, head="sequence"):
    """Return a classifier's logits on one text, without batch or padding."""
    import torch

    model, tokenizer = loaders.load_classifier(folder, head)
    ids = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().numpy()


REPLIES = ["good", "a cell is a box of life .", "bad", "you are kind", "good", "what ?"]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def column(rows, settings, work=None):
    return [row["rewards"]["it"] for row in reward_rows(rows, [], {"it": settings}, work)]


def test_a_single_output_is_the_logit_or_its_sigmoid(classifiers):
    logits = [alone(classifiers["one"], f"User: Hi\nAssistant: {reply}</s>")[0] for reply in REPLIES]
    assert column(turns(*REPLIES), part(classifiers["one"])) == pytest.approx(logits, abs=1e-5)
    squashed = column(turns(*REPLIES), part(classifiers["one"], squash="sigmoid"))
    assert squashed == pytest.approx([sigmoid(value) for value in logits], abs=1e-5)


@pytest.mark.parametrize("squash", ["none", "sigmoid"])
def test_of_several_classes_the_reward_is_the_probability_of_one(classifiers, squash):
    logits = np.array([alone(classifiers["three"], reply) for reply in REPLIES])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for label in range(3):
        found = column(turns(*REPLIES), part(classifiers["three"], text="reply", label=label, squash=squash))
        assert found == pytest.approx(shares[:, label].tolist(), abs=1e-5)
    with pytest.raises(
        PlumblineError, match="reward it: label None of a classifier with 3 classes; choose 0 to 2"
    ):
        column(turns("good"), part(classifiers["three"]))
    with pytest.raises(PlumblineError, match="reward it: label 1 of a classifier with one output"):
        column(turns("good"), part(classifiers["one"], label=1))


def test_a_pair_is_joined_as_the_tokenizer_joins_two(classifiers):
    rows = [turn(reply, at, meta={"knowledge": "a cell is life"}) for at, reply in enumerate(REPLIES)]
    expected = [alone(classifiers["one"], ("a cell is life", reply))[0] for reply in REPLIES]
    assert column(rows, part(classifiers["one"], text="knowledge")) == pytest.approx(expected, abs=1e-5)


def test_the_critic_ends_in_a_sigmoid_and_the_offensive_head_in_an_end_token(classifiers):
    folder = classifiers["critic"]
    expected = [sigmoid(alone(folder, reply, "critic")[0]) for reply in REPLIES]
    assert column(turns(*REPLIES), part(folder, head="critic", text="reply")) == pytest.approx(
        expected, abs=1e-5
    )
    folder = classifiers["offensive"]
    logits = [alone(folder, f"Hi</s>{reply}</s>", "offensive") for reply in REPLIES]
    offence = [sigmoid(high - low) for low, high in logits]
    settings = part(folder, head="offensive", text="context", label=0)
    assert column(turns(*REPLIES), settings) == pytest.approx([1 - value for value in offence], abs=1e-5)
    with pytest.raises(PlumblineError, match="reward it: the offensive head reads one text"):
        column([turn("a", meta={"knowledge": "b"})], settings | {"text": "knowledge"})


def test_an_empty_reply_has_a_score_even_where_it_has_no_token(classifiers):
    found = column(turns("", "good"), part(classifiers["one"], text="reply"))
    assert found[0] == pytest.approx(alone(classifiers["one"], "</s>")[0], abs=1e-5)


def test_a_text_is_cut_to_what_the_classifier_can_read(classifiers):
    settings = part(classifiers["critic"], head="critic", text="reply", max_tokens=5000)
    long, short = column(turns("bad " * 90 + "good " * 60, "good " * 60), settings)
    assert long == pytest.approx(short, abs=1e-5)


def test_scores_that_are_no_numbers_name_row_and_column_and_are_asked_again(
    classifiers, monkeypatch, tmp_path
):
    import torch

    real = loaders.load_classifier

    def spoiled(folder, head):
        model, tokenizer = real(folder, head)
        with torch.no_grad():
            model.score.weight.fill_(math.nan)
        return model, tokenizer

    monkeypatch.setattr(loaders, "load_classifier", spoiled)
    with pytest.raises(PlumblineError, match="row r0: reward it is nan"):
        column(turns("good", "bad"), part(classifiers["one"]), tmp_path)
    monkeypatch.setattr(loaders, "load_classifier", real)
    assert all(map(math.isfinite, column(turns("good", "bad"), part(classifiers["one"]), tmp_path)))


# Scores that are kept.


class Asked:
    """Count the texts that reach a classifier; `last` batches may pass before it is killed, when `left` is on disk."""

    def __init__(self, monkeypatch, last=None, work=None):
        self.batches, self.left = [], b""
        real = loaders.load_classifier

        def counted(folder, head):
            model, tokenizer = real(folder, head)

            def count(module, arguments, named):
                if last is not None and len(self.batches) == last:
                    if work is not None:
                        self.left = next(work.iterdir()).read_bytes()
                    raise KeyboardInterrupt
                self.batches.append(len(named["input_ids"]))

            model.register_forward_pre_hook(count, with_kwargs=True)
            return model, tokenizer

        monkeypatch.setattr(loaders, "load_classifier", counted)


MANY = [" ".join(WORDS[at : at + 1 + at % 5]) for at in range(4, 15)]


@pytest.mark.parametrize("cut", [b"", b'{"0123', '{"ä'.encode()[:-1]])
def test_a_killed_annotation_goes_on_asks_nothing_twice_and_gives_the_same(
    classifiers, monkeypatch, tmp_path, cut
):
    rows, settings = turns(*MANY, MANY[0]), part(classifiers["one"], squash="sigmoid")
    with monkeypatch.context() as patch:
        whole = Asked(patch)
        expected = json.dumps(reward_rows(rows, [], {"it": settings}, tmp_path / "whole"))
    assert whole.batches == [2, 2, 2, 2, 2, 1]
    with monkeypatch.context() as patch:
        killed = Asked(patch, last=3, work=tmp_path / "work")
        with pytest.raises(KeyboardInterrupt):
            reward_rows(rows, [], {"it": settings}, tmp_path / "work")
    assert killed.left.count(b"\n") == 3, "what was scored is on disk before the next batch is"
    (store,) = (tmp_path / "work").iterdir()
    with open(store, "ab") as stream:
        stream.write(cut)  # the line that the kill cut
    with monkeypatch.context() as patch:
        resumed = Asked(patch)
        assert json.dumps(reward_rows(rows, [], {"it": settings}, tmp_path / "work")) == expected
    assert killed.batches + resumed.batches == whole.batches
    assert store.read_bytes() == next((tmp_path / "whole").iterdir()).read_bytes()
    with monkeypatch.context() as patch:
        again = Asked(patch)
        assert json.dumps(reward_rows(rows, [], {"it": settings}, tmp_path / "work")) == expected
        assert column(rows[:3], settings, tmp_path / "work") == [
            row["rewards"]["it"] for row in json.loads(expected)[:3]
        ]
    assert again.batches == []


@pytest.mark.parametrize("head", ["one", "critic"])
def test_processes_that_share_what_a_classifier_reads_give_the_rewards_of_one(
    head, classifiers, tmp_path, capsys
):
    settings = part(classifiers[head], head="critic" if head == "critic" else "sequence")
    rows = turns(*MANY, MANY[0])
    expected = reward_rows(rows, [], {"it": settings}, tmp_path / "whole")
    for shards in (2, 3):
        assert reward_rows(rows, [], {"it": settings}, tmp_path / str(shards), shards) == expected
        assert f"{shards} processes share the work, on the CPU" in capsys.readouterr().err
        found, whole = (
            sorted(next(folder.iterdir()).read_text().splitlines())
            for folder in (tmp_path / str(shards), tmp_path / "whole")
        )
        assert found == whole  # batch by batch, in the order in which they came
    copy = shutil.copytree(classifiers[head], tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(PlumblineError, match="one of the processes that share the work failed"):
        reward_rows(rows, [], {"it": settings | {"folder": str(copy)}}, None, 2)


def test_a_killed_annotation_step_goes_on_to_the_same_files(classifiers, monkeypatch, tmp_path):
    talks = [
        {
            "id": reply,
            "group": "g",
            "messages": [*turn("")["messages"], {"role": "assistant", "content": reply}],
        }
        for reply in MANY
    ]
    write_jsonl(tmp_path / "rows" / "train.jsonl", talks[:6])
    write_jsonl(tmp_path / "rows" / "test.jsonl", talks[4:])
    parts = {"it": part(classifiers["one"]), "length": rule_reward("length", words=4)}

    def annotated(name, last=None):
        folder = tmp_path / name
        flags = [
            "--rows",
            tmp_path / "rows",
            "--splits",
            "train",
            "test",
            "--fit-split",
            "train",
            "--work",
            folder,
        ]
        flags += ["--settings", json.dumps({"rewards": parts}), "--output", folder / "out"]
        with monkeypatch.context() as patch:
            asked = Asked(patch, last)
            patch.setattr(
                sys, "argv", ["annotate", *map(str, flags), "--manifest", str(folder / "manifest.json")]
            )
            if last is None:
                annotate_module.main()
            else:
                with pytest.raises(KeyboardInterrupt):
                    annotate_module.main()
                assert not (folder / "out").exists()
        files = ["out/train.jsonl", "out/test.jsonl", "manifest.json"]
        return asked.batches, [(folder / file).read_bytes() for file in files if last is None]

    whole, expected = annotated("whole")
    killed, _ = annotated("again", last=4)
    resumed, found = annotated("again")
    assert found == expected
    assert killed + resumed == whole and sum(whole) == len(MANY)
    columns = read_json(tmp_path / "again" / "manifest.json")["columns"]
    assert columns["it"]["weights"] == weights_of(classifiers["one"])
    assert list(columns) == ["it", "length"]


def test_only_what_changes_a_score_asks_again(classifiers, monkeypatch, tmp_path):
    settings = part(classifiers["one"])
    asked = Asked(monkeypatch)
    for changed, new in [
        ({}, 3),
        ({"squash": "sigmoid", "weight": 5.0}, 0),  # a matter of what is done to the score
        ({"batch_size": 1}, 0),
        ({"text": "reply"}, 3),  # other texts
        ({"text": "reply", "max_tokens": 3}, 3),
        ({"folder": str(classifiers["three"]), "label": 0}, 3),  # other weights
        ({"folder": str(classifiers["three"]), "label": 1}, 3),
    ]:
        before = sum(asked.batches)
        column(turns("good", "bad", "you are kind"), settings | changed, tmp_path)
        assert sum(asked.batches) - before == new, changed
    before = sum(asked.batches)
    column(turns("bad", "rude", "good"), settings, tmp_path)
    assert sum(asked.batches) - before == 1


def test_without_a_work_folder_nothing_is_kept(classifiers, monkeypatch):
    asked = Asked(monkeypatch)
    rewarded = reward_function([], {"it": part(classifiers["one"])})
    assert rewarded(turns("good")) == rewarded(turns("good"))
    assert asked.batches == [1, 1]


def test_many_calls_load_a_classifier_once(classifiers, monkeypatch):
    loads = []
    real = loaders.load_classifier
    monkeypatch.setattr(
        loaders, "load_classifier", lambda folder, head: loads.append(folder) or real(folder, head)
    )
    rewarded = reward_function([], {"it": part(classifiers["one"])})
    assert loads == []
    for reply in ("good", "bad", "rude"):
        rewarded(turns(reply))
    assert len(loads) == 1


# Where a column came from.


def test_provenance_holds_settings_weights_and_source_but_no_folder(classifiers, tmp_path):
    source = {"name": "cola", "repo": "textattack/roberta-base-CoLA", "revision": "main"}
    parts = REWARDS | {
        "one": part(classifiers["one"], source=source),
        "hh": given_reward("rm", squash="sigmoid"),
    }
    found = provenance(parts)
    assert list(found) == list(parts)
    assert found["length"] == {"settings": REWARDS["length"]}
    assert found["hh"] == {"settings": parts["hh"]}
    assert found["one"]["source"] == source
    assert found["one"]["weights"] == weights_of(classifiers["one"])
    assert found["one"]["settings"] == {
        key: value for key, value in part("x").items() if key not in ("folder", "source")
    }
    assert str(classifiers["one"]) not in json.dumps(found)


def test_weights_are_known_by_content_with_or_without_a_manifest(classifiers, tmp_path):
    import shutil

    folder = shutil.copytree(classifiers["one"], tmp_path / "a" / "model")
    computed = weights_of(folder)
    assert computed == weights_of(classifiers["one"])
    write_manifest(tmp_path / "a" / "manifest.json", [folder])
    assert weights_of(folder) == computed
    # The manifest is what is read: a large model is not hashed again by each step.
    listed = read_json(tmp_path / "a" / "manifest.json")
    assert listed["files"]["model/model.safetensors"] == sha256_of(folder / "model.safetensors")
    listed["files"]["model/model.safetensors"] = "0" * 64
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(listed))
    assert weights_of(folder) != computed
    (tmp_path / "a" / "manifest.json").unlink()
    (folder / "config.json").write_text("{}")
    assert weights_of(folder) != computed
    with pytest.raises(PlumblineError, match="no classifier here"):
        weights_of(tmp_path / "nowhere")


def test_rules_and_given_rewards_load_no_torch():
    code = (
        "import sys\n"
        "from workflow_scripts.common.reward_columns import reward_rows\n"
        "from workflow_scripts.annotate import annotate, answers\n"
        "from workflow_scripts.score import reward_scores, reply_loss\n"
        "row = {'id': 'a', 'messages': [], 'reference': 'the cat', 'meta': {}, 'given': {'rm': 1.0}}\n"
        "parts = {'a': {'rule': 'tfidf_diversity', 'weight': 1.0, 'words': 40},"
        " 'b': {'given': 'rm', 'squash': 'sigmoid', 'weight': 1.0}}\n"
        "reward_rows([row], ['the cat'], parts)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# The benchmark.


def rewarded_row(name, text, **values):
    return {"id": name, "group": name[0], "reference": text, "rewards": values}


ROWS = [
    rewarded_row("a/0", "so it is so it is", fluency=0.5, final_reward=1.5),
    rewarded_row("a/1", "yes", fluency=0.25, final_reward=1.0),
    rewarded_row("b/0", "", fluency=1.0, final_reward=-2.0),
]


def test_distinct_by_hand():
    text = "so it is so it is"  # so it is | so-it it-is is-so | so-it-is it-is-so is-so-it
    assert [distinct(text, n) for n in (1, 2, 3)] == [3 / 6, 3 / 5, 3 / 4]
    assert [distinct("So so", n) for n in (1, 2, 3)] == [1.0, 1.0, 0.0]
    assert [distinct("", n) for n in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_every_column_and_the_text_have_a_cell_of_means():
    cells = {(cell["subset"], cell["metric"]): cell for cell in score(ROWS, "x")}
    expected = {
        ("fluency", "reward"): 1.75 / 3,
        ("final_reward", "reward"): 0.5 / 3,
        ("text", "words"): 7 / 3,
        ("text", "distinct_1_per_answer"): (3 / 6 + 1 + 0) / 3,
        ("text", "distinct_2_per_answer"): (3 / 5) / 3,
        ("text", "distinct_3_per_answer"): (3 / 4) / 3,
    }
    assert list(cells) == list(expected)
    for name, cell in cells.items():
        assert point_estimate([read_cell(cell, "x")]) == pytest.approx(expected[name], rel=1e-12)
        assert (cell["items"], cell["groups"]) == (["a/0", "a/1", "b/0"], ["a", "a", "b"])
        assert cell["higher_is_better"] is (None if name == ("text", "words") else True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "x: no rows"),
        ([ROWS[0], ROWS[0]], "x: 'a/0' occurs twice"),
        (
            [ROWS[0], rewarded_row("c", "", fluency=1.0)],
            "x: 'c' has the rewards fluency, the first row fluency, final",
        ),
        ([rewarded_row("c", "", fluency=math.nan)], "x: reward 'fluency' of 'c' is nan"),
        ([{"id": "c", "reference": ""}], "x: row 1 lacks group, rewards"),
    ],
)
def test_rows_that_cannot_be_averaged_are_refused(rows, message):
    with pytest.raises(PlumblineError, match=message):
        score(rows, "x")


def test_the_reward_command_writes_its_cells(monkeypatch, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    flags = ["--measured", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "scores.json")]
    monkeypatch.setattr(sys, "argv", ["rewards", *flags, "--settings", '{"benchmark": "reddit"}'])
    score_module.main()
    scores = read_json(tmp_path / "scores.json")
    assert scores["benchmark"] == "reddit"
    assert len(scores["cells"]) == 6


def test_texts_that_a_classifier_reads_cut_are_named_in_their_rows_counted_and_said(classifiers, capsys):
    rewards = {"rm": part(classifiers["one"], text="reply", max_tokens=6)}
    rewards |= {
        "long": part(classifiers["critic"], head="critic", text="reply"),
        "words": rule_reward("length", words=4),
    }
    rows = reward_rows(turns("good", "good bad " * 8), FIT_ON, rewards)
    assert [row.get("texts_cut") for row in rows] == [None, ["rm"]]
    assert reward_columns.cut_texts(rows, rewards, "rows") == {"rm": 1, "long": 0, "words": 0}
    assert capsys.readouterr().err == (
        "warning: rows: reward rm read 1 of 2 texts without their start; raise its max_tokens\n"
    )
    notes = {cell["subset"]: cell.get("note") for cell in score(rows, "rows")}
    assert (notes["rm"], notes["long"]) == ("1 of 2 texts read without their start", None)


def test_a_training_that_rewards_answers_as_it_goes_is_told_once_that_they_are_cut(classifiers, capsys):
    long, short = turn("good " * 20), turn("good")
    rewarded = reward_function([], {"rm": part(classifiers["one"], text="reply", max_tokens=6)})
    assert [row.get("texts_cut") for row in rewarded([short])] == [None]
    assert capsys.readouterr().err == ""
    assert [row.get("texts_cut") for row in rewarded([short, long])] == [None, ["rm"]]
    assert [row.get("texts_cut") for row in rewarded([long])] == [["rm"]]
    assert capsys.readouterr().err == (
        "warning: reward rm read 1 of 2 answers without the start of their text, and may go on so;"
        " raise its max_tokens\n"
    )
