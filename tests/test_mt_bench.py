"""What MT-Bench promises: FastChat's prompts, grammar and numbers on the same judgments, and no verdict lost."""

import argparse
import importlib
import json
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pandas
import pytest

from tests.judge_requests import ENDPOINT
from workflow_scripts.common.asking.requests import Reply
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, read_jsonl, write_jsonl
from workflow_scripts.score.judging.answers import judge_all, requests_of
from workflow_scripts.score.judging.forms import read_templates
from workflow_scripts.score.judging.questions import against_opponent, questions_of
from workflow_scripts.score.mt_bench import score, score_pairwise
from workflow_scripts.score.verdicts import values_of

PROMPTS = [
    {"id": name, "group": name, "messages": [], "followups": ["more"], "meta": {"category": category}}
    for name, category in (("1", "writing"), ("2", "writing"), ("3", "math"))
]
RATINGS = {("1", 0): 8, ("1", 1): 6, ("2", 0): 3, ("2", 1): None, ("3", 0): 10, ("3", 1): 1}
GENERATIONS = [{"id": name, "sample": 0, "turn": turn, "text": "x"} for name, turn in RATINGS]
VERDICTS = [row | {"rating": rating} for row, rating in zip(GENERATIONS, RATINGS.values(), strict=True)]
DATA = Path(__file__).parents[1] / "data" / "bundled"


def cells(generations=GENERATIONS, verdicts=VERDICTS):
    found = score(PROMPTS, values_of(PROMPTS, generations, verdicts, "rating", "verdicts.jsonl"))
    return {(cell["subset"], cell["metric"]): cell for cell in found}


def mean(cell):
    return sum(cell["columns"]["value"]) / len(cell["items"])


def test_means_are_those_of_the_published_table():
    """FastChat's show_result drops score -1 and averages over (model, turn), then over the model."""
    frame = pandas.DataFrame(
        [{"turn": turn, "score": -1 if rating is None else rating} for (_, turn), rating in RATINGS.items()]
    )
    frame = frame[frame["score"] != -1]
    found = cells()
    assert mean(found["turn1", "rating"]) == frame[frame["turn"] == 0]["score"].mean() == 7
    assert mean(found["turn2", "rating"]) == frame[frame["turn"] == 1]["score"].mean() == 3.5
    assert mean(found["overall", "rating"]) == pytest.approx(frame["score"].mean()) == pytest.approx(5.6)


def test_each_category_has_its_mean_and_questions_are_the_groups():
    found = cells()
    assert mean(found["writing", "rating"]) == pytest.approx(17 / 3)
    assert mean(found["math", "rating"]) == 5.5
    assert found["overall", "rating"]["items"] == ["1#1", "1#2", "2#1", "3#1", "3#2"]
    assert found["overall", "rating"]["groups"] == ["1", "1", "2", "3", "3"]
    assert found["turn1", "rating"]["items"] == ["1", "2", "3"]


def test_a_failed_verdict_is_in_no_mean_but_counted():
    cell = cells()["overall", "failed"]
    assert cell["columns"]["value"] == [0, 0, 0, 1, 0, 0]
    assert cell["higher_is_better"] is False
    assert len(cells()["turn2", "rating"]["items"]) == 2


def test_an_item_is_the_mean_over_its_samples():
    more = [row | {"sample": 1} for row in GENERATIONS]
    verdicts = VERDICTS + [row | {"rating": 10} for row in more]
    found = cells(GENERATIONS + more, verdicts)
    assert found["turn1", "rating"]["columns"]["value"] == [9, 6.5, 10]
    assert found["turn2", "rating"]["columns"]["value"] == [8, 10, 5.5]
    assert found["overall", "failed"]["columns"]["value"] == [0, 0, 0, 0.5, 0, 0]


def test_a_mean_of_no_verdicts_is_left_out():
    verdicts = [row | {"rating": None} if row["turn"] else row for row in VERDICTS]
    found = cells(verdicts=verdicts)
    assert ("turn2", "rating") not in found and ("turn1", "rating") in found


