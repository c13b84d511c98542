r"""Hamiltonian dynamics in discrete time: momenta, their energy, and the leapfrog.

.. math:: H(x, p) = E(x) + \tfrac12 \sum_i p_i^2 / m_i, \qquad
          (x, p) \sim exp(-H / T) \iff x \sim exp(-E / T),\ p \sim N(0, T m)

The temperature enters the distribution of the momenta alone, not the dynamics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, sum_event
from sde_score.mcmc.kernel import State, evaluate
from sde_score.models import Density


def draw_momentum(draw: Tensor, mass: Tensor | None, temperature: float) -> Tensor:
    """Momenta N(0, T m), made from a standard normal draw `(chains, *event)`, which is kept.

    Args:
        draw: standard normal, like x.
        mass: diagonal of the mass matrix, like x or an event; None for 1.
        temperature: T, > 0.
    """
    momentum = draw * math.sqrt(temperature)
    return momentum if mass is None else mass.sqrt() * momentum


def velocity(momentum: Tensor, mass: Tensor | None) -> Tensor:
    """p / m, like x."""
    return momentum if mass is None else momentum / mass


def hamiltonian(state: State, mass: Tensor | None) -> Tensor:
    """E + sum p^2 / 2m in nats, shape `(chains,)`.

    Raises:
        TypeError: if the state lacks an energy or a momentum.
    """
    if state.energy is None or state.momentum is None:
        raise TypeError("a Hamiltonian needs a state with an energy and a momentum")
    return state.energy + 0.5 * sum_event(state.momentum * velocity(state.momentum, mass))


def leapfrog(
    density: Density, state: State, step_size: Tensor, mass: Tensor | None, energy: bool
) -> State:
    r"""One leapfrog step: one evaluation, of the energy too if it is asked for.

    .. math:: p \leftarrow p + \tfrac h2 score(x), \quad x \leftarrow x + h\, p / m, \quad
              p \leftarrow p + \tfrac h2 score(x)

    It preserves volume, and with -h it undoes the step. On E = k x^2 / 2 with
    m = 1 it conserves p^2 + k (1 - h^2 k / 4) x^2, and is stable for h below 2 / sqrt(k).

    Args:
        density: the target.
        state: with a momentum; left as it is.
        step_size: h, a scalar or `(chains,)`; negative to go back in time.
        mass: diagonal of the mass matrix, like x or an event; None for 1.
        energy: whether the state after the step has an energy.

    Raises:
        TypeError: if the state has no momentum.
    """
    if state.momentum is None:
        raise TypeError("a leapfrog step needs a state with a momentum")
    h = expand_like(step_size, state.x)
    momentum = state.momentum + 0.5 * h * state.score
    end = evaluate(density, state.x + h * velocity(momentum, mass), energy)
    return State(end.x, end.score, end.energy, momentum + 0.5 * h * end.score)


def energy_rise(start: Tensor, end: Tensor, temperature: float) -> Tensor:
    """(H_end - H_start) / T in float64, `(chains,)`; infinite instead of NaN.

    NaN comes of an overflow, which must never be accepted.
    """
    rise = (end.double() - start.double()) / temperature
    return torch.where(rise.isnan(), torch.inf, rise)
