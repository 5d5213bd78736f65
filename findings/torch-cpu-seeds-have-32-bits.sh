#!/usr/bin/env bash
# Finding: torch 2.14.1's CPU generator takes 64-bit seeds and uses the lower 32 bits: `manual_seed(s)` and
# `manual_seed(s + k * 2**32)` give the same numbers, while `initial_seed()` tells them apart.
# What it does to a user: seeds put together as `(seed << 32) + step` draw the same for every seed, so that a spread over
# seeds is smaller than it is, or nothing. Hash what a seed is made of (numpy's SeedSequence) into 32 bits instead.
# Source: aten/src/ATen/CPUGeneratorImpl.cpp, whose engine is mt19937 with a 32-bit seed; the documentation of
# torch.manual_seed allows -2**63 to 2**64 - 1. pytorch/pytorch#87509 says in passing that seeds have 32 bits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import torch

print("torch", torch.__version__)
step, same = 12345, True
kinds = {
    "rand": lambda generator: torch.rand(1000, generator=generator),
    "randn": lambda generator: torch.randn(1000, generator=generator),
    "randperm": lambda generator: torch.randperm(1000, generator=generator),
    "bernoulli": lambda generator: torch.bernoulli(torch.full((1000,), 0.5), generator=generator),
}
for name, draw in kinds.items():
    first = draw(torch.Generator().manual_seed((0 << 32) + step))
    other = draw(torch.Generator().manual_seed((1 << 32) + step))
    lower = draw(torch.Generator().manual_seed(step + 1))
    print(f"{name}: equal for seeds that differ by 2**32: {torch.equal(first, other)}, by 1: {torch.equal(first, lower)}")
    same &= torch.equal(first, other) and not torch.equal(first, lower)
seeds = [torch.Generator().manual_seed((seed << 32) + step).initial_seed() for seed in (0, 1)]
print("the generators say that their seeds are", *seeds)
same &= seeds[0] != seeds[1]
print("as described: the upper 32 bits do nothing" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
