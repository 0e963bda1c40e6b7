#!/usr/bin/env bash
# Put DeepSpeed into a folder of its own, .venv/deepspeed: accelerate imports it wherever it is found (3.7 s a process), so only
# jobs that use it are given the folder, in PYTHONPATH. It compiles its optimiser at first use, with g++ (see common.launch).
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/uv ] || { echo "error: there is no .venv yet; make it first (make .venv/ready)" >&2; exit 1; }
. envs/places.sh
# It is published as source only, and asks at build time for the torch it is to run with; nothing is compiled yet.
export DS_BUILD_OPS=0 VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH
rm -rf .venv/deepspeed
.venv/bin/uv pip install --quiet --target .venv/deepspeed --no-deps --no-build-isolation "${arguments[@]}" -r envs/deepspeed.txt
touch .venv/deepspeed/ready
