#!/usr/bin/env bash
# Make .venv-vllm, in which answers are made with vLLM: from envs/vllm.txt (cuda) or envs/vllm-cpu.txt (cpu). Apart from .venv,
# for vLLM wants other versions of some packages. Where pip is configured to look (mirrors, local wheels) uv is told to.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    cuda) lock=envs/vllm.txt ;;
    cpu) lock=envs/vllm-cpu.txt ;;
    *) echo "usage: envs/install-vllm.sh cuda|cpu" >&2; exit 2 ;;
esac
[ -x .venv/bin/uv ] || { echo "error: there is no .venv yet; make it first (make .venv/ready)" >&2; exit 1; }
. envs/places.sh
[ -x .venv-vllm/bin/python ] || .venv/bin/uv venv --quiet --python .venv/bin/python .venv-vllm
# sync, not install: a package of the other list would stay.
.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv-vllm/bin/python "${arguments[@]}" "$lock"
touch .venv-vllm/ready
