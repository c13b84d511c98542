"""Score models: the meaning of the output, the arguments of the network, the cost."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from sde_score.models import PARAMETRIZATIONS, Model, Parametrization, ScoreModel
from sde_score.models.parametrization import noise
from sde_score.models.rows import OURS
from sde_score.sdes import EDM, VP

METHODS = ("score", "denoise", "noise", "velocity")
SHAPE = (4, 2, 3)


class Recorder:
    """A backbone that returns `output` and keeps what it was shown."""

    def __init__(self, output):
        self.output, self.seen = output, []

    def __call__(self, x, noise_level, condition):
        self.seen.append((x, noise_level, condition))
        return self.output


class Affine(nn.Module):
    """A small smooth network of everything it is shown."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=dtype))

    def forward(self, x, noise_level, condition):
        level = noise_level.reshape(-1, *(1,) * (x.ndim - 1))
        return torch.tanh(self.weight * x + 0.1 * level)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)


def truth(sde, t, x0, noise, derivative):
    """Every quantity of a known pair, from the definitions."""
    column = (-1, 1, 1)
    alpha, sigma = sde.alpha(t).reshape(column), sde.sigma(t).reshape(column)
    rates = [derivative(f, t).reshape(column) for f in (sde.alpha, sde.sigma)]
    return {
        "x": alpha * x0 + sigma * noise,
        "denoise": x0,
        "noise": noise,
        "score": -noise / sigma,
        "velocity": rates[0] * x0 + rates[1] * noise,
    }


def output_of(prediction, known, sde, t, sigma_data):
    """What a perfect backbone returns."""
    column = (-1, 1, 1)
    alpha, sigma = sde.alpha(t).reshape(column), sde.sigma(t).reshape(column)
    size = (sigma**2 + alpha**2 * sigma_data**2).sqrt()
    mixture = sigma * known["denoise"] / sigma_data - alpha * sigma_data * known["noise"]
    return {
        "noise": known["noise"],
        "data": known["denoise"],
        "velocity": known["velocity"],
        "score": sigma * known["score"],
        "edm": mixture / size,
        "scaled_score": size * known["score"],
    }[prediction]


