"""Mixing channels: invertible 1x1 convolutions, plain and LU-decomposed, and the fixed permutations they generalize.

Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.2. All of it computes in float32 at least, whatever the precision
of the conditioner networks, and W⁻¹ is never formed: the inverse solves linear systems.
"""

import warnings
from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbench.densities.bijection import Bijection
from flowbench.densities.flows.actnorm import LOG_SCALE_FACTOR, ActNorm
from flowbench.densities.flows.derived import Derived

__all__ = ["Conv1x1", "LUConv1x1", "Mixing", "Permutation", "PermuteChannels", "permutation"]

Permutation = Literal["lu", "plain", "reverse", "shuffle"]
MAX_CONDITION = 1e5
"""Beyond it, solving in float32 loses all but a digit or two: ε · 1e5 ≈ 0.01."""


class Mixing(Bijection):
    """z_j = Σ_i x_i W_ij at every pixel, with an invertible matrix W, (channels, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self._folded: Derived[tuple[Tensor, Tensor, Tensor, Tensor]] = Derived()
        self._condition: Derived[float] = Derived()

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return W."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """Return log|det W|, a scalar."""

    @abstractmethod
    def solve(self, columns: Tensor) -> Tensor:
        """Return the X with Wᵀ X = columns, (channels, n)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the channels of x, (batch, channels, height, width); log-determinant height · width · log|det W|."""
        kernel = self.matrix().T[:, :, None, None]
        return F.conv2d(x, kernel), self._log_det(x)

    def after(self, normalization: ActNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `normalization` followed by this map makes of x, and its log-determinant, in one convolution."""
        sources = (*self._parameters.values(), *self._buffers.values(), normalization.b, normalization.logs)
        kernel, bias, mixing, scales = self._folded.get(lambda: self._fold(normalization), *sources)
        places = x.shape[2] * x.shape[3]
        log_det = (places * mixing).to(x.dtype) + places * LOG_SCALE_FACTOR * scales
        return F.conv2d(x, kernel, bias), log_det.expand(x.shape[0])

    def _fold(self, normalization: ActNorm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return kernel and bias of both maps together, log|det W|, and the sum of the normalization's `logs`."""
        scale, shift = normalization.affine()
        matrix = self.matrix().T
        return (matrix * scale)[:, :, None, None], matrix @ shift, self.log_abs_det(), normalization.logs.sum()

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for x; a warning says so when W has become nearly singular."""
        if not torch.compiler.is_compiling():
            self._warn_if_degenerate()
        batch, channels, height, width = z.shape
        # Pixel by pixel, as channels-last images lie in memory and LAPACK takes columns: nothing is transposed.
        columns = self.solve(z.permute(0, 2, 3, 1).reshape(-1, channels).T)
        x = columns.T.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return x, -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (x.shape[2] * x.shape[3] * self.log_abs_det()).to(x.dtype).expand(x.shape[0])

    @torch.no_grad()
    def _warn_if_degenerate(self) -> None:
        sources = (*self.parameters(), *self.buffers())
        condition = self._condition.get(lambda: _condition(self.matrix()), *sources)
        if not condition < MAX_CONDITION:
            warnings.warn(
                f"a 1x1 convolution of {len(self.matrix())} channels is nearly singular (condition number "
                f"{condition:.2g}): its inverse, and with it samples and reconstructions, is inexact",
                RuntimeWarning,
                stacklevel=3,
            )


class Conv1x1(Mixing):
    """W itself is learned; a random rotation at first, from torch's global generator.

    Args:
        channels: of the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(_rotation(channels))

    def matrix(self) -> Tensor:
        """Return W."""
        return self.W

    def log_abs_det(self) -> Tensor:
        """Return log|det W|, computed in float64 as the authors do."""
        _, log_abs_det = torch.linalg.slogdet(self.W.double())
        result: Tensor = log_abs_det
        return result

    def solve(self, columns: Tensor) -> Tensor:
        """Solve by LU decomposition with pivoting; a singular W gives infinities, which are reported further up."""
        factors, pivots, _ = torch.linalg.lu_factor_ex(self.W.T)
        result: Tensor = torch.linalg.lu_solve(factors, pivots, columns)
        return result


class LUConv1x1(Mixing):
    """W = P L (U + diag(s)), with P fixed and the signs of s fixed; at first the decomposition of a random rotation.

    Eq. 10 of the paper: log|det W| = Σ log|s| costs nothing, and W stays invertible.

    Args:
        channels: of the image.
    """

    P: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._factored: Derived[tuple[Tensor, Tensor]] = Derived()
        P, lower, upper = torch.linalg.lu(_rotation(channels))
        diagonal = upper.diagonal()
        self.register_buffer("P", P)
        self.register_buffer("sign", diagonal.sign())
        self.log_s = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    def matrix(self) -> Tensor:
        """Return W = P L (U + diag(s))."""
        lower, upper = self._factors()
        return self.P @ lower @ upper

    def log_abs_det(self) -> Tensor:
        """Return Σ log|s|."""
        return self.log_s.sum()

    def solve(self, columns: Tensor) -> Tensor:
        """Solve Uᵀ Lᵀ Pᵀ X = columns by two triangular systems and a permutation."""
        lower, upper = self._factored.get(self._factors, *self._parameters.values(), *self._buffers.values())
        columns = torch.linalg.solve_triangular(upper.T, columns, upper=False)
        columns = torch.linalg.solve_triangular(lower.T, columns, upper=True, unitriangular=True)
        return (columns.T @ self.P.T).T

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.log_s), dtype=self.lower.dtype, device=self.lower.device)
        return lower, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())


class PermuteChannels(Bijection):
    """A fixed permutation: channel j of z is channel order[j] of x.

    Args:
        order: (channels,), int64.
    """

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Permute the channels of x, (batch, channels, height, width)."""
        return x.index_select(1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Put the channels back."""
        return z.index_select(1, self.order.argsort()), z.new_zeros(z.shape[0])


def permutation(kind: Permutation, channels: int) -> Bijection:
    """Return a new bijection that mixes channels: a 1x1 convolution, a reversal, or a shuffle drawn once."""
    match kind:
        case "lu":
            return LUConv1x1(channels)
        case "plain":
            return Conv1x1(channels)
        case "reverse":
            return PermuteChannels(torch.arange(channels).flip(0))
        case "shuffle":
            return PermuteChannels(torch.randperm(channels))


def _condition(matrix: Tensor) -> float:
    """Return the condition number; infinity where float64 cannot tell the matrix from a singular one.

    The smallest singular value of a singular matrix comes out as 0 or as rounding, according to the processor.
    """
    condition = float(torch.linalg.cond(matrix.double()))
    return condition if condition < 1 / torch.finfo(torch.float64).eps else float("inf")


def _rotation(channels: int) -> Tensor:
    """Return a random orthogonal matrix: the Q of a Gaussian matrix."""
    rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
    result: Tensor = rotation.contiguous()
    return result
