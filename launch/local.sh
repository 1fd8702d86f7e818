#!/usr/bin/env bash
# Starts N processes of one run on this machine, and all again when one of them dies.
#
#   launch/local.sh 2 --config=configs/lpt_digits.py --workdir=runs/two
#
# They go on from the last checkpoint. For trying things out on a CPU, give each process
# virtual devices: XLA_FLAGS=--xla_force_host_platform_device_count=4. On one GPU host a
# single process drives all GPUs and is simpler: launch/gpu_host.sh.
#
# Environment: PYTHON (default .venv/bin/python, or python3), RESTARTS (10), PORT (any free).
# Exit code: that of the process that ended the run; see launch/run.py --help.
set -u
root=$(realpath "$(dirname "$0")/..") || exit 2
if [[ ! ${1-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh N --config=FILE --workdir=DIR ...; N is ${1-missing}" >&2
  exit 2
fi
count=$1
shift
if [[ -z ${PYTHON-} ]]; then
  PYTHON=$root/.venv/bin/python
  [[ -x $PYTHON ]] || PYTHON=python3
fi
restarts=${RESTARTS:-10}
if [[ ! $restarts =~ ^(0|[1-9][0-9]*)$ ]]; then
  echo "local.sh: RESTARTS is $restarts; it must be a whole number" >&2
  exit 2
fi
pids=()

# Ends what is left: first asked to, then, after some seconds, made to.
stop() {
  local pid
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for _ in $(seq $(($1 * 10))); do
    alive || return
    sleep 0.1
  done
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
  wait
}

alive() {
  local pid
  for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && return 0; done
  return 1
}

# Asked from outside, they may want to save; after a death, nobody can go on.
trap 'stop 60; exit 143' TERM
trap 'stop 60; exit 130' INT
trap 'stop 60; exit 129' HUP

for ((attempt = 0; ; attempt++)); do
  port=${PORT:-$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
  pids=()
  for ((i = 0; i < count; i++)); do
    "$PYTHON" "$root/launch/run.py" "$@" --coordinator="127.0.0.1:$port" \
      --num_processes="$count" --process_id="$i" &
    pids+=($!)
  done
  # The first that fails decides; without one, all are waited for.
  code=0
  left=("${pids[@]}")
  while ((${#left[@]} > 0 && code == 0)); do
    sleep 0.2 &
    wait $!
    still=()
    for pid in "${left[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        still+=("$pid")
      else
        wait "$pid"
        code=$?
        ((code == 0)) || break
      fi
    done
    left=("${still[@]+"${still[@]}"}")
  done
  ((code == 0)) && exit 0
  # Not run again, as in again.sh; where one was asked to end, the others are saving.
  case $code in
    2 | 3 | 4 | 126 | 127 | 129 | 130 | 143)
      stop 60
      exit $code
      ;;
  esac
  stop 3
  if ((attempt >= restarts)); then
    echo "local.sh: a process ended with $code, and $restarts restarts are used up: set RESTARTS" >&2
    exit $code
  fi
  echo "local.sh: a process ended with $code; restart $((attempt + 1)) of $restarts, from the last checkpoint" >&2
done
