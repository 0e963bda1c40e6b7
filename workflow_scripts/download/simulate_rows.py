"""Simulate rows of the other sources over the problem bank, as raw files in those sources' own schemas.

Stands in for data that cannot be downloaded here: chat rows, Anthropic's HH with reward-model logits, the small tasks
of A-LoL (Baheti et al., ICLR 2024), prepared and as published, short comments with their votes, instruction and
preference rows (Raschka, "Build a Large Language Model", chapter 7), CLASS's table of problems (Sonkar et al., EMNLP
2023 Findings). Every text comes from the bank or from the short lists below. Rewards are drawn, not measured: a right
answer's are higher on average, with noise.
Not covered: the language of the real sources; measured rewards.

Problems are dealt to train, val and test by the seed alone, so that all kinds of rows of one seed hold out the same
problems. What stands before "Facts:" in a row's first message is the same for all rows of one problem, so that
splits by problem keep them together; votes, whose prompt is a step's question alone, are parted by their files.
"""

import csv
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import (
    canonical_json,
    finished_file,
    write_json,
    write_jsonl,
    write_manifest,
)
from workflow_scripts.download.problem_bank import Problem, load_problems
from workflow_scripts.download.simulate_dialogues import read_arguments


class Settings(TypedDict):
    """Which rows are simulated: a kind of FILES, and how many in all files together."""

    rows: str
    seed: int
    count: int


# Which problems a file's rows are about, and its share of the rows.
SMALL_TASK = {"train.jsonl": ("train", 0.8), "val.jsonl": ("val", 0.1), "test.jsonl": ("test", 0.1)}
FILES: dict[str, dict[str, tuple[str, float]]] = {
    "messages": {"train.jsonl": ("train", 0.9), "test.jsonl": ("test", 0.1)},
    "hh": {"train.jsonl": ("train", 0.8), "dev.jsonl": ("val", 0.1), "test.jsonl": ("test", 0.1)},
    "comet": SMALL_TASK,
    # Liked and disliked replies make two training sets; val and test hold both.
    "reddit": {
        "pos_train.jsonl": ("train", 0.4),
        "neg_train.jsonl": ("train", 0.4),
        "val.jsonl": ("val", 0.1),
        "test.jsonl": ("test", 0.1),
    },
    "wow": SMALL_TASK,
    "faithdial": SMALL_TASK,
    "reddit_comments": {"comments_positive.csv": ("all", 0.5), "comments_negative.csv": ("all", 0.5)},
    "votes": {
        "up_train.jsonl": ("train", 0.4),
        "down_train.jsonl": ("train", 0.4),
        "val.jsonl": ("val", 0.1),
        "test.jsonl": ("test", 0.1),
    },
    "atomic": {"ATOMIC10X.jsonl": ("known", 0.8), "test.tsv": ("test", 0.2)},
    "wizard_of_wikipedia": {
        "train.json": ("train", 0.8),
        "valid_topic_split.json": ("val", 0.1),
        "test_topic_split.json": ("test", 0.1),
    },
    "alpaca": {"instruction-data.json": ("all", 1.0)},
    "alpaca_preferences": {"instruction-data-with-preference.json": ("all", 1.0)},
    "class_problems": {"bio-problems.csv": ("all", 1.0)},
}
HELD_OUT = 0.1  # share of the problems that val, and again test, have for themselves
NO_PASSAGE = "no_passages_used"  # what ParlAI writes where the wizard looked nothing up
NAMELESS = ("test.tsv",)  # tables whose first row does not name their columns

EOS = "<|endoftext|>"
INPUT_RATE = 0.27  # of instruction rows drawn; among the distinct ones it is a little more
MULTI_TURN_RATE = 0.4
COLON_RATE = 0.06  # share of HH replies that break off at a colon
EMPTY_RATE = 0.05  # share of comments that were deleted
EQUAL_RATE = 0.01  # share of preference rows in which nothing is preferred
UNFAITHFUL_RATE = {"wow": 0.4, "faithdial": 0.1}
# A difference of 0.5 between means and noise of 1 in both: the preferred reply is ahead in 64 % of pairs.
LOGIT_MEANS = {True: 0.25, False: -0.25}

