"""Overdamped Langevin dynamics: unadjusted, and with Metropolis's correction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._checks import expand_like, sum_event
from sde_score.models import Density
from sde_score.samplers.base import Noise
from sde_score.samplers.mcmc.kernel import (
    Kernel,
    State,
    Transition,
    Tuning,
    choose,
    evaluate,
    log_uniform,
)


@dataclass(frozen=True)
class ULA(Kernel):
    r"""Unadjusted Langevin: follow the score, add noise.

    .. math:: x \leftarrow x + h\, score(x) + \sqrt{2 h T}\, z, \qquad h = step\_size

    On a Gaussian of precision P (T = 1) the stationary covariance is (P - h P^2 / 2)^{-1}, too
    large, and the chain is stable for h below 2 / (largest eigenvalue of P).

    Args:
        step_size: h, > 0.
        temperature: T, > 0.

    Reference: Roberts & Tweedie 1996, https://doi.org/10.2307/3318418.
    """

    reference = "Roberts & Tweedie 1996, https://doi.org/10.2307/3318418"

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """One Langevin step: one evaluation."""
        x = propose(state, noise(), tuning, self.temperature)
        one = torch.ones_like(x.flatten(1)[:, 0])
        return Transition(evaluate(density, x, self.needs_energy), one, torch.zeros_like(one))


@dataclass(frozen=True)
class MALA(Kernel):
    r"""Metropolis-adjusted Langevin: the step of `ULA`, accepted with probability min(1, r).

    .. math:: \log r = \frac{E(x) - E(y)}{T}
              - \frac{\lVert x - y - h\, s(y) \rVert^2 - \lVert y - x - h\, s(x) \rVert^2}{4 h T}

    It keeps the law exactly. On a Gaussian of precision P, log r = (h/4)(|Px|^2 - |Py|^2).

    Args:
        step_size: h, > 0.
        temperature: T, > 0.

    Reference: Roberts & Tweedie 1996, https://doi.org/10.2307/3318418; acceptance 0.574 by Roberts
    & Rosenthal 1998, https://doi.org/10.1111/1467-9868.00123.
    """

    adjusted = True
    needs_energy = True
    target_acceptance = 0.574
    reference = "Roberts & Tweedie 1996, https://doi.org/10.2307/3318418"

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """One proposal and its acceptance: one evaluation."""
        proposed = evaluate(density, propose(state, noise(), tuning, self.temperature), True)
        change = _energy(proposed) - _energy(state)
        back = _log_kernel(proposed, state, tuning, self.temperature)
        forth = _log_kernel(state, proposed, tuning, self.temperature)
        log_ratio = -change / self.temperature + back - forth
        # Not a number is never accepted: the chain stays where it was.
        accept = log_uniform(noise) < log_ratio
        acceptance = log_ratio.nan_to_num(nan=-torch.inf).clamp(max=0).exp()
        return Transition(choose(accept, proposed, state), acceptance, -log_ratio)


def propose(state: State, z: Tensor, tuning: Tuning, temperature: float) -> Tensor:
    """x + h score + sqrt(2 h T) z."""
    h = expand_like(tuning.step_size, z)
    return state.x + h * state.score + (2 * temperature * h).sqrt() * z


def _log_kernel(origin: State, end: State, tuning: Tuning, temperature: float) -> Tensor:
    """Log density of proposing `end` from `origin`, up to a constant."""
    h = tuning.step_size
    residual = end.x - origin.x - expand_like(h, origin.x) * origin.score
    return -sum_event(residual**2) / (4 * h * temperature)


def _energy(state: State) -> Tensor:
    if state.energy is None:
        raise TypeError("the state of an adjusted kernel has an energy")
    return state.energy
