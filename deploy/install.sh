#!/usr/bin/env bash
# The steps of the image, apart from its Dockerfile so that they can be tried without one:
#   torch          torch without CUDA, if TORCH_INDEX is the URL of a package index that has it
#   dependencies   what pyproject.toml and its extras curate and mlflow ask for, as constraints.txt pins it
#   ctp            ctp itself, over them
#   check          all fits together, and the jobs in this folder answer
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
pinned=(python -m pip install --constraint "$project/deploy/constraints.txt")

torch() {
    if [ -n "${TORCH_INDEX:-}" ]; then
        # both: torch without CUDA does not go with a torchvision that has it. Without their
        # dependencies: that index has few other packages, and not at the pinned versions
        "${pinned[@]}" --no-deps --index-url "$TORCH_INDEX" torch torchvision
    fi
}

dependencies() {
    # the dashboard, jobs and the autoscaler are an extra of Ray; KubeRay needs them.
    # A torch that is installed already stays: 2.15.0+cpu is a 2.15.0
    "${pinned[@]}" 'ray[default]' --requirement <(asked_for)
}

asked_for() {
    python -c '
import sys, tomllib
project = tomllib.load(sys.stdin.buffer)["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["curate"], *extras["mlflow"], sep="\n")
' < "$project/pyproject.toml"
}

check() {
    python -m pip check
    python -c 'import ray.dashboard.modules.job.job_head, mlflow'
    python jobs/pretrain.py --recipe kinetics400-r3d18 --print-config > /dev/null
}

case "${1:-}" in
    torch) torch ;;
    dependencies) dependencies ;;
    ctp) python -m pip install --no-deps "$project" ;;
    check) check ;;
    *) echo "error: no step '${1:-}'; there are torch, dependencies, ctp, check" >&2; exit 2 ;;
esac