TASKS = {
    "answer": ("Answer the question.", "question", "answer"),
    "hint": ("Give a hint to the question.", "question", "hint"),
    "mend": ("Say what is wrong with the answer.", "incorrect", "feedback"),
}
# The relations of ATOMIC-10X, each with the tail's text and the field of a step it takes.
RELATIONS = {
    "xAttr": ("curious about {topic}", "question"),
    "xEffect": ("learns: {text}", "answer"),
    "xIntent": ("to understand: {text}", "answer"),
    "xNeed": ("to think of this: {text}", "hint"),
    "xReact": ("glad to know: {text}", "answer"),
    "xWant": ("to tell others: {text}", "answer"),
    "HinderedBy": ("PersonX believes: {text}", "incorrect"),
}
STEP_CELLS = {  # of CLASS's table, each with the field of a step it takes
    "Question": "question",
    "Answer": "answer",
    "Hint": "hint",
    "Incorrect Response": "incorrect",
    "Feedback": "feedback",
}
HINT_OPENINGS = ("Here is a hint. ", "Try this. ", "A clue: ")
CUT_OFF = ("Here is why:", "There are two reasons for it:", "Let me explain:")
WIZARD_OPENINGS = ("Good question. What would you like to know?", "I know a little about that. Ask me.")
LIKED = ("", "Nice question! ", "I asked myself that, too. ", "Short answer: ")
DISLIKED = ("", "Everybody knows that. ", "Who cares. ", "Look it up yourself. ")
POLITE = (
    "Gladly. {}",
    "{} I hope that this helps.",
    "Thank you for asking. {}",
    "{} Please ask if it is unclear.",
)
IMPOLITE = ("Obviously, {}", "{} Now leave me alone.", "As anybody knows, {}", "{} Was that so hard?")

Row = dict[str, Any]


def files_of(kind: str) -> list[str]:
    """Return the names of the files written for a kind of rows."""
    return list(FILES[kind])


def deal_problems(problems: Sequence[Problem], seed: int) -> dict[str, list[Problem]]:
    """Return the problems of train, val and test, disjoint, those that are not test's (known), and all of them.

    They are the same for all kinds of rows.
    """
    if len(problems) < 3:
        raise PlumblineError(
            f"{len(problems)} problems cannot be dealt to train, val and test: give at least 3"
        )
    order = sorted(problems, key=lambda problem: problem["id"])
    random.Random(f"{seed}/problems").shuffle(order)
    held_out = max(1, round(HELD_OUT * len(order)))
    val, test = order[:held_out], order[held_out : 2 * held_out]
    train = order[2 * held_out :]
    return {"train": train, "val": val, "test": test, "known": [*val, *train], "all": order}


def pose(problem: Problem) -> str:
    """Return a problem's question and facts; what stands before "Facts:" is its group."""
    return f"Q. {problem['question']} Facts: {' '.join(problem['facts'])}"


def other_answer(rng: random.Random, problem: Problem, bank: Sequence[Problem]) -> str:
    """Return a right answer that belongs to another problem."""
    others = [other for other in bank if other["id"] != problem["id"]] or list(bank)
    return rng.choice(rng.choice(others)["subproblems"])["answer"]


def draw_share(rng: random.Random, good: bool) -> float:
    """Return a reward in (0, 1), on average 0.75 for what is good and 0.35 for what is not."""
    return round(rng.betavariate(6, 2) if good else rng.betavariate(3.5, 6.5), 4)


def with_final(rewards: dict[str, float]) -> dict[str, float]:
    """Return reward components with their plain sum, as the source has it."""
    return rewards | {"final_reward": round(math.fsum(rewards.values()), 4)}


def make_task(rng: random.Random, problem: Problem) -> tuple[str, str, str]:
    """Return (what is asked, about what, the right reply) of a task on one of a problem's steps."""
    asked, about, replied = TASKS[rng.choice(sorted(TASKS))]
    step = rng.choice(problem["subproblems"])
    return asked, step[about], step[replied]


