"""The methods a run can have, in one list that each family's file ends with; each says itself what it learns from."""

from typing import Annotated, get_args

from pydantic import Field

from workflow_scripts.study.methods.offline import OfflineMethod
from workflow_scripts.study.methods.online import OnlineMethod
from workflow_scripts.study.methods.preference import PreferenceMethod
from workflow_scripts.study.methods.sft import Sft

Run = Annotated[Sft | PreferenceMethod | OfflineMethod | OnlineMethod, Field(discriminator="method")]
METHODS = get_args(get_args(Run)[0])
# The rule that trains, by what a method learns from.
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
