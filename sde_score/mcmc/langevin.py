"""Overdamped Langevin dynamics: unadjusted, and with Metropolis's correction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, sum_event
from sde_score.mcmc.kernel import (
    Kernel,
    State,
    Transition,
    Tuning,
    choose,
    evaluate,
    log_uniform,
    refuse_mass,
)
from sde_score.models import Density
from sde_score.random import Noise


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
        return unadjusted(evaluate(density, x, self.needs_energy))


@dataclass(frozen=True)
class MALA(Kernel):
    r"""Metropolis-adjusted Langevin: the step of `ULA`, accepted with probability min(1, r).

    .. math:: \log r = \frac{E(x) - E(y)}{T}
              - \frac{\lVert x - y - h\, s(y) \rVert^2 - \lVert y - x - h\, s(x) \rVert^2}{4 h T}

    It keeps the target exactly: the second term is the log ratio of proposing the way back to
    proposing the way there. On a Gaussian of precision P, log r = (h / 4 T)(|Px|^2 - |Py|^2).

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
        rise = _energy(proposed) - _energy(state)
        return metropolis(state, proposed, rise, tuning, self.temperature, noise)


def propose(state: State, z: Tensor, tuning: Tuning, temperature: float) -> Tensor:
    """x + h score + sqrt(2 h T) z.

    Raises:
        ValueError: if the tuning has a mass.
    """
    refuse_mass(tuning)
    h = expand_like(tuning.step_size, z)
    return state.x + h * state.score + (2 * temperature * h).sqrt() * z


def unadjusted(state: State) -> Transition:
    """An unadjusted step: acceptance 1, energy error 0."""
    one = state.x.new_ones(state.x.shape[0])
    return Transition(state, one, torch.zeros_like(one))


def metropolis(
    state: State, proposed: State, rise: Tensor, tuning: Tuning, temperature: float, noise: Noise
) -> Transition:
    """Metropolis's acceptance of a proposal of `propose`, chain by chain, with one draw.

    Args:
        state: before the step.
        proposed: the proposal, evaluated.
        rise: energy of `proposed` less that of `state`, `(chains,)`.
        tuning: step size of the proposal.
        temperature: T.
        noise: source of the draw.
    """
    error = (rise + _asymmetry(state, proposed, tuning)) / temperature
    # NaN comes of an overflow: such a proposal is never accepted.
    error = torch.where(error.isnan(), torch.inf, error)
    accept = log_uniform(noise) < -error
    return Transition(choose(accept, proposed, state), error.clamp(min=0).neg().exp(), error)


def _asymmetry(old: State, new: State, tuning: Tuning) -> Tensor:
    """T times the log of the densities of proposing `new` from `old` over `old` from `new`.

    The squares of the formula in `MALA`, multiplied out, so that the large terms cancel exactly.
    """
    along = sum_event((new.x - old.x) * (old.score + new.score))
    norms = sum_event(new.score**2) - sum_event(old.score**2)
    return 0.5 * along + 0.25 * tuning.step_size * norms


def _energy(state: State) -> Tensor:
    if state.energy is None:
        raise TypeError("the state of an adjusted kernel has an energy")
    return state.energy
