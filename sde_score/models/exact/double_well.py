"""Double well: two modes in each entry, with a barrier between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_finite, require_positive
from sde_score.models.exact.independent import IndependentEntries
from sde_score.models.exact.quadrature import DEPTH

_HIGHEST = 100.0
_STEEPEST = 10.0
_MOST_STEPS = 8900  # of 2 %, which lead to the end of float64


@dataclass(frozen=True)
class DoubleWell(IndependentEntries):
    r"""A double well in each entry, independently: 2^D modes.

    .. math:: energy = \sum_i \left[ B \left( (x_i / m)^2 - 1 \right)^2 + c\, x_i \right]

    log Z and the cdf are by quadrature, exact to rounding; the diffused density is one integral
    per entry.

    Args:
        dim: D, entries of an event, at least 1.
        barrier: B, energy at 0 above the wells, in nats, > 0 and at most 100.
        position: m, the wells are at -m and m (without tilt), > 0.
        tilt: c, which favors the wells on the negative side if it is positive; at most 10 B / m in
            size.

    Raises:
        ValueError: if an argument is out of range.
    """

    dim: int = 2
    barrier: float = 3.0
    position: float = 1.5
    tilt: float = 0.2

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(dim=self.dim)
        require_positive(barrier=self.barrier, position=self.position)
        require_finite(tilt=self.tilt)
        if self.barrier > _HIGHEST:
            raise ValueError(
                f"barrier={self.barrier!r} must be at most {_HIGHEST:g} nats: beyond, the wells "
                "are too narrow for the quadrature; take a Mixture"
            )
        if abs(self.tilt) * self.position > _STEEPEST * self.barrier:
            raise ValueError(
                f"tilt={self.tilt!r} must be at most {_STEEPEST:g} barrier / position = "
                f"{_STEEPEST * self.barrier / self.position:g} in size"
            )

    @override
    def well(self, x: Tensor) -> Tensor:
        return self.barrier * ((x / self.position) ** 2 - 1) ** 2 + self.tilt * x

    @property
    @override
    def ends(self) -> tuple[float, float]:
        """Interval beyond which the energy, -|c| m y + B (y^2 - 1)^2 at y = x / m, is `DEPTH` above
        its least."""
        pull = abs(self.tilt) * self.position
        y = 1.0
        for _ in range(_MOST_STEPS):
            if self.barrier * (y**2 - 1) ** 2 - pull * y >= DEPTH:
                return -self.position * y, self.position * y
            y *= 1.02
        raise ValueError(
            f"barrier={self.barrier} is too low for position={self.position} and tilt={self.tilt}: "
            "the energy does not rise within reach of float64"
        )
