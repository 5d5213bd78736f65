#!/usr/bin/env bash
# Finding: scoringrules 0.10.0's `weighted_interval_score` adds half of the median itself where its own formula
# (Bracher et al.) has half of |observation - median|, unless numba is installed, which it does not require: then the
# same call is right. The numpy, torch and jax backends share the code; nothing warns.
# What it does to a user: the score depends on where zero is, and is negative for negative data (a proper score of
# this kind never is); of two forecasts the one that lies too low is rewarded for it and can win; two people who run
# one script get two tables, by what else they have installed. `interval_score` and `crps_quantile` are right.
# Way out: install numba, see `scoringrules.backends.active` and pass floats (whole numbers are rounded there), or score
# by `crps_quantile`, of floats as well. flowbench computes the CRPS of its forecasts itself and uses none of this.
# Source: scoringrules/core/interval/_score.py (`WIS += w_median * median`), against _gufunc.py beside it, read
# 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scoringrules==0.10.0 numpy==2.4.6 scipy==1.17.1
cat > "$work/score.py" <<'PYTHON'
import sys

import numpy as np
import scoringrules
from scipy.stats import norm

alpha = np.array([0.2, 0.5])
noise = np.random.default_rng(0).normal(size=2000)


def scores(level: float, bias: float) -> tuple[float, float]:
    """Return the library's mean score of the forecast N(level + bias, 1) of N(level, 1), and that of its formula."""
    observed = level + noise
    median = np.full_like(observed, level + bias)
    lower, upper = (median[:, None] + norm.ppf(q) for q in (alpha / 2, 1 - alpha / 2))
    given = scoringrules.weighted_interval_score(observed, median, lower, upper, alpha)
    intervals = scoringrules.interval_score(observed, lower, upper, alpha)
    formula = (np.abs(observed - median) / 2 + intervals @ (alpha / 2)) / (len(alpha) + 0.5)
    return float(given.mean()), float(formula.mean())


print(f"backend {scoringrules.backends.active.name}")
right, wrong = True, True
for level in (20.0, 0.0, -20.0):
    exact, low = scores(level, 0.0), scores(level, -0.5)
    print(f"  data near {level:g}: the true forecast scores {exact[0]:.3f}, by the formula {exact[1]:.3f};", end=" ")
    print(f"one half a deviation too low {low[0]:.3f}, by the formula {low[1]:.3f}")
    right &= np.allclose(exact[0], exact[1]) and np.allclose(low[0], low[1])
    wrong &= bool(low[0] < exact[0] and low[1] > exact[1]) and (level >= 0 or exact[0] < 0)
sys.exit(10 if right else 20 if wrong else 30)
PYTHON
run() { code=0; "$work/venv/bin/python" "$work/score.py" || code=$?; }  # 10: right, 20: as described, else: neither
echo "scoringrules 0.10.0 as pip installs it:"
run
without=$code
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1
echo "the same program after installing numba 0.68.1:"
run
if [ "$without" = 20 ] && [ "$code" = 10 ]; then
  echo "as described: without numba the observation is missing beside the median, and the forecast that is too low wins"
else
  echo "CHANGED: not as described any more"
  exit 1
fi
