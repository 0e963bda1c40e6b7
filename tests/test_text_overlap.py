"""Text scores: BLEU and METEOR against the libraries, the rest by hand, and every measure of an empty answer."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from nltk.translate.meteor_score import meteor_score
from sacrebleu.metrics import BLEU

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_jsonl
from workflow_scripts.common.text_measures import fragments
from workflow_scripts.common.wordnet import WordNet
from workflow_scripts.common.words import words_and_signs
from workflow_scripts.score.text_overlap import METRICS, corpus_distinct, ngrams_of, read_turns, score
from workflow_scripts.study.benchmarks.answered import TextOverlap

REFERENCES = [
    "The cell wall keeps the plant upright, and it is made of cellulose.",
    "Red blood cells carry oxygen from the lungs to all tissues of the body.",
    "Leaves look green because chlorophyll reflects the green part of the light.",
    "Digestion begins in the mouth, where an enzyme starts to split the starch.",
]
ANSWERS = [
    "The cell wall keeps the plant upright and is made of sugar.",
    "Red blood cells carry oxygen from the lungs to the brain!",
    "Green: the chlorophyll reflects the green part of light.",
    "Digestion begins in the mouth, where an enzyme starts to split the starch.",
]


def prompt(name, reference, *followups, **more):
    row = {"id": name, "group": f"g{name}", "followups": list(followups), "reference": reference, "meta": {}}
    return row | {"messages": [{"role": "user", "content": "Say why."}]} | more


def answer(name, text, sample=0, turn=0, tokens=3):
    return {"id": name, "sample": sample, "turn": turn, "text": text, "completion_tokens": tokens}


def single(answers=ANSWERS, references=REFERENCES):
    """Return the turns of one prompt and answer each."""
    prompts = [prompt(str(number), [reference]) for number, reference in enumerate(references)]
    return read_turns(prompts, [answer(str(number), text) for number, text in enumerate(answers)], "answers")


def cells_of(turns, *metrics, wordnet=None):
    found = score(turns, {"metrics": list(metrics), "wordnet": wordnet})
    assert len({cell["metric"] for cell in found}) == len(found)
    return {cell["metric"]: cell for cell in found}


def values_of(turns, metric, **more):
    return cells_of(turns, metric, **more)[metric]["columns"]["value"]


# BLEU.


def bleu_of(columns):
    """Return BLEU-4 from summed columns: 100 min(1, exp(1 - ref / sys)) (p1 p2 p3 p4) ** 1/4."""
    total = {name: sum(values) for name, values in columns.items()}
    precisions = [total[f"m{n}"] / total[f"t{n}"] for n in (1, 2, 3, 4)]
    brevity = min(1.0, math.exp(1 - total["ref"] / total["sys"]))
    return 100 * brevity * math.prod(precisions) ** 0.25


def test_bleu_s_counts_give_sacrebleu_s_corpus_score():
    cell = cells_of(single(), "bleu")["bleu"]
    assert cell["estimator"] == "corpus_bleu"
    expected = BLEU().corpus_score(ANSWERS, [REFERENCES])
    assert 20 < expected.score < 80
    assert sum(cell["columns"]["sys"]) < sum(cell["columns"]["ref"]), "the brevity penalty is in this test"
    assert bleu_of(cell["columns"]) == pytest.approx(expected.score, abs=1e-9)
    assert [sum(cell["columns"][f"m{n}"]) for n in (1, 2, 3, 4)] == expected.counts


def test_bleu_of_several_samples_and_turns_is_that_of_all_answers_with_their_references():
    prompts = [prompt("a", REFERENCES[:2], "And?"), prompt("b", REFERENCES[2:3])]
    texts = {("a", 0): ANSWERS[:2], ("a", 1): [ANSWERS[1], ANSWERS[3]], ("b", 0): [ANSWERS[2], ANSWERS[0]]}
    rows = [
        answer(name, text, sample, turn)
        for (name, turn), samples in texts.items()
        for sample, text in enumerate(samples)
    ]
    cell = cells_of(read_turns(prompts, rows, "answers"), "bleu")["bleu"]
    assert cell["items"] == ["a#1", "a#2", "b"]
    assert cell["groups"] == ["ga", "ga", "gb"]
    references = [REFERENCES[number] for number in (0, 0, 1, 1, 2, 2)]
    expected = BLEU().corpus_score([text for samples in texts.values() for text in samples], [references])
    assert bleu_of(cell["columns"]) == pytest.approx(expected.score, abs=1e-9)


def test_the_reference_itself_has_bleu_100_and_no_better_direction():
    cell = cells_of(single(REFERENCES), "bleu")["bleu"]
    assert bleu_of(cell["columns"]) == pytest.approx(100)
    assert cell["higher_is_better"] is None


def test_turns_without_reference_have_no_part_in_bleu_and_meteor_alone():
    prompts = [prompt("a", ["one two three four"]), prompt("b", None), prompt("c", ["", "so"], "And?")]
    rows = [answer("a", "one"), answer("b", "two"), answer("c", "three"), answer("c", "so", turn=1)]
    cells = cells_of(read_turns(prompts, rows, "answers"), "bleu", "meteor", "length")
    assert cells["bleu"]["items"] == cells["meteor_exact_stem"]["items"] == ["a", "c#2"]
    assert cells["words"]["items"] == ["a", "b", "c#1", "c#2"]
    with pytest.raises(PlumblineError, match="bleu needs references, and no prompt has one"):
        cells_of(read_turns(prompts[1:2], rows[1:2], "answers"), "bleu")


# METEOR.


class NoSynonyms:
    def synsets(self, word):
        return []


def test_meteor_without_wordnet_is_nltk_s_with_no_synonyms_and_named_so():
    pairs = list(zip(REFERENCES, ANSWERS, strict=True))
    expected = [
        meteor_score([words_and_signs(reference)], words_and_signs(text), wordnet=NoSynonyms())
        for reference, text in pairs
    ]
    cells = cells_of(single(), "meteor")
    assert list(cells) == ["meteor_exact_stem"]
    assert cells["meteor_exact_stem"]["columns"]["value"] == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) == 4


def test_meteor_by_hand():
    # "the" twice and "cats" by its stem: 3 of 4 words match 3 of 5, in 2 chunks.
    turns = single(["The cats! The"], ["the cat saw the dog"])
    precision, recall, chunks = 3 / 4, 3 / 5, 2
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    expected = (1 - 0.5 * (chunks / 3) ** 3) * mean
    (cell,) = cells_of(turns, "meteor").values()
    assert cell["columns"]["value"] == [pytest.approx(expected)]


def dictionary(folder):
    """Write WordNet's files with two sets of nouns, one verb, one adjective; goose has an irregular plural."""
    licence = "  1 This is no licence.\n"
    sets = {
        "noun": [
            "n 03 car 0 auto 0 motor_car 0 001 @ 00000000 n 0000 | a machine",
            "n 01 goose 0 000 | a bird",
        ],
        "verb": ["v 02 begin 0 start 1 000 01 + 01 00 | go"],
        "adj": ["a 02 well(p) 0 healthy 0 000 | fine"],
        "adv": [],
    }
    for part, rows in sets.items():
        data, index = licence, [licence]
        for row in rows:
            offset = len(data.encode())
            kind, _, rest = row.partition(" ")
            data += f"{offset:08d} 06 {kind} {rest}  \n"
            for word in rest.split(" 000")[0].split(" 001")[0].split()[1::2]:
                index.append(f"{word.partition('(')[0]} {kind} 1 1 @ 1 0 {offset:08d}  \n")
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text("".join(index))
    (folder / "noun.exc").write_text("geese goose\n")
    return folder


