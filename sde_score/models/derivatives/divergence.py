r"""Divergence of a field, exact or estimated, and the asymmetry of its Jacobian J.

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
    push_forward,
    quadratic_forms,
    unit_vectors,
    value_and_forms,
    value_and_point,
    vector_jacobian,
)
from sde_score.random import PROBE_DISTRIBUTIONS, Draws, generator_from
from sde_score.random import probes as draw_probes

DIVERGENCE_METHODS = ("exact", "hutchinson", "hutch++")

_ROUNDING = 1e-3


def value_and_divergence(
    field: Field, x: Tensor, probes: Tensor | None = None, mode: str = "reverse"
) -> tuple[Tensor, Tensor]:
    """A field and its divergence at x, exact or for given probes, from one call of the field.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.
        probes: None for the exact trace, D derivatives; or probes v with E[v v^T] = I, shape
            `(n, batch, *event)`, for Hutchinson's estimate, one derivative each.
        mode: `reverse` or `forward`, see `value_and_forms`.

    Returns:
        The value, like x, and the divergence: shape `(1, batch)` if exact, else one row for each
        probe, `(n, batch)`. Both carry a graph where gradients are enabled.

    Raises:
        TypeError: if x is not floating point.
        ValueError: for an unknown mode, or a value that is not shaped like x or has no graph.
    """
    value, forms = value_and_forms(field, x, unit_vectors(x) if probes is None else probes, mode)
    return value, forms.sum(0, keepdim=True) if probes is None else forms


def divergence(
    field: Field,
    x: Tensor,
    method: str = "exact",
    probes: int = 1,
    probe_distribution: str = "rademacher",
    generator: Draws = None,
    mode: str = "reverse",
) -> Tensor:
    """The divergence of a field at x, from one call of the field.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.
        method: one of

            - `exact`: D derivatives.
            - `hutchinson`: the mean of v^T J v over probes, one derivative each. For the symmetric
              part A of J one probe has variance 2 |A|^2 (gaussian), 2 (|A|^2 - sum A_ii^2)
              (rademacher) or 2 D / (D + 2) (|A|^2 - tr^2 / D) (sphere).
            - `hutch++`: a third of the probes finds where J acts most, a third takes the trace
              there, exactly, and the rest estimates what is left. Exact once a third of the
              probes reaches the rank of J, much better than Hutchinson where the singular values
              of J fall fast, and worse where they are all alike. From D probes on it is `exact`.
        probes: number of derivatives for the random methods, at least 1, `hutch++` 3.
        probe_distribution: a name in `PROBE_DISTRIBUTIONS`.
        generator: source of the draws.
        mode: `reverse` or `forward`, see `value_and_forms`; `hutch++` takes `reverse`.

    Returns:
        Shape `(batch,)`; carries a graph where gradients are enabled.

    Raises:
        TypeError: if x is not floating point.
        ValueError: for an unknown name, too few probes, or a value that is not shaped like x or
            has no graph.

    Reference: Hutchinson 1989, https://doi.org/10.1080/03610918908812806; Meyer et al. 2021
    (Hutch++), https://arxiv.org/abs/2010.09649, algorithm 1.
    """
    require_choice("method", method, DIVERGENCE_METHODS)
    require_choice("probe_distribution", probe_distribution, tuple(PROBE_DISTRIBUTIONS))
    require_count(3 if method == "hutch++" else 1, probes=probes)
    if method == "exact" or (method == "hutch++" and probes >= math.prod(x.shape[1:])):
        return value_and_divergence(field, x, None, mode)[1][0]
    if method == "hutchinson":
        vectors = draw_probes(probes, x, probe_distribution, generator)
        return value_and_divergence(field, x, vectors, mode)[1].mean(0)
    require_choice("mode of hutch++", mode, ("reverse",))
    third = probes // 3
    sketch = draw_probes(third, x, probe_distribution, generator)
    rest = draw_probes(probes - 2 * third, x, probe_distribution, generator)
    return hutch_plus_plus(*value_and_point(field, x), sketch, rest, torch.is_grad_enabled())


def require_forward_mode(field: Field, x: Tensor) -> None:
    """Refuse a field through which tangents do not travel, by one example.

    Forward mode is silent where a field detaches x, as a score does that is the gradient of an
    energy; reverse mode sees through that.

    Args:
        field: as for `value_and_divergence`.
        x: a batch of one, shape `(1, *event)`.

    Raises:
        ValueError: if the two modes differ by more than rounding.
    """
    vectors = draw_probes(1, x, generator=generator_from(0, device=x.device))
    with torch.no_grad():
        pushed = push_forward(field, x.detach(), vectors[0])[1]
        pulled = vector_jacobian(field, x, vectors[0])[1]
    scale = vectors.norm() * torch.maximum(pushed.norm(), pulled.norm())
    if bool(((pushed - pulled) * vectors[0]).sum().abs() > _ROUNDING * scale):
        raise ValueError(
            "mode='forward' and mode='reverse' give this model different divergences: something in "
            "it detaches x or is not differentiable forward; use mode='reverse'"
        )


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
        create_graph: see `quadratic_forms`.

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
        ValueError: for an unknown distribution, probes below 1, or a value that is not shaped like
            x or has no graph.
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
