"""Answer every prompt set a policy owes with one load of the engine.

Answers go to a store in the work folder, one file per (policy, prompt set, settings, code), appended batch by batch: a
killed job goes on where it was, as does one that hands over to itself before its time limit, and a set whose prompts
did not change is not answered again. What two sets ask in the same way, and do not draw, is answered once. `collect`
then hands each set on as a file of its own. Several engines may share the work: the finished answers are in the order
of their prompts, whoever made them and when.
"""

import argparse
import functools
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired

import torch
from typing_extensions import TypedDict

from workflow_scripts.common.answering import Answer
from workflow_scripts.common.code import code_of
from workflow_scripts.common.cuts import cut_counts, say_cuts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import (
    digest,
    finished_file,
    finished_folder,
    read_json,
    read_jsonl,
    sha256_of,
    write_json,
    write_jsonl,
)
from workflow_scripts.common.fitting import Prompt, fit_prompt, fit_text
from workflow_scripts.common.models import load_tokenizer
from workflow_scripts.common.progress import Progress
from workflow_scripts.common.settings import settings_of
from workflow_scripts.common.templates import forbidden_text, reply_end, tokenise_prompt, tokenise_text
from workflow_scripts.common.time_limit import TimeLimit, handed_over
from workflow_scripts.common.turns import with_answers
from workflow_scripts.generate.loading import ENGINES, engine_of

Known = dict[tuple[tuple[int, ...], str], Answer]  # answers that are not drawn, by `asked_alike`


class Late(Exception):
    """The next batch would not end within the job's time limit."""


class Clock:
    """Tells after each batch whether another one still fits into the job's time limit; once it does not, none does."""

    def __init__(self, limit: TimeLimit) -> None:
        self.limit, self.late = limit, False

    def strikes(self, seconds: float) -> bool:
        """Note that a batch took so many seconds; return whether it was the last one that fits."""
        self.late = self.late or self.limit.late(took=seconds)
        return self.late


class Engine(TypedDict):
    name: Literal["transformers", "vllm"]
    precision: str
    gpu_memory_share: float


class Settings(TypedDict):
    engine: Engine
    template: dict
    context: int
    trust_remote_code: bool
    batch_size: NotRequired[int]  # of what answers again, in place of each prompt set's own


def sampling_of(prompts_manifest: Path, settings: Settings) -> dict:
    """Return how a prompt set is answered: as it says itself, but for a batch size that the settings have."""
    changed = {"batch_size": settings["batch_size"]} if "batch_size" in settings else {}
    return read_json(prompts_manifest)["sampling"] | changed


def store_of(work: Path, fingerprint: str) -> Path:
    """Return the file that holds the answers of one fingerprint."""
    return work / f"{fingerprint}.jsonl"


def fingerprint_of(
    model_manifest: Path, prompts_manifest: Path, settings: dict, seed: int, code: dict
) -> str:
    """Return what a set's answers depend on: weights, prompts with their sampling, template, engine, seed and code.

    Not on the set's name: two benchmarks that ask the same in the same way are answered once.
    """
    prompts = read_json(prompts_manifest)
    contents = [sha256_of(model_manifest), sorted(prompts["files"].values()), prompts["sampling"]]
    return digest({"contents": contents, "settings": settings, "seed": seed, "code": code})[:16]


def read_store(path: Path) -> dict[tuple, dict]:
    """Return the whole answers of a store by (prompt id, sample, turn); a line cut short by a kill is dropped."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")  # bytes: the cut may have gone through a character
    whole = [json.loads(line) for line in lines[:-1]]  # what follows the last newline is unfinished
    with finished_file(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
    return {(row["id"], row["sample"], row["turn"]): row for row in whole}


def prompt_ids(row: dict, said: list[str], settings: dict, tokenizer: object) -> list[int]:
    """Return the token ids of a row's next prompt, given the answers `said` so far."""
    if "text" in row:
        return tokenise_text(row["text"], tokenizer)
    messages = with_answers(row["messages"], said, row["followups"])
    return tokenise_prompt(messages, settings["template"], tokenizer)


def fitted_prompt(row: dict, said: list[str], settings: dict, tokenizer: object, room: int) -> Prompt:
    """Return a row's next prompt, given the answers `said` so far, in at most `room` tokens."""
    if "text" in row:
        whole = prompt_ids(row, said, settings, tokenizer)
        kept = fit_text(whole, tokenizer, room)
        return Prompt(kept, [], len(whole) - len(kept))
    messages = with_answers(row["messages"], said, row["followups"])
    return fit_prompt(messages, settings["template"], tokenizer, room, f"prompt {row['id']}")


def spells_special(row: dict, tokenizer: object) -> bool:
    """Tell whether a prompt's own words spell a special token: it is asked as plain text."""
    contents = [each["content"] for each in row.get("messages", [])] + row["followups"]
    asked = [{"content": text} for text in [*contents, row.get("text", "")]]
    return forbidden_text(asked, tokenizer) is not None


