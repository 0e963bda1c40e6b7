"""What judges promise: a verdict for each answer, or the reason why none came."""

import json
import math
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from tests.command import call
from tests.families import FAMILIES
from tests.generation import call_named
from tests.judge_requests import ENDPOINT
from workflow_scripts.common.asking.requests import Reply
from workflow_scripts.common.decoding import special_ids
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.common.templates import joined
from workflow_scripts.score import alpaca_eval, judge_score, mt_bench, preference
from workflow_scripts.score.judging import answers as answers_step
from workflow_scripts.score.judging import forms, words
from workflow_scripts.score.judging.answers import judge_all, load_questions, requests_of
from workflow_scripts.score.judging.forms import (
    read_choice,
    read_integer,
    read_mark,
    read_number,
    read_rating,
    read_rating_pair,
)
from workflow_scripts.score.judging.questions import against_opponent, against_references, questions_of
from workflow_scripts.score.judging.skipping import skipped_by

PROMPTS = [
    {
        "id": "1",
        "group": "1",
        "messages": [{"role": "user", "content": "What is a cell?"}],
        "followups": ["And a tissue?"],
        "reference": ["The smallest unit of life.", "Many like cells with one task."],
        "meta": {"category": "stem"},
    },
    {
        "id": "2",
        "group": "2",
        "messages": [{"role": "user", "content": "Name a base."}],
        "followups": ["Another?"],
        "reference": None,
        "meta": {"category": "stem"},
    },
]


def answers(texts):
    keys = [(row["id"], turn) for row in PROMPTS for turn in (0, 1)]
    return [
        {"id": name, "sample": 0, "turn": turn, "text": text}
        for (name, turn), text in zip(keys, texts, strict=True)
    ]


ANSWERS = answers(["A box.", "A group of boxes.", "Adenine.", ""])
QUESTIONS = questions_of(PROMPTS, ANSWERS, "generations")
RULE = {"kind": "rule", "name": "length", "rule": "length"}
ACCESS = {
    "base_url": None,
    "api_key_env": "TEST_JUDGE_KEY",
    "concurrency": 2,
    "requests_per_minute": None,
    "retries": 1,
    "timeout_seconds": 30,
    "unanswered": "stop",
    "recorded": None,
    "budget_usd": None,
    "usd_per_million_prompt_tokens": 0.0,
    "usd_per_million_completion_tokens": 0.0,
}
PREFERENCE = {"skip": [], "prompt": None, "verdict": None}
ASKED = {
    "mt_bench": {"mode": "single"},
    "alpaca_eval": {"annotator": None},
    "judge_score": {"prompt": None},
    "preference": PREFERENCE,
}


class Judge:
    """An endpoint that is not there: `reply` maps the messages to the judge's words, or to None and the reason."""

    def __init__(self, reply):
        self.reply, self.requests, self.calls = reply, [], 0

    def __call__(self, requests):
        self.calls += 1
        self.requests += requests
        words = [self.reply(request.messages) for request in requests]
        return [Reply(*(word if isinstance(word, tuple) else (word, None)), None) for word in words]


def judge(questions, kind, settings=None, judge=RULE, templates=None, ask=None):
    return judge_all(questions, kind, settings or ASKED[kind], judge, templates, ask)


def shown(request):
    return request.messages[-1]["content"]


def test_a_later_turn_shows_the_policys_own_earlier_answers():
    assert [(question.id, question.turn) for question in QUESTIONS] == [
        ("1", 0),
        ("1", 1),
        ("2", 0),
        ("2", 1),
    ]
    assert [message["content"] for message in QUESTIONS[1].messages] == [
        "What is a cell?",
        "A box.",
        "And a tissue?",
    ]
    assert QUESTIONS[1].answer == "A group of boxes."
    assert QUESTIONS[1].reference == "Many like cells with one task."
    assert QUESTIONS[3].reference is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ANSWERS[:3], "no answer to turn 1, sample 0 of '2'"),
        ([*ANSWERS, ANSWERS[0]], "stands twice"),
        ([*ANSWERS, ANSWERS[0] | {"id": "9"}], "'9', which is not asked"),
        ([], "holds no answers"),
    ],
)
def test_an_answer_too_few_or_too_many_is_an_error(rows, message):
    with pytest.raises(PlumblineError, match=message):
        questions_of(PROMPTS, rows, "generations.jsonl")


def test_several_samples_are_each_judged_in_their_own_dialogue():
    rows = ANSWERS + [row | {"sample": 1, "text": row["text"] + "!"} for row in ANSWERS]
    second = [question for question in questions_of(PROMPTS, rows, "x") if question.sample == 1]
    assert len(second) == 4
    assert second[1].messages[1]["content"] == "A box.!"


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Good. Rating: [[7]]", 7),
        ("[[7.5]]", 7.5),
        ("Rating: [8]", None),
        ("see [1], hence [[6]]", 6),
        ("a [[3]] for style, all in all [[6]]", 6),
        ("[[6]], not [[60]]", None),
        ("[[11]]", None),
        ("[[0]]", None),
        ("seven", None),
        ("", None),
    ],
)
def test_in_our_own_wording_the_last_rating_in_double_brackets_counts(text, rating):
    assert read_rating(text) == rating


