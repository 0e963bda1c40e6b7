"""The one rule of cutting: what fits is never cut, each cut is counted by kind, and a prompt keeps what it rests on."""

import csv
import json
import random

import pyarrow.parquet
import pytest
import yaml

from tests.command import call
from tests.tiny import TEMPLATE, run_sft, settings_of, write_reference, write_tokens
from tests.tiny_model import ANSWERS, QUESTIONS
from workflow_scripts.align.pair_reference import fit_mismatched, tokenise_pairs
from workflow_scripts.align.rewarded_reference import tokenise_answers
from workflow_scripts.align.tokenise_ranked import tokenise_ranked
from workflow_scripts.common import templates
from workflow_scripts.common.cuts import cut_counts, cut_words
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import read_json, write_json, write_jsonl
from workflow_scripts.common.fitting import fit_prompt, fit_row, fit_text, lost_ends
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.templates import tokenise_prompt, tokenise_reply
from workflow_scripts.report import training
from workflow_scripts.report.results import cut_prompts
from workflow_scripts.sft import tokenise

with open(templates.__file__.replace(".py", ".yaml"), encoding="utf-8") as stream:
    TEMPLATES = yaml.safe_load(stream)
SYSTEM = "Tutor the student."


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def dialogue(rng: random.Random, exchanges: int, system: bool, words: int = 12) -> list[dict]:
    """Return a dialogue that ends on the user, its texts of random lengths."""
    messages = [{"role": "system", "content": SYSTEM}] if system else []
    for number in range(exchanges):
        said = " ".join(rng.choices(" ".join(QUESTIONS).split(), k=rng.randint(1, words)))
        messages.append({"role": "user", "content": f"{number} {said}"})
        messages.append({"role": "assistant", "content": rng.choice(ANSWERS)})
    return messages[:-1]


def text_of(tokenizer, messages, template) -> str:
    return templates.render(messages, template, tokenizer, prompt=True).text


# Prompts.


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("system", [True, False])
def test_a_cut_prompt_keeps_its_beginning_and_loses_whole_oldest_turns(tokenizer, template, system):
    template, rng = TEMPLATES[template], random.Random(5)
    for _ in range(12):
        messages = dialogue(rng, rng.randint(1, 6), system)
        whole = tokenise_prompt(messages, template, tokenizer)
        head, said = messages[:system], messages[system:]
        shortest = len(
            tokenise_prompt([*head, {"role": "user", "content": "What is it?"}], template, tokenizer)
        )
        for room in {rng.randint(shortest, max(shortest, len(whole) + 5)) for _ in range(6)}:
            found = fit_prompt(messages, template, tokenizer, room, "p")
            assert len(found.ids) <= room
            assert found.ids == tokenise_prompt(found.messages, template, tokenizer), (
                "as it is asked when it fits"
            )
            assert found.tokens_cut == len(whole) - len(found.ids)
            assert found.messages[:system] == head, "the system message stays"
            assert [each["role"] for each in found.messages[system:]] == ["user", "assistant"] * (
                len(found.messages[system:]) // 2
            ) + ["user"], "a user's turn comes first"
            last = tokenise_prompt([*head, said[-1]], template, tokenizer)
            if len(whole) <= room:
                assert found.messages == messages and found.tokens_cut == 0
            elif len(last) <= room:
                assert not found.last_turn_cut
                kept = found.messages[system:]
                assert kept == said[-len(kept) :], "whole turns, the newest"
                longer = said[-len(kept) - 2 :]
                assert len(tokenise_prompt([*head, *longer], template, tokenizer)) > room, "no turn more fits"
            else:
                assert found.last_turn_cut
                assert len(found.messages) == system + 1
                assert said[-1]["content"].strip().endswith(found.messages[-1]["content"].strip())
            assert not found.system_lost


