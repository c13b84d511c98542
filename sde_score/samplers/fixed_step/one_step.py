r"""Methods of one evaluation per step, linear in the score.

A step from time t to an earlier time s is linear in the state, the score and the noise,

.. math:: x_s = a\, x_t + b\, score(x_t, t) + c\, z ,

with coefficients that depend on the SDE alone. They are computed for all steps in float64 before
the loop. The same classes are samplers and the predictors of `PredictorCorrector`.

In the formulas, `scale` and `std` belong to the exact transition from s to t.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.linear import Number, as_floats, weighted_sum_
from sde_score.samplers.noise.reverse_variance import VARIANCES, ReverseVariance
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE

Coefficients = tuple[Tensor, Tensor, Tensor]
"""Factors (a, b, c) on the state, the score and the noise, one entry per step, float64."""

Row = tuple[Number, Number, Number]
"""The coefficients of one step."""


@dataclass(frozen=True)
class Predictor(Sampler):
    """A sampler with one evaluation per step, linear in the score."""

    @abstractmethod
    def coefficients(self, sde: SDE, t: Tensor, s: Tensor) -> Coefficients:
        """Factors of the steps from times t to earlier times s, in float64."""

    def rows(self, sde: SDE, times: Tensor) -> list[Row]:
        """The coefficients along a grid, step by step."""
        columns = self.coefficients(sde, times[:-1], times[1:])
        return list(zip(*map(as_floats, columns), strict=True))

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        stops, rows = problem.times.tolist(), self.rows(problem.sde, problem.times)
        for k, (t, (a, b, c)) in enumerate(zip(problem.moments(x.device), rows, strict=False)):
            x = weighted_sum_(x, a, (problem.score(x, t), b)) if b else weighted_sum_(x, a)
            if c:
                x = weighted_sum_(x, 1.0, (problem.between(*stops[k : k + 2]), c))
            yield stops[k + 1], x


def _require_noise_level(eta: float) -> None:
    if not 0 <= eta < float("inf"):
        raise ValueError(f"eta={eta} must be at least 0: 0 is the ODE, 1 the reverse-time SDE")


@dataclass(frozen=True)
class EulerMaruyama(Predictor):
    r"""Euler-Maruyama on the reverse-time SDE, h = t - s.

    .. math:: x_s = x_t - h \left[f x_t - \tfrac{1 + \eta^2}{2} g^2 score\right]
              + \eta\, g \sqrt{h}\, z

    Args:
        eta: noise level; 1 is the reverse-time SDE, 0 Euler's method on the probability-flow ODE,
            and all share the same marginals.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix D.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_noise_level(self.eta)

    @property
    @override
    def stochastic(self) -> bool:
        return self.eta > 0

    def coefficients(self, sde: SDE, t: Tensor, s: Tensor) -> Coefficients:
        """a = 1 - f h, b = (1 + eta^2) g^2 h / 2, c = eta g sqrt(h)."""
        h, g = t - s, sde.diffusion(t)
        share = 0.5 * (1 + self.eta**2)
        return 1 - sde.drift_rate(t) * h, share * g**2 * h, self.eta * g * h.sqrt()


@dataclass(frozen=True)
class ReverseDiffusion(Predictor):
    r"""Reverse diffusion: the forward chain's transition, reversed.

    .. math:: x_s = (2 - scale)\, x_t + \tfrac{1 + \eta^2}{2} std^2\, score + \eta\, std\, z

    Args:
        eta: noise level; 1 is the reverse-time SDE, 0 the probability-flow ODE.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix E.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_noise_level(self.eta)

    @property
    @override
    def stochastic(self) -> bool:
        return self.eta > 0

    def coefficients(self, sde: SDE, t: Tensor, s: Tensor) -> Coefficients:
        """a = 2 - scale, b = (1 + eta^2) std^2 / 2, c = eta std."""
        scale, std = sde.transition(s, t)
        return 2 - scale, 0.5 * (1 + self.eta**2) * std**2, self.eta * std


@dataclass(frozen=True)
class Ancestral(Predictor):
    r"""Ancestral sampling: x_s given x_t with the denoised mean in the place of the data.

    .. math:: x_s = \frac{x_t + std^2\, score}{scale} + c\, z

    Args:
        variance: of the noise; `"posterior"` that of x_s given x_t and the data, c = std sigma_s /
            sigma_t (right when the data are one point), `"transition"` that of the forward step,
            c = std (right when the data are N(0, I)), or any other name or object of `VARIANCES`.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 3.2.
    """

    variance: str | ReverseVariance = "posterior"

    def __post_init__(self) -> None:
        super().__post_init__()
        VARIANCES.resolve(self.variance, name="variance")

    def coefficients(self, sde: SDE, t: Tensor, s: Tensor) -> Coefficients:
        """a = 1 / scale, b = std^2 / scale, c by `variance`."""
        scale, std = sde.transition(s, t)
        return 1 / scale, std**2 / scale, VARIANCES.resolve(self.variance).std(sde, s, t)


@dataclass(frozen=True)
class DDIM(Predictor):
    r"""DDIM: denoise, then add part of the predicted noise and part fresh noise.

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\, \hat\epsilon + c\, z, \qquad
              c = \eta\, std\, \sigma_s / \sigma_t

    With eta = 0 it solves the probability-flow ODE exactly for a constant prediction (the
    exponential integrator of first order); with eta = 1 it is ancestral sampling with the
    posterior variance.

    Args:
        eta: noise level in [0, 1].

    Reference: Song et al. 2020, https://arxiv.org/abs/2010.02502, eq. 12 and 16.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta={self.eta} must lie in [0, 1]: 0 is the ODE, 1 ancestral sampling"
            )

    @property
    @override
    def stochastic(self) -> bool:
        return self.eta > 0

    def coefficients(self, sde: SDE, t: Tensor, s: Tensor) -> Coefficients:
        """With x0 = (x + sigma_t^2 score) / alpha_t and noise = -sigma_t score."""
        _, std = sde.transition(s, t)
        sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
        scale = sde.alpha(s) / sde.alpha(t)
        fresh = self.eta * std * sigma_s / sigma_t
        kept = (sigma_s**2 - fresh**2).clamp(min=0).sqrt()
        return scale, sigma_t * (scale * sigma_t - kept), fresh


@dataclass(frozen=True)
class Stay(Predictor):
    r"""No prediction: x_t / alpha is kept, x_s = (alpha_s / alpha_t) x_t.

    Alone it samples nothing; with a Langevin corrector it makes annealed Langevin dynamics.
    """

    stochastic = False

    def coefficients(self, sde: SDE, t: Tensor, s: Tensor) -> Coefficients:
        """a = alpha_s / alpha_t, b = c = 0."""
        return sde.alpha(s) / sde.alpha(t), torch.zeros_like(t), torch.zeros_like(t)
