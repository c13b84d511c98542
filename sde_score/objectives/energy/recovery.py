"""Diffusion recovery likelihood: each noise level given an observation with more noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_count, require_positive, sum_event
from sde_score.mcmc.kernel import KERNELS, Kernel
from sde_score.models import Density, Marginal
from sde_score.objectives.base import MarginalObjective
from sde_score.objectives.energy.short_run_chains import (
    CHAIN_COST,
    RUNAWAY,
    chain_end,
    contrast,
    unit,
)
from sde_score.objectives.time_samplers import TimeSampler
from sde_score.random import Draws, Noise, normal


@dataclass(frozen=True, eq=False)
class Observed:
    r"""The distribution of x given a noisy observation of it, as a `Density`.

    .. math:: E(x \mid \tilde x) = E(x) + \frac{\lVert \tilde x - x \rVert^2}{2 s^2}

    For a Gaussian energy w x^2 / 2 it is N(x~ / (1 + w s^2), 1 / (w + 1 / s^2)).

    Args:
        prior: of x.
        observation: x~ = x + s noise, like x.
        std: s, a scalar or `(batch,)`, > 0.
    """

    prior: Density
    observation: Tensor
    std: Tensor

    def energy(self, x: Tensor) -> Tensor:
        """Energy in nats, shape `(batch,)`."""
        return self.prior.energy(x) + 0.5 * sum_event(self._off(x) ** 2)

    def score(self, x: Tensor) -> Tensor:
        """-grad energy, like x."""
        return self.prior.score(x) - self._off(x) / expand_like(self.std, x)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        energy, score = self.prior.energy_and_score(x)
        off = self._off(x)
        return energy + 0.5 * sum_event(off**2), score - off / expand_like(self.std, x)

    def _off(self, x: Tensor) -> Tensor:
        return (x - self.observation) / expand_like(self.std, x)


@dataclass(frozen=True)
class RecoveryLikelihood(MarginalObjective):
    r"""Recovery likelihood: chains sample x_t given an observation with more noise.

    .. math:: E(x_t, t) - E(x', t), \qquad \tilde x = x_t + s \epsilon, \qquad
              x' \sim K^k(\cdot \mid \tilde x)

    where K leaves the distribution of x_t given x~ as it is, with energy E(x, t) + |x~ - x|^2 / (2
    s^2).

    With x' an exact draw, the gradient is that of -log p(x_t | x~), whose minimum is the
    distribution of x_t. Given x~ that has hardly more than one mode, so that short chains suffice
    from x~ where they do not from noise. With s = `noise` times sigma(t), x~ is (up to its scale)
    the data at the later time at which the log signal-to-noise ratio is lower by log(1 + noise^2),
    on every SDE, whether it reaches that far or not.

    Args:
        time_sampler: a name from `TIME_SAMPLERS`; None for the data as they are, with s = `noise`.
        weighting: a name from `WEIGHTINGS`; counts only with a time sampler.
        k: steps of each chain, at least 1.
        kernel: a name from `KERNELS`, or an object; its lengths are in units of s, in which the
            distribution of x has a precision of at most 1 + noise^2.
        noise: s in units of sigma(t), > 0.

    Raises:
        ValueError: for an unknown name, or an argument outside its range.

    With a time sampler the loss is divided by sigma(t)^2, so that weightings mean what they mean
    elsewhere. Cost: k + 1 scores for the chain and two energies, with kernels of one evaluation
    per step.

    Reference: Gao et al. 2021, https://arxiv.org/abs/2012.08125.
    """

    needs = "energy"
    cost = CHAIN_COST
    divergence_limit = RUNAWAY
    converges_to = "the density of x_t at every t, up to the bias of k steps and of the kernel"
    reference = "Gao et al. 2021, https://arxiv.org/abs/2012.08125"

    time_sampler: str | TimeSampler | None = "uniform_log_snr"
    k: int = 20
    kernel: str | Kernel = "mala(step_size=0.1)"
    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(k=self.k)
        require_positive(noise=self.noise)
        _ = self._kernel

    @property
    def _kernel(self) -> Kernel:
        return KERNELS.resolve(self.kernel, name="kernel")

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws) -> Tensor:
        return self.at(marginal, x, lambda: normal(x, generator))

    def at(self, marginal: Marginal, x: Tensor, noise: Noise) -> Tensor:
        """Loss of each example for given draws, shape `(batch,)`.

        Args:
            marginal: the distribution that is learned.
            x: a sample of it, `(batch, *event)`.
            noise: gives the next standard normal draw, like x: first epsilon, then the kernel's.
        """
        scale = unit(marginal, self.all_noise_levels, x)
        std = self.noise * scale
        observation = x + expand_like(std, x) * noise()
        posterior = Observed(marginal, observation, std)
        end = chain_end(marginal.model, posterior, observation, self._kernel, self.k, noise, std)
        return contrast(marginal.energy(x), marginal.energy(end), 0.0) / scale**2
