# shellcheck shell=bash
# Sourced by launch/local.sh and tests/run.sh: makes or reuses .venv and installs the package once.
# usage: source launch/environment.sh EXTRAS [DRY]     (EXTRAS such as "cpu" or "cpu,test"; with DRY it prints, and makes nothing)

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

find_python() {
  local candidates=(python3 python3.13 python3.12 python3.11) candidate
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi  # one that was named is not silently replaced
  for candidate in "${candidates[@]}"; do
    if command -v "$candidate" >/dev/null 2>&1 \
      && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "no Python 3.11 or newer among: ${candidates[*]}; install one, or name it: PYTHON=/path/to/python3.12 bash $0" >&2
  return 1
}

venv="${VENV:-.venv}"
if [ ! -x "$venv/bin/python" ]; then
  python="$(find_python)"
  if [ -n "${2:-}" ]; then
    echo "$python -m venv $venv"
  else
    echo "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || {
      rm -rf "$venv"  # half made: without pip
      echo "no virtual environment could be made; on Debian and Ubuntu install python3-venv, then run this again" >&2
      exit 1
    }
  fi
fi
# A second call installs nothing: the stamp holds what was installed and for which setup.py.
stamp="$venv/.installed-$(echo "$1" | tr ',' '-')"
if [ -n "${2:-}" ]; then
  cmp -s setup.py "$stamp" || echo "$venv/bin/python -m pip install -e .[$1]"
elif ! cmp -s setup.py "$stamp"; then
  echo "installing neuromas_jax[$1] into $venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$1]"
  cp setup.py "$stamp"
fi

# glibc hands large freed blocks back to the system at every step and faults them in again; this keeps them.
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-268435456}" MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"
