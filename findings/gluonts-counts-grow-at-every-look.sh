#!/usr/bin/env bash
# Finding: GluonTS 0.17.0's outputs for counts, `NegativeBinomialOutput` and `PoissonOutput`, multiply the mean by the
# scale anew each time that a distribution is made of one set of parameters, or a loss computed: `logits +=
# scale.log()` and `rate *= scale` write into the tensors that they were given. The other outputs leave theirs alone.
# What it does to a user: who takes the likelihood of a batch first and samples after it, or takes it twice, gets
# another forecast each time, `scale` times larger; the order of two metrics decides both figures. No warning, all
# finite.
# Way out: pass copies, `tuple(part.clone() for part in arguments)`. flowbench's comparison with GluonTS
# (benchmarks/peer_deepar.py) has its Student's t, which is right.
# Source: gluonts/torch/distributions/negative_binomial.py and distribution_output.py (`distribution`), read
# 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'gluonts[torch]==0.17.0' torch==2.14.1
cd "$work"
venv/bin/python -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from gluonts.torch.distributions import NegativeBinomialOutput, NormalOutput, PoissonOutput, StudentTOutput

print("gluonts", version("gluonts"), "torch", version("torch"))
hidden, scale, counts = torch.ones(1, 4), torch.tensor([3.0]), torch.tensor([6.0])
same = True
for kind in (NegativeBinomialOutput, PoissonOutput, NormalOutput, StudentTOutput):
    torch.manual_seed(0)
    output = kind()
    with torch.no_grad():
        arguments = output.get_args_proj(4)(hidden)
        means = [output.distribution(arguments, scale=scale).mean.item() for _ in range(4)]
        losses = [output.loss(counts, arguments, scale=scale).item() for _ in range(2)]
    print(f"{kind.__name__}: four means of one set of parameters", *(f"{mean:.3f}" for mean in means), end="; ")
    print("negative log-likelihood of one observation, twice", *(f"{loss:.3f}" for loss in losses))
    factors = [after / before for before, after in zip(means, means[1:])]
    grows = all(abs(factor - 3) < 1e-3 for factor in factors) and losses[0] != losses[1]
    stays = len(set(means)) == 1 and len(set(losses)) == 1
    same &= grows if kind in (NegativeBinomialOutput, PoissonOutput) else stays
print("as described: each look scales the counts again" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
