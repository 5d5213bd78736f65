#!/usr/bin/env bash
# Finding: the `log_prob` of GluonTS 0.17.0's `BinnedUniforms` (a histogram with numbers inside each bin) is the
# logarithm of the bin's probability, not of the density: it is not divided by the bin's width, and `pdf` is its
# exponential. `mean` is the mean over bins where it should be the sum: too small by a factor of the number of bins.
# Quantiles and samples are right.
# What it does to a user: a table of negative log-likelihoods in which bins stand beside Gaussians or Student's t
# compares two kinds of numbers, finer bins of one and the same density look worse by log(bins), coarse ones beat the
# truth; a point forecast by the mean lies near 0, and its error with it.
# Way out: add the logarithm of the bin's width to the loss; take the mean of samples. flowbench's comparison with
# GluonTS (benchmarks/peer_deepar.py) has its Student's t, which is right.
# Source: gluonts/torch/distributions/binned_uniforms.py (`log_binned_p`, `mean`), read 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'gluonts[torch]==0.17.0' torch==2.14.1
cd "$work"
venv/bin/python -W ignore - <<'PYTHON'
import math
from importlib.metadata import version

import torch
from gluonts.torch.distributions import BinnedUniforms

print("gluonts", version("gluonts"), "torch", version("torch"))
torch.manual_seed(0)
truth = torch.distributions.Normal(10.0, 1.0)
observed = truth.sample((2000,))
own = -truth.log_prob(observed).mean().item()
print(f"mean negative log-likelihood of 2000 numbers from N(10, 1): under N(10, 1) itself {own:.3f}")
grid = torch.linspace(0.005, 19.995, 2000)
found = []
for bins in (10, 20, 100, 400):
    width = 20 / bins
    centres = (torch.arange(bins) + 0.5) * width
    logits = truth.log_prob(centres)
    histogram = BinnedUniforms(0.0, 20.0, logits.expand(2000, bins), bins)
    loss, mean = -histogram.log_prob(observed).mean().item(), histogram.mean[0].item()
    integral = histogram.pdf(grid).mean().item() * 20
    sampled = histogram.sample().mean().item()
    print(f"its histogram of {bins} bins: {loss:.3f}, with their width {loss + math.log(width):.3f};", end=" ")
    print(f"pdf integrates to {integral:.3f}; mean {mean:.3f}, of its samples {sampled:.3f}")
    found.append((bins, loss, mean, integral, sampled))
same = found[0][1] < own < found[2][1] < found[3][1]
for bins, loss, mean, integral, sampled in found:
    same &= abs(mean * bins - 10) < 0.01 and abs(integral - 20 / bins) < 0.01 and abs(sampled - 10) < 0.2
print("as described: probability of a bin, called log-density" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
