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

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_jsonl, write_jsonl
from workflow_scripts.score import judge_answers
from workflow_scripts.score.judge_answers import judge, questions_of, read_choice, read_rating

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
        ("Rating: [8]", 8),
        ("see [1], hence [[6]]", 6),
        ("[[11]]", None),
        ("[[0]]", None),
        ("seven", None),
        ("", None),
    ],
)
def test_ratings_are_read_in_mt_benchs_grammar(text, rating):
    assert read_rating(text) == rating


def test_the_last_choice_counts():
    assert read_choice("[[A]] would be hasty, so [[C]]") == "C"
    assert read_choice("A is better") is None


def test_the_length_rule_likes_long_answers_and_calls_equal_ones_a_tie():
    questions = [question._replace(reference="123456") for question in QUESTIONS]
    rows = judge(questions, "alpaca_eval", {"kind": "rule", "rule": "length"})
    assert [row["preference"] for row in rows] == [0.5, 1, 1, 0]
    rows = judge([QUESTIONS[0]._replace(answer="x" * 2000), QUESTIONS[3]], "mt_bench", {"kind": "rule"})
    assert [row["rating"] for row in rows] == [10, 1]
    assert rows[0] == {"id": "1", "turn": 0, "sample": 0, "rating": 10}


def test_a_comparison_needs_a_reference():
    with pytest.raises(PlumblineError, match="'2' has no reference"):
        judge(QUESTIONS, "alpaca_eval", {"kind": "rule"})


# --- an OpenAI-compatible endpoint ----------------------------------------------------------------


