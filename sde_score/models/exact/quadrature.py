r"""One-dimensional integrals and distributions by quadrature, in float64, for exact targets.

Most targets are Gaussian given one number y, so that their diffused density is one integral,

.. math:: p_t(x) = \int f(y; x)\, dy, \qquad f = p(y)\, p(x_t = x \mid y),

with an integrand that is as narrow as sigma / alpha or as wide as the distribution of y.
`log_integral` first finds where it is not negligible, for each example on its own, and then spends
all nodes there. The nodes are constants to autograd: the gradient of the sum is the sum of the
gradients at the nodes, which is the same quadrature of the exact score.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sde_score._core.quadrature import legendre

Integrand = Callable[[Tensor], Tensor]

DEPTH = 300.0
"""Nats below its maximum at which a log density is cut before it is diffused."""

_WINDOW = 45.0  # nats below its maximum at which an integrand is cut; e^-45 = 3e-20
_LEVELS = 4
_GRID = 128
_MARGIN = 2  # grid cells kept on both sides, where a peak may hide between two nodes
_NODES = 192

_PANELS = 512
_PANEL_NODES = 8
_MOST_STEPS = 60


def column(coefficient: Tensor, x: Tensor) -> Tensor:
    """A scalar or `(batch,)` as `(1, 1)` or `(batch, 1)`, on the device of x, float64."""
    return coefficient.to(device=x.device, dtype=torch.float64).reshape(-1, 1)


def bracket(low: float, high: float, center: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    r"""Interval of y, given that it lies in [low, high] and that center ~ N(y, spread^2) was seen.

    At both ends the density of y is e^-DEPTH of its maximum or less, so that only an
    observation from afar, or a sharp one near an end, can pull y beyond them.

    Args:
        low: lower end.
        high: upper end.
        center: x / alpha, any shape.
        spread: sigma / alpha, broadcast against `center`.

    Returns:
        Both ends, in the shape of `center`.
    """
    farthest = torch.maximum((center - low).abs(), (center - high).abs())
    sharp = farthest**2 > 2 * (DEPTH - 2 * _WINDOW) * spread**2
    below, above = center - 10 * spread, center + 10 * spread
    return (
        torch.where(sharp, below.clamp(max=low), low),
        torch.where(sharp, above.clamp(min=high), high),
    )


@torch.no_grad()
def _window(log_f: Integrand, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Shrink [low, high] to where log f is within `_WINDOW` of its maximum, row by row."""
    steps = torch.linspace(0, 1, _GRID, dtype=torch.float64, device=low.device)
    for _ in range(_LEVELS):
        nodes = low + (high - low) * steps
        value = log_f(nodes)
        kept = value >= value.amax(-1, keepdim=True) - _WINDOW
        left = torch.where(kept, nodes, torch.inf).amin(-1, keepdim=True)
        right = torch.where(kept, nodes, -torch.inf).amax(-1, keepdim=True)
        margin = _MARGIN * (high - low) / (_GRID - 1)
        low, high = torch.maximum(left - margin, low), torch.minimum(right + margin, high)
    return low, high


def log_integral(log_f: Integrand, low: Tensor, high: Tensor) -> Tensor:
    r"""log of the integral of exp(log_f(y)) dy, row by row.

    Four grids of 128 nodes, each over what the one before left, find where log f is within 45 nats
    of its maximum; 192 Gauss-Legendre nodes integrate there. An integrand of one or two smooth
    peaks, whose widths are at least 1/100 of their distance, is integrated to about 1e-13.

    Args:
        log_f: maps nodes `(rows, nodes)` to log f at each; may close over tensors that broadcast
            against `(rows, 1)`, to which the result is differentiable.
        low: lower ends, shape `(rows, 1)`.
        high: upper ends, shape `(rows, 1)`.

    Returns:
        Shape `(rows,)`.
    """
    low, high = _window(log_f, low.detach(), high.detach())
    nodes, weights = (part.to(low.device) for part in legendre(_NODES))
    width = high - low
    return (log_f(low + width * nodes) + (width * weights).log()).logsumexp(-1)


def convolve(
    log_f: Integrand, ends: tuple[float, float], x: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    r"""log of the density of alpha y + sigma noise, entry by entry, y of density exp(log_f).

    .. math:: p(x) = \int e^{\log f(y)}\, N(x;\ \alpha y,\ \sigma^2)\, dy

    Args:
        log_f: log density of y, elementwise.
        ends: points at which it has fallen by `DEPTH`.
        x: shape `(batch, D)`, float64.
        alpha: scalar or `(batch,)`.
        sigma: scalar or `(batch,)`, > 0.

    Returns:
        Shape `(batch, D)`.
    """
    entries = x.reshape(-1, 1)
    scale, noise = (column(c, x).expand_as(x).reshape(-1, 1) for c in (alpha, sigma))

    def log_joint(y: Tensor) -> Tensor:
        return log_f(y) - 0.5 * ((entries - scale * y) / noise) ** 2

    value = log_integral(log_joint, *bracket(*ends, entries / scale, noise / scale))
    constant = (math.sqrt(2 * math.pi) * noise).log()
    return (value[:, None] - constant).reshape(x.shape)


class IntervalDistribution:
    """A distribution on an interval by its log density up to a constant: constant, inverse cdf.

    The interval is cut into 512 panels with 8 Gauss-Legendre nodes each; within a panel the cdf is
    inverted by Newton's method, and by bisection where that leaves the panel. Both are exact to
    rounding for densities that are smooth over a panel.

    Args:
        log_f: log density up to a constant, elementwise, float64.
        low: lower end.
        high: upper end.
    """

    def __init__(self, log_f: Integrand, low: float, high: float) -> None:
        self._log_f = log_f
        self._edges = torch.linspace(low, high, _PANELS + 1, dtype=torch.float64)
        self._width = (high - low) / _PANELS
        nodes, _ = legendre(_PANEL_NODES)
        self._peak = float(log_f(self._edges[:-1, None] + self._width * nodes).max())
        full = torch.full((_PANELS,), self._width, dtype=torch.float64)
        self._below = torch.cat([torch.zeros(1).double(), self._mass(self._edges[:-1], full)])
        self._below = self._below.cumsum(0)

    @property
    def log_z(self) -> float:
        """log of the integral of exp(log_f)."""
        return float(self._below[-1].log()) + self._peak

    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of the cdf at u in [0, 1), float64, any shape."""
        mass = u.flatten() * self._below[-1]
        panel = torch.searchsorted(self._below, mass, right=True).sub(1).clamp(0, _PANELS - 1)
        left, rest = self._edges[panel], mass - self._below[panel]
        step = self._width * rest / (self._below[panel + 1] - self._below[panel])
        low, high = torch.zeros_like(step), torch.full_like(step, self._width)
        for _ in range(_MOST_STEPS):
            excess = self._mass(left, step) - rest
            low, high = torch.where(excess < 0, step, low), torch.where(excess > 0, step, high)
            newton = step - excess / (self._log_f(left + step) - self._peak).exp()
            inside = (newton >= low) & (newton <= high)
            before, step = step, torch.where(inside, newton, 0.5 * (low + high))
            step = torch.where(excess == 0, before, step)
            if bool(((step - before).abs() <= 1e-13 * self._width).all()):
                break
        return (left + step).reshape(u.shape)

    def _mass(self, left: Tensor, width: Tensor) -> Tensor:
        """Integrals of exp(log_f - peak) over [left, left + width], one panel each."""
        nodes, weights = legendre(_PANEL_NODES)
        value = (self._log_f(left[:, None] + width[:, None] * nodes) - self._peak).exp()
        return width * (value @ weights)
