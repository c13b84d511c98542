r"""Restoration: the denoised mean of each step is corrected by what was measured.

DDRM, DDNM+ and DiffPIR evaluate the network once a step, and take no gradient through it. Their
steps are those of DDIM in u = x / alpha, the data with noise of deviation r = sigma / alpha, from
r_t to r_s:

.. math:: u_s = D' + r_s \left[\sqrt{1 - \eta^2} \, \frac{u_t - D'}{r_t} + \eta z\right]

with D' in the place of the denoised mean D. With A = U S V^T, coordinates of an example x are
c = V^T x, and y says of each by itself that it is v, up to noise of a deviation w.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_positive
from sde_score._core.errors import ArgumentError
from sde_score.posterior.observations import Spectral
from sde_score.posterior.samplers.base import PosteriorSampler
from sde_score.posterior.samplers.travel import moves, travel
from sde_score.samplers.problem import Iteration, Problem

Step = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
"""From u = x / alpha, the denoised mean and a normal draw, all `(batch, *event)`, and the noise
ratios r of this time and the next, 0 at the last step, to the u of the next time."""


def walk(sampler: PosteriorSampler, step: Step, problem: Problem, x: Tensor) -> Iteration:
    """Carry x along the grid, and where the sampler denoises, to the data."""
    sampler.measurement.operator(x)  # refuses states of another shape
    sde, moments = problem.sde, problem.moments(x.device)
    stops = [*problem.times.tolist(), *([0.0] if sampler.denoise else [])]
    alphas = [*sde.alpha(problem.times).tolist(), 1.0]
    ratios = [*sde.noise_ratio(problem.times).tolist(), 0.0]
    for k in range(len(stops) - 1):
        x0, z = problem.denoise(x, moments[k]), problem.noise().to(x)
        x = alphas[k + 1] * step(x / alphas[k], x0, z, ratios[k], ratios[k + 1])
        yield stops[k + 1], x


@dataclass(frozen=True)
class DDRM(PosteriorSampler):
    r"""Denoising diffusion restoration: each coordinate by itself, by how noisy y is of it.

    .. math::
        r_s < w:   \quad & N(D + \sqrt{1 - \eta^2}\, r_s (v - D) / w, \; \eta^2 r_s^2) \\
        r_s \ge w: \quad & N((1 - \eta_b) D + \eta_b v, \; r_s^2 - \eta_b^2 w^2)

    and the step of DDIM with D for what is not measured.

    Args:
        eta: share of fresh noise, 0 to 1.
        eta_b: share of y in the place of the denoised mean, 0 to 1.

    Reference: Kawar et al. 2022, https://arxiv.org/abs/2201.11793, equations 7 and 8.
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0

    ends_at_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(eta=self.eta, eta_b=self.eta_b)

    @property
    @override
    def limit(self) -> str:
        return (
            "biased: what is not measured learns of y through the denoised mean alone, and the "
            "shares of noise are set by hand, worse with more steps"
        )

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        part = self.measurement.spectral.to(x)
        yield from walk(self, partial(self._step, part), problem, x)

    def _step(
        self, part: Spectral, u: Tensor, x0: Tensor, z: Tensor, now: float, then: float
    ) -> Tensor:
        d, fresh, v = part.spectrum.of_event(x0), part.spectrum.of_event(z), part.value.to(u)
        kept = (1 - self.eta**2) ** 0.5
        pull = torch.where(then >= part.std, self.eta_b, kept * then / part.std)
        left = (then**2 - (self.eta_b * part.std) ** 2).clamp(min=0).sqrt()
        std = torch.where(then >= part.std, left, self.eta * then)
        c = d + pull.to(u) * (v - d) + std.to(u) * fresh
        return part.spectrum.replace(_ddim(u, x0, z, now, then, self.eta), c)


