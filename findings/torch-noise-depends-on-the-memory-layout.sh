#!/usr/bin/env bash
# Finding: in torch 2.14.1 one seed gives other dropout masks, `rand_like` and `randn_like` to the same images where these
# lie channels-last: random numbers fill the memory in its order, and what is made "like" a tensor takes its layout over.
# `torch.bernoulli` of the same images does not care.
# What it does to a user: `model.to(memory_format=torch.channels_last)`, documented as a matter of speed, changes every
# figure of a seeded training with dropout, and a likelihood by noise that was drawn with `randn_like` or `rand_like`.
# Draw noise into a tensor of a fixed layout (`torch.rand(shape, generator=…)`) and convert it afterwards.
# Source: aten/src/ATen/native/Dropout.cpp and `torch.rand_like` make an empty tensor of the same layout
# (`torch.preserve_format`) and fill it, aten/src/ATen/native/cpu/DistributionTemplates.h in the order of the memory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import dropout

print("torch", torch.__version__)
images = torch.ones(4, 8, 6, 6)
laid_out = images.to(memory_format=torch.channels_last)
assert torch.equal(images, laid_out)
kinds = {
    "dropout": lambda x: dropout(x, 0.5),
    "randn_like": torch.randn_like,
    "rand_like": torch.rand_like,
    "bernoulli": lambda x: torch.bernoulli(x / 2),
}
drawn = {}
for name, draw in kinds.items():
    pair = []
    for x in (images, laid_out):
        torch.manual_seed(0)
        pair.append(draw(x))
    drawn[name] = pair
    print(f"{name}: equal images, one seed, equal noise: {torch.equal(*pair)}")
same = not any(torch.equal(*drawn[name]) for name in ("dropout", "rand_like", "randn_like"))
same &= torch.equal(*drawn["bernoulli"])
for name in ("dropout", "rand_like"):
    first, other = drawn[name]
    in_memory = torch.equal(first.flatten(), other.permute(0, 2, 3, 1).flatten())
    print(f"{name}: equal numbers in the order of the memory: {in_memory}")
    same &= in_memory
print("as described: the layout chose the noise" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
