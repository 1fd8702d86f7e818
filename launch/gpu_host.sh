#!/usr/bin/env bash
# One process that drives all GPUs of this host, restarted from the last checkpoint if it dies.
#
#   launch/gpu_host.sh --config=configs/cifar10.py --workdir=runs/search
#
# On several hosts, the same on each, with a workdir that all see, and on host I of N:
#   launch/gpu_host.sh --coordinator=HOST0:8476 --num_processes=N --process_id=I --config=...
#
# Environment: CUDA_VISIBLE_DEVICES chooses GPUs; PYTHON, RESTARTS, RESTART_PAUSE.
set -u
root=$(realpath "$(dirname "$0")/..") || exit 2
if [[ $# -eq 0 ]]; then
  echo "usage: launch/gpu_host.sh --config=FILE --workdir=DIR ..." >&2
  exit 2
fi
if [[ -z ${PYTHON-} ]]; then
  PYTHON=$root/.venv/bin/python
  [[ -x $PYTHON ]] || PYTHON=python3
fi
# Without a GPU, JAX would go on upon the CPU, a hundred times slower; the launcher refuses to
# where this names another device first.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
exec "$root/launch/again.sh" "$PYTHON" "$root/launch/run.py" "$@"
