#!/usr/bin/env bash
# Runs a command again while it ends in a way that starting again can mend.
#
#   launch/again.sh .venv/bin/python launch/run.py --distributed --config=... --workdir=...
#
# A run goes on from its last checkpoint. Not run again: 0 done, 2 a mistake in the flags or
# the data, 3 a loss that is not finite, 4 a full disk, 126 and 127 a command that cannot be
# started, 129, 130 and 143 stopped on purpose.
# Everything else is: a process that was killed, and the others that end because it did;
# not, however it ends, what this script was asked to end.
# RESTARTS=10 at most.
set -u
restarts=${RESTARTS:-10}
if [[ $# -eq 0 ]]; then
  echo "usage: launch/again.sh COMMAND ..." >&2
  exit 2
fi
if [[ ! $restarts =~ ^(0|[1-9][0-9]*)$ ]]; then
  echo "again.sh: RESTARTS is $restarts; it must be a whole number" >&2
  exit 2
fi
asked=
for ((attempt = 0; ; attempt++)); do
  child=
  trap 'asked=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT HUP
  "$@" &
  child=$!
  [ -z "$asked" ] || kill -TERM "$child" # asked before its number was known
  wait $child
  code=$?
  # A signal ends `wait` early; the command may still want to save.
  while kill -0 $child 2>/dev/null; do
    wait $child
    code=$?
  done
  trap - TERM INT HUP
  case ${asked:-$code} in yes | 0 | 2 | 3 | 4 | 126 | 127 | 129 | 130 | 143) exit $code ;; esac
  if ((attempt >= restarts)); then
    echo "again.sh: exit code $code, and $restarts restarts are used up: set RESTARTS" >&2
    exit $code
  fi
  echo "again.sh: exit code $code; restart $((attempt + 1)) of $restarts" >&2
  sleep "${RESTART_PAUSE:-5}"
done
