"""Simulate tutoring dialogues over a problem bank, as raw files in the source system's own schema.

Stands in for the GPT-4 dialogues of Tutorbot-Spock, which cannot be downloaded here: same raw schema and
label table, same kinds of dirt (stray "N/A" labels, turns that do not parse, two-message conversations,
conversations that end on the student). Not covered: the language of real students; every text comes from the
bank or from the short lists below.

The first student message carries the problem and its facts, as a textbook exercise does, so that a small
model has what it needs to judge an answer to a problem it has never seen.
"""

import argparse
import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_json, write_manifest
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.tutor_reply import ACTION, EVALUATION, SPOKEN, STATE, SUBPROBLEM


class Settings(TypedDict):
    """How dialogues are simulated; rates and shares are between 0 and 1."""

    seed: int
    dialogues_per_problem: int
    files: int
    max_turns: int  # tutor turns in one dialogue
    # Weights of a student turn's class; those of a, b and c are tilted by the student's ability.
    behaviours: dict[Literal["a", "b", "c", "d", "e", "f"], float]
    hedge_rates: dict[Literal["a", "b", "c"], float]  # share of answers that open with a hedge
    closing_rate: float  # share of finished dialogues in which the student says goodbye
    na_rate: float  # share of g/12/w labels written as "N/A"
    unparsable_rate: float  # share of tutor turns cut off mid-reply
    two_message_rate: float
    student_last_rate: float
    ppl_pairs: int
    ppl_problems: float  # share of the problems that only the perplexity file uses


PREAMBLE = (
    "Instructions to Act as a Tutorbot: help the student one sub-problem at a time. Judge each answer, "
    "choose an action, and reply with the fields of the form. Student: "
)

# One list for right, wrong and partial answers alike: a lead-in must not give the label away.
LEAD_INS = ("", "", "", "I think that ", "Because ", "My answer: ", "It is that ", "Well, ")
# Students who are wrong hedge more often than students who are right (`hedge_rates`): a cue, not a giveaway.
HEDGES = ("Maybe ", "I am guessing: ", "Perhaps ", "Not sure, but ")

UNCLEAR = (
    "hmm", "maybe", "I am not sure.", "something with cells?", "it depends", "uh, that thing",
    "could be either", "kind of like before?", "the usual reason", "um, because of nature",
    "no idea how to put it", "it just does", "sort of yes", "that one, you know", "?",
)  # fmt: skip

OFF_TOPIC = (
    "Did you see the football last night?", "I am hungry, when is lunch?",
    "My cat knocked over a lamp today.", "Which phone should I buy?", "It is raining a lot this week.",
    "I have a guitar lesson later.", "Can you help me with my French essay?",
    "Do you like films about space?", "My brother got a new bike.", "What is the capital of Peru?",
    "I want to go swimming on Sunday.", "Tell me a joke, please.",
    "The bus was late again this morning.", "I painted my room blue.", "Who won the song contest?",
    "My friend is moving to another town.", "I might bake a cake tonight.",
)  # fmt: skip

HINT_REQUESTS = (
    "Can I have a hint?", "Please give me a clue.", "Could you point me in the right direction?",
    "I need a little help here.", "A small hint would be great.",
)  # fmt: skip

SURRENDERS = (
    "Just tell me the answer.", "I give up.", "Please show me the solution.",
    "I do not want to guess any more, what is it?", "Can you simply give the answer?",
)  # fmt: skip

RETURNS = (
    "Can we go back to the previous step?", "I would like to redo the last question.",
    "Could we return to the step before?", "Let me try the earlier part again.",
)  # fmt: skip

EXPLANATIONS = (
    "Why does this matter here?", "Which fact should I look at?", "Can you explain the background?",
    "What is the idea behind this question?", "How does this fit the problem?",
)  # fmt: skip

GOODBYES = (
    "Thanks, bye!", "Thank you for the help.", "Great, see you next time.", "Thanks, that was fun.",
    "Okay, goodbye.",
)  # fmt: skip

ORDINALS = ("first", "second", "third", "fourth", "fifth")  # a problem has one fact per sub-problem
OPENINGS = ("Let us start here.", "Here is the first step.", "First things first.")
CONFIRMATIONS = ("That is right.", "Correct, well done.", "Yes, exactly.")
FAREWELLS = (
    "Well done today. Come back with your next question.",
    "You are welcome. Goodbye and keep learning.",
)

