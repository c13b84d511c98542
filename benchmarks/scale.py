"""Published trainings on paper: the formulas of `sde-score plan` beside what their authors tell.

    python benchmarks/scale.py

Each network is built without memory, on torch's meta device, and its operations forward and
backward are counted at one and two examples, in the precision of its training. Then its training
is estimated on the GPUs that were used, and on others.
"""

import torch

from sde_score import nn
from sde_score.evaluation import GPUS, Cluster, TrainingCost, estimates
from sde_score.evaluation.planning import Ledger, Line, Operation, State
from sde_score.training import TrainConfig

DAY = 86400.0

# Network, shape, precision, batch, steps, then as published: kind and number of devices, days.
# EDM: https://github.com/NVlabs/edm, "Training new models".
# DiT: https://arxiv.org/abs/2212.09748, section 4: 5.7 steps a second on a TPU v3-256, which is 128
# chips of 123 TFLOP/s.
RUNS = {
    "EDM, CIFAR-10": (
        "ddpmpp(multipliers=(2, 2, 2), num_augment=9)", (3, 32, 32), 10, "float32",
        512, 200e6 / 512, "v100", 8, 2.0,
    ),
    "EDM, ImageNet-64": (
        "adm", (3, 64, 64), 1000, "fp16", 4096, 2500e6 / 4096, "a100", 32, 13.0,
    ),
    "DiT-XL/2, ImageNet-256": (
        "dit(width=1152, depth=28, heads=16, learned_variance=True)", (4, 32, 32), 1000, "bf16",
        256, 7e6, 123e12, 128, 7e6 / 5.7 / DAY,
    ),
}  # fmt: skip
UPDATE = 14 * 4  # bytes that clipping, Adam and the average move for a weight


def counted(spec, shape, classes, precision, batch, steps):
    """The cost of a training, but for times here."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    with torch.device("meta"):
        network = nn.create(spec, shape, classes).to(dtype)
        found = []
        for examples in (1, 1, 2):  # the first makes the gradients
            label = torch.zeros(examples, dtype=torch.long)
            x = torch.zeros(examples, *shape, dtype=dtype)
            with Ledger() as ledger:
                loss = network(x, torch.zeros(examples, dtype=dtype), label).square().mean()
                forward = len(ledger.operations)
                loss.backward()
            found.append((ledger.operations[:forward], ledger.operations[forward:], ledger.peak))
    forward, backward, peak = zip(*found[1:], strict=True)
    size = sum(p.numel() for p in network.parameters())
    nothing = Line(0.0, 0.0)
    return TrainingCost(
        TrainConfig(batch_size=batch, steps=round(steps)), size,
        State(4 * size, 4 * size, 8 * size, 4 * size), forward, backward,
        [Operation(0, UPDATE * size)], Line.through((1, peak[0]), (2, peak[1])), 0.0,
        nothing, 0.0, nothing, 0.0, nothing, "meta", precision,
    )  # fmt: skip


def main():
    """Count and print."""
    for name, (*what, batch, steps, kind, devices, days) in RUNS.items():
        cost = counted(*what, batch, steps)
        forward, backward = (flops / 1e9 for flops in cost.flops)
        work = cost.step_flops() * steps
        peak = GPUS.create(kind).flops(cost.precision) if isinstance(kind, str) else kind
        print(
            f"{name}: {cost.parameters / 1e6:.1f} M parameters, {forward:.1f} + {backward:.1f} "
            f"GFLOPs an example, {work:.3g} in all; published {days:.1f} days on {devices}, "
            f"{work / (days * DAY * devices * peak):.1%} of peak; state "
            f"{cost.state.total / 1e9:.2f} GB, activations {cost.activations.slope / 1e6:.0f} MB"
        )
        for gpu in dict.fromkeys([kind, "h100"]):
            if not isinstance(gpu, str):
                continue
            for one in estimates(cost, Cluster(GPUS.create(gpu))):
                print(
                    f"  {one.gpus:5} {gpu}: {one.examples} in {one.accumulate}, "
                    f"{one.memory / 1e9:.1f} GB, step {1e3 * one.seconds:.1f} ms, "
                    f"{one.efficiency:.0%}, {one.total / DAY:.2f} days"
                )


if __name__ == "__main__":
    main()
