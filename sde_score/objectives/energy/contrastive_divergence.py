"""Contrastive divergence: energies of data against those at the ends of the model's chains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import checked
from sde_score._core.checks import expand_like, require_count, require_nonnegative
from sde_score._core.conditions import Condition
from sde_score.mcmc.kernel import KERNELS, Kernel
from sde_score.models import Marginal, Model
from sde_score.objectives.base import MarginalObjective, StatefulObjective
from sde_score.objectives.energy.replay_buffer import ReplayBuffer
from sde_score.objectives.energy.short_run_chains import (
    CHAIN_COST,
    RUNAWAY,
    chain_end,
    contrast,
    unit,
)
from sde_score.random import Draws, Noise, normal

_KERNEL = "mala(step_size=0.01)"


@dataclass(frozen=True)
class ContrastiveDivergence(MarginalObjective):
    r"""Contrastive divergence: chains start at the data and take k steps.

    .. math:: E(x_0) - E(x_k) + \lambda (E(x_0)^2 + E(x_k)^2), \qquad
              x_k \sim K^k(\cdot \mid x_0)

    With x_k an exact draw of the model, the gradient is that of the negative log-likelihood; k
    steps from the data are a biased stand-in. On data N(0, S) a Gaussian energy w x^2 / 2 ends at
    w = 1 / S with an adjusted kernel, and at w (1 - h w / 2) = 1 / S with `ula` of step h, for any
    k. As h falls, the gradient over h becomes that of implicit score matching.

    The ends of the chains carry no gradient. An energy that is NaN makes the loss NaN.

    Args:
        time_sampler: None for the data as they are, or a name from `TIME_SAMPLERS`: then the
            chains run at the noise level t, with lengths in units of sigma(t), and the loss is
            divided by sigma(t)^2 so that weightings mean what they mean elsewhere.
        weighting: a name from `WEIGHTINGS`; counts only with a time sampler.
        k: steps of each chain, at least 1.
        kernel: a name from `KERNELS`, such as `"ula(step_size=0.01)"`, or an object.
        energy_penalty: lambda, >= 0; keeps the energies near 0, which the contrast alone does not.
        start_noise: standard deviation of noise added to the start of the chains, >= 0.

    Raises:
        ValueError: for an unknown name, or an argument outside its range.

    Cost: k + 1 scores for the chain and two energies, with kernels of one evaluation per step.

    Reference: Hinton 2002, https://doi.org/10.1162/089976602760128018; the penalty: Du & Mordatch
    2019, https://arxiv.org/abs/1903.08689.
    """

    needs = "energy"
    cost = CHAIN_COST
    divergence_limit = RUNAWAY
    converges_to = "the density of the data, up to the bias of k steps and of the kernel"
    reference = "Hinton 2002, https://doi.org/10.1162/089976602760128018"

    k: int = 10
    kernel: str | Kernel = _KERNEL
    energy_penalty: float = 0.0
    start_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(k=self.k)
        require_nonnegative(energy_penalty=self.energy_penalty, start_noise=self.start_noise)
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
            x: shape `(batch, *event)`.
            noise: gives the next standard normal draw, like x: first that of the start if it is
                noised, then those of the kernel.
        """
        scale = unit(marginal, self.all_noise_levels, x)
        start = x
        if self.start_noise:
            start = x + self.start_noise * expand_like(scale, x) * noise()
        end = chain_end(marginal.model, marginal, start, self._kernel, self.k, noise, scale)
        loss = contrast(marginal.energy(x), marginal.energy(end), self.energy_penalty)
        return loss / scale**2


class PersistentContrastiveDivergence(StatefulObjective):
    r"""Persistent contrastive divergence: chains continue from their ends of an earlier step.

    .. math:: E(x_0) - E(x_k) + \lambda (E(x_0)^2 + E(x_k)^2)

    with x_k the end of k steps from a chain out of a `ReplayBuffer`, which keeps it. Chains that
    outlive many updates come close to the model's own distribution, far from the data too; a few
    restart each time. The model is that of the data, at `t_min`. Under a condition a chain goes on
    with that of the example beside it. In evaluation mode the buffer is read and not written.

    Args:
        buffer_size: number of chains kept, at least that of the examples in a global batch.
        restart: probability with which a visited chain starts afresh, in [0, 1].
        k: steps of each visited chain, at least 1.
        kernel: a name from `KERNELS`, or an object.
        energy_penalty: lambda, >= 0.

    Raises:
        ValueError: for an unknown kernel, or an argument outside its range.

    Cost: k + 1 scores for the chain and two energies, with kernels of one evaluation per step.

    Reference: Tieleman 2008, https://doi.org/10.1145/1390156.1390290; the buffer and its restarts:
    Du & Mordatch 2019, https://arxiv.org/abs/1903.08689.
    """

    cost = CHAIN_COST
    divergence_limit = RUNAWAY
    converges_to = "the density of the data, up to the bias of the kernel and of young chains"
    reference = "Tieleman 2008, https://doi.org/10.1145/1390156.1390290"

    @checked
    def __init__(
        self,
        buffer_size: int = 8192,
        restart: float = 0.05,
        k: int = 10,
        kernel: str | Kernel = _KERNEL,
        energy_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        require_count(k=k)
        require_nonnegative(energy_penalty=energy_penalty)
        self.buffer = ReplayBuffer(buffer_size, restart)
        self.k, self.energy_penalty = k, energy_penalty
        self.kernel = KERNELS.resolve(kernel, name="kernel")

    @override
    def setup(self, examples: Tensor) -> None:
        """Fill the buffer with fresh chains; see `ReplayBuffer.fill`."""
        self.buffer.fill(examples)

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        marginal = Marginal(model, None, condition)
        visit = self.buffer.visit(x0, generator)
        one = x0.new_ones(())
        end = chain_end(
            model, marginal, visit.start, self.kernel, self.k, lambda: normal(x0, generator), one
        )
        if self.training:
            self.buffer.write(visit, end, self.k)
        return contrast(marginal.energy(x0), marginal.energy(end), self.energy_penalty)

    @override
    def extra_repr(self) -> str:
        return f"k={self.k}, kernel={self.kernel}, energy_penalty={self.energy_penalty}"
