#!/usr/bin/env bash
# Starts the same command on every host of a TPU pod slice, through gcloud.
#
#   TPU=my-pod ZONE=us-central2-b launch/tpu_pod.sh --config=configs/cifar10.py \
#       --workdir=/mnt/shared/runs/search --config.data.dir=/mnt/shared/data
#
# Each host needs the repository with its environment at DIR (default: skillearn_jax in the
# home folder), installed with the extra `tpu`, and a folder that all hosts see for --workdir
# (Filestore, or a bucket mounted with gcsfuse). Hosts find each other, and a process that
# dies is restarted with all others from the last checkpoint: launch/again.sh.
#
# Environment: TPU, ZONE, DIR, RESTARTS, JAX_DEFAULT_MATMUL_PRECISION; GCLOUD=echo shows the
# command and runs nothing.
set -u
usage="usage: TPU=NAME ZONE=ZONE launch/tpu_pod.sh --config=FILE --workdir=DIR ..."
: "${TPU:?$usage}" "${ZONE:?$usage}"
if [[ $# -eq 0 ]]; then
  echo "$usage" >&2
  exit 2
fi
folder=${DIR:-skillearn_jax}
# The hosts begin in their home folders; a ~ would be quoted with the rest.
folder=$(printf %q "${folder#"~/"}")
flags=$(printf ' %q' "$@")
# Without its TPU, JAX would go on upon the CPU: see gpu_host.sh.
command="cd $folder && JAX_PLATFORMS=tpu,cpu RESTARTS=$(printf %q "${RESTARTS:-10}")"
# The hosts see nothing of this environment.
if [[ -n ${JAX_DEFAULT_MATMUL_PRECISION:-} ]]; then
  command+=" JAX_DEFAULT_MATMUL_PRECISION=$(printf %q "$JAX_DEFAULT_MATMUL_PRECISION")"
fi
command+=" launch/again.sh .venv/bin/python launch/run.py --distributed$flags"
exec "${GCLOUD:-gcloud}" compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="$command"