def test_meteor_with_wordnet_also_matches_synonyms(tmp_path):
    turns = single(["cars start in rain"], ["auto begin in rain"])
    (plain,) = cells_of(turns, "meteor").values()
    cells = cells_of(turns, "meteor", wordnet=str(dictionary(tmp_path)))
    assert list(cells) == ["meteor"]
    assert cells["meteor"]["columns"]["value"] == [pytest.approx(1 - 0.5 * (1 / 4) ** 3)]
    assert plain["columns"]["value"] == [pytest.approx((1 - 0.5 * (1 / 2) ** 3) / 2)]


def test_a_word_has_the_synonyms_of_its_base_forms_in_every_part_of_speech(tmp_path):
    wordnet = WordNet(dictionary(tmp_path))

    def synonyms(word):
        return {lemma.name() for found in wordnet.synsets(word) for lemma in found.lemmas()}

    assert synonyms("Cars") == {"car", "auto", "motor_car"}
    assert synonyms("geese") == {"goose"}
    assert synonyms("starting") == synonyms("starts") == {"begin", "start"}
    assert synonyms("well") == {"well", "healthy"}
    assert synonyms("healthiest") == synonyms("unknown") == synonyms("") == set()
    (tmp_path / "noun.exc").unlink()
    assert WordNet(tmp_path).synsets("geese") == []


def test_a_folder_without_wordnet_s_files_is_named(tmp_path):
    dictionary(tmp_path)
    (tmp_path / "index.adv").unlink()
    with pytest.raises(PlumblineError, match=r"index\.adv: no such file; the folder of WordNet holds"):
        cells_of(single(), "meteor", wordnet=str(tmp_path))


# Coverage and density.

GIVEN = "Yesterday the cat sat there, and on the mat it slept."


