"""Conjugate gradients and L-BFGS for many examples at once."""

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


def minimise(
    function: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    x: Tensor,
    iterations: int,
    memory: int = 10,
) -> Tensor:
    """What belongs to the least value found by L-BFGS, each example by itself.

    A step is taken by those examples whose value it lowers; the others try a quarter of it next.
    Each iteration asks once.

    Args:
        function: x -> value of shape `(batch,)`, gradient like x, and what belongs to x.
        x: where to begin, shape `(batch, ...)`.
        iterations: how many.
        memory: pairs of steps and changes that are kept.

    Reference: Liu & Nocedal 1989, https://doi.org/10.1007/BF01589116.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return expand_like(sum_event(a * b), a)

    value, gradient, best = function(x)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    tiny = torch.finfo(x.dtype).tiny
    scale = torch.ones_like(dot(x, x))
    curvature = dot(gradient, gradient).sqrt().clamp(min=1.0)
    for _ in range(iterations):
        way, shares = gradient, []
        for step, change, inverse in reversed(pairs):
            shares.append(inverse * dot(step, way))
            way = way - shares[-1] * change
        way = way / curvature
        for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
            way = way + (share - inverse * dot(change, way)) * step
        way = torch.where(dot(way, gradient) > 0, way, gradient / curvature)
        tried = x - scale * way
        reached, slope, made = function(tried)
        better = expand_like((reached < value).to(x), x) > 0
        step, change = tried - x, slope - gradient
        product = dot(step, change)
        useful = better & (product > 1e-10 * dot(change, change))
        inverse = torch.where(useful, 1 / product.clamp(min=tiny), torch.zeros_like(product))
        curvature = torch.where(useful, dot(change, change) * inverse, curvature)
        pairs = [*pairs, (step, change, inverse)][-memory:]
        scale = torch.where(better, (4 * scale).clamp(max=1.0), scale / 4)
        x, gradient = torch.where(better, tried, x), torch.where(better, slope, gradient)
        value, best = torch.where(reached < value, reached, value), torch.where(better, made, best)
    return best
