#!/usr/bin/env bash
# Finding: the fused Adam, AdamW and SGD of torch 2.14.1 change parameters on the CPU without raising their `_version`;
# the other two implementations (foreach, for-loop) raise it.
# What it does to a user: autograd no longer notices that a tensor which it saved was changed, and gives the gradient at
# the new weights without a word; whatever caches by `_version` goes on with the old ones.
# Way out: `torch.autograd.graph.increment_version(parameters)` after each step.
# Source: torch/optim/adam.py (`_fused_adam`), aten/src/ATen/native/FusedAdam.cpp. No thread on it was found;
# increment_version is pytorch/pytorch#96852.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import torch

print("torch", torch.__version__)
same = True
for name in ("Adam", "AdamW", "SGD"):
    for how in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        parameter = torch.nn.Parameter(torch.ones(3))
        parameter.grad = torch.ones(3)
        optimizer = getattr(torch.optim, name)([parameter], lr=0.1, **how)
        loss = (parameter**2).sum()  # keeps the parameter for its gradient
        before = parameter._version
        optimizer.step()
        raised = parameter._version > before
        try:
            (gradient,) = torch.autograd.grad(loss, parameter)
            noticed = f"not noticed, gradient {gradient[0].item():.2f} where it was 2.00"
        except RuntimeError:
            noticed = "noticed by autograd"
        print(f"{name} {how}: 1.00 -> {parameter[0].item():.2f}, version raised: {raised}; {noticed}")
        same &= parameter[0].item() != 1 and raised != ("fused" in how)
        same &= noticed.startswith("not noticed") == ("fused" in how)
print("as described: a fused step is invisible" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
