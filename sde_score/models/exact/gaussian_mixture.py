"""Gaussian mixture as a model: score, denoiser, density and samples in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from sde_score._core.checks import as_time, require_batch, require_count
from sde_score._core.conditions import Condition
from sde_score.models import parametrization
from sde_score.models.base import KnownDensity
from sde_score.models.parametrization import Coefficients, Scales
from sde_score.sdes import SDE, SDES


class GaussianMixture(nn.Module, KnownDensity):
    r"""A mixture of Gaussians, diffused by any SDE: exact score, denoiser, density and samples.

    .. math:: p_t(x) = \sum_k w_k\, N(x;\ \alpha \mu_k,\ \alpha^2 \Sigma_k + \sigma^2 I)

    With one component it is the Gaussian. It satisfies the model protocol, so every sampler and
    likelihood runs on it, with nothing to learn and the truth at hand. The target `Mixture` is the
    same distribution without a diffusion, by name; it makes one of these for any SDE.

    Args:
        means: shape `(components, *event)`.
        covariances: standard forms are full `(components, D, D)` with D the number of entries of
            an event, diagonal (variances in the shape of `means`) and isotropic (a number, or one
            variance per component).
        sde: the forward diffusion.
        weights: positive, shape `(components,)`; normalized here; equal if not given.

    Raises:
        ValueError: if shapes do not agree, a weight is not positive, or a covariance is not
            positive semi-definite.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    axes: Tensor | None

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        covariances: Tensor | float,
        sde: SDE,
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        centers = torch.as_tensor(means, dtype=torch.float64)
        if centers.ndim < 2:
            raise ValueError(
                f"means has shape {tuple(centers.shape)}; accepted: (components, *event)"
            )
        self._sde = SDES.resolve(sde, name="sde")
        self.event_shape = tuple(centers.shape[1:])
        spread = torch.as_tensor(covariances, dtype=torch.float64)
        variances, axes = _principal_axes(spread, centers)
        self.register_buffer("weights", _normalized(weights, len(centers)))
        self.register_buffer("means", centers.flatten(1))
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.score(at)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        if condition is not None:
            raise ValueError("GaussianMixture takes no condition: leave it out")
        log_joint, whitened = self._components(x, at)
        responsibility = log_joint.softmax(1)
        pull = -responsibility[:, :, None] * whitened
        score = pull.sum(1) if self.axes is None else torch.einsum("bkd,kcd->bc", pull, self.axes)
        return score.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor | float | None = None) -> Tensor:
        """Exact log density in nats, shape `(batch,)`: of the data, or of x_t if t is given."""
        at = None if t is None else self._scales(x, t)
        return self._components(x, at)[0].logsumexp(1).to(x.dtype)

    def sample(
        self, count: int, t: float | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Exact draws of the data, or of x_t at one time t: shape `(count, *event)`, float64."""
        require_count(count=count)
        index = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        draw = torch.randn(
            (count, self.means.shape[1]),
            generator=generator,
            dtype=self.means.dtype,
            device=self.means.device,
        )
        draw = self.variances[index].sqrt() * draw
        if self.axes is not None:
            draw = torch.einsum("bd,bcd->bc", draw, self.axes[index])
        x0 = (self.means[index] + draw).reshape(count, *self.event_shape)
        if t is None:
            return x0
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return self.sde.perturb(x0, t, noise)

    def mean(self) -> Tensor:
        """Mean of the data, shape `event`."""
        return (self.weights @ self.means).reshape(self.event_shape)

    def covariance(self) -> Tensor:
        """Covariance of the data over flattened events, shape `(D, D)`."""
        dim = self.means.shape[1]
        axes = torch.eye(dim).to(self.means).expand(len(self.means), dim, dim)
        axes = axes if self.axes is None else self.axes
        within = torch.einsum("k,kcd,kd,ked->ce", self.weights, axes, self.variances, axes)
        off = self.means - self.weights @ self.means
        return within + torch.einsum("k,kc,kd->cd", self.weights, off, off)

    def _components(self, x: Tensor, at: Scales | None) -> tuple[Tensor, Tensor]:
        """log(w_k N_k(x)), shape (batch, k), and precision_k (x - mean_k) in principal axes."""
        require_batch("x", x)
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}, the mixture has {self.event_shape}"
            )
        flat = x.flatten(1).to(torch.promote_types(x.dtype, self.means.dtype))
        scale, noise = (as_time(1.0), as_time(0.0)) if at is None else (at.alpha, at.sigma)
        scale, noise = (s.to(flat).reshape(-1, 1, 1) for s in (scale, noise))
        off = flat[:, None] - scale * self.means
        if self.axes is not None:
            off = torch.einsum("bkc,kcd->bkd", off, self.axes)
        variance = scale**2 * self.variances + noise**2
        log_density = -0.5 * (off**2 / variance + torch.log(2 * math.pi * variance)).sum(2)
        return log_density + self.weights.log(), off / variance


def _normalized(weights: Tensor | Sequence[float] | None, count: int) -> Tensor:
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    w = torch.as_tensor(weights, dtype=torch.float64)
    if w.shape != (count,) or not bool((w > 0).all()) or not bool(w.isfinite().all()):
        raise ValueError(f"weights must be {count} positive numbers, one per mean, got {w}")
    return w / w.sum()


def _principal_axes(spread: Tensor, means: Tensor) -> tuple[Tensor, Tensor | None]:
    """Variances along principal axes, shape (k, D), and the axes, shape (k, D, D), if any."""
    count, dim = len(means), prod(means.shape[1:])
    axes = None
    if spread.ndim == 0 or spread.shape == (count,):
        variances = spread.reshape(-1, 1).expand(count, dim).clone()
    elif spread.shape == means.shape:
        variances = spread.flatten(1)
    elif spread.shape == (count, dim, dim):
        if not torch.allclose(spread, spread.mT):
            raise ValueError("covariances must be symmetric")
        variances, axes = torch.linalg.eigh(spread)
        # Rounding may leave an eigenvalue of a singular covariance just below zero.
        tolerance = 1e-10 * variances.amax(1, keepdim=True)
        variances = torch.where(variances.abs() < tolerance, 0.0, variances)
    else:
        raise ValueError(
            f"covariances has shape {tuple(spread.shape)}; accepted for means of shape "
            f"{tuple(means.shape)}: a number, ({count},), {tuple(means.shape)} or "
            f"({count}, {dim}, {dim})"
        )
    if not bool((variances >= 0).all()):
        raise ValueError("covariances must be positive semi-definite")
    return variances, axes
