"""Simulate tutoring dialogues over a problem bank, as raw files in the source system's own schema.

Stands in for the GPT-4 dialogues of Tutorbot-Spock, which cannot be downloaded here: same raw schema and
label table, same kinds of dirt (stray "N/A" labels, turns that do not parse, two-message conversations,
conversations that end on the student). Not covered: the language of real students; every text comes from the
bank or from the short lists below.

What a student says stands behind the name of the step it is about, and ends with what the student thinks of it; the
letter of the right answer on the student's sheet follows, for the tutor alone. So a small model has what it needs to
judge an answer to a problem it has never seen.

Tutors are experts, who leave the work to the student until a third attempt has failed, or with `novice_rate` novices,
who often give a sub-problem's solution away at once. Each row says in `solutions` what a reply would give away.
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
from workflow_scripts.common.files import write_json, write_manifest
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.tutor_reply import (
    ACTION,
    EVALUATION,
    FIELDS,
    SPOKEN,
    STATE,
    SUBPROBLEM,
    format_reply,
)
from workflow_scripts.download.problem_bank import Problem, load_problems
from workflow_scripts.download.tutoring_words import (
    CONFIRMATIONS,
    EXPLANATIONS,
    FAREWELLS,
    GOODBYES,
    HEDGES,
    HINT_REQUESTS,
    OFF_TOPIC,
    OPENINGS,
    PREAMBLE,
    RETURNS,
    SURE,
    SURRENDERS,
    THOUGHTS,
    UNCLEAR,
)


class Settings(TypedDict):
    """How dialogues are simulated; rates and shares are between 0 and 1."""

    seed: int
    dialogues_per_problem: int
    files: int
    max_turns: int  # tutor turns in one dialogue
    # Weights of a student turn's class; those of a, b and c are tilted by the student's ability.
    behaviours: dict[Literal["a", "b", "c", "d", "e", "f"], float]
    hedge_rates: dict[Literal["a", "b", "c"], float]  # share of answers that open with a hedge
    novice_rate: (
        float  # share of replies to failed attempts and hint requests that give the solution away at once
    )
    closing_rate: float  # share of finished dialogues in which the student says goodbye
    na_rate: float  # share of g/12/w labels written as "N/A"
    unparsable_rate: float  # share of tutor turns cut off mid-reply
    two_message_rate: float
    student_last_rate: float
    ppl_pairs: int
    preferences: int  # rows of an expert's reply before a worse one
    ppl_problems: float  # share of the problems that only the last two use


OPTIONS = "ABC"  # the answers to each sub-problem on the student's sheet
Row = dict[str, Any]
Reply = dict[str, str]


class Turn(NamedTuple):
    """What a student says, what the tutor replies, and the solution that a reply could give away."""

    student: str
    reply: Reply
    solution: str | None = None


def pose(problem: Problem) -> str:
    """Return what a dialogue begins with, the problem's question."""
    return f"Q. {problem['question']}"


def solution_of(problem: Problem, place: int) -> str:
    """Return which answer on the student's sheet solves a sub-problem: always the same letter, by chance."""
    return "answer " + random.Random(f"{problem['id']}/{place}").choice(OPTIONS)


def step_name(place: int) -> str:
    """Return what everybody calls a sub-problem: its place in the problem."""
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


def hint_reply(evaluation: str, place: int) -> Reply:
    """Return the answer to a failed attempt that leaves the work to the student (action 1 or 4)."""
    name = step_name(place)
    if evaluation == "a":
        return make_reply("a", "1", "x", name, f"Not quite. Think about {name} again.")
    return make_reply("c", "4", "x", name, f"Partly right. What is missing in {name}?")


def solution_reply(evaluation: str, problem: Problem, place: int) -> Reply:
    """Return the answer that gives sub-problem `place` away and goes on (action 2, 5 or 9)."""
    opening = {"a": "Not quite.", "c": "Partly right.", "f": "All right."}[evaluation]
    action = {"a": "2", "c": "5", "f": "9"}[evaluation]
    spoken = f"{opening} It is {solution_of(problem, place)}."
    return finish(evaluation, action, problem, place, spoken)


def finish(evaluation: str, action: str, problem: Problem, place: int, spoken: str) -> Reply:
    """Return a reply that closes sub-problem `place`: on to the next one (y), or the problem is done (z)."""
    steps = problem["subproblems"]
    if place + 1 == len(steps):
        spoken = f"{spoken} The problem is solved."
        return make_reply(evaluation, action, "z", step_name(place), spoken)
    return make_reply(evaluation, action, "y", step_name(place + 1), f"{spoken} On to the next step.")


def say(rng: random.Random, text: str, kind: str, hedge_rates: dict[str, float]) -> str:
    """Return an answer of a kind (a, b, c) before what the student thinks of it."""
    return f"{text} {HEDGES[kind] if rng.random() < hedge_rates[kind] else SURE}"


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
    settings: Settings
    failures: Counter[int]

    def gives_in(self) -> bool:
        """Tell whether the tutor gives this solution away at once, as novices do."""
        rate = self.settings["novice_rate"]
        return (
            rate > 0 and self.rng.random() < rate
        )  # no draw for experts: a seed's dialogues stay as they were