def test_a_rating_off_the_scale_counts_as_in_fastchat_and_is_shown():
    assert ("overall", "off_scale") not in cells()
    verdicts = [row | {"rating": 0} if row["id"] == "3" else row for row in VERDICTS]
    found = cells(verdicts=verdicts)
    assert found["overall", "off_scale"]["columns"]["value"] == [0, 0, 0, 0, 1, 1]
    assert found["overall", "off_scale"]["higher_is_better"] is False
    assert mean(found["math", "rating"]) == 0


PREFERENCES = {("1", 0): 1, ("1", 1): 0.5, ("2", 0): 0, ("2", 1): None, ("3", 0): 1, ("3", 1): 0.5}


def pairwise_cells(preferences=PREFERENCES):
    verdicts = [
        row | {"preference": value} for row, value in zip(GENERATIONS, preferences.values(), strict=True)
    ]
    values = values_of(PROMPTS, GENERATIONS, verdicts, "preference", "verdicts.jsonl")
    return {(cell["subset"], cell["metric"]): cell for cell in score_pairwise(PROMPTS, values)}


def test_a_tie_is_half_a_win_in_the_adjusted_rate_alone():
    found = pairwise_cells()
    assert mean(found["overall", "win_rate_adjusted"]) == pytest.approx((2 + 0.5 * 2) / 5)
    assert mean(found["overall", "win_rate"]) == pytest.approx(2 / 5)
    assert mean(found["overall", "loss_rate"]) == pytest.approx(1 / 5)
    assert found["overall", "loss_rate"]["higher_is_better"] is False
    assert found["overall", "failed"]["columns"]["value"] == [0, 0, 0, 1, 0, 0]
    assert mean(found["turn2", "win_rate_adjusted"]) == 0.5
    assert mean(found["writing", "win_rate_adjusted"]) == 0.5


def test_ratings_are_no_preferences():
    with pytest.raises(PlumblineError, match="no preference; judge again"):
        values_of(PROMPTS, GENERATIONS, VERDICTS, "preference", "verdicts.jsonl")


@pytest.mark.parametrize(
    ("generations", "verdicts", "message"),
    [
        (GENERATIONS, VERDICTS[:-1], "turn 1, sample 0 of '3'; judge again"),
        (GENERATIONS[:-1], VERDICTS, "judge again"),
        (GENERATIONS, [*VERDICTS, VERDICTS[0]], "judge again"),
        (GENERATIONS[:-1], VERDICTS[:-1], "turn 1 of '3'.*generate again"),
    ],
)
def test_answers_and_verdicts_match_one_to_one(generations, verdicts, message):
    with pytest.raises(PlumblineError, match=message):
        cells(generations, verdicts)


# --- FastChat's own code as the measure -----------------------------------------------------------------

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
QUESTIONS = [
    {
        "question_id": 81 + number,
        "category": category,
        "turns": [f"{category} {number}? {{x}}", f"And {number}?"],
    }
    for number, category in enumerate(CATEGORIES * 3)
]
SINGLE = {
    "single-v1": "Rate.\n{question}\n<{answer}>",
    "single-math-v1": "Rate {{}}.\n{question}\nright: {ref_answer_1}\n<{answer}>",
    "single-v1-multi-turn": "Q {question_1} A {answer_1} Q {question_2} A {answer_2}",
    "single-math-v1-multi-turn": (
        "Q {question_1} R {ref_answer_1} Q {question_2} R {ref_answer_2}\nA {answer_1} A {answer_2}"
    ),
}
PAIR = {
    "pair-v2": "{question}\nA <{answer_a}>\nB <{answer_b}>",
    "pair-math-v1": "{question}\nright: {ref_answer_1}\nA <{answer_a}>\nB <{answer_b}>",
    "pair-v2-multi-turn": "{question_1} {question_2} A {answer_a_1} {answer_a_2} B {answer_b_1} {answer_b_2}",
    "pair-math-v1-multi-turn": (
        "{question_1} {ref_answer_1} {question_2} {ref_answer_2} "
        "A {answer_a_1} {answer_a_2} B {answer_b_1} {answer_b_2}"
    ),
}


