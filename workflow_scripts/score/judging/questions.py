"""What a judge is asked about: a policy's answers in their dialogues, and what each is compared with.

Covers several turns (a later one stands in the dialogue of the policy's own earlier answers), several samples,
reference answers, and another policy's answers to the same prompts. Not covered: asking (see `answers`).
"""

from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError

# {"rating"} or {"preference", "order"}, plus "failed": the reason where the value is None
Verdict = dict[str, Any]


class Rival(NamedTuple):
    """Another answer to the same turn, in its own dialogue."""

    messages: list[dict]
    answer: str


class Question(NamedTuple):
    """An answer to be judged: `messages` come before it, `reference` is another to the same, or None.

    `references` are those of turn 0 up to this turn, or empty.
    """

    id: str
    turn: int
    sample: int
    messages: list[dict]
    answer: str
    reference: str | None
    category: str = ""
    references: tuple[str, ...] = ()
    rival: Rival | None = None


def compares(kind: str, settings: dict) -> bool:
    """Return whether a benchmark compares two answers."""
    return kind in ("alpaca_eval", "preference") or (kind == "mt_bench" and settings["mode"] == "pairwise")


def texts_of(generations: list[dict], where: str) -> dict[tuple[str, int, int], str]:
    """Return the answers by (id, sample, turn); PlumblineError if one stands twice."""
    texts: dict[tuple[str, int, int], str] = {}
    for row in generations:
        key = (row["id"], row["sample"], row["turn"])
        if key in texts:
            raise PlumblineError(
                f"{where}: turn {key[2]}, sample {key[1]} of {key[0]!r} stands twice; generate again"
            )
        texts[key] = row["text"]
    return texts


def references_of(prompt: dict) -> list[str]:
    """Return a prompt's reference answers, one per turn, or none; PlumblineError if some turns lack theirs."""
    references = prompt.get("reference") or []
    turns = 1 + len(prompt["followups"])
    if len(references) not in (0, turns):
        raise PlumblineError(
            f"prompt {prompt['id']!r} has {turns} turns and {len(references)} references; "
            "give each turn its reference, or none"
        )
    return references


def questions_of(prompts: list[dict], generations: list[dict], where: str) -> list[Question]:
    """Return a question per answer of a prompt set, by prompt, sample and turn; `where` names the
    generations.

    The messages of a later turn hold the policy's own earlier answers. Raises PlumblineError when an answer
    is missing, stands twice, or belongs to no prompt.
    """
    texts = texts_of(generations, where)
    samples = sorted({sample for _, sample, _ in texts})
    questions = []
    for prompt in prompts:
        asked = [prompt["messages"], *([{"role": "user", "content": text}] for text in prompt["followups"])]
        references = references_of(prompt)
        category = prompt.get("meta", {}).get("category", "")
        for sample in samples:
            messages: list[dict] = []
            for turn, new in enumerate(asked):
                answer = texts.pop((prompt["id"], sample, turn), None)
                if answer is None:
                    raise PlumblineError(
                        f"{where}: no answer to turn {turn}, sample {sample} of {prompt['id']!r}; "
                        "generate again"
                    )
                messages = [*messages, *new]
                given = tuple(references[: turn + 1])
                reference = given[turn] if given else None
                questions.append(
                    Question(prompt["id"], turn, sample, messages, answer, reference, category, given)
                )
                messages = [*messages, {"role": "assistant", "content": answer}]
    if texts:
        raise PlumblineError(
            f"{where}: answer to {next(iter(texts))[0]!r}, which is not asked; generate again"
        )
    if not questions:
        raise PlumblineError(f"{where}: holds no answers; generate again")
    return questions


def against_references(questions: list[Question]) -> list[Question]:
    """Return the questions with their references as rivals; PlumblineError where one has none."""
    lacking = next((question.id for question in questions if question.reference is None), None)
    if lacking is not None:
        raise PlumblineError(f"prompt {lacking!r} has no reference answer to be compared with")
    return [
        question._replace(rival=Rival(question.messages, question.reference or "")) for question in questions
    ]


def against_opponent(questions: list[Question], opponents: list[Question], where: str) -> list[Question]:
    """Return the questions with an opponent's answers as rivals, sample by sample; `where` names the opponent's.

    Raises PlumblineError when the opponent has not as many samples.
    """
    rivals = {
        (other.id, other.turn, other.sample): Rival(other.messages, other.answer) for other in opponents
    }
    keys = {(question.id, question.turn, question.sample) for question in questions}
    odd = sorted(keys ^ rivals.keys())
    if odd:
        name, turn, sample = odd[0]
        raise PlumblineError(
            f"{where}: only one of policy and opponent has sample {sample} of turn {turn} of {name!r}; "
            "let both answer the same prompts with as many samples"
        )
    return [
        question._replace(rival=rivals[question.id, question.turn, question.sample]) for question in questions
    ]