@pytest.mark.parametrize("sigma_data", [1.0, 0.4])
@pytest.mark.parametrize("prediction", OURS)
def test_a_backbone_that_knows_the_truth_gives_the_truth(
    sde, times, pair, prediction, sigma_data, derivative
):
    x0, noise = pair
    known = truth(sde, times, x0, noise, derivative)
    backbone = Recorder(output_of(prediction, known, sde, times, sigma_data))
    model = ScoreModel(backbone, sde, prediction, sigma_data)
    for name in METHODS:
        got = getattr(model, name)(known["x"], times)
        torch.testing.assert_close(got, known[name], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", OURS)
def test_four_ways_of_saying_it_agree(sde, times, prediction, derivative):
    """Whatever the network says: x = alpha x0 + sigma noise, noise = -sigma score, v = ..."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    x = x * (sde.sigma(times) ** 2 + sde.alpha(times) ** 2).sqrt().reshape(-1, 1, 1)
    model = ScoreModel(Affine(), sde, prediction, 0.6)
    x0, noise = model.denoise(x, times), model.noise(x, times)
    known = truth(sde, times, x0, noise, derivative)
    torch.testing.assert_close(known["x"], x, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(model.score(x, times), known["score"], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(model.velocity(x, times), known["velocity"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("prediction", OURS)
def test_the_backbone_sees_unit_variance_and_a_quarter_of_log_sigma_over_alpha(
    sde, times, prediction
):
    backbone = Recorder(torch.zeros(SHAPE, dtype=torch.float64))
    x = torch.ones(SHAPE, dtype=torch.float64)
    ScoreModel(backbone, sde, prediction, 0.5).score(x, times)
    ((seen, level, _),) = backbone.seen
    for i, t in enumerate(times):
        alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
        size = math.hypot(sigma, 0.5 * alpha)
        torch.testing.assert_close(seen[i], x[i] / size, rtol=1e-12, atol=0)
        assert level[i].item() == pytest.approx(0.25 * math.log(sigma / alpha), rel=1e-10)


def test_the_backbone_sees_one_noise_level_per_example_also_for_a_scalar_time(sde):
    backbone = Recorder(torch.zeros(SHAPE))
    ScoreModel(backbone, sde).score(torch.zeros(SHAPE), sde.t_max)
    ((_, level, _),) = backbone.seen
    assert level.shape == (4,)


def test_edm_on_its_own_sde_is_the_preconditioning_of_the_paper():
    """Karras et al. 2022, table 1: D = c_skip x + c_out F(c_in x, c_noise)."""
    sd, sigma = 0.5, torch.tensor([0.002, 0.3, 2.5, 80.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64) * sigma[:, None]
    network = Affine()
    got = ScoreModel(network, EDM(), "edm", sd).denoise(x, sigma)
    s = sigma[:, None]
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / (sd**2 + s**2).sqrt()
    c_in, c_noise = 1 / (s**2 + sd**2).sqrt(), 0.25 * sigma.log()
    want = c_skip * x + c_out * network(c_in * x, c_noise, None)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_edm_target_has_unit_variance_at_every_time(sde, times, derivative):
    """If the data have standard deviation sigma_data, so that a fresh network is well scaled."""
    generator = torch.Generator().manual_seed(8)
    x0, noise = torch.randn(2, 4, 50, 100, generator=generator, dtype=torch.float64)
    known = truth(sde, times, 0.3 * x0, noise, derivative)
    target = output_of("edm", known, sde, times, 0.3)
    assert target.flatten(1).std(1).tolist() == pytest.approx([1.0] * 4, rel=0.06)


def test_condition_travels_unchanged_and_defaults_to_none(sde, times):
    backbone = Recorder(torch.zeros(SHAPE))
    model, x, label = ScoreModel(backbone, sde), torch.zeros(SHAPE), torch.arange(4)
    for name in METHODS:
        getattr(model, name)(x, times, condition=label)
        getattr(model, name)(x, times)
    assert [seen[2] is label for seen in backbone.seen] == [True, False] * 4
    assert backbone.seen[1][2] is None


def test_one_call_is_one_evaluation(sde, times):
    backbone = Recorder(torch.zeros(SHAPE))
    model, x = ScoreModel(backbone, sde, "velocity"), torch.zeros(SHAPE)
    assert model.nfe == 0
    for count, name in enumerate(METHODS, start=1):
        getattr(model, name)(x, times)
        assert model.nfe == len(backbone.seen) == count
    assert isinstance(model, Model)
    assert model.sde is sde


@pytest.mark.parametrize("prediction", OURS)
def test_scalar_and_batch_times_agree(sde, times, prediction):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    model = ScoreModel(Affine(), sde, prediction)
    t = times[2]
    for name in METHODS:
        method = getattr(model, name)
        whole = method(x, t.expand(4))
        for same in (t, t.item()):
            torch.testing.assert_close(method(x, same), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("event", [(), (4,), (3, 4, 4), (1, 2, 2, 3)])
def test_each_example_sees_its_own_time_in_any_event_shape(sde, times, event):
    generator = torch.Generator().manual_seed(10)
    x = torch.randn((4, *event), generator=generator, dtype=torch.float64)
    model = ScoreModel(Affine(), sde, "edm", 0.5)
    for name in METHODS:
        method = getattr(model, name)
        rows = torch.cat([method(x[i : i + 1], times[i]) for i in range(4)])
        torch.testing.assert_close(method(x, times), rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
def test_state_keeps_its_dtype_and_the_network_gets_its_own(net, state):
    seen = []

    class Net(Affine):
        def forward(self, x, noise_level, condition):
            seen.append((x.dtype, noise_level.dtype))
            return super().forward(x, noise_level, condition)

    model = ScoreModel(Net(net), VP(), "noise")
    x = torch.linspace(-1, 1, 24, dtype=state).reshape(SHAPE)
    for name in METHODS:
        assert getattr(model, name)(x, torch.full((4,), 0.4)).dtype == state
    assert set(seen) == {(net, net)}
    exact = ScoreModel(Affine(), VP(), "noise").denoise(x.double(), 0.4)
    tolerance = {torch.bfloat16: 5e-2, torch.float32: 1e-5, torch.float64: 1e-5}[net]
    torch.testing.assert_close(model.denoise(x, 0.4).double(), exact, rtol=0, atol=tolerance)


def test_coefficients_are_computed_in_float64_whatever_the_times():
    """A float32 t near the data gives the score of that very t, to float32 rounding."""
    x = torch.full((1, 2), 0.3)
    t = torch.tensor([1e-5])
    model = ScoreModel(Recorder(torch.ones(1, 2)), VP(), "noise")
    want = -1 / math.sqrt(-math.expm1(-(0.1 * t.item() + 9.95 * t.item() ** 2)))
    torch.testing.assert_close(model.score(x, t), torch.full((1, 2), want), rtol=1e-6, atol=0)


@pytest.mark.parametrize("prediction", OURS)
def test_a_float32_time_is_its_float64_self(sde, times, prediction):
    """A float64 state is not dragged down to the accuracy of the times' dtype."""
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(SHAPE)
    model, t = ScoreModel(Affine(), sde, prediction), times.float()
    for name in METHODS:
        got, want = getattr(model, name)(x, t), getattr(model, name)(x, t.double())
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_wrong_arguments_are_refused_before_the_network_is_called(sde, times):
    backbone = Recorder(torch.zeros(SHAPE))
    model, x = ScoreModel(backbone, sde), torch.zeros(SHAPE)
    with pytest.raises(ValueError, match=r"t of shape \(3,\) does not fit x of shape \(4, 2, 3\)"):
        model.score(x, times[:3])
    with pytest.raises(ValueError, match=r"t of shape \(1,\) does not fit x"):
        model.score(x, times[:1])
    with pytest.raises(ValueError, match="leaves"):
        model.denoise(x, 2 * sde.t_max)
    with pytest.raises(ValueError, match="leaves"):
        model.denoise(x, math.nan)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        model.noise(x.long(), times)
    with pytest.raises(TypeError, match="x must be a floating-point tensor, got list"):
        model.noise([[1.0]], 0.5 * sde.t_max)
    assert backbone.seen == []
    assert model.nfe == 0


def test_a_backbone_that_returns_another_shape_is_refused(sde, times):
    for wrong in ((4, 2, 1), (1,), (4, 3, 2)):
        model = ScoreModel(Recorder(torch.zeros(wrong)), sde)
        with pytest.raises(
            ValueError, match=r"the backbone Recorder returned shape .* must return a tensor"
        ):
            model.velocity(torch.zeros(SHAPE), times)


def test_wrong_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="unknown prediction 'eps'; accepted: noise, data"):
        ScoreModel(Affine(), VP(), "eps")
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma_data="):
            ScoreModel(Affine(), VP(), sigma_data=bad)


