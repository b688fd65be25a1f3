#!/usr/bin/env bash
# Trains and evaluates on this machine: bash launch/local.sh [--config=FILE] [--workdir=DIR] [--config.key=value ...]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" cpu
defaults=(--config=configs/quickstart.py --workdir=runs/quickstart)
for flag in "$@"; do  # a flag given by hand takes the place of its default
  case "$flag" in
    --config=* | --config) defaults=("${defaults[@]/--config=*/}") ;;
    --workdir=* | --workdir) defaults=("${defaults[@]/--workdir=*/}") ;;
  esac
done
arguments=()
for flag in "${defaults[@]}"; do [ -n "$flag" ] && arguments+=("$flag"); done
exec "$venv/bin/python" -m neuromas_jax.main "${arguments[@]}" "$@"
