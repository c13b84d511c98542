"""RefineNet: signals of any rank and size, its normalization by the formula, derivatives."""

from __future__ import annotations

import pytest
import torch

from sde_score.nn import create
from sde_score.nn.backbones.refinenet import InstanceNormPlus, RefineNet

SMALL = {"base": 2, "multipliers": (1, 2, 2, 1), "dilations": (1, 1, 2, 3)}


@pytest.fixture
def net(randomize):
    return randomize(RefineNet((2, 5, 7), **SMALL).double().eval(), scale=0.5)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 5, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("event_shape", [(2, 9), (1, 8, 8), (1, 3, 4, 5), (3, 1, 2)])
def test_any_rank_and_any_size(event_shape, randomize):
    net = randomize(RefineNet(event_shape, **SMALL))
    for more in (0, 1):
        x = torch.randn(2, event_shape[0], *(side + more for side in event_shape[1:]))
        out = net(x, torch.ones(2))
        assert out.shape == x.shape
        assert out.isfinite().all()


def test_a_new_network_answers_zero_and_the_label_has_no_say(net, x):
    label = torch.tensor([0.0, 1.0, 2.0])
    assert torch.equal(RefineNet((2, 5, 7), **SMALL).double()(x, label), torch.zeros_like(x))
    assert torch.equal(net(x, label), net(x, 2 * label))
    assert net(x, label).abs().min() > 0


def test_each_answer_depends_on_its_own_example_alone(net, x):
    label, order = torch.ones(3), torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(x[order], label), net(x, label)[order], rtol=1e-10, atol=1e-12)


def test_normalization_is_the_formula(randomize):
    norm = randomize(InstanceNormPlus(3).double(), scale=1.0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64) + torch.arange(3.0)[:, None, None]
    out = norm(x)
    for example, answer in zip(x, out, strict=True):
        means = [channel.mean() for channel in example]
        middle = sum(means) / 3
        spread = (sum((mean - middle) ** 2 for mean in means) / 2 + 1e-5).sqrt()
        for c, channel in enumerate(example):
            scaled = (channel - means[c]) / (channel.var(unbiased=False) + 1e-5).sqrt()
            wanted = scaled + norm.alpha[c] * (means[c] - middle) / spread
            torch.testing.assert_close(answer[c], norm.gamma[c] * wanted + norm.beta[c])


def test_derivatives_match_differences(net, x):
    generator = torch.Generator().manual_seed(1)
    v, w = torch.randn(2, *x[:1].shape, generator=generator, dtype=x.dtype)
    x, label, h = x[:1].requires_grad_(True), torch.ones(1), 1e-5

    def value(shift):
        return (net(x + shift * v, label) * w).sum()

    (first,) = torch.autograd.grad(value(0.0), x, create_graph=True)
    (second,) = torch.autograd.grad((first * v).sum(), x)
    (ahead,) = torch.autograd.grad(value(h), x)
    (behind,) = torch.autograd.grad(value(-h), x)
    slope = (value(h) - value(-h)) / (2 * h)
    torch.testing.assert_close((first * v).sum(), slope, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(second, (ahead - behind) / (2 * h), rtol=1e-3, atol=1e-4)
    _, pushed = torch.func.jvp(lambda z: net(z, label), (x,), (v,))
    torch.testing.assert_close((pushed * w).sum(), (first * v).sum(), rtol=1e-9, atol=1e-9)


def test_jacobians_of_examples_by_vmap(net, x):
    def single(x):
        return net(x[None], torch.ones(1, dtype=x.dtype))[0]

    rows = torch.func.vmap(torch.func.jacrev(single))(x[:2])
    for i in range(2):
        wanted = torch.autograd.functional.jacobian(single, x[i])
        torch.testing.assert_close(rows[i], wanted, rtol=1e-8, atol=1e-10)


def test_compiled_network_agrees(x, randomize):
    net = randomize(RefineNet((2, 5, 7), 2, (1, 2), (1, 1)).double().eval(), scale=0.5)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    expected = net(x, torch.ones(3))
    torch.testing.assert_close(compiled(x, torch.ones(3)), expected, rtol=1e-9, atol=1e-11)


def test_a_spec_makes_the_network():
    net = create("refinenet(base=2, multipliers=(1, 1), dilations=(1, 2))", (1, 4))
    assert len(net.levels) == 2
    with pytest.raises(ValueError, match="num_classes"):
        create("refinenet", (1, 4, 4), 3)


@pytest.mark.parametrize(
    "options",
    [
        {"base": 1},
        {"dilations": (1, 1)},
        {"dilations": (1, 1, 0, 2)},
        {"multipliers": (1, 2, 2, 0)},
        {"event_shape": (3,)},
        {"base": 2**30},
    ],
)
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options)).rstrip("s")):
        RefineNet(**{"event_shape": (2, 8, 8), **SMALL, **options})


def test_wrong_calls_are_refused(net, x):
    with pytest.raises(ValueError, match="without classes"):
        net(x, torch.ones(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="does not fit this network"):
        net(x[:, :1], torch.ones(3))
