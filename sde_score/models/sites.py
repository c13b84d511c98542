"""States of discrete distributions: sites with a few values, as points of a Euclidean space.

An energy that is a formula of such points has a gradient at them, which tells how the energy
changes where a site changes: exactly where the energy is linear in each site, as those of Ising,
Potts and Boltzmann machines are, and to first order elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sde_score._core.errors import ArgumentError

MOST_STATES = 1 << 20
"""States that may be enumerated."""


@dataclass(frozen=True, eq=False)
class Sites:
    """The states of a discrete distribution.

    Args:
        shape: of a state, an event.
        values: the two values of every entry, such as (0, 1) or (-1, 1), each entry a site; None
            where the last dimension is one-hot, and the others are the sites.
        blocks: masks `(sites,)` that share out the sites, such that those of one block are
            independent given the others, and the energy is linear in each; None where it is not.
    """

    shape: tuple[int, ...]
    values: tuple[float, float] | None = (0.0, 1.0)
    blocks: tuple[Tensor, ...] | None = None

    @property
    def count(self) -> int:
        """Number of sites."""
        return prod(self.shape if self.values else self.shape[:-1])

    @property
    def choices(self) -> int:
        """Number of values of a site."""
        return 2 if self.values else self.shape[-1]

    def coordinates(self, x: Tensor) -> Tensor:
        """1 for the value of each site and 0 for others, linear in x, `(batch, sites, choices)`."""
        if self.values is None:
            return x.reshape(len(x), self.count, self.choices)
        low, high = self.values
        share = (x.flatten(1) - low) / (high - low)
        return torch.stack([1 - share, share], 2)

    def indices(self, x: Tensor) -> Tensor:
        """Index of the value of each site, `(batch, sites)`."""
        return self.coordinates(x).argmax(2)

    def encoded(self, indices: Tensor, like: Tensor) -> Tensor:
        """States of indices `(batch, sites)`, in the dtype of `like`, `(batch, *shape)`."""
        if self.values is None:
            x = torch.nn.functional.one_hot(indices, self.choices)
        else:
            x = torch.tensor(self.values, dtype=torch.float64, device=indices.device)[indices]
        return x.reshape(-1, *self.shape).to(like)

    def logits(self, score: Tensor) -> Tensor:
        """Log probability of every value of each site beside the state, up to a constant per site.

        Args:
            score: minus the gradient of an energy that is linear in each site, `(batch, *shape)`.

        Returns:
            `(batch, sites, choices)`.
        """
        if self.values is None:
            return score.reshape(len(score), self.count, self.choices)
        values = torch.tensor(self.values, dtype=torch.float64).to(score)
        return score.flatten(1)[:, :, None] * values

    def states(self) -> Tensor:
        """All states, float64, `(choices ** sites, *shape)`.

        Raises:
            ValueError: for more than 2^20.
        """
        total = self.choices**self.count
        if total > MOST_STATES:
            raise ValueError(
                f"{self.count} sites of {self.choices} values have too many states to enumerate; "
                f"accepted: up to {MOST_STATES}"
            )
        place = self.choices ** torch.arange(self.count)
        indices = torch.arange(total)[:, None] // place % self.choices
        return self.encoded(indices, torch.empty(0, dtype=torch.float64))

    def require_states(self, name: str, x: Tensor) -> None:
        """Refuse what holds no states; numbers on an accelerator are not looked at.

        Raises:
            ValueError: naming the argument.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ArgumentError(
                f"{name} has event shape {tuple(x.shape[1:])}, the states have {self.shape}"
            )
        if x.device.type == "cpu" and not torch.equal(self.encoded(self.indices(x), x), x):
            accepted = "one-hot in its last dimension"
            if self.values:
                accepted = "{:g} or {:g}".format(*self.values)
            raise ArgumentError(f"{name} has entries that are no states; accepted: {accepted}")


def sites_of(density: object) -> Sites | None:
    """The states of a discrete density, None for one on a continuous space."""
    found = getattr(density, "sites", None)
    return found if isinstance(found, Sites) else None
