"""Constraints that rules check: each on texts that just pass and just fail, the file they come in, and the scores."""

import importlib
import json
import random
import sys
import time
import types
from pathlib import Path

import pytest

from tests.generation import SAMPLING, call_named
from workflow_scripts.common.constraints import FAMILIES, RULES, constraints_of, follows, loose_readings
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.ifeval import PUBLISHED
from workflow_scripts.generate import calibrate, prompts
from workflow_scripts.score import rule_checks
from workflow_scripts.score.rule_checks import loosely, strictly

BUNDLED = Path(__file__).parents[1] / "data" / "bundled" / "instructions_biology.jsonl"

# rule → (arguments, a text that just passes, one that just fails)
CASES = [
    ("words", {"at_least": 3}, "one two three", "one two"),
    ("words", {"at_most": 2}, "one, two!", "one two three"),
    ("words", {"at_least": 2, "at_most": 2}, "well-known", "well known words"),
    ("sentences", {"at_least": 2}, "It is 3.5 m. So what?", "It is 3.5 m, e.g. here."),
    ("sentences", {"at_most": 1}, "Dr. J. Gold said so.", "He did. She did."),
    ("sentences", {"at_least": 2, "at_most": 2}, "A title\n\nIt was I.", "A title\nIt was I."),
    ("sentences", {"at_least": 2}, "“Go on!” he said. And we went", "“Go on” he said"),
    ("paragraphs", {"count": 2}, "a\n***\nb", "a\n\nb"),
    ("paragraphs", {"count": 2}, "***\na\n***\nb", "a\n***\n***\nb"),
    ("paragraphs", {"count": 2, "divider": "blank line"}, "a\n\n\n\nb", "a\nb"),
    ("paragraph_start", {"count": 2, "nth": 2, "word": "so"}, "a\n\n'So, b", "a\n\nSome b"),
    ("paragraph_start", {"count": 2, "nth": 2, "word": "so"}, "a\n\nso b", "a\n\nso b\n\nc"),
    ("includes", {"words": ["cell", "C++"]}, "Cells in c++", "Cells in C"),
    ("excludes", {"words": ["cell", "C++"]}, "cellular C", "a Cell"),
    ("excludes", {"words": ["C++"]}, "C", "in C++ it is"),
    ("word_count", {"word": "cell", "at_least": 2}, "Cell, cellar", "cell"),
    ("word_count", {"word": "cell", "at_most": 1}, "cell", "cell cells"),
    ("letter_count", {"letter": "E", "at_least": 2}, "eE", "e"),
    ("letter_count", {"letter": "!", "at_most": 1}, "no!", "no!!"),
    ("lower_case", {}, "dna is 1 thing", "DNA is"),
    ("upper_case", {}, "DNA IS 1 THING", "DNA Is"),
    ("capital_words", {"at_least": 2}, "(NASA) and WELL-KNOWN.", "NASA and Well-Known"),
    ("capital_words", {"at_most": 1}, "NASA 12", "NASA I"),
    ("no_commas", {}, "a; b", "a, b"),
    ("bullets", {"count": 2}, "Two:\n * a\n- b", "* a\n* b\n* c"),
    ("bullets", {"count": 1}, "**bold**\n* a", "**bold**"),
    ("highlights", {"at_least": 2}, "*a* and **b**", "*a* and ** **"),
    ("sections", {"marker": "Section", "at_least": 2}, "Section 1\na\nSection 2", "Section 1\na\nSection B"),
    ("sections", {"marker": "PART", "at_most": 1}, "PART1", "PART 1 PART 2"),
    ("headings", {"at_least": 2, "at_most": 2}, "# a\nb\n### c", "# a\n#b\n####### c"),
    ("title", {}, "<<a>>\nb", "<< >>\n<b>"),
    ("json", {}, '```json\n{"a": [1]}\n```', '{"a": [1]'),
    ("one_of", {"options": ["Yes.", "No."]}, "So: No.", "no."),
    ("placeholders", {"at_least": 2}, "[a] [b]", "[a] [b\n]"),
    ("postscript", {"marker": "P.S."}, "a\np. s. b", "a PS b"),
    ("postscript", {"marker": "P.P.S"}, "a\nP.P.S b", "a\nP.S. b"),
    ("postscript", {"marker": "By the way"}, "a, by the way, b", "a"),
    ("starts_with", {"phrase": "good question"}, " Good question!", "A good question"),
    ("ends_with", {"phrase": "Is that all?"}, 'So. "Is that ALL?"', "Is that all? Yes"),
    ("quoted", {}, ' "a" ', '"a'),
    ("two_answers", {}, "a\n******\nb", "a\n******\na"),
    ("two_answers", {}, "******a******b", "a******b******c"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "arguments", "passes", "fails"), CASES)