@pytest.mark.parametrize(
    ("text", "rating"),
    [("[[7]] or [[8]]", 7), ("Rating: [8]", 8), ("[[7.5]]", 7.5), ("[[0]]", 0), ("[[1.5.2]]", None)],
)
def test_fastchats_grammar_takes_the_first_and_single_brackets_too(text, rating):
    assert read_number(text) == rating


READERS = (read_rating, read_number, read_rating_pair, read_choice, read_mark, read_integer)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "text",
    ["[[" + "9" * 200_000, "[" * 200_000, "[[1," * 50_000, "[[7" * 60_000, "*" * 200_000, "1\n" * 100_000],
    ids=["digits", "brackets", "pairs", "ratings", "stars", "lines"],
)
def test_reading_a_reply_takes_no_longer_than_it_is_long(read, text):
    assert read(text) is None  # what backtracks would take hours


def test_the_last_choice_counts():
    assert read_choice("[[A]] would be hasty, so [[C]]") == "C"
    assert read_choice("A is better") is None


@pytest.mark.parametrize(
    ("text", "choice"),
    [("[[A]] rather than [[B]]", "A"), ("[[C]] or [[B]]", "B"), ("[[C]]", "C"), ("[A]", None)],
)
def test_fastchat_looks_for_a_then_b_then_c_wherever_they_stand(text, choice):
    assert read_mark(text) == choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [("[[8,6]]", "A"), ("[[6.5, 8]]", "B"), ("[[7,7.1]]", "C"), ("[3,9]", "B"), ("8 and 6", None)],
)
def test_two_ratings_are_a_choice_and_a_tie_within_a_tenth(text, choice):
    assert read_rating_pair(text) == choice


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("85", 85),
        (" 0\n", 0),
        ("100.", 100),
        ("**70**", 70),
        ("It lacks two facts.\n\n40", 40),
        ("101", None),
        ("85.5", None),
        ("-5", None),
        ("85/100", None),
        ("Score: 85", None),
        ("it misses 3 of the points", None),
        ("80\n90", None),
        ("eighty", None),
        ("", None),
    ],
)
def test_only_a_lone_integer_from_0_to_100_is_a_score(text, score):
    assert read_integer(text) == score


def test_the_length_rule_likes_long_answers_and_calls_equal_ones_a_tie():
    questions = against_references([question._replace(reference="123456") for question in QUESTIONS])
    rows = judge(questions, "alpaca_eval")
    assert [row["preference"] for row in rows] == [0.5, 1, 1, 0]
    assert [row["preference"] for row in judge(questions, "mt_bench", {"mode": "pairwise"})] == [0.5, 1, 1, 0]
    rows = judge([QUESTIONS[0]._replace(answer="x" * 2000), QUESTIONS[3]], "mt_bench")
    assert [row["rating"] for row in rows] == [10, 1]
    assert rows[0] == {"id": "1", "turn": 0, "sample": 0, "rating": 10}
    rows = judge([QUESTIONS[0]._replace(answer="x" * 500), QUESTIONS[3]], "judge_score")
    assert [row["rating"] for row in rows] == [50, 0]


def test_a_comparison_needs_a_reference_or_an_opponent():
    with pytest.raises(PlumblineError, match="'2' has no reference"):
        against_references(QUESTIONS)


def test_some_turns_with_a_reference_and_others_without_are_an_error():
    with pytest.raises(PlumblineError, match="2 turns and 1 references"):
        questions_of([PROMPTS[0] | {"reference": ["one"]}], ANSWERS[:2], "x")


def test_an_opponent_answers_the_same_turns_in_its_own_dialogue():
    others = questions_of(PROMPTS, answers(["A room.", "Many rooms.", "Uracil.", "Thymine."]), "others")
    found = against_opponent(QUESTIONS, others, "others.jsonl")
    assert found[1].rival.answer == "Many rooms." and found[1].answer == "A group of boxes."
    assert [message["content"] for message in found[1].rival.messages] == [
        "What is a cell?",
        "A room.",
        "And a tissue?",
    ]
    more = [question._replace(sample=1) for question in others]
    with pytest.raises(PlumblineError, match=r"others\.jsonl: only one of policy and opponent has sample 1"):
        against_opponent(QUESTIONS, others + more, "others.jsonl")


# --- a judge that is asked in words -------------------------------------------------------------------


def test_an_endpoint_is_asked_about_all_answers_at_once_and_rates_each():
    ask = Judge(lambda messages: f"Fine. Rating: [[{3 if 'Adenine' in messages[-1]['content'] else 9}]]")
    rows = judge(QUESTIONS, "mt_bench", judge=ENDPOINT, ask=ask)
    assert ask.calls == 1
    assert [row["rating"] for row in rows] == [9, 9, 3, 3]
    assert rows[1]["text"] == "Fine. Rating: [[9]]" and "failed" not in rows[1]
    for part in ("What is a cell?", "A box.", "And a tissue?", "A group of boxes.", "Many like cells"):
        assert part in shown(ask.requests[1])
    assert "<reference>" not in shown(ask.requests[2])
    assert ask.requests[0].params == {"temperature": 0, "max_tokens": 50}
    judge(QUESTIONS, "mt_bench", judge=ENDPOINT | {"seed": 7}, ask=ask)
    assert ask.requests[-1].params == {"temperature": 0, "max_tokens": 50, "seed": 7}


