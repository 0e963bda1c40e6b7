"""Whether the jobs of a study can ever start in SLURM's partitions: what is asked for, held against what there is.

SLURM itself refuses such a job only when it is submitted, hours into a study, or lets it wait for ever. It is asked
once, by two commands that read: `sinfo` for the nodes of each partition, `scontrol show partition` for its limits.
What a profile says goes before what the study says, as in a run; its sums are worked out for a first and a second try.

Looked at are trainings, answering, and what `default-resources` give all others; of further rules in the profile it is
not known here whether the study has jobs, so what is wrong with them is a doubt, as is what cannot be read: other ways
to ask for memory or GPUs, expressions other than sums of numbers, `attempt`, `min` and `max`. Not covered: limits of
users and of qualities of service, `slurm_extra`, constraints on features, reservations; nodes that are down count.
"""

import ast
import operator
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from workflow_scripts.study.findings import Finding, doubt, sorted_out, wrong
from workflow_scripts.study.lineage import known_policies
from workflow_scripts.study.memory import Look, Profile, share_of, trainings_of
from workflow_scripts.study.resources import Resources
from workflow_scripts.study.study import Study

NODES = ["sinfo", "-h", "-a", "-e", "-o", "%P|%l|%G|%m|%c|%D"]
LIMITS = ["scontrol", "-a", "-o", "show", "partition"]
PATIENCE = 10  # seconds that SLURM has to answer


class Node(NamedTuple):
    """So many nodes of one kind: CPUs, MB of memory, and the GPUs of each model, "" where SLURM names none."""

    count: int
    cpus: int
    memory: int
    gpus: dict[str, int]

    def has(self, model: str) -> int:
        """Return the GPUs of a model, "" for all."""
        return self.gpus.get(model, 0) if model else sum(self.gpus.values())


class Partition(NamedTuple):
    """What a partition is made of and allows; None where it sets no limit."""

    nodes: list[Node]
    minutes: float | None
    is_default: bool = False
    accounts: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()
    most_nodes: int | None = None
    most_memory: int | None = None
    """MB of a job on a node."""
    most_cpus: int | None = None
    """CPUs of a job on a node."""
    state: str = "UP"


class Asked(NamedTuple):
    """What the jobs of a rule ask for at an attempt: each value with the path to the key that says so."""

    rule: str
    values: dict[str, tuple[Any, str]]
    attempt: int = 1

    def number(self, key: str) -> float | None:
        """Return a number, None where it is not given or cannot be told."""
        return worked_out(self.values[key][0], self.attempt) if key in self.values else None

    def word(self, key: str) -> str:
        """Return a name, "" where none is given."""
        return str(self.values[key][0]).strip("'\"") if key in self.values else ""

    def path(self, *keys: str) -> str:
        """Return the path to the first of these keys that is given, else where the first would stand."""
        given = [self.values[key][1] for key in keys if key in self.values]
        return given[0] if given else f"the profile's set-resources.{self.rule}.{keys[0]}"


# --- what SLURM says ----------------------------------------------------------------------------------------------


