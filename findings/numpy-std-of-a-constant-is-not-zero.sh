#!/usr/bin/env bash
# Finding: numpy 2.4.6's (and pandas 3.1.1's) standard deviation of a constant column need not be 0: the rounded mean of
# 560 times 0.1 is not 0.1. scikit-learn 1.9.1's StandardScaler takes such a column for constant and divides by 1.
# What it does to a user: `std > 0` as the test for a constant column lets it through; a later 0.2 in that column becomes
# 7e15 after scaling, and a mean error over all columns is of that one alone.
# Source: rounding of sums; sklearn/preprocessing/_data.py (`_is_constant_feature`). Known: numpy/numpy#32445,
# scikit-learn/scikit-learn#17794 and #19788.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pandas==3.1.1 scikit-learn==1.9.1
"$work/venv/bin/python" - <<'PYTHON'
import numpy
import pandas
import sklearn
from sklearn.preprocessing import StandardScaler

print("numpy", numpy.__version__, "pandas", pandas.__version__, "scikit-learn", sklearn.__version__)
valve = numpy.full(560, 0.1)
deviations = {"numpy": valve.std(), "pandas": pandas.Series(valve).std()}
for name, deviation in deviations.items():
    print(f"{name}: the standard deviation of 560 times 0.1 is {deviation:.3g}, above 0: {deviation > 0}")
print(f"a later 0.2 is then scaled to {(0.2 - valve.mean()) / deviations['numpy']:.3g}")
scaler = StandardScaler().fit(valve[:, None])
print(f"scikit-learn: scale {scaler.scale_[0]}, a later 0.2 is scaled to {scaler.transform([[0.2]])[0, 0]:.3g}")
same = all(0 < deviation < 1e-15 for deviation in deviations.values()) and scaler.scale_[0] == 1
print("as described: constant, and not of deviation 0" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