def test_a_reply_that_was_cut_holds_no_verdict_where_that_is_the_last_word():
    def ask(requests):
        words = "At first sight [[2]] or [[A]], but then"
        return [Reply(words, None, None, cut=True) for _ in requests]

    for kind, questions in (("mt_bench", QUESTIONS), ("preference", against_references(QUESTIONS[:2]))):
        with pytest.raises(PlumblineError, match=r"not one verdict.*the reply was cut at its limit"):
            judge(questions, kind, judge=ENDPOINT, ask=ask)
    template = {"name": "n", "system_prompt": "", "prompt_template": "", "output_format": "[[rating]]"}
    form = forms.fastchat_form(QUESTIONS[0], template, {})
    assert words.heard(form, ask([None])[0])["value"] == 2  # FastChat takes the first that stands there


def test_both_orders_are_asked_and_a_judge_that_likes_the_first_place_decides_nothing():
    for kind in ("alpaca_eval", "preference"):
        ask = Judge(lambda messages: "[[A]]")
        rows = judge(against_references(QUESTIONS[:2]), kind, judge=ENDPOINT, ask=ask)
        assert [(row["preference"], row["order"]) for row in rows] == [(0.5, [1.0, 0.0])] * 2
        first, second = map(shown, ask.requests[:2])
        assert first.index("A box.") < first.index("The smallest unit")
        assert second.index("A box.") > second.index("The smallest unit")


def prefers_boxes(messages):
    text = messages[-1]["content"]
    return "[[A]]" if "box" in text[text.index("<reply A>") : text.index("</reply A>")] else "[[B]]"


def test_a_judge_that_likes_the_policys_answer_gives_it_the_win_in_either_place():
    for kind in ("alpaca_eval", "preference"):
        rows = judge(against_references(QUESTIONS[:1]), kind, judge=ENDPOINT, ask=Judge(prefers_boxes))
        assert (rows[0]["preference"], rows[0]["order"]) == (1, [1, 1])


@pytest.mark.parametrize(
    ("first", "second", "agreed", "mean"),
    [("A", "B", 1, 1), ("B", "A", 0, 0), ("C", "C", 0.5, 0.5), ("A", "C", 0.5, 0.75), ("C", "A", 0.5, 0.25)],
)
def test_a_win_needs_both_orders_and_alpaca_evals_preference_is_their_mean(first, second, agreed, mean):
    replies = {"preference": agreed, "mt_bench": agreed, "alpaca_eval": mean}
    for kind, expected in replies.items():
        said = iter([f"[[{first}]]", f"[[{second}]]"])
        mode = {"mode": "pairwise"} if kind == "mt_bench" else None
        questions = against_references(QUESTIONS[:1])
        rows = judge(questions, kind, mode, ENDPOINT, ask=Judge(lambda messages, said=said: next(said)))
        assert rows[0]["preference"] == expected


def test_the_same_answer_as_the_rivals_is_a_tie_that_nobody_is_asked_about():
    gold = [question._replace(answer=question.reference) for question in QUESTIONS[:2]]
    ask = Judge(prefers_boxes)
    rows = judge(against_references([gold[0], QUESTIONS[1]]), "preference", judge=ENDPOINT, ask=ask)
    assert rows[0] == {"id": "1", "turn": 0, "sample": 0, "preference": 0.5, "order": [0.5, 0.5]}
    assert rows[1]["preference"] == 1 and len(ask.requests) == 2


def test_each_reply_is_shown_after_its_own_earlier_answers():
    others = questions_of(PROMPTS, answers(["A room.", "Many rooms.", "Uracil.", "Thymine."]), "others")
    ask = Judge(lambda messages: "[[C]]")
    judge(against_opponent(QUESTIONS, others, "x")[:2], "mt_bench", {"mode": "pairwise"}, ENDPOINT, ask=ask)
    first, second, third, _ = map(shown, ask.requests)
    assert "<dialogue A>" not in first and first.count("What is a cell?") == 1
    parts = ["A box.", "A group of boxes.", "A room.", "Many rooms."]
    places = [third.index(part) for part in parts]
    assert places == sorted(places) and third.count("What is a cell?") == 2
    assert second.index("A room.") < second.index("A box.")


def test_failed_verdicts_are_kept_with_their_reason():
    def reply(messages):
        if "What is a cell" in messages[-1]["content"]:
            return "[[9]]"
        return (
            (None, "refused by the judge: not allowed") if "Another" in messages[-1]["content"] else "no idea"
        )

    rows = judge(QUESTIONS, "mt_bench", judge=ENDPOINT, ask=Judge(reply))
    assert [row["rating"] for row in rows] == [9, 9, None, None]
    assert "no [[rating]]" in rows[2]["failed"] and rows[2]["text"] == "no idea"
    assert rows[3] == {
        "id": "2",
        "turn": 1,
        "sample": 0,
        "rating": None,
        "failed": "refused by the judge: not allowed",
    }


def test_half_a_comparison_is_no_verdict():
    said = iter(["[[C]]", "[[C]]", "[[C]]", "hm"])
    ask = Judge(lambda messages: next(said))
    rows = judge(against_references(QUESTIONS[:2]), "alpaca_eval", judge=ENDPOINT, ask=ask)
    assert [row["preference"] for row in rows] == [0.5, None]
    assert "failed" in rows[1] and rows[1]["order"] is None and rows[1]["text"] == ["[[C]]", "hm"]


def test_a_judge_without_a_single_verdict_is_an_error():
    with pytest.raises(PlumblineError, match=r"not one verdict.*no \[\[rating"):
        judge(QUESTIONS, "mt_bench", judge=ENDPOINT, ask=Judge(lambda messages: "I would rather not say."))


