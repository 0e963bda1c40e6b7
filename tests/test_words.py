"""A word is what stands between spaces, or, in scripts that write none, a character: wherever words are counted."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from tests.cleaning import cleaning
from workflow_scripts.clean.overlap import Item, find_in, grams_of, read_row
from workflow_scripts.clean.selecting import length_ratio
from workflow_scripts.clean.wording import check_wording
from workflow_scripts.common.reward_rules import diversity, fit_tfidf, length_reward
from workflow_scripts.common.text_measures import coverage, density, distinct, meteor_with
from workflow_scripts.common.words import spaced, split_words, weighed_words, words_and_signs
from workflow_scripts.retrieve.embeddings import by_words
from workflow_scripts.score.text_overlap import Turn, bleu_cells, length_cells

SKY = "天空是蓝色的。"
GRASS = "草地是绿色的。"
SKY_AND_SEA = "天空是蓝色的,大海也是蓝色的。"
THAI = "ท้องฟ้าเป็นสีฟ้า"  # the sky is blue
WITH_SPACES = st.text(st.characters(max_codepoint=0x0DFF), max_size=60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SKY, ["天", "空", "是", "蓝", "色", "的"]),
        ("用 Python 3.11 写的", ["用", "Python", "3.11", "写", "的"]),
        ("これはペンです", list("これはペンです")),
        ("ท้องฟ้า", ["ท้", "อ", "ง", "ฟ้", "า"]),
        ("The sky - is blue.", ["The", "sky", "-", "is", "blue."]),
        ("하늘은 파랗다", ["하늘은", "파랗다"]),  # Korean writes spaces
        ("", []),
    ],
)
def test_words_are_cut_at_spaces_or_are_characters(text, words):
    assert split_words(text) == words


@given(WITH_SPACES)
def test_no_text_of_a_script_with_spaces_is_cut_otherwise_than_it_was(text):
    assert spaced(text) == text
    assert split_words(text) == text.split()
    assert words_and_signs(text) == re.findall(r"\w+|[^\w\s]", text.casefold())
    assert weighed_words(text) == re.findall(r"(?u)\b\w\w+\b", text)


@pytest.mark.parametrize("text", [SKY, THAI, "空はとても青い。"])
def test_rules_by_words_see_as_many_as_there_are(text):
    count = len(split_words(text))
    assert count > 5
    fault = check_wording([text], cleaning(max_words=count - 1))
    assert fault and fault.detail == f"{count} words"
    assert check_wording([text], cleaning(max_words=count)) is None
    assert length_reward([text], words=2 * count).tolist() == [0.5]
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text * 2}]}
    assert length_ratio(row) == 0.5


def test_answers_that_share_words_have_bleu_meteor_and_coverage():
    turn = Turn("a", "g", [SKY_AND_SEA], [9], SKY, SKY)
    values = bleu_cells([turn], {})[0]["columns"]
    assert values["m1"][0] >= 6 and values["m4"][0] >= 3
    meteor = meteor_with(None)
    assert meteor(SKY, SKY) > 0.99 and 0.3 < meteor(SKY_AND_SEA, SKY) < 1 and meteor("狗跑了", SKY) == 0
    assert 0.5 < coverage(SKY_AND_SEA, SKY) < 1 and density(SKY, SKY) > 5
    assert 0 < distinct(SKY_AND_SEA, 1) < 1
    cells = {cell["metric"]: cell["columns"]["value"] for cell in length_cells([turn], {})}
    assert cells["words"] == [len(split_words(SKY_AND_SEA))]


def test_weights_and_passages_are_found_by_characters_too():
    rewards = diversity(fit_tfidf([SKY, GRASS]), [SKY, "是", "Hello"])
    assert rewards[0] > 0 and rewards[2] == 0
    found = by_words([SKY, GRASS], ["天空是什么颜色?"])
    scores = (found.questions @ found.passages.T).toarray()[0]
    assert scores[0] > scores[1] > 0


@given(st.lists(st.text(st.characters(max_codepoint=0x24F), min_size=3, max_size=40), min_size=2, max_size=5))
def test_weights_of_texts_with_spaces_are_scikit_learns_own(texts):
    texts = [*texts, "some words that are there"]
    own = TfidfVectorizer(norm="l2").fit(texts)
    mine = fit_tfidf(texts)
    assert own.vocabulary_ == mine.vocabulary_
    assert np.array_equal(own.transform(texts).toarray(), mine.transform(texts).toarray())


def test_a_clause_of_a_question_without_spaces_is_found_in_training():
    text = "为什么天空在白天看起来是蓝色的而在傍晚是红色的"
    grams = grams_of({"a": Item(text, text)}, [13, 8], None)
    row = read_row(
        '{"id": "1:r", "group": "x", "messages": [{"role": "user", "content": "请问' + text[:16] + '?"}]}',
        "here",
    )
    assert find_in([row], grams).grams
