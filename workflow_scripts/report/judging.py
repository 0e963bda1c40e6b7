"""What asking still takes, per written source, and per policy and benchmark: requests, replies stored, tokens, dollars.

An upper bound: prompts are counted by their bytes, and every verdict as its longest. Nothing is asked.
"""

import argparse
from pathlib import Path

import pandas
from typing_extensions import TypedDict

from workflow_scripts.common.diverged import divergence_of, note_text
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import finished_file, read_json
from workflow_scripts.report.settings import read_settings


class Plan(TypedDict):
    """What judging one policy's answers to a benchmark would take, giving them by an endpoint, or writing a source.

    The latter is without a policy.
    """

    policy: str
    seed: int | str
    benchmark: str
    judge: str
    file: str


class Settings(TypedDict):
    """The plans of a study; the sources that are still to be written before policies can answer; and the verdicts that
    cannot be counted, as an endpoint has not given the answers they are on, or ranked those that their policy learns
    from.
    """

    plans: list[Plan]
    waiting: list[str]
    uncounted: list[str]


COUNTS = ["requests", "stored", "missing", "prompt_tokens", "completion_tokens", "usd"]


def plan_table(plans: list[Plan]) -> pandas.DataFrame:
    """Return a row per plan and one of the sums of each judge."""
    rows = []
    for plan in plans:
        if note := divergence_of(plan["file"]):
            print(
                f"{plan['policy']} (seed {plan['seed']}), {plan['benchmark']}: not judged: {note_text(note)}"
            )
            continue
        counts = read_json(plan["file"])
        rows.append(plan | {key: counts[key] for key in COUNTS})
    table = pandas.DataFrame(rows, columns=["judge", "benchmark", "policy", "seed", *COUNTS])
    sums = table.groupby("judge", sort=False)[COUNTS].sum().reset_index()
    return pandas.concat([table, sums.assign(benchmark="total", policy="", seed="")], ignore_index=True)


def main() -> None:
    """Write the plan of a study's judging as CSV, and print it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--settings", required=True, type=read_settings(Settings), help='{"plans": [...]}; - reads it'
    )
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    table = plan_table(arguments.settings["plans"])
    print(
        table.to_string(index=False)
        if len(table)
        else "no judge of this study is asked: none is of kind openai"
    )
    if arguments.settings["waiting"]:
        print(
            "benchmarks are not counted: policies learn from what is still to be written "
            f"({', '.join(arguments.settings['waiting'])})"
        )
    if uncounted := arguments.settings["uncounted"]:
        print(
            "not counted, as they are verdicts on answers that are yet to be given, by an endpoint or by policies that "
            "learn from pairs an endpoint has yet to rank (count again after `make results` has asked for these): "
            f"{'; '.join(uncounted)}"
        )
    with finished_file(arguments.output) as temporary:
        table.to_csv(temporary, index=False)


if __name__ == "__main__":
    run(main)
