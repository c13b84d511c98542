"""The summary of a network: counts by hand, parts that add up, and a network left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sde_score.nn import create, summary
from sde_score.nn.blocks.tokens import TokenAttention


@pytest.mark.parametrize(
    ("network", "event_shape", "parameters", "flops", "numbers"),
    [
        (nn.Linear(3, 4), (3,), 3 * 4 + 4, 2 * 3 * 4, 3),
        # 3 x 3 taps of 2 channels at each of 5 x 4 places, for each of 3 channels.
        (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4), 57, 2 * 9 * 2 * 20 * 3, 2 * 5 * 4),
        # 5 tokens of width 8, in 2 heads of 4 channels: projections to 24 and from 8, Q K^T and
        # W V. Kept are x, copies of scaled queries, keys and values, the weights and what goes
        # into the last projection.
        (
            TokenAttention(8, 2),
            (5, 8),
            8 * 24 + 24 + 8 * 8 + 8,
            2 * 5 * 8 * 24 + 2 * 2 * (2 * 5 * 5 * 4) + 2 * 5 * 8 * 8,
            5 * 8 + 5 * 24 + 2 * 5 * 5 + 5 * 8,
        ),
    ],
)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8)])
@pytest.mark.parametrize("batch", [2, 3])
def test_counts_by_hand(network, event_shape, parameters, flops, numbers, dtype, size, batch):
    found = summary(network.to(dtype), event_shape, batch)
    assert found.total[2:] == (parameters, batch * flops, batch * numbers * size)


class Twice(nn.Module):
    """Two layers, one of which is used twice, a weight of its own, and a product of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.norm = nn.BatchNorm1d(4)
        self.same = self.inner[0]
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x, t):
        return self.norm(self.inner(self.inner(x))) @ self.weight * (1 + t[:, None])


def test_parts_add_up_and_leave_the_network_as_it_was():
    net = Twice()
    net.inner[1].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = summary(net, (4,), batch=2)
    assert [part[:3] for part in found.parts] == [
        ("(itself)", "Twice", 16),
        ("inner", "Sequential", 20),
        ("norm", "BatchNorm1d", 8),
    ]
    by_name = {part.name: part for part in found.parts}
    assert by_name["inner"].flops == 2 * by_name["(itself)"].flops == 2 * 2 * 2 * 16
    # x and tanh twice, whose results are kept by what follows as well.
    assert by_name["inner"].memory == 3 * 2 * 4 * 4
    assert [sum(p[k] for p in found.parts) for k in (2, 3, 4)] == list(found.total[2:])
    deeper = summary(net, (4,), batch=2, depth=2)
    assert [part.name for part in deeper.parts] == ["(itself)", "inner.0", "inner.1", "norm"]
    assert deeper.total == found.total
    assert net.training
    assert not net.inner[1].training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_network_without_memory_counts_alike():
    spec, shape = "unet(base=4, multipliers=(1, 2), blocks=1)", (1, 8, 8)
    with torch.device("meta"):
        net = create(spec, shape, 3)
    labels = torch.zeros(2, dtype=torch.int64)
    here = summary(create(spec, shape, 3), shape, 2, condition=labels)
    assert summary(net, shape, 2, condition=labels.to("meta")) == here
    with torch.inference_mode():
        assert summary(net, shape, 2, condition=labels.to("meta")) == here


def test_the_table_has_a_line_for_each_part():
    lines = str(summary(nn.Sequential(nn.Linear(500, 1000), nn.Linear(1000, 500)), (500,))).split(
        "\n"
    )
    assert lines[0].split() == ["part", "class", "parameters", "FLOPs", "memory"]
    assert lines[2].split() == ["0", "Linear", "501,000", "1", "M", "2", "kB"]
    assert lines[-2].split() == ["total", "Sequential", "1,001,500", "2", "M", "6", "kB"]
    assert "1 example," in lines[-1]


def test_networks_of_another_form_are_called_as_they_are_given():
    class Other(nn.Module):
        def forward(self, x, t, y):
            return {"sample": x * t * y}

    with pytest.raises(TypeError, match=r"answers with dict, not a tensor: give call="):
        summary(Other(), (2,), condition=torch.ones(1))
    found = summary(Other(), (2,), call=lambda net, x: net(x, 1.0, 2.0)["sample"])
    assert found.total == ("total", "Other", 0, 0, 0)


@pytest.mark.parametrize("given", [{"batch": 0}, {"depth": 0}, {"event_shape": (0,)}])
def test_counts_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        summary(nn.Linear(3, 3), **{"event_shape": (3,), **given})
