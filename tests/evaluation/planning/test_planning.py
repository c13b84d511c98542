"""Planning: counts against closed forms, and estimates against what their formulas give by hand."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from sde_score.evaluation import GPU, GPUS, Cluster, estimates, training_cost
from sde_score.evaluation.planning import (
    Ledger,
    Line,
    Operation,
    State,
    TrainingCost,
    measure,
    memory,
)
from sde_score.evaluation.planning.estimate import LATENCY, LAUNCH, USABLE
from sde_score.evaluation.planning.ledger import at_batch, total
from sde_score.training import TrainConfig
from sde_score.training.half_precision import autocast

CPU = torch.device("cpu")


def test_a_linear_layer_costs_what_it_should():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5, requires_grad=True)
    with Ledger() as ledger:
        y = layer(x)
        forward = total(ledger.operations)
        y.sum().backward()
    assert forward == (2 * 3 * 5 * 7, 4 * (5 * 7 + 7 + 3 * 5 + 3 * 7))
    assert total(ledger.operations).flops == 3 * forward.flops
    kept = 3 * 7 + 1 + 3 * 5 + 5 * 7 + 7  # y, a gradient of 1, and those of x and the layer
    del y
    assert ledger.alive == 4 * (kept - 3 * 7 - 1)
    assert ledger.peak >= 4 * kept


def test_what_is_written_in_place_or_seen_anew_takes_no_memory():
    x = torch.zeros(100)
    with Ledger() as ledger:
        x.add_(1)
        y = x.view(10, 10).t()[2:]
    assert y.shape == (8, 10)
    assert ledger.peak == 0
    assert [operation.moved for operation in ledger.operations] == [2 * 400]


def test_memory_that_is_let_go_is_counted_once():
    with Ledger() as ledger:
        for _ in range(3):
            torch.zeros(50)
        assert ledger.alive == 0
        kept = torch.zeros(25), torch.zeros(25)
    assert len(kept) == 2
    assert ledger.peak == 200
    assert ledger.alive == 200


def test_attention_counts_on_processors_too():
    q = torch.randn(2, 4, 32, 16, requires_grad=True)
    with Ledger() as ledger:
        y = scaled_dot_product_attention(q, q, q)
        forward = total(ledger.operations).flops
        y.sum().backward()
    product = 2 * 2 * 4 * 32 * 32 * 16
    assert forward == 2 * product
    assert total(ledger.operations).flops - forward == 5 * product  # one is made again


def test_operations_lie_on_a_line_through_one_and_two_examples():
    one, two = [Operation(10, 100), Operation(0, 7)], [Operation(20, 150), Operation(0, 7)]
    assert at_batch(one, two, 5) == [Operation(50, 300), Operation(0, 7)]
    assert at_batch(one, two[:1], 4) == [Operation(40, 300)]
    assert Line.through((1, 5.0), (2, 8.0)) == Line(2.0, 3.0)
    assert Line.through((1, 8.0), (2, 5.0)) == Line(5.0, 0.0)  # noise of the clock
    assert Line.through((2, 5.0), (4, 20.0)) == Line(0.0, 5.0)
    assert Line.through((3, 6.0), (3, 6.0)) == Line(0.0, 2.0)


def test_the_most_memory_is_read_and_begun_anew_where_the_system_says(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_OWN", tmp_path)
    (tmp_path / "status").write_text("VmPeak:\t  9000 kB\nVmHWM:\t    1000 kB\nVmRSS:\t 7 kB\n")
    (tmp_path / "clear_refs").touch()
    assert memory.peak_memory(CPU) == 1000 * 1024
    memory.reset_peak(CPU)
    assert (tmp_path / "clear_refs").read_text() == "5"  # proc_pid_clear_refs(5)


def test_the_most_memory_of_a_process_is_found():
    """In a process that holds more than it ever let go of: not every system begins anew."""
    grown = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, check=True)
    assert int(grown.stdout) == pytest.approx(2**26, rel=0.01)


GROWN = """
import torch
from sde_score.evaluation.planning.memory import peak_memory
cpu, held = torch.device("cpu"), torch.ones(2**25)
before = peak_memory(cpu)
more = torch.ones(2**24)
print(peak_memory(cpu) - before)
"""


@pytest.fixture(scope="module")
def cost():
    config = TrainConfig(
        data="gaussians(n=50)", backbone="mlp(width=16, depth=1)", batch_size=8, accumulate=2,
        steps=100, device="cpu",
    )  # fmt: skip
    return training_cost(config, seconds=0.2)


def test_a_training_is_counted(cost):
    """Weights of every linear layer: each multiplies once forward, and twice backward but for what
    depends on no weight before it."""
    from sde_score.nn import create

    network = create("mlp(width=16, depth=1)", (2,))
    layers = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear)]
    tensors = len(list(network.parameters()))
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    forward, backward = cost.flops
    assert forward == 2 * sum(layers)
    assert forward < backward <= 2 * forward
    size, buffers = 4 * cost.parameters, sum(b.nbytes for b in network.buffers())
    assert cost.state == State(size + buffers, size, 2 * size + 4 * tensors, size)
    assert cost.state.total == 5 * size + buffers + 4 * tensors
    assert cost.example == 2 * 4
    assert cost.micro_batch == 4
    assert cost.step_flops() == pytest.approx(8 * (forward + backward), rel=0.05)
    assert cost.activations.slope > 4 * 16
    assert cost.precision == "float32"
    # Clipping reads and scales the gradients, Adam reads four tensors and changes them, the average
    # is read beside the weights and changed.
    assert total(cost.update).moved == pytest.approx((1 + 2 + 8 + 3) * size, rel=0.03)


def test_time_and_memory_are_those_of_this_machine(cost):
    assert 0 < cost.step_seconds(cpu=True) < 1
    assert cost.step_seconds() == 2 * cost.seconds(4) + cost.update_seconds
    assert cost.peak(4) == pytest.approx(memory.peak_memory(CPU), rel=0.5)


@pytest.mark.parametrize(
    "backbone", ["unet(base=64, multipliers=(1, 2), blocks=1)", "mlp(width=8)"]
)
def test_gpus_take_the_precision_that_training_would(backbone, monkeypatch):
    """Left open, convolutional networks of a million weights are counted in bf16 on any machine."""
    asked = []
    monkeypatch.setattr(measure, "autocast", lambda *how: asked.append(how) or autocast(*how))
    config = TrainConfig(
        data="digits", backbone=backbone, batch_size=2, precision="auto", device="cpu"
    )
    cost = training_cost(config, seconds=0.01)
    assert cost.precision == ("bf16" if "unet" in backbone else "float32")
    assert asked == [("cpu", cost.precision)]


def made(**changes):
    """A cost of round numbers: forward 1 GFLOP an example, backward 2, 1 MB of state."""
    one = ([Operation(1e9, 0)], [Operation(2e9, 0)])
    two = ([Operation(2e9, 0)], [Operation(4e9, 0)])
    pairs = list(zip(one, two, strict=True))
    config = TrainConfig(steps=1000, batch_size=64)
    line = Line(0.0, 1.0)
    given = {
        "config": config, "parameters": 50_000, "state": State(200_000, 200_000, 400_000, 200_000),
        "forward": pairs[0], "backward": pairs[1], "update": [Operation(0, 2e6)],
        "activations": Line(0.0, 1e5), "example": 100.0, "seconds": line, "update_seconds": 0.0,
        "cpu_seconds": line, "update_cpu_seconds": 0.0, "peak": line, "device": "cpu",
        "precision": "bf16",
    }  # fmt: skip
    return TrainingCost(**{**given, **changes})


SLOW = GPU(half=1e12, full=1e11, memory=1e9, bandwidth=1e9, link=1e8)


def test_estimates_follow_their_formulas():
    cluster = Cluster(SLOW, utilisation=0.5, per_machine=4, network=1e7, price=3.0)
    found = estimates(made(), cluster)
    assert [one.gpus for one in found] == [1, 2, 4, 8, 16, 32, 64]
    assert [one.examples * one.gpus for one in found] == [64] * 7
    update = 2e6 / 1e9
    for one in found:
        forward, n = one.examples * 1e9 / 5e11, one.gpus
        link = 1e8 if n <= 4 else 1e7
        sums = 2 * (n - 1) / n * 2e5 / link + 2 * math.log2(n) * LATENCY
        assert one.seconds == pytest.approx(forward + max(2 * forward, sums) + update), n
        assert one.efficiency == pytest.approx(found[0].seconds / (n * one.seconds))
        assert one.total == 1000 * one.seconds
        assert one.cost == pytest.approx(n * one.total / 3600 * 3)
        assert one.read == 100 * 64 / one.seconds
        assert one.memory == 1e6 + (2e5 if n > 1 else 0) + 1e5 * one.examples
        assert one.fits
        assert not one.shard
    assert found[0].efficiency == 1
    assert found[-1].efficiency < 0.2


def test_small_operations_take_the_time_to_start_them():
    cluster = Cluster(SLOW)
    assert cluster.seconds([Operation(1, 1)] * 100, "bf16") == pytest.approx(100 * LAUNCH)
    assert cluster.seconds([Operation(0, 1e9), Operation(3e11, 1e8)], "bf16") == 2.0
    assert cluster.seconds([Operation(3e10, 0)], "float32") == 1.0


@pytest.mark.parametrize(
    ("memory", "gpus", "expected"),
    [
        (2.2e6, 1, (10, False, True)),  # a tenth of the batch, if 64 had such parts: 4 fit, of 8
        (1.0e6, 1, (64, False, False)),
        (1.0e6, 4, (16, True, True)),
        (0.4e6, 64, (1, True, True)),
    ],
)
def test_a_batch_is_cut_and_weights_are_divided_where_memory_is_small(memory, gpus, expected):
    gpu = dataclasses.replace(SLOW, memory=memory)
    found = {one.gpus: one for one in estimates(made(), Cluster(gpu))}[gpus]
    parts, shard, fits = expected
    room = USABLE * memory
    assert (found.shard, found.fits) == (shard, fits)
    state = (1e6 / gpus + 2e5) if shard else 1e6
    micro = found.examples // found.accumulate
    assert found.examples % found.accumulate == 0
    if fits:
        assert state + 1e5 * micro <= room
        larger = [m for m in range(micro + 1, found.examples + 1) if found.examples % m == 0]
        assert all(state + 1e5 * m > room for m in larger)
    else:
        assert found.accumulate == parts


def test_divided_weights_are_gathered_for_every_part():
    gpu = dataclasses.replace(SLOW, memory=1.0e6, link=1e6)
    one = estimates(made(), Cluster(gpu, per_machine=64))[2]
    sums = 2 * 3 / 4 * 2e5 / 1e6 + 4 * LATENCY
    compute = 3 * one.examples // one.accumulate * 1e9 / 3e11
    assert one.shard
    assert one.seconds == pytest.approx(one.accumulate * max(compute, 1.5 * sums) + 2e6 / 1e9 / 4)


def test_wrong_clusters_are_refused():
    with pytest.raises(ValueError, match=r"utilisation=1\.5 must lie in \(0, 1\]"):
        Cluster(SLOW, utilisation=1.5)
    with pytest.raises(ValueError, match="link"):
        replace(SLOW, link=0.0)
    with pytest.raises(ValueError, match="h100"):
        GPUS.create("h10")
    assert GPUS.create("H100").flops("fp16") == 989e12
    assert GPUS.create("h100").flops("float32") == 67e12


def test_a_plan_is_made_by_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="planned by one process"):
        training_cost(TrainConfig())
