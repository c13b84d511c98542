"""Posterior-predictive checks: what was seen, among simulations of the posterior's draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import shown
from sde_score._core.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Statistics of what was seen, among those of what is simulated again.

    Args:
        names: of the statistics.
        seen: their values, float64, shape `(statistics,)`.
        simulated: those of simulations, float64, shape `(simulations, statistics)`.
    """

    names: tuple[str, ...]
    seen: Tensor
    simulated: Tensor

    def quantiles(self, shares: Sequence[float] = (0.05, 0.5, 0.95)) -> Tensor:
        """Quantiles of the simulated statistics, shape `(len(shares), statistics)`."""
        return torch.quantile(self.simulated, torch.tensor(list(shares)).double(), dim=0)

    @property
    def p_values(self) -> Tensor:
        """Two-sided shares of simulations at least as far out as what was seen, `(statistics,)`.

        What was seen counts as one of them, so that none is 0. A posterior has seen the data, so
        that these are not uniform; near 0 the model cannot make what was seen.
        """
        below = (self.simulated <= self.seen).double().sum(0)
        above = (self.simulated >= self.seen).double().sum(0)
        return (2 * (torch.minimum(below, above) + 1) / (len(self.simulated) + 1)).clamp(max=1)


def predictive(
    seen: Tensor,
    simulated: Tensor,
    statistics: Callable[[Tensor], Tensor] | None = None,
    names: Sequence[str] = (),
) -> PredictiveCheck:
    """Compare what was seen with simulations of the posterior's draws.

    Args:
        seen: y, shape `(k,)`.
        simulated: y simulated of draws of p(theta | seen), shape `(simulations, k)`.
        statistics: from `(n, k)` to `(n, statistics)`; None takes the entries of y.
        names: of the statistics; empty for y1, y2, ...

    Raises:
        ValueError: for shapes that do not fit, or numbers that are not finite.
    """
    for name, value, sides in (("seen", seen, 1), ("simulated", simulated, 2)):
        if not isinstance(value, Tensor) or value.ndim != sides or not value.is_floating_point():
            raise ArgumentError(
                f"{name}={shown(value)} must be a floating-point tensor of {sides} dimensions"
            )
    if simulated.shape[1:] != seen.shape or len(simulated) < 1:
        raise ValueError(
            f"simulated of shape {tuple(simulated.shape)} must be (simulations, {len(seen)})"
        )
    both = torch.cat([seen[None].double(), simulated.double()]).detach().cpu()
    found = both if statistics is None else statistics(both).double()
    if found.ndim != 2 or len(found) != len(both):
        raise ValueError(
            f"statistics returned shape {tuple(found.shape)}; accepted: ({len(both)}, statistics)"
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError("statistics hold NaN or infinity")
    titles = tuple(names) or tuple(f"y{i + 1}" for i in range(found.shape[1]))
    if len(titles) != found.shape[1]:
        raise ValueError(f"names={titles} must be {found.shape[1]}")
    return PredictiveCheck(titles, found[0], found[1:])
