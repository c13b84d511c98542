"""Objectives, time samplers and weightings by name, alias or object, and those of a user."""

from __future__ import annotations

import pytest
import torch

from sde_score import objectives
from sde_score.models import ScoreFunction
from sde_score.objectives import OBJECTIVES, TIME_SAMPLERS, WEIGHTINGS, BaseObjective
from sde_score.objectives.time_samplers import Uniform
from sde_score.sdes import VP

ALIASES = {
    "dsm": "denoising",
    "ESM": "explicit",
    "ism": "implicit",
    "ssm": "sliced",
    "SSM-VR": "hutchinson",
    "tsm": "target-score",
    "cd": "contrastive-divergence",
    "pcd": "persistent",
    "nce": "noise-contrastive",
    "ksd": "stein-discrepancy",
}
MODEL = ScoreFunction(lambda x, t: -0.7 * x, VP())


def loss_of(objective):
    x0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    return objective(MODEL, x0, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_people_find_objectives_by_their_initials(alias, name):
    assert OBJECTIVES[alias] is OBJECTIVES[name]
    assert alias.lower() not in OBJECTIVES.names()


def test_an_objective_of_ones_own_takes_one_method_and_one_line(register_for_test):
    class Moments(BaseObjective):
        def __init__(self, power: float = 2.0) -> None:
            self.power = power

        def losses_of(self, model, x0, condition, generator):
            return model.denoise(x0, 0.5, condition).abs().pow(self.power).sum(1)

    register_for_test(OBJECTIVES, "moments", Moments)
    objective = objectives.create("moments(power=3)")
    want = MODEL.denoise(torch.ones(2, 3), 0.5).abs().pow(3).sum(1)
    torch.testing.assert_close(objective(MODEL, torch.ones(2, 3)), want)
    facts = (objective.needs, objective.second_derivatives, objective.all_noise_levels)
    assert facts == ("score", False, True)
    assert isinstance(objective, objectives.Objective)
    assert OBJECTIVES.resolve(objective) is objective
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        objective(MODEL, torch.ones(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("name", ["denoising", "implicit", "target-score"])
def test_times_and_weights_are_objects_or_functions_of_ones_own(name, register_for_test):
    class Late(Uniform):
        def quantile(self, sde, u):
            return super().quantile(sde, 0.5 + 0.5 * u)

    more = {"target": "gaussian(mean=(0, 0, 0), covariance=1.0)"} if name == "target-score" else {}
    register_for_test(TIME_SAMPLERS, "late", Late)
    plain = objectives.create(name, time_sampler="late", **more)
    double = objectives.create(
        name, time_sampler=Late(), weighting=lambda sde, t: torch.full_like(t, 2.0), **more
    )
    torch.testing.assert_close(loss_of(double), 2 * loss_of(plain))
    uniform = objectives.create(name, time_sampler="uniform", **more)
    assert not torch.allclose(loss_of(uniform), loss_of(plain))


@pytest.mark.parametrize("name", ["denoising", "implicit"])
def test_objects_of_another_kind_are_refused_by_name(name):
    with pytest.raises(
        TypeError, match="time_sampler=3 must be text or an object of class TimeSampler"
    ):
        OBJECTIVES[name](time_sampler=3)
    with pytest.raises(TypeError, match="weighting=3 must be text or an object of class Weighting"):
        OBJECTIVES[name](weighting=3)
    assert WEIGHTINGS["simple"] is WEIGHTINGS["variance"]


def test_data_that_are_not_finite_and_empty_batches_are_refused():
    model, x0 = ScoreFunction(lambda x, t: -x, VP()), torch.zeros(4, 2)
    x0[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"x0 is not finite in 1 of 4 examples, .* x0\[3\]"):
        objectives.create("denoising")(model, x0)
    with pytest.raises(ValueError, match=r"x0 of shape \(0, 2\) holds no examples"):
        objectives.create("denoising")(model, x0[:0])
