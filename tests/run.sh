#!/usr/bin/env bash
# Runs the tests in two processes, file by file: bash tests/run.sh [pytest flags ...]; -n 0 for one process
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launch/environment.sh" cpu,test
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" MPLBACKEND=agg
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