def by_temperature(rows: list[dict], default: float) -> dict[float, list[dict]]:
    """Return the rows by the temperature they are answered at, the lowest first, each in its order."""
    found: dict[float, list[dict]] = {}
    for row in rows:
        found.setdefault(row.get("temperature", default), []).append(row)
    return dict(sorted(found.items()))


def count_answers(rows: list[dict], sampling: dict) -> int:
    """Return how many answers a prompt set takes: one a turn, in every sample."""
    return sum(1 + len(row["followups"]) for row in rows) * sampling["samples"]


def asked_alike(ids: list[int], sampling: dict) -> tuple[tuple[int, ...], str]:
    """Return what decides an answer that is not drawn: its prompt's tokens, and how it is looked for."""
    how = {name: value for name, value in sampling.items() if name not in ("batch_size", "samples")}
    return tuple(ids), json.dumps(how, sort_keys=True)


def answers_to(
    engine: Callable[[], Any],
    prompts: list[list[int]],
    sampling: dict,
    end: str,
    seed: int,
    missing: list[bool],
    known: Known,
    clock: Clock,
) -> Iterator[tuple[int, Answer, bool]]:
    """Yield (index of a prompt, its answer, whether the engine made it just now), at least of those that are missing.

    Late is raised once the clock has struck and some are missing still.

    What is not drawn and is `known` is taken from there. The engine is given all others whether or not they are
    missing, so a resumed run asks in the same batches and draws the same; where none of them is, it is not loaded.
    """
    keys = [None if sampling["temperature"] else asked_alike(prompt, sampling) for prompt in prompts]
    asked = [index for index, key in enumerate(keys) if key not in known]
    yield from ((index, known[key], False) for index, key in enumerate(keys) if key in known)
    due = [missing[index] for index in asked]
    lacking = {index for index in asked if missing[index]}
    if lacking and not clock.late:
        rest = [prompts[index] for index in asked]
        for batch in engine().until(clock.strikes, rest, sampling, end, seed, due):
            for place, answer in batch:
                lacking.discard(asked[place])
                yield asked[place], answer, True
    if lacking and clock.late:
        raise Late


def answer_set(
    engine: Callable[[], Any],
    tokenizer: Any,
    rows: list[dict],
    sampling: dict,
    settings: dict,
    seed: int,
    store: Path,
    known: Known,
    clock: Clock,
    progress: Progress,
) -> int:
    """Answer what a prompt set still lacks, appending to its store; return the number of tokens made.

    Rows of one temperature, their own or the set's, are asked together. A prompt longer than the context leaves room
    for is cut as `fitting` says, and its answer says what it lost. What is not drawn is put into `known`, and not asked
    again by a later turn, sample or set. `engine` loads it.
    """
    done = read_store(store)
    room = settings["context"] - sampling["max_new_tokens"]
    if room < 1:
        raise PlumblineError(
            f"max_new_tokens {sampling['max_new_tokens']} fills the context of {settings['context']}"
        )
    made = 0
    special = {row["id"]: spells_special(row, tokenizer) for row in rows}
    alike = by_temperature(rows, sampling["temperature"])
    rounds = itertools.product(
        range(max(1 + len(row["followups"]) for row in rows)), range(sampling["samples"]), enumerate(alike)
    )
    for turn, sample, (number, temperature) in rounds:
        due = [row for row in alike[temperature] if turn <= len(row["followups"])]
        prompts = []
        for row in due:
            said = [done[row["id"], sample, earlier]["text"] for earlier in range(turn)]
            prompts.append(fitted_prompt(row, said, settings, tokenizer, room))
        ids, how = [prompt.ids for prompt in prompts], sampling | {"temperature": temperature}
        answers = answers_to(
            engine,
            ids,
            how,
            reply_end(settings["template"], tokenizer),
            seed * 10_007 + sample * 101 + turn + number * 5_000_011,
            [(row["id"], sample, turn) not in done for row in due],
            known,
            clock,
        )
        with open(store, "a", encoding="utf-8") as stream:
            for index, answer, new in answers:
                row = {"id": due[index]["id"], "sample": sample, "turn": turn, **answer._asdict()}
                if (row["id"], sample, turn) not in done:
                    facts = prompts[index].facts() | {"special_spelled": special[row["id"]]}
                    row |= {name: fact for name, fact in facts.items() if fact}
                    done[row["id"], sample, turn] = row
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                    stream.flush()
                    tokens = answer.completion_tokens if new else 0
                    progress.add(1, tokens=tokens)
                    made += tokens
        if not temperature:
            for row, prompt in zip(due, ids, strict=True):
                answer = {name: done[row["id"], sample, turn][name] for name in Answer._fields}
                known.setdefault(asked_alike(prompt, how), Answer(**answer))
    return made


