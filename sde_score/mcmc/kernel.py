r"""The contract of a Markov kernel: one step of many independent chains at once.

A kernel moves states of shape `(chains, *event)` so that the target exp(-energy / temperature) is
kept, up to the discretization error of an unadjusted kernel. All its randomness comes from one
source of standard normal draws, in which row i belongs to chain i alone, and all it tunes is one
number or one tensor per chain: so chain i depends on its own seed and on nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_positive
from sde_score._core.registry import Registry
from sde_score.models import Density
from sde_score.random import Noise


@dataclass(frozen=True, eq=False)
class State:
    """Positions of the chains, with score, energy and momentum there.

    Args:
        x: positions, `(chains, *event)`.
        score: of the density at x, not divided by the temperature.
        energy: of the density at x, `(chains,)`; None where the kernel does not need it.
        momentum: like x, for kernels that carry it from step to step; None otherwise.
    """

    x: Tensor
    score: Tensor
    energy: Tensor | None = None
    momentum: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Tuning:
    """Parameters that adaptation may change between steps, chain by chain.

    Args:
        step_size: a scalar or `(chains,)`, > 0.
        mass: diagonal of the mass matrix, like x or an event; None for 1. Momenta are
            N(0, temperature mass); kernels without momentum refuse one.
    """

    step_size: Tensor
    mass: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Transition:
    """The result of one step.

    Args:
        state: after the step.
        acceptance: probability with which each chain's proposal was accepted, `(chains,)`; 1 for
            unadjusted kernels. Dual averaging steers its mean.
        energy_error: change of the energy that an exact integrator would conserve, in units of the
            temperature, `(chains,)`; 0 where the kernel has no such energy.
    """

    state: State
    acceptance: Tensor
    energy_error: Tensor


@dataclass(frozen=True)
class Kernel(ABC):
    """A way to move chains; an immutable description.

    Args:
        step_size: epsilon, > 0, in the units of the kernel's formula.
        temperature: T of the target exp(-energy / T), > 0.

    Raises:
        ValueError: for arguments outside their range, on construction.
    """

    step_size: float = 0.1
    temperature: float = 1.0

    adjusted: ClassVar[bool] = False
    """Whether the target is kept exactly."""
    needs_energy: ClassVar[bool] = False
    """Whether the density must have an energy and not a score alone."""
    uses_mass: ClassVar[bool] = False
    """Whether a mass in the tuning is used, and so may be adapted; the others refuse one."""
    discrete: ClassVar[bool] = False
    """Whether it moves on discrete states, and so has no step size that could be tuned."""
    target_acceptance: ClassVar[float] = 0.8
    """Mean acceptance at which an adjusted kernel mixes best."""
    evaluations: ClassVar[str] = "1"
    """Network evaluations per step, for tables; the truth is counted on the model."""
    reference: ClassVar[str] = ""
    """The paper."""

    def __post_init__(self) -> None:
        require_positive(step_size=self.step_size, temperature=self.temperature)
        check_fields(self)

    def tuning(self, x: Tensor) -> Tuning:
        """The kernel's own settings as a tuning, on the device of x."""
        return Tuning(torch.as_tensor(self.step_size, dtype=x.dtype, device=x.device))

    def start(self, density: Density, x: Tensor, noise: Noise) -> State:
        """The state at x: one evaluation.

        Args:
            density: the target.
            x: positions `(chains, *event)`, left as they are.
            noise: source of draws, for kernels whose state is more than a position.
        """
        return evaluate(density, x, self.needs_energy)

    @abstractmethod
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """Move every chain once.

        Args:
            density: the target.
            state: of the chains, left as it is.
            noise: gives the next standard normal draw, like x; valid until it is called again.
            tuning: step size and mass to use.
        """


KERNELS: Registry[Kernel] = Registry("kernel", base=Kernel)
"""The kernels by name; filled in `sde_score.mcmc`."""


def evaluate(density: Density, x: Tensor, energy: bool) -> State:
    """A state without momentum at x, from one evaluation of the density."""
    if not energy:
        return State(x, density.score(x))
    value, score = density.energy_and_score(x)
    return State(x, score, value)


def refuse_mass(tuning: Tuning) -> None:
    """Refuse a mass, for kernels without momentum.

    Raises:
        ValueError: if the tuning has a mass.
    """
    if tuning.mass is not None:
        raise ValueError(
            "the tuning has a mass and the kernel has no momentum; accepted: mass=None, or a "
            "kernel with momentum, such as hmc or baoab"
        )


def log_uniform(noise: Noise) -> Tensor:
    """The log of a uniform number for each chain, `(chains,)`, from one normal draw."""
    draw = noise()
    log_u: Tensor = torch.special.log_ndtr(draw.reshape(draw.shape[0], -1)[:, 0])
    return log_u


def choose(accept: Tensor, new: State, old: State) -> State:
    """Chain by chain the new state where `accept`, a boolean `(chains,)`, is true."""

    def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None or b is None:
            return None
        return torch.where(accept.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    x, score = pick(new.x, old.x), pick(new.score, old.score)
    if x is None or score is None:
        raise TypeError("a state has a position and a score")
    return State(x, score, pick(new.energy, old.energy), pick(new.momentum, old.momentum))