def template_rows(pair_format="[[A]]"):
    """Return judge prompts in FastChat's form: one with an empty system prompt, which it does not send."""
    rows = []
    for prompts, kind, form in ((SINGLE, "single", "[[rating]]"), (PAIR, "pairwise", pair_format)):
        for name, text in prompts.items():
            system = "" if name == "single-v1-multi-turn" else f"You judge by {name}."
            rows.append(
                {
                    "name": name,
                    "type": kind,
                    "system_prompt": system,
                    "prompt_template": text,
                    "output_format": form,
                }
            )
    return rows


def said(model, number, turn):
    return f"{model} on {number}, turn {turn}: {'{braces} ' * (number % 3)}end"


def judgment_of(messages):
    """Return a judge's words, the same for the same prompt: good and bad grammar of all the kinds FastChat reads."""
    number = zlib.crc32(messages[-1]["content"].encode())
    choices = ("[[A]]", "[[B]]", "[[C]]", "[[B]] or [[A]]", "A is better", "[[C]], not [[B]]")
    ratings = ("[[8]]", "[[6.5]]", "[7]", "see [3], so [[9]]", "nine", "[[10]]", "[[0]]", "$ERROR$")
    pairs = ("[[8,6]]", "[[5, 7.5]]", "[6,6.1]", "[[9,9]]", "8 and 6", "[[1,10]]")
    return f"So: {ratings[number % 8]}; {choices[number % 6]}; {pairs[number % 6]}."


@pytest.fixture(scope="module")
def fastchat():
    """FastChat's judging modules: with its model zoo left out, which takes half a minute to import, and its clients."""
    from fastchat.conversation import get_conv_template

    zoo = types.ModuleType("fastchat.model.model_adapter")
    zoo.get_conversation_template = lambda model: get_conv_template("chatgpt")  # what its zoo gives for gpt-4
    zoo.OPENAI_MODEL_LIST, zoo.ANTHROPIC_MODEL_LIST = ["gpt-4"], []
    names = ("anthropic", "fastchat.model", zoo.__name__)
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, zoo if name == zoo.__name__ else types.ModuleType(name))
        modules = {
            name: importlib.import_module(f"fastchat.llm_judge.{name}")
            for name in ("common", "gen_judgment", "show_result")
        }
        yield types.SimpleNamespace(**modules)
        for name in modules:
            sys.modules.pop(f"fastchat.llm_judge.{name}")


class TheirJudging:
    """FastChat's gen_judgment on our questions: what it sends, the judgments it writes, the numbers it shows."""

    def __init__(self, fastchat, templates, mode, file, patch, questions=QUESTIONS):
        self.sent, self.file, self.patch, self.module = [], file, patch, fastchat
        common, generation = fastchat.common, fastchat.gen_judgment

        def chat(model, conversation, temperature, max_tokens):
            self.sent.append(conversation.to_openai_api_messages())
            return judgment_of(self.sent[-1])

        patch.setattr(common, "chat_completion_openai", chat)
        patch.setattr(common, "print", lambda *words: None, raising=False)
        make = generation.make_judge_single if mode == "single" else generation.make_judge_pairwise
        match = generation.make_match_single if mode == "single" else generation.make_match
        play = generation.play_a_match_single if mode == "single" else generation.play_a_match_pair
        judges = make("gpt-4", templates)

        def answers(model):
            return {
                row["question_id"]: {
                    "choices": [{"turns": [said(model, row["question_id"], t) for t in (1, 2)]}]
                }
                for row in questions
            }

        given = {model: answers(model) for model in ("mine", "other")}
        references = {"gpt-4": answers("reference")}
        for guided in (False, True):
            part = [row for row in questions if (row["category"] in common.NEED_REF_CATS) == guided]
            for later in (False, True):
                name = ("math" if guided else "default") + ("-mt" if later else "")
                extra = [references] if guided else []
                for one in match(part, ["mine"], given, judges[name], "other", *extra, multi_turn=later):
                    play(one, output_file=str(file))

    def shown(self, mode):
        """Return the tables that show_result prints."""
        tables = []
        keep = lambda value: tables.append(value) if isinstance(value, pandas.DataFrame) else None  # noqa: E731
        self.patch.setattr(self.module.show_result, "print", keep, raising=False)
        args = argparse.Namespace(
            input_file=str(self.file), model_list=None, bench_name="mt_bench", baseline_model="other"
        )
        name = "display_result_single" if mode == "single" else "display_result_pairwise"
        getattr(self.module.show_result, name)(args)
        return tables