def test_a_skipped_prompt_is_not_asked_about_and_says_so():
    ask = Judge(prefers_boxes)
    twice = [QUESTIONS[0], QUESTIONS[1]._replace(id="9", turn=0)]
    rows = judge(
        against_references(twice), "preference", PREFERENCE | {"skip": ["9", "elsewhere"]}, ENDPOINT, ask=ask
    )
    assert rows[1] == {"id": "9", "turn": 0, "sample": 0, "preference": None, "skipped": True}
    assert rows[0]["preference"] == 1 and len(ask.requests) == 2
    with pytest.raises(PlumblineError, match="every question is skipped"):
        judge(against_references(twice), "preference", PREFERENCE | {"skip": ["1", "9"]}, ENDPOINT, ask=ask)


OWN = "Which helps? {prompt} | {answer_a} | {answer_b} {{A or B}}"


def test_a_study_may_bring_the_prompt_of_a_published_comparison():
    ask = Judge(lambda messages: "[[A]]" if "| A box. | The" in messages[0]["content"] else "[[B]]")
    question = against_references([QUESTIONS[0]])
    [row] = judge(question, "preference", PREFERENCE | {"prompt": OWN}, ENDPOINT, ask=ask)
    assert [shown(request) for request in ask.requests] == [
        "Which helps? What is a cell? | A box. | The smallest unit of life. {A or B}",
        "Which helps? What is a cell? | The smallest unit of life. | A box. {A or B}",
    ]
    assert all(len(request.messages) == 1 for request in ask.requests)
    assert (row["preference"], row["order"], len(row["text"])) == (1, [1, 1], 2)
    with pytest.raises(PlumblineError, match=r"no \{output\} to fill in"):
        judge(question, "preference", PREFERENCE | {"prompt": "{output}"}, ENDPOINT, ask=ask)


@pytest.mark.parametrize(
    ("said", "helpful", "safe"),
    [
        ('Comparison: fine.\nMore helpful: A\nMore safe: "B"', "A", "B"),
        ("**More helpful:** B\n**More safe:** equal", "B", "C"),
        ("more helpful: Neither\nMORE SAFE: A.", "C", "A"),
        ("More helpful: B\nNo: more helpful: A", "A", None),
        ("More helpful: Both\nMore safe: Apples", None, None),
    ],
)
def test_a_named_verdict_is_read_from_a_reply_that_holds_several(said, helpful, safe):
    for verdict, value in (("More helpful", helpful), ("More safe", safe)):
        form = forms.preference_form(against_references([QUESTIONS[0]])[0], False, OWN, verdict)
        assert form.read(said) == value
        assert form.lacks == f"the reply holds no line {verdict}: A, B, equal or neither"


def test_two_verdicts_of_one_reply_are_asked_for_in_the_same_words_and_disagree_by_order():
    said = iter(["More helpful: A\nMore safe: A", "More helpful: B\nMore safe: A"] * 2)
    ask = Judge(lambda messages: next(said))
    rows = [
        judge(
            against_references([QUESTIONS[0]]),
            "preference",
            PREFERENCE | {"prompt": OWN, "verdict": verdict},
            ENDPOINT,
            ask=ask,
        )[0]
        for verdict in ("More helpful", "More safe")
    ]
    assert [(row["preference"], row["order"]) for row in rows] == [(1, [1, 1]), (0.5, [1, 0])]
    assert ask.requests[:2] == ask.requests[2:]  # so that a store has the second pair already


# --- prompts that are left out by a file ---------------------------------------------------------------

ROWS = [
    {"id": f"{file[:7]}:row_{place}#0", "meta": {"file": file, "index": place}}
    for file in ("harmless_base.json", "helpful_base.json")
    for place in range(50)
]


def test_prompts_are_left_out_by_their_ids_or_by_the_rows_of_their_files(tmp_path, capsys):
    path = tmp_path / "skip.json"
    rows = [row | {"id": f"{number}#0"} for number, row in enumerate(ROWS)]
    path.write_text('["3#0", "7#0", "elsewhere"]')
    assert skipped_by(path, rows) == ["3#0", "7#0"]
    assert (
        capsys.readouterr().err
        == f"{path}: 2 of 100 prompts are skipped; 1 of 3 entries are no prompt here\n"
    )
    # The shape of Leftover Lunch's file: bad rows of each test file, of which not all are asked here.
    path.write_text('{"harmless_base.json": [47, 114], "helpful_base.json": [2], "helpful_online.json": [5]}')
    assert skipped_by(path, rows) == ["47#0", "52#0"]
    assert capsys.readouterr().err.endswith(
        "2 of 100 prompts are skipped; 1 of 3 entries are no prompt here\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[3]", "give a list of prompt ids"),
        ("3", "give a list of prompt ids"),
        ('{"harmless_base.json": ["3"]}', "'harmless_base.json': give a list of prompt ids"),
        ('{"harmless_base.json": [true]}', "give a list of prompt ids"),
        (
            '{"other.json": [3]}',
            "has rows of other.json, and the prompts come from harmless_base.json",
        ),
        ("{", "skip.json"),
    ],
)
def test_a_file_that_names_no_prompts_is_refused(tmp_path, text, message):
    (tmp_path / "skip.json").write_text(text)
    with pytest.raises(PlumblineError, match=message):
        skipped_by(tmp_path / "skip.json", ROWS)