def messages_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a chat row: one task on a problem, or two or three in turn."""
    messages = []
    for turn in range(rng.choice((2, 3)) if rng.random() < MULTI_TURN_RATE else 1):
        asked, about, reply = make_task(rng, problem)
        opening = "" if turn else f"{pose(problem)} "
        messages.append({"role": "user", "content": f"{opening}{asked} {about}"})
        messages.append({"role": "assistant", "content": reply})
    return {"dataset": "simulated", "messages": messages}


def hh_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a prompt with a good and a bad reply and a reward model's raw logits of both, the good one first."""
    steps = problem["subproblems"]
    place = rng.randrange(len(steps))
    prefix = [f"<|prompter|>{pose(problem)} {steps[0]['question']}"]
    if place:
        prefix += [f"<|assistant|>{steps[0]['answer']}", f"<|prompter|>{steps[place]['question']}"]
    prefix.append("<|assistant|>")
    hint = f"{rng.choice(HINT_OPENINGS)}{steps[place]['hint']}"
    good = steps[place]["answer"] if rng.random() < 0.7 else hint
    bad = steps[place]["incorrect"] if rng.random() < 0.6 else other_answer(rng, problem, bank)
    replies = [rng.choice(CUT_OFF) if rng.random() < COLON_RATE else reply for reply in (good, bad)]
    # Some prompts are rewarded better than others whatever the reply, which is what a value estimate can learn.
    ease = random.Random(f"ease of {problem['id']}").gauss(0, 0.5)
    return {
        "meta": {"path": f"simulated/{file}", "task": "dialogue"},
        "prefix": [prefix, prefix],
        "suffix": replies,
        "reward": [round(ease + LOGIT_MEANS[better] + rng.gauss(0, 1), 6) for better in (True, False)],
        "sft_index": 0,
    }


def comet_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return an event, a relation and a tail that follows from it, or one that belongs to another problem."""
    relation = rng.choice(sorted(RELATIONS))
    form, key = RELATIONS[relation]
    place = rng.randrange(len(problem["subproblems"]))
    step = problem["subproblems"][place]
    valid = rng.random() < 0.6
    if valid:
        topic, text = problem["topic"], step[key]
    else:
        stranger = rng.choice([other for other in bank if other["id"] != problem["id"]] or list(bank))
        topic, text = stranger["topic"], rng.choice(stranger["subproblems"])[key]
    fact = problem["facts"][place % len(problem["facts"])]
    head = f"PersonX asks PersonY: {problem['question']} Facts: {fact}"
    tail = form.format(topic=topic.lower(), text=text)
    return {
        "prompt_or_input_text": f"<head> {head} </head> <relation> {relation} </relation> [GEN] ",
        "references": tail,
        "meta_data": {"original_dict": {"head": head, "relation": relation, "tail": tail}},
        "reward_components": with_final({"p_valid": draw_share(rng, valid)}),
    }


def atomic_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return the same as ATOMIC-10X has it, with its split and its critic's word, or as ATOMIC-2020 has it, bare."""
    made = comet_row(rng, problem, bank, file)
    triple = dict(made["meta_data"]["original_dict"])
    if file in NAMELESS:
        return triple
    held_out = random.Random(f"split of {problem['id']}").random() < HELD_OUT
    return triple | {
        "split": "val" if held_out else "train",
        "p_valid_model": made["reward_components"]["p_valid"],
    }


def reddit_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a comment and a reply that readers liked (score above 0) or did not."""
    known = {"pos_train.jsonl": True, "up_train.jsonl": True, "comments_positive.csv": True}
    known |= {"neg_train.jsonl": False, "down_train.jsonl": False, "comments_negative.csv": False}
    liked = known.get(file, rng.random() < 0.5)
    step = rng.choice(problem["subproblems"])
    reply = step["answer"] if liked else rng.choice((step["incorrect"], other_answer(rng, problem, bank)))
    rewards = {name: draw_share(rng, liked) for name in ("fluency", "depth", "updown", "safe", "tfidf")}
    score = rng.randint(10, 900)
    return {
        "prompt_or_input_text": f"{pose(problem)} {step['question']}{EOS}",
        "references": f"{rng.choice(LIKED if liked else DISLIKED)}{reply}{EOS}",
        "meta_data": {"score": score if liked else -score, "parent_score": rng.randint(1, 900)},
        "reward_components": with_final(rewards),
    }


def comment_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return the same as a row of a table of comments, with the white space and the gaps that such tables have."""
    made = reddit_row(rng, problem, bank, file)
    parent, text = (made[key].removesuffix(EOS) for key in ("prompt_or_input_text", "references"))
    return {
        "parent_text": parent.replace(" Facts:", "\nFacts:"),
        "text": "" if rng.random() < EMPTY_RATE else text,
        **made["meta_data"],
    }


