"""What holds for every backbone: one answer per example, shaped like x, differentiable twice."""

from __future__ import annotations

import pytest
import torch

from sde_score import nn

PRESETS = {"ncsnpp", "ddpmpp", "ddpm", "adm"}
"""Options of one class, compiled as `residual-unet` is."""


def test_answer_has_shape_and_dtype_of_x(build, call_for):
    net = build()
    x, noise_level, _ = call_for(net)
    for dtype in (torch.float64, torch.float32):
        out = net.to(dtype)(x, noise_level)  # weights may be narrower than x
        assert out.shape == x.shape
        assert out.dtype == x.dtype


def test_a_new_network_answers_exactly_zero(build, call_for):
    net = build(num_classes=3, random_weights=False)
    x, noise_level, labels = call_for(net)
    assert torch.equal(net(x, noise_level, labels), torch.zeros_like(x))


def test_each_answer_depends_on_its_own_example_alone(build, call_for):
    """Permuting the batch permutes the answers; an example alone gets the answer it had in it."""
    net = build(num_classes=3).train()
    x, noise_level, labels = call_for(net, batch=5)
    together = net(x, noise_level, labels)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = net(x[order], noise_level[order], labels[order])
    torch.testing.assert_close(permuted, together[order], rtol=1e-10, atol=1e-12)
    for i in range(5):
        alone = net(x[i : i + 1], noise_level[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-12)


def test_empty_batch(build, call_for):
    net = build()
    x, noise_level, _ = call_for(net)
    assert net(x[:0], noise_level[:0]).shape == x[:0].shape


def test_answer_depends_on_noise_level_and_label(build, call_for):
    net = build(num_classes=3)
    x, noise_level, labels = call_for(net)
    out = net(x, noise_level, labels)

    def change(other):
        return (other - out).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1)

    assert (change(net(x, noise_level + 0.25, labels)) > 1e-3).all()
    assert (change(net(x, noise_level, (labels + 1) % 3)) > 1e-3).all()


def test_told_an_end_it_answers_as_before_until_it_is_trained_and_has_derivatives_forward(
    build, call_for, randomize
):
    net = build(num_classes=3)
    x, noise_level, labels = call_for(net)
    before = net(x, noise_level, labels)
    assert nn.tell_end(nn.tell_end(net)) is net
    ends = [{"label": labels, "end_noise_level": noise_level - gap} for gap in (0.5, 0.75)]
    assert torch.equal(net(x, noise_level, ends[0]), before)
    with pytest.raises(ValueError, match=r"no entry 'end_noise_level'"):
        net(x, noise_level, labels)
    near, far = (randomize(net)(x, noise_level, end) for end in ends)
    assert ((far - near).flatten(1).norm(dim=1) > 1e-3 * near.flatten(1).norm(dim=1)).all()
    nn.set_second_derivatives(net, needed=True)
    h, along = 1e-6, (torch.cos(x), torch.ones_like(noise_level))
    answer = lambda x, level: net(x, level, ends[0])  # noqa: E731
    slope = torch.func.jvp(answer, (x, noise_level), along)[1]
    after, earlier = (answer(x + e * along[0], noise_level + e) for e in (h, -h))
    torch.testing.assert_close(slope, (after - earlier) / (2 * h), rtol=1e-5, atol=1e-5)


