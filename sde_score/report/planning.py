"""Tables of what a training costs, here and on other machines."""

from __future__ import annotations

from collections.abc import Sequence

from sde_score._core.memory import readable
from sde_score.evaluation import Cluster, Estimate, TrainingCost
from sde_score.report.tables import Table

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def step_table(cost: TrainingCost) -> Table:
    """A step of a training: network, FLOPs, memory, data, and the time here."""
    forward, backward = cost.flops
    state, config, seconds = cost.state, cost.config, cost.step_seconds()
    micro = cost.micro_batch
    read = config.batch_size * cost.example
    rows = [
        ("parameters", f"{cost.parameters:,}"),
        ("FLOPs of an example, forward and backward", f"{count(forward)} + {count(backward)}"),
        (f"FLOPs of a step of {config.batch_size} examples", count(cost.step_flops())),
        ("memory: weights", readable(state.weights)),
        ("gradients", readable(state.gradients)),
        ("optimizer", readable(state.optimizer)),
        ("averages", readable(state.averages)),
        (f"activations of {micro} examples, {cost.precision}", readable(cost.activations(micro))),
        ("data of a step", f"{readable(read)}, {readable(read / seconds)}/s"),
        (f"time of a step here, {cost.device}, {config.precision}", duration(seconds)),
        ("examples in a second", f"{config.batch_size / seconds:.4g}"),
        ("FLOP/s reached", count(cost.step_flops() / seconds)),
        (f"{config.steps:,} steps", duration(config.steps * seconds)),
        ("peak memory of the process" if cost.device == "cpu" else "peak memory of the GPU",
         readable(cost.peak(micro))),
    ]  # fmt: skip
    return Table(("training", f"{config.backbone}"[:60]), rows, "A step, measured here")


def gpu_table(found: Sequence[Estimate], cost: TrainingCost, name: str, cluster: Cluster) -> Table:
    """A training on a growing number of GPUs."""
    priced = bool(cluster.price)
    rows = [
        (
            f"{one.gpus}",
            f"{one.examples}" + (f" in {one.accumulate} parts" if one.accumulate > 1 else ""),
            readable(one.memory), readable(one.sharded),
            "does not fit" if not one.fits else duration(one.seconds) + " sharded" * one.shard,
            f"{one.efficiency:.0%}", f"{readable(one.read)}/s", duration(one.total),
            f"{one.gpus * one.total / 3600:.3g}", *([f"{one.cost:,.0f}"] if priced else []),
        )
        for one in found
    ]  # fmt: skip
    header = [
        "GPUs", "examples each", "memory each", "sharded", "step", "efficiency", "data",
        f"{cost.config.steps:,} steps", "GPU hours", *(["cost"] if priced else []),
    ]  # fmt: skip
    caption = (
        f"Estimated for {name} in {cost.precision}: {cluster.utilisation:.0%} of peak in matrix "
        f"products, {cluster.per_machine} a machine, {readable(cluster.network)}/s between machines"
    )
    return Table(header, rows, caption)


def count(number: float) -> str:
    """A large number for people: `1.2 G`."""
    for factor, unit in ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """A time for people: `3.2 h`."""
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"
