r"""Split samplers: the prior and the likelihood take turns, joined by noise of one deviation r.

What y says is drawn from exactly, where it is a linear measurement with Gaussian noise. The prior
is drawn from, or its mean is found, by running the model down from the noise r.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_increasing, require_positive
from sde_score.posterior.methods import likelihood_gradient
from sde_score.posterior.observations import Measurement
from sde_score.posterior.samplers.base import PosteriorSampler
from sde_score.samplers import SAMPLERS, Grid, Sampler
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE
from sde_score.sdes.clocks import root


@dataclass(frozen=True)
class PnPDM(PosteriorSampler):
    r"""Split Gibbs sampling: x given z by the model, z given x and y exactly.

    .. math:: p(x, z | y) \propto p(x) \, N(z; x, \rho^2 I) \, p(y | z)

    With z the state at the noise rho, x given z is a run of the model from rho to the data, and z
    given x is Gaussian. What the samples x then follow is the posterior for y with the noise
    R + rho^2 A A^T; so as to make it R, z is drawn for y with a variance that is smaller by
    rho^2, coordinate by coordinate, and by all of it where rho is larger. The deviation rho falls
    from `rho_max` to `rho_min`.

    Args:
        steps: rounds of both.
        prior: the sampler that runs the model, with its steps; one that draws, as x is a draw.
        rho_max: first deviation; at most the noise ratio that the diffusion starts with.
        rho_min: last deviation.
        decay: of rho from round to round, below 1.
        published: leave the noise of y as it is.

    Raises:
        ValueError: for a `prior` that is deterministic.

    Reference: Wu et al. 2024, https://arxiv.org/abs/2405.18782, algorithm 1.
    """

    grid: str | Grid = "native"
    prior: str | Sampler = "ancestral(steps=10)"
    rho_max: float = 10.0
    rho_min: float = 0.3
    decay: float = 0.9
    published: bool = False

    ends_at_data: ClassVar[bool] = True
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_increasing("", rho_min=self.rho_min, rho_max=self.rho_max)
        if not 0 < self.decay < 1:
            raise ValueError(f"decay={self.decay} must be between 0 and 1")
        prior = SAMPLERS.resolve(self.prior, name="prior")
        if not prior.stochastic or not prior.descends:
            raise ValueError(
                f"prior={self.prior!r} must go from noise to data in one way and draw noise, since "
                "its result is a draw: take 'ancestral(steps=10)', say"
            )

    @property
    @override
    def limit(self) -> str:
        if self.published:
            return f"biased: as if y had more noise, by rho_min={self.rho_min:g}"
        if float(self.measurement.spectral.std.min()) < self.rho_min:
            return f"biased: as if y were no more precise than rho_min={self.rho_min:g}"
        return (
            "exact in the limit of many rounds and many steps of the prior, as y is no more "
            f"precise than rho_min={self.rho_min:g}"
        )

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times of noise ratio rho, round by round."""
        rounds = torch.arange(self.steps + (not self.denoise), dtype=torch.float64)
        rho = (self.rho_max * self.decay**rounds).clamp(min=self.rho_min)
        top = float(sde.noise_ratio(sde.t_max))
        return sde.time_of_noise_ratio(rho.clamp(max=top))

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        self.measurement.operator(x)  # refuses states of another shape
        part, prior = self.measurement.spectral.to(x), SAMPLERS.resolve(self.prior)
        alphas = problem.sde.alpha(problem.times).tolist()
        ratios = problem.sde.noise_ratio(problem.times).tolist()
        for k in range(len(ratios)):
            if k == len(ratios) - 1 and not self.denoise:
                return
            x0 = descend(prior, problem, x, ratios[k])
            if k == len(ratios) - 1:
                yield 0.0, x0
                return
            rho = ratios[k + 1]
            left = part.std if self.published else (part.std**2 - rho**2).clamp(min=0).sqrt()
            x = alphas[k + 1] * replace(part, std=left).update(x0, rho, problem.noise().to(x))
            yield problem.times[k + 1].item(), x


