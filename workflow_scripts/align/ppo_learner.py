"""A policy that PPO trains: it answers prompts, holds the answers against its parent and its value head, and learns.

With several processes each has all of it, answers and judges its own prompts of a batch, and learns from its own rows
of an update; what they found is gathered and their gradients are added up, so all of them take the same step.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, Trainer, TrainingArguments

from workflow_scripts.align.online import Online
from workflow_scripts.align.ppo_numbers import (
    Settings,
    averaged,
    gae,
    kl_rewards,
    next_kl_coef,
    ppo_loss,
    value_loss,
    whiten,
)
from workflow_scripts.align.scores import NO_SCORES, Moments, scaled_scores
from workflow_scripts.align.vllm_beside import Drawn, VllmBeside, gap_between
from workflow_scripts.common import processes
from workflow_scripts.common.answering import answer_of, stopping_at
from workflow_scripts.common.beginnings import left_padded
from workflow_scripts.common.diverged import Diverged
from workflow_scripts.common.files import read_json, write_json
from workflow_scripts.common.logprobs import CHUNK, head_of, padded, token_logps
from workflow_scripts.common.models import precision_of
from workflow_scripts.common.training.arguments import training_arguments
from workflow_scripts.common.training.loading import load_trainable
from workflow_scripts.common.training.trainer import are_finite, says_numbers
from workflow_scripts.common.training.watching import Watching

STOP_AT = 1.5  # times target_kl, where the passes over a batch end
CHECKED = {"reward": "reward", "KL": "kl", "entropy": "entropy", "gradient": "grad_norm"}


class Experience(NamedTuple):
    """One sampled answer, and what is to be learned from it: tensors (its tokens,)."""

    prompt: list[int]
    answer: list[int]
    logps: Tensor | None = None
    values: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None


def minibatches(batch: list[Experience], epochs: int, size: int) -> Iterator[list[Experience]]:
    """Yield a batch `epochs` times in pieces: as it was scored, then in the orders that the first process draws."""
    for epoch in range(epochs):
        [order, *_] = processes.gathered(torch.randperm(len(batch)).tolist() if epoch else range(len(batch)))
        for start in range(0, len(batch), size):
            yield [batch[index] for index in order[start : start + size]]


def together(own: list) -> list:
    """Return what all processes have, in the order of the rows of which each has every n-th."""
    parts = processes.gathered(own)
    return [parts[place % len(parts)][place // len(parts)] for place in range(sum(map(len, parts)))]


@dataclass
class State:
    """Where a run stands, beside its weights: `rows` has the numbers of every step, `looks` those of every look."""

    kl_coef: float
    step: int = 0
    tokens: int = 0
    moments: Moments = NO_SCORES
    rows: list[dict] = field(default_factory=list)
    looks: list[dict] = field(default_factory=list)


class Sampled(NamedTuple):
    """A drawn answer: its tokens, what ended it among them; whether it ended; their log-probs by vLLM, if it drew."""

    tokens: list[int]
    ended: bool
    logps: list[float]


class Learner:
    """A policy, the parent it is held to, a value head on the policy's last hidden state, and their optimiser."""

    def __init__(
        self, parent: Path, settings: Settings, work: Path, seed: int, watching: Watching | None = None
    ) -> None:
        arguments = TrainingArguments(**training_arguments(settings, work, seed, False, watching))
        self.settings, self.device = settings, arguments.device
        # Without dropout, unless it is asked for: an answer's ratio starts at 1.
        self.policy = load_trainable(parent, settings, seed, drops_nothing=True).to(self.device)
        if settings["gradient_checkpointing"]:
            self.policy.gradient_checkpointing_enable()
        self.parent = None  # the policy without its adapters, or a second model
        if not settings["lora"]:
            frozen = load_trainable(parent, settings | {"dropout": None}, seed)
            self.parent = frozen.requires_grad_(False).to(self.device)
        self.value = torch.nn.Linear(head_of(self.policy).shape[1], 1, device=self.device)
        torch.nn.init.zeros_(self.value.weight)
        torch.nn.init.zeros_(self.value.bias)
        named = [*self.policy.named_parameters(prefix="policy"), *self.value.named_parameters(prefix="value")]
        self.learned = {name: weight for name, weight in named if weight.requires_grad}
        matrices = [weight for weight in self.learned.values() if weight.ndim > 1]
        others = [weight for weight in self.learned.values() if weight.ndim <= 1]  # biases, norms: no decay
        kind, more = Trainer.get_optimizer_cls_and_kwargs(arguments, self.policy)
        groups = [{"params": matrices, "weight_decay": settings["weight_decay"]}]
        self.optimizer = kind([*groups, {"params": others, "weight_decay": 0.0}], **more)
        self.engine: VllmBeside | None = None  # what answers, if the policy itself does not
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=arguments.fp16)

    def computing(self) -> torch.autocast:
        """Return the context that computes in the run's precision."""
        dtype = precision_of(self.settings["precision"])
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def states(self, model: Any, rows: list[Experience]) -> tuple[Tensor, Tensor]:
        """Return (hidden states before each answer token over the temperature, (tokens, width); the tokens)."""
        whole = [row.prompt + row.answer for row in rows]
        lengths = torch.tensor([[len(row)] for row in whole], device=self.device)
        starts = torch.tensor([[len(row.prompt)] for row in rows], device=self.device)
        ids = padded(whole, 0).to(self.device)
        place = torch.arange(ids.shape[1], device=self.device)[None]
        mask = (place < lengths).long()
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        answered = (place >= starts) & (place < lengths)
        # Divided here, so that log-probs and entropy are those of the distribution that is sampled from.
        return hidden[:, :-1][answered[:, 1:]] / self.settings["temperature"], ids[answered]

    def judged(self, rows: list[Experience]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the policy's (log-probs, values) of answers' tokens and the states behind them."""
        states, tokens = self.states(self.policy, rows)
        with torch.autocast(self.device.type, enabled=False):
            values = self.value(states.float())[:, 0]
        return token_logps(states, tokens, head_of(self.policy)), values, states

    def reference(self, rows: list[Experience]) -> Tensor:
        """Return the parent's log-probs of answers' tokens."""
        with nullcontext() if self.parent else self.policy.adapted[0].disable_adapter():
            parent = self.parent or self.policy
            return token_logps(*self.states(parent, rows), head_of(parent))

    def entropy(self, states: Tensor) -> float:
        """Return the entropy of the policy summed over states, in nats."""
        total = 0.0
        for some in states.split(CHUNK):
            logps = torch.nn.functional.linear(some, head_of(self.policy)).float().log_softmax(-1)
            total -= (logps.exp() * logps).sum().item()
        return total

    @torch.no_grad()
    def drawn(self, prompts: list[list[int]], ends: list[int], tokenizer: Any) -> list[list[int]]:
        """Return an answer to each prompt, as tokens; what ended it may be followed by padding."""
        settings, pad = self.settings, tokenizer.pad_token_id
        ids, mask = left_padded(prompts, pad)
        own = self.policy.generation_config
        self.policy.generation_config = GenerationConfig()  # a base model's may penalise repetition
        with self.computing():
            output = self.policy.generate(
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=settings["max_new_tokens"],
                do_sample=True,
                temperature=settings["temperature"],
                top_p=settings["top_p"],
                top_k=0,
                eos_token_id=ends,
                pad_token_id=pad,
                stopping_criteria=stopping_at(tokenizer, settings["stop"], ids.shape[1]),
                remove_invalid_values=True,  # or sampling would fail where `improve` says that it diverged
            )
        self.policy.generation_config = own
        return output[:, ids.shape[1] :].tolist()

    def sample(self, prompts: list[list[int]], ends: list[int], tokenizer: Any) -> list[Sampled]:
        """Return an answer to each prompt; what it is weighed by is read without dropout, as it is drawn."""
        self.policy.eval()
        if self.engine is None:
            drawn = [Drawn(tokens, []) for tokens in self.drawn(prompts, ends, tokenizer)]
        else:
            self.engine.hand_over(self.policy)
            drawn = self.engine.sample(prompts)
        told = [
            answer_of(tokenizer, prompt, each.tokens, ends, self.settings)
            for prompt, each in zip(prompts, drawn, strict=True)
        ]
        return [
            Sampled(
                each.tokens[: said.completion_tokens],
                said.finish_reason == "stop",
                each.logps[: said.completion_tokens],
            )
            for each, said in zip(drawn, told, strict=True)
        ]

    def play(self, prompts: list[dict], online: Online, state: State) -> tuple[list[Experience], dict]:
        """Answer prompts and reward the answers; return what there is to learn from, and numbers for the curve.

        Every process has all prompts, and returns the same.
        """
        first, step = processes.number(), processes.count()
        own = prompts[first::step]
        drawn = self.sample([row["prompt"] for row in own], online.ends, online.tokenizer)
        answers, cut = [each.tokens for each in drawn], [not each.ended for each in drawn]
        found = online.score(own, answers)
        scores = together(found.rewards)
        state.moments = state.moments.updated(scores)
        scaled = scaled_scores(scores, state.moments, self.settings)
        penalty = self.settings["missing_end_penalty"] or 0.0
        earned = [score - penalty * missing for score, missing in zip(scaled[first::step], cut, strict=True)]
        batch = [Experience(row["prompt"], answer) for row, answer in zip(own, answers, strict=True)]
        weighed, divergences, entropy = self.weigh(batch, earned, state.kl_coef)
        played = together(weighed)
        lengths = [len(row.answer) for row in played]
        whitened = whiten(torch.cat([row.advantages for row in played])).split(lengths)
        facts = {
            "reward": fmean(scores),
            "kl": fmean(together(divergences)),
            "kl_coef": state.kl_coef,
            "entropy": sum(processes.gathered(entropy)) / sum(lengths),
            "response_tokens": fmean(lengths),
            "unfinished": fmean(together(cut)),
            "texts_cut": fmean(together([found.cut] * len(own))),
        }
        if self.engine is not None:
            gaps = gap_between([each.logps for each in drawn], [row.logps for row in weighed])
            facts["engine_gap"] = fmean(together(gaps))
            self.engine.refuse_other_weights(facts["engine_gap"])
        state.kl_coef = next_kl_coef(state.kl_coef, facts["kl"], self.settings)
        state.tokens += sum(len(row.prompt) + len(row.answer) for row in played)
        return [row._replace(advantages=own) for row, own in zip(played, whitened, strict=True)], facts

    @torch.no_grad()
    def weigh(
        self, batch: list[Experience], earned: list[float], kl_coef: float
    ) -> tuple[list[Experience], list[float], float]:
        """Return answers with what is to be learned from each, given what it earned; the nats by which each has left
        the parent; and the policy's entropy, summed over all their tokens.
        """
        settings, size = self.settings, self.settings["per_device_batch"]
        weighed, divergences, entropy = [], [], 0.0
        for start in range(0, len(batch), size):
            rows = batch[start : start + size]
            with self.computing():
                logps, values, states = self.judged(rows)
                parts = logps, self.reference(rows), values
                entropy += self.entropy(states)
            parts = [each.float().cpu().split([len(row.answer) for row in rows]) for each in parts]
            for row, own, parents, value, score in zip(
                rows, *parts, earned[start : start + size], strict=True
            ):
                rewards = kl_rewards(own, parents, score, kl_coef)
                advantages = gae(rewards, value, settings["gamma"], settings["lam"])
                divergences.append((own - parents).sum().item())
                weighed.append(Experience(row.prompt, row.answer, own, value, advantages, advantages + value))
        return weighed, divergences, entropy

    def learn(self, rows: list[Experience]) -> dict[str, float]:
        """Add the gradient of a batch's mean loss over its tokens; return numbers for the curve."""
        settings, total = self.settings, sum(len(row.answer) for row in rows)
        seen = dict.fromkeys(("policy_loss", "value_loss", "clipped_share", "step_kl"), 0.0)
        own = rows[processes.number() :: processes.count()]
        for start in range(0, len(own), settings["per_device_batch"]):
            some = own[start : start + settings["per_device_batch"]]
            columns = zip(*(row[2:] for row in some), strict=True)
            old, before, advantages, returns = [torch.cat(each).to(self.device) for each in columns]
            with self.computing():
                logps, values, _ = self.judged(some)
            policy, clipped = ppo_loss(logps, old, advantages, settings["clip"])
            value = value_loss(values, before, returns, settings["value_clip"])
            self.scaler.scale((policy + settings["value_coef"] * value).sum() / total).backward()
            apart = (logps - old).detach()
            for name, each in zip(seen, (policy, value, clipped, apart.exp() - 1 - apart), strict=True):
                seen[name] += each.sum().item() / total
        if processes.count() > 1:
            for weight in self.learned.values():
                dist.all_reduce(weight.grad)
        parts = processes.gathered(seen)
        return {name: sum(each[name] for each in parts) for name in seen}

    def improve(self, batch: list[Experience], rate: Callable[[int], float], before: int) -> dict[str, float]:
        """Make up to ppo_epochs passes over a batch, at learning rate rate(updates made); return numbers for the curve.

        `before` is how many updates were planned for the batches before this one, made or not, and count as made.
        The passes end where the estimated KL from the policy that answered, the mean of ρ − 1 − ln ρ, exceeds
        1.5 target_kl. The first pass takes the batch as it was scored, so its first ratios are 1 to the last digit.
        """
        settings, seen, norms = self.settings, [], []
        size, most = settings["batch_size"], settings["target_kl"] or math.inf
        self.policy.train()
        for rows in minibatches(batch, settings["ppo_epochs"], size):
            self.optimizer.zero_grad()
            seen.append(self.learn(rows))
            if seen[-1]["step_kl"] > STOP_AT * most:
                break
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.learned.values(), settings["max_grad_norm"])
            for group in self.optimizer.param_groups:
                group["lr"] = rate(before + len(norms))
            self.scaler.step(self.optimizer)
            self.scaler.update()
            norms.append(norm.item())
        self.optimizer.zero_grad()
        means = {name: fmean(each[name] for each in seen) for name in seen[0]}
        if self.scaler.is_enabled():  # what overflowed was skipped, and is scaled up less from here on
            planned, norms = (
                norms,
                [norm for norm in norms if math.isfinite(norm) or self.scaler.get_scale() < 1],
            )
            means["skipped_updates"] = len(planned) - len(norms)
        means |= {"updates": len(norms), "grad_norm": fmean(norms) if norms else 0.0}
        return means | {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def refuse(self, facts: dict[str, float], state: State, every: int) -> None:
        """Raise Diverged if a step's reward, KL, entropy or gradient, the weights, or their outputs are not finite."""
        with self.computing():
            said = says_numbers(self.policy, self.policy.config, self.device)
        finite = {f"the {name} is": math.isfinite(facts[key]) for name, key in CHECKED.items()}
        finite |= {"weights are": bool(are_finite(self.learned.values())), "what it says is": bool(said)}
        for name, fine in finite.items():
            if not fine:
                curve = averaged(state.rows, every)
                raise Diverged(state.step + 1, facts["learning_rate"], name, curve=curve)

    def save(self, folder: Path, state: State) -> None:
        """Write a checkpoint, its JSON last: weights and optimiser as safetensors; then drop the others."""
        folder.mkdir(exist_ok=True)
        tensors, plain = {name: weight.detach() for name, weight in self.learned.items()}, {}
        for index, known in self.optimizer.state_dict()["state"].items():
            for name, value in known.items():
                (tensors if isinstance(value, Tensor) else plain)[f"optimizer.{index}.{name}"] = value
        save_file({name: each.contiguous() for name, each in tensors.items()}, folder / "state.safetensors")
        facts = {"global_step": state.step, "optimizer": plain, "scaler": self.scaler.state_dict()}
        write_json(folder / "trainer_state.json", facts | vars(state))
        for other in folder.parent.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)

    def keep(self, folder: Path) -> None:
        """Write the weights alone, the best so far."""
        folder.mkdir(exist_ok=True)
        weights = {name: weight.detach().contiguous() for name, weight in self.learned.items()}
        save_file(weights, folder / "weights.safetensors")

    def take(self, folder: Path) -> None:
        """Take up weights that were kept."""
        for name, weight in load_file(folder / "weights.safetensors").items():
            self.learned[name].data.copy_(weight)

    def load(self, folder: Path) -> State:
        """Take up a checkpoint and return where the run stood."""
        tensors, facts = load_file(folder / "state.safetensors"), read_json(folder / "trainer_state.json")
        for name, weight in self.learned.items():
            weight.data.copy_(tensors.pop(name))
        known: dict[int, dict] = {}
        for key, value in (tensors | facts["optimizer"]).items():
            _, index, name = key.split(".", 2)
            known.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": known})
        self.scaler.load_state_dict(facts["scaler"])
        stood = {each.name: facts[each.name] for each in fields(State)}
        return State(**stood | {"moments": Moments(*stood["moments"])})
