#!/usr/bin/env bash
# One process of a job of launch/slurm.py: bash launch/slurm_task.sh COMMAND ARGUMENTS...
# An error leaves the file $FAILED, which keeps the job from being queued again: the other processes, who miss this one, end with
# the status to go on.
set -uo pipefail
# shellcheck source=launch/supervise.sh
source "$(dirname "${BASH_SOURCE[0]}")/supervise.sh"
supervise "$@"
if [ "$status" -ne 0 ] && [ "$status" -ne 75 ] && [ "$status" -lt 128 ]; then touch "$FAILED"; fi
exit "$status"
