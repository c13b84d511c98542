"""One optimizer step: warm-up, clipping, Adam, average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sde_score.sdes import VP
from sde_score.training import EMA, OPTIMIZERS, Update, warmup_factor


class _Tiny(nn.Module):
    """W2 tanh(W1 (x, label) + b1) + b2."""

    def __init__(self, arrays, tag):
        super().__init__()
        for name in ("W1", "b1", "W2", "b2"):
            self.register_parameter(name, nn.Parameter(arrays[f"{tag}.init.{name}"].clone()))

    def forward(self, x, label):
        inputs = torch.cat([x.flatten(1), label[:, None]], 1)
        hidden = torch.tanh(inputs @ self.W1.T + self.b1)
        return (hidden @ self.W2.T + self.b2).reshape(x.shape)


def _loss(net, arrays, where, tag, params):
    x0, z = arrays[f"{where}.batch"], arrays[f"{where}.z"]
    if tag == "vp_cont":
        t = arrays[f"{where}.t"]
        return (net(VP().perturb(x0, t, z), t) - z).square().mean()
    low, high, n = params["sde"]["ve"]
    labels = arrays[f"{where}.labels"]
    sigmas = torch.linspace(math.log(high), math.log(low), n, dtype=torch.float64).exp()[labels]
    sigma = sigmas.reshape(-1, 1, 1, 1)
    return (
        0.5
        * (net(x0 + sigma * z, labels.double() / n) * sigma + z).square().flatten(1).sum(1).mean()
    )


@pytest.mark.parametrize("optimizer", ["adam", "adam(decay='coupled')"])
@pytest.mark.parametrize("tag", ["vp_cont", "ve_disc"])
def test_update_reproduces_five_recorded_steps_of_the_published_code(tag, optimizer, reference):
    """Learning rates, losses, weights and averages of Song et al.'s code, float64 to 1e-9."""
    arrays, description = reference("train_steps")
    params = description["params"]
    case = next(c for c in params["cases"] if c["tag"] == tag)
    net = _Tiny(arrays, tag)
    update = Update(
        dict(net.named_parameters()),
        case["lr"],
        case["warmup"],
        max(case["clip"], 0),
        case["ema"],
        case["wd"],
        OPTIMIZERS.create(optimizer, betas=(case["beta1"], 0.999)),
    )
    close = {"rtol": 1e-9, "atol": 1e-11}
    for k in range(5):
        where = f"{tag}.step{k}"
        loss = _loss(net, arrays, where, tag, params)
        torch.testing.assert_close(loss.detach(), arrays[f"{where}.loss"], **close)
        assert update.rate(k) == pytest.approx(float(arrays[f"{where}.lr"]), rel=1e-12)
        loss.backward()
        update.apply(k)
        for (name, weight), mean in zip(net.named_parameters(), update.ema.shadow, strict=True):
            torch.testing.assert_close(weight.detach(), arrays[f"{where}.weights.{name}"], **close)
            torch.testing.assert_close(mean, arrays[f"{where}.ema.{name}"], **close)
    with update.ema.swapped(net.parameters()), torch.no_grad():
        loss = _loss(net, arrays, f"{tag}.eval", tag, params)
    torch.testing.assert_close(loss, arrays[f"{tag}.eval.loss"], **close)


def test_ema_equals_the_unrolled_weighted_sum():
    """After n steps the average is sum_i w_i theta_i with w_i = (1 - d_i) prod_{j>i} d_j."""
    torch.manual_seed(0)
    history = torch.randn(60, 3, dtype=torch.float64)
    ema = EMA([history[0]], decay=0.8)
    for theta in history[1:]:
        ema.update([theta])
    decays = [min(0.8, (1 + n) / (10 + n)) for n in range(1, 60)]
    assert decays[0] < decays[20] < 0.8 == decays[-1]
    weights = [math.prod(decays)]
    weights += [(1 - d) * math.prod(decays[i + 1 :]) for i, d in enumerate(decays)]
    assert sum(weights) == pytest.approx(1)
    expected = torch.tensor(weights, dtype=torch.float64) @ history
    torch.testing.assert_close(ema.shadow[0], expected, rtol=1e-12, atol=1e-14)


def test_swapping_shows_the_average_and_gives_the_weights_back_even_after_an_error():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    ema = EMA([weight], 0.5)
    with torch.no_grad():
        weight += 1
    seen = []

    def fail():
        with ema.swapped([weight]):
            seen.append(weight.tolist())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [[1.0, 2.0]]
    assert weight.tolist() == [2.0, 3.0]


