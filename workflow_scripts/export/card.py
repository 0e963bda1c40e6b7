"""README.md of an exported folder: what `plumbline.json` holds, in words. Nothing here is known from elsewhere."""

import json
import re
from typing import Any

import yaml

from workflow_scripts.report.numbers import estimate, markdown_line, markdown_text, shown
from workflow_scripts.report.rows import cell_title, typed
from workflow_scripts.report.scores import ALL

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")
UNKNOWN = "not known: the study does not say"


def front_matter(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the fields at a card's head: only those that the study knows."""
    base, front = facts["base_model"], {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if license := base["license"]:
        known = IDENTIFIER.fullmatch(license)
        front |= {"license": license} if known else {"license": "other", "license_name": license}
    if repository := base["source"].get("repo"):
        front["base_model"] = repository
    parts = [part for each in facts["datasets"] for part in each["made_of"]]
    if repositories := list(
        dict.fromkeys(part["source"]["repo"] for part in parts if "repo" in part["source"])
    ):
        front["datasets"] = repositories
    methods = [run["method"] for run in facts["lineage"]]
    return front | {"tags": list(dict.fromkeys(["plumbline", *methods]))}


def code(text: object) -> str:
    """Return text as Markdown's code, in one line; of backticks in it none closes it."""
    plain = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {plain} {fence}" if longest else f"`{plain}`"


def from_where(source: dict[str, Any]) -> str:
    if "repo" in source:
        return f"source {code(source['name'])}: {code(source['repo'])} at {code(source['revision'])}"
    return f"source {code(source['name'])} of the study"


def lineage_lines(facts: dict[str, Any]) -> list[str]:
    """Return what was done to the base model, one training after another."""
    base = facts["base_model"]
    lines = [f"1. {code(base['name'])}, the base model ({from_where(base['source'])})"]
    for number, run in enumerate(facts["lineage"], 2):
        lines.append(
            f"{number}. {code(run['policy'])}: {run['method']} on {code(run['learned_from'])}, seed {run['seed']}"
        )
    return lines


def table_lines(rows: list[dict]) -> list[str]:
    """Return rows of the results table: value with interval, items and groups, difference from the baseline."""
    arrows = {True: " ↑", False: " ↓", "": ""}
    head = ["score", "value", "items", "groups", "difference", "provenance"]
    lines = [markdown_line(head), markdown_line(["---", *["---:"] * 4, "---"])]
    for row in rows:
        score = cell_title(row) + arrows[row["higher_is_better"]]
        counts = [f"{row[key]:.0f}" if row[key] != "" else "–" for key in ("n", "groups")]
        if row["value"] == "":
            lines.append(markdown_line([score, f"none: {row['note']}", *counts, "–", row["provenance"]]))
            continue
        value = estimate(row["value"], row["ci_low"], row["ci_high"])
        apart = "–"
        if row["difference"] != "":
            apart = estimate(row["difference"], row["difference_low"], row["difference_high"])
        lines.append(markdown_line([score, value, *counts, apart, row["provenance"]]))
    return lines


def results_lines(facts: dict[str, Any]) -> list[str]:
    """Return what the study measured of the policy, or that it has not yet."""
    found = facts["results"]
    if "missing" in found:
        return [f"None: {markdown_text(found['missing'])}."]
    rows = [typed({"higher_is_better": "", "note": ""} | BLANK | row) for row in found["rows"]]
    level = shown(100 * found["confidence"], 0)
    text = f"Value ± half the width of its {level} % interval, or [low, high]; one without has none."
    if found["baseline"]:
        text += f" The difference is paired, from {code(found['baseline'])} on the same items."
    lines = [text + " ↑ higher is better, ↓ lower is better.", ""]
    own = [row for row in rows if row["seed"] != ALL]
    lines += table_lines(own)
    if pooled := [row for row in rows if row["seed"] == ALL]:
        seeds = shown(max(row["seeds"] for row in pooled), 0)
        lines += [
            "",
            f"All {seeds} seeds together (these weights are of one of them):",
            "",
            *table_lines(pooled),
        ]
    overlapping = [row for row in own if row["clean_value"] != "" and row["clean_n"] != row["n"]]
    if overlapping:
        lines += ["", "Without the items that the training data overlap, by 13-grams:", ""]
        for row in overlapping:
            value = estimate(row["clean_value"], row["clean_low"], row["clean_high"])
            lines.append(f"- {markdown_text(cell_title(row))}: {value} on {row['clean_n']:.0f} items")
    return lines


BLANK = dict.fromkeys(("benchmark", "subset", "metric", "seed", "provenance"), "")


def data_lines(facts: dict[str, Any]) -> list[str]:
    """Return a line for each split that was learned from, and one for what was rejected as it was cleaned."""
    lines = []
    for each in facts["datasets"]:
        sizes = (each["splits"] or {}).get(each["split"]) or {}
        counts = ", ".join(f"{count} {name}" for name, count in sizes.items() if isinstance(count, int))
        lines.append(f"- {code(each['dataset'] + '/' + each['split'])}: {counts or 'not counted'}")
        rejected = {
            reason: found.get("entries") if isinstance(found, dict) else found
            for reason, found in (each["rejected"] or {}).items()
        }
        if rejected:
            said = "; ".join(f"{markdown_text(reason)}: {count}" for reason, count in rejected.items())
            lines.append(f"  - rejected as the whole was cleaned: {said}")
        for part in each["made_of"]:
            lines.append(f"  - {from_where(part['source'])}; licence: {licence(part['license'])}")
    return lines or ["None: this is a base model, as it came."]


def licence(text: str | None) -> str:
    return code(text) if text else UNKNOWN


def made_lines(facts: dict[str, Any]) -> list[str]:
    """Return the settings of each training, what it read and what came of it."""
    lines = []
    for run in facts["lineage"]:
        counts = {key: value for key, value in (run["material"] or {}).items() if value}
        told = json.dumps(run["settings"], ensure_ascii=False, sort_keys=True, indent=1)
        lines += [f"### {code(run['policy'])}", ""]
        if counts:
            lines += [f"Read: {code(json.dumps(counts, ensure_ascii=False))}", ""]
        lines += [f"Came of it: {code(json.dumps(run['made'], ensure_ascii=False))}", ""]
        fence = "`" * 6
        lines += [f"{fence}json", told, fence, ""]
        lines += [f"Digests: code {code(run['code'])}, settings {code(run['settings_digest'])}", ""]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    digests = ", ".join(f"{name} {code(value)}" for name, value in facts["digests"].items() if value)
    return [*lines, f"Locked versions: {versions}.", "", f"Digests: {digests}."]


def checked_lines(facts: dict[str, Any]) -> list[str]:
    """Return what was compared as the folder was written."""
    found = facts["checks"]
    if not found["prompts"]:
        return ["The tokenizer was compared on awkward texts, answers were not (CHECK=0)."]
    lines = [
        f"- {found['rendered_alike']} prompts: `apply_chat_template` gives the tokens that the study asks with"
    ]
    if count := found["spelling_special_tokens"]:
        lines.append(
            f"- {count} prompts spell a special token, which a study reads as plain text and `apply_chat_template` as "
            "the token: not compared"
        )
    lines.append(
        f"- {found['answered_alike']} of {found['prompts']} prompts: the same greedy tokens as the study's own weights "
        f"(up to {found['tokens_each']} of them, in {found['compared_in']})"
    )
    if found["answers_stored"]:
        lines.append(
            f"- {found['as_stored']} of {found['answers_stored']} answers are those that the study had stored; "
            "they were made in batches, where rounding may differ"
        )
    return lines


USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder{remote})
tokenizer = AutoTokenizer.from_pretrained(folder)
asked = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "..."}}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
made = model.generate(**asked, max_new_tokens=200)
print(tokenizer.decode(made[0, asked["input_ids"].shape[1]:], skip_special_tokens=True))
```"""


def weights_line(facts: dict[str, Any]) -> str:
    """Return which number format the weights are in, and what was done to them."""
    weights = facts["weights"]
    text = f"The weights are {weights['format']}"
    if weights["adapter"]:
        text += ", the adapter of the last training merged into its base in float32"
    elif weights["format"] != weights["stored"]:
        text += f", made of {weights['stored']} as was asked for"
    else:
        text += ", byte for byte those of the study"
    return f"{text}. Contexts of up to {facts['context']} tokens were used in the study."


def card(facts: dict[str, Any]) -> str:
    """Return the text of README.md."""
    remote = ", trust_remote_code=True" if facts["weights"]["needs_remote_code"] else ""
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True)
    base = facts["base_model"]
    seed = "" if facts["seed"] is None else f", seed {facts['seed']}"
    lines = [
        *("---", front.strip(), "---", ""),
        *(f"# {code(facts['policy'])}", ""),
        f"A policy of the Plumbline study {code(facts['study'])}{seed}, taken out with `make export`. All that stands "
        "here is from the study's manifests and results; `plumbline.json` has it for machines.",
        *("", *lineage_lines(facts), ""),
        f"Licence of the base model: {licence(base['license'])}.",
    ]
    if papers := facts["weights"]["papers"]:
        lines.append(f"What came with it on its use: {', '.join(map(code, papers))}.")
    ids = sorted(set((facts["results"].get("records") or {}).values()))
    lines += [
        *("", weights_line(facts), "", "## Use", "", USE.format(remote=remote), ""),
        *("It answers greedily unless it is told otherwise, as in the study.", ""),
        *("## Results", "", *results_lines(facts), ""),
        *("## Data", "", *data_lines(facts), ""),
        *("## How it was made", "", *made_lines(facts), ""),
        *("## Checked as it was written", "", *checked_lines(facts), ""),
        *("## Provenance", ""),
        f"Manifest of the weights: {code(facts['manifest']['sha256'])}"
        + (f"; records: {', '.join(map(code, ids))}" if ids else "; no records: there is no table yet")
        + ".",
    ]
    return "\n".join(lines) + "\n"
