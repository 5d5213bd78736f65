"""A flow of vectors learns two moons: `python examples/two_moons.py OUT.png` draws its density."""

import sys

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons

import flowbench as fb

torch.manual_seed(0)
points = torch.tensor(make_moons(4000, noise=0.08, random_state=0)[0], dtype=torch.float32)
flow = fb.RealNVP(2)
optimizer = torch.optim.Adam(flow.parameters(), 2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
for _ in range(1000):
    loss = -flow.log_prob(points[torch.randint(len(points), (256,))]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

test = torch.tensor(make_moons(4000, noise=0.08, random_state=1)[0], dtype=torch.float32)
across, up = torch.linspace(-2, 3, 500), torch.linspace(-1.5, 2, 350)
with torch.no_grad():
    density = flow.log_prob(torch.cartesian_prod(across, up)).exp().view(500, 350)
    print(f"{-flow.log_prob(test).mean():.3f} nats per point")
print(f"integral {float(torch.trapezoid(torch.trapezoid(density, up), across)):.3f}")
plt.imshow(density.T, origin="lower", extent=(-2, 3, -1.5, 2), cmap="magma")
plt.colorbar(label="density")
plt.savefig(sys.argv[1], dpi=120)
