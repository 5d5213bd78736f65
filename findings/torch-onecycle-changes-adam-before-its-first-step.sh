#!/usr/bin/env bash
# Finding: to construct torch 2.14's `OneCycleLR` over Adam changes the optimizer at once, whether `step()` is ever
# called or not: the rate is a 25th of `max_lr`, and Adam's beta1 is 0.95, whatever it was (`cycle_momentum=True` is the
# default, and for Adam "momentum" is beta1). Nothing takes it back where the schedule is given up.
# What it does to a user: programs of long-term forecasting (PatchTST's, and those built on it) make the scheduler
# always and then, unless one of their options says "TST", set the rate by hand after each epoch. So what their papers'
# tables were trained with is a first epoch at a 25th of the rate and Adam with betas (0.95, 0.999), which no
# configuration says. Who writes the recipe down again from the configuration trains with other moments; two optimizers
# "alike" differ in each step.
# Way out: `cycle_momentum=False` where only the rate is meant; print `optimizer.param_groups` after everything is
# built. flowbench's `etth/patchtst-faithful` has these betas and leaves the first epoch out.
# Source: torch/optim/lr_scheduler.py (`OneCycleLR.__init__`), read 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PYTHON'
import torch
from torch import nn

print("torch", torch.__version__)
torch.set_num_threads(1)
EPOCHS, STEPS, RATE = 6, 20, 1e-2


def train(scheduled: bool, betas: tuple[float, float] = (0.9, 0.999), first: float = RATE) -> torch.Tensor:
    """Return the weights of a least-squares fit whose rate is set by hand at each epoch."""
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    x, y = torch.randn(256, 8), torch.randn(256, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=betas)
    before = optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]
    if scheduled:
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, epochs=EPOCHS, steps_per_epoch=STEPS)
        after = optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]
        print(f"rate and betas before the scheduler is made {before}, after {after}, no step taken")
        assert abs(after[0] - RATE / 25) < 1e-12 and after[1] == (0.95, 0.999), after
    else:
        optimizer.param_groups[0]["lr"] = first
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] = RATE  # by hand, as after an epoch
    return model.weight.detach()


theirs = train(scheduled=True)
as_written_down = train(scheduled=False)
as_it_was = train(scheduled=False, betas=(0.95, 0.999), first=RATE / 25)
print("largest difference of the weights")
print(f"to the recipe as its configuration says: {(theirs - as_written_down).abs().max():.4f}")
print(f"to the recipe with a first epoch at rate / 25 and beta1 0.95: {(theirs - as_it_was).abs().max():.4f}")
assert (theirs - as_written_down).abs().max() > 1e-3
assert torch.allclose(theirs, as_it_was, rtol=0, atol=1e-6)
print("a scheduler that is never stepped changes Adam's moments and its first epoch")
PYTHON
