"""Short Markov chains, whose ends stand for draws of the model in contrastive objectives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import expand_like
from sde_score._core.modules import evaluating
from sde_score.mcmc.kernel import Kernel
from sde_score.models import Density, Marginal, Model
from sde_score.random import Noise

CHAIN_COST = "(k + 3) F + (k + 3) B"
"""Passes of a chain of k steps of one evaluation each, and of the two energies at its ends."""

RUNAWAY = 100.0
"""Nats per entry: no chain that is of use ends so far from the energies of the data."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """The distribution of y = x / scale for x of a given density: a `Density` in other units.

    Args:
        density: of x.
        scale: a scalar or `(batch,)`, > 0.
    """

    density: Density
    scale: Tensor

    def energy(self, y: Tensor) -> Tensor:
        """Energy at x = scale y, shape `(batch,)`."""
        return self.density.energy(expand_like(self.scale, y) * y)

    def score(self, y: Tensor) -> Tensor:
        """Gradient in y of the log density, like y."""
        scale = expand_like(self.scale, y)
        return scale * self.density.score(scale * y)

    def energy_and_score(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        scale = expand_like(self.scale, y)
        energy, score = self.density.energy_and_score(scale * y)
        return energy, scale * score


def unit(marginal: Marginal, noisy: bool, x: Tensor) -> Tensor:
    """Unit of step sizes: sigma(t) for noisy data, 1 for the data as they are; a scalar or
    `(batch,)`, in the dtype of x."""
    sigma = marginal.model.sde.sigma(marginal.t).to(x)
    return sigma if noisy else torch.ones_like(sigma)


@torch.no_grad()
def chain_end(
    model: Model, density: Density, x: Tensor, kernel: Kernel, k: int, noise: Noise, scale: Tensor
) -> Tensor:
    """The state after k steps of a kernel from x, without a graph.

    Layers such as dropout are in evaluation mode on the way, so that one energy is sampled and no
    running averages see the chain.

    Args:
        model: of the energy.
        density: the distribution that is sampled.
        x: shape `(batch, *event)`; left as it is.
        kernel: of the chain; its step size counts in units of `scale`.
        k: number of steps.
        noise: gives the next standard normal draw, like x.
        scale: a scalar or `(batch,)`, > 0.
    """
    scaled, width = Scaled(density, scale), expand_like(scale, x)
    with evaluating(model):
        state = kernel.start(scaled, x / width, noise)
        tuning = kernel.tuning(x)
        for _ in range(k):
            state = kernel.step(scaled, state, noise, tuning).state
    return state.x * width


def contrast(positive: Tensor, negative: Tensor, penalty: float) -> Tensor:
    """Energy of the data less that of the model's draws, plus penalty times both squares."""
    return positive - negative + penalty * (positive**2 + negative**2)
