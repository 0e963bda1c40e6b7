"""How a results folder says how it was made: `study.yaml` and `study.lock` in it, written by the head after a run.

No job makes them and none reads them, so they make nothing stale; and they are written only by a run that has brought
the table up to date, so that they are never of another study than the table beside them.
"""

from pathlib import Path
from typing import Any

from workflow_scripts.common.code import locked_versions
from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import finished_file, write_json
from workflow_scripts.plan.layout import Layout
from workflow_scripts.study.settling.lock import LOCK
from workflow_scripts.study.study import Study
from workflow_scripts.study.written_out import pins_of, written_out

COPY = "study.yaml"


def makes_table(workflow: Any, layout: Layout) -> bool:
    """Return whether a run's jobs, those that were not due among them, make a study's table, and none is still to.

    Never as outputs are only touched: then nothing says that they are of this study.
    """
    table = f"{layout.results}/results.csv"
    makes = [job for job in workflow.dag.jobs if table in map(str, job.output)]
    return bool(makes) and not workflow.touch and not set(makes) & set(workflow.dag.needrun_jobs())


def record(study: Study, folder: Path) -> list[str]:
    """Write a study's copy and its pins into its results folder; `folder` is where the study's file is.

    study.lock has the entries of the lock beside the study that it rests on, and the locked version of each package.
    Returns a warning, [] where there is none: the table is there whatever becomes of its description.
    """
    results = Path(Layout(study.study).results)
    pins = {"repositories": pins_of(study, folder), "packages": locked_versions()}
    try:
        with finished_file(results / COPY) as temporary:
            temporary.write_text(written_out(study), encoding="utf-8")
        write_json(results / LOCK, pins)
    except (OSError, PlumblineError) as error:
        return [f"warning: {results / COPY} was not written: {error}"]
    return []