THOUGHTS = {
    "a": "The answer is wrong.",
    "b": "The answer is right.",
    "c": "The answer is only half right.",
    "d": "I cannot tell what is meant.",
    "e": "This is not about the problem.",
    "f": "The student asks for something.",
    "g": "There is no answer to judge.",
}

Problem = dict[str, Any]
Reply = dict[str, str]
Turn = tuple[str, Reply]


def load_problems(path: Path | str) -> list[Problem]:
    """Return the bank's problems; PlumblineError naming file and row if one lacks what a dialogue needs."""
    problems = read_jsonl(path)
    needed = {"question", "answer", "hint", "incorrect", "feedback", "partial", "partial_missing"}
    for number, problem in enumerate(problems, 1):
        if not isinstance(problem, dict):
            raise PlumblineError(f"{path}: row {number} is not an object")
        missing = {"id", "topic", "question", "facts", "subproblems"} - set(problem)
        if missing or not problem["subproblems"] or not problem["facts"]:
            lacking = ", ".join(sorted(missing)) or "facts or subproblems"
            raise PlumblineError(f"{path}: row {number} lacks {lacking}")
        for step in problem["subproblems"]:
            if absent := ", ".join(sorted(needed - set(step))):
                raise PlumblineError(f"{path}: row {number} has a sub-problem without {absent}")
    if not problems:
        raise PlumblineError(f"{path}: holds no problems")
    return problems


def pose(problem: Problem) -> str:
    """Return what a student first says, a worksheet: the question, the facts, the steps to take."""
    steps = " ".join(step["question"] for step in problem["subproblems"])
    return f"Q. {problem['question']} Facts: {' '.join(problem['facts'])} Steps: {steps}"


def step_name(place: int) -> str:
    """Return what a tutor calls a sub-problem: its place on the worksheet, where its question stands."""
    return f"Step {place + 1}"


def make_reply(evaluation: str, action: str, state: str, subproblem: str, spoken: str) -> Reply:
    """Return one raw tutor reply, its private thoughts first."""
    return {
        "Thoughts of Tutorbot": THOUGHTS[evaluation],
        EVALUATION: evaluation,
        ACTION: action,
        STATE: state,
        SUBPROBLEM: subproblem,
        SPOKEN: spoken,
    }


def hint_reply(evaluation: str, problem: Problem, place: int) -> Reply:
    """Return the answer to a failed attempt that leaves the work to the student (action 1 or 4)."""
    fact = ORDINALS[place % len(problem["facts"])]
    if evaluation == "a":
        return make_reply("a", "1", "x", step_name(place), f"Not quite. Read the {fact} fact again.")
    return make_reply("c", "4", "x", step_name(place), f"Partly right. What else does the {fact} fact say?")


def solution_reply(evaluation: str, problem: Problem, place: int) -> Reply:
    """Return the answer that gives sub-problem `place` away and goes on (action 2, 5 or 9)."""
    opening = {"a": "Not quite.", "c": "Partly right.", "f": "All right."}[evaluation]
    action = {"a": "2", "c": "5", "f": "9"}[evaluation]
    step = problem["subproblems"][place]
    why = f"{step['feedback']} " if evaluation == "a" else ""
    return finish(evaluation, action, problem, place, f"{opening} {why}{step['answer']}")


def finish(evaluation: str, action: str, problem: Problem, place: int, spoken: str) -> Reply:
    """Return a reply that closes sub-problem `place`: on to the next one (y), or the problem is done (z)."""
    steps = problem["subproblems"]
    if place + 1 == len(steps):
        spoken = f"{spoken} The problem is solved."
        return make_reply(evaluation, action, "z", step_name(place), spoken)
    return make_reply(evaluation, action, "y", step_name(place + 1), f"{spoken} On to the next step.")


def say(rng: random.Random, text: str, hedge_rate: float) -> str:
    """Return an answer behind a hedge, or one of the lead-ins that every kind of answer shares."""
    lead_in = rng.choice(HEDGES if rng.random() < hedge_rate else LEAD_INS)
    if lead_in.endswith(" ") and not lead_in.endswith(": ") and text[1:2].islower():
        text = text[0].lower() + text[1:]
    return lead_in + text


