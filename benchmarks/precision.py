"""Training and forward speed in float32 and bfloat16, side by side on the base model of the default study.

Run after `make results`: `.venv/bin/python -m benchmarks.precision data/models/tiny-*/model`. Machines are noisy: read
the ratio, not the numbers. Each figure is the best of several rounds, the two formats taking turns.
"""

import argparse
import time
from pathlib import Path

import torch

from workflow_scripts.common.logprobs import head_of, token_logps
from workflow_scripts.common.models import load_policy, precision_of

ROWS, LENGTH, ROUNDS = 4, 256, 5


def seconds_of(model: object, ids: torch.Tensor, dtype: torch.dtype, train: bool) -> float:
    """Return the seconds of one step on ids (rows, time): forward, and backward if `train`."""
    started = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(train):
        states = model.base_model(ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        loss = -token_logps(states, ids[:, 1:].flatten(), head_of(model)).mean()
    if train:
        loss.backward()
        model.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    arguments = parser.parse_args()
    model = load_policy(arguments.model)
    ids = torch.randint(
        3, model.config.vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)
    )
    formats = (torch.float32, torch.bfloat16)
    print(f"{torch.get_num_threads()} threads; `precision: auto` is {precision_of('auto')} here")
    for train in (True, False):
        best = dict.fromkeys(formats, float("inf"))
        for _ in range(ROUNDS):
            for dtype in formats:
                best[dtype] = min(best[dtype], seconds_of(model, ids, dtype, train))
        speeds = [ids.numel() / best[dtype] for dtype in formats]
        name = "training" if train else "forward "
        print(
            f"{name}  float32 {speeds[0]:6.0f}  bfloat16 {speeds[1]:6.0f} tokens/s  ratio {speeds[1] / speeds[0]:.2f}"
        )


if __name__ == "__main__":
    main()
