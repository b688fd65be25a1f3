#!/usr/bin/env bash
# Trains and evaluates on this machine: bash launch/local.sh [--config=FILE] [--workdir=DIR] [--config.key=value ...]
# EXTRA=tpu or EXTRA=cuda before it installs JAX for that accelerator.
extra="${EXTRA:-cpu}"
case "$extra" in
  cpu | tpu | cuda) ;;
  *) echo "EXTRA=$extra is not known; allowed are cpu, tpu, cuda: EXTRA=tpu bash $0" >&2 && exit 2 ;;
esac
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "$extra"
config=--config=configs/quickstart.py workdir=--workdir=runs/quickstart
for flag in "$@"; do  # a flag given by hand takes the place of its default
  case "$flag" in
    --config | --config=*) config="" ;;
    --workdir | --workdir=*) workdir="" ;;
  esac
done
exec "$venv/bin/python" -m neuromas_jax.main ${config:+"$config"} ${workdir:+"$workdir"} "$@"
