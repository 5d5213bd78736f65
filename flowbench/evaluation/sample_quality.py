"""How samples look to a network: FID and KID between a model's samples and a split, by torchmetrics.

Both compare features of the Inception network that all published figures use (Heusel et al. 2017, arXiv:1706.08500;
Binkowski et al. 2018, arXiv:1801.01401). Its weights are never downloaded here: they must be on disk.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbench.data import Images
from flowbench.data.feed import batches_in_order
from flowbench.densities.model import DensityModel
from flowbench.errors import InputError

__all__ = ["inception", "sample_quality"]

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's file; as in torch.hub, the last part of its name begins its SHA-256."""
AT_ONCE = 64
SUBSETS = 100
SUBSET_SIZE = 1000


def sample_quality(
    model: DensityModel, images: Images, n: int, *, seed: int, network: nn.Module | None = None
) -> dict[str, dict[str, Any]]:
    """Return the metric objects `fid` and `kid` of n samples against all images of a split; lower is better.

    KID is the mean over subsets of up to 1,000 images, unbiased in n; FID falls with n: compare figures of equal n.

    Args:
        model: its reported state, in evaluation mode.
        images: the split.
        n: samples, at temperature 1.
        seed: of the samples and of KID's subsets.
        network: from RGB images, uint8 (batch, 3, height, width), to features (batch, d); None: Inception.

    Raises:
        InputError: torchmetrics or torch-fidelity is not installed, or Inception's weights are not on disk.
    """
    network = inception() if network is None else network
    device = next((one.device for one in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    network = network.to(device)
    theirs = (batch for _, batch in batches_in_order(images, AT_ONCE, device))
    real = _features(network, theirs, model.levels)
    fake = _features(network, _samples(model, n, seed), model.levels)
    labels = {"n": n, "images": len(images), "features": type(network).__name__, "seed": seed, **images.choices}
    size = min(SUBSET_SIZE, n, len(images))
    mean, deviation = _kid(real, fake, size, seed)
    return {
        "fid": {"value": _fid(real, fake), "stderr": None, **labels},
        "kid": {"value": mean, "stderr": None, "subset_sd": deviation, "subset_size": size, **labels},
    }


def inception() -> nn.Module:
    """Return the Inception network up to its 2,048 pooled features, resizing as the original program does.

    Raises:
        InputError: a library or the weights are missing; the message says where they belong.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
        from torchmetrics.image.fid import NoTrainInceptionV3
    except ImportError as error:
        raise InputError(
            f"--samples: FID and KID need torchmetrics and torch-fidelity ({error.name or error} is missing): "
            "pip install 'flowbench[fid]'"
        ) from error
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not path.is_file():
        raise InputError(
            f"--samples: FID and KID need the weights of the Inception network, which are not at {path}: get them from "
            f"{URL_INCEPTION_V3} and put them there, or leave --samples out"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # Loading it runs whatever a file of this kind asks for, so another file must not get so far.
    if not digest.startswith(path.stem.rpartition("-")[2]):
        raise InputError(f"{path}: not the published weights (SHA-256 {digest[:8]}…): remove the file and get it again")
    network: nn.Module = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)
    return network


class _Given(nn.Module):
    """Stands for a network where its features are at hand already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _fid(real: Tensor, fake: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1])).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def _kid(real: Tensor, fake: Tensor, size: int, seed: int) -> tuple[float, float]:
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=SUBSETS, subset_size=size)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def _samples(model: DensityModel, n: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n, AT_ONCE):
        yield model.sample(min(AT_ONCE, n - start), 1.0, generator)


@torch.no_grad()
def _features(network: nn.Module, batches: Iterable[Tensor], levels: int) -> Tensor:
    """Return the features of all images in float64 on the CPU, (n, d); grey images become RGB, levels 0 … 255."""
    found = []
    for batch in batches:
        shown = (batch.float() * (255 / (levels - 1))).round().to(torch.uint8)
        found.append(network(shown.expand(-1, 3, -1, -1)).double().cpu())
    return torch.cat(found)
