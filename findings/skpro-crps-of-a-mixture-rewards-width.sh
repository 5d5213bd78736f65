#!/usr/bin/env bash
# Finding: the CRPS that skpro 2.16.0 gives a forecast of class `NormalMixture` (what its mixture density network
# predicts) is not the CRPS: half of E|X - X'| goes off, and `_energy_self` takes for that 2 * sqrt(2/pi) times the
# root mean square of the components' deviations. The means do not occur in it, and for one component alone it is too
# large by a factor of sqrt(2). The class tags its energy "exact"; density, distribution function and samples are right.
# What it does to a user: one and the same Gaussian scores better as a mixture than as a `Normal`; the wider a forecast
# is, the better: the score of N(0, 100²) for data from N(0, 1) is nearly 0, so that a table ranked by it, or a search
# that minimizes it, ends at the most useless forecast; mixtures whose parts lie apart are scored too badly.
# Way out: score such forecasts by `LogLoss`, or take the energy from samples. flowbench computes the CRPS of its
# forecasts itself and uses none of this.
# Source: skpro/distributions/normal_mixture.py (`_energy_self`, whose inner comment says "simplified for same means"),
# skpro/metrics/_crps.py, read 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check skpro==2.16.0 scikit-base==1.2.0 scikit-learn==1.9.1 numpy==2.4.6 pandas==3.0.6 scipy==1.17.1
cd "$work"
venv/bin/python -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from skpro.distributions import Normal, NormalMixture
from skpro.metrics import CRPS, LogLoss

print("skpro", version("skpro"))
rows = 500
rng = np.random.default_rng(0)
observed = pd.DataFrame(rng.normal(size=rows))
found, same = [], True
for width in (0.5, 1.0, 2.0, 5.0, 20.0, 100.0):
    plain = Normal(mu=np.zeros((rows, 1)), sigma=np.full((rows, 1), width))
    mixture = NormalMixture(pi=np.ones((rows, 1)), mu=np.zeros((rows, 1, 1)), sigma=np.full((rows, 1, 1), width))
    scores = [CRPS()(observed, forecast) for forecast in (mixture, plain)]
    losses = [LogLoss()(observed, forecast) for forecast in (mixture, plain)]
    print(f"data from N(0, 1), forecast N(0, {width:g}²): CRPS as a mixture of one {scores[0]:.3f},", end=" ")
    print(f"as a Normal {scores[1]:.3f}; negative log-likelihood {losses[0]:.3f} and {losses[1]:.3f}")
    found.append(scores)
    same &= bool(np.isclose(*losses))
as_mixture, as_normal = zip(*found)
same &= list(as_mixture) == sorted(as_mixture, reverse=True) and as_mixture[-1] < 0.01
same &= min(as_normal) == as_normal[1]  # the true one
for apart in (0.0, 3.0, 10.0):
    two = NormalMixture(pi=np.array([0.5, 0.5]), mu=np.array([-apart, apart]), sigma=np.ones(2))
    draws = rng.normal(size=(2, 200_000)) + rng.choice([-apart, apart], size=(2, 200_000))
    given, exact = two.energy(), np.abs(draws[0] - draws[1]).mean()
    print(f"two halves, {2 * apart:g} apart: energy() says E|X - X'| = {given:.3f}, two draws differ by {exact:.3f}")
    same &= bool(np.isclose(given, 2 * np.sqrt(2 / np.pi))) and abs(given - exact) > 0.4
print("as described: the widest mixture wins" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