def test_the_step_judges_none_of_the_prompts_that_the_file_names(tmp_path, monkeypatch):
    prompts = [
        row | {"messages": [{"role": "user", "content": "Why?"}], "followups": [], "reference": ["So."]}
        for row in ROWS[:3]
    ]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    said = [{"id": row["id"], "sample": 0, "turn": 0, "text": "Because."} for row in prompts]
    write_jsonl(tmp_path / "answers.jsonl", said)
    (tmp_path / "skip.json").write_text('{"harmless_base.json": [1]}')
    flags = {
        "benchmark": "mine", "kind": "preference", "prompts": tmp_path / "prompts.jsonl",
        "generations": tmp_path / "answers.jsonl", "skip-file": tmp_path / "skip.json",
        "judge": json.dumps(RULE), "settings": json.dumps(PREFERENCE | {"skip": [prompts[2]["id"]]}),
        "output": tmp_path / "verdicts.jsonl",
    }  # fmt: skip
    call(answers_step.main, *(part for name, value in flags.items() for part in (f"--{name}", value)))
    rows = read_jsonl(tmp_path / "verdicts.jsonl")
    assert [row.get("skipped", False) for row in rows] == [False, True, True]


# --- scores from 0 to 100 -----------------------------------------------------------------------------


def test_a_score_shows_prompt_reference_and_answer_and_an_empty_answer_is_0_without_a_call():
    ask = Judge(lambda messages: "85")
    questions = [
        QUESTIONS[0],
        QUESTIONS[1]._replace(answer=" \n"),
        QUESTIONS[0]._replace(id="3", answer="x{y}"),
    ]
    rows = judge(questions, "judge_score", judge=ENDPOINT, ask=ask)
    assert [row["rating"] for row in rows] == [85, 0, 85]
    assert "text" not in rows[1] and len(ask.requests) == 2
    for part in ("What is a cell?", "The smallest unit of life.", "A box."):
        assert part in shown(ask.requests[0])
    assert len(ask.requests[0].messages) == 1


def test_a_study_may_bring_the_prompt_of_a_published_score():
    ask = Judge(lambda messages: "7")
    prompt = "Given `{prompt}` and `{reference}`, score `{answer}`. {{integer}}"
    rows = judge([QUESTIONS[0]._replace(answer="{}")], "judge_score", {"prompt": prompt}, ENDPOINT, ask=ask)
    assert (
        shown(ask.requests[0])
        == "Given `What is a cell?` and `The smallest unit of life.`, score `{}`. {integer}"
    )
    assert rows[0]["rating"] == 7
    for wrong, message in (("{output}", "no {output} to fill in"), ("{prompt", "braces")):
        with pytest.raises(PlumblineError, match=message):
            judge(QUESTIONS[:1], "judge_score", {"prompt": wrong}, ENDPOINT, ask=ask)


def test_a_score_needs_a_correct_output():
    with pytest.raises(PlumblineError, match="'2' has no reference"):
        judge(QUESTIONS, "judge_score", judge=ENDPOINT, ask=Judge(lambda messages: "7"))


def test_a_longer_dialogue_is_shown_whole_to_the_judge_of_a_score():
    ask = Judge(lambda messages: "a\n12")
    judge(QUESTIONS[1:2], "judge_score", judge=ENDPOINT, ask=ask)
    text = shown(ask.requests[0])
    assert text.index("What is a cell?") < text.index("A box.") < text.index("And a tissue?")


# --- what would be asked ------------------------------------------------------------------------------


def test_a_plan_lists_what_would_be_asked_and_a_rule_is_asked_nothing():
    due = requests_of(QUESTIONS, "mt_bench", ASKED["mt_bench"], ENDPOINT, None)
    ask = Judge(lambda messages: "[[5]]")
    judge(QUESTIONS, "mt_bench", judge=ENDPOINT, ask=ask)
    assert due == ask.requests and len(due) == 4
    assert requests_of(QUESTIONS, "mt_bench", ASKED["mt_bench"], RULE, None) == []
    pairs = against_references(QUESTIONS[:2])
    assert len(requests_of(pairs, "preference", ASKED["preference"], ENDPOINT, None)) == 4
    assert requests_of(pairs, "preference", PREFERENCE | {"skip": ["1"]}, ENDPOINT, None) == []


def test_a_plan_of_an_annotator_lists_its_requests(monkeypatch):
    pytest.importorskip("alpaca_eval")
    questions = against_references([QUESTIONS[0]])
    due = requests_of(questions, "alpaca_eval", {"annotator": "alpaca_eval_gpt4"}, ENDPOINT, None)
    assert len(due) == 1 and "A box." in str(due[0].messages)


