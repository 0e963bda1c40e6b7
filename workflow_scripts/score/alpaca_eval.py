"""AlpacaEval (Li et al. 2023): how often a judge prefers the policy's answer to a reference answer.

The win rate is the mean preference, 0 to 1 (the published tables show it times 100); the discrete one counts wins,
and draws half; the length-controlled one (Dubois et al. 2024) takes the liking for long answers out. A failed verdict
is no part of them, but its share is a score of its own. The answers' length stands beside. With evaluate: false
there is the length alone. The answers can also be written as the package's model_outputs.json. Not covered: asking
the judge, and the package's standard errors (the report has intervals instead).
"""

from typing import Any

from typing_extensions import TypedDict

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_json
from workflow_scripts.score.flags import answers_parser
from workflow_scripts.score.items import SHARE, first_turns_by_id, make_cell, write_scores
from workflow_scripts.score.verdicts import over_draws, with_cuts

Answers = dict[str, list[dict]]
Preferences = dict[str, dict[int, float | None]]


class Settings(TypedDict):
    benchmark: str
    evaluate: bool
    length_controlled: bool
    gamed: str | None
    lc_draws: int
    seed: int


def preferences_of(answers: Answers, verdicts: list[dict], where: str) -> Preferences:
    """Return each prompt's preferences by sample, None if failed; `where` names the verdicts.

    Raises PlumblineError when an answer has no verdict, two, or a verdict has no answer.
    """
    preferences: Preferences = {name: {} for name in answers}
    for row in verdicts:
        name, sample = row["id"], row["sample"]
        if name not in preferences:
            raise PlumblineError(f"{where}: verdict on {name!r}, which is not asked; judge again")
        if sample in preferences[name]:
            raise PlumblineError(f"{where}: two verdicts on sample {sample} of {name!r}; judge again")
        preferences[name][sample] = row["preference"]
    for name, rows in answers.items():
        odd = preferences[name].keys() ^ {row["sample"] for row in rows}
        if odd:
            raise PlumblineError(
                f"{where}: no verdict on {name!r}, sample {min(odd)}, or no answer; judge again"
            )
    return preferences