def test_no_condition_is_label_minus_one(build, call_for):
    """In a mixed batch, too: so training can drop labels example by example."""
    net = build(num_classes=3)
    x, noise_level, labels = call_for(net)
    mixed = torch.where(torch.arange(3) == 1, -1, labels)
    free, conditioned = net(x, noise_level), net(x, noise_level, labels)
    expected = torch.stack([conditioned[0], free[1], conditioned[2]])
    torch.testing.assert_close(net(x, noise_level, mixed), expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(free, conditioned)


def everything(event_shape):
    """A condition of each kind, two of them images."""
    sides = event_shape[1:]
    return {"label": 3, "values": (2,), "map": (1, *sides), "low": (2, *sides)}


@torch.no_grad()
def test_each_kind_of_condition_is_seen_and_so_is_its_absence(build, call_for):
    """An entry that is -1, NaN or missing is none, a learned answer that is not that of zeros; and
    what is told of an example changes its answer alone."""
    net = build(told=everything)
    generator = torch.Generator().manual_seed(3)
    x, noise_level = (value[:3] for value in call_for(net.network)[:2])
    x = x[:, : net.event_shape[0]]
    told = {"label": torch.tensor([0, 2, 1])}
    for name, shape in list(everything(net.event_shape).items())[1:]:
        told[name] = torch.randn(3, *shape, generator=generator, dtype=x.dtype)
    answer = net(x, noise_level, told)
    assert answer.shape == x.shape
    for name, value in told.items():
        none = -1 if name == "label" else torch.nan
        lost = value.clone()
        lost[1] = none
        some, other = net(x, noise_level, {**told, name: lost}), value.clone()
        other[1] = 0
        zeros = net(x, noise_level, {**told, name: other})
        torch.testing.assert_close(some[[0, 2]], answer[[0, 2]])
        for wrong in (answer, zeros):
            assert float((some[1] - wrong[1]).abs().max()) > 1e-4 * float(answer.abs().max()), name
        without = {key: each for key, each in told.items() if key != name}
        missing = net(x, noise_level, without)
        torch.testing.assert_close(missing, net(x, noise_level, {**told, name: value * 0 + none}))
        torch.testing.assert_close(missing[1], some[1])
    torch.testing.assert_close(net(x, noise_level, {}), net(x, noise_level))


def test_gradients_reach_every_parameter(build, call_for):
    """Zero-initialized layers open one after the other: output, end of block, inside of block, and
    the same of the embedding, where it has blocks."""
    net = build(num_classes=3, random_weights=False).train()
    x, noise_level, labels = call_for(net)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(6):
        optimizer.zero_grad()
        (net(x, noise_level, labels) - target).square().mean().backward()
        optimizer.step()
    silent = [name for name, p in net.named_parameters() if not p.grad.abs().max() > 0]
    assert silent == []


def test_first_and_second_derivatives_match_differences(build, call_for):
    """grad of <w, net> and grad of <v, that grad>, against central differences of the value."""
    net = build()
    x, noise_level, _ = call_for(net, batch=1)
    generator = torch.Generator().manual_seed(4)
    v, w = torch.randn(2, *x.shape, generator=generator, dtype=x.dtype)
    v = v / v.norm()

    def value(shift, noise_shift=0.0):
        return (net(x + shift * v, noise_level + noise_shift) * w).sum()

    x.requires_grad_(True)
    noise_level.requires_grad_(True)
    first, by_noise = torch.autograd.grad(value(0.0), (x, noise_level), create_graph=True)
    (second,) = torch.autograd.grad((first * v).sum(), x)
    h = 1e-3
    with torch.no_grad():
        slope = (value(h) - value(-h)) / (2 * h)
        bend = (value(h) - 2 * value(0.0) + value(-h)) / h**2
        noise_slope = (value(0.0, h / 100) - value(0.0, -h / 100)) / (2 * h / 100)
    assert (first * v).sum().item() == pytest.approx(slope.item(), rel=1e-4)
    assert by_noise.sum().item() == pytest.approx(noise_slope.item(), rel=1e-3)
    assert (second * v).sum().item() == pytest.approx(bend.item(), rel=1e-4)
    assert abs(bend) > 1e-4


def test_forward_and_reverse_mode_agree(build, call_for):
    """<w, J v> is one number whether computed by jvp or vjp; so is the curvature <v, H v>."""
    net = build()
    x, noise_level, _ = call_for(net)
    v, w = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)

    def answer(x):
        return net(x, noise_level)

    def gradient(x):
        return torch.func.grad(lambda y: (answer(y) * w).sum())(x)

    _, pushed = torch.func.jvp(answer, (x,), (v,))
    torch.testing.assert_close((w * pushed).sum(), (gradient(x) * v).sum(), rtol=1e-9, atol=1e-9)
    _, forward_over_reverse = torch.func.jvp(gradient, (x,), (v,))
    x.requires_grad_(True)
    (first,) = torch.autograd.grad((answer(x) * w).sum(), x, create_graph=True)
    (reverse_twice,) = torch.autograd.grad((first * v).sum(), x)
    torch.testing.assert_close(forward_over_reverse, reverse_twice, rtol=1e-8, atol=1e-9)


