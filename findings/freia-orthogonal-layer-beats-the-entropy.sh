#!/usr/bin/env bash
# Finding: a flow with FrEIA 0.2's `OrthogonalTransform` gives held-out data a negative log-likelihood below their
# entropy, which no density can. Its matrix is a free parameter that is made orthogonal once in about 200 steps of
# training (`correction_interval`, of which a random part is left out); until then, in evaluation too, the layer reports
# the log-determinant of its scaling alone and inverts by the transpose. The documentation states the interval, not
# that likelihood and inverse are wrong within it.
# What it does to a user: to shrink the matrix costs nothing and raises the reported likelihood, so that training does
# just that: the curve is a saw, several nats deep in eight dimensions, and who keeps the checkpoint of the best
# validation likelihood keeps the worst density of all. Samples miss: inverse(forward(x)) is not x. No warning of it.
# Way out: `HouseholderPerm(fixed=False)`, orthogonal at every step; or `orth_correction(layer.weights.data)` (same
# module) before each evaluation, sample and checkpoint. flowbench has no such layer: its learned
# matrices (flowbench/densities/flows/conv1x1.py) report their own determinant.
# Source: FrEIA/modules/orthogonal.py (`OrthogonalTransform`, `correct_weights`), read 2026-11-29.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check FrEIA==0.2 torch==2.14.1 numpy==2.4.6 scipy==1.17.1
cd "$work"
venv/bin/python -W ignore - <<'PYTHON'
import math
from importlib.metadata import version

import FrEIA.framework
import FrEIA.modules
import numpy as np
import torch

print("FrEIA", version("FrEIA"), "torch", version("torch"))
torch.set_num_threads(1)
columns = 8
entropy = columns / 2 * math.log(2 * math.pi * math.e)
print(f"data: N(0, I) in {columns} dimensions, entropy {entropy:.3f} nats; held-out figures of 5000 rows")


def train(module: type, **options: object) -> list[tuple[int, float, float, float]]:
    """Return each tenth step's negative log-likelihood, as reported and by its determinant, and the inverse's error."""
    np.random.seed(0)  # the layer draws when to begin
    torch.manual_seed(0)
    held_out = torch.randn(5000, columns)
    flow = FrEIA.framework.SequenceINN(columns)
    flow.append(module, **options)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    curve = []
    for step in range(601):
        latent, log_det = flow(torch.randn(256, columns))
        loss = (latent.square().sum(1) / 2 - log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            flow.eval()
            with torch.no_grad():
                corners = flow(torch.cat([torch.eye(columns), torch.zeros(1, columns)]))[0].double()
                exact = torch.linalg.slogdet(corners[:-1] - corners[-1:])[1].item()  # an affine map's, for all rows
                latent, log_det = flow(held_out)
                energy = (latent.square().sum(1) / 2).mean().item() + columns / 2 * math.log(2 * math.pi)
                miss = (flow(latent, rev=True)[0] - held_out).abs().max().item()
            reported = torch.as_tensor(log_det).mean().item()
            curve.append((step, energy - reported, energy - exact, miss))
            flow.train()
    return curve


free = train(FrEIA.modules.OrthogonalTransform)
print("OrthogonalTransform:")
for step, reported, exact, miss in free[::5]:
    print(f"  step {step}: reported {reported:.3f}, by the determinant {exact:.3f}; the inverse misses by {miss:.3f}")
best = min(free, key=lambda entry: entry[1])
rank = sorted(entry[2] for entry in free).index(best[2]) + 1
print(f"best as reported: step {best[0]}, {best[1]:.3f}; by the determinant {best[2]:.3f}, rank {rank} of {len(free)}")
same = best[1] < entropy - 2 and best[2] > entropy + 0.5 and rank > 0.8 * len(free) and best[3] > 1
same &= min(entry[2] for entry in free) > entropy - 0.1
control = train(FrEIA.modules.HouseholderPerm, n_reflections=columns, fixed=False)
lowest, apart = min(entry[1] for entry in control), max(abs(entry[1] - entry[2]) for entry in control)
print(f"HouseholderPerm: lowest reported {lowest:.3f}, at most {apart:.6f} from the determinant's")
same &= lowest > entropy - 0.1 and apart < 1e-3
print("as described: better than the entropy" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
