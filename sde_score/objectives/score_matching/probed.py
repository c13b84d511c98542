"""What objectives that look along random directions share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice, require_count
from sde_score.models import Marginal
from sde_score.objectives.base import MarginalObjective
from sde_score.random import PROBE_DISTRIBUTIONS, Draws
from sde_score.random import probes as draw_probes


@dataclass(frozen=True)
class ProbedObjective(MarginalObjective):
    """An objective with random probes: subclasses give the loss for given ones, `at`.

    Args:
        probes: number of probes per example, at least 1.
        probe_distribution: a name from `sde_score.random.PROBE_DISTRIBUTIONS`.

    Raises:
        ValueError: for an unknown law or a count below 1.
    """

    probes: int = 1
    probe_distribution: str = "rademacher"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(probes=self.probes)
        require_choice("probe_distribution", self.probe_distribution, tuple(PROBE_DISTRIBUTIONS))

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws) -> Tensor:
        """Loss of each example with fresh probes, shape `(batch,)`."""
        return self.at(marginal, x, draw_probes(self.probes, x, self.probe_distribution, generator))

    @abstractmethod
    def at(self, marginal: Marginal, x: Tensor, vectors: Tensor) -> Tensor:
        """Loss of each example with given probes `(n, batch, *event)`, shape `(batch,)`."""