def test_a_last_turn_that_alone_is_too_long_loses_no_more_of_its_start_than_it_must(tokenizer):
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Name two gases. " * 30}]
    for room in range(60, 90):
        found = fit_prompt(messages, TEMPLATE, tokenizer, room, "p")
        text = text_of(tokenizer, found.messages, TEMPLATE)
        assert text.startswith("<s>System: Tutor the student.\nStudent: ") and text.endswith(
            "gases.\n\nTutorbot:"
        )
        assert room - 3 <= len(found.ids) <= room
        assert (found.last_turn_cut, found.system_lost) == (True, False)


def test_a_system_message_without_room_for_a_turn_goes_and_is_counted_as_its_own_kind(tokenizer):
    messages = [{"role": "system", "content": "Tutor. " * 40}, {"role": "user", "content": QUESTIONS[2]}]
    found = fit_prompt(messages, TEMPLATE, tokenizer, 40, "p")
    assert text_of(tokenizer, found.messages, TEMPLATE).startswith("<s>Student: ")
    counts = cut_counts([found.facts(), {}])
    assert counts == {"cut": 1, "prompts_cut": 1, "last_turns_cut": 1, "systems_lost": 1} | dict.fromkeys(
        ("completions_cut", "ends_lost"), 0
    )


def test_no_room_for_the_template_s_own_words_is_an_error_that_names_the_row(tokenizer):
    with pytest.raises(PlumblineError, match=r"pair p7: .* cannot be cut to 5: .*max_prompt_tokens"):
        fit_prompt([{"role": "user", "content": QUESTIONS[2]}], TEMPLATE, tokenizer, 5, "pair p7")


@pytest.mark.parametrize("roles", ["aua", "uau", "uua", "auau", "uuu"])
def test_conversations_of_any_order_are_cut_to_what_fits(tokenizer, roles):
    names = {"a": "assistant", "u": "user"}
    messages = [{"role": names[role], "content": "Good! Now say why. " * 3} for role in roles]
    whole = tokenise_prompt(messages, TEMPLATE, tokenizer)
    for room in range(30, len(whole)):
        found = fit_prompt(messages, TEMPLATE, tokenizer, room, "p")
        assert 0 < len(found.ids) <= room
        assert found.ids[0] == tokenizer.bos_token_id
        assert found.messages[0]["role"] == "user" or len(found.messages) == 1


def test_characters_of_several_tokens_are_not_broken(tokenizer):
    messages = [{"role": "user", "content": "čššž €uro 漢字 " * 9}]
    for room in range(40, 80):
        found = fit_prompt(messages, TEMPLATE, tokenizer, room, "p")
        assert len(found.ids) <= room
        assert messages[0]["content"].strip().endswith(found.messages[0]["content"].strip())


def test_a_plain_text_keeps_bos_and_loses_its_start(tokenizer):
    begin, text = [tokenizer.bos_token_id], list(range(10, 40))
    assert fit_text(begin + text, tokenizer, 31) == begin + text
    assert fit_text(begin + text, tokenizer, 6) == begin + text[-5:]
    assert fit_text(text, tokenizer, 6) == text[-6:]


# Prompts with their replies.


@pytest.mark.parametrize("seed", range(4))
def test_what_fits_is_never_cut_and_what_is_cut_is_counted(tokenizer, seed):
    rng = random.Random(seed)
    for _ in range(40):
        messages = dialogue(rng, rng.randint(1, 4), system=True)
        replies = [" ".join(rng.choices(ANSWERS, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 3))]
        most = rng.randint(60, 300)
        prompt_room = rng.randint(40, most - 10)
        found = fit_row(messages, replies, TEMPLATE, tokenizer, most, prompt_room, "row")
        whole = [tokenise_reply(messages, reply, TEMPLATE, tokenizer) for reply in replies]
        prompt, longest = whole[0][0], max(len(reply) for _, reply in whole)
        assert len({tuple(each) for each in found.prompts}) == 1, "one prompt for all replies"
        kept, lost = found.prompts[0], found.facts
        assert all(len(kept) + len(reply) <= most for reply in found.completions)
        if len(prompt) + longest <= most:
            assert kept == prompt and found.completions == [reply for _, reply in whole]
            assert not any(lost.values())
            continue
        assert kept[0] == tokenizer.bos_token_id and SYSTEM in tokenizer.decode(kept)
        assert lost["prompt_tokens_cut"] == len(prompt) - len(kept)
        assert len(kept) <= prompt_room or kept == prompt
        shorter = 0
        for part, (_, reply) in zip(found.completions, whole, strict=True):
            assert part == reply[: most - len(kept)], "as much of a reply as its prompt leaves room for"
            shorter += part != reply
        assert lost["completions_cut"] == lost["ends_lost"] == shorter
        assert cut_counts([lost])["cut"] == int(kept != prompt or shorter > 0)


