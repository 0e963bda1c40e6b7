"""Clean the reply pairs of a benchmark: conversations that end with two replies of the tutor, one of them altered.

The rows are read, checked and counted as those of a dataset are (`clean`), or taken raw, as the published evaluation
takes them. A benchmark chooses nothing and splits nothing: every pair that is one stays.
"""

from workflow_scripts.clean.clean import clean_files, read_arguments
from workflow_scripts.clean.settings import ReplyPairs, Settings
from workflow_scripts.common.errors import run


def every_pair(settings: ReplyPairs) -> Settings:
    """Return the cleaning settings of reply pairs: of what a dataset could set beside, nothing leaves a row out."""
    return settings | {
        "schema": "tutorbot_raw_pairs" if settings["raw_rows"] else "tutorbot_pairs",
        "lenient_labels": False,
        "truncate_at_unparsable": False,
        "min_messages": 3,
        "max_chars": 200_000,
        "max_words": None,
        "token_limits": None,
        "collapse_whitespace": False,
        "reject_phrases": [],
        "reject_colon": False,
        "duplicates": "drop",
        "empty_replies": "drop",
        "url_token": None,
        "input_heading": "",
        "instruction_templates": None,
        "few_shot": None,
        "top_replies": None,
        "skip_to_user": False,
        "seed": 0,
        "group_by": "problem",
        "exclude_groups_of": [],
        "columns": {},
        "renames": {},
        "sample_by": "line",
        "sample": None,
        "near_duplicates": None,
        "subset": None,
        "split": {
            "seed": 0, "shares": {}, "quotas": {}, "per_file": False, "order": "file", "by_file": {},
            "by_column": {}, "distinct": [], "limit": None,
        },
    }  # fmt: skip


def main() -> None:
    """Read the flags and clean the files they name."""
    arguments = read_arguments(__doc__, ReplyPairs)
    clean_files(arguments.inputs, every_pair(arguments.settings), arguments.output, arguments.manifest)


if __name__ == "__main__":
    run(main)
