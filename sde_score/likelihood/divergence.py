r"""The divergence of a vector field, together with its value, from one forward pass.

Both ways are sums of quadratic forms of the Jacobian J of the field,

.. math:: \mathrm{div} = \mathrm{tr} J = \sum_i e_i^T J e_i = E[\epsilon^T J \epsilon],
          \qquad E[\epsilon \epsilon^T] = I,

over all unit vectors (exact: as many derivatives as dimensions) or over random probes
(Hutchinson: one derivative per probe). For a symmetric part A of J the variance of one probe is

.. math:: 2 \lVert A \rVert_F^2 \ (\text{gaussian}), \qquad
          2 \lVert A \rVert_F^2 - 2 \sum_i A_{ii}^2 \ (\text{rademacher}), \qquad
          \frac{2 D}{D + 2} \left(\lVert A \rVert_F^2 - \frac{(\mathrm{tr} A)^2}{D}\right)
          \ (\text{sphere}).

Reference: Hutchinson 1989, https://doi.org/10.1080/03610918908812806;
Grathwohl et al. 2019 (FFJORD), https://arxiv.org/abs/1810.01367.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sde_score._core.checks import require_choice, require_count
from sde_score.models import quadratic_forms, unit_vectors, vector_jacobian
from sde_score.random import PROBE_DISTRIBUTIONS, ExampleStreams, example_seeds

Field = Callable[[Tensor], Tensor]
"""Maps `(batch, *event)` to the same shape, example by example."""

_ROUNDING = 1e-3


def draw_probes(
    count: int, like: Tensor, law: str = "rademacher", seed: int | Sequence[int] | None = 0
) -> Tensor:
    """Random probes, those of each example a function of the example's seed alone.

    Args:
        count: number of probes per example, at least 1.
        like: a batch `(batch, *event)` that gives shape, dtype and device.
        law: a name in `PROBE_DISTRIBUTIONS`.
        seed: as in `sde_score.random.example_seeds`.

    Returns:
        Probes of shape `(count, batch, *event)`.

    Raises:
        ValueError: for an unknown law or a count below 1.
    """
    require_count(probes=count)
    require_choice("probe_distribution", law, tuple(PROBE_DISTRIBUTIONS))
    streams = ExampleStreams(example_seeds(seed, len(like)), like)
    return torch.stack([PROBE_DISTRIBUTIONS[law](streams()) for _ in range(count)])


def value_and_divergence(
    field: Field, x: Tensor, probes: Tensor | None = None, mode: str = "reverse"
) -> tuple[Tensor, Tensor]:
    r"""A vector field and its divergence at x, from one call of the field.

    On a CPU with one thread, in ms per call with one probe (with several):

    ============================== ======== ============= ============ ==============
    network, batch                 its pass reverse       forward      probes
    ============================== ======== ============= ============ ==============
    perceptron, 2-D, 512           4        8 (18)        15 (33)      1 (8)
    perceptron, 64-D, 16           2        4 (21)        12 (35)      1 (64, exact)
    U-Net, 8 x 8, 16               22       51 (118)      133 (172)    1 (4)
    U-Net, 28 x 28, 8              28       63 (171)      129 (243)    1 (4)
    ============================== ======== ============= ============ ==============

    So reverse mode is the default. Forward mode stores nothing, which counts where memory is short.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example, and is differentiable.
        x: where, shape `(batch, *event)`.
        probes: None for the exact trace, or probes of shape `(n, batch, *event)` for Hutchinson's
            estimate.
        mode: a name in `MODES`: `reverse`, v^T J by a backward pass, or `forward`, J v along with
            the value, all vectors at once (`torch.func.jvp`).

    Returns:
        The value, in the shape of x, and the divergence: shape `(1, batch)` if exact, else one row
        for each probe, `(n, batch)`. Neither carries a graph.

    Raises:
        ValueError: for an unknown mode.
    """
    require_choice("mode", mode, tuple(MODES))
    vectors = unit_vectors(x) if probes is None else probes
    value, forms = MODES[mode](field, x, vectors)
    return value.detach(), forms.sum(0, keepdim=True) if probes is None else forms


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
    (vector,) = draw_probes(1, x)
    with torch.no_grad():
        pushed = _push(field, x, vector)[1]
        pulled = vector_jacobian(field, x, vector)[1]
    scale = vector.norm() * torch.maximum(pushed.norm(), pulled.norm())
    if bool(((pushed - pulled) * vector).sum().abs() > _ROUNDING * scale):
        raise ValueError(
            "mode='forward' and mode='reverse' give this model different divergences: something in "
            "it detaches x or is not differentiable forward; use mode='reverse'"
        )


def _reverse(field: Field, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = field(point)
    return value, quadratic_forms(value, point, vectors)


def _forward(field: Field, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        values, pushed = torch.func.vmap(lambda vector: _push(field, x, vector))(vectors)
    return values[0], (vectors * pushed).reshape(*vectors.shape[:2], -1).sum(2)


def _push(field: Field, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """The value and J v."""
    found = torch.func.jvp(field, (x.detach(),), (vector,))
    return found[0], found[1]


MODES: Mapping[str, Callable[[Field, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "reverse": _reverse,
    "forward": _forward,
}
"""`(field, x, vectors) -> (value, v^T J v)`, vectors and products of shape `(n, batch, ...)`."""
