"""`models` and `templates`: base policies, and how a conversation is written as text."""

from typing import Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, FileName, Positive, Strict, Words


class TemplatePart(Strict):
    """How a template writes one message: before + content + after; {bos} and {eos} stand for the tokenizer's own tokens."""

    before: str
    """Text before the content; the assistant's is also what a prompt ends with."""
    after: str
    """Text after the content."""
    lead: str = ""
    """Text between `before` and the content that belongs to the content (a space): it is trained with it."""
    end: str = ""
    """What ends the content, and is trained with it: the assistant's end token."""


class Template(Strict):
    """A chat template: how a conversation is written as text."""

    start: str
    """What a conversation begins with."""
    strip: bool
    """Contents are stripped of white space first."""
    default_system: str | None = None
    """The system message of a conversation without one; null: none."""
    system: TemplatePart
    """A system message."""
    user: TemplatePart
    """A user's message."""
    assistant: TemplatePart
    """An assistant's message."""


class ModelCheck(Strict):
    """A prepared model must know these texts: wrong weights are found before anything is trained on them."""

    texts: list[Words] = Field(min_length=1)
    """What it is shown."""
    max_nll: Positive
    """The mean negative log-likelihood it may have on them, in nats per token."""


class Model(Strict):
    """A base policy: where its weights come from and how it is spoken to."""

    source: str
    """The source of its files."""
    format: Literal["hf", "llama2c", "gguf"] = "hf"
    """hf: a transformers folder; llama2c: a checkpoint of the llama2.c project; gguf: dequantised; converted once."""
    weights: FileName | None = None
    """llama2c, gguf: the file with the weights."""
    tokenizer: FileName | None = None
    """llama2c: the file with the tokenizer."""
    template: str
    """The template it speaks in, unless a fine-tuning run names another."""
    context: Count
    """Its context window, in tokens."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model: only for code you have read."""
    check: ModelCheck | None = None
    """What it must know."""

    @model_validator(mode="after")
    def llama2c_files(self) -> "Model":
        if self.format == "llama2c" and not (self.weights and self.tokenizer):
            raise ValueError("format llama2c needs weights and tokenizer")
        if self.format == "gguf" and not self.weights:
            raise ValueError("format gguf needs weights")
        return self
