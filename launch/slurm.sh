#!/usr/bin/env bash
# Trains on GPU nodes of a SLURM cluster: set what is below, then `sbatch launch/slurm.sh` in the
# repository. Arguments go to train.py: `sbatch launch/slurm.sh --config.batch_size=64`.
#
# Not run on a cluster. Checked: shellcheck, train.py's flags, and the steps with stand-ins for
# srun and scontrol (tests/test_launch.py).
#
# One task for each GPU: under SLURM, JAX gives a task the one GPU of its SLURM_LOCALID, so a task
# for each node would leave the node's other GPUs idle. Every task must see all GPUs of its node:
# no --gpus-per-task and no --gpu-bind.

#SBATCH --job-name=ipg_jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# SIGTERM to every task 120 s before the time limit (not to this shell, which outlives them); the
# run saves, and this shell queues the job again. A job that SLURM pre-empts is queued by SLURM.
#SBATCH --signal=TERM@120
#SBATCH --requeue

config=${CONFIG:-configs/retinanet_ipg.py}
shared=${SHARED:-/shared/$USER} # a disk that every node sees
workdir=${WORKDIR:-$shared/runs/retinanet_ipg}
venv=${VENV:-$shared/venv} # with `pip install -e . "jax[cuda12]"`

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
# shellcheck source=/dev/null
source "$venv/bin/activate"

export JAX_COMPILATION_CACHE_DIR=$shared/xla # the next start, or the next run, compiles nothing
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 # of each GPU's memory; JAX takes 0.75 by default
export NCCL_DEBUG=WARN # says why a collective failed
# The all-reduce of one layer's gradients while the next layer's are computed.
export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true ${XLA_FLAGS:-}"

stopped=75 # train.py's exit code when it saved and stopped before its end
trap : TERM # SLURM's pre-emption signals this shell too
code=0
# Tasks that stop do not leave at the same moment: a first nonzero code must not kill the others.
# When one crashes, JAX ends the others within minutes.
srun --kill-on-bad-exit=0 python train.py --distributed --config="$config" --workdir="$workdir" \
  --stopped_code="$stopped" "$@" || code=$?
if ((code == stopped)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
