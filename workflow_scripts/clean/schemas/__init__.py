"""How a dataset's rows are written: its `schema` names one of SCHEMAS, and so the function that reads them.

A reader takes the fields of a raw row and the cleaning settings, and returns what the row holds in our words (`row`),
its texts not yet checked; a row that is not of its schema raises Unfit with the reason. A new schema is such a
function and a line in the table at the end of its file, and its name in the study's `schema`.
"""

from workflow_scripts.clean.schemas import conversations, labelled, preferences, rewarded, tasks, tutoring
from workflow_scripts.clean.schemas.row import Schema

SCHEMAS: dict[str, Schema] = {
    **conversations.SCHEMAS,
    **rewarded.SCHEMAS,
    **tasks.SCHEMAS,
    **preferences.SCHEMAS,
    **labelled.SCHEMAS,
    **tutoring.SCHEMAS,
}
