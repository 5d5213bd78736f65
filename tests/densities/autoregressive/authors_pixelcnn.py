"""A golden file of PixelCNN++ and our model with its variables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowbench.config.schema import Optim
from flowbench.densities.autoregressive.layers import GatedResnet, ShiftedConv, ShiftedDeconv
from flowbench.densities.autoregressive.pixelcnn import PixelCNN
from flowbench.training.optimization import learning_rate, make_optimizer
from tests.golden_files import GoldenFile

Arrays = dict[str, np.ndarray[Any, Any]]


class Authors:
    """What one file holds, beside our model."""

    def __init__(self, golden: GoldenFile) -> None:
        self.golden = golden
        self.hparams = golden.json("hparams")
        self.names = golden.json("var_names")
        self.images = golden["img_uint8"]
        self.labels = self._labels("labels")
        self.bits_per_nat = 1 / (np.log(2) * self.images[0].numel())

    def _labels(self, key: str) -> Tensor | None:
        return self.golden[key] if self.hparams["class_conditional"] else None

    def model(self, prefix: str = "var/", instead: Arrays | None = None) -> PixelCNN:
        """Return the model with the variables under a prefix, some of them replaced."""
        return PixelCNN.from_authors({**self.golden.under(prefix), **(instead or {})}, self.hparams)

    def uninitialized(self) -> PixelCNN:
        """Return the model with its random V and hw, and g = 1, b = 0: where the authors' averages start, too."""
        model = self.model("var_init/")
        with torch.no_grad():
            for name, value in model.authors_variables().items():
                if name.endswith(("/g", "/b")):
                    value.fill_(float(name.endswith("/g")))
        return model

    def initialized(self) -> tuple[PixelCNN, Tensor]:
        """Return the model after our own initialization, and its outputs for the same images."""
        model, images, labels = self.uninitialized(), self.golden["img_init_uint8"], self._labels("labels_init")
        model.initialize(images, images, labels)
        with torch.no_grad():
            return model, model.outputs(images, labels)

    def bits(self, model: PixelCNN) -> Tensor:
        with torch.no_grad():
            return -model.log_prob(self.images, labels=self.labels).mean() * self.bits_per_nat

    def gradients(self, model: PixelCNN) -> dict[str, Tensor]:
        """Return the gradients of the mean nats per image, by name, and leave them in the model."""
        model.zero_grad()
        (-model.log_prob(self.images.clone(), labels=self.labels).mean()).backward()
        return {name: value.grad for name, value in model.authors_variables().items()}

    def optimizer(self, model: PixelCNN) -> tuple[torch.optim.Optimizer, Optim]:
        """Return the authors' optimizer for gradients of a mean, where their ε is one of the sum over the batch."""
        hp, batch = self.hparams, len(self.images)
        config = Optim(
            name="adam-inside",
            lr=hp["learning_rate"],
            betas=(hp["mom1"], hp["mom2"]),
            eps=1e-8 / batch**2,
            schedule="exponential-steps",
            decay=hp["lr_decay"],
        )
        return make_optimizer(model.authors_variables().values(), config), config

    def step(self, model: PixelCNN, optimizer: torch.optim.Optimizer, config: Optim, number: int) -> dict[str, Tensor]:
        """Take step `number`, from 0, and return its gradients."""
        gradients = {name: value.clone() for name, value in self.gradients(model).items()}
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, 0.0, 0, number)
        optimizer.step()
        return gradients

    def averages(self, start: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the authors' moving averages after a step: the rate is formed in float32."""
        rate = float(np.float32(1) - np.float32(self.hparams["polyak_decay"]))
        return {name: value.detach() - rate * (value.detach() - after[name].detach()) for name, value in start.items()}


def stored(name: str, value: np.ndarray[Any, Any]) -> Tensor:
    """Return an array of the authors' in the layout of our parameter of this name."""
    tensor = torch.from_numpy(np.array(value))
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1)
    return tensor.T[:, :, None, None] if tensor.ndim == 2 and name.endswith("/V") else tensor


@contextmanager
def watched(model: PixelCNN) -> Iterator[dict[str, Tensor]]:
    """Fill a dictionary with the intermediate tensors of a pass inside the block, under the files' names."""
    found: dict[str, Tensor] = {}
    blocks = list(model.net.scale.in_order())
    handles = []
    counts = {"up/u": 0, "up/ul": 0, "down/u": 0, "down/ul": 0, "deconv/u": 0, "deconv/ul": 0}

    def keep(kind: str, value: Tensor) -> None:
        found[f"{kind}_{counts[kind]}"] = value.detach()
        counts[kind] += 1

    def hook(kind: str) -> Any:
        return lambda _module, _inputs, output: keep(kind, output)

    def first(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep("up/u", inputs[0])
        keep("up/ul", inputs[1])

    handles.append(model.net.scale.register_forward_pre_hook(first))
    # The way down has residual networks and strided convolutions; what follows the last of them is the way up.
    last = max(number for number, layer in enumerate(blocks) if isinstance(layer, ShiftedConv))
    bottom = last + 2 * len(model.net.scale.inner.inner.down)
    for number, layer in enumerate(blocks):
        way = "deconv" if isinstance(layer, ShiftedDeconv) else "up" if number <= bottom else "down"
        assert isinstance(layer, (GatedResnet, ShiftedConv, ShiftedDeconv))
        handles.append(layer.register_forward_hook(hook(f"{way}/{'ul' if number % 2 else 'u'}")))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