def test_coupled_decay_adds_the_weights_to_the_gradient_and_decoupled_does_not():
    """Three steps of both beside the formulas of Kingma & Ba and of Loshchilov & Hutter."""
    beta1, beta2, eps, rate, decay = 0.8, 0.95, 1e-3, 0.1, 0.3
    for kind in ("coupled", "decoupled"):
        weight = nn.Parameter(torch.tensor([2.0, -0.5], dtype=torch.float64))
        choice = OPTIMIZERS.create("adam", decay=kind, betas=(beta1, beta2), eps=eps)
        update = Update({"w": weight}, rate, weight_decay=decay, optimizer=choice)
        w, m, v = weight.detach().clone(), 0.0, 0.0
        for k in range(3):
            gradient = torch.tensor([0.3, 0.1], dtype=torch.float64) * (k + 1)
            weight.grad = gradient.clone()
            update.apply(k)
            if kind == "coupled":
                gradient = gradient + decay * w
            else:
                w = w * (1 - rate * decay)
            m = beta1 * m + (1 - beta1) * gradient
            v = beta2 * v + (1 - beta2) * gradient**2
            mean, spread = m / (1 - beta1 ** (k + 1)), v / (1 - beta2 ** (k + 1))
            w = w - rate * mean / (spread.sqrt() + eps)
            torch.testing.assert_close(weight.detach(), w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_ema_refuses_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="decay="):
        EMA([], decay)


def test_warmup_is_linear_from_zero_and_then_flat():
    assert [warmup_factor(k, 4) for k in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [warmup_factor(k, 0) for k in range(2)] == [1, 1]


def test_clipping_scales_all_gradients_together_and_reports_the_norm_before():
    """Gradients (3, 4) and 12 have norm 13; Adam's first moment shows what was let through."""
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    for clip, scale in ((0.0, 1.0), (6.5, 0.5), (20.0, 1.0)):
        a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
        update = Update({"a": a, "b": b}, 0.1, clip=clip)
        assert float(update.apply(0)) == pytest.approx(13)
        assert update.state()["a/exp_avg"] == pytest.approx([0.3 * scale, 0.4 * scale], rel=1e-5)
        assert update.state()["b/exp_avg"] == pytest.approx([1.2 * scale], rel=1e-5)
        assert a.grad is None


def test_weight_decay_is_decoupled_from_the_gradient():
    """With gradient zero a step multiplies weights by 1 - rate x decay, whatever Adam's scale."""
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    update = Update({"w": weight}, learning_rate=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(2)
    update.apply(0)
    assert weight.detach() == pytest.approx([2 * 0.95, -3 * 0.95])


@pytest.mark.parametrize("optimizer", ["adam", "adam(decay='coupled')", "muon"])
def test_restored_update_goes_on_to_the_same_bits_in_the_memory_layout_of_the_weights(
    optimizer,
):
    def fresh():
        torch.manual_seed(1)
        layers = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 2), nn.Conv2d(4, 2, 1)
        net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        choice = OPTIMIZERS.create(optimizer)
        parameters = dict(net.named_parameters())
        return net, Update(parameters, 0.1, 2, 0.5, 0.9, weight_decay=0.1, optimizer=choice)

    def go(net, update, steps):
        for k in steps:
            torch.manual_seed(k)
            net(torch.randn(2, 3, 6, 6)).square().mean().backward()
            update.apply(k)

    net, update = fresh()
    go(net, update, range(3))
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    moments = {k: v.clone().contiguous() for k, v in update.state().items()}
    names = [name for name, _ in net.named_parameters()]
    average = {k: v.clone().contiguous() for k, v in zip(names, update.ema.shadow, strict=True)}
    go(net, update, range(3, 6))
    other, again = fresh()
    other.load_state_dict(weights)
    again.restore(3, moments, average)
    adam = getattr(again.optimizer, "adam", again.optimizer)
    entry = adam.torch.state[other[0].weight]["exp_avg"]
    assert entry.is_contiguous(memory_format=torch.channels_last)
    go(other, again, range(3, 6))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(update.ema.shadow, again.ema.shadow, strict=True):
        assert torch.equal(a, b)
    expected = again.expected_state()
    assert {k: (v.shape, v.dtype) for k, v in again.state().items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }


def test_muon_makes_the_singular_values_of_a_step_alike_in_any_memory_layout():
    """Without momentum a step is the gradient's polar factor, as near as five iterations bring it,
    times 0.2 sqrt(larger side): the size of a step of Adam."""
    torch.manual_seed(0)
    steps = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        inner = nn.Parameter(torch.randn(6, 4, 3, 3).to(memory_format=layout))
        ends = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
        named = {"first": ends[0], "inner": inner, "bias": nn.Parameter(torch.ones(3))}
        update = Update(
            {**named, "last": ends[1]}, 0.1, optimizer=OPTIMIZERS.create("muon(momentum=0.0)")
        )
        before = inner.detach().clone()
        generator = torch.Generator().manual_seed(1)
        gradient = torch.randn(6, 4, 3, 3, generator=generator)
        inner.grad = gradient.to(memory_format=layout)
        update.apply(0)
        steps[layout] = (before - inner.detach()).flatten(1)
        assert update.optimizer.state().keys() == update.optimizer.expected_state().keys()
        assert [n for n in update.state() if n.endswith("momentum")] == ["inner/momentum"]
        assert ends[0].detach().tolist() == torch.ones(2, 2).tolist()
    one, other = steps.values()
    torch.testing.assert_close(one, other, rtol=0.05, atol=1e-3)
    values = torch.linalg.svdvals(one) / (0.1 * 0.2 * 36**0.5)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    assert torch.linalg.svdvals(u @ v - one / (0.12)).max() < 0.4
