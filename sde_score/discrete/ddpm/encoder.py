"""Encoder of a hierarchical VAE: the diffusion at n times, which has nothing to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sde_score._core.checks import expand_like
from sde_score.distributions import Normal
from sde_score.random import ExampleStreams, example_seeds
from sde_score.samplers import posterior_coefficients
from sde_score.sdes import SDE

Layer = int | Tensor
"""A layer for the whole batch, or one for each example: integers of shape `(batch,)`."""


@dataclass(frozen=True, eq=False)
class Encoder:
    r"""The Markov chain from the data up through the layers, with the exact kernels of the SDE.

    .. math:: q(x_{1:n} \mid x_0) = \prod_i q(x_i \mid x_{i-1}), \qquad
              q(x_i \mid x_0) = N(\alpha_i x_0, \sigma_i^2 I)

    Tables are float64 on the CPU, with entry i - 1 for layer i.

    Args:
        sde: the forward diffusion.
        times: t_1 < ... < t_n, shape `(n,)`.

    Raises:
        ValueError: for times that do not increase or leave the range of the SDE.
    """

    sde: SDE
    times: Tensor

    def __post_init__(self) -> None:
        times = torch.as_tensor(self.times, dtype=torch.float64).cpu()
        if times.ndim != 1 or not len(times) or not bool((times.diff() > 0).all()):
            raise ValueError(
                f"times must be strictly increasing, of shape (n,), got shape {tuple(times.shape)}"
            )
        object.__setattr__(self, "times", self.sde.check_time(times))

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def alphas(self) -> Tensor:
        """Signal scale of each layer given the data, shape `(n,)`."""
        return self.sde.alpha(self.times)

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise scale of each layer given the data, shape `(n,)`."""
        return self.sde.sigma(self.times)

    @cached_property
    def log_snrs(self) -> Tensor:
        """Log signal-to-noise ratio of each layer, decreasing, shape `(n,)`."""
        return self.sde.log_snr(self.times)

    @cached_property
    def steps(self) -> tuple[Tensor, Tensor]:
        """Scale and standard deviation of q(x_i | x_{i-1}), each of shape `(n,)`."""
        scale, std = self.sde.transition(self.times[:-1], self.times[1:])
        return torch.cat([self.alphas[:1], scale]), torch.cat([self.sigmas[:1], std])

    @cached_property
    def betas(self) -> Tensor:
        """Variances of the steps of DDPM's chain, shape `(n,)`.

        Raises:
            ValueError: if the SDE does not preserve variance: `steps` then describes a step.
        """
        if not torch.allclose(self.alphas**2 + self.sigmas**2, torch.ones_like(self.alphas)):
            raise ValueError(
                f"{self.sde} has no betas: alpha^2 + sigma^2 is not 1; `steps` holds the scale and "
                "the std of each step"
            )
        return self.steps[1] ** 2

    @cached_property
    def posteriors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Factors on x_0 and x_i in the mean of q(x_{i-1} | x_i, x_0) and its standard deviation,
        each of shape `(n,)`; for the first layer 1, 0 and 0, since x_0 is the data."""
        ends = (torch.tensor([v], dtype=torch.float64) for v in (1.0, 0.0, 0.0))
        steps = posterior_coefficients(self.sde, self.times[:-1], self.times[1:])
        on_x0, on_x, std = (torch.cat(pair) for pair in zip(ends, steps, strict=True))
        return on_x0, on_x, std

    def at(self, table: Tensor, layer: Layer, first: int = 1) -> Tensor:
        """The entry of a table at a layer, or one for each example.

        Raises:
            ValueError: if a layer lies outside `first` ... n.
        """
        index = torch.as_tensor(layer).cpu()
        if index.is_floating_point() or index.ndim > 1:
            raise ValueError(
                f"layer must be an integer, or one for each example, shape (batch,), got "
                f"{index.dtype} of shape {tuple(index.shape)}"
            )
        outside = index[(index < first) | (index > len(self))]
        if outside.numel():
            raise ValueError(f"layer={int(outside[0])} must lie in {first}..{len(self)}")
        return table.take(index.long() - 1)  # a copy, which autograd may keep in any mode

    def step(self, x: Tensor, layer: Layer) -> Normal:
        """q(x_i | x_{i-1} = x)."""
        scale, std = (self.at(table, layer) for table in self.steps)
        return Normal(expand_like(scale, x) * x, std)

    def marginal(self, x0: Tensor, layer: Layer) -> Normal:
        """q(x_i | x_0)."""
        mean = expand_like(self.at(self.alphas, layer), x0) * x0
        return Normal(mean, self.at(self.sigmas, layer))

    def posterior(self, x: Tensor, x0: Tensor, layer: Layer) -> Normal:
        """q(x_{i-1} | x_i = x, x_0), i >= 2."""
        on_x0, on_x, std = (self.at(table, layer, 2) for table in self.posteriors)
        return Normal(expand_like(on_x0, x) * x0 + expand_like(on_x, x) * x, std)

    def sample(self, x0: Tensor, *, seed: int | Sequence[int] | None = None) -> Tensor:
        """One draw of all layers given the data, step by step: shape `(n, batch, *event)`.

        Args:
            x0: data, shape `(batch, *event)`.
            seed: example i depends on (seed, i) alone; a sequence gives each its own; None draws
                one at random.
        """
        draw, x, latents = ExampleStreams(example_seeds(seed, len(x0)), x0), x0, []
        for layer in range(1, len(self) + 1):
            given = self.step(x, layer)
            x = given.mean + given.std * draw()
            latents.append(x)
        return torch.stack(latents)
