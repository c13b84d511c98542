r"""Kernel Stein discrepancy: distance of a sample from a distribution, given its score alone.

.. math:: u(x, x') = s \cdot s' k + s \cdot \nabla_{x'} k + s' \cdot \nabla_x k
          + \mathrm{tr} \nabla_x \nabla_{x'} k

has expected value zero over x' for every x if s is the score of the distribution of x'. Kernels
here are k = phi(q) of the squared distance q = \|x - x'\|^2 / l^2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_batch, require_choice, require_count, require_positive
from sde_score._core.conditions import Condition
from sde_score.models import Density, Marginal, Model
from sde_score.objectives.base import BaseObjective
from sde_score.random import Draws, probes


def _imq(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    base = (1 + q).rsqrt()
    return base, -0.5 * base**3, 0.75 * base**5


def _rbf(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.exp(-0.5 * q)
    return value, -0.5 * value, 0.25 * value


STEIN_KERNELS: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "imq": _imq,
    "rbf": _rbf,
}
"""phi with its first two derivatives: `imq` is (1 + q)^(-1/2), `rbf` is exp(-q / 2)."""


def stein_matrix(
    x: Tensor, score: Tensor, kernel: str = "imq", bandwidth: str | float = "median"
) -> Tensor:
    """u(x_i, x_j) for all pairs of a sample, float64 `(n, n)`, differentiable in the score.

    Args:
        x: shape `(n, *event)`; the bandwidth takes no gradient.
        score: at x, like x.
        kernel: a name from `STEIN_KERNELS`.
        bandwidth: l, > 0; `"median"` takes the median distance between points that differ.

    Raises:
        ValueError: for an unknown kernel or bandwidth, or shapes that do not agree.
    """
    require_settings(kernel, bandwidth)
    if score.shape != x.shape:
        raise ValueError(f"score has shape {tuple(score.shape)}, x has {tuple(x.shape)}")
    at, s = x.reshape(len(x), -1).double(), score.reshape(len(x), -1).double()
    at = at - at.detach().mean(0)  # so that no digits are lost where squares are multiplied out
    square = (at**2).sum(1)
    distance = (square[:, None] + square - 2 * at @ at.mT).clamp(min=0)
    rounding = (at.shape[1] + 4) * torch.finfo(at.dtype).eps * (square[:, None] + square)
    scale = _square_length(distance.detach()[distance > rounding], bandwidth)
    phi, slope, bend = STEIN_KERNELS[kernel](distance / scale)
    along = s @ at.mT
    own = (s * at).sum(1)
    # (x_i - x_j) . (s_j - s_i)
    pull = along.mT + along - own - own[:, None]
    trace = -2 * at.shape[1] * slope - 4 * bend * distance / scale
    return phi * (s @ s.mT) + (2 * slope * pull + trace) / scale


def require_settings(kernel: str, bandwidth: str | float) -> None:
    """Refuse an unknown kernel, and a bandwidth that is neither `"median"` nor positive.

    Raises:
        ValueError: naming the argument.
    """
    require_choice("kernel", kernel, tuple(STEIN_KERNELS))
    if isinstance(bandwidth, str):
        require_choice("bandwidth", bandwidth, ("median",))
    else:
        require_positive(bandwidth=bandwidth)


def _square_length(apart: Tensor, bandwidth: str | float) -> Tensor:
    """l^2, given the squared distances of the pairs that differ by more than rounding."""
    if not isinstance(bandwidth, str):
        return apart.new_tensor(bandwidth**2)
    return apart.median() if apart.numel() else apart.new_ones(())


@dataclass(frozen=True)
class SteinDiscrepancy(BaseObjective):
    r"""Kernel Stein discrepancy as a loss: pairs of examples, neither chains nor derivatives.

    .. math:: loss_i = \frac{1}{n - 1} \sum_{j \ne i} u(x_i, x_j)

    The mean over a batch is the U-statistic of the squared discrepancy: its expected value is 0
    where the score is right and above elsewhere, though a batch may fall below. The rows of a
    batch need one another, so that it depends on how a global batch is cut. In high dimensions it
    is blind to much. The model is that of the data, at `t_min`.

    Args:
        kernel: `imq`, which notices mass that is missing, or `rbf`.
        bandwidth: length of the kernel, > 0; `"median"` takes the median distance in the batch.

    Raises:
        ValueError: for an unknown kernel or bandwidth; when called, for a batch of one.

    Cost: one score per example, and n^2 D products.

    Reference: Liu, Lee & Jordan 2016, https://arxiv.org/abs/1602.03253; `imq`: Gorham & Mackey
    2017, https://arxiv.org/abs/1703.01717.
    """

    all_noise_levels = False
    cost = "F + B"
    converges_to = "the score of the data, as seen through the kernel"
    reference = "Liu, Lee & Jordan 2016, https://arxiv.org/abs/1602.03253"

    kernel: str = "imq"
    bandwidth: str | float = "median"

    def __post_init__(self) -> None:
        check_fields(self)
        require_settings(self.kernel, self.bandwidth)

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        """Mean of u over the pairs of each example with the others, shape `(batch,)`."""
        if len(x0) < 2:
            raise ValueError("x0 has one example; the Stein discrepancy needs pairs: at least 2")
        score = Marginal(model, None, condition).score(x0)
        pairs = _without_diagonal(stein_matrix(x0, score, self.kernel, self.bandwidth))
        return (pairs.sum(1) / (len(x0) - 1)).to(x0.dtype)


@dataclass(frozen=True)
class SteinTest:
    """The result of a goodness-of-fit test.

    Args:
        statistic: n times the U-statistic; near 0 or below if the sample is of the distribution.
        p_value: share of samples of the distribution whose statistic is as large.
    """

    statistic: float
    p_value: float


@torch.no_grad()
def stein_test(
    density: Density,
    x: Tensor,
    kernel: str = "imq",
    bandwidth: str | float = "median",
    bootstrap: int = 1000,
    generator: Generator | None = None,
) -> SteinTest:
    r"""Test whether independent points are draws of a distribution, given its score alone.

    The statistic is compared with its wild bootstrap, in which random signs stand for the chance
    in a sample of the distribution:

    .. math:: \frac{1}{n - 1} \sum_{i \ne j} \epsilon_i \epsilon_j u(x_i, x_j), \qquad
              \epsilon_i = \pm 1 .

    Args:
        density: the distribution, of which only `score` is evaluated; `Marginal(model, t)` for a
            model.
        x: independent points, `(n, *event)`, at least 2. Draws of a chain are not: thin them first.
        kernel: a name from `STEIN_KERNELS`.
        bandwidth: length of the kernel, > 0, or `"median"`.
        bootstrap: number of sets of signs, at least 1; the smallest p-value is 1 / (1 + bootstrap).
        generator: source of the signs.

    Raises:
        ValueError: for an unknown kernel or bandwidth, or fewer than 2 points.

    Reference: Chwialkowski, Strathmann & Gretton 2016, https://arxiv.org/abs/1602.02964; Liu, Lee
    & Jordan 2016, https://arxiv.org/abs/1602.03253.
    """
    require_batch("x", x)
    require_count(bootstrap=bootstrap)
    if len(x) < 2:
        raise ValueError("x has fewer than 2 points; the Stein discrepancy needs pairs")
    pairs = _without_diagonal(stein_matrix(x, density.score(x), kernel, bandwidth))
    pairs = pairs / (len(x) - 1)
    statistic = pairs.sum()
    signs = probes(1, pairs.new_empty((bootstrap, len(x))), "rademacher", generator)[0]
    chance = ((signs @ pairs) * signs).sum(1)
    p_value = (1 + (chance >= statistic).sum()) / (1 + bootstrap)
    if not bool(statistic.isfinite()):
        p_value = torch.full_like(statistic, torch.nan)
    return SteinTest(float(statistic), float(p_value))


def _without_diagonal(matrix: Tensor) -> Tensor:
    return matrix - torch.diag(matrix.diagonal())
