r"""Distances from averages over pairs of examples: energy distance, maximum mean discrepancy.

Both are one formula, with a kernel k, here a function of the distance between two examples:

.. math:: D = E\,k(X, X') + E\,k(Y, Y') - 2\,E\,k(X, Y)

where X, X' are independent draws of one distribution. The averages leave out each example's pair
with itself, which makes the estimate unbiased: for two sets of one distribution it is 0 on average,
and so may be negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sde_score._core.checks import require_positive
from sde_score.evaluation.metrics._sets import blocks, require_sets
from sde_score.random import generator_from

_MEDIAN_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_MEDIAN_EXAMPLES = 1000


def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""Energy distance between two sets, unbiased, in the units of the data.

    .. math:: 2\,E|X - Y| - E|X - X'| - E|Y - Y'|

    Args:
        x: first set, shape `(n, *event)`, n >= 2.
        y: second set, shape `(m, *event)`; m may differ from n.

    Returns:
        The estimate; below 0 by chance alone.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if the sets do not fit each other, are too small or not finite.

    Reference: Székely & Rizzo 2013, https://doi.org/10.1016/j.jspi.2013.03.018.
    """
    x, y = require_sets(x, y)
    return discrepancy(x, y, lambda a, b: -squared_distances(a, b).sqrt(), center=mean_example(y))


def maximum_mean_discrepancy(
    x: Tensor, y: Tensor, bandwidths: Sequence[float] | None = None
) -> float:
    r"""Squared maximum mean discrepancy under a mixture of Gaussian kernels, unbiased, no units.

    .. math:: k(a, b) = \frac{1}{|H|} \sum_{h \in H} \exp\left( -\frac{|a - b|^2}{2 h^2} \right)

    Args:
        x: samples, shape `(n, *event)`, n >= 2.
        y: reference data, shape `(m, *event)`; m may differ from n.
        bandwidths: the set H, in the units of the data; None takes the median distance between two
            examples of `y` times 1/4, 1/2, 1, 2 and 4, so that the scale never depends on the
            samples that are judged. The median is over at most 1000 examples of `y`, always the
            same ones.

    Returns:
        The estimate of MMD squared, at most 2; below 0 by chance alone.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if the sets do not fit each other, are too small or not finite, or a bandwidth
            is not positive.

    Reference: Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html, lemma 6.
    """
    x, y = require_sets(x, y)
    if bandwidths is None:
        median = _median_distance(y)
        bandwidths = [factor * median for factor in _MEDIAN_FACTORS]
    if not bandwidths:
        raise ValueError("bandwidths is empty: give at least one, or None for the median rule")
    for bandwidth in bandwidths:
        require_positive(bandwidths=bandwidth)
    rates = [-0.5 / bandwidth**2 for bandwidth in bandwidths]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = squared_distances(a, b)
        mixture = torch.zeros_like(squared)
        for rate in rates:
            mixture += (rate * squared).exp_()
        return mixture / len(rates)

    return discrepancy(x, y, kernel, center=mean_example(y))


Kernel = Callable[[Tensor, Tensor], Tensor]


def discrepancy(x: Tensor, y: Tensor, kernel: Kernel, center: Tensor | None = None) -> float:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y) for any kernel, in float64, in blocks.

    Args:
        x: first set, shape `(n, features)`, n >= 2.
        y: second set, shape `(m, features)`, m >= 2.
        kernel: maps rows `(i, features)` and `(j, features)` to the values `(i, j)` of their pairs.
        center: subtracted from every row, shape `(features,)`: a kernel of distances is
            invariant to a common shift, which saves digits of float64. None for no shift.
    """
    if center is None:
        center = x.new_zeros(x.shape[1], dtype=torch.float64)
    within = _mean_within(x, kernel, center) + _mean_within(y, kernel, center)
    return within - 2 * _mean_between(x, y, kernel, center)


def _mean_within(x: Tensor, kernel: Kernel, center: Tensor) -> float:
    """Average of the kernel over the pairs of different examples of one set."""
    total = 0.0
    parts = blocks(x)
    for i, rows in enumerate(parts):
        a = x[rows].to(center) - center
        total += float(kernel(a, a).fill_diagonal_(0).sum())
        for others in parts[i + 1 :]:
            b = x[others].to(center) - center
            total += 2 * float(kernel(a, b).sum())
    return total / (len(x) * (len(x) - 1))


def _mean_between(x: Tensor, y: Tensor, kernel: Kernel, center: Tensor) -> float:
    """Average of the kernel over all pairs of an example of `x` and one of `y`."""
    total = 0.0
    for rows in blocks(x):
        a = x[rows].to(center) - center
        for others in blocks(y):
            b = y[others].to(center) - center
            total += float(kernel(a, b).sum())
    return total / (len(x) * len(y))


def mean_example(x: Tensor) -> Tensor:
    """Average of the rows of `x`, shape `(features,)`, in float64."""
    total = x.new_zeros(x.shape[1], dtype=torch.float64)
    for rows in blocks(x):
        total += x[rows].to(torch.float64).sum(0)
    return total / len(x)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between rows, shape `(len(a), len(b))`, by one matrix product."""
    squared = (a @ b.T).mul_(-2)
    squared += a.square().sum(1)[:, None]
    squared += b.square().sum(1)
    return squared.clamp_(min=0)


def _median_distance(y: Tensor) -> float:
    if len(y) > _MEDIAN_EXAMPLES:
        order = torch.randperm(len(y), generator=generator_from(0))
        y = y[order[:_MEDIAN_EXAMPLES].to(y.device)]
    a = y.to(torch.float64) - mean_example(y)
    above = torch.ones(len(y), len(y), dtype=torch.bool, device=y.device).triu_(1)
    median = float(squared_distances(a, a)[above].median().sqrt())
    if median == 0:
        raise ValueError(
            "bandwidths=None takes the median distance within y, which is 0: at least half of its "
            "pairs are copies; give bandwidths, or remove copies"
        )
    return median
