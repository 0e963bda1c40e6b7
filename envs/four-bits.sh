#!/usr/bin/env bash
# Put bitsandbytes into a folder of its own, .venv/four-bits, for the tests of four-bit weights on a CPU: PEFT imports it
# wherever it is found, and most trainings want none of it. On CUDA machines `make gpu` installs it into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/uv ] || { echo "error: there is no .venv yet; make it first (make .venv/ready)" >&2; exit 1; }
. envs/places.sh
rm -rf .venv/four-bits
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --target .venv/four-bits --no-deps "${arguments[@]}" -r envs/cuda.txt
touch .venv/four-bits/ready