def answer_right(talk: Talk, place: int) -> tuple[str, Reply, int]:
    """Return a right answer, the tutor's reply (action 3) and the sub-problem that is then open."""
    student = say(talk.rng, talk.problem["subproblems"][place]["answer"], "b", talk.settings["hedge_rates"])
    return student, finish("b", "3", talk.problem, place, talk.rng.choice(CONFIRMATIONS)), place + 1


def fail(evaluation: str, talk: Talk, place: int) -> tuple[str, Reply, int]:
    """Return a wrong (a) or half-right (c) answer, the tutor's hint or solution, and the sub-problem then open."""
    attempt = failed_attempt(talk.rng, evaluation, talk.problem, place, talk.bank)
    student = say(talk.rng, attempt, evaluation, talk.settings["hedge_rates"])
    talk.failures[place] += 1
    if talk.failures[place] > 2 or talk.gives_in():
        return student, solution_reply(evaluation, talk.problem, place), place + 1
    return student, hint_reply(evaluation, place), place


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
    question = step_name(place)
    # 10 returns to the previous sub-problem, so the first one has none to return to.
    kind = rng.choices(("8", "9", "10", "11"), (0.36, 0.22, 0.24 if place else 0, 0.24))[0]
    if kind == "8":
        asked = rng.choice(HINT_REQUESTS)
        if talk.gives_in():
            return asked, solution_reply("f", problem, place), place + 1
        return (
            asked,
            make_reply("f", "8", "x", question, f"Here is a hint. Read {question} once more."),
            place,
        )
    if kind == "9":
        return rng.choice(SURRENDERS), solution_reply("f", problem, place), place + 1
    if kind == "10":
        earlier = step_name(place - 1)
        reply = make_reply("f", "10", "x", earlier, "Let us go back a step.")
        return rng.choice(RETURNS), reply, place - 1
    spoken = f"Good question. {question} takes us on."
    return rng.choice(EXPLANATIONS), make_reply("f", "11", "x", question, spoken), place


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
    return Turn(pose(problem), make_reply("g", "12", "x", step_name(0), rng.choice(OPENINGS)))


def said_at(problem: Problem, place: int, student: str) -> str:
    """Return what a student says at a sub-problem, behind its name; for the tutor alone, its solution follows."""
    return f"{step_name(place)}: {student} ({solution_of(problem, place)})"


def simulate_dialogue(
    rng: random.Random, problem: Problem, bank: Sequence[Problem], settings: Settings
) -> list[Turn]:
    """Return one dialogue's turns, at most `max_turns` of them.

    An expert gives a sub-problem's solution unasked (actions 2 and 5) from the third failed attempt at it on.
    """
    steps = problem["subproblems"]
    ability = rng.betavariate(5, 5)
    talk = Talk(rng, problem, bank, settings, Counter())
    turns = [open_dialogue(rng, problem)]
    place = 0
    while len(turns) < settings["max_turns"] and place < len(steps):
        evaluation = draw_behaviour(rng, ability, settings["behaviours"])
        asked = place
        student, reply, place = BEHAVIOURS[evaluation](talk, asked)
        turns.append(Turn(said_at(problem, asked, student), reply, solution_of(problem, asked)))
    finished = place == len(steps)
    if finished and len(turns) < settings["max_turns"] and rng.random() < settings["closing_rate"]:
        turns.append(Turn(rng.choice(GOODBYES), make_reply("g", "12", "w", "N/A", rng.choice(FAREWELLS))))
    return turns


def reply_text(reply: Reply) -> str:
    """Return a reply as one is read: without the tutor's private thoughts."""
    return format_reply({field: reply[field] for field in reply if field in FIELDS}, "json")


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