def failed_attempt(
    rng: random.Random, evaluation: str, problem: Problem, place: int, bank: Sequence[Problem]
) -> str:
    """Return a wrong (a) or partly right (c) answer: the bank's own, or a right one that belongs elsewhere."""
    step = problem["subproblems"][place]
    if evaluation == "c":
        return step["partial"]
    source = rng.random()
    others = [other for other in bank if other["topic"] != problem["topic"]]
    siblings = [other["answer"] for other in problem["subproblems"] if other["answer"] != step["answer"]]
    if source < 0.4 or not others or not siblings:
        return step["incorrect"]
    if source < 0.9:
        return rng.choice(rng.choice(others)["subproblems"])["answer"]
    return rng.choice(siblings)


def draw_behaviour(rng: random.Random, ability: float, weights: dict[str, float]) -> str:
    """Return the class of the next student turn; `ability` in [0, 1] tilts right against wrong answers."""
    tilt = {"a": 2 * (1 - ability), "b": 2 * ability, "c": 2 * (1 - ability)}
    classes = sorted(weights)
    return rng.choices(classes, [weights[name] * tilt.get(name, 1) for name in classes])[0]


class Talk(NamedTuple):
    """What a dialogue goes on from: its problem among the bank's, how often answers hedge, failures by sub-problem."""

    rng: random.Random
    problem: Problem
    bank: Sequence[Problem]
    hedge_rates: dict[str, float]
    failures: Counter[int]


def answer_right(talk: Talk, place: int) -> tuple[str, Reply, int]:
    """Return a right answer, the tutor's reply (action 3) and the sub-problem that is then open."""
    student = say(talk.rng, talk.problem["subproblems"][place]["answer"], talk.hedge_rates["b"])
    return student, finish("b", "3", talk.problem, place, talk.rng.choice(CONFIRMATIONS)), place + 1


def fail(evaluation: str, talk: Talk, place: int) -> tuple[str, Reply, int]:
    """Return a wrong (a) or half-right (c) answer, the tutor's hint or solution, and the sub-problem then open."""
    attempt = failed_attempt(talk.rng, evaluation, talk.problem, place, talk.bank)
    student = say(talk.rng, attempt, talk.hedge_rates[evaluation])
    talk.failures[place] += 1
    if talk.failures[place] > 2:
        return student, solution_reply(evaluation, talk.problem, place), place + 1
    return student, hint_reply(evaluation, talk.problem, place), place


def be_unclear(talk: Talk, place: int) -> tuple[str, Reply, int]:
    """Return words that say nothing, the tutor's reply (action 6) and the sub-problem that stays open."""
    student = talk.rng.choice(UNCLEAR)
    return student, make_reply("d", "6", "x", step_name(place), "Can you say that more clearly?"), place


def change_subject(talk: Talk, place: int) -> tuple[str, Reply, int]:
    """Return words on something else, the tutor's reply (action 7) and the sub-problem that stays open."""
    student = talk.rng.choice(OFF_TOPIC)
    return student, make_reply("e", "7", "x", step_name(place), "Let us stay with biology."), place


def inquire(talk: Talk, place: int) -> tuple[str, Reply, int]:
    """Return an inquiry, the tutor's reply (action 8 to 11) and the sub-problem that is then open."""
    rng, problem = talk.rng, talk.problem
    steps = problem["subproblems"]
    question = step_name(place)
    # 10 returns to the previous sub-problem, so the first one has none to return to.
    kind = rng.choices(("8", "9", "10", "11"), (0.36, 0.22, 0.24 if place else 0, 0.24))[0]
    if kind == "8":
        reply = make_reply("f", "8", "x", question, f"Here is a hint. {steps[place]['hint']}")
        return rng.choice(HINT_REQUESTS), reply, place
    if kind == "9":
        return rng.choice(SURRENDERS), solution_reply("f", problem, place), place + 1
    if kind == "10":
        earlier = step_name(place - 1)
        reply = make_reply("f", "10", "x", earlier, "Let us go back a step.")
        return rng.choice(RETURNS), reply, place - 1
    fact = problem["facts"][place % len(problem["facts"])]
    return rng.choice(EXPLANATIONS), make_reply("f", "11", "x", question, f"Good question. {fact}"), place


