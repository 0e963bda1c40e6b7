"""Simulated dialogues obey the label table, carry the source's dirt, and depend on nothing but a seed."""

import json
import random
import sys
from collections import Counter

import pytest

from tests.cleaning import cleaning
from workflow_scripts.clean import clean, reply_pairs
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.turns import turns_of
from workflow_scripts.common.tutor_reply import (
    ACTION,
    ACTIONS_AFTER,
    EVALUATION,
    LABELS,
    SPOKEN,
    STATE,
    SUBPROBLEM,
    gives_away,
    parse_reply,
)
from workflow_scripts.download import simulate_dialogues as simulate
from workflow_scripts.study.sources import Simulation

DEFAULTS = Simulation(problems="bank.jsonl").model_dump(exclude={"problems"})
SETTINGS = DEFAULTS | {"dialogues_per_problem": 60}


def make_problem(name, topic):
    steps = [
        {
            "question": f"What does {name} do at step {k}?",
            "answer": f"The {name} opens gate {k}.",
            "hint": f"Think of gate {k}.",
            "incorrect": f"The {name} shuts gate {k}.",
            "feedback": f"Shut gates let nothing past {k}.",
            "partial": f"Something about gate {k}.",
            "partial_missing": f"what opens gate {k}",
        }
        for k in (1, 2, 3)
    ]
    return {
        "id": name,
        "topic": topic,
        "question": f"How does {name} work?",
        "facts": [f"Fact {k} of {name}." for k in (1, 2, 3)],
        "subproblems": steps,
        "solution": "So.",
    }


PROBLEMS = [make_problem(f"p{n}", "Cells" if n % 2 else "Plants") for n in range(12)]


def dialogues(count=400, **settings):
    rng = random.Random(1)
    chosen = [PROBLEMS[n % len(PROBLEMS)] for n in range(count)]
    settings = SETTINGS | settings
    return [(problem, simulate.simulate_dialogue(rng, problem, PROBLEMS, settings)) for problem in chosen]


def write_all(folder, monkeypatch, **settings):
    bank = folder / "bank.jsonl"
    bank.write_text("\n".join(json.dumps(problem) for problem in PROBLEMS))
    flags = ["--problems", bank, "--output", folder / "raw", "--manifest", folder / "raw.json"]
    flags += ["--settings", json.dumps(DEFAULTS | {"dialogues_per_problem": 9, "ppl_pairs": 20} | settings)]
    monkeypatch.setattr(sys, "argv", ["simulate", *map(str, flags)])
    simulate.main()
    return sorted((folder / "raw").glob("*.json"))


def test_every_label_occurs_and_actions_follow_their_evaluation():
    replies = [turn.reply for _, turns in dialogues() for turn in turns]
    for field, allowed in LABELS.items():
        assert {reply[field] for reply in replies} == set(allowed)
    assert all(reply[ACTION] in ACTIONS_AFTER[reply[EVALUATION]] for reply in replies)


def test_a_dialogue_opens_with_the_first_step_and_stays_within_its_length():
    for problem, turns in dialogues():
        student, reply, _ = turns[0]
        assert student == f"Q. {problem['question']}"
        assert (reply[EVALUATION], reply[ACTION], reply[STATE]) == ("g", "12", "x")
        assert reply[SUBPROBLEM] == simulate.step_name(0)
        assert len(turns) <= SETTINGS["max_turns"]


def test_solutions_come_only_after_two_failures_and_going_back_only_from_the_second_step_on():
    for _, turns in dialogues():
        failures, place = Counter(), 0
        for _, reply, _ in turns[1:]:
            if reply[EVALUATION] in "ac":
                assert (reply[ACTION] in ("2", "5")) == (failures[place] >= 2)
                failures[place] += 1
            if reply[ACTION] == "10":
                assert place >= 1
                place -= 1
            if reply[STATE] in "yz":
                place += 1
            if reply[STATE] in "xy":
                assert reply[SUBPROBLEM] == simulate.step_name(place)


def test_states_say_where_the_problem_stands():
    for problem, turns in dialogues():
        states = [turn.reply[STATE] for turn in turns]
        assert set(states[: states.index("z")] if "z" in states else states) <= {"x", "y"}
        for _, reply, _ in turns:
            if reply[STATE] in "yz":
                assert reply[ACTION] in ("2", "3", "5", "9")
            if reply[STATE] == "z":
                assert reply[SUBPROBLEM] == simulate.step_name(len(problem["subproblems"]) - 1)
        if "w" in states:
            assert states[-2:] == ["z", "w"] and turns[-1].reply[EVALUATION] == "g"


