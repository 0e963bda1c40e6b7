"""A run as a screen: its stages with bars, the jobs at work and where they stand; for the console and `make status`."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workflow_scripts.console.reading import Cost, Stand
from workflow_scripts.console.run import Job, Run
from workflow_scripts.console.words import counts, stand_words

BAR = 30  # characters
SHOWN = 6  # jobs at work that are named
SETTLED = 1.0  # seconds: younger jobs may be gone before they are read


def bar(done: int, total: int) -> Text:
    """Return a bar that can be read without colours: thick as far as it is done, full only where all is."""
    filled = BAR * done // max(total, 1)
    return Text("━" * filled, style="cyan").append("─" * (BAR - filled), style="dim")


def stage_table(run: Run) -> Table:
    """Return a line for each stage: its bar, and how many of its jobs are done."""
    table = Table.grid(padding=(0, 2))
    failed = {job.rule for job in run.failed()}
    for stage, done, total in run.stages():
        state = "red" if failed & run.rules_of(stage) else "green" if done == total else ""
        table.add_row(
            Text(f"  {stage}", style=state), bar(done, total), Text(f"{done}/{total}", justify="right")
        )
    return table


def job_lines(stands: list[tuple[Job, Stand | None]], now: float) -> list[RenderableType]:
    """Return two lines for each job at work: what it does and how far it is, and its log."""
    shown = [pair for pair in stands if pair[0].seconds(now) >= SETTLED]
    lines: list[RenderableType] = []
    for job, stand in shown[:SHOWN]:
        said = Text("  ").append(job.words, style="bold")
        lines.append(said.append(f": {stand_words(stand, job.seconds(now))}"))
        if job.log:
            lines.append(Text(f"    {job.log}", style="dim", no_wrap=True, overflow="ellipsis"))
    if len(shown) > SHOWN:
        lines.append(Text(f"  and {len(shown) - SHOWN} jobs more"))
    return lines


def screen(
    study: str, run: Run, stands: list[tuple[Job, Stand | None]], cost: Cost, now: float
) -> RenderableType:
    """Return a run as it stands at the time `now`; of what failed it has the number alone."""
    if not run.started:
        return Text("Plumbline: reading the study, and what is there of it already …", style="dim")
    head = Text("Plumbline  ", style="bold cyan").append(study, style="bold")
    parts: list[RenderableType] = [head.append(f"  {counts(run, cost, now)}", style="not bold default")]
    parts.append(stage_table(run))
    if jobs := job_lines(stands, now):
        parts += [Text("at work", style="cyan"), *jobs]
    return Group(*parts)