# By a label of the student's turn: what the student says, what the tutor replies, and the sub-problem then open.
BEHAVIOURS: dict[str, Callable[[Talk, int], tuple[str, Reply, int]]] = {
    "a": functools.partial(fail, "a"),
    "b": answer_right,
    "c": functools.partial(fail, "c"),
    "d": be_unclear,
    "e": change_subject,
    "f": inquire,
}


def open_dialogue(rng: random.Random, problem: Problem) -> Turn:
    """Return the first exchange: the problem posed, the first sub-problem asked (g, 12, x)."""
    return pose(problem), make_reply("g", "12", "x", step_name(0), rng.choice(OPENINGS))


def simulate_dialogue(
    rng: random.Random, problem: Problem, bank: Sequence[Problem], settings: Settings
) -> list[Turn]:
    """Return one dialogue as (student text, tutor reply) turns, at most `max_turns` of them.

    The tutor gives a sub-problem's solution unasked (actions 2 and 5) from the third failed attempt at it on.
    """
    steps = problem["subproblems"]
    ability = rng.betavariate(5, 5)
    talk = Talk(rng, problem, bank, settings["hedge_rates"], Counter())
    turns = [open_dialogue(rng, problem)]
    place = 0
    while len(turns) < settings["max_turns"] and place < len(steps):
        evaluation = draw_behaviour(rng, ability, settings["behaviours"])
        student, reply, place = BEHAVIOURS[evaluation](talk, place)
        turns.append((student, reply))
    finished = place == len(steps)
    if finished and len(turns) < settings["max_turns"] and rng.random() < settings["closing_rate"]:
        turns.append((rng.choice(GOODBYES), make_reply("g", "12", "w", "N/A", rng.choice(FAREWELLS))))
    return turns


def write_reply(rng: random.Random, reply: Reply, settings: Settings) -> str:
    """Return a reply's raw text, sometimes with "N/A" for a label that says so anyway, sometimes cut off."""
    neutral = {EVALUATION: "g", ACTION: "12", STATE: "w"}
    dirty = {
        field: "N/A" if neutral.get(field) == value and rng.random() < settings["na_rate"] else value
        for field, value in reply.items()
    }
    text = json.dumps(dirty, ensure_ascii=False)
    return text[: rng.randrange(1, len(text) - 1)] if rng.random() < settings["unparsable_rate"] else text


def raw_messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return (student, tutor) texts as the source's messages, the preamble before the first."""
    messages = []
    for student, tutor in turns:
        messages += [{"from": "human", "value": student}, {"from": "gpt", "value": tutor}]
    messages[0]["value"] = f"{PREAMBLE}\n{messages[0]['value']}"
    return messages


def raw_conversation(rng: random.Random, turns: Sequence[Turn], settings: Settings) -> list[dict[str, str]]:
    """Return a dialogue as raw messages with the source's dirt in it."""
    messages = raw_messages([(student, write_reply(rng, reply, settings)) for student, reply in turns])
    luck = rng.random()
    if luck < settings["two_message_rate"]:
        return messages[:2]
    if luck < settings["two_message_rate"] + settings["student_last_rate"]:
        return messages[:-1]
    return messages


def simulate_files(problems: Sequence[Problem], settings: Settings) -> list[list[dict[str, Any]]]:
    """Return the raw files' rows; each problem's dialogues are spread evenly over the files, by chance."""
    files: list[list[list[dict[str, str]]]] = [[] for _ in range(settings["files"])]
    for problem in problems:
        # One generator per problem: an edited problem leaves the dialogues of the others as they were,
        # but for wrong answers borrowed from it.
        rng = random.Random(f"{settings['seed']}/{problem['id']}")
        shares = [number % settings["files"] for number in range(settings["dialogues_per_problem"])]
        rng.shuffle(shares)
        for share in shares:
            turns = simulate_dialogue(rng, problem, problems, settings)
            files[share].append(raw_conversation(rng, turns, settings))
    for number, conversations in enumerate(files):
        random.Random(f"{settings['seed']}/file {number}").shuffle(conversations)
    return [number_rows(conversations) for conversations in files]


def number_rows(conversations: Sequence[list[dict[str, str]]]) -> list[dict[str, Any]]:
    """Return conversations as rows with ids unique within their file."""
    return [{"id": f"identity_{n}", "conversations": messages} for n, messages in enumerate(conversations)]