def test_what_students_think_of_an_answer_is_a_cue_at_the_rates_asked_for():
    rates = {"a": 0.8, "b": 0.1, "c": 0.5}
    said = {"a": Counter(), "b": Counter(), "c": Counter()}
    for _, turns in dialogues(1000, hedge_rates=rates):
        for student, reply, solution in turns[1:]:
            if reply[EVALUATION] in said:
                ending = student.removesuffix(f" ({solution})")
                sure = ending.endswith(simulate.SURE)
                assert sure or ending.endswith(simulate.HEDGES[reply[EVALUATION]])
                said[reply[EVALUATION]][sure] += 1
    hedged = {label: 1 - seen[True] / seen.total() for label, seen in said.items()}
    assert hedged == pytest.approx(rates, abs=0.05)


def gave_away(turns):
    """Whether each reply to a failed attempt or a request for a hint gave the solution away, by its action."""
    return [
        turn.reply[ACTION] in ("2", "5", "9")
        for turn in turns[1:]
        if turn.reply[EVALUATION] in "ac" or any(asked in turn.student for asked in simulate.HINT_REQUESTS)
    ]


@pytest.mark.parametrize("rate", [0.3, 0.8, 1.0])
def test_novices_give_solutions_away_at_the_rate_asked_for(rate):
    given = [
        given for _, turns in dialogues(1500, novice_rate=rate, max_turns=3) for given in gave_away(turns)
    ]
    assert sum(given) / len(given) == pytest.approx(rate, abs=0.04)  # in two turns no third attempt can fail


def test_a_reply_says_a_solution_where_its_action_gives_it_away_and_nowhere_else():
    for _, turns in dialogues(novice_rate=0.5):
        for turn in turns:
            said = turn.solution is not None and gives_away(turn.reply[SPOKEN], turn.solution)
            assert said == (turn.reply[ACTION] in ("2", "5", "9"))
        assert turns[0].solution is None


def test_a_row_has_a_solution_or_null_for_each_of_its_replies(tmp_path, monkeypatch):
    file, *_ = write_all(tmp_path, monkeypatch, student_last_rate=0.3, two_message_rate=0.3)
    for row in json.loads(file.read_text()):
        replies = [message for message in row["conversations"] if message["from"] == "gpt"]
        assert len(row["solutions"]) == len(replies) and row["solutions"][0] is None


def test_preferences_set_an_expert_before_a_novice_or_a_tutor_who_misread_the_student(tmp_path, monkeypatch):
    *files, _, preferences = write_all(tmp_path, monkeypatch, preferences=80)
    assert preferences.name == "preferences.json"
    rows = json.loads(preferences.read_text())
    assert len(rows) == 80 and all(row["chosen"] != row["rejected"] for row in rows)
    for row in rows[::2]:
        solution = row["conversations"][-1]["value"].rpartition("(")[2].rstrip(")")
        assert not gives_away(row["chosen"], solution) and gives_away(row["rejected"], solution)
        chosen, rejected = parse_reply(row["chosen"]), parse_reply(row["rejected"])
        assert chosen[EVALUATION] == rejected[EVALUATION] and chosen[EVALUATION] in "ac"
    for row in rows[1::2]:
        other = parse_reply(row["rejected"])
        assert other is None or other[EVALUATION] != parse_reply(row["chosen"])[EVALUATION]
    asked = {row["conversations"][0]["value"] for row in rows}
    known = {
        row["conversations"][0]["value"].split("\n")[1]
        for file in files
        for row in json.loads(file.read_text())
    }
    assert not asked & known  # their problems are in no dialogue


def test_the_class_mix_is_the_one_asked_for():
    seen = Counter(turn.reply[EVALUATION] for _, turns in dialogues(3000) for turn in turns[1:])
    wanted = {"a": 0.24, "b": 0.34, "c": 0.12, "d": 0.08, "e": 0.07, "f": 0.12, "g": 0.03}
    assert {label: seen[label] / seen.total() for label in wanted} == pytest.approx(wanted, abs=0.025)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path, monkeypatch):
    written = []
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / folder).mkdir()
        files = write_all(tmp_path / folder, monkeypatch, seed=seed)
        written.append([file.read_bytes() for file in [*files, tmp_path / folder / "raw.json"]])
    assert written[0] == written[1]
    assert all(one != other for one, other in zip(written[0], written[2], strict=True))


def test_every_dialogue_problem_is_in_every_file_and_no_pair_problem_is(tmp_path, monkeypatch):
    *files, pairs = write_all(tmp_path, monkeypatch)
    assert [file.name for file in files] == [f"bio-dataset-{n}.json" for n in (1, 2, 3)]

    def questions(file):
        rows = json.loads(file.read_text())
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["conversations"][0]["value"].split("\nQ. ")[1] for row in rows}

    asked = [questions(file) for file in files]
    assert asked[0] == asked[1] == asked[2]
    assert len(asked[0]) + 2 == len(PROBLEMS)
    assert not asked[0] & questions(pairs)


