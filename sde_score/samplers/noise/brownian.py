r"""Brownian paths, one per example, that can be evaluated at any time, in any order, repeatedly.

Samplers of a stochastic equation differ by their steps and by their noise. On one path the noise is
the same at every number of steps, so that the difference is the error of the steps.

Time on the path is the *clock* log(sigma / alpha), in which every SDE is the same diffusion. The
path is Levy's construction: the value at the end of the clock, then that in the middle given both
ends, then those in the quarters, and so on,

.. math:: W(c) = \frac{c}{T} W(T) + \sum_{j=0}^{31} \sqrt{\ell_j}\, \min(u_j, 1 - u_j)\, Z_j,

where c lies at the share u_j of a cell of length l_j = T / 2^j, and Z_j is the normal draw of that
cell. No draw is kept: each is a hash of the seed, the cell and the entry, made when it is needed.
So an evaluation costs the same whatever was evaluated before, its value does not depend on the
order, and a refined path takes no memory.

Times are rounded to 2^32 parts of the clock and the sum ends there, where it is exact: between any
two of these points the change of W is normal, its variance is their distance, and changes over
stretches that do not overlap are independent.

Reference: Levy 1948, Processus stochastiques et mouvement brownien; Gaines & Lyons 1997,
https://doi.org/10.1137/S0036139995286515; Li et al. 2020 (virtual Brownian tree),
https://arxiv.org/abs/2001.01328; Salmon et al. 2011 (draws by hashing a counter),
https://doi.org/10.1145/2063384.2063405.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from sde_score._core.checks import require_count, require_finite
from sde_score.random import GOLDEN, example_seeds, finalize_, mix
from sde_score.sdes import SDE

_DEPTH = 32
_POINTS = 1 << _DEPTH
_PATH_STREAM = 0x42524F574E  # tells these draws from those of other streams with the same seed
_FIRST_DRAW = 1 << 40  # plain draws are cells beyond those of the path
_SLACK = 1e-6  # relative; clocks computed in float32 may round past the ends

# Draws are made for as many levels at once as keep the work in the processor's cache.
_CHUNK = 1 << 15

# Adding and subtracting this leaves multiples of 2^-32, below 2^20 all: their sum is exact, so it
# does not depend on its order, which changes with the batch.
_ROUNDING = 1.5 * (1 << 20)

_ODD = 0xD1342543DE82EF95 - (1 << 64)  # spreads the cells over 64 bits, as GOLDEN the entries
_LOW_HALF = (1 << 32) - 1


class BrownianPath:
    """A Brownian path per example over the clock log(sigma / alpha) of an SDE.

    As the `noise` of a sampler it gives the noise of each step from the path, the same for any
    number of steps, and draws apart from the path for the start and for correctors:

        path = BrownianPath(model.sde, (16, 2), seed=0)
        coarse, fine = (
            EulerMaruyama(steps=n)(model, (16, 2), noise=path.restart()) for n in (50, 500)
        )

    Example i depends on (seed, i) alone, and on any device on the same bits.

    Args:
        sde: gives the ends of the clock, those of `sde.t_min` and `sde.t_max`.
        shape: `(batch, *event)`.
        seed: random seed: an integer, one for each example, or None for a random one.
        span: other ends of the clock, low and high, as for one path on several SDEs.
        dtype: of the draws, floating point.
        device: of the draws.

    Raises:
        ValueError: if a size is below 1, the seeds are not one per example, or `span` does not
            increase.
        TypeError: if `dtype` is not floating point.
    """

    def __init__(
        self,
        sde: SDE,
        shape: Sequence[int],
        *,
        seed: int | Sequence[int] | None = None,
        span: tuple[float, float] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require_count(**{f"shape[{i}]": size for i, size in enumerate(shape)})
        if not dtype.is_floating_point:
            raise TypeError(f"dtype={dtype} must be floating point: try torch.float32")
        self.shape, self.dtype = tuple(shape), dtype
        self.low, self.high = _span(sde, span)
        seeds = [mix(s, _PATH_STREAM) for s in example_seeds(seed, self.shape[0])]
        self._keys = torch.tensor(seeds, dtype=torch.int64, device=device)
        pairs = (prod(self.shape[1:]) + 1) // 2  # one hash makes two normal draws
        self._counters = torch.arange(pairs, device=device) * GOLDEN
        self._levels = _Levels(device)
        self._known: dict[int, Tensor] = {}
        self._drawn = 0

    def __call__(self) -> Tensor:
        """The next standard normal draw that has no part in the path, shape `(batch, *event)`."""
        one = torch.ones(1, 1, dtype=torch.int64, device=self._keys.device)
        draw = self._sum(one * (_FIRST_DRAW + self._drawn), one.double(), self._keys)
        self._drawn += 1
        return self._shaped(draw)

    def restart(self) -> BrownianPath:
        """Let the draws apart from the path begin anew, for another run from the same start.

        Returns:
            itself.
        """
        self._drawn = 0
        return self

    def between(self, a: float, b: float) -> Tensor:
        r"""The normed change of the path, (W(b) - W(a)) / sqrt|b - a|.

        Args:
            a: a clock value.
            b: another, before it or after it.

        Returns:
            standard normal draws, shape `(batch, *event)`.

        Raises:
            ValueError: if a value is outside the clock, or both are one of its 2^32 points.
        """
        first, last = self._point(a), self._point(b)
        if first == last:
            raise ValueError(
                f"a={a} and b={b} are the same point of the path, whose points lie "
                f"{(self.high - self.low) / _POINTS:.2g} apart"
            )
        self._known = {point: self._look(point) for point in (first, last)}
        change = self._known[last] - self._known[first]
        return self._shaped(change.mul_(abs(last - first) ** -0.5))

    def at(self, clock: Tensor, rows: Tensor) -> Tensor:
        """The path of some examples, each at its own time, for samplers with steps of their own.

        Args:
            clock: shape `(n,)`, float64; values outside the clock give its ends.
            rows: which examples of the batch, shape `(n,)`.

        Returns:
            W in float64, zero at the low end of the clock, of shape `(n, numbers of an event)`.
        """
        share = (clock - self.low) / (self.high - self.low)
        points = (share.clamp(0, 1) * _POINTS).round().to(torch.int64)
        unit = (self.high - self.low) / _POINTS
        return self._values(points, self._keys[rows], _DEPTH).mul_(math.sqrt(unit))

    def _point(self, clock: float) -> int:
        """The nearest point of the clock, counted from its low end."""
        width = self.high - self.low
        if not self.low - _SLACK * width <= clock <= self.high + _SLACK * width:
            raise ValueError(
                f"clock={clock:g} leaves [{self.low:g}, {self.high:g}], the clock of the path: "
                "log(sigma / alpha) from t_min to t_max, unless span was given"
            )
        return round(min(max((clock - self.low) / width, 0.0), 1.0) * _POINTS)

    def _look(self, point: int) -> Tensor:
        """W at a point for all examples; the last two are kept, since steps share their ends."""
        if point not in self._known:
            # A point of a coarse level is a corner of all cells below it, where they add nothing.
            zeros = min(_DEPTH, (point & -point).bit_length() - 1) if point else _DEPTH
            where = torch.full((1,), point, device=self._keys.device)
            self._known[point] = self._values(where, self._keys, _DEPTH - zeros)
        return self._known[point]

    def _values(self, points: Tensor, keys: Tensor, depth: int) -> Tensor:
        """W at points, in units where its variance is the point, from the levels above `depth`.

        Args:
            points: int64, shape `(n,)` or `(1,)` for one that all examples share.
            keys: of the examples, shape `(n,)`.
            depth: of levels below the whole clock.

        Returns:
            float64, shape `(n, numbers)`.
        """
        total = torch.zeros((), dtype=torch.float64, device=points.device)
        stride = max(1, _CHUNK // (len(keys) * len(self._counters)))
        for shift, first, scale in self._levels.part(depth, stride):
            width = torch.ones_like(shift) << shift
            inside = points & (width - 1)
            weight = torch.minimum(inside, width - inside) * scale
            total = total + self._sum((points >> shift) + first, weight, keys)
        return total

    def _sum(self, cells: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
        """Weighted sum of the draws of cells, by Box and Muller's formula from halves of a hash.

        Args:
            cells: numbers of cells, int64, shape `(k, n)` or `(k, 1)`.
            weights: float64, in the shape of `cells`.
            keys: shape `(n,)`.

        Returns:
            float64, shape `(n, numbers)`.
        """
        bits = finalize_((cells * _ODD + keys)[:, :, None] + self._counters)
        angle = (bits & _LOW_HALF).double().mul_(2 * math.pi / (1 << 32))
        uniform = (bits >> 32).double().add_((1 << 31) + 0.5).div_(1 << 32)
        radius = uniform.log_().mul_(-2).sqrt_().mul_(weights[:, :, None])
        draws = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], -1)
        draws.add_(_ROUNDING).sub_(_ROUNDING)
        return draws.sum(0)[:, : prod(self.shape[1:])]

    def _shaped(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(self.shape).to(self.dtype)


class _Levels:
    """Tables of the levels: the value at the end of the clock, then cells of half the length each.

    Args:
        device: of the tables.
    """

    def __init__(self, device: torch.device | str) -> None:
        down = torch.arange(_DEPTH + 1, device=device)[:, None]
        # Of twice the clock, the first half of a hat is the straight line to the end of the clock.
        self.shift = _DEPTH + 1 - down
        self.first = (torch.ones_like(down) << down) // 2
        self.scale = 2.0 ** (-0.5 * self.shift.clamp(max=_DEPTH).double())

    def part(self, depth: int, stride: int) -> Iterator[tuple[Tensor, ...]]:
        """Bits within a cell, number of the first cell, and factor, `stride` levels at a time."""
        tables = (self.shift, self.first, self.scale)
        return zip(*(torch.split(table[: depth + 1], stride) for table in tables), strict=True)


def _span(sde: SDE, span: tuple[float, float] | None) -> tuple[float, float]:
    """The ends of the clock: those given, or those of the SDE."""
    first, last = sde.log_snr_range
    low, high = (-0.5 * last, -0.5 * first) if span is None else span
    require_finite(low=low, high=high)
    if not low < high:
        raise ValueError(f"span={span} must increase: the clock log(sigma / alpha), low and high")
    return low, high