def test_a_reply_may_use_what_its_prompt_leaves_and_keeps_its_end(tiny_model, tmp_path):
    long = " ".join(ANSWERS)
    asked = [{"role": "user", "content": "Why?"}]
    pairs = [
        {"id": f"p{n}", "messages": asked, "chosen": long + str(n), "rejected": f"No {n}", "split": "train"}
        for n in range(3)
    ]
    folder = write_reference(tiny_model, pairs, tmp_path)  # 160 of 256 tokens for prompts
    counts, ends = read_json(folder / "manifest.json")["counts"], load_tokenizer(tiny_model).eos_token_id
    for row in pyarrow.parquet.read_table(folder / "rows.parquet").to_pylist():
        assert len(row["chosen"]) > 96 and len(row["prompt"]) + len(row["chosen"]) <= 256
        assert row["chosen"][-1] == row["rejected"][-1] == ends
    assert counts["cut"] == counts["completions_cut"] == counts["ends_lost"] == 0


def test_a_pair_has_one_prompt_however_long_its_replies_and_every_kind_is_counted(tokenizer):
    rng = random.Random(1)
    limits = {"max_prompt_tokens": 70, "max_tokens": 110, "template": TEMPLATE, "history_turns": None}
    pairs = [
        {"id": f"p{n}", "messages": dialogue(rng, 1 + n % 5, True), "split": "train"}
        | {"chosen": " ".join(rng.choices(ANSWERS, k=1 + n % 4)), "rejected": f"No {n}."}
        for n in range(30)
    ]
    kept, rejected = tokenise_pairs(pairs, tokenizer, limits)
    assert (len(kept), rejected) == (30, [])
    counts = cut_counts(kept)
    assert 0 < counts["cut"] < 30 and counts["prompts_cut"] > 0 and counts["completions_cut"] > 0
    fit = [n for n, row in enumerate(kept) if not row["prompt_tokens_cut"] and not row["completions_cut"]]
    assert len(fit) + counts["cut"] == len(kept)
    ranked = [
        {"id": row["id"], "messages": row["messages"], "answers": [row["chosen"], row["rejected"]]}
        | {"rewards": [1.0, 0.0], "split": "train"}
        for row in pairs
    ]
    same, _ = tokenise_ranked(ranked, tokenizer, limits)
    assert [row["answers"] for row in same] == [[row["chosen"], row["rejected"]] for row in kept]
    assert cut_counts(same) == counts
    alone = [
        {"id": row["id"], "group": row["id"], "messages": row["messages"], "reference": row["chosen"]}
        | {"rewards": {"final_reward": 1.0}, "meta": {}}
        for row in pairs
    ]
    longest, _ = tokenise_answers(alone, "train", tokenizer, limits)
    assert [row["completion"] for row in longest] == [row["chosen"] for row in kept], (
        "chosen is the longer one"
    )


def test_a_mismatched_completion_is_cut_to_what_its_prompt_leaves():
    rows = [{"prompt": [0] * 6, "mismatched_chosen": [1] * 5, "mismatched_rejected": [2] * 4}]
    assert fit_mismatched(rows, 10) == 1
    assert (len(rows[0]["mismatched_chosen"]), len(rows[0]["mismatched_rejected"])) == (4, 4)


# Fine-tuning.


def talk(name: str, *said: str) -> dict:
    roles = ("user", "assistant") * len(said)
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return {"id": name, "group": name, "messages": messages, "meta": {}}