def minutes_in(text: str) -> float | None:
    """Return the minutes of SLURM's days-hours:minutes:seconds; None for no limit."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in [days or "0", *parts]):
        return None
    if days:  # 2-00, 2-00:00, 2-00:00:00
        hours, minutes, seconds = [*map(int, parts), 0, 0][:3]
    else:
        hours, minutes, seconds = [0, 0, *map(int, parts)][-3:]
    return (int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60


def gpus_in(text: str) -> dict[str, int]:
    """Return the GPUs of a node by their model: gpu:a100:4(S:0-1),gpu:h100:2 or gpu:4."""
    found: dict[str, int] = {}
    for model, count in re.findall(r"(?:^|,)gpu(?::([^:,()]+))?:(\d+)", text):
        found[model] = found.get(model, 0) + int(count)
    return found


def partitions_in(nodes: str, limits: str) -> dict[str, Partition]:
    """Return the partitions by name that `sinfo` (NODES) and `scontrol` (LIMITS) tell of, past any site's banner."""
    found: dict[str, Partition] = {}
    for line in nodes.splitlines():
        if line.count("|") != NODES[-1].count("|"):
            continue
        name, longest, gpus, memory, cpus, count = line.split("|")
        numbers = [int(re.match(r"\d*", each)[0] or 0) for each in (count, cpus, memory)]
        part = found.setdefault(name.rstrip("*"), Partition([], minutes_in(longest), name.endswith("*")))
        part.nodes.append(Node(*numbers, gpus_in(gpus)))
    for line in limits.splitlines():
        said = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if said.get("PartitionName") not in found:
            continue
        limits_of = ("MaxNodes", "MaxMemPerNode", "MaxCPUsPerNode")
        most = {key: int(said[key]) if said.get(key, "").isdigit() else None for key in limits_of}
        allowed, denied = said.get("AllowAccounts", "ALL"), said.get("DenyAccounts", "")
        found[said["PartitionName"]] = found[said["PartitionName"]]._replace(
            accounts=None if allowed == "ALL" else frozenset(allowed.split(",")),
            denied=frozenset(filter(None, denied.split(","))),
            most_nodes=most["MaxNodes"],
            most_memory=most["MaxMemPerNode"],
            most_cpus=most["MaxCPUsPerNode"],
            state=said.get("State", "UP"),
        )
    return found


def ask_slurm() -> dict[str, Partition] | str:
    """Return SLURM's partitions, or in words why it could not be asked."""
    said = []
    for command in (NODES, LIMITS):
        if not shutil.which(command[0]):
            return f"there is no {command[0]} here"
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return f"{command[0]} does not answer ({error})"
        if done.returncode:
            return f"{command[0]}: {' '.join(done.stderr.split())[:200]}"
        said.append(done.stdout)
    return partitions_in(*said) or "sinfo names no partition"


# --- what is asked for ----------------------------------------------------------------------------------------------

SUMS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
CALLS = {"min": min, "max": max}
MINUTES = {"s": 1 / 60, "m": 1, "h": 60, "d": 1440}


def worked_out(value: Any, attempt: int) -> float | None:
    """Return the number that a profile's value is at an attempt: one, a sum, "12h"; None for what cannot be told."""
    text = str(value).strip()
    if timed := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return float(timed[1]) * MINUTES[timed[2]]

    def of(node: ast.AST) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id="attempt"):
                return attempt
            case ast.BinOp() if type(node.op) in SUMS:
                return SUMS[type(node.op)](of(node.left), of(node.right))
            case ast.Call(func=ast.Name(id="min" | "max" as name), keywords=[]):
                return CALLS[name](*map(of, node.args))
        raise ValueError

    try:
        return float(of(ast.parse(text, mode="eval").body))
    except (ValueError, SyntaxError, ZeroDivisionError, TypeError):
        return None


def asked_by(rule: str, own: dict[str, tuple[Any, str]], profile: Profile, attempt: int) -> Asked:
    """Return what the jobs of a rule ask for; `own` is what the study says: value and path by key."""
    usual = {
        key: (value, f"the profile's default-resources.{key}") for key, value in profile.get("", {}).items()
    }
    set_for = f"the profile's set-resources.{rule}"
    changed = {key: (value, f"{set_for}.{key}") for key, value in profile.get(rule, {}).items()}
    return Asked(rule, usual | own | changed, attempt)


def own_of(resources: Resources, section: str) -> dict[str, tuple[Any, str]]:
    """Return what a part of the study asks for, by Snakemake's names."""
    names = {
        "gpu": "gpu",
        "nodes": "nodes",
        "mem_mb": "mem_mb",
        "runtime": "runtime_minutes",
        "threads": "cpus",
    }
    return {
        key: (getattr(resources, name), f"{section}.{name}")
        for key, name in names.items()
        if hasattr(resources, name)
    }