def votes_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a question alone, a reply to it as in `reddit_row`, and whether readers liked the reply."""
    made = reddit_row(rng, problem, bank, file)
    question = made["prompt_or_input_text"].removesuffix(EOS).removeprefix(pose(problem)).strip()
    return {
        "prompt": question,
        "completion": made["references"].removesuffix(EOS),
        "upvoted": made["meta_data"]["score"] > 0,
    }


def knowledge_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], kind: str) -> Row:
    """Return a talk about a problem, a fact to draw on, and a reply that keeps to it or does not."""
    place = rng.randrange(len(problem["subproblems"]))
    step = problem["subproblems"][place]
    faithful = rng.random() >= UNFAITHFUL_RATE[kind]
    knowledge = problem["facts"][place % len(problem["facts"])]
    history = EOS.join([problem["question"], rng.choice(WIZARD_OPENINGS), step["question"]])
    opening = rng.choice(LIKED)
    reply = step["answer"] if faithful else rng.choice((step["incorrect"], other_answer(rng, problem, bank)))
    rewards = {name: draw_share(rng, faithful) for name in ("fluency", "faithdial", "depth", "tfidf")}
    return {
        "prompt_or_input_text": f"Knowledge: {knowledge}{EOS}{history}{EOS}",
        "references": f"{opening}{reply}{EOS}",
        "meta_data": {"knowledge": knowledge, "history": history},
        "reward_components": with_final(rewards),
    }


def wow_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a row in the manner of Wizard of Wikipedia: replies often stray from the fact."""
    return knowledge_row(rng, problem, bank, "wow")


def faithdial_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a row in the manner of FaithDial: replies seldom stray from the fact."""
    return knowledge_row(rng, problem, bank, "faithdial")


def wizard_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a dialogue as ParlAI has it: the wizard first looks nothing up, then replies about one or two facts."""
    turns = []

    def say(speaker: str, text: str, **checked: str) -> None:
        wizard = {"checked_sentence": checked} if speaker == "Wizard" else {}
        turns.append({"speaker": f"{len(turns) % 2}_{speaker}", "text": text} | wizard)

    for number in range(rng.choice((1, 2))):
        row = knowledge_row(rng, problem, bank, "wow")
        asked, opened, question = row["meta_data"]["history"].split(EOS)
        if not number:
            say("Apprentice", asked)
            say("Wizard", opened, no_passages_used=NO_PASSAGE)
        say("Apprentice", question)
        say("Wizard", row["references"].removesuffix(EOS), fact=row["meta_data"]["knowledge"])
    return {"chosen_topic": problem["topic"], "dialog": turns}


def alpaca_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return an instruction row; what the task is about stands in the input or in the instruction."""
    asked, about, reply = make_task(rng, problem)
    if rng.random() < INPUT_RATE:
        return {"instruction": f"{pose(problem)} {asked}", "input": about, "output": reply}
    return {"instruction": f"{pose(problem)} {asked} {about}", "input": "", "output": reply}


def alpaca_preferences_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return an instruction row whose output is preferred to a less polite one, or loses to a more polite one."""
    row = alpaca_row(rng, problem, bank, file)
    output = row["output"]
    if rng.random() < EQUAL_RATE:
        return row | {"chosen": output, "rejected": output}
    if rng.random() < 0.5:
        return row | {"chosen": rng.choice(POLITE).format(output), "rejected": output}
    return row | {"chosen": output, "rejected": rng.choice(IMPOLITE).format(output)}


