"""Writing rows of tokens for the trainings that read them, and the rows that were left out, and saying what was cut."""

from typing import Any

import pyarrow
import pyarrow.parquet

from workflow_scripts.common.cuts import say_cuts, say_rejected
from workflow_scripts.common.files import finished_file, write_jsonl, write_manifest


def write_token_rows(
    arguments: Any, rows: list[dict], rejected: list[dict], counts: dict[str, int], what: str
) -> None:
    """Write a step's rows to its --output, what it rejected to --rejected, and last the --manifest with `counts`.

    `counts` has those of `cut_counts` and `read`; `what` names in warnings where the rows came from.
    """
    with finished_file(arguments.output) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)
    write_jsonl(arguments.rejected, rejected)
    say_rejected(what, (row["reason"] for row in rejected), counts["read"])
    say_cuts(what, counts, "raise max_tokens to keep them whole")
    files = [arguments.output, arguments.rejected]
    write_manifest(arguments.manifest, files, counts=counts, template=arguments.settings["template"])
