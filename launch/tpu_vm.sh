#!/usr/bin/env bash
# Trains on Cloud TPU VMs through gcloud: set what is below, then, in the repository,
#
#     launch/tpu_vm.sh create     asks for the slice and waits until it is there
#     launch/tpu_vm.sh install    copies the last commit to all hosts and installs it
#     launch/tpu_vm.sh start      starts the run on all hosts, or goes on with it
#     launch/tpu_vm.sh log        shows the first host's log
#     launch/tpu_vm.sh stop       SIGTERM to the run on all hosts: it saves and ends
#     launch/tpu_vm.sh watch      all of it, with a new slice after pre-emption, until the run ends
#     launch/tpu_vm.sh delete     gives the slice back
#
# Further arguments of `start` and `watch` go to train.py.
#
# Not run on Google Cloud. Checked: shellcheck, train.py's flags, the order of the steps with a
# stand-in for gcloud (tests/test_launch.py), and gcloud's options against its reference.
# shellcheck disable=SC2016 # what is in single quotes is for the hosts
set -euo pipefail

project=${PROJECT:-PROJECT}
zone=${ZONE:-us-west4-a}
name=${NAME:-ipg}
type=${TYPE:-v5litepod-16} # 16 chips of v5e on 4 hosts
runtime=${RUNTIME:-v2-alpha-tpuv5-lite}
spot=${SPOT:-1} # empty: not pre-emptible
bucket=${BUCKET:-gs://BUCKET} # in the zone's region; the hosts' service account writes to it
config=${CONFIG:-configs/retinanet_ipg.py}
workdir=${WORKDIR:-$bucket/runs/retinanet_ipg}

# The compilation cache: a new slice compiles nothing again. LIBTPU_INIT_ARGS holds flags of XLA:TPU;
# none is set, since none was measured.
environment=(JAX_COMPILATION_CACHE_DIR="$bucket/xla" LIBTPU_INIT_ARGS=)
data=(
  --config.data.train_images="$bucket/coco/train2017"
  --config.data.train_annotations="$bucket/coco/annotations/instances_train2017.json"
  --config.data.eval_images="$bucket/coco/val2017"
  --config.data.eval_annotations="$bucket/coco/annotations/instances_val2017.json"
  --config.data.verify=none # opening every image of a bucket would take long
)
poll=${POLL:-60} # seconds between two looks

where=(--project="$project" --zone="$zone")

queue() { gcloud compute tpus queued-resources "$@" "${where[@]}"; }

state() { queue describe "$name" --format='value(state.state)' 2>/dev/null || echo NONE; }

on() { # HOST COMMAND: runs a command on one host, or on all
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

create() {
  queue create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" \
    ${spot:+--spot} && await
}

await() { # returns when the slice is there, or fails when it will not be
  while true; do
    case $(state) in
      ACTIVE) return ;;
      FAILED | SUSPENDED | NONE) return 1 ;;
    esac
    sleep "$poll"
  done
}

install() {
  local archive
  archive=$(mktemp) &&
    git archive --format=tar.gz --output="$archive" HEAD &&
    gcloud compute tpus tpu-vm scp "$archive" "$name:ipg_jax.tar.gz" "${where[@]}" --worker=all &&
    rm "$archive" &&
    # uv brings its own Python 3.11: the hosts' may be older.
    on all 'set -e; mkdir -p ipg_jax; tar -xzf ipg_jax.tar.gz -C ipg_jax
      python3 -m pip install --quiet --user uv
      uv=$HOME/.local/bin/uv; $uv venv --quiet --allow-existing --python=3.11 venv
      $uv pip install --quiet --python=venv/bin/python -e "./ipg_jax[gcs]" "jax[tpu]"'
}

start() {
  local flags
  flags=$(printf ' %q' "${data[@]}" "$@")
  # In the background, so that the run outlives the connection; `code` is its exit code.
  on all "! kill -0 \"\$(cat pid)\" 2>/dev/null || exit 0
    rm -f code; cd ipg_jax
    (env ${environment[*]} ../venv/bin/python train.py --distributed --stopped_code=75 \
      --config=$config --workdir=$workdir$flags & echo \$! >../pid; wait \$!; echo \$? >../code
    ) >>../train.log 2>&1 </dev/null &"
}

stop() { on all 'kill -TERM "$(cat pid)"'; }

log() { on 0 'tail -n 40 train.log'; }

delete() { queue delete "$name" --force --quiet; }

watch() { # until the run ends or is stopped by hand
  while true; do
    case $(state) in
      NONE) create || true ;;
      FAILED | SUSPENDED) delete && create || true ;; # pre-empted
      *) await || true ;;
    esac
    if [[ $(state) == ACTIVE ]] && install && start "$@"; then
      while [[ $(state) == ACTIVE ]]; do
        case $(on 0 'cat code 2>/dev/null' || true) in
          '') sleep "$poll" ;;
          0) return ;;
          75) sleep "$poll" && [[ $(state) != ACTIVE ]] || return 75 ;; # the slice is still there
          *) log >&2 && return 1 ;;
        esac
      done
    fi
    sleep "$poll"
  done
}

case ${1:-} in
  create | install | start | log | stop | watch | delete) "$@" ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 2 ;;
esac
