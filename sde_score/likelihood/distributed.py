"""Shard examples over processes, and gather the results.

    rows = own_rows(len(raw))
    seeds = [example_seeds(seed, len(raw))[row] for row in rows.tolist()]
    found = bits_per_dim(model, raw[rows], scaling, seed=seeds)
    values = gather_rows(found.values, len(raw))

An example's value depends on itself and its seed alone. So processes may take different numbers of
steps and synchronize in `gather_rows` only, and the values do not depend on their number.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from sde_score._core.checks import require_count


def own_rows(count: int) -> Tensor:
    """Indices of this process's share of `count` examples: every world-th, from its rank on.

    Args:
        count: examples of all processes, at least 1.

    Returns:
        indices, int64; all of them without a process group, none if there are fewer examples than
        processes and this one is left over.

    Raises:
        ValueError: for a count below 1.
    """
    require_count(count=count)
    rank, world = _place()
    return torch.arange(rank, count, world)


def gather_rows(values: Tensor, count: int) -> Tensor:
    """Put the values of all processes in the order of the examples; all processes must call it.

    Args:
        values: of this process's `own_rows(count)`, shape `(rows, ...)`.
        count: examples of all processes.

    Returns:
        values of all examples, shape `(count, ...)`, on the CPU, the same in every process.

    Raises:
        ValueError: if `values` are not one per row of this process; the others then wait for it,
            until the launcher ends them.
    """
    rank, world = _place()
    rows = len(own_rows(count))
    if len(values) != rows:
        raise ValueError(
            f"values has {len(values)} rows; process {rank} of {world} has {rows} of {count} "
            "examples: give the values of own_rows(count)"
        )
    mine = values.detach().cpu()
    if world == 1:
        return mine.clone()
    parts: list[Tensor] = [mine] * world
    distributed.all_gather_object(parts, mine)
    whole = mine.new_empty(count, *mine.shape[1:])
    for first, part in enumerate(parts):
        whole[first::world] = part
    return whole


def _place() -> tuple[int, int]:
    """Rank and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
