"""Direct Preference Optimization (Rafailov et al. 2023, eq. 7), with an optional likelihood term on the chosen reply.

L = −log σ(β [(log π(y⁺) − log π_ref(y⁺)) − (log π(y⁻) − log π_ref(y⁻))]) − w · log π(y⁺)/|y⁺|, log-probs summed over
the completion. The second term (w = `sft_weight`, 0 by default) is that of Pang et al. 2024, eq. 1.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from workflow_scripts.align.preference import PairLogps, align
from workflow_scripts.common.errors import run


def loss(batch: PairLogps, settings: dict) -> Tensor:
    """Return the mean DPO loss of a batch of pairs; ln 2 where policy and reference agree."""
    chosen = batch.chosen - batch.reference_chosen
    rejected = batch.rejected - batch.reference_rejected
    preference = -logsigmoid(settings["beta"] * (chosen - rejected))
    likelihood = -batch.chosen / batch.chosen_tokens
    return (preference + settings["sft_weight"] * likelihood).mean()


if __name__ == "__main__":
    run(lambda: align(loss, "workflow_scripts.align.dpo"))