def test_a_rule_tells_a_text_that_just_passes_from_one_that_just_fails(rule, arguments, passes, fails):
    (constraint,) = constraints_of({"constraints": [{"rule": rule, **arguments}]}, "here")
    assert follows(passes, constraint) and not follows(fails, constraint)


def test_every_rule_has_a_case_and_an_answer_without_words_meets_none():
    assert {rule for rule, *_ in CASES} == set(RULES)
    assert sum(map(len, FAMILIES.values())) == len(RULES)
    for rule, arguments, *_ in CASES:
        assert not any(follows(text, {"rule": rule, **arguments}) for text in ("", " \n"))


def test_loose_takes_the_best_of_eight_readings():
    assert loose_readings("a\n*b*\nc") == [
        "a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b",
    ]  # fmt: skip
    quoted = {"rule": "quoted"}
    for text in ('Sure:\n"a"', '"a"\nAnything else?', 'Sure:\n*"a"*\nAnything else?'):
        assert loosely(text, quoted) and not strictly(text, quoted)
    assert not loosely('Sure:\nhere:\n"a"', quoted)


# --- reading --------------------------------------------------------------------------------------


def published_row(*instructions, **more):
    names, kwargs = zip(*instructions, strict=True)
    return {"key": 1000, "prompt": "Do.", "instruction_id_list": list(names), "kwargs": list(kwargs)} | more


def test_published_rows_are_read_with_their_nulls():
    row = published_row(
        ("length_constraints:number_words", {"relation": "less than", "num_words": 300, "letter": None}),
        ("keywords:existence", {"keywords": ["a.b"], "relation": None}),
        ("punctuation:no_comma", {}),
    )
    assert constraints_of(row, "here") == [
        {"rule": "words", "at_most": 299},
        {"rule": "includes", "words": ["a.b"]},
        {"rule": "no_commas"},
    ]
    assert len(PUBLISHED) == 24  # of IFEval's 25 all but the language


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "no 'constraints'"),
        ({"constraints": []}, "has no constraints"),
        ({"constraints": ["words"]}, 'a constraint is {"rule"'),
        ({"constraints": [{"rule": "rhymes"}]}, "unknown rule 'rhymes'; known: words, "),
        ({"constraints": [{"rule": "words"}]}, "words: give at_least, at_most or both"),
        (
            {"constraints": [{"rule": "words", "at_least": "3"}]},
            "words: at_least: Input should be a valid int",
        ),
        ({"constraints": [{"rule": "words", "at_least": -1}]}, "words: at_least: Input should be greater"),
        ({"constraints": [{"rule": "words", "atleast": 3}]}, "words: atleast: Unexpected keyword"),
        ({"constraints": [{"rule": "title", "text": "a"}]}, "title has no argument 'text'"),
        ({"constraints": [{"rule": "includes"}]}, "includes: words: Missing required"),
        (
            {"constraints": [{"rule": "includes", "words": []}]},
            "includes: words: List should have at least 1",
        ),
        ({"constraints": [{"rule": "includes", "words": [""]}]}, "includes: words.0: String should have"),
        ({"constraints": [{"rule": "letter_count", "letter": "ab", "at_least": 1}]}, "letter_count: letter"),
        ({"constraints": [{"rule": "paragraph_start", "count": 1, "nth": 2, "word": "a"}]}, "nth is 2"),
        (published_row(("keywords:rhymes", {})), "unknown instruction id 'keywords:rhymes'"),
        (published_row(("language:response_language", {"language": "de"})), "take the row out"),
        (published_row(("keywords:existence", {})), "kwargs of keywords:existence: missing 1 required"),
        (published_row(("keywords:existence", {"letter": "a"})), "unexpected keyword argument 'letter'"),
        (published_row(("keywords:existence", None)), "kwargs of keywords:existence"),
        (
            published_row(("length_constraints:number_words", {"relation": "over", "num_words": 3})),
            "relation is 'over'; allowed",
        ),
        (published_row(("punctuation:no_comma", {}), kwargs=[]), "must be list"),
        (published_row(("punctuation:no_comma", {}), kwargs=[{}, {}]), "1 instruction ids and 2 kwargs"),
    ],
)
def test_a_constraint_that_cannot_be_checked_is_named_with_its_row(row, words, tmp_path):
    write_jsonl(
        tmp_path / "rows.jsonl",
        [{"prompt": "Do.", "constraints": [{"rule": "json"}]}, {"prompt": "Do."} | row],
    )
    with pytest.raises(PlumblineError) as caught:
        prompts.rule_checks_prompts(tmp_path / "rows.jsonl")
    assert str(caught.value).startswith(f"{tmp_path / 'rows.jsonl'}: row 2") and words in str(caught.value)