JUDGE = ENDPOINT | {"model": "gpt-4", "max_tokens": 2048}


def our_judging(templates, mode, questions=QUESTIONS):
    """Return (prompts, generations, requests, verdicts) of our judging of the same answers."""
    prompts = [
        {
            "id": str(row["question_id"]),
            "group": str(row["question_id"]),
            "messages": [{"role": "user", "content": row["turns"][0]}],
            "followups": row["turns"][1:],
            "reference": [said("reference", row["question_id"], turn) for turn in (1, 2)],
            "meta": {"category": row["category"]},
        }
        for row in questions
    ]

    def answers(model):
        return [
            {"id": row["id"], "sample": 0, "turn": turn, "text": said(model, int(row["id"]), turn + 1)}
            for row in prompts
            for turn in (0, 1)
        ]

    asked = questions_of(prompts, answers("mine"), "mine")
    if mode == "pairwise":
        asked = against_opponent(asked, questions_of(prompts, answers("other"), "other"), "other")

    def ask(requests):
        return [Reply(judgment_of(request.messages), None, None) for request in requests]

    verdicts = judge_all(asked, "mt_bench", {"mode": mode}, JUDGE, templates, ask)
    requests = requests_of(asked, "mt_bench", {"mode": mode}, JUDGE, templates)
    return prompts, answers("mine"), requests, verdicts


@pytest.fixture(params=["single", "pairwise", "pairwise by ratings"])
def both(request, fastchat, tmp_path, monkeypatch):
    """FastChat's judging and ours, with the same judge prompts, questions, answers and judge."""
    mode = request.param.split()[0]
    form = "[[rating_a,rating_b]]" if "ratings" in request.param else "[[A]]"
    write_jsonl(tmp_path / "judge_prompts.jsonl", template_rows(form))
    their_templates = fastchat.common.load_judge_prompts(str(tmp_path / "judge_prompts.jsonl"))
    theirs = TheirJudging(fastchat, their_templates, mode, tmp_path / "judgments.jsonl", monkeypatch)
    return mode, theirs, our_judging(read_templates(tmp_path / "judge_prompts.jsonl"), mode)


def test_the_judge_is_sent_fastchats_messages_to_the_letter(both):
    mode, theirs, (_, _, requests, _) = both
    assert len(requests) == len(QUESTIONS) * 2 * (1 if mode == "single" else 2)
    ours = [json.dumps(request.messages) for request in requests]
    assert sorted(ours) == sorted(map(json.dumps, theirs.sent))


def test_each_judgment_is_read_as_fastchat_reads_it(both):
    mode, theirs, (_, _, _, verdicts) = both
    judgments = {(str(row["question_id"]), row["turn"] - 1): row for row in read_jsonl(theirs.file)}
    assert len(judgments) == len(verdicts)
    kinds = set()
    for row in verdicts:
        their = judgments[row["id"], row["turn"]]
        if mode == "single":
            expected = None if their["score"] == -1 else their["score"]
            assert row["rating"] == expected
        else:
            winners = (their["g1_winner"], their["g2_winner"])
            if "error" in winners:
                expected = None
            else:
                expected = {("model_1",) * 2: 1, ("model_2",) * 2: 0}.get(winners, 0.5)
            assert row["preference"] == expected
        assert ("failed" in row) == (expected is None)
        kinds.add(expected)
    assert None in kinds and len(kinds) >= 4  # the judgments are of all kinds


