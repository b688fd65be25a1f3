#!/usr/bin/env bash
# Runs a command again as long as it can go on: bash launch/repeat.sh COMMAND ARGUMENTS...
# It can after status 75 (told to end, or another process is gone: the state is saved) and after it died of a signal; RESTARTS
# times at most (100), WAIT seconds apart (5). Being told to end itself, it tells the command and does not start it again.
set -uo pipefail
# shellcheck source=launch/supervise.sh
source "$(dirname "${BASH_SOURCE[0]}")/supervise.sh"
restarts="${RESTARTS:-100}"
while true; do
  supervise "$@"
  ended=$status
  if [ -n "$told" ] || { [ "$ended" -ne 75 ] && [ "$ended" -lt 128 ]; }; then exit "$ended"; fi
  if [ "$restarts" -le 0 ]; then
    echo "ended with $ended, and no restart is left; RESTARTS=n allows more" >&2
    exit 1  # not a status to go on from
  fi
  restarts=$((restarts - 1))
  echo "ended with $ended; started again, $restarts restarts are left" >&2
  supervise sleep "${WAIT:-5}"
  if [ -n "$told" ]; then exit "$ended"; fi
done
