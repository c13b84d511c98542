r"""Rules of guidance: what is made of a good prediction and of one that is worse.

With the denoised mean D of a model under its condition and that of the worse one, D_0, most are

.. math:: D_w = D_0 + w \, (D - D_0)

with something done to the difference. w = 1 is no guidance; papers that write (1 + s) D - s D_0
mean s = w - 1, the `strength`. What comes out is not the score of any diffused distribution, in
particular not of p(x | c)^w p(x)^{1-w}.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import (
    expand_like,
    require_count,
    require_finite,
    require_nonnegative,
    require_positive,
    sum_event,
)
from sde_score._core.registry import Registry
from sde_score.models import Scales


@dataclass(frozen=True)
class Rule(ABC):
    """What is made of two denoised means, example by example."""

    def __post_init__(self) -> None:
        check_fields(self)

    momentum = 0.0
    """Share of the difference before that is added to each; 0 for a function of x and t alone."""

    @property
    def depends_on_steps(self) -> bool:
        """Whether the steps of a sampler matter, so that there is no function of x and t."""
        return self.momentum != 0

    @property
    def power(self) -> float | None:
        """w, where the guided score is that of good^w worse^(1 - w); None where it is of none."""
        return None

    @abstractmethod
    def __call__(self, x: Tensor, good: Tensor, worse: Tensor, at: Scales) -> Tensor:
        """The guided denoised mean; all like x, shape `(batch, *event)`."""

    def on_grid(self, times: Tensor) -> Rule:
        """The rule for a sampler that evaluates the model at these times, decreasing."""
        return self


@dataclass(frozen=True)
class _Weighted(Rule):
    """A rule with one weight, in either convention.

    Args:
        weight: w; 1 is no guidance.
        strength: s = w - 1; give one of the two.
    """

    weight: float | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.weight is None) == (self.strength is None):
            raise ValueError(
                f"weight={self.weight} and strength={self.strength}: give one of them; weight=1 "
                "and strength=0 are no guidance"
            )
        require_finite(weight=self.w)

    @property
    def w(self) -> float:
        """The weight, 1 for no guidance."""
        return 1 + (self.strength or 0.0) if self.weight is None else self.weight


@dataclass(frozen=True)
class ClassifierFree(_Weighted):
    r"""The difference with a weight: classifier-free guidance, and autoguidance.

    .. math:: D_w = D_0 + w \, (D - D_0), \qquad
              D_w \to \phi \, \frac{std(D)}{std(D_w)} D_w + (1 - \phi) D_w

    The second step, for phi > 0, gives each example back the contrast that it has without guidance.

    Args:
        weight: w; 1 is no guidance.
        strength: s = w - 1; give one of the two.
        rescale: phi, in [0, 1]; .7 in its paper.

    Raises:
        ValueError: for numbers out of range, or both or none of `weight` and `strength`.

    Reference: Ho & Salimans 2022, https://arxiv.org/abs/2207.12598; Karras et al. 2024
    (autoguidance), https://arxiv.org/abs/2406.02507; Lin et al. 2024 (rescaling),
    https://arxiv.org/abs/2305.08891, section 3.4.
    """

    rescale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_nonnegative(rescale=self.rescale)
        if self.rescale > 1:
            raise ValueError(f"rescale={self.rescale!r} must lie in [0, 1]")

    @property
    @override
    def power(self) -> float | None:
        return None if self.rescale else self.w

    @override
    def __call__(self, x: Tensor, good: Tensor, worse: Tensor, at: Scales) -> Tensor:
        guided = torch.lerp(worse, good, self.w)
        if not self.rescale:
            return guided
        ratio = _std(good) / _std(guided)
        return guided * (1 + self.rescale * (ratio - 1))


@dataclass(frozen=True)
class Projected(_Weighted):
    r"""Adaptive projected guidance: less of the part of the difference that only saturates.

    .. math:: \Delta &= D - D_0 + \beta \bar\Delta, \qquad \bar\Delta \leftarrow \Delta, \\
              \Delta &\to \Delta \min(1, r / \|\Delta\|), \\
              D_w &= D + (w - 1) (\Delta_\perp + \eta \Delta_\parallel)

    with the parts of the difference parallel to D and orthogonal to it, per example. With a
    momentum beta the answer depends on the evaluations before: it is kept while the time falls and
    begins anew when it does not, as at the start of further samples. Likelihoods, and samplers that
    go back in time, such as restarts and adaptive steps, need momentum=0.

    Args:
        weight: w; 1 is no guidance.
        strength: s = w - 1; give one of the two.
        parallel: eta, the share of the parallel part that is kept.
        radius: r, the largest norm of the difference, from 2.5 to 15 in the paper, by the model;
            None for any.
        momentum: beta, in (-1, 1); -0.5 in the paper.

    Raises:
        ValueError: for numbers out of range, or both or none of `weight` and `strength`.

    Reference: Sadat et al. 2024, https://arxiv.org/abs/2410.02416.
    """

    parallel: float = 0.0
    radius: float | None = None
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(parallel=self.parallel, momentum=self.momentum)
        if self.radius is not None:
            require_positive(radius=self.radius)
        if abs(self.momentum) >= 1:
            raise ValueError(f"momentum={self.momentum!r} must lie in (-1, 1)")

    @override
    def __call__(self, x: Tensor, good: Tensor, worse: Tensor, at: Scales) -> Tensor:
        change = good - worse
        if self.radius is not None:
            change = change * (self.radius / _norm(change)).clamp(max=1)
        unit = good / _norm(good)
        along = expand_like(sum_event(change * unit), x) * unit
        return good + (self.w - 1) * (change + (self.parallel - 1) * along)


@dataclass(frozen=True)
class ZeroStar(_Weighted):
    r"""CFG-Zero*: the worse velocity is scaled to the good one before they are weighed.

    .. math:: s^* = \frac{\langle v, v_0 \rangle}{\|v_0\|^2}, \qquad
              v_w = s^* v_0 + w \, (v - s^* v_0)

    per example, with the velocities of the probability-flow ODE; made for rectified flows.

    Args:
        weight: w; 1 gives v.
        strength: s = w - 1; give one of the two.
        zero_above: time above which the velocity is 0, the paper's "zero-init" of the first steps;
            None for none.

    Raises:
        ValueError: for numbers that are not finite, or both or none of `weight` and `strength`.

    Reference: Fan et al. 2025, https://arxiv.org/abs/2503.18886.
    """

    zero_above: float | None = None

    @override
    def __call__(self, x: Tensor, good: Tensor, worse: Tensor, at: Scales) -> Tensor:
        rate = at.sde.sigma_derivative(at.t) / at.sigma
        on_data = expand_like(at.sde.alpha_derivative(at.t) - at.alpha * rate, x)
        on_x = expand_like(rate, x)
        v, v0 = (on_x * x + on_data * x0 for x0 in (good, worse))
        scale = sum_event(v * v0) / sum_event(v0 * v0).clamp(min=torch.finfo(v0.dtype).tiny)
        guided = torch.lerp(expand_like(scale, x) * v0, v, self.w)
        if self.zero_above is not None:
            guided = guided * expand_like(at.t <= self.zero_above, x)
        return (guided - on_x * x) / on_data


@dataclass(frozen=True)
class FrequencyDecoupled(Rule):
    r"""A weight for structure and one for detail.

    .. math:: D_w = D_0 + w_{low} \, L(\Delta) + w_{high} \, (\Delta - L(\Delta)), \qquad
              \Delta = D - D_0

    with L a blur: averages over blocks of 2^levels pixels a side, interpolated back linearly. More
    weight on detail than on structure sharpens without narrowing what is drawn.

    Args:
        low: weight of structure; 1 is no guidance.
        high: weight of detail; 1 is no guidance.
        levels: halvings within L.

    Raises:
        ValueError: for numbers out of range; when called, for events that are not
            `(channels, ...)` with one to three sides.

    Reference: Sadat et al. 2025, https://arxiv.org/abs/2506.19713.
    """

    low: float
    high: float
    levels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(low=self.low, high=self.high)
        require_count(levels=self.levels)

    @override
    def __call__(self, x: Tensor, good: Tensor, worse: Tensor, at: Scales) -> Tensor:
        change = good - worse
        coarse = blurred(change, self.levels)
        return worse + self.low * coarse + self.high * (change - coarse)


@dataclass(frozen=True)
class PlusPlus(Rule):
    r"""CFG++: the noise that is put back is that of the worse prediction alone.

    .. math:: x_s = \alpha_s \left(D_0 + \lambda (D - D_0)\right) + \sigma_s \hat\epsilon_0

    is a step of DDIM from t to s with classifier-free guidance of the weight

    .. math:: w(t) = \frac{\lambda}{1 - r_s / r_t}, \qquad r = \sigma / \alpha,

    which grows as steps get shorter, so that the rule is one of a grid of times.

    Args:
        scale: lambda, in [0, 1]; .6 in the paper.
        times: at which the sampler evaluates the model, decreasing; None until the sampler is
            known, see `on_grid`.

    Raises:
        ValueError: for numbers out of range; when called, without times.

    Reference: Chung et al. 2024, https://arxiv.org/abs/2406.08070.
    """

    scale: float = 0.6
    times: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_nonnegative(scale=self.scale)
        if self.scale > 1:
            raise ValueError(f"scale={self.scale!r} must lie in [0, 1]")

    @property
    @override
    def depends_on_steps(self) -> bool:
        return True

    @override
    def on_grid(self, times: Tensor) -> Rule:
        """The rule for a sampler that evaluates the model at these times, decreasing."""
        return replace(self, times=tuple(times.tolist()))

    @override
    def __call__(self, x: Tensor, good: Tensor, worse: Tensor, at: Scales) -> Tensor:
        if self.times is None:
            raise ValueError(
                "CFG++ has no times: its weight depends on the steps; give those of the sampler, "
                "as with sampler=..., or as times=sampler.times(sde).tolist()"
            )
        _, ratio = scales_after_step(at, self.times)
        weight = self.scale / (1 - ratio / at.sde.noise_ratio(at.t))
        return worse + expand_like(weight, x) * (good - worse)


RULES: Registry[Rule] = Registry(
    "guidance",
    {
        "cfg": ClassifierFree,
        "apg": Projected,
        "cfg-zero-star": ZeroStar,
        "frequency-decoupled": FrequencyDecoupled,
        "cfgpp": PlusPlus,
    },
    base=Rule,
    aliases={"classifier-free": "cfg", "autoguidance": "cfg"},
    positional=True,
)
"""Rules by name, and those of users by `register`."""


def scales_after_step(at: Scales, times: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Signal scale alpha, and sigma / alpha, at the end of the step that begins at t.

    Args:
        at: the scales at t.
        times: at which a sampler evaluates the model, decreasing; behind the last are data, with
            alpha 1 and no noise.

    Returns:
        Both float64, in the shape of t.
    """
    ends = at.t.new_tensor(times).flip(0)
    place = torch.searchsorted(ends, at.t * (1 - 1e-9))  # the number of times below t
    alphas = torch.cat([ends.new_ones(1), at.sde.alpha(ends)])
    ratios = torch.cat([ends.new_zeros(1), at.sde.noise_ratio(ends)])
    return alphas[place], ratios[place]


def blurred(x: Tensor, levels: int) -> Tensor:
    """Averages over blocks of 2^levels a side, interpolated back linearly.

    Args:
        x: shape `(batch, channels, ...)` with one to three sides.
        levels: halvings.

    Raises:
        ValueError: for other numbers of sides.
    """
    sides = x.ndim - 2
    if not 1 <= sides <= 3:
        raise ValueError(
            f"x of shape {tuple(x.shape)} has no sides that tell structure from detail: it must be "
            "(batch, channels, ...) with one to three sides"
        )
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[sides - 1]
    coarse = x
    for _ in range(levels):
        coarse = pool(coarse, 2, ceil_mode=True)
    mode = ("linear", "bilinear", "trilinear")[sides - 1]
    return F.interpolate(coarse, x.shape[2:], mode=mode, align_corners=False)


def _std(x: Tensor) -> Tensor:
    """Standard deviation of each example's numbers, shaped to multiply x."""
    return expand_like(x.reshape(len(x), -1).std(1), x)


def _norm(x: Tensor) -> Tensor:
    """Norm of each example, shaped to multiply x."""
    return expand_like(sum_event(x * x).sqrt().clamp(min=torch.finfo(x.dtype).tiny), x)
