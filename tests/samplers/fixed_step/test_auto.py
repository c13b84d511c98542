"""`auto`: which method it is, for which steps and models, and that it is as good as it says."""

from dataclasses import replace

import pytest
import torch

from sde_score import models, samplers
from sde_score.guidance import Guided
from sde_score.models import GaussianMixture, ScoreModel
from sde_score.samplers import Auto, suited
from sde_score.sdes import EDM, SDES, VP


def mixture(sde):
    means = [[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]]
    return GaussianMixture(means, 0.05, sde)


def network(prediction, sde="vp"):
    return ScoreModel(lambda x, t, condition: x, sde, prediction)


@pytest.mark.parametrize(
    ("steps", "order", "corrector"),
    [(1, 2, 3), (6, 2, 3), (7, 3, 4), (11, 3, 4), (12, 4, 4), (24, 4, 4), (25, 5, 4), (99, 5, 4)],
)
def test_the_order_rises_with_the_steps(steps, order, corrector):
    made = samplers.create("auto", steps=steps).suited(mixture(EDM()))
    assert (made.order, made.corrector, made.final_order) == (order, corrector, 2)
    assert (made.prediction, made.coordinate) == ("velocity", "rectified")
    assert made.steps == steps
    assert samplers.create("auto", steps=steps).convergence_order == made.convergence_order


@pytest.mark.parametrize("name", models.PARAMETRIZATIONS.names())
def test_networks_that_predict_the_noise_alone_get_their_own_method(name):
    """Those whose answer does not hold the data: noise and multiples of the score."""
    try:
        model = network(name)
    except ValueError:  # one that needs arguments, or another diffusion
        pytest.skip("needs more than a name")
    alone = name in {"noise", "score", "scaled_score"} or name.startswith(("score-sde", "ncsn"))
    few, more = (samplers.create("auto", steps=n).suited(model) for n in (14, 15))
    if name in {"data", "velocity", "edm"} or alone:
        assert (few.prediction == "noise") == alone
    assert (few.prediction == "noise") == (more.prediction == "data")
    if few.prediction == "noise":
        assert replace(few, name="") == replace(samplers.create("dpm-3m", steps=14), name="")
        assert replace(more, name="") == replace(samplers.create("unipc", steps=15), name="")


@pytest.mark.parametrize(
    ("sde", "coordinate", "final_order"),
    [("vp", "time", 1), ("cosine", "time", 1), ("rectified", "time", 1), ("edm", "rectified", 2)],
)
def test_networks_are_extrapolated_in_their_time(sde, coordinate, final_order):
    """Where the diffusion ends in noise alone; by third order, and not below the last time."""
    model = network("edm", sde)
    for steps, order in [(6, 2), (7, 3), (50, 3)]:
        made = samplers.create("auto", steps=steps).suited(model)
        assert (made.order, made.corrector, made.steps) == (order, 3, steps)
        assert (made.coordinate, made.final_order) == (coordinate, final_order)
        times, free = (s.times(model.sde) for s in (made, samplers.create("auto", steps=steps)))
        if free[-1] < model.sde.sampling_t_min:
            assert times[-1] == model.sde.sampling_t_min
        else:
            assert torch.equal(times, free)
    assert samplers.create("auto", steps=50).times(VP())[-1] < VP().sampling_t_min


def test_it_looks_into_models_made_of_models_and_keeps_a_given_grid():
    inner = network("noise")
    made = suited(samplers.create("auto(steps=9, grid='karras')"), Guided(inner, "cfg(2)", inner))
    assert (made.prediction, made.grid, made.steps) == ("noise", "karras", 9)
    heun = samplers.create("heun")
    assert suited(heun, inner) is heun


@pytest.mark.parametrize("prediction", ["noise", "edm"])
def test_a_run_is_that_of_the_method(prediction):
    model = network(prediction)
    for name in ("auto", "auto(denoise=False)", "auto(grid='uniform')"):
        sampler = samplers.create(name, steps=6)
        one, other = (s(model, (2, 3), seed=1) for s in (sampler, suited(sampler, model)))
        assert torch.equal(one, other)


@pytest.mark.parametrize("sde", ["vp", "edm", "rectified"])
def test_it_is_good_on_a_mixture(sde):
    """Errors are at most twice those of the best of four names, and fall with the steps."""
    model = mixture(SDES.create(sde))
    start = torch.randn(24, 2, generator=torch.Generator().manual_seed(0)).double()
    start = start * model.sde.prior_std
    fine = samplers.create("ode", rtol=1e-6, atol=1e-6, grid=f"uniform(end={model.sde.t_min})")
    end, last = fine(model, start), float("inf")
    for nfe in (6, 10, 20, 40):
        errors = [
            (samplers.create(name, nfe=nfe)(model, start) - end).square().mean().sqrt().item()
            for name in ("auto", "adams", "angular-ab", "unipc", "dpmpp-2m")
        ]
        assert errors[0] < 2 * min(errors[1:])
        assert errors[0] < last
        last = errors[0]


def test_auto_is_raced_as_the_method_that_it_is():
    (made,) = samplers.tuning.candidates.affordable([Auto()], 9, network("noise"))
    assert (made.prediction, made.steps) == ("noise", 9)
    assert isinstance(samplers.create("auto", nfe=9, model=mixture(VP())), Auto)