def all_asked(study: Study, profile: Profile, attempt: int) -> Iterator[tuple[bool, Asked]]:
    """Yield (whether the study has such jobs, what they ask for) for every rule that is known of."""
    known = set()
    for trained in trainings_of(study, known_policies(study) or {}):
        own = own_of(study.training_resources, "training_resources")
        gpus = share_of(study, trained, profile).gpus
        own["gpu"] = (gpus, own["gpu"][1])
        known.add(trained.rule)
        yield True, asked_by(trained.rule, own, profile, attempt)
    reading = own_of(study.generation_resources, "generation_resources")
    if study.engine.name != "vllm":
        reading["gpu"] = (min(study.generation_resources.shards, reading["gpu"][0]), reading["gpu"][1])
    yield True, asked_by("answer_prompts", reading, profile, attempt)
    yield True, asked_by("default", {}, {"": profile.get("", {})}, attempt)
    for rule in sorted(profile.keys() - known - {"", "answer_prompts"}):
        yield False, asked_by(rule, {}, profile, attempt)


# --- the one against the other ------------------------------------------------------------------------------------


def never_starts(asked: Asked, partitions: dict[str, Partition]) -> Iterator[tuple[str, str]]:
    """Yield (path, why) for what keeps jobs from ever starting; of several partitions one that takes them is enough."""
    names = [name for name in asked.word("slurm_partition").replace(" ", "").split(",") if name]
    usual = [name for name, part in partitions.items() if part.is_default]
    unknown = [name for name in names if name not in partitions]
    if unknown or not (names or usual):
        said = (
            f"there is no partition {unknown[0]!r}"
            if unknown
            else "no partition is named, and none is the default"
        )
        yield asked.path("slurm_partition"), f"{said}; there are {', '.join(sorted(partitions)) or 'none'}"
        return
    gpus, nodes = asked.number("gpu") or 0, int(asked.number("nodes") or 1)
    if gpus % nodes:
        yield asked.path("nodes", "gpu"), f"{gpus:g} GPUs do not share out over {nodes} nodes"
        return
    yield from min((list(refused_by(asked, name, partitions[name])) for name in names or usual[:1]), key=len)


def refused_by(asked: Asked, name: str, part: Partition) -> Iterator[tuple[str, str]]:
    """Yield (path, why) for what keeps jobs from ever starting in one partition."""
    account = asked.word("slurm_account")
    allowed = part.accounts is None or account in part.accounts
    if account and (not allowed or account in part.denied):
        yield asked.path("slurm_account"), f"partition {name} does not take account {account!r}"
    minutes = asked.number("runtime")
    if minutes is not None and part.minutes is not None and minutes > part.minutes:
        yield (
            asked.path("runtime"),
            f"{minutes:.0f} minutes; partition {name} ends jobs after {part.minutes:.0f}",
        )
    yield from without_room(asked, name, part)


def without_room(asked: Asked, name: str, part: Partition) -> Iterator[tuple[str, str]]:
    """Yield (path, why) for what no nodes of a partition have, each for itself, else all together."""
    count, model = int(asked.number("nodes") or 1), asked.word("gpu_model")
    gpus, memory, cpus = (asked.number(key) or 0 for key in ("gpu", "mem_mb", "threads"))
    each = gpus / count  # a job's GPUs are shared out over its nodes
    there, most = sum(node.count for node in part.nodes), part.most_memory or float("inf")
    most_cpus = part.most_cpus or float("inf")
    wanted: dict[str, Callable[[Node], bool]] = {
        "mem_mb": lambda node: memory <= min(node.memory, most),
        "threads": lambda node: cpus <= min(node.cpus, most_cpus),
        "gpu": lambda node: each <= node.has(model),
    }
    found = 0
    if count > min(there, part.most_nodes or there):
        yield (
            asked.path("nodes"),
            f"{count} nodes; partition {name} gives a job {min(there, part.most_nodes or there)}",
        )
        return
    for key, fits in wanted.items():
        if sum(node.count for node in part.nodes if fits(node)) >= count:
            continue
        found += 1
        on = f" on each of {count} nodes" if count > 1 else ""
        if key == "gpu":
            kind = f"{model} " if model else ""
            have = max((node.has(model) for node in part.nodes), default=0)
            at = asked.path("gpu_model", "gpu") if model and not have else asked.path("gpu")
            yield (
                at,
                f"{each:g} {kind}GPUs{on}; a node of partition {name} has {have or 'none'}{kinds_of(part, have)}",
            )
        elif key == "mem_mb":
            have = min(most, max((node.memory for node in part.nodes), default=0))
            yield asked.path(key), f"{memory:.0f} MB{on}; a node of partition {name} has {have:.0f}"
        else:
            have = min(most_cpus, max((node.cpus for node in part.nodes), default=0))
            yield asked.path(key), f"{cpus:.0f} CPUs{on}; a node of partition {name} has {have:.0f}"
    together = sum(node.count for node in part.nodes if all(fits(node) for fits in wanted.values()))
    if not found and together < count:
        all_three = f"{each:g} GPUs, {memory:.0f} MB and {cpus:.0f} CPUs at once"
        no = "no node" if count == 1 else f"no {count} nodes"
        yield asked.path("gpu", "mem_mb"), f"{all_three}, which {no} of partition {name} can give"


