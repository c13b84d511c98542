"""The times that a run trains at: those of its SDE's paper, unless told otherwise."""

from __future__ import annotations

import pytest
import torch

from sde_score.objectives import OBJECTIVES, DenoisingScoreMatching
from sde_score.sdes import SDES
from sde_score.training import load_config

PLAIN = {"conditional": False, "steps": 2, "checkpoint_every": 2}


@pytest.mark.parametrize("objective", ["denoising", "denoising-control", "dsm(weighting='unit')"])
@pytest.mark.parametrize("sde", ["edm", "edm(sigma_max=20)"])
def test_edm_trains_at_log_normal_noise(run_to, tmp_path, objective, sde):
    run = run_to(tmp_path, sde=sde, objective=objective, **PLAIN)
    assert "time_sampler='log_normal'" in run.config.objective
    assert "time_sampler='log_normal'" in load_config(tmp_path / "config.yaml").objective


def test_a_fair_share_of_training_lies_below_the_scale_of_the_data(run_to, tmp_path):
    run = run_to(tmp_path, sde="edm", **PLAIN)
    objective = OBJECTIVES.create(run.config.objective)
    generator = torch.Generator().manual_seed(0)
    t, _, _ = objective.draw(run.model.sde, torch.zeros(8192, 2), generator)
    assert 0.75 < (t < 1).double().mean() < 0.9  # P(N(-1.2, 1.2) < 0) = 0.84


@pytest.mark.parametrize("sde", [name for name in SDES if name != "edm"])
def test_all_others_train_as_before(sde):
    assert SDES.create(sde).training_times == "uniform"


@pytest.mark.parametrize(
    "objective",
    [
        "denoising(time_sampler='uniform')",
        DenoisingScoreMatching(),
        "denoising(time_sampler='importance')",
    ],
)
def test_times_that_are_said_are_kept(run_to, tmp_path, objective):
    run = run_to(tmp_path, sde="edm", objective=objective, **PLAIN)
    assert "log_normal" not in run.config.objective


def test_a_run_begun_at_uniform_times_goes_on_at_them(run_to, tmp_path):
    run_to(tmp_path, sde="edm", objective="denoising(time_sampler='uniform')", **PLAIN)
    more = run_to(tmp_path, sde="edm", **{**PLAIN, "steps": 3})
    assert (more.step, "time_sampler='uniform'" in more.config.objective) == (3, True)
    with pytest.raises(ValueError, match="another configuration: objective"):
        run_to(tmp_path, sde="edm", objective="denoising(time_sampler='importance')", **PLAIN)
