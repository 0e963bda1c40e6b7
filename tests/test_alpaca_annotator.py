"""What the package's annotators promise when our client asks for them: the same preferences, and no footprints."""

import hashlib
import math
from pathlib import Path
from unittest import mock

import alpaca_eval
import pytest
from alpaca_eval import utils
from alpaca_eval.constants import EVALUATORS_CONFIG_DIR
from openai.types.chat import ChatCompletion

from tests.judge_requests import ENDPOINT
from workflow_scripts.common.asking.requests import Reply
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.score.alpaca_eval import score
from workflow_scripts.score.judging.alpaca_annotator import compare
from workflow_scripts.score.judging.questions import Question

JUDGE = ENDPOINT | {"model": "judge"}
RANKED, WEIGHTED, BATCHED = (
    "alpaca_eval_gpt4",
    "weighted_alpaca_eval_gpt4_turbo",
    "alpaca_farm_greedy_gpt4",
)


def question(number, answer, reference):
    messages = [{"role": "user", "content": f"Instruction {number}: say {'much ' * (number % 5)}"}]
    return Question(str(number), 0, 0, messages, answer, reference)


# Enough for two chunks of the package; the third answer is the reference, the fourth is empty.
QUESTIONS = [
    question(
        number,
        {2: "Same.", 3: ""}.get(number, f"Mine {number} {'long ' * (number % 7)}"),
        "Same." if number == 2 else f"Theirs {number} {'wide ' * (number % 4)}",
    )
    for number in range(140)
]


def canned(messages, style):
    """Return (text, log-probs) by the messages alone, now and then nonsense: a judge with a liking for places."""
    number = hashlib.sha256(repr(messages).encode()).digest()[0]
    if number < 20:
        return "no idea", [
            {"token": "no", "logprob": -0.1, "top_logprobs": [{"token": "no", "logprob": -0.1}]}
        ]
    if style == RANKED:
        first = "model_1" if number < 160 else "model_2"
        second = "model_2" if first == "model_1" else "model_1"
        return f"[{{'model': '{first}', 'rank': 1}}, {{'model': '{second}', 'rank': 2}}]", None
    if style == BATCHED:
        return "\n".join(f"Output ({'ab'[number >> place & 1]})" for place in range(5)), None
    chance = number / 256
    top = [
        {"token": "m", "logprob": math.log(chance)},
        {"token": "M", "logprob": math.log(1 - chance)},
        {"token": "x", "logprob": -9.0},
    ]
    return "m", [{"token": "m", "logprob": math.log(chance), "top_logprobs": top}]


class Endpoint:
    """What the package's decoder takes for an OpenAI client: replies are canned, requests are kept."""

    def __init__(self, style):
        self.style, self.requests = style, []
        self.chat = self.completions = self

    def create(self, messages, **params):
        self.requests.append((messages, params))
        text, logprobs = canned(messages, self.style)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
            "logprobs": None
            if logprobs is None
            else {
                "content": [
                    entry
                    | {
                        "bytes": None,
                        "top_logprobs": [top | {"bytes": None} for top in entry["top_logprobs"]],
                    }
                    for entry in logprobs
                ]
            },
        }
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return ChatCompletion.model_validate(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "judge",
                "choices": [choice],
                "usage": usage,
            }
        )


def by_package(style):
    """Return the package's own leaderboard row, annotations and requests for the same answers and judge."""
    endpoint = Endpoint(style)
    rows = [[], []]
    for asked in QUESTIONS:
        for outputs, generator, text in zip(
            rows, ("them", "us"), (asked.reference, asked.answer), strict=True
        ):
            outputs.append(
                {"instruction": asked.messages[0]["content"], "output": text, "generator": generator}
            )
    with mock.patch.object(utils, "get_all_clients", lambda *_, **__: [endpoint]):
        board, annotations = alpaca_eval.evaluate(
            model_outputs=rows[1],
            reference_outputs=rows[0],
            annotators_config=style,
            output_path=None,
            precomputed_leaderboard=None,
            is_return_instead_of_print=True,
            fn_metric="get_winrate",
            sort_by="win_rate",
            caching_path=None,
        )
    return board.loc["us"], annotations, endpoint.requests


def ask_canned(style, requests_seen=None, batches=None):
    def ask(requests):
        if requests_seen is not None:
            requests_seen.extend(requests)
        if batches is not None:
            batches.append(len(requests))
        return [
            Reply(text, None, logprobs) for text, logprobs in (canned(r.messages, style) for r in requests)
        ]

    return ask


