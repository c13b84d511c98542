"""The MLP: events of any shape, a map it must fit, and refusals."""

from __future__ import annotations

import pytest
import torch

from sde_score.nn import MLP


@pytest.mark.parametrize("event_shape", [(), (1,), (2,), (5, 3), (2, 3, 4), (1, 2, 2, 2)])
def test_any_event_shape(event_shape, randomize):
    net = randomize(MLP(event_shape, width=8, depth=1))
    x = torch.randn(4, *event_shape)
    out = net(x, torch.zeros(4))
    assert out.shape == x.shape
    flat = randomize(MLP((x[0].numel(),), width=8, depth=1))
    torch.testing.assert_close(flat(x.reshape(4, -1), torch.zeros(4)), out.reshape(4, -1))


def test_depth_and_width_are_what_was_asked():
    net = MLP((2,), width=10, depth=3)
    assert len(net.blocks) == 3
    assert net.first.weight.shape == (10, 2)
    assert len(MLP((2,)).blocks) == 4


def test_fits_a_linear_map_that_depends_on_the_noise_level():
    """The score of Gaussian data: A(c) x with A = (S + e^{8c} I)^{-1}; error to 1 %."""
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    net = MLP((2,), width=64, depth=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=600)

    def batch(size):
        x, noise_level = torch.randn(size, 2), torch.rand(size) - 0.5
        spread = covariance + (8 * noise_level).exp()[:, None, None] * torch.eye(2)
        return x, noise_level, torch.linalg.solve(spread, x)

    for _ in range(600):
        x, noise_level, target = batch(128)
        optimizer.zero_grad()
        (net(x, noise_level) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    x, noise_level, target = batch(2000)
    with torch.no_grad():
        error = (net(x, noise_level) - target).square().mean()
        far = (net(4 * x, noise_level) - 4 * target).square().mean() / 16
    assert error < 0.01 * target.square().mean()
    assert far < 0.2 * target.square().mean()  # beyond the data it keeps the straight line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 1}, "width=1 must be an integer of at least 2"),
        ({"depth": 0}, "depth=0 must be an integer of at least 1"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"width": 8.0}, "width=8.0"),
        ({"event_shape": (2, 0)}, r"event_shape\[1\]=0 must be an integer of at least 1"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLP(**{"event_shape": (2,), **arguments})


@pytest.mark.parametrize("event_shape", [2, "28", (2.0,), (True,), None])
def test_event_shape_must_be_a_tuple_of_whole_numbers(event_shape):
    with pytest.raises(
        TypeError, match=r"event_shape(\[0\])?=.* must be (a tuple of integers|an integer)"
    ):
        MLP(event_shape)
