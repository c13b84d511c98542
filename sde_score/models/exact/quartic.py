"""Quartic well: flatter than a Gaussian's at the bottom and steeper at the sides."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_positive
from sde_score.models.exact.independent import IndependentEntries
from sde_score.models.exact.quadrature import DEPTH


@dataclass(frozen=True)
class Quartic(IndependentEntries):
    r"""A quartic well in each entry, independently.

    .. math:: energy = \tfrac14 \sum_i (x_i / s)^4, \qquad
              \log Z = D \log (s\, \Gamma(1/4) / \sqrt 2)

    The diffused density is one integral per entry.

    Args:
        dim: D, entries of an event, at least 1.
        scale: s, > 0.

    Raises:
        ValueError: if either is out of range.
    """

    dim: int = 2
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(dim=self.dim)
        require_positive(scale=self.scale)

    @property
    @override
    def log_z(self) -> float:
        return self.dim * math.log(self.scale * math.gamma(0.25) / math.sqrt(2))

    @override
    def well(self, x: Tensor) -> Tensor:
        return 0.25 * (x / self.scale).square().square()

    @property
    @override
    def ends(self) -> tuple[float, float]:
        reach = self.scale * (4 * DEPTH) ** 0.25
        return -reach, reach
