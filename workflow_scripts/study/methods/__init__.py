"""The methods a run can have, in one list; each says itself what it learns from."""

from typing import Annotated, get_args

from pydantic import Field

from workflow_scripts.study.methods.offline import ALol, ALolKl, ALolRefFree, ALolSeq, Nll, RGold, RLol, Wbc
from workflow_scripts.study.methods.online import Ppo, Rloo
from workflow_scripts.study.methods.preference import Dpo, Ipo, Kto, Pro
from workflow_scripts.study.methods.sft import Sft

Run = Annotated[
    Sft
    | Dpo
    | Ipo
    | Kto
    | Pro
    | Nll
    | Wbc
    | RGold
    | RLol
    | ALol
    | ALolRefFree
    | ALolSeq
    | ALolKl
    | Ppo
    | Rloo,
    Field(discriminator="method"),
]
METHODS = get_args(get_args(Run)[0])


def methods_on(material: str) -> list[str]:
    """Return the names of the methods that learn from this: tokens, pairs, ranked, rewarded or prompts."""
    return [
        get_args(kind.model_fields["method"].annotation)[0]
        for kind in METHODS
        if kind.learns_from == material
    ]