def test_per_example_jacobians_by_vmap(build, call_for):
    """Exact divergences need them: rows by vmap of vjp, columns by vmap of jvp, against a loop."""
    net = build()
    x, noise_level, _ = call_for(net, batch=2)

    def single(x, noise_level):
        return net(x[None], noise_level[None])[0]

    rows = torch.func.vmap(torch.func.jacrev(single))(x, noise_level)
    columns = torch.func.vmap(torch.func.jacfwd(single))(x, noise_level)
    torch.testing.assert_close(columns, rows, rtol=1e-8, atol=1e-10)
    for i in range(2):
        z = x[i].clone().requires_grad_(True)
        answer = single(z, noise_level[i]).flatten()
        for output in (0, len(answer) // 2, len(answer) - 1):
            (expected,) = torch.autograd.grad(answer[output], z, retain_graph=True)
            row = rows[i].reshape(len(answer), *z.shape)[output]
            torch.testing.assert_close(row, expected, rtol=1e-8, atol=1e-10)


def test_weights_make_the_network(build, call_for, randomize):
    """A state dict loaded into a network with other weights gives the same answers, bit by bit."""
    net, other = build(num_classes=3), randomize(build(num_classes=3), seed=9)
    x, noise_level, labels = call_for(net)
    assert not torch.equal(other(x, noise_level, labels), net(x, noise_level, labels))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, noise_level, labels), net(x, noise_level, labels))
    others = dict(other.named_buffers())
    assert all(torch.equal(value, others[name]) for name, value in net.named_buffers())


def test_compiled_network_agrees(build, call_for, request):
    if request.node.callspec.params["build"] in PRESETS:
        pytest.skip("is of the class of residual-unet")
    net = build(num_classes=3)
    x, noise_level, labels = call_for(net)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    expected = net(x, noise_level, labels)
    torch.testing.assert_close(compiled(x, noise_level, labels), expected, rtol=1e-9, atol=1e-11)


def test_bfloat16_autocast_is_close(build, call_for):
    net = build().float()
    x, noise_level, _ = call_for(net, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, noise_level)
    low.square().sum().backward()
    exact = net(x, noise_level)
    assert low.dtype == torch.float32
    assert (low - exact).norm() < 0.03 * exact.norm()


def test_dropout_acts_in_training_only(build, call_for):
    net = build(dropout=0.5)
    x, noise_level, _ = call_for(net)
    assert torch.equal(net(x, noise_level), net(x, noise_level))
    net.train()
    assert not torch.equal(net(x, noise_level), net(x, noise_level))


def test_wrong_calls_are_refused(build, call_for):
    net = build(num_classes=3)
    x, noise_level, labels = call_for(net)
    with pytest.raises(ValueError, match=r"does not fit this network: it takes \(batch, "):
        net(x[:, :1], noise_level)
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor"):
        net(x.long(), noise_level)
    with pytest.raises(TypeError, match=r"noise_level must be a floating-point tensor, got int"):
        net(x, 0)
    with pytest.raises(ValueError, match=r"noise_level has 1 entries for 3 examples"):
        net(x, noise_level[:1])
    with pytest.raises(ValueError, match=r"noise_level of shape \(\).*expand"):
        net(x, noise_level[0])
    with pytest.raises(ValueError, match=r"labels from 0 to 3; accepted: 0 \.\.\. 2, and -1"):
        net(x, noise_level, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"labels from -2 to 1"):
        net(x, noise_level, torch.tensor([0, 1, -2]))
    with pytest.raises(TypeError, match=r"integer labels, got torch.float32: try condition.long"):
        net(x, noise_level, labels.float())
    with pytest.raises(ValueError, match=r"condition of shape \(2,\).*shape \(3,\)"):
        net(x, noise_level, labels[:2])
    with pytest.raises(ValueError, match=r"condition was given to a network without classes"):
        build()(x, noise_level, labels)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan"), True, "0"])
def test_dropout_outside_its_range_is_refused(build, dropout):
    with pytest.raises(ValueError, match=r"dropout=.*(\[0, 1\)|a finite number)"):
        build(dropout=dropout)
