#!/usr/bin/env bash
# Trains and evaluates on this machine:
#   bash launch/local.sh [--config=FILE] [--workdir=DIR] [--config.key=value ...] [--smoke] [--dry_run]
# EXTRA=tpu or EXTRA=cuda before it installs JAX for that accelerator. --smoke runs the smoke job instead. --dry_run installs and
# writes nothing: it prints the commands, or in an environment that is there what neuromas_jax.main says of the experiment.
extra="${EXTRA:-cpu}"
case "$extra" in
  cpu | tpu | cuda) ;;
  *) echo "EXTRA=$extra is not known; allowed are cpu, tpu, cuda: EXTRA=tpu bash $0" >&2 && exit 2 ;;
esac
config=--config=configs/quickstart.py workdir=--workdir=runs/quickstart place=runs smoke="" dry="" cache="" other="" before=""
for flag in "$@"; do  # a flag given by hand takes the place of its default
  shift
  case "$before$flag" in
    --smoke) smoke=yes && continue ;;
    --dry_run) dry=yes ;;
    --config | --config=*) config="" ;;
    --workdir | --workdir=*) workdir="" && place="${flag#--workdir=}" ;;
    --compilation_cache | --compilation_cache=*) cache="--compilation_cache=${flag#--compilation_cache=}" ;;
    *) other="${other:-$flag}" ;;
  esac
  before=""
  case "$flag" in --config | --workdir | --compilation_cache) before="$flag=" ;; esac  # its value comes next
  set -- "$@" "$flag"
done
if [ -n "$smoke" ]; then
  if [ -n "$other" ]; then
    echo "error: --smoke takes no other settings, and there is $other; leave it out, or leave --smoke out" >&2
    exit 2
  fi
  set -- -m neuromas_jax.smoke "--workdir=$place/smoke" ${cache:+"$cache"}
else
  set -- -m neuromas_jax.main ${config:+"$config"} ${workdir:+"$workdir"} "$@"
fi
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "$extra" "$dry"
if [ -n "$dry" ]; then
  export PYTHONDONTWRITEBYTECODE=1
  if [ -n "$smoke" ] || ! cmp -s setup.py "$stamp"; then echo "$venv/bin/python $*" && exit; fi
fi
exec "$venv/bin/python" "$@"
