"""Conjugate gradients for many examples at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, sum_event


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, tolerance: float = 1e-6, most: int = 50
) -> Tensor:
    """u of M u = b, with M symmetric and positive definite, each example by itself.

    An example stops when its residual is below the tolerance, so that it does not depend on the
    others of its batch.

    Args:
        apply: u -> M u, shape `(batch, ...)`.
        b: right-hand sides, shape `(batch, ...)`.
        tolerance: of the residual, as a share of the norm of b.
        most: steps that are taken at most.

    Reference: Hestenes & Stiefel 1952, https://doi.org/10.6028/jres.049.044.
    """
    u, residual = torch.zeros_like(b), b
    direction, power = residual, sum_event(residual * residual)
    goal = tolerance**2 * power
    for _ in range(most):
        active = power > goal
        if not bool(active.any()):  # a step costs a pass through the network: worth the wait
            break
        applied = apply(direction)
        curvature = sum_event(direction * applied)
        step = torch.where(active & (curvature > 0), power / curvature, torch.zeros_like(power))
        u = u + expand_like(step, u) * direction
        residual = residual - expand_like(step, u) * applied
        before, power = power, torch.where(active, sum_event(residual * residual), power)
        turn = torch.where(active, power / before, torch.zeros_like(power))
        direction = torch.where(
            expand_like(active.to(u), u) > 0, residual + expand_like(turn, u) * direction, direction
        )
    return u
