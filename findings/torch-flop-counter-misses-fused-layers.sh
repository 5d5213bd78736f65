#!/usr/bin/env bash
# Finding: torch 2.14.1's FlopCounterMode counts no operation of an nn.TransformerEncoder in evaluation mode without
# gradients (its fused fast path), nor of an nn.LSTM on the CPU in either mode (oneDNN's). It has no formula for these
# operators and takes what it does not know for free, without a word.
# What it does to a user: a table of costs shows a transformer as the cheapest model of all, and a plot of error against
# cost has a false front.
# Way out: count with `torch.backends.mha.set_fastpath_enabled(False)` and `torch.backends.mkldnn.flags(enabled=False)`.
# Source: torch/utils/flop_counter.py (`flop_registry`). pytorch/pytorch#195460 (attention alone, on the CPU) and
# meta-pytorch/tnt#624 (LSTM, another counter) are related.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(model, inputs):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops()


print("torch", torch.__version__)
batch, steps, width = 2, 16, 64
x = torch.randn(batch, steps, width)
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 4, 128, batch_first=True), 2, enable_nested_tensor=False)
lstm = nn.LSTM(width, width, batch_first=True)
linear = 2 * batch * steps * width * (4 * width + 2 * 128) * 2  # projections and feed-forward of two layers, by hand
gates = 2 * batch * steps * width * 8 * width
fast, recurrent = count(encoder.eval(), x), count(lstm.eval(), x)
torch.backends.mha.set_fastpath_enabled(False)
slow = count(encoder, x)
with torch.backends.mkldnn.flags(enabled=False):
    plain = count(lstm, x)
print(f"encoder in evaluation: {fast:,}; without the fast path {slow:,}; by hand at least {linear:,}")
print(f"LSTM: {recurrent:,}; without oneDNN {plain:,}; by hand {gates:,}")
same = fast == 0 and slow >= linear and recurrent == 0 and plain == gates
print("as described: fused layers cost nothing" if same else "CHANGED: not as described any more")
raise SystemExit(not same)
PYTHON