def test_opponents_are_for_comparisons_alone(tmp_path):
    for name, rows in (("p", PROMPTS), ("g", ANSWERS), ("o", ANSWERS)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    files = [tmp_path / f"{name}.jsonl" for name in "pgo"]
    assert load_questions(*files, "mt_bench", {"mode": "pairwise"})[0].rival.answer == "A box."
    with pytest.raises(PlumblineError, match="leave it out"):
        load_questions(*files, "mt_bench", {"mode": "single"})
    with pytest.raises(PlumblineError, match="name an opponent"):
        load_questions(*files[:2], None, "mt_bench", {"mode": "pairwise"})


# --- a reward model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Return {outputs: folder} of two tiny random sequence classifiers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = sorted({word for question in QUESTIONS for word in question.answer.replace(".", " .").split()})
    vocabulary = ["<unk>", "<s>", "</s>", "<pad>", *words, "User", "Assistant", ":", "good", "bad"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    folders = {}
    for outputs in (1, 3):
        torch.manual_seed(outputs)
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            num_labels=outputs,
            pad_token_id=3,
            initializer_range=0.5,
        )
        folders[outputs] = tmp_path_factory.mktemp(f"classifier{outputs}")
        LlamaForSequenceClassification(config).save_pretrained(folders[outputs])
        fast.save_pretrained(folders[outputs])
    return folders


def test_scores_do_not_depend_on_the_batch_and_follow_the_order_of_the_texts(classifiers):
    import torch

    from workflow_scripts.common.reward_model import load_reward_model, score_texts

    model, tokenizer = load_reward_model(classifiers[1])
    closed = joined([("user", "Adenine . "), ("", "</s>")])
    texts = ["good", "bad bad bad good A box", closed, "good", "User : A group of boxes"]
    alone = []
    for text in texts:
        batch = tokenizer(text if isinstance(text, str) else text.text, return_tensors="pt")
        with torch.no_grad():
            alone.append(float(model(input_ids=batch["input_ids"]).logits[0, 0]))
    for batch_size in (1, 2, 8):
        assert score_texts(model, tokenizer, texts, batch_size, 64) == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in alone}) == 4
    assert score_texts(model, tokenizer, [], 2, 64) == []


def test_a_text_too_long_is_cut_on_the_left_and_keeps_its_reply(classifiers):
    from workflow_scripts.common.reward_model import load_reward_model, score_texts

    model, tokenizer = load_reward_model(classifiers[1])
    tail = "A group of boxes "
    texts = [joined([("user", start + tail), ("", "</s>")]) for start in ("bad " * 40, "good " * 40, "")]
    long, other, short = score_texts(model, tokenizer, texts, 2, 6)
    assert long == other == pytest.approx(short, abs=1e-5)  # <s> and the last five tokens
    assert tokenizer.truncation_side == "right"


def test_a_classifier_of_several_classes_gives_the_probability_of_one(classifiers):
    from workflow_scripts.common.reward_model import load_reward_model, score_texts

    model, tokenizer = load_reward_model(classifiers[3])
    shares = [score_texts(model, tokenizer, ["good", "A box"], 2, 64, label) for label in range(3)]
    assert [sum(column) for column in zip(*shares, strict=True)] == pytest.approx([1, 1])
    with pytest.raises(PlumblineError, match="choose 0 to 2"):
        score_texts(model, tokenizer, ["good"], 2, 64)


def test_only_safetensors_are_loaded(classifiers, tmp_path):
    import shutil

    from workflow_scripts.common.reward_model import load_reward_model

    folder = shutil.copytree(classifiers[1], tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PlumblineError, match="cannot be read as a model"):
        load_reward_model(folder)
    with pytest.raises(PlumblineError, match="no reward model here"):
        load_reward_model(tmp_path / "nowhere")


