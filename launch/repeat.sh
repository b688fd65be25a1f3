#!/usr/bin/env bash
# Runs a command again as long as it can go on: bash launch/repeat.sh COMMAND ARGUMENTS...
# It can after status 75 (told to end, or another process is gone: the state is saved) and after it died of a signal; RESTARTS
# times at most (100), WAIT seconds apart (5). Being told to end itself, it tells the command and does not start it again.
set -uo pipefail
restarts="${RESTARTS:-100}" told="" child=""
trap 'told=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
while true; do
  "$@" &
  child=$!
  wait "$child"
  status=$?
  while kill -0 "$child" 2>/dev/null; do  # a signal ended the waiting and not the command
    wait "$child"
    status=$?
  done
  if [ -n "$told" ] || { [ "$status" -ne 75 ] && [ "$status" -lt 128 ]; }; then exit "$status"; fi
  if [ "$restarts" -le 0 ]; then
    echo "ended with $status, and no restart is left; RESTARTS=n allows more" >&2
    exit 1  # not a status to go on from
  fi
  restarts=$((restarts - 1))
  echo "ended with $status; started again, $restarts restarts are left" >&2
  sleep "${WAIT:-5}" &
  child=$!
  wait "$child"
  if [ -n "$told" ]; then exit "$status"; fi
done
