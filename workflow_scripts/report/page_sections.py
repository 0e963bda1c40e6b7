"""Sections of the report page that are not scores: costs, overlaps, data, provenance, verdicts left out."""

from typing import Any

from workflow_scripts.common.files import canonical_json, read_json
from workflow_scripts.report.overlaps import MUCH_OF_AN_ITEM
from workflow_scripts.report.page_tables import field, number_of, plain_table, show_time, table
from workflow_scripts.report.scores import in_order
from workflow_scripts.report.settings import Hyper


def left_out_lines(sets: list[dict]) -> list[str]:
    """Return a line per benchmark on the verdicts that are in none of its figures and means, as they have no number."""
    lines = []
    for found in sets:
        told = [
            f"{count} of {policy} ({'skipped by the study' if why == 'skipped' else why})"
            for policy, counts in found["left_out"].items()
            for why, count in counts.items()
        ]
        if told:
            lines.append(f"{found['benchmark']}: verdicts left out: {', '.join(told)}.")
    return lines


COSTS = {
    "what": "",
    "jobs": "jobs",
    "wall_seconds": "wall time",
    "gpu_seconds": "GPU time",
    "tokens": "tokens",
    "peak_memory_mb": "peak memory, GB",
    "judge_calls": "judge calls",
    "judge_stored": "from the store",
    "judge_retries": "retries",
    "prompt_tokens": "judge tokens in",
    "completion_tokens": "judge tokens out",
    "usd": "US dollars",
}


def cost_table(rows: list[dict[str, str]], key: str) -> dict:
    """Return costs.csv summed by one of its columns, with bars for wall and GPU time; its own totals left out."""
    jobs = [row for row in rows if row["name"] != "total"]
    found: dict[str, list[dict]] = {}
    for job in jobs:
        if job[key]:
            found.setdefault(job[key], []).append(job)
    sums = {name: {"jobs": float(len(own))} | _summed(own) for name, own in found.items()}
    longest = {
        part: max((s.get(part, 0) for s in sums.values()), default=0)
        for part in ("wall_seconds", "gpu_seconds")
    }
    lines = []
    for name, measured in sums.items():
        line = {"what": field(name, code=key == "policy")}
        for part, value in measured.items():
            line[part] = cost_field(part, value, longest)
        lines.append(line)
    return table(f"costs-{key}", lines, COSTS | {"what": key}, set(COSTS) - {"what"})


def _summed(jobs: list[dict]) -> dict[str, float]:
    measured = {}
    for part in set(COSTS) - {"what", "jobs"}:
        values = [float(job[part]) for job in jobs if job.get(part)]
        if any(values):
            measured[part] = max(values) if part == "peak_memory_mb" else sum(values)
    return measured


def cost_field(part: str, value: float, longest: dict[str, float]) -> dict:
    """Return the field of one measure: times with a bar, the rest as counts."""
    if part in longest:
        return field(show_time(value), value, share=value / longest[part], title=f"{value / 3600:.3f} hours")
    if part == "usd":
        return field(f"{value:,.2f}", value)
    return field(f"{value / 1024:.1f}" if part == "peak_memory_mb" else f"{value:,.0f}", value)


def overlap_section(rows: list[dict[str, str]]) -> dict:
    """Return how many items of each benchmark overlap with each training set, and the items."""
    pairs = in_order((row["benchmark"], row["training_set"]) for row in rows)
    lines = []
    for benchmark, training_set in pairs:
        own = [row for row in rows if (row["benchmark"], row["training_set"]) == (benchmark, training_set)]
        at13 = sum(float(row["share13"] or 0) > 0 for row in own)
        at8 = sum(float(row["share8"] or 0) >= MUCH_OF_AN_ITEM for row in own)
        lines.append(
            {
                "benchmark": field(benchmark),
                "set": field(training_set),
                "at13": field(str(at13), at13),
                "at8": field(str(at8), at8),
                "group": _exact_field(own, "group"),
                "whole": _exact_field(own, "whole"),
            }
        )
    labels = {
        "benchmark": "benchmark",
        "set": "training set",
        "at13": "items with a 13-gram in it",
        "at8": f"items with {100 * MUCH_OF_AN_ITEM:.0f} % of their 8-grams in it",
        "group": "by their group",
        "whole": "as a whole",
    }
    return {
        "counts": table("overlap-counts", lines, labels, {"at13", "at8", "group", "whole"}),
        "listed": plain_table("overlap-items", rows),
        "count": len({(row["benchmark"], row["item"]) for row in rows}),
    }


