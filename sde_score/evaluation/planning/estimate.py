"""Estimates of time, memory and cost of a training on other machines, from measured steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_nonnegative, require_positive
from sde_score.evaluation.planning.ledger import Operation, at_batch
from sde_score.evaluation.planning.machines import GPU
from sde_score.evaluation.planning.measure import TrainingCost

LAUNCH = 5e-6
"""Seconds that the host takes to start an operation of a program that is not compiled."""

LATENCY = 2e-5
"""Seconds of one of the log2(n) rounds of a collective operation."""

USABLE = 0.9
"""Share of a GPU's memory that tensors can fill: the rest is of the driver, and gaps."""

DAY = 86400.0


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind, in machines that a network connects.

    Args:
        gpu: kind of GPU.
        utilisation: share of its peak FLOP/s that its matrix products and convolutions reach, in
            (0, 1].
        per_machine: GPUs of one machine, at least 1.
        network: bytes/s between machines, for each GPU and direction, > 0.
        price: of one GPU for an hour, >= 0.
    """

    gpu: GPU
    utilisation: float = 0.3
    per_machine: int = 8
    network: float = 50e9
    price: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(per_machine=self.per_machine)
        require_positive(network=self.network, utilisation=self.utilisation)
        require_nonnegative(price=self.price)
        if self.utilisation > 1:
            raise ValueError(f"utilisation={self.utilisation!r} must lie in (0, 1]")

    def seconds(self, operations: Sequence[Operation], precision: str) -> float:
        """Time of operations on one GPU.

        Each takes the longer of its arithmetic and its memory traffic, and at least the time to
        start it:

            t = max( sum_i max( F_i / (u P), M_i / B ),  n LAUNCH )
        """
        speed, bandwidth = self.utilisation * self.gpu.flops(precision), self.gpu.bandwidth
        roofline = sum(max(o.flops / speed, o.moved / bandwidth) for o in operations)
        return max(roofline, LAUNCH * len(operations))

    def exchange(self, size: float, gpus: int) -> float:
        """Time in which n GPUs sum `size` bytes of each, by a ring or a tree:

        t = 2 (n - 1) / n  size / link  +  2 log2(n) LATENCY
        """
        link = self.gpu.link if gpus <= self.per_machine else min(self.gpu.link, self.network)
        return 2 * (gpus - 1) / gpus * size / link + 2 * math.log2(gpus) * LATENCY


@dataclass(frozen=True)
class Estimate:
    """A training on a number of GPUs.

    Args:
        gpus: their number.
        examples: of a step on each.
        accumulate: parts of these, so that they fit into memory.
        memory: bytes on each where every GPU holds all weights.
        sharded: bytes on each where weights, gradients, optimizer and averages are divided.
        shard: whether the time is that of the divided form, as the whole one does not fit.
        fits: whether one of both fits.
        seconds: of a step.
        efficiency: speed beside that of as many GPUs that exchange nothing, each with as large a
            part of a batch as the first row has.
        read: bytes of data that all GPUs read in a second.
        total: seconds of all steps.
        cost: of all steps; 0 without a price.
    """

    gpus: int
    examples: int
    accumulate: int
    memory: float
    sharded: float
    shard: bool
    fits: bool
    seconds: float
    efficiency: float
    read: float
    total: float
    cost: float


def estimates(cost: TrainingCost, cluster: Cluster, most: int = 1024) -> list[Estimate]:
    """The training on 1, 2, 4, ... GPUs that share its batch evenly.

    A step on n GPUs, with a micro-batches of m examples each:

        t = a forward(m) + (a - 1) backward(m) + max( backward(m), exchange ) + update

    The exchange of gradients runs beside the last backward pass. Divided weights are gathered
    twice and their gradients summed, three halves of that exchange, for every micro-batch.

    Args:
        cost: measured; its `batch_size` is that of a step over all GPUs.
        cluster: what it runs on.
        most: largest number of GPUs, at least 1.
    """
    require_count(most=most)
    batch = cost.config.batch_size
    counts = [2**k for k in range(most.bit_length()) if 2**k <= most and batch % 2**k == 0]
    alone = _estimate(cost, cluster, 1, None)
    return [_estimate(cost, cluster, gpus, alone) for gpus in counts]


def _estimate(cost: TrainingCost, cluster: Cluster, gpus: int, alone: Estimate | None) -> Estimate:
    config, room = cost.config, USABLE * cluster.gpu.memory
    examples = config.batch_size // gpus
    whole = cost.state.total + (cost.state.gradients if gpus > 1 else 0)  # buckets of DDP
    divided = cost.state.total / gpus + (cost.state.weights if gpus > 1 else 0)  # gathered at most
    shard = gpus > 1 and whole + cost.activations(1) > room
    micro = _largest(examples, room - (divided if shard else whole), cost)
    parts = examples // micro
    forward, backward = (
        cluster.seconds(at_batch(*pair, micro), cost.precision)
        for pair in (cost.forward, cost.backward)
    )
    part = gpus if shard else 1
    update = [Operation(o.flops / part, o.moved / part) for o in cost.update]
    rest = cluster.seconds(update, "float32")
    sums = cluster.exchange(cost.state.gradients, gpus) if gpus > 1 else 0.0
    if shard:
        seconds = parts * max(forward + backward, 1.5 * sums) + rest
    else:
        seconds = parts * forward + (parts - 1) * backward + max(backward, sums) + rest
    total = config.steps * seconds
    return Estimate(
        gpus=gpus,
        examples=examples,
        accumulate=parts,
        memory=whole + cost.activations(micro),
        sharded=divided + cost.activations(micro),
        shard=shard,
        fits=(divided if shard else whole) + cost.activations(micro) <= room,
        seconds=seconds,
        efficiency=1.0 if alone is None else alone.seconds / (gpus * seconds),
        read=cost.example * config.batch_size / seconds,
        total=total,
        cost=gpus * total / 3600 * cluster.price,
    )


def _largest(examples: int, room: float, cost: TrainingCost) -> int:
    """The largest equal part of the examples that fits, 1 where none does."""
    parts = (examples // n for n in range(1, examples + 1) if examples % n == 0)
    return next((part for part in parts if cost.activations(part) <= room), 1)