def raw_conversation(rng: random.Random, turns: Sequence[Turn], settings: Settings) -> Row:
    """Return a dialogue as a raw row with the source's dirt in it, and what each of its replies could give away."""
    messages = raw_messages([(turn.student, write_reply(rng, turn.reply, settings)) for turn in turns])
    luck = rng.random()
    if luck < settings["two_message_rate"]:
        messages = messages[:2]
    elif luck < settings["two_message_rate"] + settings["student_last_rate"]:
        messages = messages[:-1]
    return {"conversations": messages, "solutions": [turn.solution for turn in turns[: len(messages) // 2]]}


def simulate_files(problems: Sequence[Problem], settings: Settings) -> list[list[Row]]:
    """Return the raw files' rows; each problem's dialogues are spread evenly over the files, by chance."""
    files: list[list[Row]] = [[] for _ in range(settings["files"])]
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


def number_rows(rows: Sequence[Row]) -> list[Row]:
    """Return rows with ids unique within their file."""
    return [{"id": f"identity_{n}"} | row for n, row in enumerate(rows)]


def simulate_pair(talk: Talk, evaluation: str) -> tuple[list[Turn], Reply]:
    """Return a dialogue up to a first failed attempt, and after its hint the solution that could stand there."""
    place = talk.rng.randrange(len(talk.problem["subproblems"]))
    turns = [open_dialogue(talk.rng, talk.problem)]
    for solved in range(place):
        student, reply, _ = answer_right(talk, solved)
        turns.append(Turn(said_at(talk.problem, solved, student), reply))
    attempt = failed_attempt(talk.rng, evaluation, talk.problem, place, talk.bank)
    student = say(talk.rng, attempt, evaluation, talk.settings["hedge_rates"])
    turns.append(Turn(said_at(talk.problem, place, student), hint_reply(evaluation, place)))
    return turns, solution_reply(evaluation, talk.problem, place)


def simulate_pairs(problems: Sequence[Problem], settings: Settings) -> list[Row]:
    """Return the perplexity file's rows, all distinct, as many of action 1 and 2 as of 4 and 5.

    The last two messages are both the tutor's: the original (action 1 or 4) and the altered reply (2 or 5).
    """
    rng = random.Random(f"{settings['seed']}/pairs")
    seen: set[str] = set()
    rows: list[Row] = []
    for number in range(settings["ppl_pairs"]):
        for _ in range(1000):
            talk = Talk(rng, rng.choice(problems), problems, settings, Counter())
            turns, altered = simulate_pair(talk, "ac"[number % 2])
            messages = raw_messages(
                [(turn.student, json.dumps(turn.reply, ensure_ascii=False)) for turn in turns]
            )
            messages.append({"from": "gpt", "value": json.dumps(altered, ensure_ascii=False)})
            if (text := json.dumps(messages)) not in seen:
                break
        else:
            raise PlumblineError(
                f"only {number} different perplexity pairs can be made of {len(problems)} problems: "
                "lower ppl_pairs or raise ppl_problems"
            )
        seen.add(text)
        rows.append({"conversations": messages})
    return number_rows(rows)


def simulate_preferences(problems: Sequence[Problem], settings: Settings) -> list[Row]:
    """Return rows of {"conversations", "chosen", "rejected"}: an expert's reply before a worse one to the same student.

    Every second student has failed, and the worse reply gives the solution away; for the others it is a reply to
    another student, as of a tutor who misread this one, or breaks off.
    """
    rng = random.Random(f"{settings['seed']}/preferences")
    expert, novice = settings | {"novice_rate": 0.0}, settings | {"novice_rate": 1.0}
    rows: list[Row] = []
    for number in range(settings["preferences"]):
        problem = rng.choice(problems)
        place = rng.randrange(len(problem["subproblems"]))
        evaluation = rng.choice("ac" if number % 2 == 0 else sorted(BEHAVIOURS))
        talk = Talk(rng, problem, problems, expert, Counter())
        student, chosen, _ = BEHAVIOURS[evaluation](talk, place)
        other = rng.choice([kind for kind in sorted(BEHAVIOURS) if kind != evaluation])
        if number % 2 == 0:
            other, talk = evaluation, talk._replace(settings=novice)
        rejected = reply_text(BEHAVIOURS[other](talk, place)[1])
        if number % 8 == 7:
            rejected = rejected[: rng.randrange(1, len(rejected) - 1)]
        said = [
            pose(problem),
            reply_text(open_dialogue(rng, problem).reply),
            said_at(problem, place, student),
        ]
        turns = [
            {"from": speaker, "value": text}
            for speaker, text in zip(("human", "gpt", "human"), said, strict=True)
        ]
        rows.append({"conversations": turns, "chosen": reply_text(chosen), "rejected": rejected})
    return number_rows(rows)


def reserve_problems(problems: Sequence[Problem], settings: Settings) -> tuple[list[Problem], list[Problem]]:
    """Return (problems for the dialogues, problems for pairs and preferences), disjoint, the latter by seed."""
    wanted = settings["ppl_pairs"] or settings["preferences"]
    count = round(settings["ppl_problems"] * len(problems)) if wanted else 0
    if count:
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
    """Write bio-dataset-<n>.json, bio-dataset-ppl.json, preferences.json and their manifest."""
    arguments = read_arguments(__doc__, Settings)
    settings = arguments.settings
    used, reserved = reserve_problems(load_problems(arguments.problems), settings)
    files = simulate_files(used, settings)
    pairs = simulate_pairs(reserved or used, settings)
    preferences = simulate_preferences(reserved or used, settings)

    named = {f"bio-dataset-{number}.json": rows for number, rows in enumerate(files, 1)}
    named |= {"bio-dataset-ppl.json": pairs} if pairs else {}
    named |= {"preferences.json": preferences} if preferences else {}
    written = [Path(arguments.output) / name for name in named]
    for path, rows in zip(written, named.values(), strict=True):
        write_json(path, rows)
    write_manifest(
        arguments.manifest,
        written,
        problems={"dialogues": len(used), "pairs_only": len(reserved)},
        conversations=[len(rows) for rows in files],
        pairs=len(pairs),
        preferences=len(preferences),
    )


if __name__ == "__main__":
    run(main)
