"""What answers prompts, and what jobs ask for."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workflow_scripts.study.basics import Count, SomeShare, Strict


class Engine(Strict):
    """What answers prompts."""

    name: Literal["transformers", "vllm"] = "transformers"
    """transformers anywhere, vllm on GPUs."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 where the machine computes in it, else float32."""
    gpu_memory_share: SomeShare = 0.9
    """vllm: share of a GPU's memory it may take."""


class Resources(Strict):
    """What a job asks for. A profile's set-resources go before it; on one machine no job gets more GPUs than it has."""

    gpu: Annotated[int, Field(ge=0)] = 0
    """GPUs of a job, over all its nodes; where there are none it runs on the CPU."""
    mem_mb: Count = 6000
    """Memory, in MB."""
    runtime_minutes: Count = 120
    """Longest run time."""


class TrainingResources(Resources):
    """What a training job asks for. None of it alters the result: a step has batch_size rows, whoever shares them."""

    nodes: Count = 1
    """Machines the job's GPUs are on."""
    parallel: Literal["ddp", "fsdp", "zero2", "zero3", "zero2-offload", "zero3-offload"] = "ddp"
    """How several GPUs share a training: every one holds all (ddp), or shards (fsdp, DeepSpeed's ZeRO)."""
    tracking: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Where curves are written to as they come, for a look on the way: TensorBoard's event files, in tracking/ beside a
    policy's curve; or a run of Weights & Biases, MLflow or trackio, whose packages are installed apart (methods.md)."""

    @model_validator(mode="after")
    def alike_on_all_nodes(self) -> "TrainingResources":
        if self.gpu % self.nodes:
            raise ValueError(f"gpu: {self.gpu} cannot be shared out evenly over nodes: {self.nodes}")
        return self


class GenerationResources(Resources):
    """What a job asks for that answers prompts, or computes likelihoods, references or rewards."""

    cpus: Count = 2
    """CPU cores of a generating job (a training run has threads)."""
    shards: Count = 1
    """Engines that answer a policy's prompts side by side, each on an equal part of gpu and cpus, in the batches of
    one: answers are the same, but for rounding where an engine now has fewer GPUs or cores. Each loads the whole
    policy, so mem_mb is for all of them. On GPUs the lm-evaluation-harness is shared out so, too, and what classifiers
    read (reward models that judge, reward columns), one GPU each."""

    @model_validator(mode="after")
    def alike_for_all_shards(self) -> "GenerationResources":
        if self.gpu % self.shards:
            raise ValueError(f"gpu: {self.gpu} cannot be shared out evenly over shards: {self.shards}")
        return self
