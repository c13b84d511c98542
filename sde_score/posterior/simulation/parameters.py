r"""The distribution of parameters given one observation, in their own terms.

    found = ParameterPosterior(
        run.model, run.event_shape, run.condition_of(y), scaling=run.scaling,
        box=Box([0, 0], [1, 5]),
    )
    theta = found.sample(1000)
    best, height = found.map()

Draws and densities are those of theta itself, not of what the network sees scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from sde_score._core.checks import require_count, shown
from sde_score._core.conditions import Condition, mapped, tensors_of
from sde_score._core.errors import ArgumentError, NumericalError
from sde_score._core.modules import blank_like
from sde_score.likelihood import log_prob
from sde_score.models import Model, jacobian, require_model
from sde_score.posterior.simulation.pairs import Box
from sde_score.random import mix
from sde_score.samplers import SAMPLERS, Sampler
from sde_score.scaling import Scaling

_ROUNDS = 100  # of draws, until all lie in the box
_CLIMB = 60  # steps of the ascent
_NEWTON = 5  # steps behind it
_CLOSEST = 0.05  # noise at its end, as a share of the smallest deviation


class Share(NamedTuple):
    """Share of draws within the box, and its standard error."""

    value: float
    standard_error: float


class Density(NamedTuple):
    """Log densities in nats, with their standard errors, both of shape `(n,)`, float64."""

    log_prob: Tensor
    standard_error: Tensor


@dataclass(frozen=True, eq=False)
class ParameterPosterior:
    r"""A model of theta given one observation, in theta's own terms, perhaps within bounds.

    A network puts some density outside of the box of a uniform prior. Within it the distribution is

    .. math:: p(\theta) = \frac{q(\theta)}{Q(box)}, \qquad Q(box) = \int_{box} q

    which is drawn by rejection, and whose normalizer is the share of draws inside.

    Args:
        model: of theta given an observation, or composed of several.
        event_shape: shape of theta.
        condition: of one example, in model range, as `run.condition_of` gives it; None for a model
            that takes none.
        scaling: the map between theta's own terms and model range.
        box: bounds, in theta's own terms; None for none.
        sampler: that draws, such as `"heun(steps=18)"`.
        batch_size: samples that the model sees at once.

    Raises:
        TypeError: if `model` lacks the protocol.
        ValueError: for a condition of several examples.
    """

    model: Model
    event_shape: Sequence[int]
    condition: Condition = None
    scaling: Scaling = field(default_factory=Scaling)
    box: Box | None = None
    sampler: str | Sampler = "heun(steps=18)"
    batch_size: int = 1024

    def __post_init__(self) -> None:
        require_model(self.model)
        require_count(batch_size=self.batch_size)
        SAMPLERS.resolve(self.sampler, name="sampler")
        if self.box is not None and (not isinstance(self.box, Box) or len(self.event_shape) != 1):
            raise ArgumentError(f"box={shown(self.box)} must be a Box, for theta of shape (d,)")
        if any(len(value) != 1 for value in tensors_of(self.condition)):
            raise ValueError("condition must be of one example: shape (1, ...)")

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Draws, within the box if there is one; sample i depends on (seed, i) alone.

        Args:
            count: number of draws.
            seed: random seed.

        Returns:
            Shape `(count, *event_shape)`.

        Raises:
            NumericalError: if hardly any draw lies in the box.
        """
        require_count(count=count)
        left = torch.arange(count)
        found = self._drawn(left, seed, 0)
        for attempt in range(1, _ROUNDS):
            left = left[~self._inside(found[left])]
            if not len(left):
                return found
            found[left] = self._drawn(left, seed, attempt)
        if not bool(self._inside(found).all()):
            raise NumericalError(
                f"after {_ROUNDS} draws {len(left)} of {count} samples still lie outside of the "
                "box: the model hardly knows it; check the box, or train longer"
            )
        return found

    def share_inside(self, draws: int = 1000, seed: int = 0) -> Share:
        """The share of all draws that lies in the box, and its standard error; 1 without a box.

        Args:
            draws: number of draws.
            seed: random seed.
        """
        require_count(draws=draws)
        if self.box is None:
            return Share(1.0, 0.0)
        inside = self._inside(self._drawn(torch.arange(draws), seed, 0)).double()
        share = float(inside.mean())
        return Share(share, (share * (1 - share) / draws) ** 0.5)

    def log_prob(
        self, theta: Tensor, share: Share | None = None, *, rtol: float = 1e-5, atol: float = 1e-5
    ) -> Density:
        """Log density of theta in its own units, by the flow; minus infinity outside of the box.

        The standard error is that of the share of draws inside.

        Args:
            theta: in its own terms, shape `(n, *event_shape)`.
            share: of draws in the box; None estimates it by `share_inside()`.
            rtol, atol: tolerances of the flow.

        Raises:
            ValueError: if no draw lies in the box.
        """
        share = self.share_inside() if share is None else share
        if not share.value:
            raise ValueError("share is 0: no draw lies in the box, so that there is no density")
        theta = theta.detach().cpu()
        flow = self._flow(self.scaling.to_model(theta), rtol, atol)
        inside = torch.log(torch.tensor(share.value, dtype=torch.float64))
        logs = flow + self.scaling.log_abs_det(tuple(self.event_shape)) - inside
        logs = torch.where(self._inside(theta), logs, -torch.inf)
        return Density(logs, torch.full_like(logs, share.standard_error / share.value))

    def map(self, starts: int = 64, seed: int = 0) -> tuple[Tensor, float]:
        """The most probable theta, the maximum a posteriori, and its log density.

        Draws climb by the denoised mean, x -> D(x, t), which never goes down on the density at a
        noise level, while the noise falls, and then by Newton steps; the flow's density chooses
        among the draws and where they come to.

        Args:
            starts: draws to climb from.
            seed: random seed.

        Returns:
            theta, shape `event_shape`, in its own terms, and its log density, without box.
        """
        require_count(2, starts=starts)
        draws = self.scaling.to_model(self.sample(starts, seed))
        points = torch.cat([draws, *(end.cpu() for end in self._climbed(draws.to(self._device)))])
        theta = self.scaling.from_model(points)
        kept = self._inside(theta) & points.isfinite().flatten(1).all(1)
        theta, heights = theta[kept], self._flow(points[kept], 1e-4, 1e-4)
        change = self.scaling.log_abs_det(tuple(self.event_shape))
        return theta[heights.argmax()], float(heights.max()) + change

    def _climbed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Ends of the ascent by denoised means, and of Newton steps behind it."""
        sde, told, size = self.model.sde, self._told(len(x)), prod(self.event_shape)
        spread = torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T).reshape(size, size))
        high, low = (float(end.clamp(min=1e-12)) ** 0.5 for end in (spread[-1], spread[0]))
        ratios = torch.logspace(0, 1, _CLIMB, base=_CLOSEST * low / high, dtype=torch.float64)
        ends = [float(sde.noise_ratio(time)) for time in (sde.t_min, sde.t_max)]

        def denoised(z: Tensor) -> Tensor:
            return self.model.denoise(sde.alpha(time).to(z) * z, time, told)

        for ratio in (high * ratios).clamp(*ends):
            time = sde.time_of_noise_ratio(ratio)
            with torch.no_grad():
                x = denoised(x)
        end, eye = x, torch.eye(size).to(x)
        for _ in range(_NEWTON):
            curved = eye - jacobian(denoised, x.detach()).detach()
            with torch.no_grad():
                step = torch.linalg.lstsq(curved, (denoised(x) - x).flatten(1)[..., None]).solution
            x = x + step.reshape(x.shape)
        return end, x

    def _flow(self, x: Tensor, rtol: float, atol: float) -> Tensor:
        x, told = x.to(self._device), self._told(len(x))
        return log_prob(self.model, x, condition=told, rtol=rtol, atol=atol).log_prob.cpu()

    def _told(self, count: int) -> Condition:
        device = self._device
        return mapped(
            self.condition, lambda value: value.to(device).expand(count, *value.shape[1:])
        )

    @property
    def _device(self) -> torch.device:
        return blank_like(self.model, (1, *self.event_shape)).device

    def _inside(self, theta: Tensor) -> Tensor:
        if self.box is None:
            return torch.ones(len(theta), dtype=torch.bool)
        return self.box.contains(theta)

    def _drawn(self, numbers: Tensor, seed: int, attempt: int) -> Tensor:
        """An attempt at the samples of some numbers, in their own terms."""
        sampler, parts = SAMPLERS.resolve(self.sampler, model=self.model), []
        for first in range(0, len(numbers), self.batch_size):
            part = numbers[first : first + self.batch_size].tolist()
            seeds = [mix(seed, number, attempt) for number in part]
            told, shape = self._told(len(part)), (len(part), *self.event_shape)
            parts.append(sampler(self.model, shape, seed=seeds, condition=told, progress=False))
        return self.scaling.from_model(torch.cat(parts).cpu())