def warn_of_prompts(name: str, answers: list[dict]) -> None:
    """Say, on standard error, how many prompts of a set were cut or spell a special token."""
    counts = {"kept": len(answers)} | cut_counts(answers)
    say_cuts(f"prompts of {name}", counts, "raise the model's context, or lower max_new_tokens")
    if count := len({row["id"] for row in answers if row.get("special_spelled")}):
        print(
            f"warning: {name}: {count} prompts spell a special token; it is asked as plain text",
            file=sys.stderr,
        )


def in_order(store: Path, rows: list[dict]) -> list[dict]:
    """Return the answers of a store in the order of their prompts, samples and turns."""
    places = {row["id"]: place for place, row in enumerate(rows)}
    return sorted(read_store(store).values(), key=lambda row: (places[row["id"]], row["sample"], row["turn"]))


def add_cost(store: Path, seconds: float, tokens: int, shares: int = 0) -> None:
    """Add to what a store's answers have cost so far: a resumed run goes on, what was answered stays paid.

    shares: MiB that the processes took that share the work, beside this one.
    """
    path = store.with_suffix(".cost.json")
    spent = read_json(path) if path.is_file() else {}
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + shares
    spent = {
        "wall_seconds": spent.get("wall_seconds", 0.0) + seconds,
        "gpu_seconds": spent.get("gpu_seconds", 0.0) + seconds * gpus,
        "tokens": spent.get("tokens", 0) + tokens,
        "peak_memory_mb": max(spent.get("peak_memory_mb", 0), peak),
    }
    write_json(path, spent)


def total_cost(stores: list[Path]) -> dict:
    """Return what the answers of these stores have cost: seconds and tokens added up, the largest peak memory."""
    costs = [
        read_json(path) for path in (store.with_suffix(".cost.json") for store in stores) if path.is_file()
    ]
    total = {
        key: round(sum(cost[key] for cost in costs), 1) for key in ("wall_seconds", "gpu_seconds", "tokens")
    }
    return total | {"peak_memory_mb": max((cost["peak_memory_mb"] for cost in costs), default=0)}


def parsed() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--model-manifest", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, help="manifests of the prompt sets")
    keys = ", ".join(Settings.__annotations__)
    parser.add_argument("--settings", type=settings_of(Settings), required=True, help=f"as JSON: {keys}")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the answer stores")
    parser.add_argument("--answers", type=Path, required=True, help="folder for the finished answers")
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON: prompt set → fingerprint of its answers"
    )
    parser.add_argument("--cost", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=1, help="engines that share the work and the GPUs")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    settings = arguments.settings
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(arguments.model)
    code = code_of("workflow_scripts.generate.answer", ENGINES[settings["engine"]["name"]])
    sets = {
        manifest: (read_jsonl(manifest.with_suffix(".jsonl")), sampling_of(manifest, settings))
        for manifest in arguments.prompts
    }
    progress = Progress("answering", "answers", sum(count_answers(*each) for each in sets.values()))
    limit = TimeLimit(arguments.work)
    limit.recall()
    clock = Clock(limit)

    @functools.cache
    def engine() -> Any:
        loaded = engine_of(arguments.model, settings, arguments.shards)
        limit.begin()
        return loaded

    answered: dict[str, str] = {}
    known: Known = {}
    for manifest, (rows, sampling) in sets.items():
        fingerprint = fingerprint_of(arguments.model_manifest, manifest, settings, arguments.seed, code)
        store = store_of(arguments.work, fingerprint)
        there, before = len(read_store(store)), time.monotonic()
        progress.add(there)
        told = progress.facts.get("tokens", 0)
        how = (sampling, settings, arguments.seed, store, known, clock, progress)
        try:
            made = answer_set(engine, tokenizer, rows, *how)
        except Late:
            add_cost(store, time.monotonic() - before, int(progress.facts.get("tokens", 0) - told))
            limit.hand_over(f"{progress.done} of {progress.total} answers")
        if there < count_answers(rows, sampling):
            add_cost(
                store, time.monotonic() - before, made, getattr(engine(), "peak_memory_mb", 0) if made else 0
            )
            print(f"{manifest.stem}: {made} tokens in {time.monotonic() - before:.0f} s", flush=True)
        else:
            print(f"{manifest.stem}: answered before", flush=True)
        warn_of_prompts(manifest.stem, list(read_store(store).values()))
        answered[manifest.stem] = fingerprint
    times = handed_over(arguments.work)
    for old in arguments.work.iterdir():
        if old.name.split(".")[0] not in answered.values():
            old.unlink()
    asked = {answered[manifest.stem]: rows for manifest, (rows, _) in sets.items()}
    with finished_folder(arguments.answers) as folder:
        for name, rows in asked.items():
            write_jsonl(store_of(folder, name), in_order(store_of(arguments.work, name), rows))
    cost = total_cost([store_of(arguments.work, name) for name in asked])
    write_json(arguments.cost, cost | ({"hand_overs": times} if times else {}))
    write_json(arguments.output, answered)


if __name__ == "__main__":
    run(main)
