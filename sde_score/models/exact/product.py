"""Product of independent targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score.models.exact.double_well import DoubleWell
from sde_score.models.exact.quartic import Quartic
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales


@dataclass(frozen=True)
class Product(Target):
    r"""Independent targets as one: an event is theirs, one after the other.

    .. math:: energy(x) = \sum_k energy_k(x_{(k)}), \qquad \log Z = \sum_k \log Z_k

    Diffusion acts on each part alone, so densities multiply, and scores concatenate, at every t.

    Args:
        parts: at least one target.

    Raises:
        TypeError: if a part is not a target.
        ValueError: if there is none.
    """

    parts: tuple[Target, ...] = (DoubleWell(dim=1), Quartic(dim=1))

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.parts:
            raise ValueError("parts is empty; accepted: one target or more")

    @property
    @override
    def event_shape(self) -> tuple[int, ...]:
        return (sum(part.event_shape[0] for part in self.parts),)

    @property
    @override
    def log_z(self) -> float:
        return sum(part.log_z for part in self.parts)

    def _split(self, x: Tensor) -> list[tuple[Target, Tensor]]:
        """Each part with its own columns of x."""
        sizes = [part.event_shape[0] for part in self.parts]
        return list(zip(self.parts, torch.split(x, sizes, 1), strict=True))

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return torch.stack([part.energy(own) for part, own in self._split(x)]).sum(0)

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        return torch.cat([part.sample(count, generator) for part in self.parts], 1)

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        logs = [part.diffused_log_prob(own, at) for part, own in self._split(x)]
        return torch.stack(logs).sum(0)
