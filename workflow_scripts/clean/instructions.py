"""The prompt of an instruction row as the Tulu mixtures word it: by a template drawn for it, or after worked examples.

Wang et al. (2023) draw one of fourteen templates with an input, or of fourteen without, for every row of an instruction
set, and make a quarter of the prompts of Super-NaturalInstructions few-shot ones. The draws are those of their code:
one generator, asked once a row in the order of the rows, so that with their words and seed their rows come out.
"""

import random
import re

from workflow_scripts.clean.schemas.row import Opened, Question, assistant, user
from workflow_scripts.clean.settings import InstructionTemplates, InstructionWording, Settings


def reworded(opened: Opened, settings: Settings, draws: random.Random) -> Opened:
    """Return an instruction row in the words that the settings ask for; any other row, or without such words, as it is.

    The last two turns are the question and its answer; what was said before them stays. What groups the row is still
    what it opened on.
    """
    question, templates = opened.question, settings["instruction_templates"]
    if question is None or not (templates or question.examples is not None):
        return opened
    *before, _, answer = opened.turns
    asked = opened.turns[0]["content"]
    if question.examples is not None:
        prompt, reply = (
            few_shot(question, (settings["few_shot"] or {"examples": 0})["examples"], draws),
            "{output}",
        )
    else:
        wording = drawn(templates, bool(question.input.strip()), draws)
        words = {"instruction": question.instruction.strip(), "input": question.input.strip()}
        prompt, reply = filled(wording["text"], words), wording["reply"]
    if isinstance(answer["content"], str):
        answer = assistant(filled(reply, {"output": answer["content"].strip()}))
    return opened._replace(
        turns=[*before, user(prompt), answer], asked=asked if isinstance(asked, str) else None
    )


def drawn(templates: InstructionTemplates, with_input: bool, draws: random.Random) -> InstructionWording:
    """Return one of the templates for a row with an input, or for one without, each as likely as its weight says."""
    choices = templates["with_input" if with_input else "without_input"]
    return draws.choices(choices, weights=[each["weight"] for each in choices])[0]


def filled(text: str, words: dict[str, str]) -> str:
    """Return a text with words in place of their names in braces; braces in the words themselves stay."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in words), lambda found: words[found[0][1:-1]], text)


def few_shot(question: Question, count: int, draws: random.Random) -> str:
    """Return the prompt of Super-NaturalInstructions with at most `count` worked examples, drawn if there are more."""
    examples = question.examples or []
    if count < len(examples):
        examples = draws.sample(examples, k=count)
    shown = "".join(
        f"Input:\n{example['input'].strip()}\nOutput:\n{example['output'].strip()}\n\n"
        for example in examples
    )
    return f"{question.instruction.strip()}\n\n{shown}Input:\n{question.input.strip()}\nOutput:\n"
