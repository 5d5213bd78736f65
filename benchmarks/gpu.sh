#!/usr/bin/env bash
# Half an hour on a borrowed GPU, from the repository's root and offline, in steps that may be killed and called again:
#   benchmarks/gpu.sh check            versions, precision settings, one eager training step (a minute)
#   benchmarks/gpu.sh data             prepare CIFAR-10 from FLOWBENCH_GPU_SOURCE, as `flowbench data prepare` takes it
#   benchmarks/gpu.sh train            start the training, or go on with it, in a session of its own; returns at once
#   benchmarks/gpu.sh watch [SECONDS]  show its log as it grows, until it ends or the time is over (default 540)
#   benchmarks/gpu.sh bench            the chosen passes, a line of JSON for each as it ends; those that are there are left out
#   benchmarks/gpu.sh profile          where a training step's time goes
#   benchmarks/gpu.sh pack             what goes home: one small archive, and the weights in bfloat16 by 15 MiB
# A training that is too slow ends, saved, by: kill -TERM -- -$(cat "$FLOWBENCH_GPU_DIR/train.pid")
#
# FLOWBENCH_GPU_DIR         where everything goes (results/gpu); data too, unless FLOWBENCH_DATA says otherwise
# FLOWBENCH_GPU_EXPERIMENT  what is trained (real_nvp/cifar10-fast), FLOWBENCH_GPU_KEYS its KEY=VALUE overrides
# FLOWBENCH_GPU_BUDGET      time for its steps (12m); FLOWBENCH_GPU_BATCHES  of check and profile (256,512)
# FLOWBENCH_GPU_CASES       passes to time, as pytest's -k takes them ("chosen"; "cuda" for all 138)
# FLOWBENCH_COMMIT          the commit of this tree, where it came without .git: whoever sends it says so, changes committed
# FLOWBENCH_GPU_DEVICE=cpu and small overrides rehearse all of it: tests/test_gpu_scripts.py.
set -euo pipefail
step=${1:-}
dir=${FLOWBENCH_GPU_DIR:-results/gpu}
device=${FLOWBENCH_GPU_DEVICE:-cuda}
experiment=${FLOWBENCH_GPU_EXPERIMENT:-real_nvp/cifar10-fast}
batches=${FLOWBENCH_GPU_BATCHES:-256,512}
read -ra keys <<<"${FLOWBENCH_GPU_KEYS:-}"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
export FLOWBENCH_TRACKING=off FLOWBENCH_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export FLOWBENCH_DATA=${FLOWBENCH_DATA:-$dir/data}
# What the training compiles, the benchmarks find.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$dir/inductor}

training() { [ -e "$dir/train.pid" ] && [ ! -e "$dir/train.exit" ] && kill -0 "$(cat "$dir/train.pid")" 2>/dev/null; }

case $step in
check)
  if [ ! -e .git ] && [ -z "${FLOWBENCH_COMMIT:-}" ]; then
    echo "gpu.sh check: no .git here: give FLOWBENCH_COMMIT, or no figure knows its commit" >&2
    exit 2
  fi
  python3 benchmarks/gpu_profile.py "$experiment" "${keys[@]}" --device "$device" --batches "${batches%%,*}" \
    --parts environment,eager --out "$dir/check.json"
  ;;
data)
  if [ -e "$FLOWBENCH_DATA/cifar10/manifest.json" ]; then
    echo "gpu.sh data: $FLOWBENCH_DATA/cifar10 is prepared already"
    exit 0
  fi
  python3 -m flowbench data prepare cifar10 --source "${FLOWBENCH_GPU_SOURCE:?where CIFAR-10 lies}"
  ;;
train)
  if training; then
    echo "gpu.sh train: process $(cat "$dir/train.pid") is training already"
    exit 0
  fi
  resume=()
  if [ -e "$dir/run/config.yaml" ]; then resume=(--resume); fi
  rm -f "$dir/train.exit"
  # A session of its own: what a command started may be killed when it returns. The exit code is left for `watch`, also
  # after a signal to the whole session, which the training answers by saving.
  setsid nohup bash -c 'trap : TERM; "$@"; echo $? >"$0"' "$dir/train.exit" \
    python3 -m flowbench train "$experiment" "${keys[@]}" --time-budget "${FLOWBENCH_GPU_BUDGET:-12m}" \
    --run-dir "$dir/run" "${resume[@]}" >>"$dir/train.log" 2>&1 </dev/null &
  echo $! >"$dir/train.pid"
  echo "gpu.sh train: process $!, its log is $dir/train.log"
  ;;
watch)
  if [ ! -e "$dir/train.pid" ]; then
    echo "gpu.sh watch: nothing was started in $dir: gpu.sh train first" >&2
    exit 2
  fi
  timeout "${2:-540}" tail -n 5 -F --pid="$(cat "$dir/train.pid")" "$dir/train.log" "$dir/run/metrics.jsonl" 2>/dev/null || true
  if training; then
    echo "gpu.sh watch: still training: watch again"
  elif [ -e "$dir/train.exit" ]; then
    exit "$(cat "$dir/train.exit")"
  else
    echo "gpu.sh watch: the training was killed: gpu.sh train goes on from its checkpoint" >&2
    exit 3
  fi
  ;;
bench)
  # 5 is pytest's "no test ran": all that is asked for is there.
  python3 -m pytest benchmarks/test_passes.py -k "${FLOWBENCH_GPU_CASES:-chosen}" --lines "$dir/passes.jsonl" || [ $? = 5 ]
  ;;
profile)
  python3 benchmarks/gpu_profile.py "$experiment" "${keys[@]}" --device "$device" --batches "$batches" --out "$dir/profile.json"
  ;;
pack)
  rm -rf "$dir/pack"
  mkdir "$dir/pack"
  cd "$dir"
  if [ -e run/result.json ]; then
    python3 - run/checkpoint.pt pack/weights-bf16.pt <<'P'
import sys

import torch

state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
reported = {**state["model"], **state["ema"], **state["population"]}
torch.save({name: value.bfloat16() if value.is_floating_point() else value for name, value in reported.items()}, sys.argv[2])
P
    sha256sum run/checkpoint.pt pack/weights-bf16.pt >weights.sha256
    split -b 15M -d pack/weights-bf16.pt pack/weights-bf16.pt.
    rm pack/weights-bf16.pt
  fi
  # Small things first, and whatever is there: a training that goes on has its curve already.
  { find check.json train.log passes.jsonl profile.json weights.sha256 run \
    -type f ! -name 'checkpoint*' ! -name '*.npy' ! -name '.*' -print0 2>/dev/null || true; } |
    tar -czf pack/small.tar.gz --null -T -
  ls -l pack
  ;;
*)
  echo "benchmarks/gpu.sh: '$step': one of check, data, train, watch, bench, profile, pack" >&2
  exit 2
  ;;
esac
