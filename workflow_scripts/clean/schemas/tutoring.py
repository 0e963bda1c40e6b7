"""The schemas of CLASS's tables (Sonkar et al., EMNLP 2023 Findings): problems with their steps, and mock dialogues.

Both are csv files in which one cell is a text of JSON. The source names its rows by their place N in the table, from 0:
a dialogue identity_N, a problem identity_(N + 1000). Its prompts are no part of a row here: a dataset's `system_prompt`
stands in their place, and passages come by its `retrieve`.
"""

import json

from workflow_scripts.clean.fields import Fields, Unfit, shown
from workflow_scripts.clean.reading import load_json
from workflow_scripts.clean.schemas.row import Opened, Row, Schema, assistant, user
from workflow_scripts.clean.settings import Settings
from workflow_scripts.common.raw_files import why_not_json
from workflow_scripts.common.tutor_reply import parse_literal

STEPS = "SubProblems"
OTHER_STEPS = "Subproblems"  # how one row of the published table spells it
OTHER_SPELLING = f"'{OTHER_STEPS}' read as '{STEPS}'"
STEP_KEYS = ("Question", "Answer", "Hint", "Incorrect Response", "Feedback")
COLUMNS = ("section_name", "section_learning_objs", "section_id")
PROBLEM_FIRST = "problem put before the student's first words"


def class_problems(row: Fields, settings: Settings) -> Opened:
    """Read {"problems": JSON of {"Problem", "SubProblems": [step, …], "Facts": [text, …], "Solution"}}.

    The problem is asked, and all the rest is the reply, as JSON. A step has the texts of STEP_KEYS.
    """
    problem = open_problem(row)
    steps = STEPS if STEPS in problem else OTHER_STEPS
    if steps not in problem:
        raise Unfit(f"missing field '{STEPS}'")
    given = [problem.within(step, steps) for step in problem.list(steps) if isinstance(step, dict)]
    if not given or len(given) < len(problem.list(steps)):
        raise Unfit(f"'{STEPS}' is not a list of steps")
    facts = problem.list("Facts")
    if not all(isinstance(fact, str) for fact in facts):
        raise Unfit("text is not a string", "'Facts'")
    parts = {
        steps: [{key: step.text(key) for key in STEP_KEYS} for step in given],
        "Facts": facts,
        "Solution": problem.text("Solution"),
    }
    # In the row's own order, and one spelling for all.
    reply = {STEPS if key == steps else key: parts[key] for key in problem.value if key in parts}
    return Opened(
        [user(problem.text("Problem")), assistant(json.dumps(reply, indent=4, ensure_ascii=False))],
        meta=section_of(row),
        notes=(OTHER_SPELLING,) if steps == OTHER_STEPS else (),
    )


def class_dialogues(row: Fields, settings: Settings) -> Opened:
    """Read {"problems": as above, "conversation": a list of {"Student", and the fields of a structured reply}}."""
    fields = open_problem(row)
    fields.asked |= {STEPS, OTHER_STEPS, "Facts", "Solution"}  # what the dialogue was made from
    problem = fields.text("Problem")
    exchanges = parse_literal(row.text("conversation"))
    if not isinstance(exchanges, list):
        raise Unfit("'conversation' holds no list")
    turns, notes = [], []
    for place, exchange in enumerate(exchanges):
        if not isinstance(exchange, dict):
            raise Unfit("turn is not an object", type(exchange).__name__)
        student = Fields(exchange, "conversation").text("Student")
        reply = {key: value for key, value in exchange.items() if key != "Student"}
        if place == 0:
            if problem.strip() not in student:
                notes.append(PROBLEM_FIRST)
                student = f"Q. {problem}\n\n{student}"
            student = f"Student: {student}"  # as tutorbot rows have it behind their instructions
        turns += [{"from": "human", "value": student}, {"from": "gpt", "value": json.dumps(reply)}]
    return Opened(turns, style="tutorbot", meta=section_of(row), notes=tuple(notes))


def open_problem(row: Fields) -> Fields:
    """Return the fields of a row's problem, which is a text of JSON; Unfit, with the place, if it is none."""
    text = row.text("problems")
    try:
        problem = load_json(text)
    except (RecursionError, ValueError) as error:
        line = f"line {error.lineno}, " if isinstance(error, json.JSONDecodeError) else ""
        raise Unfit("problem is not JSON", f"{line}{why_not_json(error)}") from None
    if not isinstance(problem, dict):
        raise Unfit("problem is not an object", shown(problem))
    return row.within(problem, "problems")


def section_of(row: Fields) -> Row:
    """Return what a row says of the section that its problem belongs to."""
    return {key: text.strip() for key in COLUMNS if (text := row.optional_text(key))}


SCHEMAS = {
    "class_problems": Schema(class_problems, first_id=1000),
    "class_dialogues": Schema(class_dialogues, first_id=0),
}
