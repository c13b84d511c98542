r"""Approximations of the likelihood of a noisy state, log p(y | x_t).

All know y through what the denoised mean D says of it. With J = dD/dx and
V = (sigma^2 / alpha) J the covariance of x0 given x_t (Tweedie's formula, of second order), they
add to the score

.. math:: J^T g, \qquad g = A^T (R + A C A^T)^{-1} (y - A D)

for a linear measurement, and differ in C, the spread of x0 that they assume: C-DPS none, PiGDM and
SDA one number, TMPD the row sums of V, MMPS V itself. Where the data are normal distributed, V is
exact, and with it the posterior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import (
    expand_like,
    require_count,
    require_nonnegative,
    require_positive,
    sum_event,
)
from sde_score._core.registry import Registry
from sde_score.guidance import scales_after_step
from sde_score.models import Scales, gradient_of
from sde_score.posterior.observations import Measurement, Observation, as_measurement
from sde_score.posterior.solvers import conjugate_gradients, solve_with_covariance

Pullback = Callable[[Tensor], Tensor]
"""Maps v, like x, to J^T v."""


@dataclass(frozen=True)
class Method(ABC):
    """An approximation of the gradient of log p(y | x_t)."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        return f"{self!r}: {self.limit}"

    @property
    def limit(self) -> str:
        """What samples tend to with ever more steps."""
        return "biased: " + self._bias

    _bias = "the likelihood of a noisy state is approximated"

    sampler: ClassVar[str] = "dpmpp-2m(steps=50)"
    """What it is sampled with where nothing else is asked for."""

    @abstractmethod
    def direction(self, observation: Any, x0: Tensor, at: Scales, pull: Pullback) -> Tensor:
        """g, like x0, such that J^T g is the gradient.

        Args:
            observation: what was observed.
            x0: the denoised mean, shape `(batch, *event)`.
            at: the scales.
            pull: v -> J^T v.
        """

    def on_grid(self, times: Tensor) -> Method:
        """The method for a sampler that evaluates the model at these times, decreasing."""
        return self


class _Linear(Method):
    """A method for linear measurements with Gaussian noise."""

    @override
    def direction(self, observation: Observation, x0: Tensor, at: Scales, pull: Pullback) -> Tensor:
        seen = as_measurement(observation, type(self).__name__)
        return seen.operator.adjoint(self.solve(seen, seen.residual(x0), at, pull))

    @abstractmethod
    def solve(
        self, observation: Measurement, residual: Tensor, at: Scales, pull: Pullback
    ) -> Tensor:
        """(R + A C A^T)^-1 of the residual, both of shape `(batch, *measured_shape)`."""


@dataclass(frozen=True)
class CDPS(Method):
    """The likelihood of the denoised mean itself, as if it were x0: C = 0.

    For any observation. Early on it is far too sure, so that it needs small steps.

    Reference: Chung et al. 2023, https://arxiv.org/abs/2209.14687, without its scaling.
    """

    sampler = "ancestral(steps=500)"
    _bias = "too sure of y at every noise level, so that what is measured is too narrow"

    @override
    def direction(self, observation: Observation, x0: Tensor, at: Scales, pull: Pullback) -> Tensor:
        return likelihood_gradient(observation, x0)


@dataclass(frozen=True)
class PiGDM(_Linear):
    r"""Pseudo-inverse guidance as a score: C = sigma^2 s^2 / (alpha^2 s^2 + sigma^2).

    That is the variance of x0 where data have independent entries of deviation s, `sigma_data`.

    Reference: Song et al. 2023, https://openreview.net/forum?id=9_gsMA8MRKQ.
    """

    _bias = "x0 is taken to have independent entries"

    @override
    def solve(
        self, observation: Measurement, residual: Tensor, at: Scales, pull: Pullback
    ) -> Tensor:
        return observation.solve(residual, (at.sigma * at.sigma_data / at.spread) ** 2)


