#!/usr/bin/env bash
# Finding: where the observation is missing (NaN), the metrics of utilsforecast 0.2.17 (those of statsforecast,
# mlforecast and neuralforecast) disagree on what that means. `mae`, `rmse`, `quantile_loss` and others leave the row
# out; `coverage` and `calibration` count it as a miss, `winkler_score` as a hit, and `scaled_crps` counts it into the
# number of observations by which it multiplies, while the sum by which it divides lacks it.
# What it does to a user: of one table some columns are right and some are not. Where three of ten observations are
# missing, a 90 % interval that covers 90 % shows 63 %, and none can show more than 70 %; the Winkler score prefers an
# interval that is too narrow; the scaled CRPS is too large by as much as is missing, and no more comparable between
# series. Nothing warns.
# Way out: drop the rows without an observation before any of them. flowbench computes its scores itself and uses none
# of this.
# Source: utilsforecast/losses.py (`coverage`, `calibration`, `winkler_score`, `scaled_crps`), read 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check utilsforecast==0.2.17 narwhals==2.29.0 numpy==2.4.6 pandas==3.1.1
cd "$work"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version
from statistics import NormalDist

import numpy as np
import pandas as pd
from utilsforecast import losses

print("utilsforecast", version("utilsforecast"))
rng = np.random.default_rng(0)
rows, normal = 20_000, NormalDist()
table = pd.DataFrame({"unique_id": "a", "ds": np.arange(rows), "y": 10 + rng.normal(size=rows)})
widths = {"narrow": 1.4, "true": normal.inv_cdf(0.95), "wide": 3.0}  # half of the interval that is called 90 %
for name, half in widths.items():
    table[name], table[f"{name}-lo-90"], table[f"{name}-hi-90"] = 10.0, 10 - half, 10 + half
quantiles = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
columns = [f"quantile {level}" for level in quantiles]
for level, column in zip(quantiles, columns):
    table[column] = 10 + normal.inv_cdf(level)
table.loc[rng.random(rows) < 0.3, "y"] = np.nan
there = table.dropna()
share = len(there) / rows
print(f"{rows} rows of N(10, 1), {share:.1%} with an observation; metrics of these rows alone, and of all rows:")
names = list(widths)
metrics = {
    "mae": lambda rows: losses.mae(rows, names),
    "rmse": lambda rows: losses.rmse(rows, names),
    "quantile_loss 0.05": lambda rows: losses.quantile_loss(rows, {"true": columns[0]}, 0.05),
    "mqloss": lambda rows: losses.mqloss(rows, {"true": columns}, quantiles),
    "coverage": lambda rows: losses.coverage(rows, names, 90),
    "calibration 0.5": lambda rows: losses.calibration(rows, {"true": columns[2]}),
    "winkler_score": lambda rows: losses.winkler_score(rows, names, 90),
    "scaled_crps": lambda rows: losses.scaled_crps(rows, {"true": columns}, quantiles),
}
found = {}
for metric, compute in metrics.items():
    right, given = (compute(part).drop(columns="unique_id").iloc[0] for part in (there, table))
    found[metric] = right, given
    print(f"  {metric}:", *(f"{name} {right[name]:.4f} and {given[name]:.4f};" for name in right.index))
same = all(np.allclose(*found[metric]) for metric in list(metrics)[:4])
for metric in ("coverage", "calibration 0.5"):
    same &= bool(np.allclose(found[metric][0] * share, found[metric][1]))
same &= bool(np.allclose(found["scaled_crps"][0] / share, found["scaled_crps"][1]))
right, given = found["winkler_score"]
same &= right.idxmin() == "true" and given.idxmin() == "narrow"
right, given = found["coverage"]
same &= abs(right["true"] - 0.9) < 0.01 and abs(given["true"] - 0.63) < 0.01
print("as described: left out, missed, hit" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
