"""What each published study asks of a cluster: the table of docs/cluster.md, from what `make plan` says of each.

    .venv/bin/python -m benchmarks.cluster --page docs/cluster.md

Nothing runs. A row is the plan of a study with a profile: its jobs, what its largest trainings take of each GPU, and
the GPU-hours that its jobs may take at most, which are limits and no estimate. What a million tokens take is
arithmetic: the FLOPs of the tokens (workflow_scripts/plan/needs.py) over a share of an A100's 312 TFLOPs a second in
bfloat16. How many tokens a study has is known once its data are there.
"""

import argparse
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from workflow_scripts.plan import forecast
from workflow_scripts.plan.needs import how, needs_of, seconds_a_million
from workflow_scripts.report.numbers import markdown_line

BEGIN, END = "<!-- cluster: begin -->", "<!-- cluster: end -->"
A100, SHARE = 312e12, 0.4  # FLOPs a second by the data sheet; the share of them that is reckoned with
STUDIES = (
    "tutorbot-published",
    "tutorbot",
    "instruction_modelling",
    "instruction_modelling-ablations",
    "leftover_lunch_hh",
    "leftover_lunch_comet",
    "leftover_lunch_reddit",
    "leftover_lunch_wow",
    "follow_instructions",
)
HEAD = [
    "study",
    "jobs",
    "trainings",
    "model",
    "GPUs of a training",
    "GB on each",
    "s a million tokens",
    "GPU-hours at most",
]


def row_of(study: str, profile: str) -> list[str]:
    """Return a study's row, by its plan; it is what a process of its own is for, since Snakemake plans once in each."""
    flags = ["--configfile", study, "--profile", profile]
    found, jobs, said = forecast.plan_of(flags)
    trained = sum(job.rule.startswith("train_") for job in jobs)
    limits = sum(job.gpus * (job.runtime_minutes or 0) / 60 for job in jobs)
    needs = needs_of(found, said) if found else []
    largest = max(needs, key=lambda need: (need.held, need.weights), default=None)
    cells = [f"`{Path(study).stem}`", str(len(jobs)), str(trained)]
    if largest is None:
        return [*cells, "", "", "", "", f"{limits:,.0f}"]
    memory = f" of {largest.memory:g}" if largest.memory else ""
    cells += [
        f"{largest.model}, {largest.weights / 1e9:.3g} B",
        how(largest.share),
        f"{largest.held:.0f}{memory}",
    ]
    return [*cells, f"{seconds_a_million(largest, SHARE * A100):.0f}", f"{limits:,.0f}"]


def table(studies: Sequence[str], profile: str) -> str:
    """Return the table of these studies' files, in Markdown."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = pool.starmap(row_of, [(study, profile) for study in studies], chunksize=1)
    lines = [markdown_line(HEAD), "|---|" + "---:|" * 2 + "---|" + "---:|" * 4, *map(markdown_line, rows)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="profiles/slurm-a100")
    parser.add_argument("--page", type=Path, help="put the table between the marks of this page")
    parser.add_argument("studies", nargs="*", default=[f"studies/{name}.yaml" for name in STUDIES])
    arguments = parser.parse_args()
    made = table(arguments.studies, arguments.profile)
    print(made)
    if arguments.page:
        text = arguments.page.read_text()
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        arguments.page.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")


if __name__ == "__main__":
    main()