@dataclass(frozen=True)
class SDA(_Linear):
    r"""Score-based data assimilation: gamma sigma^2 / alpha^2 in the place of A C A^T.

    Args:
        gamma: variance of what is measured as a share of that of the noise, > 0.

    Reference: Rozet & Louppe 2023, https://arxiv.org/abs/2306.10574.
    """

    gamma: float = 0.01

    _bias = "what is measured of x0 is taken to have independent entries of a variance set by hand"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(gamma=self.gamma)

    @override
    def solve(
        self, observation: Measurement, residual: Tensor, at: Scales, pull: Pullback
    ) -> Tensor:
        spread = expand_like(self.gamma * (at.sigma / at.alpha) ** 2, residual)
        if observation.scalar_variance is not None:
            return residual / (observation.scalar_variance.to(residual) + spread)
        return conjugate_gradients(lambda u: observation.noise(u) + spread * u, residual)


@dataclass(frozen=True)
class TMPD(_Linear):
    r"""Tweedie moment projection: C is diagonal, the row sums of V.

    One more pullback. Row sums below zero count as zero.

    Reference: Boys et al. 2023, https://arxiv.org/abs/2310.06721.
    """

    _bias = "x0 is taken to have independent entries"

    @override
    def solve(
        self, observation: Measurement, residual: Tensor, at: Scales, pull: Pullback
    ) -> Tensor:
        operator = observation.operator
        ones = residual.new_ones(len(residual), *operator.event_shape)
        sums = pull(ones)
        rows = (expand_like(at.sigma**2 / at.alpha, sums) * sums).clamp(min=0)

        def apply(u: Tensor) -> Tensor:
            return observation.noise(u) + operator.forward(rows * operator.adjoint(u))

        return conjugate_gradients(apply, residual)


@dataclass(frozen=True)
class MMPS(_Linear):
    r"""Moment matching: C = V, by pullbacks within conjugate gradients.

    With V = (sigma^2 / alpha) J^T the guided denoised mean is D + V A^T u: for data that are normal
    distributed, the posterior's own. Each step of conjugate gradients costs one backward pass.

    A network's J is neither symmetric nor positive, as that of a denoised mean is. Its symmetric
    part is taken, and y is not followed in directions along which that is negative: without this
    a few samples of trained networks run away.

    Args:
        tolerance: of the residual of conjugate gradients, as a share.
        most: steps of conjugate gradients at most; 1 to 5 in the paper.

    Reference: Rozet et al. 2024, https://arxiv.org/abs/2405.13712.
    """

    tolerance: float = 1e-4
    most: int = 20

    _bias = "p(x0 | x_t) is taken to be normal; exact for data that are"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(tolerance=self.tolerance)
        require_count(most=self.most)

    @override
    def solve(
        self, observation: Measurement, residual: Tensor, at: Scales, pull: Pullback
    ) -> Tensor:
        operator = observation.operator

        def spread(u: Tensor) -> Tensor:
            pulled = pull(operator.adjoint(u))
            return operator.forward(expand_like(at.sigma**2 / at.alpha, pulled) * pulled)

        return solve_with_covariance(
            observation.noise, observation.whiten, spread, residual, self.tolerance, self.most
        )


@dataclass(frozen=True)
class LGDMC(Method):
    r"""Loss-guided diffusion: the likelihood averaged over draws around the denoised mean.

    .. math:: \log \frac{1}{K} \sum_k p(y | D + r \epsilon_k), \qquad
              r^2 = \frac{\sigma^2 s^2}{\alpha^2 s^2 + \sigma^2}

    with s = `sigma_data`. The draws are the same for every example and at every time.

    Args:
        draws: K.

    Reference: Song et al. 2023, https://proceedings.mlr.press/v202/song23k.html.
    """

    draws: int = 10

    _bias = "x0 is taken to have independent entries, and the average to be over few draws"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(draws=self.draws)

    @override
    def direction(self, observation: Observation, x0: Tensor, at: Scales, pull: Pullback) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self.draws, 1, *x0.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(x0)
        spread = expand_like(at.sigma * at.sigma_data / at.spread, x0)

        def log_mean(z: Tensor) -> Tensor:
            logs = torch.stack([observation.log_prob(z + spread * each) for each in noise])
            return logs.logsumexp(0)

        return gradient_of(log_mean, x0)


