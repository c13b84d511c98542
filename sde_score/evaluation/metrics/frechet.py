r"""Fréchet distance: how far two sets are from each other in mean and covariance.

.. math:: d^2 = |\mu_a - \mu_b|^2 + \mathrm{tr}\,\Sigma_a + \mathrm{tr}\,\Sigma_b
          - 2\,\mathrm{tr}\,(\Sigma_a \Sigma_b)^{1/2}

This is the squared 2-Wasserstein distance between the normal distributions of those moments. With
factors :math:`\Sigma = F^T F` the last trace is the sum of the singular values of
:math:`F_a F_b^T`. It is real at any rank, and rounding enters it linearly, while the root of a
matrix product would enlarge rounding to its square root in every direction of zero variance.

The estimate from n examples is biased upward, more so for small n: compare only figures of equal n,
each beside its noise floor.

Reference: Dowson & Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X; on features: Heusel
et al. 2017, https://arxiv.org/abs/1706.08500.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import require_batch, require_count
from sde_score._core.errors import DataError, damaged, naming
from sde_score._core.files import replace_file
from sde_score.evaluation.features.extractors import feature_batches
from sde_score.evaluation.metrics._sets import blocks, require_sets


class FeatureStatistics:
    r"""Count, mean and covariance of features, gathered in blocks, in float64 on the CPU.

    A block of n_b examples with mean :math:`\mu_b` and centered squares S_b joins n examples by

    .. math:: S \leftarrow S + S_b
              + \frac{n n_b}{n + n_b} (\mu_b - \mu)(\mu_b - \mu)^T, \qquad \Sigma = S / (n - 1)

    so that no digits are lost to a mean far from zero.

    Args:
        features: length of a feature vector.

    Attributes:
        count: number of examples so far; None for a file without a count.
        mean: shape `(features,)`.

    Reference: Chan, Golub & LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115.
    """

    count: int | None

    def __init__(self, features: int) -> None:
        require_count(features=features)
        self.count = 0
        self.mean = torch.zeros(features, dtype=torch.float64)
        self._squares = torch.zeros(features, features, dtype=torch.float64)

    @classmethod
    def of(
        cls,
        x: Tensor,
        extractor: str | Callable[[Tensor], Tensor] = "pixels",
        *,
        batch_size: int = 256,
        progress: bool = False,
    ) -> FeatureStatistics:
        """Statistics of the features of `x`; arguments and errors as for `feature_batches`."""
        statistics = None
        batches = feature_batches(x, extractor, batch_size=batch_size, progress=progress)
        for features in batches:
            statistics = statistics or cls(features.shape[1])
            statistics.update(features)
        if statistics is None:
            raise ValueError("x holds no examples: there is nothing to measure")
        return statistics

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, shape `(features, features)`.

        Raises:
            ValueError: with fewer than two examples.
        """
        if self.count is None:
            return self._squares
        if self.count < 2:
            raise ValueError(f"{self.count} example(s) have no covariance: give at least 2")
        return self._squares / (self.count - 1)

    def update(self, features: Tensor) -> None:
        """Add examples.

        Args:
            features: shape `(n, features)`, any floating-point dtype and device.

        Raises:
            TypeError: if it is not a floating-point tensor.
            ValueError: for another shape, numbers that are not finite, or an unknown count.
        """
        require_batch("features", features)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"features of shape {tuple(features.shape)} do not fit: accepted is "
                f"(n, {len(self.mean)})"
            )
        for rows in blocks(features):
            block = features[rows].detach().to("cpu", torch.float64)
            if not bool(block.isfinite().all()):
                raise ValueError("features hold numbers that are not finite")
            mean = block.mean(0)
            centered = block - mean
            self._join(len(block), mean, centered.T @ centered)

    def merge(self, other: FeatureStatistics) -> None:
        """Add the examples of other statistics.

        Raises:
            ValueError: if they have other features, or a count is unknown.
        """
        if len(other.mean) != len(self.mean):
            raise ValueError(f"other has {len(other.mean)} features, these are {len(self.mean)}")
        if other.count is None:
            raise ValueError("other was read from a file without a count: it cannot be added")
        if other.count:
            self._join(other.count, other.mean, other._squares)

    def _join(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if self.count is None:
            raise ValueError("the file of these statistics has no count: nothing can be added")
        total, shift = self.count + count, mean - self.mean
        self._squares += squares
        self._squares += (self.count * count / total) * torch.outer(shift, shift)
        self.mean = self.mean + (count / total) * shift
        self.count = total

    def save(self, path: str | Path) -> None:
        """Write an `.npz` file with `mu` and `sigma`, as in EDM's reference files, and `count`.

        The file appears under its name in one step, when it is complete.

        Raises:
            ValueError: with fewer than two examples.
        """
        arrays = {"mu": self.mean.numpy(), "sigma": self.covariance.numpy()}
        if self.count is not None:
            arrays["count"] = np.asarray(self.count)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        replace_file(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Read a file of `save`, or a foreign `.npz` file with `mu` and `sigma`.

        Raises:
            OSError: if there is no such file.
            DataError: if it is damaged, or does not hold a mean and a covariance.
        """
        with naming(Path(path)), open(path, "rb") as file:
            with damaged("statistics: an .npz file with mu and sigma"):
                stored = np.load(file, allow_pickle=False)
                mu, sigma = (np.asarray(stored[key], np.float64) for key in ("mu", "sigma"))
                count = int(stored["count"]) if "count" in stored else None
            _require_moments(mu, sigma, count)
        statistics = cls(len(mu))
        statistics.count = count
        statistics.mean = torch.as_tensor(mu)
        squares = torch.as_tensor(sigma)
        statistics._squares = squares if count is None else squares * (count - 1)
        return statistics


def _require_moments(mu: np.ndarray, sigma: np.ndarray, count: int | None) -> None:
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise DataError(
            f"mu of shape {mu.shape} and sigma of shape {sigma.shape} are not a mean (d,) and a "
            "covariance (d, d)"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError("mu or sigma holds numbers that are not finite")
    largest = np.abs(sigma).max()
    if np.diag(sigma).min() < 0 or np.abs(sigma - sigma.T).max() > 1e-6 * largest:
        raise DataError("sigma is not a covariance: it must be symmetric, its diagonal at least 0")
    if count is not None and count < 2:
        raise DataError(f"count={count} must be at least 2")


class _Moments(NamedTuple):
    """Mean, and a factor F of the covariance F^T F, shape `(k, features)` with any k."""

    mean: Tensor
    factor: Tensor


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance from statistics, in the squared units of the features, at least 0.

    Args:
        a: statistics of one set, such as samples.
        b: statistics of the other; the order does not matter.

    Raises:
        ValueError: if they have different features, or fewer than two examples.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"a has {len(a.mean)} features and b has {len(b.mean)}: both must come from one "
            "extractor"
        )
    return _distance(_Moments(a.mean, _root(a)), _Moments(b.mean, _root(b)))


def frechet(x: Tensor, y: Tensor) -> float:
    """Fréchet distance between two sets of examples, or of features; see `frechet_distance`.

    Args:
        x: first set, shape `(n, *event)`, n >= 2.
        y: second set, shape `(m, *event)`; m may differ from n.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if the sets do not fit each other, are too small or not finite.
    """
    x, y = require_sets(x, y)
    return _distance(_moments(x), _moments(y))


def _distance(a: _Moments, b: _Moments) -> float:
    overlap = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    spread = a.factor.square().sum() + b.factor.square().sum() - 2 * overlap
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


def _moments(x: Tensor) -> _Moments:
    """Moments of features; for few examples the centered set itself is the smaller factor."""
    count, features = x.shape
    if count > features:
        statistics = FeatureStatistics(features)
        statistics.update(x)
        return _Moments(statistics.mean, _root(statistics))
    x = x.to("cpu", torch.float64)
    mean = x.mean(0)
    return _Moments(mean, (x - mean) / (count - 1) ** 0.5)


def _root(statistics: FeatureStatistics) -> Tensor:
    """A factor of the covariance from its eigenvectors, without those of its null space."""
    covariance = statistics.covariance
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    rounding = len(values) * torch.finfo(values.dtype).eps * values.abs().max()
    kept = values > rounding
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root.T