def class_problems_row(rng: random.Random, problem: Problem, bank: Sequence[Problem], file: str) -> Row:
    """Return a row of CLASS's table: a problem as JSON, two or three of its steps in it, its facts in any order."""
    places = sorted(rng.sample(range(len(problem["subproblems"])), rng.choice((2, 3))))
    steps = [problem["subproblems"][place] for place in places]
    written = {
        "Problem": problem["question"],
        "SubProblems": [{name: step[key] for name, key in STEP_CELLS.items()} for step in steps],
        "Facts": rng.sample(problem["facts"], len(problem["facts"])),
        "Solution": problem["solution"],
    }
    return {
        "section_name": problem["topic"],
        "section_learning_objs": f"Understand {problem['topic'].lower()}",
        "section_id": problem["id"],
        "problems": json.dumps(written, ensure_ascii=False),
    }


MAKERS: dict[str, Callable[[random.Random, Problem, Sequence[Problem], str], Row]] = {
    "messages": messages_row,
    "hh": hh_row,
    "comet": comet_row,
    "reddit": reddit_row,
    "wow": wow_row,
    "faithdial": faithdial_row,
    "reddit_comments": comment_row,
    "votes": votes_row,
    "atomic": atomic_row,
    "wizard_of_wikipedia": wizard_row,
    "alpaca": alpaca_row,
    "alpaca_preferences": alpaca_preferences_row,
    "class_problems": class_problems_row,
}


def said(row: Row, kind: str, file: str) -> str:
    """Return what makes a row different from others: its texts, and of COMET's test rows the prompt alone."""
    if kind == "comet" and file == "test.jsonl":
        return row["prompt_or_input_text"]
    drawn = ("reward", "reward_components", "meta", "meta_data", "p_valid_model", "score", "parent_score")
    return canonical_json({key: value for key, value in row.items() if key not in drawn})


def number_row(row: Row, kind: str, number: int) -> Row:
    """Return a row with its number where its source has one."""
    if kind == "hh":
        return row | {"meta": row["meta"] | {"line_num": number}}
    if kind == "messages":
        return {"id": f"simulated_{number}"} | row
    if kind == "reddit_comments":
        return {"id": f"c{number}"} | row
    return {"id": number} | row if "reward_components" in row else row


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a table of text, its cells parted by what the end of its name says."""
    with finished_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        if path.name not in NAMELESS:
            writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)


WRITERS = {".json": write_json, ".jsonl": write_jsonl, ".csv": write_table, ".tsv": write_table}


def simulate_rows(problems: Sequence[Problem], settings: Settings) -> dict[str, list[Row]]:
    """Return {file name: rows}, all rows of a file distinct, the problems of train, val and test disjoint."""
    kind, seed = settings["rows"], settings["seed"]
    if kind not in FILES:
        raise PlumblineError(f"rows: {kind!r} is not one of {', '.join(FILES)}")
    dealt = deal_problems(problems, seed)
    written = {}
    for file, (part, share) in FILES[kind].items():
        rng = random.Random(f"{seed}/{kind}/{file}")
        rows: dict[str, Row] = {}
        wanted = max(1, round(share * settings["count"]))
        for _ in range(200 * wanted):
            row = MAKERS[kind](rng, rng.choice(dealt[part]), dealt[part], file)
            rows.setdefault(said(row, kind, file), row)
            if len(rows) == wanted:
                break
        else:
            raise PlumblineError(
                f"only {len(rows)} different rows of kind '{kind}' can be made for {file}, not {wanted}: "
                "lower count or give more problems"
            )
        written[file] = [number_row(row, kind, number) for number, row in enumerate(rows.values())]
    return written


def main() -> None:
    """Write the raw files of one kind of rows and their manifest."""
    arguments = read_arguments(__doc__, Settings)
    written = simulate_rows(load_problems(arguments.problems), arguments.settings)
    paths = [Path(arguments.output) / file for file in written]
    for path in paths:
        WRITERS[path.suffix](path, written[path.name])
    write_manifest(arguments.manifest, paths, rows={file: len(rows) for file, rows in written.items()})


if __name__ == "__main__":
    run(main)
