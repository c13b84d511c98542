"""Group normalization: its definition, its groups, and its derivatives in both memory layouts."""

from __future__ import annotations

import copy

import pytest
import torch

from sde_score import nn
from sde_score.nn.blocks.group_norm import GroupNorm, LayerNorm, groups_for

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def images(layout, channels=64, dtype=torch.float64):
    x = torch.randn(
        2, channels, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return (3 * x + 2).to(dtype=dtype, memory_format=layout)


def test_groups_are_the_most_that_have_16_channels():
    for channels in range(1, 300):
        groups = groups_for(channels)
        fits = [g for g in range(1, 33) if channels % g == 0 and channels // g >= 16]
        assert groups == (max(fits) if fits else 1)
    assert [groups_for(c) for c in (8, 32, 40, 64, 128, 2048)] == [1, 2, 2, 4, 8, 32]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_normalizes_each_group_of_each_example(layout):
    x = images(layout)
    y = GroupNorm(64)(x)
    group = x[1, 16:32]
    expected = (group - group.mean()) / (group.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(y[1, 16:32], expected)
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives_match_differences(layout):
    """First, second and forward-mode, by gradcheck; on one example of one small group."""
    x = images(layout, channels=4)[:1].requires_grad_(True)
    norm = GroupNorm(4)
    torch.autograd.gradcheck(norm, x, check_forward_ad=True)
    torch.autograd.gradgradcheck(norm, x, check_fwd_over_rev=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [32, 64])
def test_derivative_is_the_same_whether_or_not_it_will_be_differentiated(layout, channels):
    """The fast kernel and the explicit product are two roads to one gradient."""
    x = images(layout, channels).requires_grad_(True)
    w = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    y = GroupNorm(channels)(x)
    (fast,) = torch.autograd.grad(y, x, w, retain_graph=True)
    (explicit,) = torch.autograd.grad(y, x, w, create_graph=True)
    torch.testing.assert_close(fast, explicit, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_per_example_jacobians(layout):
    """vmap over the rows of a Jacobian and over the examples of a batch."""
    x = images(layout, channels=3)
    norm = GroupNorm(3)

    def single(image):
        return norm(image[None])[0]

    by_vmap = torch.func.vmap(torch.func.jacrev(single))(x)
    forward = torch.func.vmap(torch.func.jacfwd(single))(x)
    for i in range(2):
        expected = torch.autograd.functional.jacobian(single, x[i])
        torch.testing.assert_close(by_vmap[i], expected, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(forward[i], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_own_layer_has_the_same_bits_in_value_and_first_derivative(layout, dtype):
    x = images(layout, 32, dtype).requires_grad_(True)
    w = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found = []
    for second in (True, False):
        y = GroupNorm(32, second)(x)
        found.append((y, torch.autograd.grad(y, x, w)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_whole_network_is_switched_between_the_two():
    network = nn.UNet((1, 8, 8), base=4, multipliers=(1, 2), blocks=1)
    norms = [module for module in network.modules() if isinstance(module, GroupNorm)]
    assert len(norms) > 8
    assert all(norm.second_derivatives for norm in norms)
    nn.set_second_derivatives(network, False)
    assert not any(norm.second_derivatives for norm in norms)
    nn.set_second_derivatives(network, True)
    assert all(norm.second_derivatives for norm in norms)


def test_every_derivative_of_layer_normalization_is_that_of_its_formula():
    """To the fourth order: torch's own is wrong from the third on."""
    x, d, w = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def formula(z):
        off = z - z.mean(1, keepdim=True)
        return off * (off.square().mean(1, keepdim=True) + 1e-5).rsqrt()

    found = []
    for norm in (formula, LayerNorm(5)):
        u = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        values = [(w * norm(x + u * d) ** 2 + w * norm(x + u * d)).sum()]
        for _ in range(4):
            values += torch.autograd.grad(values[-1], u, create_graph=True)
        found.append(torch.stack(values))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


def test_layer_normalization_has_the_bits_of_torchs_own_to_the_first_derivative():
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    w = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    y, own = LayerNorm(7)(x), torch.nn.functional.layer_norm(x, (7,))
    assert torch.equal(y, own)
    assert torch.equal(torch.autograd.grad(y, x, w)[0], torch.autograd.grad(own, x, w)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [2, 16])  # of 32 and of 4 channels
@pytest.mark.parametrize("sides", [(3, 4), (32, 32)])  # torch has a kernel for each
def test_bfloat16_keeps_statistics_in_float32(layout, groups, sides):
    """Far from 0, values and all first derivatives differ from float64 by rounding alone."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 2, 64, *sides, generator=generator).bfloat16()
    x = 2 * x + 10
    norms = [GroupNorm(64, False, groups, affine=affine) for affine in (True, False)]
    for parameter in norms[0].parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    for norm in norms:
        found = []
        for dtype in (torch.bfloat16, torch.float64):
            z = x.to(dtype=dtype, memory_format=layout).requires_grad_(True)
            own = norm if dtype == torch.bfloat16 else copy.deepcopy(norm).double()
            y = own(z)
            found.append([y, *torch.autograd.grad(y, [z, *own.parameters()], w.to(dtype))])
        assert found[0][1].is_contiguous(memory_format=layout)
        limit = 0.002 if groups == 2 or layout == torch.contiguous_format else 0.003
        for low, exact in zip(*found, strict=True):
            assert (low - exact).norm() < limit * exact.norm()


def test_narrow_groups_refuse_the_derivatives_that_they_do_not_have():
    x = images(torch.channels_last, 8, torch.bfloat16).requires_grad_(True)
    y = GroupNorm(8, second_derivatives=False, groups=4)(x)
    with pytest.raises(RuntimeError, match=r"once_differentiable"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)[0].sum().backward()
