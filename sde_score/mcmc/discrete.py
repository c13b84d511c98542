"""Kernels on discrete states: block Gibbs, and Gibbs with gradients."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.errors import ArgumentError
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
from sde_score.mcmc.langevin import unadjusted
from sde_score.models import Density, Sites, sites_of
from sde_score.random import Noise


@dataclass(frozen=True)
class DiscreteKernel(Kernel):
    """A kernel on the states of a density that has `sites`, such as `Ising`; it has no step size.

    Args:
        temperature: T of the target exp(-energy / T), > 0.
    """

    step_size: float = field(default=1.0, init=False, repr=False)

    adjusted = True
    discrete = True

    @override
    def start(self, density: Density, x: Tensor, noise: Noise) -> State:
        """The state at x: one evaluation.

        Raises:
            ValueError: if the density has no sites, or x is no state of it.
        """
        require_sites(density).require_states("start", x)
        return super().start(density, x, noise)

    @abstractmethod
    def transition_matrix(self, density: Density) -> Tensor:
        """Probability to go from each state to each, float64 `(states, states)`, for small models.

        Args:
            density: with at most 2^20 states, of which this takes the square.
        """


@dataclass(frozen=True)
class BlockGibbs(DiscreteKernel):
    r"""Block Gibbs: draw all sites of a block at once, given the others; blocks there and back.

    .. math:: p(x_i = v \mid rest) \propto e^{v \cdot score_i(x) / T}

    which is exact for energies that are linear in each site. The blocks come from the density: the
    layers of a Boltzmann machine, the colors of a checkerboard. Visited in the order 1, 2, ...,
    k, ..., 2, 1 the kernel is reversible.

    Args:
        temperature: T, > 0.

    Raises:
        ValueError: when started, for a density without such blocks.

    Reference: Geman & Geman 1984, https://doi.org/10.1109/TPAMI.1984.4767596.
    """

    evaluations = "2 blocks - 1"
    reference = "Geman & Geman 1984, https://doi.org/10.1109/TPAMI.1984.4767596"

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """One visit of all blocks there and back: an evaluation for each."""
        refuse_mass(tuning)
        sites = require_sites(density)
        for block in _there_and_back(sites):
            logits = sites.logits(state.score) / self.temperature
            drawn = (logits + _gumbel(sites, noise)).argmax(2)
            indices = torch.where(block.to(drawn.device), drawn, sites.indices(state.x))
            state = evaluate(density, sites.encoded(indices, state.x), energy=False)
        return unadjusted(state)

    @override
    @torch.no_grad()
    def transition_matrix(self, density: Density) -> Tensor:
        sites = require_sites(density)
        states = sites.states()
        log_p = (sites.logits(density.score(states)) / self.temperature).log_softmax(2)
        values = sites.coordinates(states)
        matrix = torch.eye(len(states), dtype=torch.float64)
        for block in _there_and_back(sites):
            own = torch.einsum("xsc,ysc->xy", log_p[:, block], values[:, block])
            alike = torch.einsum("xsc,ysc->xy", values[:, ~block], values[:, ~block])
            matrix = matrix @ torch.where(alike == float((~block).sum()), own.exp(), 0.0)
        return matrix


@dataclass(frozen=True)
class GibbsWithGradients(DiscreteKernel):
    r"""Gibbs with gradients: change one site, chosen where the gradient says it pays.

    .. math:: q(i, v \mid x) \propto e^{d_{iv}(x) / 2}, \quad d_{iv}(x) = (v - x_i) \cdot score_i(x)
              / T, \qquad \log r = \frac{E(x) - E(y)}{T} + \log q(x \mid y) - \log q(y \mid x)

    with y the proposal, in which site i has the value v, other than before. Any energy that is a
    formula of the states will do: its gradient guides the proposal, and the acceptance, with the
    probability min(1, r), makes it exact.

    Args:
        temperature: T, > 0.

    Reference: Grathwohl et al. 2021, https://arxiv.org/abs/2102.04509, algorithm 1; the half in the
    exponent: Zanella 2020, https://arxiv.org/abs/1711.07424.
    """

    needs_energy = True
    reference = "Grathwohl et al. 2021, https://arxiv.org/abs/2102.04509"

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """One proposal and its acceptance: one evaluation."""
        refuse_mass(tuning)
        sites = require_sites(density)
        move = (self.log_proposal(sites, state) + _gumbel(sites, noise).flatten(1)).argmax(1)
        proposed = evaluate(density, _moved(sites, state.x, move), energy=True)
        error = -self.log_ratio(sites, state, proposed, move)
        error = torch.where(error.isnan(), torch.inf, error)  # an overflow: never accepted
        accept = log_uniform(noise) < -error
        return Transition(choose(accept, proposed, state), error.clamp(min=0).neg().exp(), error)

    def log_proposal(self, sites: Sites, state: State) -> Tensor:
        """log q of every move, `(batch, sites * choices)`; -inf for staying.

        Args:
            sites: of the density.
            state: to move from.
        """
        logits = sites.logits(state.score) / self.temperature
        now = sites.indices(state.x)[..., None]
        change = 0.5 * (logits - logits.gather(2, now))
        return change.scatter(2, now, -torch.inf).flatten(1).log_softmax(1)

    def log_ratio(self, sites: Sites, old: State, new: State, move: Tensor) -> Tensor:
        """log r of each move, `(batch,)`.

        Args:
            sites: of the density.
            old: before the moves, evaluated with the energy.
            new: after them, evaluated likewise.
            move: index of each move among those of `log_proposal`, `(batch,)`.
        """
        if old.energy is None or new.energy is None:
            raise TypeError("the state of an adjusted kernel has an energy")
        site = move // sites.choices
        before = sites.indices(old.x).gather(1, site[:, None])[:, 0]
        back = site * sites.choices + before
        there = self.log_proposal(sites, old).gather(1, move[:, None])[:, 0]
        returned = self.log_proposal(sites, new).gather(1, back[:, None])[:, 0]
        return (old.energy - new.energy) / self.temperature + returned - there

    @override
    @torch.no_grad()
    def transition_matrix(self, density: Density) -> Tensor:
        sites = require_sites(density)
        states = sites.states()
        old = evaluate(density, states, energy=True)
        log_q, rows = self.log_proposal(sites, old), torch.arange(len(states))
        place = sites.choices ** torch.arange(sites.count)
        matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
        for index in range(log_q.shape[1]):
            move = torch.full_like(rows, index)
            new = evaluate(density, _moved(sites, states, move), energy=True)
            chance = (log_q[:, index] + self.log_ratio(sites, old, new, move).clamp(max=0)).exp()
            ends = (sites.indices(new.x) * place).sum(1)
            # Staying is no move: its chance is exp(-inf), whatever the ratio.
            matrix[rows, ends] += torch.where(log_q[:, index].isinf(), 0.0, chance)
        return matrix + (1 - matrix.sum(1)).diag()


def require_sites(density: Density) -> Sites:
    """The sites of a discrete density.

    Raises:
        ValueError: if it has none.
    """
    sites = sites_of(density)
    if sites is None:
        raise ArgumentError(
            f"density is a {type(density).__name__}, which has no sites: the kernel moves on "
            "discrete states; accepted: Ising, Potts, RestrictedBoltzmann and others with sites, "
            "or a kernel on continuous spaces, such as mala"
        )
    return sites


def _there_and_back(sites: Sites) -> tuple[Tensor, ...]:
    """The blocks in the order of their visits.

    Raises:
        ValueError: if there are none.
    """
    if sites.blocks is None:
        raise ArgumentError(
            "density has no blocks of sites that are independent given the others: accepted is "
            "the kernel gibbs-gradients, or a joint density, such as "
            "RestrictedBoltzmann(..., marginal=False)"
        )
    return (*sites.blocks, *sites.blocks[-2::-1])


def _gumbel(sites: Sites, noise: Noise) -> Tensor:
    """Gumbel draws, whose largest beside logits is a draw of the softmax, `(batch, sites,
    choices)`."""
    if sites.values is None:
        draw = noise()
        draw = draw.reshape(len(draw), sites.count, sites.choices)
    else:
        draw = torch.stack([noise().flatten(1).clone() for _ in range(sites.choices)], 2)
    log_u: Tensor = torch.special.log_ndtr(draw)
    return -(-log_u).log()


def _moved(sites: Sites, x: Tensor, move: Tensor) -> Tensor:
    """States after a move each, of the index `site * choices + value`."""
    site, value = move // sites.choices, move % sites.choices
    return sites.encoded(sites.indices(x).scatter(1, site[:, None], value[:, None]), x)
