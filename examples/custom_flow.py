"""A flow of your own on 2-D data, trained and drawn: `python examples/custom_flow.py OUT.png` (a few seconds)."""

import sys
from functools import partial

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons

from flowbench.densities.bases import standard_normal_log_prob
from flowbench.densities.bijection import Compose
from flowbench.densities.flows.coupling import CheckerboardCoupling
from flowbench.densities.flows.resnet import ResidualNet

torch.manual_seed(0)
points = torch.tensor(make_moons(256, noise=0.06, random_state=0)[0], dtype=torch.float32)
points = ((points - points.mean(0)) / points.std(0)).view(-1, 1, 1, 2)  # two pixels: each is shifted by the other
net = partial(ResidualNet, features=24, blocks=1, batch_norm=False)
flow = Compose(CheckerboardCoupling(1, (1, 2), number % 2, net, batch_norm=False) for number in range(6))
optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
for _ in range(200):
    z, log_det = flow(points)
    loss = -(standard_normal_log_prob(z) + log_det).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{loss.item():.3f} nats per point; a Gaussian has {1.4189 * 2:.3f}")

samples = flow.inverse(torch.randn(256, 1, 1, 2))[0].detach()
_, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
for axis, title, cloud in zip(axes, ("data", "samples of the flow"), (points, samples), strict=True):
    axis.scatter(*cloud.view(-1, 2).T, s=6)
    axis.set(title=title, xlabel="first pixel", ylabel="second pixel", xlim=(-3, 3), ylim=(-3, 3))
plt.savefig(sys.argv[1], dpi=120)