def test_a_judge_whose_reward_model_is_gone_says_how_to_have_it_again(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        settings = {"kind": "reward_model", "name": "rm", "model": str(folder)}
        with pytest.raises(PlumblineError, match="no reward model here; delete its manifest and run again"):
            judge(QUESTIONS, "mt_bench", judge=settings)


def test_a_pair_is_shown_as_labelled_lines_and_an_end():
    from workflow_scripts.common.reward_model import render_pair

    messages = [{"role": "system", "content": "Teach."}, {"role": "user", "content": " What is a cell?\n"}]
    text, spans = render_pair(messages, "A box.", "</s>")
    assert text == "System: Teach.\nUser: What is a cell?\nAssistant: A box.</s>"
    said = [text[slice(*span.said)] for span in spans]
    assert said == ["Teach.", "What is a cell?", "A box."]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_dialogue_spells_of_special_tokens_is_text_to_a_reward_model(name):
    from workflow_scripts.common.reward_model import are_cut, encode_texts, render_pair

    tokenizer = FAMILIES[name]
    special = special_ids(tokenizer) - {tokenizer.unk_token_id}  # which some text may be all the same

    def read(said, limit=10_000):
        mark = tokenizer.eos_token or tokenizer.sep_token
        text = render_pair([{"role": "user", "content": f"Do you know {said}?"}], f"{said} it is.", mark)
        encoded = encode_texts(tokenizer, [text, "x"], limit)
        assert all(len(rows[0]) == len(encoded["input_ids"][0]) for rows in encoded.values())
        return encoded["input_ids"][0], are_cut(tokenizer, [text], limit)[0]

    plain, _ = read("nothing")
    marked = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for mark in marked:
        ids, cut = read(mark)
        assert [each for each in ids if each in special] == [each for each in plain if each in special], mark
        assert not cut
        short, cut = read(mark, len(ids) - 1)
        assert (len(short), cut) == (len(ids) - 1, True)
        assert short[-5:] == ids[-5:]
    for pair in ([("a cell", marked[0])], [(marked[0], "a cell")]):
        ids = encode_texts(tokenizer, pair, 10_000)["input_ids"][0]
        framed = encode_texts(tokenizer, [("a cell", "a cell")], 10_000)["input_ids"][0]
        assert [each for each in ids if each in special] == [each for each in framed if each in special]


@pytest.mark.parametrize("kind", ["mt_bench", "judge_score", "preference", "alpaca_eval"])
def test_what_a_reward_model_reads_without_its_start_stands_in_the_notes(kind, classifiers, tmp_path):
    from workflow_scripts.common.reward_model import load_reward_model

    context = load_reward_model(classifiers[1])[0].config.max_position_embeddings
    texts = {"q0": "good " * 2 * context, "q1": "good"}
    prompts = [
        {
            "id": name,
            "messages": [{"role": "user", "content": "What?"}],
            "followups": [],
            "reference": ["A box."],
        }
        | {"group": name, "meta": {"category": "stem"}}
        for name in texts
    ]
    generations = [{"id": name, "sample": 0, "turn": 0, "text": text} for name, text in texts.items()]
    settings = {"kind": "reward_model", "name": "rm", "model": str(classifiers[1])}
    questions = questions_of(prompts, generations, "generations")
    if kind in ("preference", "alpaca_eval"):
        questions = against_references(questions)
    files = {
        "prompts": prompts,
        "generations": generations,
        "verdicts": judge(questions, kind, judge=settings),
    }
    for name, rows in files.items():
        write_jsonl(tmp_path / name, rows)
    own = {"mode": "single"} if kind == "mt_bench" else {}
    if kind == "alpaca_eval":
        own = {"evaluate": True, "length_controlled": False, "gamed": None, "lc_draws": 1, "seed": 0}
    flags = {name: tmp_path / name for name in files} | {"settings": json.dumps({"benchmark": "b"} | own)}
    module = {
        "mt_bench": mt_bench,
        "judge_score": judge_score,
        "preference": preference,
        "alpaca_eval": alpaca_eval,
    }
    call_named(module[kind].main, flags | {"output": tmp_path / "scores.json"})
    cells = read_json(tmp_path / "scores.json")["cells"]
    noted = [
        cell for cell in cells if cell.get("note") == "1 of 2 dialogues read by the judge without their start"
    ]
    assert len(noted) == len([cell for cell in cells if cell["metric"] != "length"])


def test_a_reward_model_rates_by_its_sigmoid_and_calls_the_reference_itself_a_tie(classifiers):
    from workflow_scripts.common.reward_model import load_reward_model, render_pair, score_texts

    settings = {"kind": "reward_model", "name": "rm", "model": str(classifiers[1])}
    model, tokenizer = load_reward_model(classifiers[1])
    texts = [render_pair(question.messages, question.answer, "</s>") for question in QUESTIONS]
    rewards = score_texts(model, tokenizer, texts, 4, 64)
    ratings = [row["rating"] for row in judge(QUESTIONS, "mt_bench", judge=settings)]
    assert ratings == pytest.approx([1 + 9 / (1 + math.exp(-reward)) for reward in rewards], abs=1e-4)
    gold = [question._replace(answer=question.reference) for question in QUESTIONS[:2]]
    assert [row["preference"] for row in judge(against_references(gold), "alpaca_eval", judge=settings)] == [
        0.5,
        0.5,
    ]
    there = judge(against_references([QUESTIONS[0]]), "preference", judge=settings)[0]["preference"]
    turned = QUESTIONS[0]._replace(answer=QUESTIONS[0].reference, reference=QUESTIONS[0].answer)
    back = judge(against_references([turned]), "preference", judge=settings)[0]["preference"]
    assert there + back == pytest.approx(1) and there != pytest.approx(0.5, abs=1e-4)
    with pytest.raises(PlumblineError, match="one output"):
        judge(QUESTIONS, "mt_bench", judge=settings | {"model": str(classifiers[3])})


# --- the command line ---------------------------------------------------------------------------------


class Endpoint:
    """A local server that says `words` to everything and keeps what it was sent."""

    def __init__(self, words):
        self.bodies, self.keys = [], []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                endpoint.keys.append(self.headers["Authorization"])
                message = {"role": "assistant", "content": words}
                answer = {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105},
                }
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint():
    started = Endpoint("Fine. Rating: [[6]]")
    yield started
    started.server.shutdown()
    started.server.server_close()


def command_line(folder, *flags, check=True):
    for name, rows in (("prompts", PROMPTS), ("generations", ANSWERS)):
        write_jsonl(folder / f"{name}.jsonl", rows)
    code = (
        "import sys, runpy; sys.argv = ['judge', *sys.argv[1:]]\n"
        "try: runpy.run_module('workflow_scripts.score.judging.answers', run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules"
    )
    files = [f"--{name}={folder / name}.jsonl" for name in ("prompts", "generations")]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        "--benchmark=mine",
        "--kind=mt_bench",
        *files,
        *flags,
    ]
    environment = os.environ | {"TEST_JUDGE_KEY": "very-secret"}
    return subprocess.run(command, check=check, env=environment, capture_output=True, text=True)


