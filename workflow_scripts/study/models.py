"""`models` and `templates`: base policies, and how a conversation is written as text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import (
    REPOSITORY,
    Count,
    FileName,
    Positive,
    RepositoryPath,
    Strict,
    Words,
)
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.lineage import CALIBRATION
from workflow_scripts.study.names import Names, name_in
from workflow_scripts.study.part import Part
from workflow_scripts.study.templates import OWN

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class TemplatePart(Strict):
    """How a template writes one message: before + content + after; {bos} and {eos} are the tokenizer's own tokens."""

    before: str
    """Text before the content; the reply's is also what a prompt ends with."""
    after: str
    """Text after the content."""
    lead: str = ""
    """Text between `before` and the content that belongs to the content (a space): it is trained with it."""
    lead_unless_space: bool = False
    """No `lead` where white space stands already, before it or where the content begins."""
    end: str = ""
    """What ends the content, and is trained with it. The reply's end has to be one of the model's special tokens;
    without one, answers end at the model's own end token or at `stop` strings."""
    strip: bool | None = None
    """Contents of this role are stripped of white space first; null: as the template's `strip` has it."""


class Template(Part):
    """A chat template: how a conversation is written as text."""

    start: str
    """What a conversation begins with."""
    strip: bool
    """Contents are stripped of white space first."""
    between: str = ""
    """Text between two messages."""
    default_system: str | None = None
    """The system message of a conversation without one; null: none."""
    system_in_user: bool = False
    """The system message is the beginning of the first user turn's content, its `before` and `after` around it."""
    input: str | None = None
    """Text between an instruction and its input, in place of the dataset's input_heading; null: as the dataset has
    it."""
    system: TemplatePart
    """A system message."""
    user: TemplatePart
    """A user's message."""
    assistant: TemplatePart
    """An assistant's message."""
    reply: TemplatePart | None = None
    """The last message, if it is the assistant's: the reply that is asked for; null: as `assistant`. Where it is given,
    fine-tuning takes each turn of the assistant as a row of its own, so that all are learned as they are asked for."""

    def names(self, path: str, need: Names) -> None:
        """Need nothing: a template stands alone. One name is taken."""
        if name_in(path) == OWN:
            need.refuse(path, "names the chat template of a model's own tokenizer; give it another name")


class ModelCheck(Strict):
    """A prepared model must know these texts: wrong weights are found before anything is trained on them."""

    texts: list[Words] = Field(min_length=1)
    """What it is shown."""
    max_nll: Positive
    """The mean negative log-likelihood it may have on them, in nats per token."""


ORIGINS = ("source", "path", "hf", "preset")


class Base(Strict):
    """The model that an adapter was trained on: exactly one of path and hf."""

    path: RepositoryPath | None = None
    """A folder of this machine, relative to the repository or absolute."""
    hf: Annotated[str, Field(pattern=REPOSITORY)] | None = None
    """A repository of the model hub, owner/name."""
    revision: Words = "main"
    """hf: a branch, a tag or a commit, kept in `study.lock` as the model's own is."""

    @model_validator(mode="after")
    def one_origin(self) -> "Base":
        if (self.path is None) == (self.hf is None):
            raise ValueError("names one of path and hf")
        if self.path and "revision" in self.said():
            raise ValueError("revision is of a hub's repository, and path is a folder of this machine")
        return self


class Model(Part):
    """A base policy: where its weights come from (one of source, path, hf and preset) and how it is spoken to."""

    path: RepositoryPath | None = None
    """A model of this machine (docs/your-model.md): a folder as save_pretrained writes it, of a model or of a PEFT
    adapter, or a .gguf file; relative to the repository, or absolute. What is left out below is found out, and said."""
    hf: Annotated[str, Field(pattern=REPOSITORY)] | None = None
    """A model of a hub, owner/name; never its pickles. HF_ENDPOINT and HF_TOKEN are honoured."""
    revision: Words = "main"
    """hf: a branch, a tag or a commit. It is resolved once, into `study.lock` beside the study: commit that file."""
    preset: Words | None = None
    """A model that Plumbline knows by name: one of workflow_scripts/study/presets.yaml."""
    base: Base | None = None
    """path, hf: of an adapter, the model that it adapts; null: the folder that the adapter names."""
    source: str | None = None
    """The source of its files."""
    format: Literal["hf", "llama2c", "gguf"] = "hf"
    """hf: a transformers folder; llama2c: a checkpoint of the llama2.c project; gguf: dequantised; converted once. Of
    path, hf and preset it is known."""
    weights: FileName | None = None
    """llama2c, gguf: the file with the weights."""
    tokenizer: FileName | None = None
    """llama2c: the file with the tokenizer."""
    template: str | None = None
    """The template it speaks in, unless a fine-tuning run names another; `tokenizer`: its own, as its tokenizer brings
    it along (docs/your-model.md), which is what null means beside path and hf."""
    context: Count | None = None
    """Its context window, in tokens; null, beside path and hf: what its files say."""
    parameters: Positive | None = None
    """How many weights it has, 8.03e+9 say: by it a check knows whether trainings fit into the GPUs. null: its files
    tell, where they are on this machine."""
    add_pad: bool = False
    """Give a tokenizer that has no padding token one, <pad>, whose embedding is the mean of the others; without,
    another special token pads. Padding is never learned from: this is for weights with as many rows as a source's."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model: only for code you have read."""
    license: Words | None = None
    """Its licence, as an identifier (apache-2.0) or a name: the card of an exported policy says it (docs/export.md)."""
    check: ModelCheck | None = None
    """What it must know."""

    def names(self, path: str, need: Names) -> None:
        """Need its source and files, and its template."""
        need.need_source(f"{path}.source", self.source)
        need.need_template(f"{path}.template", self.template)
        need.need_file(f"{path}.weights", self.source, self.weights)
        need.need_file(f"{path}.tokenizer", self.source, self.tokenizer)
        if name_in(path) in CALIBRATION:
            need.refuse(path, "the calibration rows have this name already")

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find a model of format hf whose source has not what makes one."""
        source = study.sources.get(self.source or "")
        files = source.file_names() if source else None
        if self.format != "hf" or files is None:
            return
        if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
            yield wrong(
                f"{path}.source",
                f"a model of format hf is config.json and *.safetensors, and {self.source!r} has {', '.join(files)}",
            )

    @model_validator(mode="after")
    def one_origin(self) -> "Model":
        given = self.said()
        origins = [key for key in ORIGINS if getattr(self, key) is not None]
        if len(origins) != 1:
            told = f"not {' and '.join(origins)}" if origins else "and has none of them"
            raise ValueError(f"comes from one of {', '.join(ORIGINS)}, {told}")
        [origin] = origins
        if origin == "source" and (
            missing := [key for key in ("template", "context") if getattr(self, key) is None]
        ):
            raise ValueError(f"needs {' and '.join(missing)} beside source")
        of_others = {"revision": ("hf",), "base": ("path", "hf")}
        of_others |= dict.fromkeys(("format", "weights", "tokenizer"), ("source",))
        stray = [key for key, fitting in of_others.items() if key in given and origin not in fitting]
        if stray:
            raise ValueError(f"has {origin}: {', '.join(stray)} cannot be said beside it")
        return self

    @model_validator(mode="after")
    def llama2c_files(self) -> "Model":
        if self.format == "llama2c" and not (self.weights and self.tokenizer):
            raise ValueError("format llama2c needs weights and tokenizer")
        if self.format == "gguf" and not self.weights:
            raise ValueError("format gguf needs weights")
        return self