NUMBERS = ("gpu", "nodes", "mem_mb", "runtime", "threads")
OTHERWISE = {"mem": "mem_mb", "mem_mib": "mem_mb", "mem_mb_per_cpu": "mem_mb", "gres": "gpu and gpu_model"}


def not_known(asked: Asked, partitions: dict[str, Partition]) -> Iterator[tuple[str, str]]:
    """Yield (path, why) for what may keep jobs from starting: what cannot be held against partitions, or is down."""
    for key in NUMBERS:
        if key in asked.values and asked.values[key][0] is not None and asked.number(key) is None:
            said = f"{asked.values[key][0]!r} cannot be worked out here"
            yield asked.path(key), f"{said}, and was not held against SLURM's partitions"
    for key, usual in OTHERWISE.items():
        if key in asked.values:
            yield asked.path(key), f"is not held against SLURM's partitions, as {usual} would be"
    for name in asked.word("slurm_partition").replace(" ", "").split(","):
        if name in partitions and partitions[name].state != "UP":
            yield asked.path("slurm_partition"), f"partition {name} is {partitions[name].state} now"


def kinds_of(part: Partition, have: int) -> str:
    """Return, where a partition has none of the GPUs that are asked for, which it has."""
    models = sorted({model for node in part.nodes for model in node.gpus if model})
    return f", but {', '.join(models)}" if models and not have else ""


def startable(profile: Profile, ask: Callable[[], dict[str, Partition] | str] = ask_slurm) -> Look:
    """Return the look at a study that holds what its jobs ask for against SLURM's partitions.

    Where a profile says nothing of SLURM (no key that begins with slurm_), nothing is asked.
    """

    def look(study: Study) -> tuple[list[str], list[str]]:
        if not any(key.startswith("slurm_") for words in profile.values() for key in words):
            return [], []
        partitions = ask()
        if isinstance(partitions, str):
            text = f"SLURM was not asked what its partitions allow: {partitions}"
            return sorted_out([doubt("the profile", text)])
        return sorted_out(findings(study, profile, partitions))

    return look


def findings(study: Study, profile: Profile, partitions: dict[str, Partition]) -> Iterable[Finding]:
    """Find what could never start: at its first try, and, as a doubt, at its second."""
    told: dict[str, Finding] = {}
    for _, asked in all_asked(study, profile, 1):
        for path, why in not_known(asked, partitions):
            told.setdefault(path, doubt(path, why))
    for attempt in (1, 2):
        for certain, asked in all_asked(study, profile, attempt):
            for path, why in never_starts(asked, partitions):
                if attempt > 1:
                    told.setdefault(
                        path, doubt(path, f"tried again, it asks for {why}: it could not start then")
                    )
                else:
                    text = f"{why}: {'it could' if certain else 'such jobs, if the study has any, could'} never start"
                    told.setdefault(path, (wrong if certain else doubt)(path, text))
    return told.values()
