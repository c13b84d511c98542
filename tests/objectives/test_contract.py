"""What the objective promises around its formula: shapes, randomness, dtypes, refusals."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import GaussianMixture, ScoreModel
from sde_score.objectives import DenoisingScoreMatching, available, create
from sde_score.objectives.time_samplers import Importance
from sde_score.objectives.weightings import Likelihood
from sde_score.random import BatchSlice
from sde_score.sdes import VP, Rectified


class Echo:
    """Predicts half its input; keeps what it saw."""

    def __init__(self, sde) -> None:
        self.sde, self.calls = sde, []

    def noise(self, x, t, condition=None):
        self.calls.append((x, t, condition))
        return 0.5 * x


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(9), dtype=dtype)


@pytest.mark.parametrize("event", [(), (5,), (3, 2), (2, 3, 4), (2, 2, 2, 2)])
def test_one_loss_per_example_averaged_over_any_event(sde, event):
    x0, model = data(4, *event), Echo(sde)
    loss = DenoisingScoreMatching()(model, x0, generator=seeded())
    assert loss.shape == (4,)
    ((xt, t, _),) = model.calls
    shape = (-1, *(1,) * len(event))
    alpha, sigma = (s(t).reshape(shape) for s in (sde.alpha, sde.sigma))
    noise = (xt - alpha * x0) / sigma
    want = ((0.5 * xt - noise) ** 2).reshape(4, -1).mean(1)
    torch.testing.assert_close(loss, want, rtol=1e-6, atol=1e-8)


def test_noise_is_standard_normal_and_independent_of_time():
    model, x0 = Echo(VP()), torch.zeros(2000, 10).double()
    DenoisingScoreMatching()(model, x0, generator=seeded(1))
    ((xt, t, _),) = model.calls
    noise = xt / VP().sigma(t)[:, None]
    assert noise.mean().item() == pytest.approx(0, abs=4 / 20000**0.5)
    assert noise.std().item() == pytest.approx(1, abs=4 / 40000**0.5)
    assert abs(torch.corrcoef(torch.stack([t, noise[:, 0]]))[0, 1]) < 0.09
    assert len(t.unique()) == 2000


def test_the_loss_is_weight_times_importance_times_the_plain_one(sde):
    x0 = data(6, 3)
    model = Echo(sde)
    plain = DenoisingScoreMatching(time_sampler="importance", weighting="variance")
    objects = DenoisingScoreMatching(weighting=Likelihood(), time_sampler=Importance())
    names = DenoisingScoreMatching(weighting="likelihood", time_sampler="importance")
    loss = plain(model, x0, generator=seeded())
    t = model.calls[0][1]
    weight = (sde.diffusion(t) / sde.sigma(t)) ** 2
    torch.testing.assert_close(names(model, x0, generator=seeded()), weight * loss)
    torch.testing.assert_close(objects(model, x0, generator=seeded()), weight * loss)
    noise = (model.calls[0][0] - sde.alpha(t)[:, None] * x0) / sde.sigma(t)[:, None]
    low, high = sde.log_snr_range
    importance = (high - low) / (sde.t_max - sde.t_min) / weight
    torch.testing.assert_close(loss, importance * plain.at(model, x0, t, noise), rtol=1e-5, atol=0)


def test_importance_lowers_the_variance_of_the_likelihood_loss():
    x0, variances = data(2000, 4), []
    model = GaussianMixture(torch.zeros(1, 4), 1.0, Rectified())
    for times in ("uniform", "importance"):
        objective = create("denoising", weighting="likelihood", time_sampler=times)
        variances.append(objective(model, x0, generator=seeded(2)).var().item())
    assert variances[1] < 0.5 * variances[0]


def test_the_generator_decides_everything():
    objective, model, x0 = DenoisingScoreMatching(), Echo(VP()), data(4, 3)
    first = objective(model, x0, generator=seeded(1))
    assert torch.equal(objective(model, x0, generator=seeded(1)), first)
    assert not torch.equal(objective(model, x0, generator=seeded(2)), first)
    torch.manual_seed(0)
    free = objective(model, x0)
    assert not torch.equal(objective(model, x0), free)


@pytest.mark.parametrize("times", ["uniform", "low_discrepancy", "importance", "log_normal"])
def test_two_processes_see_the_numbers_of_one(times):
    objective, model = DenoisingScoreMatching(time_sampler=times), Echo(VP())
    x0 = data(8, 3, 2)
    whole = objective(model, x0, generator=seeded(4))
    halves = [
        objective(model, x0[i : i + 4], generator=BatchSlice(seeded(4), i, 8)) for i in (0, 4)
    ]
    assert torch.equal(torch.cat(halves), whole)


def test_strided_data_are_read_in_place_and_left_alone():
    x0 = data(4, 5, 3).transpose(1, 2)
    before, objective, model = x0.clone(), DenoisingScoreMatching(), Echo(VP())
    got = objective(model, x0, generator=seeded())
    want = objective(model, x0.contiguous(), generator=seeded())
    assert torch.equal(got, want)
    assert torch.equal(x0, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_have_the_precision_of_the_data(dtype):
    for weighting in ("variance", "likelihood", "edm", "min_snr", "unit"):
        objective = create("denoising", weighting=weighting, time_sampler="importance")
        model = Echo(VP())
        loss = objective(model, data(4, 3, dtype=dtype), generator=seeded())
        assert loss.dtype == dtype
        assert model.calls[0][0].dtype == dtype


def test_the_condition_reaches_the_model_unchanged():
    model, condition = Echo(VP()), torch.arange(4)
    DenoisingScoreMatching()(model, data(4, 3), condition=condition, generator=seeded())
    t, noise = torch.full((4,), 0.5).double(), data(4, 3)
    DenoisingScoreMatching().at(model, data(4, 3), t, noise, condition)
    assert all(seen is condition for _, _, seen in model.calls)


def test_one_evaluation_that_reaches_the_parameters():
    layer = torch.nn.Linear(3, 3)
    model = ScoreModel(lambda x, level, condition: layer(x), VP())
    x0 = data(4, 3, dtype=torch.float32)
    DenoisingScoreMatching()(model, x0, generator=seeded()).sum().backward()
    assert model.nfe == 1
    assert layer.weight.grad.abs().sum() > 0
    assert not x0.requires_grad


def test_unknown_names_and_wrong_data_are_refused():
    assert "denoising" in available()
    with pytest.raises(ValueError, match="unknown weighting 'varianc'; did you mean 'variance'"):
        DenoisingScoreMatching(weighting="varianc")
    with pytest.raises(ValueError, match="unknown time sampler 'unifrm'"):
        DenoisingScoreMatching(time_sampler="unifrm")
    with pytest.raises(ValueError, match="does not take gamma; accepted: sigma_data"):
        DenoisingScoreMatching(weighting="edm(gamma=1)")
    for spec in ("edm(sigma_data=0)", "min_snr(gamma=-1)"):
        with pytest.raises(ValueError, match="must be a finite number greater than 0"):
            DenoisingScoreMatching(weighting=spec)
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        DenoisingScoreMatching()(Echo(VP()), torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="noise has shape"):
        DenoisingScoreMatching().at(Echo(VP()), data(2, 3), torch.ones(2), data(2, 1))
    with pytest.raises(ValueError, match="unknown objective"):
        create("denoise")


def test_equal_settings_are_equal_objects():
    assert create("denoising", weighting="edm") == DenoisingScoreMatching(weighting="edm")
    assert create("denoising") != DenoisingScoreMatching(weighting="edm")


def test_any_objective_at_all_noise_levels_has_the_weights_of_the_denoising_one(sde):
    """Importance sampling and likelihood weighting cancel up to a constant; the score error itself
    counts sigma^2 times."""
    x0 = data(200, 3)
    looked = create("hutchinson", time_sampler="importance", weighting="likelihood")
    x, t, factor = looked.points(sde, x0, seeded())
    low, high = sde.log_snr_range
    want = sde.sigma(t) ** 2 * (high - low) / (sde.t_max - sde.t_min)
    torch.testing.assert_close(factor, want, rtol=1e-9, atol=0)
    noise = (x - sde.alpha(t)[:, None] * x0) / sde.sigma(t)[:, None]
    assert noise.var().item() == pytest.approx(1, abs=4 * (2 / 600) ** 0.5)
    x, t, factor = create("hutchinson").points(sde, x0, seeded())
    assert torch.equal(x, x0)
    assert bool((t == sde.t_min).all())
    assert bool((factor == 1).all())
