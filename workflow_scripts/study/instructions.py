"""How instruction rows are put into words: templates drawn for each, and prompts with worked examples.

The structure and the weights are those of the Tulu mixtures (Wang et al. 2023); the sentences are ours. Whoever wants
the published words gives them as `with_input` and `without_input`, and with the published seed has the published rows.
"""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from workflow_scripts.study.basics import Count, Positive, Strict


class InstructionWording(Strict):
    """A way to put an instruction, and how often it is drawn."""

    text: str
    """The prompt, with {instruction} and, for rows that have an input, {input} in it; both are stripped."""
    reply: str = "{output}"
    """The reply, with {output} in it."""
    weight: Positive = 1.0
    """How often, against the others."""

    @field_validator("reply")
    @classmethod
    def answers(cls, reply: str) -> str:
        if "{output}" not in reply:
            raise ValueError("needs {output}, where the reply goes")
        return reply


def wordings(*rows: tuple[float, str] | tuple[float, str, str]) -> list[InstructionWording]:
    """Return templates of (weight, text, reply?)."""
    return [
        InstructionWording(weight=weight, text=text, reply=reply[0] if reply else "{output}")
        for weight, text, *reply in rows
    ]


WITH_INPUT = wordings(
    (0.2, "{instruction}\n\n{input}\n\n"),
    (0.1, "{instruction}\n{input}\n\n"),
    (0.1, "{instruction}\n{input}\n"),
    (0.05, "{instruction}\n\nInput: {input}\n\nOutput:"),
    (0.05, "{instruction}\nInput: {input}\nOutput:"),
    (0.05, "{instruction}\n{input}\n\nResponse:"),
    (0.05, "{instruction}\n\nContext:\n{input}\n\nAnswer:"),
    (0.05, "Task: {instruction}\nInput: {input}\nOutput:"),
    (0.05, "Task: {instruction}\n\n{input}\n\n"),
    (0.05, "Task: {instruction}\n\n{input}\n\nAnswer:"),
    (0.05, "Here is a task for you:\n\n{instruction}\n\n{input}\n\nAnswer:"),
    (0.05, "{instruction}\n\nDo so for this one:\nInput: {input}\nOutput:"),
    (0.05, "Instruction: {instruction}\n\nInput: {input}\n\n"),
    (
        0.1,
        "You are given a task and what it is about. Reply with what the task asks for.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
    ),
)
WITHOUT_INPUT = wordings(
    (0.2, "{instruction}\n\n"),
    (0.1, "{instruction}\n"),
    (0.1, "{instruction}", "\n{output}"),
    (0.05, "{instruction} Output:"),
    (0.05, "{instruction}\nResponse:"),
    (0.05, "{instruction}\n\nAnswer:"),
    (0.05, "Task: {instruction}\n\n"),
    (0.05, "Instruction: {instruction}\n"),
    (0.05, "Instruction: {instruction}\nOutput:"),
    (0.05, "Here is a task for you:\n\n{instruction}\n\n"),
    (0.05, "I could use some help.\n\n{instruction}\n"),
    (0.05, "Here is what I would like to know: {instruction}\nAnswer:"),
    (0.05, "What would you say if somebody asked you this?\n{instruction}\n"),
    (0.1, "Reply with what the task asks for.\n\n### Instruction:\n{instruction}\n\n### Response:"),
)


class InstructionTemplates(Strict):
    """The words that are drawn for each instruction row: so a policy learns tasks, and not one way to put them."""

    with_input: list[InstructionWording] = Field(WITH_INPUT, min_length=1)
    """For rows with an input."""
    without_input: list[InstructionWording] = Field(WITHOUT_INPUT, min_length=1)
    """For rows without one."""

    @model_validator(mode="after")
    def everything_is_asked(self) -> "InstructionTemplates":
        for key, wanted in (
            ("with_input", ("{instruction}", "{input}")),
            ("without_input", ("{instruction}",)),
        ):
            for place, each in enumerate(getattr(self, key)):
                if missing := [part for part in wanted if part not in each.text]:
                    raise ValueError(f"{key}[{place}].text needs {' and '.join(missing)}")
        return self


class FewShot(Strict):
    """Super-NaturalInstructions' tasks as prompts without and with worked examples; the defaults are Tulu's."""

    zero_shot: Annotated[int, Field(ge=0)] = 60
    """Instances of a task that are asked without examples."""
    few_shot: Count = 20
    """Instances of a task that are asked after examples."""
    examples: Count = 2
    """Positive examples before a question, drawn if the task has more."""