@dataclass(frozen=True)
class DDNM(PosteriorSampler):
    r"""DDNM+: the measured part of the denoised mean is replaced by y, as far as its noise allows.

    .. math:: D' = D + \lambda (v - D), \qquad
              \lambda = \min\left(1, \frac{\eta\, r_s}{a w}\right), \qquad
              a = 1 - \sqrt{1 - \eta^2}\, r_s / r_t

    in coordinates, so that the noise that y brings into the step, a lambda w, is at most the fresh
    noise of the step, which gives way to it. The step's noise is what is left of the state beside
    D', and not beside D.

    Args:
        eta: share of fresh noise, above 0 and up to 1.
        jump: steps of a stretch that is walked again, the paper's l.
        resample: how often each stretch is walked, the paper's r; 1 is without.
        published: take the noise of the state beside D, as the public code does, which does not
            fit D'.

    Reference: Wang et al. 2022, https://arxiv.org/abs/2212.00490, algorithm 2.
    """

    eta: float = 0.85
    jump: int = 1
    resample: int = 1
    published: bool = False

    ends_at_data: ClassVar[bool] = True
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(eta=self.eta)
        require_positive(eta=self.eta)
        require_count(jump=self.jump, resample=self.resample)

    @property
    @override
    def total(self) -> int:
        return moves(self.steps + (not self.denoise), self.jump, self.resample) + self.denoise

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        step = partial(self._step, self.measurement.spectral.to(x))
        if self.resample == 1:
            yield from walk(self, step, problem, x)
            return
        once = replace(self, resample=1, denoise=False)
        for time, state in travel(once, problem, x, self.jump, self.resample):
            x = state
            yield time, x
        yield from walk(self, step, replace(problem, times=problem.times[-1:]), x)

    @property
    @override
    def limit(self) -> str:
        return (
            "biased: what is not measured learns of y through the denoised mean alone, and what "
            "is follows y ever more than its noise allows"
        )

    def _step(
        self, part: Spectral, u: Tensor, x0: Tensor, z: Tensor, now: float, then: float
    ) -> Tensor:
        kept = (1 - self.eta**2) ** 0.5 * then / now
        noise = part.std * (1.0 if self.published else 1 - kept)
        share = (self.eta * then / noise).clamp(max=1)
        left = ((self.eta * then) ** 2 - (share * noise) ** 2).clamp(min=0).sqrt()
        own = part.spectrum.of_event(x0)
        new = part.spectrum.replace(x0, own + share.to(u) * (part.value.to(u) - own))
        fresh = part.spectrum.replace(self.eta * then * z, left.to(u) * part.spectrum.of_event(z))
        beside = x0 if self.published else new
        return torch.add(new + fresh, u - beside, alpha=kept)


@dataclass(frozen=True)
class DiffPIR(PosteriorSampler):
    r"""Plug-and-play restoration: the denoised mean is moved to where it fits y as well.

    .. math:: D' = \operatorname{argmin}_x \; (y - A x)^T R^{-1} (y - A x)
              + \frac{\lambda}{r_t^2} \| x - D \|^2, \qquad \eta^2 = \zeta

    The last step ends at D', so that the samples fit y.

    Args:
        strength: lambda, > 0; the larger, the less y counts.
        zeta: share of fresh noise, 0 to 1; .1 to .3 in the paper.

    Reference: Zhu et al. 2023, https://arxiv.org/abs/2305.08995, algorithm 1.
    """

    strength: float = 7.0
    zeta: float = 0.3

    ends_at_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(strength=self.strength)
        require_share(zeta=self.zeta)

    @property
    @override
    def limit(self) -> str:
        return "biased: the weight of y is set by hand, as that of a most probable x0 and no draw"

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        yield from walk(self, self._step, problem, x)

    def _step(self, u: Tensor, x0: Tensor, z: Tensor, now: float, then: float) -> Tensor:
        seen, spread = self.measurement, now**2 / self.strength
        moved = seen.operator.adjoint(seen.solve(seen.residual(x0), spread))
        return _ddim(u, x0 + spread * moved, z, now, then, self.zeta**0.5)


def _ddim(u: Tensor, x0: Tensor, z: Tensor, now: float, then: float, eta: float) -> Tensor:
    kept = (1 - eta**2) ** 0.5 * then / now
    return torch.add(x0 + eta * then * z, u - x0, alpha=kept)


def require_share(**values: float) -> None:
    """Refuse numbers outside of 0 to 1.

    Raises:
        ValueError: naming the first.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ArgumentError(f"{name}={value}; accepted: a number from 0 to 1")