def given(text, knowledge=GIVEN):
    return read_turns([prompt("a", None, meta={"knowledge": knowledge})], [answer("a", text)], "answers")


@pytest.mark.parametrize(
    ("text", "lengths", "words"),
    [
        ("The cat sat on the mat today", [3, 3], 7),
        ("the the the", [1, 1, 1], 3),
        (GIVEN, [13], 13),
        ("A dog barked", [], 3),
        ("", [], 0),
    ],
)
def test_coverage_and_density_by_hand(text, lengths, words):
    assert fragments(words_and_signs(text), words_and_signs(GIVEN)) == lengths
    coverage = sum(lengths) / words if words else 0
    density = sum(length**2 for length in lengths) / words if words else 0
    assert values_of(given(text), "coverage") == [pytest.approx(coverage)]
    assert values_of(given(text), "density") == [pytest.approx(density)]


def figure_3(answer, article):
    """Return the fragments' lengths, the published procedure written out with its three nested loops."""
    found, i, j = [], 0, 0
    while i < len(answer):
        best = 0
        while j < len(article):
            if answer[i] == article[j]:
                i2, j2 = i, j
                while i2 < len(answer) and j2 < len(article) and answer[i2] == article[j2]:
                    i2, j2 = i2 + 1, j2 + 1
                best = max(best, i2 - i)
                j = j2
            else:
                j += 1
        i, j = i + max(best, 1), 0
        if best:
            found.append(best)
    return found


def test_fragments_are_those_of_the_published_procedure():
    draw = np.random.default_rng(0)
    for _ in range(300):
        answer, article = (draw.choice(list("abc"), size=draw.integers(0, 12)).tolist() for _ in range(2))
        assert fragments(answer, article) == figure_3(answer, article), (answer, article)
    assert fragments(list("aab"), list("aaab")) == [2, 1], "the search goes on behind what it has tried"


def test_an_answer_is_held_against_the_knowledge_or_else_the_last_user_message():
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "x"}]
    messages += [{"role": "user", "content": "two"}]
    prompts = [
        prompt("knows", None, messages=messages, meta={"knowledge": "three"}),
        prompt("asked", None, "four", messages=messages),
        {"id": "raw", "group": "r", "text": "five", "followups": [], "reference": None, "meta": {}},
    ]
    rows = [answer("knows", "a"), answer("asked", "a"), answer("asked", "a", turn=1), answer("raw", "a")]
    turns = read_turns(prompts, rows, "answers")
    assert [turn.given for turn in turns] == ["three", "two", "four", "five"]


# Distinct n-grams and lengths.


def jackknife(groups):
    """Return (types / tokens, its delete-one jackknife variance), from the definitions."""

    def share(kept):
        said = [ngram for group in kept for ngram in group]
        return len(set(said)) / len(said)

    without = [share(groups[:place] + groups[place + 1 :]) for place in range(len(groups))]
    return share(groups), (len(groups) - 1) / len(groups) * sum((x - np.mean(without)) ** 2 for x in without)


def test_corpus_distinct_is_types_by_tokens_and_its_bootstrap_has_the_jackknife_s_variance():
    groups = [ngrams_of(text, 1) for text in ("a b c a", "a d", "e e e", "b c f g h")]
    values = np.array(corpus_distinct(groups))
    point, variance = jackknife(groups)
    assert point == 8 / 14
    assert values.mean() == pytest.approx(point)
    # A bootstrap draws G values with replacement: the variance of their mean is the values' own variance by G.
    assert values.var() / len(values) == pytest.approx(variance)


def test_the_jackknife_of_corpus_distinct_is_no_narrower_than_what_new_corpora_show():
    draw = np.random.default_rng(3)
    chances = 1 / np.arange(1, 301)
    corpora = [
        [draw.choice(300, size=20, p=chances / chances.sum()).tolist() for _ in range(25)] for _ in range(150)
    ]
    found = [corpus_distinct(corpus) for corpus in corpora]
    spread = np.std([np.mean(values) for values in found])
    expected = np.sqrt(np.mean([np.var(values) / len(values) for values in found]))
    assert 1.0 < expected / spread < 1.8


def test_corpus_distinct_falls_where_answers_repeat_each_other_and_the_answers_own_does_not():
    same, apart = single(["a b c"] * 4), single(["a b c", "d e f", "g h i", "j k l"])
    for turns, share in ((same, 3 / 12), (apart, 1.0)):
        cells = cells_of(turns, "distinct")
        assert np.mean(cells["distinct_1"]["columns"]["value"]) == pytest.approx(share)
        assert cells["distinct_1_per_answer"]["columns"]["value"] == [1.0] * 4
        assert cells["distinct_1"]["items"] == ["g0", "g1", "g2", "g3"]
        assert "falls as the corpus grows" in cells["distinct_1"]["note"]


