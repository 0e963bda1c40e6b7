"""Write a JSON value given on standard input to a file: the list of score files, or the resolved study."""

import argparse
import json
import sys
from pathlib import Path

from workflow_scripts.common.errors import run
from workflow_scripts.common.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    write_json(arguments.output, json.load(sys.stdin))


if __name__ == "__main__":
    run(main)
