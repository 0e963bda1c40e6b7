"""The methods a run can have, in one list that each family's file ends with; each says itself what it learns from."""

from typing import Annotated, get_args

from pydantic import Field

from workflow_scripts.study.methods.choice import BestOf
from workflow_scripts.study.methods.offline import OfflineMethod
from workflow_scripts.study.methods.online import OnlineMethod
from workflow_scripts.study.methods.preference import PreferenceMethod
from workflow_scripts.study.methods.sft import Sft

Trained = Sft | PreferenceMethod | OfflineMethod | OnlineMethod
Run = Annotated[Trained | BestOf, Field(discriminator="method")]
METHODS = get_args(Trained)
# The rule that trains, by what a method learns from; a choice trains nothing.
TRAINED_BY = {
    "tokens": "train_sft",
    "pairs": "train_aligned",
    "ranked": "train_ranked",
    "rewarded": "train_offline",
    "prompts": "train_online",
}


def methods_on(material: str) -> list[str]:
    """Return the names of the methods that learn from this: tokens, pairs, ranked, rewarded or prompts."""
    return [
        get_args(kind.model_fields["method"].annotation)[0]
        for kind in METHODS
        if kind.learns_from == material
    ]