def _exact_field(rows: list[dict[str, str]], how: str) -> dict:
    count = sum(row.get("exact") == how for row in rows)
    return field(str(count), count) if any(row.get("exact") for row in rows) else field()


def provenance_table(provenance: dict) -> dict:
    """Return a line per record of provenance.json, its facts and files folded."""
    lines = []
    for key, record in provenance["records"].items():
        policy, seed, benchmark = key.split("|")
        facts = [(name, value) for name, value in record.items() if name not in ("id", "files")]
        facts += list(record.get("files", {}).items())
        lines.append(
            {
                "policy": field(policy, code=True),
                "seed": field(str(seed), number_of(seed)),
                "benchmark": field(benchmark),
                "id": field(record["id"], code=True, copied=True),
                "facts": field(
                    facts=[
                        (name, value if isinstance(value, str) else canonical_json(value))
                        for name, value in facts
                    ]
                ),
            }
        )
    labels = {"policy": "policy", "seed": "seed", "benchmark": "benchmark", "id": "id", "facts": "behind it"}
    return table("provenance", lines, labels, {"seed"})


def data_rows(manifests: dict[str, str]) -> list[dict[str, str]]:
    """Return a row per dataset: what cleaning read, kept and rejected, why, and what else it counted."""
    rows = []
    for name, path in manifests.items():
        manifest = read_json(path)
        row = {"dataset": name}
        for unit in ("rows", "turns"):
            for what in ("read", "kept", "rejected"):
                row[f"{unit}_{what}"] = str(sum(count[unit][what] for count in manifest["counts"].values()))
        noted = [f"{note} ({count})" for note, count in manifest["notes"].items()]
        row |= {"rejected_for": _reasons(manifest, "row: "), "cut_for": _reasons(manifest, "turn: ")}
        rows.append(row | {"noted": ", ".join(noted)})
    return rows


def _reasons(manifest: dict, level: str) -> str:
    """Return why rows were rejected ("row: "), or conversations cut ("turn: "), the most frequent first."""
    found = [
        (-count["entries"], reason.removeprefix(level))
        for reason, count in manifest["rejected"].items()
        if reason.startswith(level)
    ]
    return ", ".join(f"{reason} ({-count})" for count, reason in sorted(found))


def settings_table(hyper_parameters: Hyper) -> dict:
    """Return a line per training run: what its study says otherwise than by default, and the defaults folded."""
    lines = []
    for run, known in hyper_parameters["runs"].items():
        usual = hyper_parameters["defaults"][known["method"]]
        rest = [(name, setting_text(value)) for name, value in usual.items() if name not in known["changed"]]
        changed = [f"{name}: {setting_text(value)}" for name, value in known["changed"].items()]
        lines.append(
            {
                "policies": field(", ".join(known["policies"]), code=True),
                "run": field(run),
                "method": field(known["method"]),
                "changed": field("; ".join(changed)),
                "usual": field(facts=rest, counted="settings"),
            }
        )
    labels = {"policies": "policy", "run": "run", "method": "method"}
    labels |= {"changed": "set by the study", "usual": "left at its default"}
    return table("settings", lines, labels, set())


def setting_text(value: Any) -> str:
    """Return a setting as a study's YAML has it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else canonical_json(value)


def accepted_lines(provenance: dict) -> list[dict]:
    """Return what each acceptance lets stand: {"why", "on", "changed", "jobs", "policies"}, the last three lists."""
    found: dict[str, dict] = {}
    for key, record in provenance["records"].items():
        for each in record.get("accepted", []):
            view = found.setdefault(
                canonical_json([each["why"], each["on"], each["changed"]]),
                {"why": each["why"], "on": each["on"], "changed": changed_texts(each["changed"])}
                | {"jobs": [], "policies": []},
            )
            view["jobs"] = in_order([*view["jobs"], *each["jobs"]])
            view["policies"] = in_order([*view["policies"], key.split("|")[0]])
    return list(found.values())


def changed_texts(changed: dict) -> list[str]:
    """Return what has changed under accepted work, a text for each module, package and command."""
    texts = []
    for kind, parts in changed.items():
        named = (
            [[name, *ends] for name, ends in parts.items()]
            if isinstance(parts, dict)
            else [[name] for name in parts]
        )
        for name, *ends in named:
            told = " → ".join(end or "none" for end in ends)
            texts.append(f"{kind} {name} {told}".strip())
    return texts