@dataclass(frozen=True)
class DPS(Method):
    r"""Diffusion posterior sampling as it is published: a step along the norm of the residual.

    .. math:: x_s = step(x_t) - \zeta \, \nabla_x \| y - A D \|

    after each ancestral step from t to s. That step moves by c D with
    c = \alpha_s (1 - r_s^2 / r_t^2), r = \sigma / \alpha, so that the same comes of a denoised mean
    that is changed by the gradient over c. It depends on the steps, and not on the noise of y.

    Args:
        step_size: zeta; .3 to 1 in the paper.
        times: at which the sampler evaluates the model, decreasing; None until it is known.

    Reference: Chung et al. 2023, https://arxiv.org/abs/2209.14687, algorithm 1.
    """

    step_size: float = 1.0
    times: Sequence[float] | None = None

    sampler = "ancestral(steps=1000)"
    _bias = "its strength is set by hand and grows with the number of steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_nonnegative(step_size=self.step_size)

    @override
    def on_grid(self, times: Tensor) -> Method:
        """The method for a sampler that evaluates the model at these times, decreasing."""
        return replace(self, times=tuple(times.tolist()))

    @override
    def direction(self, observation: Observation, x0: Tensor, at: Scales, pull: Pullback) -> Tensor:
        observation = as_measurement(observation, "DPS")
        residual = observation.residual(x0)
        norm = sum_event(residual * residual).sqrt().clamp(min=torch.finfo(x0.dtype).tiny)
        strength = self.step_size * _per_step(at, self.times, "DPS")[0]
        back = observation.operator.adjoint(residual / expand_like(norm, residual))
        return expand_like(strength, x0) * back


@dataclass(frozen=True)
class PublishedPiGDM(_Linear):
    r"""Pseudo-inverse guidance as it is published: r^2 sqrt(alpha-bar) times its gradient.

    .. math:: x_s = step(x_t) + r^2 \sqrt{\bar\alpha_t} \, J^T A^T (R + r^2 A A^T)^{-1} (y - A D),
              \qquad r^2 = 1 - \bar\alpha_t

    after each ancestral step (DDIM with eta = 1) of states of unit scale, here of any: what a
    score would move by shrinks with the step, and this does not.

    Args:
        times: at which the sampler evaluates the model, decreasing; None until it is known.

    Reference: Song et al. 2023, https://openreview.net/forum?id=9_gsMA8MRKQ, algorithm 1.
    """

    times: Sequence[float] | None = None

    sampler = "ancestral(steps=100)"
    _bias = "its strength does not fall with the step size, so that more steps make it worse"

    @override
    def on_grid(self, times: Tensor) -> Method:
        """The method for a sampler that evaluates the model at these times, decreasing."""
        return replace(self, times=tuple(times.tolist()))

    @override
    def solve(
        self, observation: Measurement, residual: Tensor, at: Scales, pull: Pullback
    ) -> Tensor:
        unit = Scales(at.sde, at.t)
        strength, scale = _per_step(at, self.times, "pigdm-published")
        # sqrt(alpha-bar) = alpha / spread, and J is that of a state of unit scale.
        strength = strength * scale * at.alpha * (at.sigma / unit.spread) ** 2
        solved = PiGDM().solve(observation, residual, unit, pull)
        return expand_like(strength, residual) * solved


def _per_step(at: Scales, times: Sequence[float] | None, name: str) -> tuple[Tensor, Tensor]:
    """What g is multiplied by, so that the ancestral step from t moves by J^T g more; and
    sqrt(alpha^2 + sigma^2) where it ends."""
    if times is None:
        raise ValueError(
            f"{name} has no times: its strength depends on the steps; give sampler=, the one that "
            "will be used"
        )
    alpha, ratio = scales_after_step(at, times)
    moved = alpha * (1 - (ratio / at.sde.noise_ratio(at.t)) ** 2)
    # J^T g is multiplied by sigma^2 / alpha behind this.
    return at.alpha / (moved * at.sigma**2), alpha * (1 + ratio**2).sqrt()


METHODS: Registry[Method] = Registry(
    "posterior method",
    {
        "mmps": MMPS,
        "tmpd": TMPD,
        "pigdm": PiGDM,
        "pigdm-published": PublishedPiGDM,
        "sda": SDA,
        "c-dps": CDPS,
        "lgd-mc": LGDMC,
        "dps": DPS,
    },
    base=Method,
    positional=True,
)
"""Methods by name, and those of users by `register`."""


def likelihood_gradient(observation: Observation, x0: Tensor) -> Tensor:
    """Gradient of log p(y | x0) at x0, like x0."""
    if isinstance(observation, Measurement):
        return observation.operator.adjoint(observation.whiten(observation.residual(x0)))
    return gradient_of(observation.log_prob, x0)
