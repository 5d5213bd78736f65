"""One block of TarFlow: each patch of an image is shifted and scaled by what a transformer reads in earlier ones."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.bijection import Bijection
from flowbench.densities.flows.causal_transformer import Cache, CausalTransformer
from flowbench.errors import InputError

__all__ = ["Guidance", "TarFlowBlock"]


Pushed = Literal["a", "b", "ab"]


@dataclass(frozen=True)
class Guidance:
    """How far sampling is pushed away from what the model does without a label (Zhai et al. 2024, section 3.5).

    At each token, a ← a + g · (a − a′) and b likewise, where a′ and b′ come from a second pass without a label.
    """

    weight: float = 0.0
    """g; 0: no guidance, and no second pass."""
    what: Pushed = "ab"
    """What is pushed: log-scales, shifts, or both."""
    temperature: float = 1.0
    """Divides the attention's logits in the second pass alone; other than 1, models without labels are guided too."""
    annealed: bool = False
    """Let g grow linearly with the token, from 1/(T − 1) of the weight to all of it."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise InputError(f"weight: {self.weight}: give a number, 0 or above")
        if self.what not in get_args(Pushed):
            raise InputError(f"what: {self.what!r}: one of {', '.join(get_args(Pushed))}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature: {self.temperature}: give a number above 0")

    def at(self, token: int, tokens: int) -> float:
        """Return g where token `token` + 1 of `tokens` is made."""
        return self.weight * (token + 1) / (tokens - 1) if self.annealed else self.weight


class TarFlowBlock(Bijection):
    """z_t = (x_t − b_t) · exp(−a_t), with a_t, b_t from the tokens before t; the first token passes unchanged.

    Zhai et al. 2024, eq. 2 and 3, number for number the authors' program. Tokens go in and come out in the image's
    order; the block itself may read them from the last to the first.

    Args:
        tokens: T.
        features: of a token, E.
        width, layers, head, expansion, dropout: of the transformer, see `CausalTransformer`.
        reverse: read the tokens from the last to the first.
        affine: False: shift only, a = 0.
        classes: of labels, each with a vector of its own; 0: there are none.
    """

    def __init__(
        self,
        tokens: int,
        features: int,
        *,
        width: int,
        layers: int,
        head: int,
        expansion: int,
        reverse: bool,
        affine: bool,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.reverse = reverse
        self.affine = affine
        self.proj_in = nn.Linear(features, width)
        self.pos_embed = nn.Parameter(0.01 * torch.randn(tokens, width))
        self.class_embed = nn.Parameter(0.01 * torch.randn(classes, 1, width)) if classes else None
        self.transformer = CausalTransformer(
            width, (2 if affine else 1) * features, layers=layers, head=head, expansion=expansion, dropout=dropout
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map tokens x, (batch, T, E), in the image's order.

        Args:
            x: tokens.
            y: labels, int64 (batch,); below 0 and None: no label, which is the mean of all class vectors.

        Returns:
            z, of x's shape and order, and −Σ a in nats, (batch,).
        """
        ordered = self._turned(x)
        out = self.transformer(self.hidden(ordered, y))
        log_scale, shift = self._split(F.pad(out[:, :-1], (0, 0, 1, 0)))
        if log_scale is None:
            return self._turned(ordered - shift), x.new_zeros(len(x))
        z = (ordered - shift) * torch.exp(-log_scale)
        return self._turned(z), -log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None, guidance: Guidance | None = None) -> tuple[Tensor, Tensor]:
        """Map latents z, (batch, T, E), to tokens, one after the other: x_t = z_t · exp(a_t) + b_t.

        Args:
            z: latents, in the image's order.
            y: labels, as in `forward`.
            guidance: None: none.

        Returns:
            x, of z's shape and order, and Σ a in nats, (batch,).
        """
        tokens = z.shape[1]
        guided = guidance is not None and guidance.weight > 0
        ordered = self._turned(z)
        place, label = self._places(), self._of_one_token(self._label(y))
        nobody = self._of_one_token(self._label(None)) if guided else None
        caches, second = self.transformer.caches(tokens), self.transformer.caches(tokens)
        made, log_det = [ordered[:, 0]], z.new_zeros(len(z))
        with self._computing(z):
            for t in range(tokens - 1):
                h = self.proj_in(made[-1]) + place[t]
                out = self._step(h, label, caches, t)
                if guidance is not None and guided:
                    other = self._step(h, nobody, second, t, guidance.temperature)
                    out = out + guidance.at(t, tokens) * self._pushed(guidance, out - other)
                log_scale, shift = self._split(out)
                token = ordered[:, t + 1]
                if log_scale is not None:
                    token = token * log_scale.exp()
                    log_det = log_det + log_scale.sum(1)
                made.append(token + shift)
        return self._turned(torch.stack(made, dim=1)), log_det

    def hidden(self, ordered: Tensor, y: Tensor | None = None) -> Tensor:
        """Return what the transformer reads, (batch, T, width), of tokens (batch, T, E) in the block's order."""
        with self._computing(ordered):
            h: Tensor = self.proj_in(ordered) + self._places()
        label = self._label(y)
        return h if label is None else h + label

    def _turned(self, tokens: Tensor) -> Tensor:
        """Return (…, T, features) in the block's order, or back in the image's."""
        return tokens.flip(-2) if self.reverse else tokens

    def _places(self) -> Tensor:
        """Return the vectors of the places, (T, width), in the block's order: each belongs to a place in the image."""
        return self._turned(self.pos_embed)

    def _label(self, y: Tensor | None) -> Tensor | None:
        """Return the vectors of labels, (batch, 1, width) or (1, width); None where the model knows none."""
        if self.class_embed is None:
            return None
        mean = self.class_embed.mean(0)
        return mean if y is None else torch.where((y < 0).view(-1, 1, 1), mean, self.class_embed[y.clamp(min=0)])

    def _of_one_token(self, label: Tensor | None) -> Tensor | None:
        """Return a label's vectors, of `_label`, without the dimension of the tokens: they are the same at each."""
        return None if label is None else label.reshape(-1, label.shape[-1])

    def _split(self, out: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return log-scales a, None without them, and shifts b, of the transformer's output."""
        if not self.affine:
            return None, out
        log_scale, shift = out.chunk(2, dim=-1)
        return log_scale, shift

    def _step(
        self, h: Tensor, label: Tensor | None, caches: list[Cache], place: int, temperature: float = 1.0
    ) -> Tensor:
        return self.transformer.step(h if label is None else h + label, caches, place, temperature)

    def _pushed(self, guidance: Guidance, difference: Tensor) -> Tensor:
        """Return the difference of both passes where guidance pushes, and 0 elsewhere."""
        log_scale, shift = self._split(difference)
        if log_scale is None:
            return shift if "b" in guidance.what else torch.zeros_like(shift)
        parts = {"a": log_scale, "b": shift}
        pushed = [part if name in guidance.what else torch.zeros_like(part) for name, part in parts.items()]
        return torch.cat(pushed, dim=-1)

    def _computing(self, z: Tensor) -> AbstractContextManager[object]:
        if self.transformer.precision == 32:
            return nullcontext()
        # In sampling around the whole loop: the weights are cast once.
        return torch.autocast(z.device.type, torch.bfloat16)