def test_models_are_modules_that_can_be_copied_and_stored(sde, times):
    model = ScoreModel(Affine(), sde, "edm", 0.5)
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(SHAPE)
    want = model.score(x, times)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.score(x, times), want)
    other = ScoreModel(Affine(), sde, "edm", 0.5)
    with torch.no_grad():
        other.backbone.weight.fill_(-3.0)
    assert not torch.equal(other.score(x, times), want)
    assert list(model.state_dict()) == ["backbone.weight"]
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.score(x, times), want)
    assert "prediction=edm(sigma_data=0.5)" in repr(model)
    model.score(x, times).sum().backward()
    assert model.backbone.weight.grad.isfinite()


def test_a_row_of_ones_own_feeds_a_network_of_other_conventions(sde, times, pair, derivative):
    """A network that reads x unscaled and 999 t, and returns minus the noise."""
    known = truth(sde, times, *pair, derivative)
    seen = []

    def network(x, label, condition):
        seen.append((x, label))
        return -known["noise"]

    row = Parametrization(
        "foreign", lambda at: at.one, lambda at: 999 * at.t, lambda at: (at.zero, -at.one)
    )
    model = ScoreModel(network, sde, row)
    for method in METHODS:
        torch.testing.assert_close(getattr(model, method)(known["x"], times), known[method])
    assert all(torch.equal(x, known["x"]) and torch.equal(t, 999 * times) for x, t in seen)


def test_a_registered_row_is_found_by_name_and_takes_the_spread_of_the_data(register_for_test):
    def foreign(sigma_data: float = 2.0) -> Parametrization:
        return Parametrization("foreign", lambda at: at.spread, lambda at: at.t, noise, sigma_data)

    register_for_test(PARAMETRIZATIONS, "foreign", foreign)
    network = Recorder(torch.zeros(4, 1))
    assert ScoreModel(network, VP(), "foreign").parametrization.sigma_data == 2.0
    model = ScoreModel(network, VP(), "foreign", sigma_data=3.0)
    model.noise(torch.ones(4, 1), 0.5)
    half = torch.tensor(0.5)
    spread = (VP().sigma(half) ** 2 + 9 * VP().alpha(half) ** 2).sqrt()
    torch.testing.assert_close(network.seen[0][0], (1 / spread).expand(4, 1))
    assert repr(model.parametrization) == "foreign(sigma_data=3.0)"


def test_a_network_of_two_arguments_is_called_without_a_condition():
    class Two(nn.Module):
        def forward(self, x, label):
            return x * label[:, None]

    x = torch.ones(3, 2)
    for network in (Two(), lambda x, label: x * label[:, None]):
        model = ScoreModel(network, VP())
        want = 0.25 * torch.log(VP().sigma(torch.tensor(0.5)) / VP().alpha(torch.tensor(0.5)))
        torch.testing.assert_close(model.noise(x, 0.5), x * want)
        with pytest.raises(TypeError, match=r"takes x and time_label alone: give it a third"):
            model.noise(x, 0.5, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("network", [nn.Identity(), lambda x: x, lambda a, b, c, d: a])
def test_a_network_that_cannot_be_called_is_refused_at_the_door(network):
    with pytest.raises(TypeError, match=r"is called as backbone\(x, time_label\), or"):
        ScoreModel(network, VP())


def test_a_network_without_a_signature_is_called_with_three_arguments():
    assert ScoreModel(torch.addcmul, VP()).takes_condition
