r"""Two numbers that the Jacobian J of a field has: its trace, and how far it is from symmetric.

.. math:: \mathrm{div} f = \mathrm{tr} J = \sum_i e_i^T J e_i = E[v^T J v],
          \qquad E[v v^T] = I .
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sde_score._core.checks import require_choice, require_count, sum_event
from sde_score.models.derivatives.jacobian import (
    Field,
    jacobian,
    pull,
    push,
    quadratic_forms,
    unit_vectors,
    value_and_point,
)
from sde_score.random import PROBE_DISTRIBUTIONS, Draws
from sde_score.random import probes as draw_probes

DIVERGENCE_METHODS = ("exact", "hutchinson", "hutch++")


def divergence(
    field: Field,
    x: Tensor,
    method: str = "exact",
    probes: int = 1,
    probe_distribution: str = "rademacher",
    generator: Draws = None,
) -> Tensor:
    """The divergence of a field at x, from one call of the field.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.
        method: one of

            - `exact`: D backward passes.
            - `hutchinson`: the mean of v^T J v over probes, one backward pass each. For the
              symmetric part A of J one probe has variance 2 |A|^2 (gaussian), 2 (|A|^2 - sum
              A_ii^2) (rademacher) or 2 D / (D + 2) (|A|^2 - tr^2 / D) (sphere).
            - `hutch++`: a third of the probes finds where J acts most, a third takes the trace
              there, exactly, and the rest estimates what is left. Exact once a third of the
              probes reaches the rank of J, much better than Hutchinson where the singular values
              of J fall fast, and worse where they are all alike. From D probes on it is `exact`.
        probes: number of backward passes for the random methods, at least 1, `hutch++` 3.
        probe_distribution: a name in `PROBE_DISTRIBUTIONS`.
        generator: source of the draws.

    Returns:
        Shape `(batch,)`.

    Raises:
        TypeError: if x is not floating point.
        ValueError: for an unknown name, too few probes, or a value that is not shaped like x or
            has no graph.

    Reference: Hutchinson 1989, https://doi.org/10.1080/03610918908812806; Meyer et al. 2021
    (Hutch++), https://arxiv.org/abs/2010.09649, algorithm 1.
    """
    _check_method(method, probes, probe_distribution)
    value, point = value_and_point(field, x)
    return divergence_of(value, point, method, probes, probe_distribution, generator)


def divergence_of(
    value: Tensor,
    point: Tensor,
    method: str = "exact",
    probes: int = 1,
    probe_distribution: str = "rademacher",
    generator: Draws = None,
) -> Tensor:
    """`divergence` of a field that has been evaluated, for those who need its value as well.

    Args:
        value: of the field at `point`, shape `(batch, *event)`.
        point: where, a tensor like `value` that requires a gradient and that `value` was computed
            from. Where gradients are disabled the graph of `value` is released.
        method: as in `divergence`.
        probes: as in `divergence`.
        probe_distribution: as in `divergence`.
        generator: as in `divergence`.

    Returns:
        Shape `(batch,)`.

    Raises:
        ValueError: as in `divergence`.
    """
    _check_method(method, probes, probe_distribution)
    keep = torch.is_grad_enabled()
    size = math.prod(point.shape[1:])
    if method == "exact" or (method == "hutch++" and probes >= size):
        return quadratic_forms(value, point, unit_vectors(point), keep).sum(0)
    if method == "hutchinson":
        vectors = draw_probes(probes, point, probe_distribution, generator)
        return quadratic_forms(value, point, vectors, keep).mean(0)
    third = probes // 3
    sketch = draw_probes(third, point, probe_distribution, generator)
    rest = draw_probes(probes - 2 * third, point, probe_distribution, generator)
    return hutch_plus_plus(value, point, sketch, rest, keep)


def hutch_plus_plus(
    value: Tensor, point: Tensor, sketch: Tensor, probes: Tensor, create_graph: bool = False
) -> Tensor:
    r"""Hutch++ with given random vectors.

    .. math:: \mathrm{tr} J = \mathrm{tr} (Q^T J Q) + E[(P v)^T J (P v)], \qquad
              Q = \mathrm{orth}(J^T S),\quad P = I - Q Q^T

    holds for any Q that v does not depend on, so the derivative is taken with Q held fixed.

    Args:
        value: of the field at `point`, shape `(batch, *event)`.
        point: where, a tensor like `value` that requires a gradient.
        sketch: S, shape `(k, batch, *event)` with 1 <= k <= D.
        probes: v, of unit covariance, shape `(n, batch, *event)`.
        create_graph: as in `quadratic_forms`.

    Returns:
        The estimate, shape `(batch,)`, from k backward passes for Q and k + n for the forms.

    Raises:
        ValueError: if `value` has no graph.
    """
    images = [pull(value, point, s, create_graph=False, retain=True) for s in sketch]
    basis, _ = torch.linalg.qr(_columns(torch.stack(images)))
    columns = _columns(probes)
    outside = columns - basis @ (basis.mT @ columns)
    vectors = torch.cat([basis, outside], 2).movedim(2, 0).reshape(-1, *point.shape)
    forms = quadratic_forms(value, point, vectors.to(point.dtype), create_graph)
    rank = basis.shape[2]
    return forms[:rank].sum(0) + forms[rank:].mean(0)


def asymmetry(
    field: Field,
    x: Tensor,
    probes: int | None = None,
    probe_distribution: str = "rademacher",
    generator: Draws = None,
) -> Tensor:
    r"""How far a field is from being a gradient, example by example.

    .. math:: \lVert J - J^T \rVert_F / \lVert J \rVert_F, \qquad
              E \lVert (J - J^T) v \rVert^2 = \lVert J - J^T \rVert_F^2

    0 for the gradient of an energy, 2 where J is antisymmetric (a pure rotation), and in between
    otherwise; 0 where J is zero.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.
        probes: None for the exact norms, D backward passes and D^2 numbers per example; or the
            number of random vectors, two backward and one double-backward pass for each. The ratio
            of two unbiased estimates, in [0, 2] too, has a bias of the order of 1 / probes.
        probe_distribution: a name in `PROBE_DISTRIBUTIONS`.
        generator: source of the draws.

    Returns:
        Shape `(batch,)`, without a graph.

    Raises:
        TypeError: if x is not floating point.
        ValueError: for an unknown law, probes below 1, or a value that is not shaped like x or
            has no graph.
    """
    with torch.no_grad():
        if probes is None:
            matrix = jacobian(field, x)
            difference = (matrix - matrix.mT).square().sum((1, 2))
            total = matrix.square().sum((1, 2))
        else:
            difference, total = torch.zeros(2, x.shape[0], dtype=x.dtype, device=x.device)
            value, point = value_and_point(field, x)
            for v in draw_probes(probes, x, probe_distribution, generator):
                pushed = push(value, point, v, create_graph=False)
                pulled = pull(value, point, v, create_graph=False, retain=True)
                difference += sum_event((pushed - pulled) ** 2)
                total += 0.5 * sum_event(pushed**2 + pulled**2)
        return torch.where(total > 0, difference / total, 0.0).sqrt()


def _columns(vectors: Tensor) -> Tensor:
    """Vectors (n, batch, *event) as the columns of a matrix per example, (batch, D, n)."""
    columns = vectors.reshape(*vectors.shape[:2], -1).movedim(0, 2)
    return columns.to(torch.promote_types(columns.dtype, torch.float32))  # what QR takes


def _check_method(method: str, probes: int, probe_distribution: str) -> None:
    require_choice("method", method, DIVERGENCE_METHODS)
    require_choice("probe_distribution", probe_distribution, tuple(PROBE_DISTRIBUTIONS))
    require_count(3 if method == "hutch++" else 1, probes=probes)
