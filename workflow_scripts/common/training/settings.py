"""What every training is told: the keys of its settings, and the type of each (see `common.settings`)."""

from typing import Literal

from typing_extensions import TypedDict

from workflow_scripts.common.models import Precision


class Training(TypedDict):
    """What every training reads; a step is an optimiser step of batch_size rows, and `warmup` a share of the steps."""

    epochs: float
    max_steps: int | None
    drop_last: bool
    batch_size: int
    per_device_batch: int
    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    optimizer: str
    precision: Precision
    dropout: float | None
    gradient_checkpointing: bool
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    keep: Literal["last", "best"]
    patience: int | None
    trust_remote_code: bool


class Lora(TypedDict):
    """Low-rank adapters: the rank of the update, the numerator `alpha` of its scale, the layers adapted."""

    rank: int
    alpha: float
    dropout: float
    targets: str | list[str]
    merge: bool


class PolicyTraining(Training):
    """What every training of a policy reads."""

    lora: Lora | None
    quantise: Literal["nf4"] | None
    quantise_double: bool