def test_a_pair_ends_on_a_hint_and_a_solution_in_one_context():
    rows = simulate.simulate_pairs(PROBLEMS, SETTINGS | {"ppl_pairs": 40})
    actions = Counter()
    for row in rows:
        *context, original, altered = row["conversations"]
        assert [message["from"] for message in context] == ["human", "gpt"] * (len(context) // 2) + ["human"]
        assert original["from"] == altered["from"] == "gpt"
        first, second = parse_reply(original["value"]), parse_reply(altered["value"])
        assert first[EVALUATION] == second[EVALUATION] and first[SPOKEN] != second[SPOKEN]
        actions[first[ACTION], second[ACTION]] += 1
    assert actions == {("1", "2"): 20, ("4", "5"): 20}


def test_more_pairs_than_the_bank_can_give_is_refused_with_advice():
    problem = PROBLEMS[0] | {"subproblems": PROBLEMS[0]["subproblems"][:1]}
    with pytest.raises(PlumblineError, match="lower ppl_pairs"):
        simulate.simulate_pairs([problem], SETTINGS | {"ppl_pairs": 200})


def test_an_unfit_problem_bank_is_refused_by_row(tmp_path):
    bank = tmp_path / "bank.jsonl"
    broken = json.loads(json.dumps(PROBLEMS[1]))
    del broken["subproblems"][2]["hint"]
    bank.write_text(json.dumps(PROBLEMS[0]) + "\n" + json.dumps(broken))
    with pytest.raises(PlumblineError, match="row 2 has a sub-problem without hint"):
        simulate.load_problems(bank)


def test_simulated_files_clean_into_whole_disjoint_splits_with_every_label(tmp_path, monkeypatch):
    noise = {"unparsable_rate": 0.05, "two_message_rate": 0.05, "student_last_rate": 0.05}
    *files, pairs = map(str, write_all(tmp_path, monkeypatch, dialogues_per_problem=60, **noise))
    settings = cleaning(
        system_prompt="You are a tutor.",
        drop_fields=["Thoughts of Tutorbot"],
        replace_na={EVALUATION: "g", ACTION: "12", STATE: "w"},
        min_messages=3,
        split={"seed": 42, "quotas": {"sft": 60, "preference": 60, "test": 45}, "per_file": True},
    )
    clean.clean_files(files, settings, str(tmp_path / "tutor"), str(tmp_path / "tutor.json"))
    held_out = {"schema": "tutorbot_pairs", "exclude_groups_of": [str(tmp_path / "tutor" / "sft.jsonl")]}
    clean.clean_files([pairs], settings | held_out, str(tmp_path / "pairs"), str(tmp_path / "pairs.json"))
    assert json.loads((tmp_path / "pairs.json").read_text())["splits"]["pairs"]["conversations"] == 20

    manifest = json.loads((tmp_path / "tutor.json").read_text())
    reasons = {reason.split(": ")[1] for reason in manifest["rejected"]}
    assert reasons >= {"unparsable reply", "fewer than 3 messages", "conversation ends on the student"}
    assert manifest["notes"]
    splits = {
        name: [json.loads(line) for line in (tmp_path / "tutor" / f"{name}.jsonl").open()]
        for name in ("sft", "preference", "test")
    }
    groups = [{row["group"] for row in rows} for rows in splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 10
    turns = [turn for rows in splits.values() for row in rows for turn in turns_of(row)]
    for field, allowed in LABELS.items():
        assert {parse_reply(turn["reference"])[field] for turn in turns} == set(allowed)


def test_reply_pairs_are_cleaned_by_the_settings_of_their_benchmark_alone(tmp_path, monkeypatch):
    *_, pairs = map(str, write_all(tmp_path, monkeypatch))
    settings = {
        "raw_rows": False,
        "system_prompt": "You are a tutor.",
        "drop_fields": ["Thoughts of Tutorbot"],
        "replace_na": {EVALUATION: "g", ACTION: "12", STATE: "w"},
        "reply_format": "json",
    }
    flags = ["--inputs", pairs, "--settings", json.dumps(settings)]
    flags += ["--output", str(tmp_path / "pairs"), "--manifest", str(tmp_path / "pairs.json")]
    monkeypatch.setattr(sys, "argv", ["reply_pairs", *flags])
    reply_pairs.main()
    assert json.loads((tmp_path / "pairs.json").read_text())["splits"]["pairs"]["conversations"] == 20
    whole = cleaning(schema="tutorbot_pairs", **settings)
    clean.clean_files([pairs], whole, str(tmp_path / "same"), str(tmp_path / "same.json"))
    assert (tmp_path / "pairs/pairs.jsonl").read_bytes() == (tmp_path / "same/pairs.jsonl").read_bytes()