def test_a_prompt_set_keeps_constraints_references_and_names():
    rows = prompts.rule_checks_prompts(BUNDLED)
    assert len(rows) == len({row["id"] for row in rows}) == 40
    for row in rows:
        assert 1 <= len(row["meta"]["constraints"]) <= 3
        for constraint in row["meta"]["constraints"]:
            assert strictly(row["reference"][0], constraint), (row["id"], constraint)
    assert {constraint["rule"] for row in rows for constraint in row["meta"]["constraints"]} == set(RULES)
    assert BUNDLED.read_text().isascii()


# --- answers that are up to something -------------------------------------------------------------

HOSTILE = [
    *(character * 200_000 for character in "\n *-[]<\"',.#aAéП漢1{"),
    *(pair * 100_000 for pair in ("[ ", "<<", "* ", "\n\n", "\n ", "***", "Section", ". ", "a.", "p.", "\ud7ff\n")),
    "<<" + "a" * 200_000,
    "[" * 100_000 + "\n" + "]" * 100_000,
    '{"a":' * 100_000,
    "```json" * 10_000,
    "\x00\u2028\u200f\U0001f600" * 50_000,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_no_answer_takes_a_rule_long(number):
    started = time.process_time()
    for rule, arguments, *_ in CASES:
        assert follows(HOSTILE[number], {"rule": rule, **arguments}) in (True, False)
    assert time.process_time() - started < 20  # 40 cases; one that is quadratic takes minutes


# --- scores ---------------------------------------------------------------------------------------

ROWS = [
    {
        "id": "a",
        "prompt": "?",
        "constraints": [{"rule": "quoted"}, {"rule": "no_commas"}],
        "reference": '"a"',
    },
    {"prompt": "?", "constraints": [{"rule": "words", "at_most": 2}]},
]


@pytest.fixture
def asked(tmp_path):
    """A prompt set of ROWS, in a folder."""
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    flags = {
        "kind": "rule_checks",
        "input": tmp_path / "rows.jsonl",
        "sampling": json.dumps(SAMPLING | {"samples": 2}),
    }
    call_named(prompts.main, flags | {"output": tmp_path / "set.jsonl", "manifest": tmp_path / "set.json"})
    return tmp_path


def scores(folder, answers):
    write_jsonl(folder / "answers.jsonl", answers)
    flags = {"prompts": folder / "set.jsonl", "generations": folder / "answers.jsonl"}
    call_named(
        rule_checks.main, flags | {"settings": '{"benchmark": "mine"}', "output": folder / "scores.json"}
    )
    found = read_json(folder / "scores.json")
    assert found["benchmark"] == "mine"
    return {(cell["subset"], cell["metric"]): cell for cell in found["cells"]}


def test_scores_count_prompts_and_constraints_strictly_and_loosely(asked):
    texts = {"a": ['"x, y"', 'So:\n"x"'], "2": ["one two three", ""]}
    answers = [
        {"id": name, "sample": sample, "turn": 0, "text": text, "finish_reason": ("stop", "length")[sample]}
        for name, both in texts.items()
        for sample, text in enumerate(both)
    ]
    found = scores(asked, answers)
    values = {key: cell["columns"]["value"] for key, cell in found.items()}
    assert values == {
        ("all", "prompt_strict"): [0.0, 0.0],
        ("all", "instruction_strict"): [0.5, 0.5, 0.0],
        ("length", "instruction_strict"): [0.0],
        ("punctuation", "instruction_strict"): [0.5],
        ("start_end", "instruction_strict"): [0.5],
        ("all", "prompt_loose"): [0.5, 0.0],
        ("all", "instruction_loose"): [1.0, 0.5, 0.0],
        ("length", "instruction_loose"): [0.0],
        ("punctuation", "instruction_loose"): [0.5],
        ("start_end", "instruction_loose"): [1.0],
        ("all", "finished"): [0.5, 0.5],
    }
    cell = found["all", "instruction_loose"]
    assert (cell["items"], cell["groups"]) == (["a#1", "a#2", "2#1"], ["a", "a", "2"])
    assert cell["bounds"] == [0, 1]


def test_gold_says_its_references_and_is_counted_where_it_has_none(asked, capsys):
    flags = {"prompts": asked / "set.json", "output": asked / "gold.jsonl", "manifest": asked / "gold.json"}
    call_named(calibrate.main, flags | {"policy": "gold"})
    assert "1 of 2 prompts have no reference" in capsys.readouterr().err
    assert read_json(asked / "gold.json")["counts"]["without_reference"] == 1
    found = scores(asked, read_jsonl(asked / "gold.jsonl"))
    assert found["all", "prompt_strict"]["columns"]["value"] == [1.0, 0.0]
    call_named(calibrate.main, flags | {"policy": "empty"})
    assert "without_reference" not in read_json(asked / "gold.json")["counts"]


# --- IFEval's own code ----------------------------------------------------------------------------

ELSEWHERE = {  # these need nltk's data
    "length_constraints:number_sentences",
    "change_case:capital_word_frequency",
}
GIVEN = {
    "keywords:existence": {"keywords": ["cell", "water"]},
    "keywords:frequency": {"keyword": "cell", "frequency": 2, "relation": "at least"},
    "keywords:forbidden_words": {"forbidden_words": ["cell", "dna"]},
    "keywords:letter_frequency": {"letter": "e", "let_frequency": 4, "let_relation": "less than"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_words": {"num_words": 9, "relation": "at least"},
    "length_constraints:nth_paragraph_first_word": {
        "num_paragraphs": 2,
        "nth_paragraph": 2,
        "first_word": "water",
    },
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:number_bullet_lists": {"num_bullets": 2},
    "detectable_format:constrained_response": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "detectable_format:multiple_sections": {"section_spliter": "Section", "num_sections": 2},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "combination:two_responses": {},
    "combination:repeat_prompt": {"prompt_to_repeat": "What is a cell?"},
    "startend:end_checker": {"end_phrase": "Any other questions?"},
    "startend:quotation": {},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "punctuation:no_comma": {},
}
PIECES = [
    "cell", "Water", "water", "dna", "A cell, a cell.", "My answer is no.", "* one", "- two", "*big*", "**bold**",
    "***", "******", "[name]", "[", "]", "<<A title>>", "<<", ">>", "Section 1", "Section 2", "P.S.", "p. s.", '"',
    "'Water", "What is a cell?", "Any other questions?", '{"a": 1}', "```json", "```", "WATER", "eee", "\n", "\n\n",
    "\n\n", " ", "*",
]  # fmt: skip


@pytest.fixture(scope="module")
def ifeval():
    """IFEval's checkers, as the harness brings them, without what only the language and nltk's data would need."""
    pytest.importorskip("lm_eval")
    detector = types.ModuleType("langdetect")
    detector.detect = lambda text: "en"
    detector.LangDetectException = ValueError
    immutable = types.ModuleType("immutabledict")
    immutable.immutabledict = dict
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "langdetect", detector)
        patch.setitem(sys.modules, "immutabledict", immutable)
        patch.setattr("nltk.data.find", lambda name: name)
        yield importlib.import_module("lm_eval.tasks.ifeval.utils")
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        del sys.modules[name]


def test_our_rules_and_loose_readings_are_ifevals_own(ifeval):
    draw = random.Random(0)
    assert set(GIVEN) | ELSEWHERE == set(PUBLISHED)
    texts = [
        "".join(draw.choice(PIECES) + draw.choice(["", " ", "\n"]) for _ in range(draw.randrange(1, 14)))
        for _ in range(1500)
    ]
    texts += [row["reference"] for row in read_jsonl(BUNDLED)]
    row = published_row(*GIVEN.items())
    ours = constraints_of(row, "here")
    case = ifeval.InputExample(1, row["instruction_id_list"], "Do.", row["kwargs"])
    met = [0] * len(ours)
    for text in texts:
        strict = ifeval.test_instruction_following_strict(case, text).follow_instruction_list
        loose = ifeval.test_instruction_following_loose(case, text).follow_instruction_list
        for place, constraint in enumerate(ours):
            name = row["instruction_id_list"][place]
            if name == "detectable_format:number_bullet_lists" and "*\n" in text:
                continue  # a lone mark: see common.ifeval
            assert (strict[place], loose[place]) == (strictly(text, constraint), loosely(text, constraint)), (
                name,
                text,
            )
            met[place] += strict[place]
    assert all(0 < count < len(texts) for count in met), met  # each is both met and missed


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"constraints": []}, "row 1: has no constraints"),
        (
            {"constraints": [{"rule": "words", "at_least": 5, "at_most": 3}]},
            "at_least 5 is more than at_most 3",
        ),
        (
            {"constraints": [{"rule": "no_commas"}], "reference": "a, b"},
            "its reference does not meet no_commas",
        ),
    ],
)
def test_a_row_that_no_answer_or_not_its_own_could_meet_is_refused(tmp_path, row, said):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Say it."} | row), encoding="utf-8")
    with pytest.raises(PlumblineError, match=said):
        prompts.rule_checks_prompts(path)


def test_a_key_that_nobody_reads_is_counted(tmp_path, capsys):
    """A reference under a wrong name would leave gold without a word."""
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "Say it.", "constraints": [{"rule": "no_commas"}], "referense": "It."}
    path.write_text(f"{json.dumps(row)}\n" * 2, encoding="utf-8")
    prompts.rule_checks_prompts(path)
    assert "'referense' is not read (in 2 of 2 rows)" in capsys.readouterr().err