def by_length(requests):
    """A weighing judge that always has a preference, which hangs on the length of what it reads."""
    replies = []
    for request in requests:
        chance = (1 + len(request.messages[-1]["content"]) % 97) / 99
        tops = [
            {"token": "m", "logprob": math.log(chance)},
            {"token": "M", "logprob": math.log(1 - chance)},
        ]
        replies.append(Reply("m", None, [{"token": "m", "logprob": math.log(chance), "top_logprobs": tops}]))
    return replies


@pytest.mark.parametrize("style", [RANKED, WEIGHTED, BATCHED])
def test_the_same_replies_give_the_packages_preferences_and_win_rates(style):
    board, annotations, sent = by_package(style)
    seen = []
    verdicts = compare(QUESTIONS, style, JUDGE, ask_canned(style, seen))

    theirs = [None if row["preference"] is None else row["preference"] - 1 for row in annotations]
    theirs = [None if value is None or math.isnan(value) else value for value in theirs]
    assert [row["preference"] for row in verdicts] == theirs
    assert 0 < sum(value is None for value in theirs) < len(theirs) / 2

    def order(pair):
        return repr(pair[0])

    ours = [
        (request.messages, {name: request.params[name] for name in sorted(request.params)})
        for request in seen
    ]
    package = [
        (messages, {name: params[name] for name in sorted(params) if name != "model"})
        for messages, params in sent
    ]
    assert sorted(ours, key=order) == sorted(package, key=order)

    prompts = [{"id": row.id, "group": row.id, "reference": [row.reference]} for row in QUESTIONS]
    answers = {row.id: [{"sample": 0, "text": row.answer}] for row in QUESTIONS}
    rows = [{"id": row.id, "sample": 0} | verdict for row, verdict in zip(QUESTIONS, verdicts, strict=True)]
    own = {
        cell["metric"]: cell["columns"]["value"]
        for cell in score(prompts, answers, rows, {"length_controlled": False}, "v")
    }
    n = len(own["win_rate"])
    mean = sum(own["win_rate"]) / n
    spread = math.sqrt(sum((value - mean) ** 2 for value in own["win_rate"]) / (n - 1))
    assert 100 * mean == pytest.approx(board["win_rate"], rel=1e-12)
    assert 100 * spread / math.sqrt(n) == pytest.approx(board["standard_error"], rel=1e-12)
    assert 100 * sum(own["discrete_win_rate"]) / n == pytest.approx(board["discrete_win_rate"], rel=1e-12)
    counts = [own["discrete_win_rate"].count(value) for value in (1, 0, 0.5)]
    assert counts == [board["n_wins"], board["n_wins_base"], board["n_draws"]]
    assert n == board["n_total"]
    assert int(sum(len(row.answer) for row in QUESTIONS) / len(QUESTIONS)) == board["avg_length"]


def test_both_places_are_taken_and_a_place_alone_earns_about_half():
    seen = []

    def first_place(requests):
        seen.extend(requests)
        return [Reply("[{'model': 'model_1', 'rank': 1}]", None, None)] * len(requests)

    verdicts = compare(QUESTIONS, RANKED, JUDGE, first_place)
    wins = [row["preference"] for row in verdicts]
    assert set(wins) == {0, 0.5, 1} and wins.count(0.5) == 1
    assert 0.35 < sum(wins) / len(wins) < 0.65


def test_equal_answers_are_a_draw_that_nobody_is_asked_about():
    asked = []
    same = [row._replace(answer=row.reference) for row in QUESTIONS[:5]]
    assert compare(same, WEIGHTED, JUDGE, ask_canned(WEIGHTED, asked)) == [
        {"preference": 0.5, "order": None}
    ] * len(same)
    assert not asked


def test_all_requests_come_at_once_unless_a_prompt_holds_several_pairs():
    batches = []
    compare(QUESTIONS, WEIGHTED, JUDGE, ask_canned(WEIGHTED, batches=batches))
    assert batches == [len(QUESTIONS) - 1]
    batches.clear()
    compare(QUESTIONS, BATCHED, JUDGE, ask_canned(BATCHED, batches=batches))
    assert batches == [26, 3]  # 127 and 12 pairs, five a prompt


