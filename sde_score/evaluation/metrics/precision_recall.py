r"""Precision, recall, density and coverage of samples, from counts of nearest neighbors.

Around every example lies its ball, which reaches to its k-th nearest neighbor in its own set (not
counting itself). With N data, M samples and closed balls:

- precision: fraction of samples in at least one ball of the data (fidelity),
- recall: fraction of data in at least one ball of the samples (diversity),
- density: number of balls of the data that a sample lies in, averaged and divided by k; it may
  exceed 1, and is 1 on average for perfect samples,
- coverage: fraction of the balls of the data that hold at least one sample.

One outlier of the data has a huge ball, which precision counts in full; density and coverage avoid
that. For perfect samples the mean of coverage is
:math:`1 - \prod_{i=1}^k \frac{N - i}{N + M - i}` for
any distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.evaluation.metrics._sets import blocks, require_sets
from sde_score.evaluation.metrics.energy_mmd import mean_example, squared_distances

_ROUNDING = 1e-12  # of a squared distance, in units of the squared norms


@dataclass(frozen=True)
class NeighborScores:
    """Precision, recall, density and coverage; larger is better.

    Args:
        precision: 0 to 1.
        recall: 0 to 1.
        density: at least 0.
        coverage: 0 to 1.
        k: which neighbor sets the radius.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def neighbor_scores(samples: Tensor, data: Tensor, k: int = 5) -> NeighborScores:
    """Precision, recall, density and coverage of samples, in float64, in blocks.

    Args:
        samples: shape `(m, *event)`, m > k; examples, or their features.
        data: shape `(n, *event)`, n > k.
        k: which neighbor sets the radius of a ball.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if the sets do not fit each other, are too small or not finite.

    Reference: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, eq. 1 and 2; Naeem et al.
        2020, https://arxiv.org/abs/2002.09797, eq. 4 to 6 and lemma 2.
    """
    samples, data = require_sets(samples, data)
    require_count(k=k)
    if min(len(samples), len(data)) <= k:
        raise ValueError(
            f"k={k} neighbors need more than {k} examples in each set, got {len(samples)} samples "
            f"and {len(data)} data"
        )
    center = mean_example(data)
    balls_per_sample, samples_per_ball = _memberships(samples, data, k, center)
    balls_per_datum, _ = _memberships(data, samples, k, center)
    return NeighborScores(
        precision=_fraction(balls_per_sample > 0),
        recall=_fraction(balls_per_datum > 0),
        density=float(balls_per_sample.sum()) / (k * len(samples)),
        coverage=_fraction(samples_per_ball > 0),
        k=k,
    )


def _fraction(of: Tensor) -> float:
    return float(of.sum()) / len(of)


def _memberships(x: Tensor, centers: Tensor, k: int, center: Tensor) -> tuple[Tensor, Tensor]:
    """Balls around `centers` that each x lies in, and how many x each ball holds.

    Returns:
        integers, shapes `(len(x),)` and `(len(centers),)`.
    """
    per_example = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    per_ball = torch.zeros(len(centers), dtype=torch.int64, device=x.device)
    for rows in blocks(centers):
        balls = centers[rows].to(center) - center
        radii = _squared_radii(balls, rows, centers, k, center)
        for others in blocks(x):
            inside = squared_distances(balls, x[others].to(center) - center) <= radii[:, None]
            per_example[others] += inside.sum(0)
            per_ball[rows] += inside.sum(1)
    return per_example, per_ball


def _squared_radii(balls: Tensor, rows: slice, centers: Tensor, k: int, center: Tensor) -> Tensor:
    """Squared distances of `balls`, the given rows of `centers`, to their k-th neighbors there.

    They are enlarged by a rounding error: copies of the k-th neighbor lie on the edge of the ball,
    and must count as inside.
    """
    nearest = balls.new_empty(len(balls), 0)
    for others in blocks(centers):
        squared = squared_distances(balls, centers[others].to(center) - center)
        if others == rows:
            squared.fill_diagonal_(torch.inf)
        nearest = torch.cat([nearest, squared], dim=1)
        nearest = nearest.topk(min(k, nearest.shape[1]), dim=1, largest=False).values
    return nearest.amax(1) + _ROUNDING * balls.square().sum(1)
