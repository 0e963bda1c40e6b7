"""A policy by transformers, as the harness sees it; of several processes each has it whole (see `sharing`)."""

from pathlib import Path
from typing import Any

from workflow_scripts.common.models import load_policy, precision_of
from workflow_scripts.score.harness import sharing
from workflow_scripts.score.harness.counting import Counting
from workflow_scripts.score.harness.tasks import Settings

# isort: split
import torch
from lm_eval.models.huggingface import HFLM


class TransformersLM(Counting, HFLM):
    """A policy that transformers has loaded."""

    def _model_call(self, inps: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        logits = super()._model_call(inps, *more, **named)
        self.told(len(inps))
        return logits

    def _model_generate(self, context: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        answers = super()._model_generate(context, *more, **named)
        self.told(len(context))
        return answers

    def _loglikelihood_tokens(self, requests: list, *more: Any, **named: Any) -> list[tuple[float, bool]]:
        self.long |= {
            texts for texts, first, second in requests if len(first) + len(second) > self.max_length + 1
        }
        return super()._loglikelihood_tokens(requests, *more, **named)

    def tok_batch_encode(
        self, strings: list[str], *more: Any, left_truncate_len: int | None = None, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if left_truncate_len:
            self.long |= {text for text in strings if len(self.tok_encode(text)) > left_truncate_len}
        return super().tok_batch_encode(strings, *more, left_truncate_len=left_truncate_len, **named)


def load(folder: Path, settings: Settings, memory_share: float) -> TransformersLM:
    """Return a policy on this process's device, which shares what is asked with the processes started beside it.

    memory_share: vLLM's alone.
    """
    policy = load_policy(folder, precision_of(settings["dtype"]))
    model = TransformersLM(
        pretrained=policy.to(sharing.device()),
        tokenizer=str(folder),
        batch_size=settings["batch_size"],
        add_bos_token=False if settings["apply_chat_template"] else None,
    )
    sharing.share_out()
    return model
