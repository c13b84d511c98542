"""Noise-contrastive estimation: an energy and its constant by classifying data and noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from typing_extensions import override

from sde_score._core.arguments import checked
from sde_score._core.checks import require_batch, require_count
from sde_score._core.conditions import Condition
from sde_score.models import Marginal, Model
from sde_score.objectives.base import StatefulObjective
from sde_score.random import Draws, normal

_FULL = 256  # entries of an event up to which the noise is correlated
_RIDGE = 1e-4  # of the mean variance, added to each, as data on a plane have no density


class NoiseContrastive(StatefulObjective):
    r"""Noise-contrastive estimation with a learned log Z.

    .. math:: -\log h(x_0) - \sum_{j=1}^{\nu} \log(1 - h(y_j)), \qquad
              h(x) = \mathrm{sigmoid}(-E(x) - c - \log q(x) - \log \nu), \quad y_j \sim q

    the loss of a classifier that tells an example from nu draws of a known distribution q. Its
    minimum has exp(-E - c) equal to the density of the data: the energy is learned with its
    constant, c = log Z. The closer q is to the data, the better the estimate; here q is the
    Gaussian fitted to them in `setup`, with the full covariance for events of at most 256 entries
    and the variances alone above. One c serves all conditions. The parameter `log_z` starts at the
    log of the constant of the Gaussian energy, log det(2 pi covariance) / 2.

    Args:
        ratio: nu, draws of noise per example, at least 1.

    Raises:
        ValueError: for a ratio below 1.

    Cost: 1 + nu energies (n is nu).

    Reference: Gutmann & Hyvarinen 2010, https://proceedings.mlr.press/v9/gutmann10a.html.
    """

    cost = "(1 + n) F + (1 + n) B"
    converges_to = "the density of the data, with its constant: log_z is log Z"
    reference = "Gutmann & Hyvarinen 2010, https://proceedings.mlr.press/v9/gutmann10a.html"

    mean: Tensor
    factor: Tensor

    @checked
    def __init__(self, ratio: int = 1) -> None:
        super().__init__()
        require_count(ratio=ratio)
        self.ratio = ratio
        self.log_z = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("factor", torch.empty(0))

    @override
    @torch.no_grad()
    def setup(self, examples: Tensor) -> None:
        """Fit the noise to a sample of the data.

        Args:
            examples: shape `(batch, *event)`.

        Raises:
            ValueError: if all examples are alike.
        """
        require_batch("examples", examples)
        flat = examples.reshape(len(examples), -1).double()
        variance = flat.var(0, correction=0)
        ridge = _RIDGE * variance.mean()
        if not ridge > 0:
            raise ValueError("examples are all alike: noise cannot be fitted to them")
        self.mean = examples.double().mean(0).to(examples.dtype)
        if flat.shape[1] <= _FULL:
            off = flat - flat.mean(0)
            covariance = off.mT @ off / len(off) + ridge * torch.eye(flat.shape[1]).to(off)
            factor = torch.linalg.cholesky(covariance)
        else:
            factor = (variance + ridge).sqrt()
        self.factor = factor.to(examples.dtype)
        self.log_z.copy_(_log_det(factor) + 0.5 * flat.shape[1] * math.log(2 * math.pi))

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        self._require_fitted(x0)
        noise = [self.noise(normal(x0, generator)) for _ in range(self.ratio)]
        return self.at(Marginal(model, None, condition), x0, noise)

    def at(self, marginal: Marginal, x0: Tensor, noise: list[Tensor]) -> Tensor:
        """Loss of each example for given noise, shape `(batch,)`.

        Args:
            marginal: the distribution that is learned.
            x0: shape `(batch, *event)`.
            noise: `ratio` draws of the noise, each like x0.
        """
        loss: Tensor = -logsigmoid(self._log_odds(marginal, x0))
        for y in noise:
            loss = loss - logsigmoid(-self._log_odds(marginal, y))
        return loss

    def noise(self, draw: Tensor) -> Tensor:
        """Standard normal draws `(batch, *event)` as draws of the noise, like them."""
        flat, factor = draw.reshape(len(draw), -1), self.factor.to(draw)
        spread = flat @ factor.mT if factor.ndim == 2 else flat * factor
        return self.mean.to(draw) + spread.reshape(draw.shape)

    def log_noise(self, x: Tensor) -> Tensor:
        """Log density of the noise in nats, shape `(batch,)`, in the dtype of x."""
        off = (x - self.mean.to(x)).reshape(len(x), -1).double()
        factor = self.factor.double()
        if factor.ndim == 2:
            white: Tensor = torch.linalg.solve_triangular(factor, off.mT, upper=False).mT
        else:
            white = off / factor
        constant = _log_det(factor) + 0.5 * off.shape[1] * math.log(2 * math.pi)
        log_density: Tensor = -0.5 * (white**2).sum(1) - constant
        return log_density.to(x.dtype)

    def _log_odds(self, marginal: Marginal, x: Tensor) -> Tensor:
        """Log odds that x is data, `(batch,)`."""
        log_density = -marginal.energy(x) - self.log_z.to(x)
        return log_density - self.log_noise(x) - math.log(self.ratio)

    def _require_fitted(self, x0: Tensor) -> None:
        if not self.factor.numel():
            raise RuntimeError("noise is not fitted: call setup(examples) before the first step")
        if self.mean.shape != x0.shape[1:]:
            raise ValueError(
                f"x0 has event shape {tuple(x0.shape[1:])}, the noise has "
                f"{tuple(self.mean.shape)}: call setup with examples like x0"
            )

    @override
    def extra_repr(self) -> str:
        return f"ratio={self.ratio}"


def _log_det(factor: Tensor) -> Tensor:
    """Log determinant of a lower triangular matrix, or of a diagonal one given by its entries."""
    diagonal = factor.diagonal() if factor.ndim == 2 else factor
    total: Tensor = diagonal.log().sum()
    return total