def test_ngrams_do_not_run_from_one_answer_into_the_next():
    turns = single(["a b", "c d", "a b", "c d"])
    assert np.mean(cells_of(turns, "distinct")["distinct_2"]["columns"]["value"]) == pytest.approx(2 / 4)
    assert np.mean(cells_of(turns, "distinct")["distinct_3"]["columns"]["value"]) == 0


def test_lengths_are_means_over_samples_and_tokens_the_engine_s_own():
    rows = [answer("a", "one two", 0, tokens=4), answer("a", "one", 1, tokens=1)]
    cells = cells_of(read_turns([prompt("a", None)], rows, "answers"), "length")
    assert cells["words"]["columns"]["value"] == [1.5]
    assert cells["tokens"]["columns"]["value"] == [2.5]
    assert cells["words"]["higher_is_better"] is cells["tokens"]["higher_is_better"] is None


def test_texts_that_no_engine_made_have_words_and_no_tokens():
    turns = read_turns([prompt("a", None)], [answer("a", "one two", tokens=0)], "answers")
    assert list(cells_of(turns, "length")) == ["words"]


# All of them.


@pytest.mark.parametrize("texts", [[""] * 4, ["", "one", "", "!"], ["  \n"] * 4])
def test_every_measure_of_an_empty_answer_is_a_number(texts):
    cells = cells_of(single(texts), *METRICS)
    for cell in cells.values():
        for values in cell["columns"].values():
            assert all(math.isfinite(value) for value in values), cell["metric"]
    if not any(map(str.strip, texts)):
        for name in (
            "meteor_exact_stem",
            "coverage",
            "density",
            "words",
            "distinct_1",
            "distinct_1_per_answer",
        ):
            assert set(cells[name]["columns"]["value"]) == {0.0}, name
        assert set(cells["bleu"]["columns"]["m1"]) == {0}


def test_one_answer_alone_has_every_measure():
    cells = cells_of(single(["a b a"], REFERENCES[:1]), *METRICS)
    assert np.mean(cells["distinct_1"]["columns"]["value"]) == pytest.approx(2 / 3)
    assert all(len(cell["items"]) == 1 for cell in cells.values())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no answer to turn 0 of 'a'"),
        ([answer("a", "x")], "no answer to turn 1 of 'a'"),
        ([answer("b", "x")], "sample 0 of 'b' is not in the prompt set"),
        ([answer("a", "x", turn=2)], "turn 2, sample 0 of 'a' is not in the prompt set"),
        ([answer("a", "x"), answer("a", "y")], "turn 0, sample 0 of 'a' occurs twice"),
    ],
)
def test_lost_strange_or_double_answers_are_named(rows, message):
    with pytest.raises(PlumblineError, match=message):
        read_turns([prompt("a", None, "And?")], rows, "answers")


def test_an_unknown_metric_is_named_with_the_known_ones():
    with pytest.raises(
        PlumblineError, match="unknown rouge; allowed: bleu, meteor, coverage, density, distinct"
    ):
        cells_of(single(), "rouge")


def test_the_command_writes_the_metrics_asked_for_says_what_it_left_out_and_loads_no_torch(tmp_path):
    prompts = [prompt("a", ["one two"]), prompt("b", None)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    write_jsonl(tmp_path / "answers.jsonl", [answer("a", "one two"), answer("b", "")])
    settings = {"benchmark": "recall", "metrics": ["length", *list(METRICS)[:5]], "wordnet": None}
    flags = ["--prompts", tmp_path / "prompts.jsonl", "--generations", tmp_path / "answers.jsonl"]
    flags += ["--settings", json.dumps(settings), "--output", tmp_path / "scores.json"]
    code = (
        "import sys\nfrom workflow_scripts.score import text_overlap\ntext_overlap.main()\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, flags)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 2 turns have no reference" in done.stderr
    scores = read_json(tmp_path / "scores.json")
    assert scores["benchmark"] == "recall"
    names = [cell["metric"] for cell in scores["cells"]]
    assert names[:6] == ["words", "tokens", "bleu", "meteor_exact_stem", "coverage", "density"]
    assert {cell["subset"] for cell in scores["cells"]} == {"all"}


@pytest.mark.parametrize(("wordnet", "name"), [("wordnet", "meteor"), (None, "meteor_exact_stem")])
def test_a_report_may_ask_for_meteor_by_the_name_that_the_scorer_gives_it(wordnet, name):
    part = TextOverlap(kind="text_overlap", dataset="d", split="test", metrics=["meteor"], wordnet=wordnet)
    assert name in str(part.cells(None))
    assert ("exact_stem" in str(part.cells(None))) == (wordnet is None)
