#!/usr/bin/env bash
# Finding: torch 2.14.1's `randn` on the CPU draws the last 16 numbers of a tensor again where its size is no multiple of
# 16, and takes another way below 16: one seed's `randn(n)` is the beginning of its `randn(m)` for some n and not for
# others, and `randn(17)` shares one number of its first 16 with `randn(16)`. `rand` has no such thing.
# What it does to a user: noise or first weights "of the same seed" differ as soon as a batch has one image more, and a
# generator stands elsewhere afterwards: comparisons of sizes at one seed are not what they look like.
# Source: aten/src/ATen/native/cpu/DistributionTemplates.h, `normal_fill`: it turns uniform numbers into normal ones by 16
# at a time, and recomputes "the last 16 values" for the rest.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import torch

print("torch", torch.__version__)


def begins(draw, few: int, many: int) -> int:
    """Return how many of `few` numbers are the first of `many`."""
    drawn = [draw(count, generator=torch.Generator().manual_seed(0)) for count in (few, many)]
    return int((drawn[0] == drawn[1][:few]).sum())


normal = {count: begins(torch.randn, count, 64) for count in (8, 15, 16, 17, 24, 31, 32)}
uniform = {count: begins(torch.rand, count, 64) for count in normal}
print("numbers that randn(n) shares with the beginning of randn(64):", normal)
print("numbers that rand(n) shares with the beginning of rand(64):", uniform)
one_more = begins(torch.randn, 16, 17)
print("numbers that randn(16) shares with the beginning of randn(17):", one_more)
same = all((shared == count) == (count % 16 == 0) for count, shared in normal.items()) and one_more == 1
same &= all(shared == count for count, shared in uniform.items())
print("as described: only multiples of 16 go together" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