class Endpoint:
    """A local server: `reply` maps a request's body to (status, words of the judge or None)."""

    def __init__(self, reply):
        self.bodies, self.keys = [], []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.bodies.append(body)
                endpoint.keys.append(self.headers["Authorization"])
                status, words = reply(body, len(endpoint.bodies))
                choice = {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": words},
                }
                answer = {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "m",
                    "choices": [choice],
                }
                data = json.dumps(answer if status == 200 else {"error": {"message": words}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", "secret")
    servers = []

    def start(reply):
        servers.append(Endpoint(reply))
        settings = {
            "kind": "openai",
            "base_url": servers[-1].url,
            "model": "judge-1",
            "api_key_env": "TEST_JUDGE_KEY",
            "temperature": 0,
            "max_tokens": 50,
        }
        return servers[-1], settings

    yield start
    for endpoint in servers:
        endpoint.server.shutdown()
        endpoint.server.server_close()


def test_an_endpoint_rates_each_answer(serve):
    endpoint, settings = serve(lambda body, count: (200, f"Fine. Rating: [[{count}]]"))
    rows = judge(QUESTIONS, "mt_bench", settings)
    assert [row["rating"] for row in rows] == [1, 2, 3, 4]
    assert rows[1]["text"] == "Fine. Rating: [[2]]"
    assert endpoint.keys == ["Bearer secret"] * 4
    body = endpoint.bodies[1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-1", 0, 50)
    shown = body["messages"][-1]["content"]
    for part in ("What is a cell?", "A box.", "And a tissue?", "A group of boxes.", "Many like cells"):
        assert part in shown
    assert "<reference>" not in endpoint.bodies[2]["messages"][-1]["content"]


def test_both_orders_are_asked_and_a_judge_that_likes_the_first_place_decides_nothing(serve):
    questions = QUESTIONS[:2]
    endpoint, settings = serve(lambda body, count: (200, "[[A]]"))
    rows = judge(questions, "alpaca_eval", settings)
    assert [(row["preference"], row["order"]) for row in rows] == [(0.5, [1.0, 0.0])] * 2
    first, second = (body["messages"][-1]["content"] for body in endpoint.bodies[:2])
    assert first.index("A box.") < first.index("The smallest unit") and second.index("A box.") > second.index(
        "The smallest"
    )


def test_a_judge_that_likes_the_policys_answer_gives_it_the_win_in_either_place(serve):
    def reply(body, count):
        text = body["messages"][-1]["content"]
        return 200, "[[A]]" if text.index("box") < text.rindex("<reply B>") else "[[B]]"

    _, settings = serve(reply)
    rows = judge(QUESTIONS[:1], "alpaca_eval", settings)
    assert (rows[0]["preference"], rows[0]["order"]) == (1, [1, 1])


def test_failed_verdicts_are_kept_with_their_reason(serve):
    def reply(body, count):
        if "What is a cell" in body["messages"][-1]["content"]:
            return 200, "[[9]]"
        return (400, "not allowed") if "Another" in body["messages"][-1]["content"] else (200, "no idea")

    _, settings = serve(reply)
    rows = judge(QUESTIONS, "mt_bench", settings)
    assert [row["rating"] for row in rows] == [9, 9, None, None]
    assert "no [[rating]]" in rows[2]["failed"] and "not allowed" in rows[3]["failed"]
    assert "failed" not in rows[0]


def test_half_a_comparison_is_no_verdict(serve):
    _, settings = serve(lambda body, count: (200, "[[C]]" if count != 4 else "hm"))
    rows = judge(QUESTIONS[:2], "alpaca_eval", settings)
    assert [row["preference"] for row in rows] == [0.5, None]
    assert "failed" in rows[1] and rows[1]["order"] is None


def test_a_busy_endpoint_is_asked_again(serve):
    endpoint, settings = serve(lambda body, count: (503, "busy") if count < 3 else (200, "[[5]]"))
    assert judge(QUESTIONS[:1], "mt_bench", settings)[0]["rating"] == 5
    assert len(endpoint.bodies) == 3


def test_a_refused_key_ends_the_run_at_once(serve):
    endpoint, settings = serve(lambda body, count: (401, "bad key"))
    with pytest.raises(PlumblineError, match="refused"):
        judge(QUESTIONS, "mt_bench", settings)
    assert len(endpoint.bodies) == 1


def test_a_missing_key_and_a_dead_endpoint_are_said(monkeypatch, serve):
    _, settings = serve(lambda body, count: (200, "[[5]]"))
    monkeypatch.setattr(judge_answers, "RETRIES", 0)
    monkeypatch.delenv("TEST_JUDGE_KEY")
    with pytest.raises(PlumblineError, match="TEST_JUDGE_KEY holds no key"):
        judge(QUESTIONS, "mt_bench", settings)
    monkeypatch.setenv("TEST_JUDGE_KEY", "secret")
    with pytest.raises(PlumblineError, match="cannot be reached"):
        judge(QUESTIONS, "mt_bench", settings | {"base_url": "http://127.0.0.1:9/v1"})


def test_a_judge_without_a_single_verdict_is_an_error(serve):
    _, settings = serve(lambda body, count: (200, "I would rather not say."))
    with pytest.raises(PlumblineError, match="not one verdict"):
        judge(QUESTIONS, "mt_bench", settings)


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

    from workflow_scripts.common.reward import load_reward_model, score_texts

    model, tokenizer = load_reward_model(classifiers[1])
    texts = ["good", "bad bad bad good A box", "Adenine . </s>", "good", "User : A group of boxes"]
    alone = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            alone.append(float(model(input_ids=batch["input_ids"]).logits[0, 0]))
    for batch_size in (1, 2, 8):
        assert score_texts(model, tokenizer, texts, batch_size, 64) == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in alone}) == 4
    assert score_texts(model, tokenizer, [], 2, 64) == []


def test_a_text_too_long_is_cut_on_the_left_and_keeps_its_reply(classifiers):
    from workflow_scripts.common.reward import load_reward_model, score_texts

    model, tokenizer = load_reward_model(classifiers[1])
    tail = "A group of boxes </s>"
    long, other, short = score_texts(model, tokenizer, ["bad " * 40 + tail, "good " * 40 + tail, tail], 2, 6)
    assert long == other == pytest.approx(short, abs=1e-5)  # <s> and the last five tokens
    assert tokenizer.truncation_side == "right"


def test_a_classifier_of_several_classes_gives_the_probability_of_one(classifiers):
    from workflow_scripts.common.reward import load_reward_model, score_texts

    model, tokenizer = load_reward_model(classifiers[3])
    shares = [score_texts(model, tokenizer, ["good", "A box"], 2, 64, label) for label in range(3)]
    assert [sum(column) for column in zip(*shares, strict=True)] == pytest.approx([1, 1])
    with pytest.raises(PlumblineError, match="choose 0 to 2"):
        score_texts(model, tokenizer, ["good"], 2, 64)


def test_only_safetensors_are_loaded(classifiers, tmp_path):
    import shutil

    from workflow_scripts.common.reward import load_reward_model

    folder = shutil.copytree(classifiers[1], tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PlumblineError, match="cannot be loaded"):
        load_reward_model(folder)
    with pytest.raises(PlumblineError, match="no reward model here"):
        load_reward_model(tmp_path / "nowhere")


def test_a_pair_is_shown_as_labelled_lines_and_an_end():
    from workflow_scripts.common.reward import render_pair

    messages = [{"role": "system", "content": "Teach."}, {"role": "user", "content": " What is a cell?\n"}]
    assert (
        render_pair(messages, "A box.", "</s>")
        == "System: Teach.\nUser: What is a cell?\nAssistant: A box.</s>"
    )


def test_a_reward_model_rates_by_its_sigmoid_and_calls_the_reference_itself_a_tie(classifiers):
    from workflow_scripts.common.reward import load_reward_model, render_pair, score_texts

    settings = {"kind": "reward_model", "name": "rm", "model": str(classifiers[1])}
    model, tokenizer = load_reward_model(classifiers[1])
    texts = [render_pair(question.messages, question.answer, "</s>") for question in QUESTIONS]
    rewards = score_texts(model, tokenizer, texts, 4, 64)
    ratings = [row["rating"] for row in judge(QUESTIONS, "mt_bench", settings)]
    assert ratings == pytest.approx([1 + 9 / (1 + math.exp(-reward)) for reward in rewards], abs=1e-4)
    gold = [question._replace(answer=question.reference) for question in QUESTIONS[:2]]
    assert [row["preference"] for row in judge(gold, "alpaca_eval", settings)] == [0.5, 0.5]
    there = judge([QUESTIONS[0]], "alpaca_eval", settings)[0]["preference"]
    turned = QUESTIONS[0]._replace(answer=QUESTIONS[0].reference, reference=QUESTIONS[0].answer)
    back = judge([turned], "alpaca_eval", settings)[0]["preference"]
    assert there + back == pytest.approx(1) and there != pytest.approx(0.5, abs=1e-4)
    with pytest.raises(PlumblineError, match="one output"):
        judge(QUESTIONS, "mt_bench", settings | {"model": str(classifiers[3])})


def test_the_command_line_writes_a_verdict_per_answer_without_torch(tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    write_jsonl(tmp_path / "generations.jsonl", ANSWERS)
    flags = ["--benchmark", "mine", "--kind", "mt_bench", "--prompts", str(tmp_path / "prompts.jsonl")]
    flags += [
        "--generations",
        str(tmp_path / "generations.jsonl"),
        "--output",
        str(tmp_path / "verdicts.jsonl"),
    ]
    flags += ["--judge", '{"kind": "rule", "rule": "length"}']
    code = (
        "import sys, runpy; sys.argv = ['judge', *sys.argv[1:]]\n"
        "runpy.run_module('workflow_scripts.score.judge_answers', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *flags], check=True)
    rows = read_jsonl(tmp_path / "verdicts.jsonl")
    assert [(row["id"], row["turn"], row["sample"]) for row in rows] == [
        ("1", 0, 0),
        ("1", 1, 0),
        ("2", 0, 0),
        ("2", 1, 0),
    ]
