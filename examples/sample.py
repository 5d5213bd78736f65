"""Load a trained model and sample from it: `python examples/sample.py RUN OUT.png` (a run, or an exported folder)."""

import sys

import torch
from torchvision.utils import save_image

import flowbench

model = flowbench.load_run(sys.argv[1])
images = model.sample(64, temperature=0.8, generator=torch.Generator().manual_seed(0))
save_image(images.float() / (model.levels - 1), sys.argv[2], nrow=8, padding=1, pad_value=1.0)
print(f"{len(images)} samples of {tuple(images.shape[1:])} written to {sys.argv[2]}")