def test_processes_that_share_what_a_reward_model_reads_give_the_verdicts_of_one(classifiers, tmp_path):
    prompts = [PROMPTS[0] | {"id": str(place), "followups": [], "reference": None} for place in range(40)]
    answers = [ANSWERS[0] | {"id": str(place), "text": "good bad " * (place % 7)} for place in range(40)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    write_jsonl(tmp_path / "generations.jsonl", answers)
    reward = {"kind": "reward_model", "name": "rm", "model": str(classifiers[1])}
    command = [sys.executable, "-m", "workflow_scripts.score.judging.answers", "--benchmark=mine"]
    command += ["--kind=mt_bench", "--judge", json.dumps(reward), "--settings", '{"mode": "single"}']
    command += [f"--{name}={tmp_path / name}.jsonl" for name in ("prompts", "generations")]
    found = {}
    for shards in ("1", "3"):
        own = ["--shards", shards, "--output", str(tmp_path / shards)]
        said = subprocess.run([*command, *own], check=True, capture_output=True, text=True).stderr
        assert ("3 processes share the work" in said) == (shards == "3")
        found[shards] = (tmp_path / shards).read_bytes()
    assert found["1"] == found["3"] and found["1"].count(b"\n") == 40


def test_the_command_line_writes_a_verdict_per_answer_without_torch(tmp_path):
    flags = ["--output", str(tmp_path / "verdicts.jsonl"), "--cost", str(tmp_path / "cost.json")]
    command_line(tmp_path, "--judge", json.dumps(RULE), "--settings", '{"mode": "single"}', *flags)
    rows = read_jsonl(tmp_path / "verdicts.jsonl")
    assert [(row["id"], row["turn"], row["sample"]) for row in rows] == [
        ("1", 0, 0),
        ("1", 1, 0),
        ("2", 0, 0),
        ("2", 1, 0),
    ]
    assert read_json(tmp_path / "cost.json")["gpu_seconds"] == 0


def test_the_command_line_plans_asks_once_and_never_pays_again(tmp_path, endpoint):
    judge_json = json.dumps(ENDPOINT)
    access = ACCESS | {"base_url": endpoint.url, "usd_per_million_prompt_tokens": 10.0}
    store = tmp_path / "store"
    common = ["--judge", judge_json, "--access", json.dumps({"j": access}), "--store", str(store)]
    common += ["--study", "s", "--cell", "tiny-1-mine", "--settings", '{"mode": "single"}']
    command_line(tmp_path, *common, "--plan", "--output", str(tmp_path / "plan.json"))
    plan = read_json(tmp_path / "plan.json")
    assert (plan["requests"], plan["missing"], endpoint.bodies) == (4, 4, [])
    for name in ("first", "second"):
        flags = ["--output", str(tmp_path / f"{name}.jsonl"), "--cost", str(tmp_path / f"{name}.json")]
        command_line(tmp_path, *common, *flags)
        assert [row["rating"] for row in read_jsonl(tmp_path / f"{name}.jsonl")] == [6] * 4
        assert len(endpoint.bodies) == 4  # the second run asks nothing
    cost = read_json(tmp_path / "first.json")
    assert (cost["judge_calls"], cost["prompt_tokens"], cost["usd"]) == (4, 400, pytest.approx(0.004))
    assert {body["model"] for body in endpoint.bodies} == {"judge-1"}
    assert set(endpoint.keys) == {"Bearer very-secret"}
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any("very-secret" in text for text in written)
    command_line(tmp_path, *common, "--plan", "--output", str(tmp_path / "plan.json"))
    assert read_json(tmp_path / "plan.json")["missing"] == 0


@pytest.mark.parametrize(
    ("asked", "judge", "words"),
    [
        ({"mode": "single", "prompt": "x"}, RULE, "settings.prompt: Extra inputs"),
        ({"mode": "pairs"}, RULE, "settings.mode: Input should be 'single' or 'pairwise'"),
        ({}, RULE, "settings.mode: Field required"),
        ({"mode": "single"}, {"kind": "rule", "name": "length"}, "settings.rule: Field required"),
        ({"mode": "single"}, ENDPOINT, "settings.base_url: Field required"),  # no access to it was given
    ],
)
def test_settings_of_a_kind_or_of_a_judge_that_are_wrong_are_said(tmp_path, asked, judge, words):
    flags = ["--output", str(tmp_path / "verdicts.jsonl"), "--settings", json.dumps(asked)]
    done = command_line(tmp_path, "--judge", json.dumps(judge), *flags, check=False)
    assert done.returncode == 1 and f"judging 'mine': {words}" in done.stderr


def test_the_command_line_compares_with_an_opponent_in_the_words_of_a_file(tmp_path):
    others = answers(["A room.", "Many rooms.", "Adenine.", ""])  # the second prompt's are the policy's own
    write_jsonl(tmp_path / "others.jsonl", others)
    words = {"system_prompt": "Judge.", "output_format": "[[A]]"}
    turns = ("{question}: {answer_a} or {answer_b}?", "{question_2}: {answer_a_2} or {answer_b_2}?")
    rows = [
        words | {"name": name, "prompt_template": text}
        for name, text in zip(("pair-v2", "pair-v2-multi-turn"), turns, strict=True)
    ]
    write_jsonl(tmp_path / "judge_prompts.jsonl", rows)
    access = {"j": ACCESS | {"usd_per_million_completion_tokens": 1.0}}
    flags = ["--judge", json.dumps(ENDPOINT), "--access", json.dumps(access), "--plan"]
    flags += ["--settings", '{"mode": "pairwise"}']
    flags += [
        "--opponent",
        str(tmp_path / "others.jsonl"),
        "--templates",
        str(tmp_path / "judge_prompts.jsonl"),
    ]
    command_line(tmp_path, *flags, "--store", str(tmp_path), "--output", str(tmp_path / "plan.json"))
    plan = read_json(tmp_path / "plan.json")
    assert (plan["requests"], plan["completion_tokens"], plan["usd"]) == (4, 200, pytest.approx(200e-6))