def test_a_set_whose_replies_lose_their_end_says_so_in_manifest_console_and_table(
    tiny_model, tmp_path, capsys
):
    rows = [talk(f"r{n}", "Why?", "Good! Now say why. " * 20) for n in range(6)]
    tokens = write_tokens(tiny_model, rows, [talk("v", "Why?", "Yes")], tmp_path, limit=64)
    counts = read_json(tokens / "manifest.json")["counts"]
    assert (counts["train"]["kept"], counts["train"]["cut"], counts["train"]["ends_lost"]) == (6, 6, 6)
    assert (counts["validation"]["cut"], counts["validation"]["ends_lost"]) == (0, 0)
    assert counts["train"]["tokens"] == 6 * 64
    said = capsys.readouterr().err
    assert "train.jsonl: 6 of 6 rows cut: 6 replies without their end token" in said
    assert "validation" not in said
    write_json(tmp_path / "curve", [{"step": 1, "train_loss": 1.0}])
    write_json(tmp_path / "policy", {"steps": 2})
    run = {"policy": "m.sft", "seed": 1, "method": "sft", "curve": str(tmp_path / "curve")}
    run |= {"manifest": str(tmp_path / "policy"), "learned_from": str(tokens / "manifest.json")}
    call(training.main, "--settings", json.dumps({"runs": [run]}), "--output", tmp_path / "training.csv")
    (row,) = csv.DictReader((tmp_path / "training.csv").open())
    assert (row["rows"], row["rows_cut"], row["ends_lost"]) == ("6", "6", "6")
    assert row["warning"] == "learned from 6 of 6 rows that were cut: 6 replies without their end token"


def test_rows_that_are_left_out_as_they_are_tokenised_are_told_with_the_reasons(tiny_model, tmp_path, capsys):
    rows = [talk("a", "Why?", "Yes"), talk("b", "Why </s>?", "Yes"), talk("c", "Why?", "Good! " * 60)]
    tokens = write_tokens(tiny_model, rows, [talk("v", "Why?", "Yes")], tmp_path, limit=64, overflow="reject")
    assert read_json(tokens / "manifest.json")["counts"]["train"]["rejected"] == 2
    said = capsys.readouterr().err
    assert "train.jsonl: 2 of 3 rows rejected: special token in content (1), too long (1)" in said
    assert "validation" not in said
    asked, texts = [{"role": "user", "content": "Why?"}], (("Yes", "No"), ("Yes", "No </s>"), ("So", "No"))
    pairs = [
        {"id": f"p{n}", "messages": asked, "chosen": chosen, "rejected": losing, "split": "train"}
        for n, (chosen, losing) in enumerate(texts)
    ]
    write_reference(tiny_model, pairs, tmp_path)
    assert "1 of 3 rows rejected: special token in content (1)" in capsys.readouterr().err


def test_replies_that_lose_their_end_and_replies_left_out_whole_are_two_counts(tokenizer):
    messages = talk("t", "Why?", "Yes", "Why?", "Good! Now say why.", "Why?", "No.")["messages"]
    sizes = [len(tokenise_prompt(messages[:place], TEMPLATE, tokenizer)) for place in (1, 3, 5)]
    assert lost_ends(messages, TEMPLATE, tokenizer, sizes[1]) == (0, 2)
    assert lost_ends(messages, TEMPLATE, tokenizer, sizes[1] + 2) == (1, 1)
    assert lost_ends(messages, TEMPLATE, tokenizer, sizes[2]) == (0, 1)
    assert lost_ends(messages, TEMPLATE, tokenizer, 1000) == (0, 0)


