"""Conjugate gradients and L-BFGS for many examples at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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
    active, goal = torch.ones_like(power, dtype=torch.bool), tolerance**2 * power
    for _ in range(most):
        active = active & (power > goal)
        if not bool(active.any()):  # a step costs a pass through the network: worth the wait
            break
        applied = apply(direction)
        curvature = sum_event(direction * applied)
        active = active & (curvature > 0)
        step = torch.where(active, power / curvature, torch.zeros_like(power))
        u = u + expand_like(step, u) * direction
        residual = residual - expand_like(step, u) * applied
        before, power = power, torch.where(active, sum_event(residual * residual), power)
        turn = torch.where(active, power / before, torch.zeros_like(power))
        direction = torch.where(
            expand_like(active.to(u), u) > 0, residual + expand_like(turn, u) * direction, direction
        )
    return u


def solve_with_covariance(
    noise: Callable[[Tensor], Tensor],
    whiten: Callable[[Tensor], Tensor],
    spread: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float,
    most: int,
) -> Tensor:
    """u of (R + C) u = b, with C an operator that should be a covariance and may be none.

    Products with C span the space in which u is sought. Within it the symmetric part of C is taken,
    and u is left out of the directions in which that is negative, of which C knows nothing. For a C
    that is a covariance these are the iterates of conjugate gradients. An example stops by itself,
    when its residual is below the tolerance.

    Args:
        noise: u -> R u, symmetric and positive definite, shape `(batch, ...)`.
        whiten: u -> R^-1 u.
        spread: u -> C u.
        b: right-hand sides, shape `(batch, ...)`.
        tolerance: of the residual, as a share of b, both in the norm of R^-1.
        most: products with C at most.

    Reference: Arnoldi 1951, https://doi.org/10.1090/qam/42792, in the inner product of R.
    """
    start = whiten(b)
    length = sum_event(start * b).clamp(min=0).sqrt()
    tiny = torch.finfo(b.dtype).tiny
    basis = [start / expand_like(length.clamp(min=tiny), b)]
    columns: list[Tensor] = []
    solution = b.new_zeros(len(b), 0)
    active = length > 0
    for k in range(most):
        new = whiten(spread(basis[k]))
        column = []
        for _ in range(2):  # twice is enough for orthogonality to rounding
            parts = torch.stack([sum_event(noise(q) * new) for q in basis], 1)
            for j, q in enumerate(basis):
                new = new - expand_like(parts[:, j], new) * q
            column.append(parts)
        height = sum_event(new * noise(new)).clamp(min=0).sqrt()
        columns.append(torch.cat([column[0] + column[1], height[:, None]], 1))
        found, whole = _projected(columns, length)
        solution = torch.where(active[:, None], found, F.pad(solution, (0, 1)))
        # Where a direction is left out, what is left over says nothing of what is still to come.
        over = torch.where(whole, found[:, k].abs(), length)
        active = active & (height * over > tolerance * length)
        if not bool(active.any()):  # a product costs a pass through the network: worth the wait
            break
        unit = torch.where(active, 1 / height.clamp(min=tiny), torch.zeros_like(height))
        basis.append(expand_like(unit, new) * new)
    basis = basis[: solution.shape[1]]
    return torch.stack([expand_like(solution[:, j], b) * q for j, q in enumerate(basis)]).sum(0)


def _projected(columns: list[Tensor], length: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of u in the basis, shape `(batch, k)`, and whether no direction is left out."""
    k = len(columns)
    rows = [F.pad(c[:, : min(k, c.shape[1])], (0, k - min(k, c.shape[1]))) for c in columns]
    matrix = torch.stack(rows, 2)
    matrix = 0.5 * (matrix + matrix.mT)
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(matrix)
        onto = vectors * (values > 0)[:, None].to(matrix) @ vectors.mT
    first = onto @ F.pad(length[:, None], (0, k - 1))[..., None]
    whole = onto @ matrix @ onto + torch.eye(k).to(matrix)
    return torch.linalg.solve(whole, first)[..., 0], (values > 0).all(1)


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
