#!/usr/bin/env bash
# Half an hour on a borrowed GPU, from the repository's root, offline: smoke | train | bench.
#   benchmarks/gpu.sh smoke           one compiled training step, its images/s (about a minute)
#   benchmarks/gpu.sh train 15m       real_nvp/cifar10-fast with that time budget, then its test figure
#   benchmarks/gpu.sh bench           passes of all presets, eager and compiled, float32 and bfloat16
# OUT says where results go (default: out). DEVICE=cpu KEYS="model.features=4 …" rehearses all of it without a GPU.
set -euo pipefail
out=${OUT:-out} device=${DEVICE:-cuda} what=${1:-smoke} budget=${2:-15m}
read -ra keys <<<"${KEYS:-}"
export FLOWBENCH_TRACKING=off FLOWBENCH_OFFLINE=1
mkdir -p "$out"

case $what in
smoke)
  python -m flowbench throughput run real_nvp/cifar10-fast "${keys[@]}" --passes train --batch "${BATCH:-256}" \
    --device "$device" --repeats 5 --out "$out/smoke.json"
  ;;
train)
  python -m flowbench train real_nvp/cifar10-fast "${keys[@]}" --time-budget "$budget" --run-dir "$out/run"
  python -m flowbench evaluate "$out/run" --draws 16
  # What is small comes home first; the weights stay, their hash says which they were.
  sha256sum "$out/run/checkpoint.pt" >"$out/weights.sha256"
  tar -czf "$out/run.tar.gz" -C "$out/run" --exclude 'checkpoint*.pt' --exclude '*.npy' .
  ;;
bench)
  python -m pytest benchmarks/test_passes.py -m "${MARK:-cuda}" --benchmark-json "$out/benchmarks.json"
  ;;
*)
  echo "benchmarks/gpu.sh: $what: one of smoke, train, bench" >&2
  exit 2
  ;;
esac
