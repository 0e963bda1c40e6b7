"""A policy by vLLM, as the harness sees it: one process, the layers split over its GPUs. As `by_transformers` does.

The harness leaves a token more room by vLLM, so it cuts two tokens earlier.
"""

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.models import adapter_base, load_policy, load_tokenizer, precision_of
from workflow_scripts.common.vllm_policy import load_vllm, loaded_as, tell
from workflow_scripts.score.harness.counting import Counting
from workflow_scripts.score.harness.tasks import Settings

PORTION = 512  # requests that are scheduled together


def version(distribution: str, found: Any = importlib.metadata.version) -> str:
    """Return a distribution's version; `vllm` is there, too, where its CPU build goes by another name."""
    try:
        return found(distribution)
    except importlib.metadata.PackageNotFoundError:
        if distribution != "vllm":
            raise
        return f"{load_vllm().__version__}+cpu"


load_vllm()
importlib.metadata.version = version  # the harness asks when it is imported, and later

# isort: split
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.vllm_causallms import VLLM  # noqa: E402


class VllmLM(Counting, VLLM):
    """A policy that vLLM has loaded."""

    def _model_generate(self, requests: list[list[int]], *more: Any, **named: Any) -> list[Any]:
        answers = super()._model_generate(requests, *more, **named)
        self.told(len(requests))
        return answers

    def _loglikelihood_tokens(self, requests: list, *more: Any, **named: Any) -> list[tuple[float, bool]]:
        room = self.max_length - 1  # vLLM wants to write a token
        for _, _, second in requests:
            if len(second) >= room:  # the harness would take the likelihood of its end alone
                raise PlumblineError(
                    f"a text of {len(second)} tokens whose likelihood is asked for does not fit this model's context "
                    f"of {self.max_length}; leave its task out, or score a model with a longer one"
                )
        self.long |= {texts for texts, first, second in requests if len(first) + len(second) > room}
        return super()._loglikelihood_tokens(requests, *more, **named)

    def generate_until(self, requests: list[Instance], *more: Any, **named: Any) -> list[str]:
        for request in requests:
            text, asked = request.args
            longest = self.modify_gen_kwargs(asked, default_max_gen_toks=self.max_gen_toks)[2]
            if len(self.tok_encode(text)) + longest > self.max_length:
                self.long.add(text)
        return super().generate_until(requests, *more, **named)


def load(folder: Path, settings: Settings, memory_share: float) -> VllmLM:
    """Return a policy over all GPUs of this process, of whose memory vLLM takes a share.

    An unmerged adapter is merged first, as transformers merge it: beside an adapter vLLM (0.31) has no likelihoods of
    prompts on a CPU, and on GPUs leaves out what an adapter does to the LM head. `batch_size` is transformers' alone.
    """
    if adapter_base(folder) is None:
        return load_whole(folder, settings, memory_share)
    with tempfile.TemporaryDirectory() as merged:
        load_policy(folder, precision_of(settings["dtype"])).save_pretrained(merged)
        load_tokenizer(folder).save_pretrained(merged)
        return load_whole(Path(merged), settings, memory_share)


def load_whole(folder: Path, settings: Settings, memory_share: float) -> VllmLM:
    how = loaded_as(folder, settings["dtype"], memory_share)
    try:
        model = VllmLM(
            pretrained=how.pop("model"),
            batch_size=PORTION,
            add_bos_token=False if settings["apply_chat_template"] else None,
            **how,
        )
    except ValueError as error:
        raise PlumblineError(f"{folder}: vLLM cannot serve it: {error}") from error
    tell(model.model, folder)
    return model