def simulate_pair(
    rng: random.Random,
    problem: Problem,
    bank: Sequence[Problem],
    evaluation: str,
    hedge_rates: dict[str, float],
) -> list[dict[str, str]]:
    """Return one perplexity row's messages: a dialogue up to a first failed attempt, then hint and solution.

    The last two messages are both the tutor's: the original (action 1 or 4) and the altered reply (2 or 5).
    """
    place = rng.randrange(len(problem["subproblems"]))
    turns = [open_dialogue(rng, problem)]
    for solved in range(place):
        reply = finish("b", "3", problem, solved, rng.choice(CONFIRMATIONS))
        answer = problem["subproblems"][solved]["answer"]
        turns.append((say(rng, answer, hedge_rates["b"]), reply))
    student = say(rng, failed_attempt(rng, evaluation, problem, place, bank), hedge_rates[evaluation])
    turns.append((student, hint_reply(evaluation, problem, place)))
    messages = raw_messages([(student, json.dumps(reply, ensure_ascii=False)) for student, reply in turns])
    altered = json.dumps(solution_reply(evaluation, problem, place), ensure_ascii=False)
    return [*messages, {"from": "gpt", "value": altered}]


def simulate_pairs(problems: Sequence[Problem], settings: Settings) -> list[dict[str, Any]]:
    """Return the perplexity file's rows, all distinct, as many of action 1 and 2 as of 4 and 5."""
    rng = random.Random(f"{settings['seed']}/pairs")
    seen: set[str] = set()
    rows: list[list[dict[str, str]]] = []
    for number in range(settings["ppl_pairs"]):
        for _ in range(1000):
            messages = simulate_pair(
                rng, rng.choice(problems), problems, "ac"[number % 2], settings["hedge_rates"]
            )
            if (text := json.dumps(messages)) not in seen:
                break
        else:
            raise PlumblineError(
                f"only {number} different perplexity pairs can be made of {len(problems)} problems: "
                "lower ppl_pairs or raise ppl_problems"
            )
        seen.add(text)
        rows.append(messages)
    return number_rows(rows)


def reserve_problems(problems: Sequence[Problem], settings: Settings) -> tuple[list[Problem], list[Problem]]:
    """Return (problems for the dialogues, problems for the perplexity file), disjoint, the latter by seed."""
    count = round(settings["ppl_problems"] * len(problems)) if settings["ppl_pairs"] else 0
    if settings["ppl_pairs"] and settings["ppl_problems"]:
        count = max(count, 2)
    order = sorted(problems, key=lambda problem: problem["id"])
    random.Random(f"{settings['seed']}/reserve").shuffle(order)
    reserved = {problem["id"] for problem in order[:count]}
    return (
        [problem for problem in problems if problem["id"] not in reserved],
        [problem for problem in problems if problem["id"] in reserved],
    )


def read_arguments(description: str, kind: Any) -> argparse.Namespace:
    """Return the flags of a command that simulates; `kind` is the TypedDict of its settings."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--problems", required=True, help="the problem bank (JSON Lines)")
    parser.add_argument(
        "--settings", required=True, type=settings_of(kind), help="the simulation's settings, as JSON"
    )
    parser.add_argument("--output", required=True, help="folder for the raw files")
    parser.add_argument("--manifest", required=True)
    return parser.parse_args()


def main() -> None:
    """Write bio-dataset-<n>.json, bio-dataset-ppl.json and their manifest."""
    arguments = read_arguments(__doc__, Settings)
    settings = arguments.settings
    used, reserved = reserve_problems(load_problems(arguments.problems), settings)
    files = simulate_files(used, settings)
    pairs = simulate_pairs(reserved or used, settings)

    written = []
    for number, rows in enumerate(files, 1):
        written.append(Path(arguments.output) / f"bio-dataset-{number}.json")
        write_json(written[-1], rows)
    if pairs:
        written.append(Path(arguments.output) / "bio-dataset-ppl.json")
        write_json(written[-1], pairs)
    write_manifest(
        arguments.manifest,
        written,
        problems={"dialogues": len(used), "pairs_only": len(reserved)},
        conversations=[len(rows) for rows in files],
        pairs=len(pairs),
    )


if __name__ == "__main__":
    run(main)
