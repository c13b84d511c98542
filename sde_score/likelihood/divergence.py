r"""The divergence of a vector field, together with its value, from one forward pass.

Both ways are sums of quadratic forms of the Jacobian J of the field,

.. math:: \mathrm{div} = \mathrm{tr} J = \sum_i e_i^T J e_i = E[\epsilon^T J \epsilon],
          \qquad E[\epsilon \epsilon^T] = I,

over all unit vectors (exact: as many backward passes as dimensions) or over random probes
(Hutchinson: one backward pass per probe). For a symmetric part A of J the variance of one probe is

.. math:: 2 \lVert A \rVert_F^2 \ (\text{gaussian}), \qquad
          2 \lVert A \rVert_F^2 - 2 \sum_i A_{ii}^2 \ (\text{rademacher}), \qquad
          \frac{2 D}{D + 2} \left(\lVert A \rVert_F^2 - \frac{(\mathrm{tr} A)^2}{D}\right)
          \ (\text{sphere}).

Reference: Hutchinson 1989, https://doi.org/10.1080/03610918908812806;
Grathwohl et al. 2019 (FFJORD), https://arxiv.org/abs/1810.01367.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sde_score._checks import require_choice, require_count
from sde_score.models import quadratic_forms, unit_vectors
from sde_score.random import PROBE_LAWS, ExampleStreams, example_seeds


def draw_probes(
    count: int, like: Tensor, law: str = "rademacher", seed: int | Sequence[int] | None = 0
) -> Tensor:
    """Random probes, those of each example a function of the example's seed alone.

    Args:
        count: number of probes per example, at least 1.
        like: a batch `(batch, *event)` that gives shape, dtype and device.
        law: a name in `PROBE_LAWS`.
        seed: as in `sde_score.random.example_seeds`.

    Returns:
        Probes of shape `(count, batch, *event)`.

    Raises:
        ValueError: for an unknown law or a count below 1.
    """
    require_count(probes=count)
    require_choice("probe_law", law, tuple(PROBE_LAWS))
    streams = ExampleStreams(example_seeds(seed, len(like)), like)
    return torch.stack([PROBE_LAWS[law](streams()) for _ in range(count)])


def value_and_divergence(
    field: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""A vector field and its divergence at x, from one call of the field.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example, and is differentiable.
        x: where, shape `(batch, *event)`.
        probes: None for the exact trace, or probes of shape `(n, batch, *event)` for Hutchinson's
            estimate.

    Returns:
        The value, in the shape of x, and the divergence: shape `(1, batch)` if exact, else one row
        for each probe, `(n, batch)`. Neither carries a graph.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = field(point)
    if probes is None:
        forms = quadratic_forms(value, point, unit_vectors(x)).sum(0, keepdim=True)
    else:
        forms = quadratic_forms(value, point, probes)
    return value.detach(), forms