@dataclass(frozen=True)
class DAPS(PosteriorSampler):
    r"""Decoupled annealing: each step finds the data, draws what y makes of them, and noises that.

    .. math:: D = ODE(x_t), \qquad x_0 \sim N(x_0; D, r_t^2 I) \, p(y | x_0), \qquad
              x_s = \alpha_s (x_0 + r_s z)

    The draw of x0 is exact, or some steps of Langevin's dynamics, by which any likelihood will do:

    .. math:: x_0 \leftarrow x_0 + h \nabla_{x_0} \left[\log p(y | x_0)
              - \frac{\| x_0 - D \|^2}{2 r_t^2}\right] + \sqrt{2 h}\, z

    Args:
        ode: the sampler that finds D, with its steps; one that draws no noise.
        langevin: number of steps; 0 draws exactly.
        step_size: h, at most a quarter of r_t^2.
        published: count the likelihood twice, as the public code does.

    Raises:
        ValueError: for an `ode` that draws noise.

    Reference: Zhang et al. 2024, https://arxiv.org/abs/2407.01521, algorithm 1.
    """

    grid: str | Grid = "karras"
    ode: str | Sampler = "ddim(steps=5)"
    langevin: int = 0
    step_size: float = 1e-4
    published: bool = False

    ends_at_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(minimum=0, langevin=self.langevin)
        require_positive(step_size=self.step_size)
        ode = SAMPLERS.resolve(self.ode, name="ode")
        if ode.stochastic or not ode.descends:
            raise ValueError(
                f"ode={self.ode!r} must go from noise to data in one way and draw no noise: take "
                "'ddim(steps=5)', say"
            )

    @property
    @override
    def limit(self) -> str:
        again = ", and counts y twice" if self.published else ""
        return f"biased: draws x0 around D as wide as the noise of x_t, wider than it is{again}"

    @override
    def require_observation(self) -> None:
        """Refuse what is not a measurement, unless Langevin's dynamics draw."""
        if not self.langevin:
            super().require_observation()

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        ode, stops = SAMPLERS.resolve(self.ode), problem.times.tolist()
        alphas = problem.sde.alpha(problem.times).tolist()
        ratios = problem.sde.noise_ratio(problem.times).tolist()
        draw = self._draw(problem, x)
        for k in range(len(stops) - (not self.denoise)):
            x0 = draw(descend(ode, problem, x, ratios[k]), ratios[k])
            if k == len(stops) - 1:
                yield 0.0, x0
            else:
                x = alphas[k + 1] * (x0 + ratios[k + 1] * problem.noise().to(x))
                yield stops[k + 1], x

    def _draw(self, problem: Problem, x: Tensor) -> Callable[[Tensor, float], Tensor]:
        """(D, r) -> a draw of x0 given y."""
        seen, count = self.observation, 2.0 if self.published else 1.0
        if isinstance(seen, Measurement):
            seen.operator(x)  # refuses states of another shape
        if not self.langevin:
            part = self.measurement.spectral.to(x)
            part = replace(part, std=part.std / count**0.5)
            return lambda mean, r: part.update(mean, r, problem.noise().to(x))

        def walk(mean: Tensor, r: float) -> Tensor:
            x0, h = mean, min(self.step_size, 0.25 * r**2)
            for _ in range(self.langevin):
                slope = count * likelihood_gradient(seen, x0) + (mean - x0) / r**2
                x0 = x0 + h * slope + (2 * h) ** 0.5 * problem.noise().to(x0)
            return x0

        return walk


def descend(inner: Sampler, problem: Problem, x: Tensor, ratio: float) -> Tensor:
    """What an inner sampler makes of a state at a noise ratio, spaced by the rule of `Karras`.

    Args:
        inner: with its number of steps; its own grid is not used.
        problem: the model, the noise and the condition; not the times.
        x: the state, which is left as it is.
        ratio: its noise ratio.
    """
    sde, karras, count = problem.sde, root(7.0), inner.steps + (not inner.denoise)
    last = float(sde.noise_ratio(sde.sampling_t_min))
    ends = karras.of_log_ratio(torch.tensor([ratio, last], dtype=torch.float64).log())
    count = count if ratio > last else 1
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    times = karras.time(sde, ends[0] + share * (ends[1] - ends[0]))
    state = x.clone()
    for _, moved in inner.iterate(
        replace(problem, times=times, noise=lambda: problem.noise()), state
    ):
        state = moved
    if inner.denoise and not inner.ends_at_data:
        state = problem.denoise(state, times[-1].to(x.device))
    return state