def discrete(preference: float) -> float:
    """Return 1 for a win, 0.5 for a draw and 0 for a loss."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def mean_cell(
    prompts: list[dict], metric: str, values: dict[str, list[float]], **extra: Any
) -> dict[str, Any]:
    """Return the cell of a mean over prompts, an item being the mean over its samples; prompts without are left out."""
    rows = [row for row in prompts if values[row["id"]]]
    columns = {"value": [mean(values[row["id"]]) for row in rows]}
    ids, groups = [row["id"] for row in rows], [row["group"] for row in rows]
    return make_cell("overall", metric, ids, groups, columns, **extra)


def length_cell(prompts: list[dict], answers: Answers) -> dict[str, Any]:
    """Return the mean number of characters of the answers: more is neither better nor worse."""
    lengths = {name: [float(len(row["text"])) for row in rows] for name, rows in answers.items()}
    return mean_cell(prompts, "length", lengths, higher_is_better=None)


def win_cells(prompts: list[dict], preferences: Preferences) -> list[dict[str, Any]]:
    """Return win_rate and discrete_win_rate; none where every verdict failed."""
    given = {
        name: [value for value in values.values() if value is not None]
        for name, values in preferences.items()
    }
    if not any(given.values()):
        return []
    rounded = {name: [discrete(value) for value in values] for name, values in given.items()}
    return [
        mean_cell(prompts, "win_rate", given, bounds=SHARE),
        mean_cell(prompts, "discrete_win_rate", rounded, bounds=SHARE),
    ]


def failed_cell(prompts: list[dict], preferences: Preferences) -> dict[str, Any]:
    """Return the share of failed verdicts."""
    failed = {
        name: [float(value is None) for value in values.values()] for name, values in preferences.items()
    }
    return mean_cell(prompts, "failed", failed, higher_is_better=False, bounds=SHARE)


def length_controlled(
    rows: list[tuple[dict, dict]], preferences: Preferences, settings: dict
) -> tuple[list[float], float, list[float]]:
    """Return each (prompt, answer)'s preference at equal lengths, the rate of all, and that of each refit.

    One half throughout by definition where the policy is the reference.
    """
    draws, seed = settings["lc_draws"], settings["seed"]
    if all(prompt["reference"][0] == row["text"] for prompt, row in rows):
        return [0.5] * len(rows), 0.5, [0.5] * draws
    import numpy as np  # these take two seconds, which the other scores need not pay

    from workflow_scripts.score.length_control import (
        Judged,
        difficulties,
        gamed_features,
        predict,
        rate,
        read_gamed,
        refit,
    )

    difficulty, prior = None, None
    if settings["gamed"]:
        gamed = read_gamed(settings["gamed"])
        known = difficulties(gamed, [prompt for prompt, _ in rows])
        difficulty, prior = np.array([known[prompt["id"]] for prompt, _ in rows]), gamed_features(gamed)
    judged = Judged(
        np.array([preferences[prompt["id"]][row["sample"]] for prompt, row in rows], dtype=float),
        np.array([float(len(prompt["reference"][0]) - len(row["text"])) for prompt, row in rows]),
        difficulty,
    )
    once = np.ones(len(rows), dtype=int)
    predicted = predict(judged, once, prior)
    groups = [prompt["group"] for prompt, _ in rows]
    return predicted.tolist(), rate(predicted, once), refit(judged, groups, prior, draws, seed)


def length_controlled_cell(
    prompts: list[dict], answers: Answers, preferences: Preferences, settings: dict
) -> dict[str, Any]:
    """Return the length-controlled win rate with its refits; an item is a prompt, failed verdicts included.

    With settings["gamed"] it is the package's length_controlled_winrate (length_controlled_v1), without its
    length_controlled_minimal. Raises PlumblineError when a prompt has no reference, or no known difficulty.
    """
    lacking = next((row["id"] for row in prompts if not row["reference"]), None)
    if lacking is not None:
        raise PlumblineError(
            f"prompt {lacking!r} has no reference to compare lengths with; set length_controlled: false"
        )
    rows = [(prompt, row) for prompt in prompts for row in answers[prompt["id"]]]
    predicted, point, replicates = length_controlled(rows, preferences, settings)
    values: dict[str, list[float]] = {row["id"]: [] for row in prompts}
    for (prompt, _), value in zip(rows, predicted, strict=True):
        values[prompt["id"]].append(value)
    metric = "lc_win_rate" if settings["gamed"] else "lc_win_rate_minimal"
    return mean_cell(prompts, metric, values, estimator="replicates", point=point, replicates=replicates)


def score(
    prompts: list[dict], answers: Answers, verdicts: list[dict], settings: dict, where: str
) -> list[dict[str, Any]]:
    """Return the cells of one judged policy; `where` names the verdicts. `settings` are those of `main`."""
    preferences = preferences_of(answers, verdicts, where)
    cells = win_cells(prompts, preferences)
    if cells and settings["length_controlled"]:
        cells.append(length_controlled_cell(prompts, answers, preferences, settings))
    *judged, failed = with_cuts([*cells, failed_cell(prompts, preferences)], verdicts)
    return [*judged, length_cell(prompts, answers), failed]


def model_outputs(prompts: list[dict], answers: Answers, generator: str) -> list[dict[str, str]]:
    """Return the answers as the rows of the package's model_outputs.json.

    Raises PlumblineError when a prompt has several answers or is a dialogue: the file has one per instruction.
    """
    rows = []
    for prompt in prompts:
        if len(answers[prompt["id"]]) > 1 or len(prompt["messages"]) > 1:
            raise PlumblineError(
                f"prompt {prompt['id']!r}: model_outputs.json has one answer to one instruction; "
                f"it has {len(answers[prompt['id']])} samples and {len(prompt['messages'])} messages"
            )
        rows.append(
            {
                "instruction": prompt["messages"][0]["content"],
                "output": answers[prompt["id"]][0]["text"],
                "generator": generator,
                "dataset": prompt["meta"].get("dataset", ""),
            }
        )
    return rows


def main() -> None:
    """Write the AlpacaEval scores of one policy, or with --export its answers as the package's file."""
    parser = answers_parser(main.__doc__, Settings)
    parser.add_argument("--verdicts", help="the judge's preferences; none with evaluate: false and --export")
    parser.add_argument(
        "--export", metavar="GENERATOR", help="write model_outputs.json under this generator's name"
    )
    args = parser.parse_args()
    prompts = answered_prompts(args.prompts, args.generations)
    answers = first_turns_by_id(
        read_jsonl(args.generations), [row["id"] for row in prompts], args.generations
    )
    if args.export:
        write_json(args.output, model_outputs(prompts, answers, args.export))
    elif not args.settings["evaluate"]:
        write_scores(args.output, args.settings["benchmark"], [length_cell(prompts, answers)])
    elif args.verdicts is None:
        raise PlumblineError("--verdicts is missing; set evaluate: false to measure lengths alone")
    else:
        verdicts = read_jsonl(args.verdicts)
        cells = over_draws(verdicts, lambda rows: score(prompts, answers, rows, args.settings, args.verdicts))
        write_scores(args.output, args.settings["benchmark"], cells)


if __name__ == "__main__":
    run(main)
