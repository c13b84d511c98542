"""Input and output of the steps of a sampler: `Problem` and `Samples`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score.models import Model
from sde_score.random import Noise
from sde_score.sdes import SDE

Iteration = Iterator[tuple[float, Tensor]]
"""Yields the time reached and the state, step by step."""


@runtime_checkable
class Path(Protocol):
    """A source of noise that is a path over the clock log(sigma / alpha)."""

    def between(self, a: float, b: float) -> Tensor:
        """The increment of the path from a to b, scaled to a standard normal draw."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """All that `Sampler.iterate` needs besides the state.

    Args:
        model: read through the model protocol alone.
        times: decreasing, float64, on the CPU.
        noise: source of standard normal draws.
        condition: passed to the model.
        tick: moves the progress bar; for iterations whose steps are not those they yield.
    """

    model: Model
    times: Tensor
    noise: Noise
    condition: Condition
    tick: Callable[[], object]

    @property
    def sde(self) -> SDE:
        """The model's diffusion."""
        return self.model.sde

    def moments(self, device: torch.device) -> tuple[Tensor, ...]:
        """The times as scalars on a device, so that the loop does not copy any."""
        return self.times.to(device).unbind()

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's score under the condition."""
        return self.model.score(x, t, self.condition)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's denoised mean under the condition."""
        return self.model.denoise(x, t, self.condition)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's velocity under the condition."""
        return self.model.velocity(x, t, self.condition)

    def expected_noise(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's noise under the condition."""
        return self.model.noise(x, t, self.condition)

    def between(self, t: float, s: float) -> Tensor:
        """A standard normal draw for the step from t to an earlier s > 0.

        A path gives its own increment, so that steps of any size see the same noise.
        """
        if not isinstance(self.noise, Path):
            return self.noise()
        clock = -0.5 * self.sde.log_snr(torch.tensor([t, s], dtype=torch.float64))
        return self.noise.between(*clock.tolist())


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples and their cost.

    Args:
        samples: shape `(batch, *event)`.
        nfe: network evaluations per sample, counted on the model.
    """

    samples: Tensor
    nfe: float


@dataclass(frozen=True, eq=False)
class Trajectory(Samples):
    """Samples, their cost, and all states on the way.

    Args:
        times: time of each state, from `t_max`; 0 for the denoised result, float64 of shape
            `(states,)`.
        states: shape `(states, batch, *event)`, the start included.
    """

    times: Tensor
    states: Tensor
