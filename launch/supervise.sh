# shellcheck shell=bash disable=SC2034
# Sourced. `supervise COMMAND ARGUMENTS...` runs a command, passes TERM and INT on to it, and waits for it to end; afterwards
# `status` is its status, and `told` is not empty if there was such a signal.
told="" child=""
trap 'told=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT

supervise() {
  "$@" &
  child=$!
  wait "$child"
  status=$?
  while kill -0 "$child" 2>/dev/null; do  # a signal ended the waiting and not the command
    wait "$child"
    status=$?
  done
}
