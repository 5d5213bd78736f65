"""The decoder steps of the report's LSTM2LSTM as one differentiable operation with its own backward pass.

Written step by step under autograd, 24 steps cost some 600 small nodes. Here the forward pass keeps what the backward
pass needs, and every weight's gradient is one matrix product over all steps.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["attended_steps"]


def attended_steps(
    encoded: Tensor, state: Tensor, scores: Tensor, recurrent: Tensor, bias: Tensor, attended: Tensor, steps: int
) -> Tensor:
    """Return the states s_1 … s_T of a recurrence that attends to encoded rows.

    a = softmax(scores_t) · encoded;  (i, f, g) = V a + R s_{t−1} + b;  s_t = σ(f) s_{t−1} + σ(i) tanh(g);
    scores_{t+1} = R' s_t + b', where (R; R') = `recurrent`, (b; b') = `bias`, V = `attended`.

    Args:
        encoded: rows to attend to, (batch, lookback, hidden).
        state: s_0, (batch, hidden).
        scores: of the first step, (batch, lookback).
        recurrent: (3 hidden + lookback, hidden).
        bias: (3 hidden + lookback,).
        attended: (3 hidden, hidden).
        steps: T.

    Returns:
        (T, batch, hidden).

    Raises:
        ValueError: there is not one score per row.
    """
    if scores.shape != encoded.shape[:2]:
        # Operations with `out=` would resize their views instead of complaining.
        raise ValueError(f"{scores.shape[1]} scores for {encoded.shape[1]} rows to attend to")
    return cast(Tensor, _AttendedSteps.apply(encoded, state, scores, recurrent, bias, attended, steps))


class _AttendedSteps(Function):
    @staticmethod
    def forward(
        ctx: Any,
        encoded: Tensor,
        state: Tensor,
        scores: Tensor,
        recurrent: Tensor,
        bias: Tensor,
        attended: Tensor,
        steps: int,
    ) -> Tensor:
        batch, hidden = state.shape
        states = state.new_empty(steps + 1, batch, hidden)
        weights = state.new_empty(steps, batch, 1, encoded.shape[1])
        contexts = state.new_empty(steps, batch, 1, hidden)
        gates = state.new_empty(steps, batch, 3 * hidden)
        states[0] = state
        recurrent_t, attended_t = recurrent.t(), attended.t()
        for t in range(steps):
            both = torch.addmm(bias, states[t], recurrent_t)
            scores = scores if t == 0 else both[:, 3 * hidden :]
            torch.softmax(scores, dim=1, out=weights[t, :, 0])
            torch.bmm(weights[t], encoded, out=contexts[t])
            torch.addmm(both[:, : 3 * hidden], contexts[t, :, 0], attended_t, out=gates[t])
            gates[t, :, : 2 * hidden].sigmoid_()
            gates[t, :, 2 * hidden :].tanh_()
            keep, forget, new = gates[t].chunk(3, dim=1)
            torch.mul(forget, states[t], out=states[t + 1])
            states[t + 1].addcmul_(keep, new)
        ctx.save_for_backward(encoded, recurrent, attended, states, weights, contexts, gates)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        encoded, recurrent, attended, states, weights, contexts, gates = ctx.saved_tensors
        steps, batch, hidden = outer.shape
        keep, forget, new = gates.chunk(3, dim=2)
        # Slopes of the three activations times what they multiply, for all steps at once.
        slopes = torch.cat(
            (keep * (1 - keep) * new, forget * (1 - forget) * states[:-1], (1 - new * new) * keep), dim=2
        ).view(steps, batch, 3, hidden)
        to_both = outer.new_empty(steps, batch, recurrent.shape[0])
        to_context = outer.new_empty(steps, batch, hidden, 1)
        to_state = torch.zeros_like(states[0])
        for t in reversed(range(steps)):
            to_state = to_state + outer[t]
            to_gates = to_both[t, :, : 3 * hidden]
            torch.mul(slopes[t], to_state[:, None], out=to_gates.view(batch, 3, hidden))
            torch.mm(to_gates, attended, out=to_context[t, :, :, 0])
            weight = weights[t, :, 0]
            to_weight = torch.bmm(encoded, to_context[t])[:, :, 0] * weight
            torch.addcmul(
                to_weight, weight, to_weight.sum(dim=1, keepdim=True), value=-1, out=to_both[t, :, 3 * hidden :]
            )
            through = to_both[t] if t > 0 else to_gates
            to_state = torch.addmm(forget[t] * to_state, through, recurrent[: through.shape[1]])
        to_scores = to_both[0, :, 3 * hidden :].clone()
        to_both[0, :, 3 * hidden :] = 0  # the first scores are an argument, not of the recurrence
        flat = to_both.flatten(0, 1)
        to_encoded = torch.bmm(weights[:, :, 0].permute(1, 2, 0), to_context[..., 0].transpose(0, 1))
        to_recurrent = flat.t() @ states[:-1].flatten(0, 1)
        to_attended = flat[:, : 3 * hidden].t() @ contexts.flatten(0, 2)
        return to_encoded, to_state, to_scores, to_recurrent, flat.sum(dim=0), to_attended, None
