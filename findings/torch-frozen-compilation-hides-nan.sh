#!/usr/bin/env bash
# Finding: torch 2.14.1's compiler, asked to freeze weights for inference on a CPU (`torch._inductor.config.freezing`),
# fuses a convolution with the ReLU after it, and what is not a number comes out as 0: `torch.relu` of NaN is NaN.
# What it does to a user: a model whose weights diverged has finite outputs, likelihoods and losses; a check for NaN
# behind the compiled model sees none. Without freezing, and in eager mode, the NaN comes through.
# flowbench calls the same fused operation of oneDNN in evaluation, and therefore looks at the weights that it folds
# (`are_finite`): a network of such weights gives NaN.
# Source: torch/_inductor/fx_passes/mkldnn_fusion.py makes `mkldnn._convolution_pointwise(…, "relu")` of the pair; oneDNN's
# eltwise_relu takes the maximum of a value and 0, which of NaN and 0 is 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
cd "$work"
TORCHINDUCTOR_CACHE_DIR="$work/cache" venv/bin/python - 2> log <<'PYTHON' || { cat log; exit 1; }
import copy

import torch
from torch import nn

print("torch", torch.__version__)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
images = torch.randn(2, 3, 16, 16)
shares = {}
with torch.no_grad():
    model[0].weight[0, 0, 0, 0] = torch.nan
    for name, freezing in (("eager", None), ("compiled", False), ("compiled and frozen", True)):
        run = copy.deepcopy(model)
        if freezing is not None:
            torch.compiler.reset()
            torch._inductor.config.freezing = freezing
            run = torch.compile(run)
        shares[name] = run(images).isnan().float().mean().item()
        print(f"{name}: {shares[name]:.0%} of the outputs are NaN")
same = shares["eager"] == shares["compiled"] > 0.5 and shares["compiled and frozen"] == 0
print("as described: the fused ReLU took NaN for 0" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
