#!/usr/bin/env bash
# The steps of the image, apart from its Dockerfile so that they can be tried without one:
#   dependencies   what pyproject.toml asks for, as constraints.txt pins it
#   ctp            ctp itself, over them
#   check          all fits together, and the jobs in this folder answer
# TORCH_INDEX, where it is set, is a package index of torch without CUDA.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)

dependencies() {
    local pinned=(python -m pip install --constraint "$project/deploy/constraints.txt")
    if [ -n "${TORCH_INDEX:-}" ]; then
        # both: torch without CUDA does not go with a torchvision that has it
        "${pinned[@]}" --index-url "$TORCH_INDEX" torch torchvision
    fi
    # the dashboard, jobs and the autoscaler are an extra of Ray; KubeRay needs them
    "${pinned[@]}" 'ray[default]' --requirement <(asked_for)
}

asked_for() {
    python -c '
import sys, tomllib
print(*tomllib.load(sys.stdin.buffer)["project"]["dependencies"], sep="\n")' < "$project/pyproject.toml"
}

check() {
    python -m pip check
    python -c 'import ray.dashboard.modules.job.job_head'
    python jobs/pretrain.py --recipe kinetics400-r3d18 --print-config > /dev/null
}

case "${1:-}" in
    dependencies) dependencies ;;
    ctp) python -m pip install --no-deps "$project" ;;
    check) check ;;
    *) echo "error: no step '${1:-}'; there are dependencies, ctp, check" >&2; exit 2 ;;
esac
