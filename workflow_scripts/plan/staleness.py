"""What Snakemake looks at when it works out which jobs are stale: mended where it would leave a stale job as it is.

Snakemake 9 passes over all that lies behind a job that is to run, since it will run anyway. A job that is reached by
an `ancient` file alone does not run for that, though: it was passed over, and so was what lies behind it, and what had
changed of these themselves (settings, code, inputs) was never looked at. Here that meant: a benchmark added, and in
the same edit a learning rate changed, and the table stood on the old policy without a word.
"""

import functools
from collections import deque
from collections.abc import Iterator
from typing import Any

from workflow_scripts.common.errors import PlumblineError


def that_will_run(dag: Any, direction: Any, *jobs: Any) -> Iterator[Any]:
    """Yield jobs and all that lie behind them in a direction of the DAG, but by files that are `ancient` alone."""
    queue, visited = deque(jobs), set(jobs)
    while queue:
        job = queue.popleft()
        yield job
        for other, files in direction[job].items():
            if other not in visited and not (files and all(file.is_ancient for file in files)):
                queue.append(other)
                visited.add(other)


def look_past_ancient() -> None:
    """Have Snakemake look at each job that it would pass over and not run; PlumblineError where it cannot be had to."""
    from snakemake.dag import DAG

    planned = getattr(DAG, "update_needrun", None)
    if planned is None or not hasattr(DAG, "bfs"):
        raise PlumblineError(
            "this Snakemake works out what is stale in another way than the one of the lock: make .venv/ready"
        )
    if hasattr(planned, "__wrapped__"):
        return

    @functools.wraps(planned)
    async def update_needrun(dag: Any, *arguments: Any, **named: Any) -> Any:
        dag.bfs = functools.partial(that_will_run, dag)  # of this one look alone
        try:
            return await planned(dag, *arguments, **named)
        finally:
            del dag.bfs

    DAG.update_needrun = update_needrun