@pytest.mark.parametrize("history", [None, 0, 1])
@pytest.mark.parametrize("objective", ["it", "im"])
def test_kept_cut_and_rejected_rows_add_up_at_any_length(tokenizer, objective, history):
    rng = random.Random(2)
    rows = [
        {"id": f"c{n}", "group": "g", "meta": {}, "messages": dialogue(rng, rng.randint(1, 4), True)}
        for n in range(25)
    ]
    rows = [row | {"messages": [*row["messages"], {"role": "assistant", "content": "Yes"}]} for row in rows]
    own = {
        "objective": objective,
        "im_mask": "paper",
        "it_mask": "reply",
        "lm_text": "plain",
        "lm_rows": None,
        "template": TEMPLATE,
        "history_turns": history,
    }
    spread = tokenise.spread(rows, own)
    for limit in (20, 60, 90, 2000):
        kept, rejected, cuts = tokenise.tokenise_rows(
            spread, tokenizer, own | {"max_tokens": limit, "overflow": "cut"}
        )
        assert len(kept) + len(rejected) == len(spread)
        whole, _, none = tokenise.tokenise_rows(
            spread, tokenizer, own | {"max_tokens": limit, "overflow": "reject"}
        )
        assert not any(none.values())
        assert len(whole) == len(kept) - cuts["cut"], "what is not cut is what fits"
        assert cuts["ends_lost"] <= cuts["cut"] and (limit < 2000 or not any(cuts.values()))
        ends = (
            sum(row["labels"][-1] != tokenizer.eos_token_id for row in kept) if history is not None else None
        )
        if objective == "it" and history is not None:
            assert cuts["ends_lost"] == ends, "a turn's row ends with the end token or is counted"


def test_turns_whose_history_is_left_out_are_counted(tiny_model, tmp_path):
    rows = [talk("a", "Why?", "Yes", "What?", "No.", "So?", "Good!"), talk("b", "Why?", "No.")]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = {"max_tokens": 256, "overflow": "cut", "template": TEMPLATE, "history_turns": 0}
    settings |= {
        "objective": "it",
        "im_mask": "paper",
        "it_mask": "reply",
        "lm_text": "plain",
        "lm_rows": None,
    }
    flags = ["--splits", f"train={tmp_path / 'rows.jsonl'}", "--tokenizer", tiny_model]
    flags += [
        "--settings",
        json.dumps(settings),
        "--output",
        tmp_path / "out",
        "--manifest",
        tmp_path / "m.json",
    ]
    call(tokenise.main, *flags)
    counts = read_json(tmp_path / "m.json")["counts"]["train"]
    assert (counts["kept"], counts["histories_cut"], counts["cut"]) == (4, 2, 0)


def test_a_pack_shorter_than_a_row_is_refused_and_never_cuts_it(tiny_model, tmp_path):
    rows = [talk(f"r{n}", "Why?", "Good! Now say why. " * (1 + n)) for n in range(6)]
    tokens = write_tokens(tiny_model, rows, rows[:2], tmp_path)
    longest = max(len(row) for row in pyarrow.parquet.read_table(tokens / "train.parquet")["input_ids"])
    settings = settings_of(pack_tokens=longest - 1, max_steps=1, warmup=0.0)
    with pytest.raises(PlumblineError, match=rf"pack_tokens {longest - 1}: 1 of 6 rows of train are longer"):
        run_sft(tiny_model, tokens, settings, tmp_path)
    run_sft(tiny_model, tokens, settings_of(pack_tokens=longest, max_steps=1, warmup=0.0), tmp_path)


# The table.


def test_cut_prompts_stand_in_the_note_over_all_seeds():
    scores = [
        {"answered": {"answers": 80, "prompts_cut": 3, "last_turns_cut": 1, "systems_lost": 0}},
        {"answered": {"answers": 80, "prompts_cut": 1}},
        {"answered": {}},
    ]
    assert cut_prompts(scores) == "of 160 answers: 4 prompts cut at the start, 1 of them within the last turn"
    assert cut_prompts(scores[2:]) == cut_words({"answers": 9, "prompts_cut": 0}) == ""


def test_a_reply_that_is_context_alone_loses_no_end_that_would_teach(tokenizer):
    messages = talk("t", "Why?", "Good! Now say why.", "Why?", "No.")["messages"]
    limit = len(tokenise_prompt(messages[:1], TEMPLATE, tokenizer)) + 2
    assert lost_ends(messages, TEMPLATE, tokenizer, limit) == (1, 1)
    messages[1]["learn"] = False
    assert lost_ends(messages, TEMPLATE, tokenizer, limit) == (0, 1)
