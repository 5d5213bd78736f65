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
    # The steps' views are made before the loops: indexing inside would cost as much as the small operations themselves.

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
        keeps, forgets, news = gates.chunk(3, dim=2)
        states[0] = state
        both = state.new_empty(batch, recurrent.shape[0])
        of_gates, next_scores = both[:, : 3 * hidden], both[:, 3 * hidden :]
        recurrent_t, attended_t = recurrent.t(), attended.t()
        over_steps = (states[:-1], states[1:], weights, weights[:, :, 0], contexts, contexts[:, :, 0], gates)
        of_activations = (gates[..., : 2 * hidden], keeps, forgets, news)
        for before, after, weight, weight_row, context, context_row, gate, sigmoids, keep, forget, new in zip(
            *(part.unbind(0) for part in (*over_steps, *of_activations)), strict=True
        ):
            torch.addmm(bias, before, recurrent_t, out=both)
            torch.softmax(scores, dim=1, out=weight_row)
            scores = next_scores
            torch.bmm(weight, encoded, out=context)
            torch.addmm(of_gates, context_row, attended_t, out=gate)
            sigmoids.sigmoid_()
            new.tanh_()
            torch.mul(forget, before, out=after)
            after.addcmul_(keep, new)
        ctx.save_for_backward(encoded, recurrent, attended, states, weights, contexts, gates)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        encoded, recurrent, attended, states, weights, contexts, gates = ctx.saved_tensors
        steps, batch, hidden = outer.shape
        gated = 3 * hidden
        keep, forget, new = gates.chunk(3, dim=2)
        # Slopes of the three activations times what they multiply, for all steps at once.
        slopes = torch.cat(
            (keep * (1 - keep) * new, forget * (1 - forget) * states[:-1], (1 - new * new) * keep), dim=2
        ).view(steps, batch, 3, hidden)
        to_both = outer.new_empty(steps, batch, recurrent.shape[0])
        to_gates, to_scores = to_both[..., :gated], to_both[..., gated:]
        # The gates' gradient goes to the context and to the state before: one product gives both.
        through_gates, through_scores = torch.cat((attended, recurrent[:gated]), dim=1), recurrent[gated:]
        products = outer.new_empty(steps, batch, 2 * hidden)
        to_context = products[..., :hidden].unsqueeze(2)
        # A row times a matrix is ten times faster than the matrix times a column (16 × 64 × 128, MKL, 2026-11).
        columns = encoded.transpose(1, 2).contiguous()
        over_steps = (slopes, to_gates, to_gates.view_as(slopes), to_scores, products, to_context)
        of_states = (products[..., hidden:], weights[:, :, 0], forget, outer)
        to_state, later = torch.zeros_like(states[0]), torch.zeros_like(weights[0, :, 0])
        for slope, gate, gate_blocks, score, product, context, passed, weight, forgotten, from_outside in zip(
            *(reversed(part.unbind(0)) for part in (*over_steps, *of_states)), strict=True
        ):
            to_state = torch.add(to_state, from_outside).addmm_(later, through_scores)
            torch.mul(slope, to_state[:, None], out=gate_blocks)
            torch.mm(gate, through_gates, out=product)
            to_weight = torch.bmm(context, columns)[:, 0].mul_(weight)
            torch.addcmul(to_weight, weight, to_weight.sum(dim=1, keepdim=True), value=-1, out=score)
            later = score
            to_state = torch.addcmul(passed, forgotten, to_state)
        to_first_scores = to_scores[0].clone()
        to_scores[0] = 0  # the first scores are an argument, not of the recurrence
        flat = to_both.flatten(0, 1)
        to_encoded = torch.bmm(weights[:, :, 0].permute(1, 2, 0), to_context[:, :, 0].transpose(0, 1))
        to_recurrent = flat.t() @ states[:-1].flatten(0, 1)
        to_attended = flat[:, :gated].t() @ contexts.flatten(0, 2)
        return to_encoded, to_state, to_first_scores, to_recurrent, flat.sum(dim=0), to_attended, None
