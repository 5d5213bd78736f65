"""Bits/dim of your own images: `python examples/likelihood.py RUN IMAGES.npy` (uint8, n x height x width x channel)."""

import sys

import numpy as np
import torch

import flowbench

model = flowbench.load_run(sys.argv[1])
images = torch.from_numpy(np.load(sys.argv[2])).permute(0, 3, 1, 2)
with torch.no_grad():
    bits = model.bits_per_dim(images, draws=8, generator=torch.Generator().manual_seed(0))
for number, value in enumerate(bits.tolist()):
    print(f"image {number}: {value:.4f} bits/dim, log p = {-value * model.dimensions * np.log(2):.2f} nats")
