"""Time labels against their own formulas, their direction, and recorded losses of other code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sde_score.likelihood import log_prob
from sde_score.models import PARAMETRIZATIONS, GaussianMixture, Parametrization, ScoreModel
from sde_score.models.parametrization import Scales, score, unit
from sde_score.models.time_labels import Formula, index_in_time
from sde_score.objectives import DenoisingScoreMatching
from sde_score.sdes import EDM, VE, VP, SubVP, Tabulated

F64 = torch.float64


def labels(spec, sde, t):
    """Labels of a row at times of an SDE."""
    t = torch.as_tensor(t, dtype=F64)
    return PARAMETRIZATIONS.create(spec).time_label(Scales(sde, t))


@pytest.mark.parametrize("name", ["ncsn(n=30)", "ncsnv2(n=30)", "score-sde-ve-discrete(n=30)"])
def test_an_index_of_ncsn_counts_down_from_the_most_noise(name):
    """Between two levels the index goes to the nearest; networks look those of NCSN up."""
    sigma = np.geomspace(9.0, 0.05, 30)
    t = torch.from_numpy(np.log(sigma / 0.05) / np.log(9.0 / 0.05)).clamp(0, 1)
    found = labels(name, VE(0.05, 9.0), t)
    assert found.tolist() == list(range(30))
    assert found.dtype == (F64 if "discrete" in name else torch.int64)
    for shift in (-0.4, 0.4):
        near = t[1:-1] + shift / 29
        assert labels(name, VE(0.05, 9.0), near).tolist() == list(range(1, 29))


def test_an_index_of_ddpm_counts_up_from_the_least_noise():
    """Entry 0 of the table of betas belongs to layer 1, at t = 1 / n."""
    times = torch.arange(1, 1001, dtype=F64) / 1000
    torch.testing.assert_close(labels("ddpm", VP(), times), torch.arange(1000.0, dtype=F64))
    whole = labels("ddpm(rounded=True)", VP(), [1e-5, 0.25, 0.2514, 0.2516, 1.0])
    assert whole.tolist() == [0, 249, 250, 251, 999]
    assert whole.dtype == torch.int64


def test_a_respaced_chain_keeps_the_labels_of_its_layers():
    kept, sde = (0, 9, 40, 99), Tabulated((6.0, 2.0, -1.0, -7.0))
    found = labels(f"ddpm(n=100, kept={kept})", sde, [0.25, 0.5, 0.625, 0.75, 1.0])
    assert found.tolist() == pytest.approx([0, 9, 24.5, 40, 99])
    rescaled = labels(f"ddpm(n=100, labels=1000.0, kept={kept})", sde, [0.5, 1.0])
    assert rescaled.tolist() == pytest.approx([90, 990])
    for wrong in ((3,), (3, 2), (0, 100), (-1, 5)):
        with pytest.raises(ValueError, match=r"increasing indices of 0 \.\.\. 99"):
            PARAMETRIZATIONS.create("ddpm", n=100, kept=wrong)


@pytest.mark.parametrize("sde", [VP(0.4, 9.0), SubVP()], ids=str)
def test_multiples_of_time(sde):
    t = torch.tensor([1e-5, 0.1234, 0.5, 1.0], dtype=F64)
    for name, factor in (
        ("score-sde-vp", 999), ("score-sde-vp(factor=49.0)", 49), ("time", 1),
        ("time(factor=7.0)", 7), ("rectified(factor=1000.0)", 1000),
    ):  # fmt: skip
        torch.testing.assert_close(labels(name, sde, t), factor * t, rtol=1e-14, atol=0)


def test_the_noise_itself_and_levels_even_in_its_logarithm(sde):
    t = sde.t_min + torch.tensor([0.01, 0.3, 0.77, 1.0], dtype=F64) * (sde.t_max - sde.t_min)
    level = sde.sigma(t) / sde.alpha(t)
    for name, want in (("sigma", level), ("edm", level.log() / 4), ("score-sde-ve", level.log())):
        torch.testing.assert_close(labels(name, sde, t), want, rtol=1e-10, atol=1e-12)
    low, high = (-0.5 * end for end in reversed(sde.log_snr_range))
    ladder = torch.linspace(high, low, 6, dtype=F64).exp().clamp(math.exp(low), math.exp(high))
    assert labels("ncsn(n=6)", sde, sde.time_of_noise_ratio(ladder)).tolist() == list(range(6))


NAMES = ("W1", "b1", "W2", "b2")


def their_networks(arrays):
    """`linear` and `mlp` of the reference, told labels."""
    w1, b1, w2, b2 = (arrays[f"mlp.{name}"] for name in NAMES)

    def linear(x, labels):
        return 0.8 * x * (1 + 0.5 * (labels.double() / 1000).reshape(-1, 1, 1, 1)) + 0.1

    def mlp(x, labels):
        inputs = torch.cat([x.flatten(1), (labels.double() / 1000)[:, None]], 1)
        return (torch.tanh(inputs @ w1.mT + b1) @ w2.mT + b2).reshape(x.shape)

    return {"linear": linear, "mlp": mlp}


@pytest.mark.parametrize("network", ["linear", "mlp"])
@pytest.mark.parametrize("name", ["smld", "ddpm"])
def test_discrete_losses_of_score_sde(name, network, reference, close):
    """Their network, their labels: a model in one line, and its loss is theirs."""
    arrays, description = reference("loss_discrete")
    low, high, n = description["params"]["ve" if name == "smld" else "vp"]
    index = arrays[f"{name}.labels"]
    if name == "smld":
        row = Parametrization("theirs", unit, Formula(index_in_time, (n,)), score)
        sde, times = VE(low, high), lambda index: 1 - index.double() / (n - 1)
    else:
        row, times = f"ddpm(n={n})", lambda index: (index.double() + 1) / n
        sde = Tabulated.from_betas(torch.linspace(low / n, high / n, n, dtype=F64))
    model = ScoreModel(their_networks(arrays)[network], sde, row)
    objective = DenoisingScoreMatching()
    loss = objective.at(model, arrays["batch"], times(index), arrays["z"])
    close(loss, arrays[f"{name}.mean.{network}.loss_per_sample"])
    close(12 * loss, arrays[f"{name}.sum.{network}.loss_per_sample"])
    # One index off is another loss.
    for shifted in (-1, 1):
        moved = times((index + shifted).clamp(0, n - 1))
        other = objective.at(model, arrays["batch"], moved, arrays["z"])
        assert (other / loss - 1).abs().max() > 1e-4


OUTPUTS = [("time", name) for name in ("noise", "data", "velocity", "v", "score")]
OUTPUTS += [("sigma", name) for name in ("noise", "data", "score")]


@pytest.mark.parametrize(("row", "output"), OUTPUTS)
def test_functions_of_time_or_noise_become_one_model(row, output):
    """A network that undoes the label and knows the truth gives the true score; with x / alpha it
    is told data + sigma noise, whose score is alpha times that of x."""
    sde, seen = VP(), []
    truth = GaussianMixture([[1.0, -0.5], [-1.0, 0.3]], 0.2, sde)

    def network(x, label, *condition):
        seen.append((label, condition))
        t = label if row == "time" else sde.time_of_noise_ratio(label)
        alpha = sde.alpha(t)[:, None]
        if row == "sigma":
            x = x * alpha
        if output == "v":
            return alpha * truth.noise(x, t) - sde.sigma(t)[:, None] * truth.denoise(x, t)
        known = getattr(truth, {"data": "denoise"}.get(output, output))(x, t)
        return known * alpha if (row, output) == ("sigma", "score") else known

    model = ScoreModel(network, sde, f"{row}(output={output!r})")
    x = torch.tensor([[0.3, 0.8], [-1.1, 0.1], [0.0, 0.4]], dtype=F64)
    for t in (0.3, torch.tensor([0.1, 0.5, 1.0], dtype=F64)):
        torch.testing.assert_close(model.score(x, t), truth.score(x, t), rtol=1e-9, atol=1e-10)
    classes = torch.tensor([4, 5, 6])
    model.score(x, 0.3, classes)
    assert all(label.shape == (3,) for label, _ in seen)
    assert seen[0][1] == ()
    assert seen[-1][1][0] is classes


class Denoiser(nn.Module):
    """The denoiser of normal data, told the noise level or the time of VP."""

    def __init__(self, timed):
        super().__init__()
        self.variance, self.timed = nn.Parameter(torch.tensor(0.25)), timed

    def forward(self, x, label):
        alpha, sigma = 1.0, label[:, None]
        if self.timed:
            exponent = -0.5 * (0.1 * sigma + 0.5 * 19.9 * sigma**2)
            alpha, sigma = exponent.exp(), (-torch.expm1(2 * exponent)).sqrt()
        return x * alpha * self.variance / (alpha**2 * self.variance + sigma**2)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("row", ["time", "sigma"])
def test_a_module_becomes_a_model_in_one_line(row, dtype):
    """It owns its parameters, moves with them, and has the density of the data."""
    net = Denoiser(row == "time")
    model = ScoreModel(net, VP(), f"{row}(output='data')").to(dtype)
    assert list(model.state_dict()) == ["backbone.variance"]
    assert [id(p) for p in model.parameters()] == [id(net.variance)]
    assert net.variance.dtype == dtype
    x = torch.tensor([[0.3, -0.8], [1.1, 0.1]], dtype=dtype)
    found = log_prob(model, x, rtol=1e-5, atol=1e-5).log_prob
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(x.double()).sum(1)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-3)
    found = log_prob(model, x, start=0.3).log_prob
    alpha, sigma = VP().alpha(0.3), VP().sigma(0.3)
    spread = (0.25 * alpha**2 + sigma**2).sqrt()
    exact = torch.distributions.Normal(0.0, spread).log_prob(x.double()).sum(1)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3)
    assert model.noise(x.float(), 0.5).dtype == torch.float32


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown prediction 'ncsm'; did you mean 'ncsn'"):
        PARAMETRIZATIONS.create("ncsm")
    for name in ("ncsn", "ncsnv2", "score-sde-ve-discrete"):
        with pytest.raises(ValueError, match="n=1 must be an integer of at least 2"):
            PARAMETRIZATIONS.create(name, n=1)
    for name in ("ddpm", "score-sde-ve-discrete", "score-sde-vp", "rectified"):
        with pytest.raises(ValueError, match=r"shares of t, which runs to 1.*runs to 80"):
            labels(name, EDM(), 1.0)
    for name in ("time", "sigma"):
        with pytest.raises(ValueError, match="output='x0' is not known; accepted: "):
            PARAMETRIZATIONS.create(name, output="x0")
