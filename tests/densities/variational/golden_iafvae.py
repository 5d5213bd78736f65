"""The authors' figures of the IAF-VAE: arrays as their files hold them, NCHW, and our model at their inputs."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowbench.densities.initialization import initializing
from flowbench.densities.variational.iaf_vae import IAFVAE
from tests.golden_files import GoldenFile


def model_of(golden: GoldenFile, state: str = "var/", **options: Any) -> IAFVAE:
    options = {"likelihood": "authors", **options}
    return IAFVAE.from_authors(golden.under(state), golden.json("hparams"), **options)


def array(golden: GoldenFile, key: str) -> Tensor:
    return torch.from_numpy(np.array(golden.arrays[key]))


def images(golden: GoldenFile, samples: int, key: str = "img_uint8") -> Tensor:
    """Each image `samples` times in a row, as the authors' program repeats them."""
    return array(golden, key).repeat_interleave(samples, dim=0)


def noise(golden: GoldenFile, model: IAFVAE, where: str) -> Tensor:
    """The stored noise of all layers, `noise/<where>` with {} for the layer, as `terms` takes it."""
    return model.from_layers([array(golden, f"noise/{where.format(layer)}") for layer in golden.json("up_order")])


def intermediates(golden: GoldenFile, model: IAFVAE, pictures: Tensor, drawn: Tensor | None) -> dict[str, Tensor]:
    """What each layer gives in one pass, by the files' names; without pictures, from the prior."""
    names = golden.json("up_order")
    found: dict[str, Tensor] = {}
    hooks = []
    for name, layer in zip(names, model.layers, strict=True):

        def on_way_down(_: Any, arguments: Any, down: Any, name: str = name) -> None:
            found[f"{name}/h_down"] = down.h
            if (posterior := down.posterior) is not None:
                found.update({f"{name}/p_mean": down.mean, f"{name}/p_logsd": down.log_sd, f"{name}/z": down.z})
                found.update({f"{name}/q_mean": posterior.mean, f"{name}/q_logsd": posterior.log_sd})
                found.update({f"{name}/z0": posterior.z0, f"{name}/logq": posterior.log_q})
                found.update({f"{name}/logp": posterior.log_p, f"{name}/kl_bc": posterior.divergence})
                found[f"{name}/kl_cost"] = posterior.divergence.sum(1)
                found[f"{name}/logq_sum"] = posterior.log_q.double().flatten(1).sum(1)
                found[f"{name}/logp_sum"] = posterior.log_p.double().flatten(1).sum(1)

        def on_flow(_: Any, arguments: Any, output: Any, name: str = name) -> None:
            found[f"{name}/context"] = arguments[1]

        def on_net(_: Any, arguments: Any, output: Tensor, name: str = name) -> None:
            found[f"{name}/ar_raw_mean"], found[f"{name}/ar_raw_logsd"] = output.chunk(2, dim=1)

        hooks += [layer.register_forward_hook(on_way_down), layer.flow.register_forward_hook(on_flow)]
        hooks.append(layer.flow.ar_multiconv2d.register_forward_hook(on_net))
    if len(pictures):
        found["x_rec"] = model.location(pictures, drawn)
        h = model.x_enc((pictures.to(drawn.dtype) + 0.5) / 256 - 0.5)
        for name, layer in zip(names, model.layers, strict=True):
            h, up = layer.up(h)
            found.update({f"{name}/h_up": h, f"{name}/qz_mean": up.mean, f"{name}/qz_logsd": up.log_sd})
    else:
        found["x"] = model.decoded_location(drawn)
    for hook in hooks:
        hook.remove()
    return found


def initialization(golden: GoldenFile, model: IAFVAE, pictures: Tensor, drawn: Tensor) -> dict[str, Tensor]:
    """The activations of the pass that initializes the model, by the files' names."""
    found: dict[str, Tensor] = {}
    up_hooked = {}
    for name, layer in zip(golden.json("up_order"), model.layers, strict=True):
        layer.register_forward_hook(
            lambda _module, _arguments, down, name=name: found.__setitem__(f"{name}/h_down", down.h)
        )
        up_hooked[name] = layer.up

        def up(h: Tensor, *, last: bool = False, name: str = name) -> Any:
            out = up_hooked[name](h, last=last)
            found[f"{name}/h_up"] = out[0]
            return out

        layer.up = up
    with initializing(model), torch.no_grad():
        found["x"] = model.location(pictures, drawn)
    return found


def mean_bound(elbo: Tensor, samples: int) -> Tensor:
    """Minus the authors' bound of each image, of `samples` neighbouring rows: importance-weighted over several."""
    return math.log(samples) - elbo.reshape(-1, samples).logsumexp(1)
