"""EDM2's network: any rank and size, sizes that stay, weights of unit norm, and refusals."""

from __future__ import annotations

import pytest
import torch

from sde_score.nn import EDM2, create

SMALL = {"widths": (4, 8), "blocks": 1, "attention": (2,), "head_channels": 4}


def opened(net, seed=0):
    """Gains that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gain"):
                parameter.copy_(0.3 + torch.rand((), generator=generator))
    return net


@pytest.mark.parametrize("event_shape", [(2, 5), (1, 4, 7), (1, 3, 4, 5)])
def test_any_rank_and_any_size(event_shape):
    net = opened(EDM2(event_shape, num_classes=2, **SMALL))
    for more in (0, 1):
        x = torch.randn(2, event_shape[0], *(side + more for side in event_shape[1:]))
        assert net(x, torch.zeros(2), torch.tensor([1, -1])).shape == x.shape


def test_attention_is_at_the_resolutions_asked_for_and_in_the_middle():
    net = EDM2((1, 8, 8), widths=(4, 4, 8), blocks=2, attention=(4,), head_channels=2)
    heads = [block.heads for block in net.encoder]
    assert heads == [0, 0, 0, 2, 2, 0, 0, 0]
    assert [block.heads for block in net.middle] == [4, 0]
    assert [block.heads for block in net.decoder] == [0, 0, 0, 0, 2, 2, 2, 0, 0, 0, 0]


def test_sizes_stay_near_one_through_the_whole_network():
    """A new network, on normal numbers, with all gains of the embedding still zero."""
    torch.manual_seed(0)
    net = EDM2((3, 16, 16), widths=(16, 32, 32), blocks=2, attention=(8,), head_channels=16)
    sizes = []
    for block in [*net.encoder, *net.middle, *net.decoder]:
        block.register_forward_hook(lambda *call: sizes.append(call[2].square().mean().sqrt()))
    net(torch.randn(8, 3, 16, 16), torch.linspace(-1, 1, 8))
    assert len(sizes) == 8 + 2 + 11
    assert min(sizes) > 0.7
    assert max(sizes) < 1.4


def test_training_keeps_the_weights_at_unit_norm():
    net = opened(EDM2((2, 4, 4), num_classes=2, **SMALL))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim:
                parameter.mul_(5)
    x, label = torch.randn(2, 2, 4, 4), torch.zeros(2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net.eval()(x, label)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    torch.testing.assert_close(net.train()(x, label), expected, rtol=1e-2, atol=1e-3)
    for name, value in net.named_parameters():
        if value.ndim:
            sizes = value.flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(sizes, torch.full_like(sizes, 1 - 1e-4), msg=name)
        else:
            assert torch.equal(value, before[name])


def test_gradients_are_perpendicular_to_the_weights():
    """What only changes their length changes nothing."""
    net = opened(EDM2((2, 4, 4), **SMALL)).double()
    net(torch.randn(2, 2, 4, 4).double(), torch.zeros(2).double()).square().sum().backward()
    for value in net.parameters():
        if value.ndim:
            product = (value * value.grad).flatten(1).sum(1).abs()
            norms = value.flatten(1).norm(dim=1) * value.grad.flatten(1).norm(dim=1)
            assert (product <= 1e-3 * norms + 1e-12).all()


def test_two_evaluations_in_training_have_one_gradient():
    """Normalizing the weights for the second does not spoil the first."""
    net = opened(EDM2((2, 4, 4), **SMALL)).double().train()
    x, label = torch.randn(2, 2, 4, 4).double(), torch.zeros(2).double()
    net(x, label)
    (net(x, label) + net(2 * x, label)).sum().backward()
    together = net.head.weight.grad.clone()
    net.zero_grad()
    net(x, label).sum().backward()
    net(2 * x, label).sum().backward()
    torch.testing.assert_close(net.head.weight.grad, together)


def test_transforms_of_torch_func_run_in_training():
    net = opened(EDM2((2, 4, 4), **SMALL)).double().train()
    x = torch.randn(1, 2, 4, 4).double()
    label = torch.zeros(1).double()
    _, pushed = torch.func.jvp(lambda y: net(y, label), (x,), (x,))
    _, expected = torch.func.jvp(lambda y: net.eval()(y, label), (x,), (x,))
    torch.testing.assert_close(pushed, expected)


def test_compiled_training_agrees():
    net = opened(EDM2((2, 4), (4,), 1, attention=(), head_channels=4)).double().train()
    x, label = torch.randn(2, 2, 4).double(), torch.zeros(2).double()
    expected = net(x, label)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, label), expected, rtol=1e-9, atol=1e-11)


def test_log_variance_is_a_head_of_its_own():
    net = create("edm2(widths=(4,), blocks=1, variance_features=6)", (1, 4))
    label = torch.tensor([-1.0, 0.5])
    angles = label[:, None] * net.variance_features.frequencies + net.variance_features.phases
    weight = net.variance.weight[0]
    size = weight.square().mean().sqrt() + 1e-4
    expected = (2**0.5 * angles.cos() * weight / size).sum(1) / 6**0.5
    torch.testing.assert_close(net.log_variance(label), expected)
    with pytest.raises(ValueError, match="no head for the variance"):
        EDM2((1, 4), **SMALL).log_variance(label)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (3,)}, "channels and one to three sides"),
        ({"widths": ()}, "levels=0"),
        ({"widths": (4, 0)}, "width=0"),
        ({"blocks": 0}, "blocks=0"),
        ({"widths": (9, 9)}, "head_channels=4 must divide the width 9"),
        ({"variance_features": -1}, "variance_features=-1"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EDM2(**{"event_shape": (3, 4, 4), **SMALL, **arguments})


@pytest.mark.parametrize(
    ("base", "millions"),
    [(128, 125), (192, 280), (256, 498), (320, 777), (384, 1119), (448, 1523)],
)
def test_published_sizes_have_the_published_numbers_of_weights(base, millions):
    with torch.device("meta"):
        widths = tuple(base * k for k in (1, 2, 3, 4))
        net = EDM2((4, 64, 64), widths, num_classes=1000, variance_features=128)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions


def test_embedding_is_its_formula():
    """A class is sqrt(n) in one of n places in front of a layer; no class is the zero vector."""
    part = EDM2((1, 4), **SMALL, num_classes=3, label_balance=0.4).double().embedding
    label = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    features = 2**0.5 * torch.cos(label[:, None] * part.features.frequencies + part.features.phases)

    def used(weight):
        return (
            weight / (1e-4 + weight.square().mean(1, keepdim=True).sqrt()) / weight.shape[1] ** 0.5
        )

    known = torch.tensor([[0, 3**0.5, 0], [0, 0, 0]], dtype=torch.float64)
    noise, classes = features @ used(part.noise.weight).T, known @ used(part.classes.weight).T
    total = (0.6 * noise + 0.4 * classes) / (0.6**2 + 0.4**2) ** 0.5
    expected = torch.nn.functional.silu(total) / 0.596
    torch.testing.assert_close(part(label, torch.tensor([1, -1])), expected)
