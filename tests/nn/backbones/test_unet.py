"""The U-Net: any rank and size, its plan of levels and attention, a map to fit, and refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sde_score.nn import UNet
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.layers import SelfAttention
from sde_score.nn.blocks.resampling import double, halve

SIZES = [(8, 8), (9, 13), (28, 27), (31, 8), (3, 5), (3,), (17,), (3, 4, 5), (8, 6, 7)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (2, 1, 3)])
def test_any_rank_and_size(size, multipliers, randomize):
    net = randomize(UNet((3, *size), base=4, multipliers=multipliers, blocks=1), scale=0.05)
    x = torch.randn(2, 3, *size)
    out = net(x, torch.zeros(2))
    assert out.shape == x.shape
    assert torch.isfinite(out).all()
    assert (out.flatten(2).std(dim=2) > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_halving_averages_pixels_and_doubling_puts_them_back(size):
    x = torch.randn(1, 1, *size, dtype=torch.float64)
    back = double(halve(x), x.shape[2:])
    assert back.shape == x.shape
    for place in itertools.product(*map(range, size)):
        block = x[(0, 0, *(slice(i // 2 * 2, i // 2 * 2 + 2) for i in place))]
        assert back[(0, 0, *place)].item() == pytest.approx(block.mean().item())


def convolutions(net):
    """(channels in, channels out, side of the output) of every 3 x 3 convolution, in order."""
    seen = []

    def note(module, inputs, output):
        seen.append((inputs[0].shape[1], output.shape[1], output.shape[-1]))

    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(note)
    net(torch.zeros(1, *net.event_shape), torch.zeros(1))
    return seen


def test_plan_of_levels_and_skips():
    """Up with skips concatenated; the last block of a level has the width of the next one."""
    seen = convolutions(UNet((1, 16, 16), base=4, multipliers=(1, 2), blocks=2))
    down = [(4, 4, 16), (4, 4, 16)] * 2 + [(4, 8, 8), (8, 8, 8)] + [(8, 8, 8)] * 2
    middle = [(8, 8, 8)] * 4
    up = [(16, 8, 8), (8, 8, 8), (16, 4, 8), (4, 4, 8), (8, 4, 16), (4, 4, 16)]
    up += [(8, 4, 16), (4, 4, 16)]
    assert seen == [(1, 4, 16), *down, *middle, *up, (4, 1, 16)]


def attention_sides(net):
    """Shorter sides of the images that attention sees, with how often."""
    sides = []

    def note(module, inputs, output):
        sides.append(min(output.shape[1 - len(net.event_shape) :]))

    for module in net.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_hook(note)
    net(torch.zeros(1, *net.event_shape), torch.zeros(1))
    return {side: sides.count(side) for side in sorted(set(sides))}


@pytest.mark.parametrize(
    ("size", "attention", "expected"),
    [
        ((32, 32), None, {8: 3, 16: 2}),
        ((28, 40), None, {7: 3, 14: 2}),
        ((8, 8), None, {2: 3, 4: 2, 8: 2}),
        ((80, 70), None, {18: 3}),  # never 16 or less: the coarsest
        ((130,), None, {33: 3}),
        ((128,), None, {32: 3, 64: 2}),
        ((300,), None, {75: 3}),
        ((16, 20, 17), None, {4: 3, 8: 2}),
        ((32, 32), (16,), {16: 2}),
        ((32, 32), [32, 8], {8: 3, 32: 2}),
        ((32, 32), (), {}),
    ],
)
def test_attention_is_where_it_was_asked_for(size, attention, expected):
    net = UNet((1, *size), base=2, multipliers=(1, 1, 1), blocks=1, attention=attention)
    assert attention_sides(net) == expected


@pytest.mark.parametrize("size", [(64,), (8, 64), (2, 2, 64)])
def test_distant_positions_meet_in_attention_alone(size, randomize):
    """Without attention or group norm a corner sees only its neighborhood; attention spans all."""
    x = torch.randn(1, 1, *size, dtype=torch.float64, requires_grad=True)
    reach = []
    for attention in ((), (min(size),)):
        net = UNet((1, *size), base=4, multipliers=(1,), blocks=1, attention=attention).double()
        randomize(net)
        for module in net.modules():  # the mean over the signal would connect all positions
            for name, child in module.named_children():
                if isinstance(child, GroupNorm):
                    setattr(module, name, nn.Identity())
        (gradient,) = torch.autograd.grad(net(x, torch.zeros(1)).flatten()[0], x)
        reach.append(int((gradient != 0).reshape(-1, 64).any(dim=0).sum()))
    # One convolution at either end, and two in each of the four blocks.
    assert reach == [1 + 10, 64]


LAYOUTS = {1: torch.channels_last, 2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("size", [(5,), (3, 5), (2, 3, 4)])
def test_channels_last_gives_the_same_answers_and_derivatives(size, randomize):
    """First, second and forward derivatives, and rows by vmap, in every rank."""
    net = randomize(UNet((2, *size), base=4, multipliers=(1, 2), blocks=1), scale=0.1).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)

    def answer(x):
        return net(x, x.new_zeros(len(x)))

    def outcome():
        out = answer(x)
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return out, first, second

    expected = outcome()
    net.to(memory_format=LAYOUTS[len(size)])
    for got, wanted in zip(outcome(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)
    out, _, _ = expected
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: answer(z[None])[0]))(x.detach())
    pushed = torch.func.jvp(answer, (x.detach(),), (out.detach(),))[1]
    torch.testing.assert_close(
        torch.einsum(
            "bij,bj->bi", jacobian.flatten(1 + out[0].ndim).flatten(1, -2), out.flatten(1)
        ),
        pushed.flatten(1),
    )


@pytest.mark.parametrize("size", [(9,), (9, 8), (3, 4, 5)])
def test_positions_lie_channels_last_in_memory_throughout(size):
    """Ours is the fast layout, whatever the layout of x and, but for volumes, of the weights."""
    net = UNet((1, *size), base=8, multipliers=(1, 2), blocks=1, attention=())
    if len(size) == 3:
        net.to(memory_format=torch.channels_last_3d)
    layouts = []
    for module in net.modules():
        if isinstance(module, (type(net.first), GroupNorm)) and module is not net.first:
            module.register_forward_pre_hook(
                lambda _, inputs: layouts.append(inputs[0].movedim(1, -1).is_contiguous())
            )
    net(torch.zeros(2, 1, *size), torch.zeros(2))
    assert len(layouts) > 20
    assert all(layouts)


def test_fits_a_small_problem():
    """Recover a blob's image from its noisy one at a given noise level: loss falls 20-fold."""
    torch.manual_seed(0)
    net = UNet((1, 8, 8), base=16, multipliers=(1, 2), blocks=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    grid = torch.arange(8.0)
    losses = []
    for _ in range(120):
        center = 1 + 5 * torch.rand(32, 2)
        rows, columns = ((grid - center[:, k, None]).square() for k in (0, 1))
        clean = (-(rows[:, :, None] + columns[:, None, :]) / 4).exp()[:, None]
        noise_level = torch.rand(32) * 0.5 - 0.75
        noise = (4 * noise_level).exp()[:, None, None, None] * torch.randn_like(clean)
        loss = (net(clean + noise, noise_level) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:1]) * 10 / 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (8,)}, r"event_shape=\(8,\) must have channels and one to three sides"),
        ({"base": 1}, "base=1 must be an integer of at least 2"),
        ({"blocks": 0}, "blocks=0"),
        ({"multipliers": ()}, r"multipliers=\(\) must be a tuple"),
        ({"multipliers": 2}, r"multipliers=2 must be a tuple of integers: write \(2,\)"),
        ({"multipliers": (1, 0)}, "multipliers=0 must be an integer of at least 1"),
        (
            {"multipliers": (1,) * 7},
            "gives 7 levels.*event_shape, 16, halves into 5 at most: drop 2",
        ),
        ({"attention": (12,)}, r"attention=\(12,\) must be .* among 16, 8, 4; \(\) for no"),
        ({"attention": 16}, "attention=16 must be a tuple"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"event_shape": (1, 16, 16), **arguments})
