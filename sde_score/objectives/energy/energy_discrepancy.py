"""Energy discrepancy: energies of data against energies around noisy copies of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_count, require_nonnegative, require_positive
from sde_score.models import Marginal
from sde_score.objectives.base import MarginalObjective
from sde_score.objectives.energy.short_run_chains import unit
from sde_score.random import Draws, normal


@dataclass(frozen=True)
class EnergyDiscrepancy(MarginalObjective):
    r"""Energy discrepancy: neither a chain nor a derivative in x.

    .. math:: \log\left( \frac{w}{M} + \frac1M \sum_{i=1}^M
              e^{E(x) - E(x + \sqrt\tau\, \xi + \sqrt\tau\, \xi_i')} \right), \qquad
              \xi, \xi_i' \sim N(0, I)

    As M grows and w / M falls this is E(x) less the energy of exp(-E) blurred with variance tau,
    seen at x + sqrt(tau) xi. The energy of the data minimizes its expected value, whatever tau:
    over tau it goes to implicit score matching as tau falls, and to the likelihood as tau grows.

    Args:
        time_sampler: None for the data as they are, or a name from `TIME_SAMPLERS`: then tau counts
            in units of sigma(t)^2, and the loss is divided by sigma(t)^2, so that weightings mean
            what they mean elsewhere.
        weighting: a name from `WEIGHTINGS`; counts only with a time sampler.
        variance: tau, > 0; the square of the distance over which energies are compared.
        samples: M, draws per example, at least 1.
        stabilizer: w, >= 0; keeps the loss of an example above log(w / M), so that examples far
            below all their neighbors in energy no longer pull.

    Raises:
        ValueError: for an unknown name, or an argument outside its range.

    Cost: 1 + M energies (n is M).

    Reference: Schröder et al. 2023, https://arxiv.org/abs/2307.06431, section 4.
    """

    needs = "energy"
    cost = "(1 + n) F + (1 + n) B"
    converges_to = "the density of the data, as the number of samples grows"
    reference = "Schröder et al. 2023, https://arxiv.org/abs/2307.06431"

    variance: float = 0.25
    samples: int = 16
    stabilizer: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(samples=self.samples)
        require_positive(variance=self.variance)
        require_nonnegative(stabilizer=self.stabilizer)

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws) -> Tensor:
        outer = normal(x, generator)
        inner = torch.stack([normal(x, generator) for _ in range(self.samples)])
        return self.at(marginal, x, outer, inner)

    def at(self, marginal: Marginal, x: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
        """Loss of each example for given draws, shape `(batch,)`.

        Args:
            marginal: the distribution that is learned.
            x: shape `(batch, *event)`.
            outer: xi, like x.
            inner: the draws xi', shape `(M, *x.shape)`.
        """
        scale = unit(marginal, self.all_noise_levels, x)
        std = expand_like(math.sqrt(self.variance) * scale, x)
        center, energy = x + std * outer, marginal.energy(x)
        terms = [energy - marginal.energy(center + std * draw) for draw in inner]
        if self.stabilizer:
            terms.append(torch.full_like(energy, math.log(self.stabilizer)))
        loss = torch.stack(terms).logsumexp(0) - math.log(len(inner))
        return loss / scale**2