def test_the_numbers_are_those_of_show_result_and_what_it_drops_is_counted(both):
    mode, theirs, (prompts, generations, _, verdicts) = both
    tables = theirs.shown(mode)
    key = "rating" if mode == "single" else "preference"
    values = values_of(prompts, generations, verdicts, key, "verdicts")
    found = (score if mode == "single" else score_pairwise)(prompts, values)
    found = {(cell["subset"], cell["metric"]): cell for cell in found}
    if mode == "single":
        expected = [table.loc["mine"]["score"] for table in tables]
        expected = [float(value.iloc[0]) if hasattr(value, "iloc") else value for value in expected]
        ours = [mean(found[subset, "rating"]) for subset in ("turn1", "turn2", "overall")]
        dropped = sum(row["score"] == -1 for row in read_jsonl(theirs.file))
    else:
        row = tables[0].loc["mine"]
        metrics = ("win_rate", "loss_rate", "win_rate_adjusted")
        expected, ours = [row[name] for name in metrics], [mean(found["overall", name]) for name in metrics]
        dropped = sum("error" in (row["g1_winner"], row["g2_winner"]) for row in read_jsonl(theirs.file))
        assert row["win"] > 0 and row["loss"] > 0 and row["tie"] > 0
    assert ours == pytest.approx(expected, rel=1e-12)
    assert dropped > 0 and sum(found["overall", "failed"]["columns"]["value"]) == dropped


def test_reference_guided_categories_are_fastchats(fastchat):
    from workflow_scripts.score.judging.forms import NEEDS_REFERENCE

    assert set(NEEDS_REFERENCE) == set(fastchat.common.NEED_REF_CATS) & set(CATEGORIES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "no 'single-v1'"),
        (lambda rows: [row | {"prompt_template": "{nothing}"} for row in rows], r"no \{nothing\} to fill in"),
        (lambda rows: [row | {"output_format": "[[x]]"} for row in rows], r"output format '\[\[x\]\]'"),
        (lambda rows: [{"name": "single-v1"}], "row 1 lacks system_prompt, prompt_template, output_format"),
    ],
)
def test_judge_prompts_that_are_not_fastchats_are_said(tmp_path, change, message):
    write_jsonl(tmp_path / "judge_prompts.jsonl", change(template_rows()))
    with pytest.raises(PlumblineError, match=message):
        our_judging(read_templates(tmp_path / "judge_prompts.jsonl"), "single")


def test_a_guided_question_without_reference_and_a_third_turn_are_errors(tmp_path):
    write_jsonl(tmp_path / "judge_prompts.jsonl", template_rows())
    templates = read_templates(tmp_path / "judge_prompts.jsonl")
    prompt = {"id": "1", "messages": [{"role": "user", "content": "2+2?"}], "followups": [], "meta": {}}
    for extra, message in (
        ({"meta": {"category": "math"}}, "category math and has no reference"),
        ({"followups": ["a", "b"]}, "more than two turns"),
    ):
        row = prompt | extra
        rows = [
            {"id": "1", "sample": 0, "turn": turn, "text": "4"} for turn in range(1 + len(row["followups"]))
        ]
        with pytest.raises(PlumblineError, match=message):
            requests_of(questions_of([row], rows, "x"), "mt_bench", {"mode": "single"}, JUDGE, templates)


def test_the_command_line_writes_a_score_file_without_torch(tmp_path):
    for name, rows in (("prompts", PROMPTS), ("generations", GENERATIONS), ("verdicts", VERDICTS)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    flags = [
        part
        for name in ("prompts", "generations", "verdicts")
        for part in (f"--{name}", str(tmp_path / f"{name}.jsonl"))
    ]
    flags += [
        "--settings",
        '{"benchmark": "mine", "mode": "single"}',
        "--output",
        str(tmp_path / "scores.json"),
    ]
    code = (
        "import sys, runpy; sys.argv = ['score', *sys.argv[1:]]\n"
        "runpy.run_module('workflow_scripts.score.mt_bench', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *flags], check=True)
    written = read_json(tmp_path / "scores.json")
    assert written["benchmark"] == "mine" and len(written["cells"]) == 6


def test_the_bundled_questions_have_the_eight_categories_and_two_turns_each():
    rows = read_jsonl(DATA / "mt_bench_biology.jsonl")
    assert pandas.Series([row["category"] for row in rows]).value_counts().to_dict() == dict.fromkeys(
        "writing roleplay reasoning math coding extraction stem humanities".split(), 2
    )
    assert all(len(row["turns"]) == len(row["reference"]) == 2 for row in rows)
    assert len({row["question_id"] for row in rows}) == 16
    assert (DATA / "mt_bench_biology.jsonl").read_text().isascii()
