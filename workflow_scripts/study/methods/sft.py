"""Supervised fine-tuning."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, Positive, Strict
from workflow_scripts.study.datasets import RANKED, TEXTS, made_of, schemas_of
from workflow_scripts.study.findings import Finding, wrong
from workflow_scripts.study.names import Names
from workflow_scripts.study.part import LongestRow
from workflow_scripts.study.templates import learned_templates
from workflow_scripts.study.training import Parent, PolicyTraining

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


class Kl(Strict):
    """A term that holds fine-tuning to its frozen parent."""

    weight: Positive
    """Its weight λ."""
    form: Literal["gold", "full"] = "gold"
    """gold: log-ratio of the learned tokens, whose gradient only scales the learning rate by 1 − λ; full: the
    divergence over the whole vocabulary."""


class Sft(PolicyTraining):
    """Supervised fine-tuning: on replies (it), on instructions and replies (im), or on plain packed text (lm)."""

    learns_from = "tokens"
    read_before = (
        "dataset",
        "pairs",
        "rounds",
        "split",
        "validation",
        "template",
        "asked_in",
        "backend",
        "max_tokens",
        "overflow",
        "objective",
        "im_mask",
        "it_mask",
        "lm_text",
        "lm_rows",
    )

    method: Literal["sft"]
    parent: Parent
    """A model or a run, or several: one policy for each of their policies; or the best of some."""
    dataset: str | None = None
    """The dataset; of it or `pairs` one is named."""
    pairs: str | None = None
    """Pairs, in place of a dataset: the chosen answer of each is learned (rejection sampling, best of n). What the
    pairs hold out is validated on."""
    rounds: Annotated[int, Field(ge=2)] | None = None
    """So many rounds, for pairs of a policy's own answers: NAME-1, NAME-2 …, each the child of the one before, which
    answers anew. Whoever names this run, or a lineage with it, gets the last. null: once."""
    split: str = "sft"
    """The split it learns from; not said, of data without a split `sft` it is `train`."""
    validation: str | None = "validation"
    """The split its validation loss is measured on; null, or not said of data without such a split: none, its curve has
    the training loss alone."""
    template: str | None = None
    """The template it learns in, and speaks in from here on; null: the one its parent is asked in."""
    asked_in: str | None = None
    """Another template, which it is asked in from here on: its answers, pairs and children are in it. null: the one it
    learns in."""
    backend: Literal["transformers", "fastchat"] = "transformers"
    """fastchat: FastChat's format, which is the template of that name."""
    pack_tokens: Count | None = 1024
    """Pack rows into forward passes of so many tokens, at least max_tokens, without attention across their borders, in
    place of per_device_batch rows; null: padding-free batches."""
    batch_of: Literal["rows", "packs"] = "rows"
    """What batch_size counts. rows: packing changes speed only; packs: of all rows packed before, as trainers count
    that pack before they batch."""
    max_tokens: Count = 1024
    """Longest row, in tokens."""
    overflow: Literal["cut", "reject", "split"] = "cut"
    """What happens to rows longer than max_tokens: cut, they lose their end, and replies their end token, which is
    counted and warned of; split, they become several, cut between exchanges. A plain text (schema text) becomes several
    either way, of max_tokens each."""
    objective: Literal["it", "im", "lm"] = "it"
    """it: the loss is on replies; im: on instructions too (Shi et al. 2024); lm: on all tokens, of conversations in
    blocks of max_tokens of joined texts, of plain texts (schema text) in rows of BOS, text and end token."""
    im_mask: Literal["paper", "code"] = "paper"
    """im: paper leaves template tokens out; code, as the published runs did, only the first header."""
    it_mask: Literal["reply", "header", "after", "next"] = "reply"
    """it: reply learns a reply and its end token, and no more; header also what the template writes before it, from the
    end of the message before (Raschka's book); after what it writes behind it, where more follows (Instruction
    Modelling's published runs); next that and the header of the message that follows (Tutorbot's)."""
    lm_text: Literal["plain", "template"] = "plain"
    """lm: plain joins contents, and learns every token; template joins the rows of it, with their labels (the packing
    that Shi et al. 2024 compare with)."""
    lm_rows: Count | None = None
    """lm: so many rows are joined at a time, and what fills no block is left over each time; null: all at once. The
    published code does so by 1000 for a set that it does not know the size of."""
    neftune_alpha: Positive | None = None
    """Noise on the embeddings (Jain et al. 2024), scaled by each row's own length; 5 in the paper."""
    kl: Kl | None = None
    """Hold the policy to its parent."""
    loss_norm: Literal["token", "example"] = "token"
    """token: every learned token weighs the same; example: every row does."""

    def own_template(self) -> str | None:
        """Return the template it is asked in from here on, or None: its parent's."""
        return self.asked_in or self.learned_template()

    def learned_template(self) -> str | None:
        """Return the template it learns in, or None: the one its parent is asked in."""
        return "fastchat" if self.backend == "fastchat" else self.template

    def names_of_material(self, path: str, need: Names) -> None:
        """Need its splits and its templates."""
        need.need(f"{path}.pairs", self.pairs, need.study.pairs, "set of pairs")
        if self.dataset is not None:
            need.need_rows(path, self.dataset, self.split)
            need.need_split(f"{path}.validation", self.dataset, self.validation)
        need.need_template(f"{path}.template", self.template)
        need.need_template(f"{path}.asked_in", self.asked_in)

    def is_validated(self, study: "Study") -> bool:
        """Tell whether it has a validation split, or pairs that are only validated on."""
        if self.pairs is not None:
            return self.pairs in study.pairs and study.pairs[self.pairs].is_validated()
        return bool(self.validation)

    def validated_by(self, study: "Study") -> tuple[str, tuple[str, str] | None]:
        """Return its validation split, or that of its pairs."""
        if self.pairs is not None:
            part = study.pairs.get(self.pairs)
            return f"pairs.{self.pairs}.validation", part.validated_by(study) if part else None
        return "{run}.validation", (self.dataset or "", self.validation) if self.validation else None

    def uses(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs whose chosen answers it learns."""
        return (("pairs", self.pairs),) if self.pairs is not None else ()

    def faults(self, path: str, study: "Study") -> Iterator[Finding]:
        """Find rows of ranked answers, of which it would learn none or all."""
        yield from super().faults(path, study)
        ranked = [schema for schema in schemas_of(study, self.dataset) if schema in RANKED]
        if ranked:
            yield wrong(
                f"{path}.dataset",
                f"rows of schema {', '.join(ranked)} are prompts with ranked answers, none of which it would learn, "
                "or all of them: method nll learns the preferred ones of an annotation, and dpo, pro … the order of "
                "pairs",
            )

        schemas = schemas_of(study, self.dataset)
        if set(schemas) & set(TEXTS):
            if self.objective != "lm":
                yield wrong(
                    f"{path}.objective",
                    f"{self.dataset!r} has plain texts (schema text), which have no reply to learn: take objective: lm",
                )
            for key in ("lm_text", "lm_rows"):
                if self.objective == "lm" and getattr(self, key) != type(self).model_fields[key].default:
                    yield wrong(
                        f"{path}.{key}", "plain texts (schema text) are rows of their own: leave it out"
                    )
        turns = [part.history_turns for part in made_of(study, self.dataset).values()]
        if self.overflow == "split" and any(each is not None for each in turns):
            yield wrong(
                f"{path}.overflow",
                f"split cuts whole conversations, and history_turns of {self.dataset!r} makes each turn a row of its "
                "own: take cut or reject",
            )

    def rows(self, study: "Study") -> tuple[str, str] | None:
        """Return the split it learns from, or that its pairs are made from."""
        if self.pairs is not None:
            return study.pairs[self.pairs].rows(study) if self.pairs in study.pairs else None
        return self.dataset, self.split

    def most_rows(self, study: "Study") -> int | None:
        """Return how many rows it learns from at most: one to a conversation, unless turns or blocks are rows."""
        if self.pairs is not None:
            return study.pairs[self.pairs].most_pairs() if self.pairs in study.pairs else None
        dataset = study.datasets.get(self.dataset)
        by_turn = any(part.history_turns is not None for part in made_of(study, self.dataset).values())
        if dataset is None or by_turn or not self.one_row_each():
            return None
        if any(template.get("reply") for template in learned_templates(study, self)):
            return None
        return dataset.most_rows(self.split, study)

    def one_row_each(self) -> bool:
        """Tell whether a conversation, or a turn, makes one row: neither blocks nor parts."""
        return self.objective != "lm" and self.overflow != "split"

    def longest_row(self) -> LongestRow:
        """Return the longest row; of plain text every block is that long."""
        return LongestRow("max_tokens", self.max_tokens, every=self.objective == "lm")

    @model_validator(mode="after")
    def one_material(self) -> "Sft":
        if (self.dataset is None) == (self.pairs is None):
            raise ValueError("learns from either a dataset or pairs (their chosen answers): name one of them")
        if self.pairs is None:
            if self.rounds:
                raise ValueError("rounds go with pairs: a dataset is the same in each; take more epochs")
            return self
        if own := sorted({"split", "validation"} & self.said()):
            raise ValueError(
                f"{' and '.join(own)}: of a dataset, and pairs say themselves what they hold out"
            )
        if self.objective == "lm" or self.overflow == "split":
            key, value = ("objective", "lm") if self.objective == "lm" else ("overflow", "split")
            raise ValueError(f"{key}: {value} takes whole conversations, and of pairs answers are learned")
        return self

    @model_validator(mode="after")
    def packs_hold_rows(self) -> "Sft":
        if self.pack_tokens is not None and self.pack_tokens < self.max_tokens:
            raise ValueError(
                f"pack_tokens {self.pack_tokens} is less than max_tokens {self.max_tokens}, so that longer rows would "
                "lose their end; raise pack_tokens, lower max_tokens, or set pack_tokens: null"
            )
        return self

    @model_validator(mode="after")
    def fastchat_template(self) -> "Sft":
        if self.backend == "fastchat" and self.template not in (None, "fastchat"):
            raise ValueError("backend fastchat trains with the template fastchat; leave template out")
        return self
