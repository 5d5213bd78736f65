#!/usr/bin/env bash
# Finding: where numba is installed, scoringrules 0.10.0 rounds the score of each observation down to a whole number if
# the observations are integers: `crps_quantile` and `weighted_interval_score` make room for the result of the
# observations' own type (`numpy.empty_like`), and what stands after the point is lost on the way in. `crps_quantile`
# of the numpy backend, and `crps_ensemble` with numba, give the same observations their right scores.
# What it does to a user: counts (sales, calls, vehicles) come from a file as integers; of their forecasts all that
# miss by less than 1 score 0, the mean is less than half of what it should be, and another forecast can win: below,
# the true Poisson loses to a geometric one. No warning; the result's integer type is the only trace.
# Way out: pass `observations.astype(float)`. flowbench computes the CRPS of its forecasts itself and uses none of this.
# Source: scoringrules/core/utils.py (`lazy_gufunc_wrapper_uv`), _crps.py (`crps_quantile`) and _interval.py, read
# 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check scoringrules==0.10.0 numba==0.68.1 numpy==2.4.6 scipy==1.17.1
cd "$work"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import scoringrules
from scipy.stats import geom, poisson

print("scoringrules", version("scoringrules"), "backend", scoringrules.backends.active.name)
levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
alpha = np.array([0.2, 0.5])
counts = np.random.default_rng(0).poisson(2.0, size=4000)
forecasts = {"Poisson(2), the truth": poisson.ppf(levels, 2.0), "geometric, mean 2": geom.ppf(levels, 1 / 3) - 1}


def crps(observed: np.ndarray, quantiles: np.ndarray, backend: str) -> np.ndarray:
    return scoringrules.crps_quantile(observed, quantiles, levels, backend=backend)


def intervals(observed: np.ndarray, quantiles: np.ndarray, backend: str) -> np.ndarray:
    lower, upper = quantiles[:, :2], quantiles[:, :2:-1]
    return scoringrules.weighted_interval_score(observed, quantiles[:, 2], lower, upper, alpha, backend=backend)


same = scoringrules.backends.active.name == "numba"
for score in (crps, intervals):
    whole, right = [], []
    for name, row in forecasts.items():
        quantiles = np.tile(row, (len(counts), 1))
        exact, rounded = score(counts.astype(float), quantiles, "numba"), score(counts, quantiles, "numba")
        print(f"{score.__name__}, {name}: observations as floats {exact.mean():.3f},", end=" ")
        print(f"as integers {rounded.mean():.3f}; the first four {exact[:4].round(2)} and {rounded[:4]}")
        same &= rounded.dtype == counts.dtype and np.array_equal(rounded, np.trunc(exact + 1e-9))
        right.append(exact.mean())
        whole.append(rounded.mean())
    same &= right[0] < right[1] and whole[0] > whole[1]
quantiles = np.tile(forecasts["geometric, mean 2"], (len(counts), 1))
print(f"crps, geometric, integers, numpy's backend: {crps(counts, quantiles, 'numpy').mean():.3f}")
same &= bool(np.allclose(crps(counts, quantiles, "numpy"), crps(counts.astype(float), quantiles, "numba")))
print("as described: whole scores, and the wrong forecast wins" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