def test_failed_replies_are_verdicts_with_their_reason_and_the_judges_words():
    def ask(requests):
        kinds = [Reply(None, "refused by the judge: no", None), Reply("hm", None, None)]
        return [kinds["say much much" in r.messages[-1]["content"]] for r in requests]

    verdicts = compare([QUESTIONS[0], QUESTIONS[7], QUESTIONS[2]], RANKED, JUDGE, ask)
    assert verdicts == [
        {"preference": None, "order": None, "failed": "refused by the judge: no"},
        {
            "preference": None,
            "order": None,
            "failed": "the reply holds no preference that the annotator can read",
            "text": "hm",
        },
        {"preference": 0.5, "order": None},
    ]


def test_several_samples_of_a_prompt_are_judged_each_and_equal_ones_once():
    first = QUESTIONS[0]
    samples = [
        first,
        first._replace(sample=1, answer="Another."),
        first._replace(sample=2, answer=first.answer),
    ]
    asked = []

    def ask(requests):
        asked.extend(requests)
        return by_length(requests)

    verdicts = compare(samples, WEIGHTED, JUDGE, ask)
    assert len(asked) == 2 and verdicts[0] == verdicts[2] != verdicts[1]


@pytest.mark.parametrize("answer", ["so<|im_start|>", "a<|im_start|>b<|im_start|>c"])
def test_chat_marks_in_an_answer_fail_that_verdict_alone(answer):
    asked = []

    def ask(requests):
        asked.extend(requests)
        return by_length(requests)

    broken = QUESTIONS[0]._replace(answer=answer)
    verdicts = compare([QUESTIONS[5], broken, QUESTIONS[1]], WEIGHTED, JUDGE, ask)
    assert verdicts[1] == {
        "preference": None,
        "order": None,
        "failed": "not asked: chat marks in the answer break the annotator's prompt",
    }
    assert len(asked) == 2 and verdicts[0] == compare([QUESTIONS[5]], WEIGHTED, JUDGE, by_length)[0]


def test_the_judges_seed_is_sent_and_the_configurations_sampling_with_it():
    seen = []
    compare(QUESTIONS[:1], WEIGHTED, JUDGE | {"seed": 123}, ask_canned(WEIGHTED, seen))
    assert seen[0].params == {
        "max_tokens": 1,
        "temperature": 1,
        "top_p": 1.0,
        "logprobs": True,
        "top_logprobs": 5,
        "seed": 123,
    }
    assert [message["role"] for message in seen[0].messages] == ["system", "user"]


def test_nothing_is_written_beside_the_package_and_no_client_is_made(monkeypatch):
    package = Path(alpaca_eval.__file__).parent

    def files():
        return {path for path in package.rglob("*") if "__pycache__" not in path.parts}

    def no_client(*_, **__):
        raise AssertionError("the package made a client of its own")

    before = files()
    monkeypatch.setattr(utils, "get_all_clients", no_client)
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    verdicts = compare(QUESTIONS[:6], RANKED, JUDGE, ask_canned(RANKED))
    assert len(verdicts) == 6 and files() == before


def test_annotators_that_cannot_ask_through_a_chat_endpoint_are_refused():
    def never(_):
        raise AssertionError("asked")

    with pytest.raises(PlumblineError, match="did you mean 'alpaca_eval_gpt4'"):
        compare(QUESTIONS[:1], "alpaca_eval_gpt_4", JUDGE, never)
    for name in ("alpaca_eval_gpt4_fn", "claude", "text_davinci_003", "alpaca_farm"):
        with pytest.raises(PlumblineError, match=f"annotator '{name}' needs"):
            compare(QUESTIONS[:1], name, JUDGE, never)


def test_a_dialogue_or_a_missing_reference_is_refused():
    two = QUESTIONS[0]._replace(messages=QUESTIONS[0].messages * 2)
    for odd in (two, QUESTIONS[0]._replace(reference=None)):
        with pytest.raises(PlumblineError, match="one instruction with one reference"):
            compare([odd], WEIGHTED, JUDGE, ask_canned(WEIGHTED))


@pytest.mark.parametrize("name", ["gpt4", "lmsys_gpt4", "aviary_gpt4", "gpt4_turbo_clf", "chatgpt"])
def test_other_annotators_of_the_package_ask_as_well(name):
    assert (EVALUATORS_CONFIG_DIR / name / "configs.yaml").exists()
    seen = []
    verdicts = compare(QUESTIONS[:2], name, JUDGE, ask_canned(WEIGHTED, seen))
    assert len(verdicts) == 2 and len(seen) == 2
