#!/usr/bin/env bash
# One process of a job of launch/slurm.py: bash launch/slurm_task.sh COMMAND ARGUMENTS...
# Passes TERM on. An error leaves the file $FAILED, which keeps the job from being queued again: the other processes, who miss this
# one, end with the status to go on.
set -uo pipefail
child=""
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM
"$@" &
child=$!
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended the waiting and not the command
  wait "$child"
  status=$?
done
if [ "$status" -ne 0 ] && [ "$status" -ne 75 ] && [ "$status" -lt 128 ]; then touch "$FAILED"; fi
exit "$status"
