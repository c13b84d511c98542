"""Hamiltonian Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count
from sde_score.mcmc.kernel import Kernel, State, Transition, Tuning, choose, log_uniform
from sde_score.mcmc.leapfrog import draw_momentum, energy_rise, hamiltonian, leapfrog
from sde_score.models import Density
from sde_score.random import Noise


@dataclass(frozen=True)
class HMC(Kernel):
    r"""Hamiltonian Monte Carlo: a fresh momentum, some leapfrogs, and Metropolis's correction.

    .. math:: p \sim N(0, T m), \qquad (y, q) = leapfrog^L(x, p), \qquad
              \log r = \frac{H(x, p) - H(y, q)}{T}

    The end is accepted with probability min(1, r), which keeps the target exactly. Since the whole
    momentum is drawn anew at every step, the flip of p that makes the move its own inverse changes
    nothing and is left out.

    Trajectories of a fixed length resonate: on a Gaussian whose period is near L h each move ends
    about where it began, at an acceptance near 1. So every trajectory of every chain has a step
    size of its own, uniform in [(1 - jitter) h, (1 + jitter) h]. With jitter = 0 on a Gaussian of
    precision k, omitting the correction would give the variance T / (k (1 - h^2 k / 4)) for any L.

    Args:
        step_size: h, > 0, a time; lengths over it are in units of sqrt(T / m).
        temperature: T, > 0.
        leapfrogs: L, the leapfrog steps of one move, at least 1.
        jitter: in [0, 1).

    Raises:
        ValueError: for arguments outside their range.

    Reference: Neal 2011, https://arxiv.org/abs/1206.1901; acceptance 0.8 by Betancourt, Byrne &
    Girolami 2014, https://arxiv.org/abs/1411.6669.
    """

    leapfrogs: int = 10
    jitter: float = 0.2

    adjusted = True
    needs_energy = True
    uses_mass = True
    evaluations = "leapfrogs"
    reference = "Neal 2011, https://arxiv.org/abs/1206.1901"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(leapfrogs=self.leapfrogs)
        if not 0 <= self.jitter < 1:
            raise ValueError(
                f"jitter={self.jitter!r} must be at least 0 and below 1: it is the relative spread "
                "of the step size; try 0.2"
            )

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """One trajectory and its acceptance: `leapfrogs` evaluations, the last with the energy."""
        mass = tuning.mass
        momentum = draw_momentum(noise(), mass, self.temperature)
        start = end = State(state.x, state.score, state.energy, momentum)
        h = self._jittered(tuning.step_size, noise)
        for left in reversed(range(self.leapfrogs)):
            end = leapfrog(density, end, h, mass, energy=left == 0)
        rise = energy_rise(hamiltonian(start, mass), hamiltonian(end, mass), self.temperature)
        accept = log_uniform(noise) < -rise
        end = State(end.x, end.score, end.energy)
        acceptance = rise.clamp(min=0).neg().exp()
        return Transition(choose(accept, end, state), acceptance.to(end.x), rise.to(end.x))

    def _jittered(self, step_size: Tensor, noise: Noise) -> Tensor:
        """A step size for each chain, `(chains,)`, from one normal draw; `step_size` if jitter is
        0."""
        if self.jitter == 0:
            return step_size
        spread: Tensor = 2 * torch.exp(log_uniform(noise)) - 1
        return step_size * (1 + self.jitter * spread)
