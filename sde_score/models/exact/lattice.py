"""Ising and Potts models on a grid, with an exact constant by the transfer matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_finite
from sde_score.models.exact.discrete import DiscreteTarget
from sde_score.models.sites import Sites

_MOST_ROWS = 1024  # states of a row, the side of the transfer matrix


@dataclass(frozen=True)
class Ising(DiscreteTarget):
    r"""The Ising model on a grid: spins s in {-1, 1}, neighbors side by side.

    .. math:: E(s) = -J \sum_{i \sim j} s_i s_j - h \sum_i s_i

    log Z is exact where the shorter side has at most 10 sites. On an infinite grid without field,
    order sets in at J = log(1 + sqrt 2) / 2 = 0.4407.

    Args:
        rows: of the grid, at least 1.
        columns: of the grid, at least 1.
        coupling: J, in nats; below 0 neighbors differ.
        field: h, in nats.
        periodic: whether the last row and column are neighbors of the first; both sides are then
            even and at least 4, so that the two colors of a checkerboard share out the sites.

    Raises:
        ValueError: for arguments out of range; for `log_z` of larger grids.

    Reference: Kramers & Wannier 1941, https://doi.org/10.1103/PhysRev.60.252 (transfer matrix).
    """

    rows: int = 4
    columns: int = 4
    coupling: float = 0.4
    field: float = 0.0
    periodic: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check(self.rows, self.columns, self.periodic)
        require_finite(coupling=self.coupling, field=self.field)

    @cached_property
    @override
    def sites(self) -> Sites:
        return Sites((self.rows, self.columns), (-1.0, 1.0), _checkerboard(self.rows, self.columns))

    @cached_property
    @override
    def log_z(self) -> float:
        short, long = sorted((self.rows, self.columns))
        _check_row(2, short)
        row = Sites((short,), (-1.0, 1.0)).states()[..., None]
        single = self.field * row.sum((1, 2))
        return _transfer(row, single, self.coupling, long, self.periodic)

    @override
    def _energy(self, x: Tensor) -> Tensor:
        pairs = sum(_pairs(x[..., None], axis, self.periodic) for axis in (1, 2))
        return -self.coupling * torch.as_tensor(pairs) - self.field * x.sum((1, 2))


@dataclass(frozen=True)
class Potts(DiscreteTarget):
    r"""The Potts model on a grid: q states at each site, one-hot, neighbors side by side.

    .. math:: E(x) = -J \sum_{i \sim j} [x_i = x_j] - h \sum_i [x_i = 1]

    An event is `(rows, columns, q)`, one-hot in the last dimension. log Z is exact where the
    shorter side has at most 1024 states. With q = 2 it is the Ising model of coupling J / 2. On an
    infinite grid without field, order sets in at J = log(1 + sqrt q).

    Args:
        rows: of the grid, at least 1.
        columns: of the grid, at least 1.
        states: q, at least 2.
        coupling: J, in nats; below 0 neighbors differ.
        field: h, in nats, for the first state.
        periodic: as for `Ising`.

    Raises:
        ValueError: for arguments out of range; for `log_z` of larger grids.

    Reference: Potts 1952, https://doi.org/10.1017/S0305004100027419.
    """

    rows: int = 3
    columns: int = 3
    states: int = 3
    coupling: float = 0.8
    field: float = 0.0
    periodic: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check(self.rows, self.columns, self.periodic)
        require_count(2, states=self.states)
        require_finite(coupling=self.coupling, field=self.field)

    @cached_property
    @override
    def sites(self) -> Sites:
        shape = (self.rows, self.columns, self.states)
        return Sites(shape, None, _checkerboard(self.rows, self.columns))

    @cached_property
    @override
    def log_z(self) -> float:
        short, long = sorted((self.rows, self.columns))
        _check_row(self.states, short)
        row = Sites((short, self.states), None).states()
        single = self.field * row[..., 0].sum(1)
        return _transfer(row, single, self.coupling, long, self.periodic)

    @override
    def _energy(self, x: Tensor) -> Tensor:
        pairs = sum(_pairs(x, axis, self.periodic) for axis in (1, 2))
        return -self.coupling * torch.as_tensor(pairs) - self.field * x[..., 0].sum((1, 2))


def _check(rows: int, columns: int, periodic: bool) -> None:
    require_count(rows=rows, columns=columns)
    if periodic and any(side < 4 or side % 2 for side in (rows, columns)):
        raise ValueError(
            f"rows={rows} and columns={columns} must be even and at least 4 for periodic=True"
        )


def _check_row(choices: int, sites: int) -> None:
    if choices**sites > _MOST_ROWS:
        raise ValueError(
            f"log_z is exact where the shorter of rows and columns has at most {_MOST_ROWS} "
            f"states; here it has {choices}^{sites}: estimate it with likelihood.log_partition"
        )


def _checkerboard(rows: int, columns: int) -> tuple[Tensor, ...]:
    """Masks of the two colors, `(rows * columns,)`; those that are not empty."""
    white = ((torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0).flatten()
    return tuple(mask for mask in (white, ~white) if bool(mask.any()))


def _pairs(x: Tensor, axis: int, periodic: bool) -> Tensor:
    """Sum of the products of neighbors along an axis, features last, `(batch,)`."""
    after = x.roll(-1, axis) if periodic else x.narrow(axis, 1, x.shape[axis] - 1)
    before = x if periodic else x.narrow(axis, 0, x.shape[axis] - 1)
    return (before * after).flatten(1).sum(1)


def _transfer(row: Tensor, single: Tensor, coupling: float, rows: int, periodic: bool) -> float:
    """log Z of rows with neighbors, from all states of one, `(states, sites, features)`."""
    within = single + coupling * _pairs(row, 1, periodic)
    between = coupling * torch.einsum("scf,tcf->st", row, row)
    if not periodic:
        message = within
        for _ in range(rows - 1):
            message = within + (message[:, None] + between).logsumexp(0)
        return float(message.logsumexp(0))
    # The trace of an even power of a symmetric matrix, with its largest entry taken out.
    step = between + 0.5 * (within[:, None] + within)
    values = torch.linalg.eigvalsh((step - step.max()).exp()).abs()
    return float((rows * values.log()).logsumexp(0) + rows * step.max())
