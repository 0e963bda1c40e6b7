"""How many of their prompts' constraints a policy's answers meet, as rules check them (IFEval, Zhou et al. 2023).

Covers prompt-level accuracy (all constraints of a prompt are met) and instruction-level accuracy (each constraint
counts), both strict and loose: loose takes the best of eight readings of an answer, without its first line, its last
line and its asterisks. Also instruction-level by family of constraints, and the share of answers that came to an end.
With several samples an item is the mean over them. Not covered: whether an answer is any good.
"""

from collections.abc import Callable

from typing_extensions import TypedDict

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.constraints import FAMILIES, FAMILY_OF, follows, loose_readings
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.score.flags import answers_parser
from workflow_scripts.score.items import SHARE, first_turns_by_id, make_cell, write_scores


class Settings(TypedDict):
    benchmark: str


Met = list[list[bool]]  # of one prompt: by sample, by constraint


def strictly(text: str, constraint: dict) -> bool:
    return follows(text, constraint)


def loosely(text: str, constraint: dict) -> bool:
    return any(follows(reading, constraint) for reading in loose_readings(text))


def met_by(
    prompts: list[dict], answers: dict[str, list[dict]], how: Callable[[str, dict], bool]
) -> dict[str, Met]:
    """Return which constraints each prompt's answers meet."""
    return {
        row["id"]: [
            [how(answer["text"], constraint) for constraint in row["meta"]["constraints"]]
            for answer in answers[row["id"]]
        ]
        for row in prompts
    }


def share(values: list[bool]) -> float:
    return sum(values) / len(values)


def prompt_cell(prompts: list[dict], met: dict[str, Met], metric: str) -> dict:
    """Return the cell of the share of answers that meet all constraints; an item is a prompt."""
    values = [share([all(sample) for sample in met[row["id"]]]) for row in prompts]
    ids, groups = [row["id"] for row in prompts], [row["group"] for row in prompts]
    return make_cell("all", metric, ids, groups, {"value": values}, bounds=SHARE)


def instruction_cell(
    prompts: list[dict], met: dict[str, Met], metric: str, family: str | None = None
) -> list[dict]:
    """Return the cell of the share of constraints that are met, or of those of a family; none where it has none.

    An item is a constraint, "<prompt>#<place>"; its group is the prompt's, as constraints of one answer hang together.
    """
    items, groups, values = [], [], []
    for row in prompts:
        for place, constraint in enumerate(row["meta"]["constraints"]):
            if family in (None, FAMILY_OF[constraint["rule"]]):
                items.append(f"{row['id']}#{place + 1}")
                groups.append(row["group"])
                values.append(share([sample[place] for sample in met[row["id"]]]))
    if not items:
        return []
    return [make_cell(family or "all", metric, items, groups, {"value": values}, bounds=SHARE)]


def score(prompts: list[dict], answers: dict[str, list[dict]]) -> list[dict]:
    """Return the cells of one policy; `answers` holds each prompt's generation rows, one per sample."""
    cells = []
    for name, how in (("strict", strictly), ("loose", loosely)):
        met = met_by(prompts, answers, how)
        cells.append(prompt_cell(prompts, met, f"prompt_{name}"))
        for family in (None, *FAMILIES):
            cells += instruction_cell(prompts, met, f"instruction_{name}", family)
    ended = {name: [[row["finish_reason"] == "stop"] for row in samples] for name, samples in answers.items()}
    return [*cells, prompt_cell(prompts, ended, "finished")]


def main() -> None:
    """Write the scores of one policy on constraints that rules check."""
    args = answers_parser(main.__doc__, Settings).parse_args()
    prompts = answered_prompts(args.prompts, args.generations)
    names = [row["id"] for row in prompts]
    answers = first_turns_by_id(read_jsonl(args.generations), names, args.generations)
    write_scores(args.output, args.settings["benchmark"], score(prompts, answers))


if __name__ == "__main__":
    run(main)
