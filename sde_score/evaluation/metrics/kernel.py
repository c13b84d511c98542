r"""Kernel distance: maximum mean discrepancy under a cubic polynomial kernel.

It compares the first three moments of two sets. Unlike that of the Fréchet distance its estimate is
unbiased, so that figures of sets of different sizes can be compared.
"""

from __future__ import annotations

from torch import Tensor

from sde_score.evaluation.metrics._sets import require_sets
from sde_score.evaluation.metrics.energy_mmd import discrepancy


def kernel_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared maximum mean discrepancy under a cubic kernel, unbiased.

    .. math:: k(a, b) = (a \cdot b / d + 1)^3

    with d the number of features. All pairs are averaged; averages over random subsets of 1000, as
    some programs take, have the same mean and a larger spread.

    Args:
        x: first set, shape `(n, *event)`, n >= 2; examples, or their features.
        y: second set, shape `(m, *event)`; m may differ from n.

    Returns:
        The estimate; below 0 by chance alone.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if the sets do not fit each other, are too small or not finite.

    Reference: Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 4.
    """
    x, y = require_sets(x, y)
    features = x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T).div_(features).add_(1).pow_(3)

    return discrepancy(x, y, kernel)
