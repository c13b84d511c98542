"""Replay buffer: Markov chains that outlive a training step, with their states and ages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, distributed, nn
from typing_extensions import override

from sde_score._core.checks import require_batch, require_count
from sde_score.random import BatchSlice, Draws, normal, uniform


@dataclass(frozen=True, eq=False)
class Visit:
    """The chains that a batch goes on with.

    Args:
        slots: of the whole global batch, all different, `(total,)`.
        restarted: which of these start afresh, `(total,)`.
        rows: the part of both that this process holds.
        start: states of its chains, `(batch, *event)`, in the dtype of the data.
        shared: whether processes hold parts of one batch.
    """

    slots: Tensor
    restarted: Tensor
    rows: slice
    start: Tensor
    shared: bool


class ReplayBuffer(nn.Module):
    r"""States of many chains, of which each global batch visits a few at random.

    Visited slots are drawn without replacement, each as likely as any other, and what a chain
    becomes goes back into the slot it came from. A visited chain starts afresh with a given
    probability, at a draw of

    .. math:: N(m, \mathrm{diag}(s^2)), \qquad
              \text{with } m, s \text{ the mean and deviation of each entry of the data.}

    All of it is in buffers of the module (`states`, `ages`, `mean`, `std`), so that a checkpoint
    holds it, and all randomness comes from the generator that is passed in. With a `BatchSlice`
    every process draws for the global batch, moves its own rows, and `write` brings what the others
    moved: after each step all processes hold the same buffer, the one that a single process would
    have.

    Args:
        size: number of slots.
        restart: probability with which a visited chain starts afresh, in [0, 1].

    Raises:
        ValueError: for arguments outside their range.
    """

    states: Tensor
    ages: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, size: int, restart: float) -> None:
        super().__init__()
        require_count(buffer_size=size)
        if not (isinstance(restart, (int, float)) and 0 <= restart <= 1):
            raise ValueError(f"restart={restart!r} must be a probability, from 0 to 1")
        self.size, self.restart = size, float(restart)
        for name in ("states", "mean", "std"):
            self.register_buffer(name, torch.empty(0))
        self.register_buffer("ages", torch.empty(0, dtype=torch.int64))

    def fill(self, examples: Tensor, generator: Generator | None = None) -> None:
        """Start all chains afresh, in the shape and dtype of the data.

        Args:
            examples: a sample of the data, `(batch, *event)`, which gives the distribution of fresh
                chains.
            generator: source of draws; None uses torch's global one.
        """
        require_batch("examples", examples)
        data = examples.double()
        self.mean = data.mean(0).to(examples.dtype)
        self.std = data.std(0, correction=0).to(examples.dtype)
        like = self.mean.expand(self.size, *self.mean.shape)
        self.states = self._fresh(like, generator)
        self.ages = torch.zeros(self.size, dtype=torch.int64, device=examples.device)

    def visit(self, like: Tensor, generator: Draws = None) -> Visit:
        """Choose chains for a batch.

        Args:
            like: the batch `(batch, *event)`, which gives the number of chains and their dtype.
            generator: source of all draws.

        Raises:
            RuntimeError: if the buffer was never filled.
            ValueError: if the global batch has more rows than the buffer, or another event shape.
        """
        source, total, rows = _global_batch(generator, like.shape[0])
        self._require_room(like, total)
        device = torch.device("cpu") if source is None else source.device
        slots = torch.randperm(self.size, generator=source, device=device)[:total]
        slots = slots.to(self.ages.device)
        restarted = uniform(total, source, self.ages.device) < self.restart
        kept = self.states[slots[rows]].to(like)
        fresh = self._fresh(kept, generator)
        mine = restarted[rows].reshape(-1, *(1,) * (like.ndim - 1))
        start = torch.where(mine, fresh, kept)
        return Visit(slots, restarted, rows, start, isinstance(generator, BatchSlice))

    @torch.no_grad()
    def write(self, visit: Visit, states: Tensor, steps: int) -> None:
        """Put chains back into the slots they came from.

        Args:
            visit: as `visit` returned it.
            states: of this process's chains, `(batch, *event)`.
            steps: number of steps they took.
        """
        moved, values = _gather(visit, states.to(self.states.dtype))
        slots = visit.slots[moved]
        ages = torch.where(visit.restarted[moved], 0, self.ages[slots])
        self.states[slots] = values
        self.ages[slots] = ages + steps

    def _fresh(self, like: Tensor, generator: Draws) -> Tensor:
        return self.mean.to(like) + self.std.to(like) * normal(like, generator)

    def _require_room(self, like: Tensor, total: int) -> None:
        if not len(self.ages):
            raise RuntimeError("the buffer is empty: call setup(examples) before the first step")
        if self.states.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"x0 has event shape {tuple(like.shape[1:])}, the chains have "
                f"{tuple(self.states.shape[1:])}: call setup with examples like x0"
            )
        if total > self.size:
            raise ValueError(
                f"buffer_size={self.size} holds fewer chains than a batch of {total} visits: "
                "raise buffer_size"
            )

    @override
    def extra_repr(self) -> str:
        return f"size={self.size}, restart={self.restart}"


def _global_batch(generator: Draws, batch: int) -> tuple[Generator | None, int, slice]:
    """The generator behind, the size of the global batch, and the rows of it held here."""
    if isinstance(generator, BatchSlice):
        return generator.generator, generator.total, generator.rows(batch)
    return generator, batch, slice(0, batch)


def _gather(visit: Visit, states: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the global batch that were moved, by any process, and their states."""
    total = len(visit.slots)
    flat = states.reshape(len(states), -1)
    table = flat.new_zeros((total, flat.shape[1] + 1))
    table[visit.rows, 0] = 1
    table[visit.rows, 1:] = flat
    if visit.shared and distributed.is_available() and distributed.is_initialized():
        # Rows are disjoint, so that the sum is exact: each entry is one value plus zeros.
        distributed.all_reduce(table)
    moved = table[:, 0] > 0
    return moved, table[moved, 1:].reshape(-1, *states.shape[1:])
