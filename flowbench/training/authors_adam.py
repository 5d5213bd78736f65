"""Adam as the authors of PixelCNN++ wrote it: ε inside the square root."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["InsideAdam"]


class InsideAdam(torch.optim.Optimizer):
    """θ ← θ − lr · m̂ / √(v̂ + ε), with m̂ and v̂ the bias-corrected moments (openai/pixel-cnn, `adam_updates`).

    In Kingma & Ba (2015) and torch it is √v̂ + ε: the same ε acts here like its root there, ε = 1e-8 on gradients of
    about 1e-4. And as it is added to squares of gradients, gradients of a mean over B images want ε / B² where those of
    the sum want ε.

    Args:
        parameters: what moves.
        lr, betas, eps: the formula's.
        weight_decay: coefficient of the parameters that are added to their gradients, as in Adam.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.9995),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have gradients; nothing waits for the device."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(parameters, group)

    def _move(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, cast(list[Tensor], parameters), alpha=group["weight_decay"]))
        for parameter in parameters:
            if not self.state[parameter]:
                # Steps are counted on the device: a GPU takes back one that is undone.
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        steps, means, squares = (
            [self.state[parameter][name] for parameter in parameters] for name in ("step", "exp_avg", "exp_avg_sq")
        )
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        roots = torch._foreach_div(squares, _corrections(second, steps))
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(roots, _corrections(first, steps))
        torch._foreach_addcdiv_(cast(list[Tensor], parameters), means, roots, -group["lr"])


def _corrections(beta: float, steps: list[Tensor]) -> list[Tensor]:
    """Return 1 − βᵗ."""
    powers = torch._foreach_pow(beta, steps)
    torch._foreach_sub_(powers, 1)
    torch._foreach_neg_(powers)
    return list(powers)
