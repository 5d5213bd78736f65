#!/usr/bin/env bash
# Finding: under pytest-benchmark 5.3.1 `--benchmark-compare-fail=min:5%` exits 0, without a word, for a benchmark that the
# saved run does not have: one that was renamed, or got another parameter, on the way to becoming thousands of times
# slower. With no saved run at all the same option is an error.
# What it does to a user: a gate in CI that stays green, because the slow benchmark is compared with nothing.
# Way out: judge by name, and refuse what the earlier run lacks, as `flowbench throughput gate` does; it also names what only
# the earlier run has.
# Source: pytest_benchmark/session.py (`check_regressions`, `compared_mapping`), read 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pytest==9.2.0 pytest-benchmark==5.3.1
cd "$work"
run() { venv/bin/pytest -q test_speed.py --benchmark-min-rounds=5 --benchmark-max-time=0.1 "$@" >log 2>&1 && echo 0 || echo $?; }
write() { printf 'def %s(benchmark):\n    benchmark(sum, range(%s))\n' "$1" "$2" >test_speed.py; }

write test_sum 10
nothing=$(run --benchmark-compare --benchmark-compare-fail=min:5%)
saved=$(run --benchmark-save=before)
write test_sum 100000
same_name=$(run --benchmark-compare --benchmark-compare-fail=min:5%)
write test_total 100000
renamed=$(run --benchmark-compare --benchmark-compare-fail=min:5%)
venv/bin/pip list --disable-pip-version-check 2>/dev/null | grep -i '^pytest'
echo "no saved run: exit $nothing; saved: exit $saved; slower under its old name: exit $same_name, under a new one: exit $renamed"
if [ "$nothing" != 0 ] && [ "$saved" = 0 ] && [ "$same_name" != 0 ] && [ "$renamed" = 0 ]; then
  echo "as described: the renamed benchmark passes the gate"
else
  echo "CHANGED: not as described any more"
  exit 1
fi
