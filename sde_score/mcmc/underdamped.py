r"""Underdamped Langevin dynamics: positions with momentum, friction and noise.

.. math:: dx = p / m\, dt, \qquad dp = score(x)\, dt - \gamma p\, dt + \sqrt{2 \gamma T m}\, dw

keeps exp(-E(x) / T) N(p; 0, T m). Both kernels compose its exactly solvable parts, in different
orders: B (the score kicks the momentum), A (the momentum moves the position) and O (friction and
noise, an exact Ornstein-Uhlenbeck step). The order determines the discretization error.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_positive
from sde_score.mcmc.kernel import Kernel, State, Transition, Tuning, evaluate
from sde_score.mcmc.langevin import unadjusted
from sde_score.mcmc.leapfrog import draw_momentum, leapfrog, velocity
from sde_score.models import Density
from sde_score.random import Noise


@dataclass(frozen=True)
class Underdamped(Kernel):
    """Base of the two orders: a momentum that is kept from step to step, and its friction.

    Args:
        step_size: h, > 0, a time; stable for h below 2 sqrt(m / k) on a Gaussian of precision k.
        temperature: T, > 0.
        friction: gamma, > 0, one over the time in which a momentum is forgotten; lowest variance
            of estimates near the frequency sqrt(k / m) of the widest direction.

    Raises:
        ValueError: for arguments outside their range.
    """

    friction: float = 1.0

    uses_mass = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(friction=self.friction)

    @override
    def start(self, density: Density, x: Tensor, noise: Noise) -> State:
        """The state at x with momenta N(0, T): one evaluation."""
        momentum = draw_momentum(noise(), None, self.temperature)
        return replace(super().start(density, x, noise), momentum=momentum)

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """One step: one evaluation."""
        if state.momentum is None:
            raise TypeError("the state of an underdamped kernel has a momentum: see `start`")
        return unadjusted(self._move(density, state, state.momentum, noise, tuning))

    @abstractmethod
    def _move(
        self, density: Density, state: State, momentum: Tensor, noise: Noise, tuning: Tuning
    ) -> State:
        """The state after a step from `state`, whose momentum is given."""

    def _refresh(self, momentum: Tensor, time: Tensor, noise: Noise, mass: Tensor | None) -> Tensor:
        """O for a time of `()` or `(chains,)`: p e^(-gamma t), and noise that restores its
        variance."""
        kept = expand_like(torch.exp(-self.friction * time), momentum)
        # expm1, because 1 - kept^2 loses its digits in small steps.
        fresh = expand_like((-torch.expm1(-2 * self.friction * time)).sqrt(), momentum)
        return kept * momentum + fresh * draw_momentum(noise(), mass, self.temperature)


@dataclass(frozen=True)
class BAOAB(Underdamped):
    r"""Half a kick, half a move, friction, half a move, half a kick.

    On a Gaussian of precision k (m = T = 1) the variance of x is 1 / k exactly, at any stable step;
    that of p is 1 - h^2 k / 4. The order of choice where positions matter. Its arguments are
    those of `Underdamped`.

    Reference: Leimkuhler & Matthews 2013, https://arxiv.org/abs/1203.5428.
    """

    reference = "Leimkuhler & Matthews 2013, https://arxiv.org/abs/1203.5428"

    @override
    def _move(
        self, density: Density, state: State, momentum: Tensor, noise: Noise, tuning: Tuning
    ) -> State:
        mass = tuning.mass
        half = 0.5 * expand_like(tuning.step_size, state.x)
        momentum = momentum + half * state.score
        x = state.x + half * velocity(momentum, mass)
        momentum = self._refresh(momentum, tuning.step_size, noise, mass)
        end = evaluate(density, x + half * velocity(momentum, mass), self.needs_energy)
        return replace(end, momentum=momentum + half * end.score)


@dataclass(frozen=True)
class OBABO(Underdamped):
    r"""Friction for half a step, a leapfrog, friction for half a step: HMC of one leapfrog without
    its correction and with part of its momentum kept.

    On a Gaussian of precision k (m = T = 1) the variance of x is 1 / (k (1 - h^2 k / 4)), that of
    p is 1. Its arguments are those of `Underdamped`.

    Reference: Bussi & Parrinello 2007, https://arxiv.org/abs/0803.4083.
    """

    reference = "Bussi & Parrinello 2007, https://arxiv.org/abs/0803.4083"

    @override
    def _move(
        self, density: Density, state: State, momentum: Tensor, noise: Noise, tuning: Tuning
    ) -> State:
        half, mass = 0.5 * tuning.step_size, tuning.mass
        kicked = replace(state, momentum=self._refresh(momentum, half, noise, mass))
        end = leapfrog(density, kicked, tuning.step_size, mass, self.needs_energy)
        if end.momentum is None:
            raise TypeError("a leapfrog step keeps its momentum")
        return replace(end, momentum=self._refresh(end.momentum, half, noise, mass))
