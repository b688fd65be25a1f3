#!/usr/bin/env bash
# Runs the tests: bash tests/run.sh [pytest flags ...]
source "$(dirname "${BASH_SOURCE[0]}")/../launch/environment.sh" cpu,test
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" MPLBACKEND=agg
exec "$venv/bin/python" -m pytest "$@"
