"""The times that a run trains at: those of its SDE's paper, unless told otherwise."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import ScoreModel
from sde_score.objectives import (
    OBJECTIVES,
    TIMES_OF_SDE,
    DenoisingControl,
    DenoisingScoreMatching,
    times_of,
)
from sde_score.sdes import EDM, SDES, VP, Tabulated
from sde_score.training import CheckpointError, load_config

PLAIN = {"conditional": False, "steps": 2, "checkpoint_every": 2}
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALL = {**{name: SDES.create(name) for name in SDES}, "tabulated": Tabulated.from_betas(BETAS)}
OF_THE_PAPERS = {"edm": "log_normal", "rectified": "logit_normal"}


@pytest.mark.parametrize("name", ALL)
def test_every_sde_names_the_times_of_its_paper(name):
    assert TIMES_OF_SDE[type(ALL[name])] == OF_THE_PAPERS.get(name, "uniform")


@pytest.mark.parametrize("name", ALL)
def test_training_looks_at_noise_of_the_size_of_the_data(name):
    """Noise between a tenth and ten times the data, where the score is learned, takes most of it;
    and what is outside is not all on one side."""
    sde, objective = ALL[name], OBJECTIVES.create("denoising")
    generator = torch.Generator().manual_seed(0)
    t, importance, _ = objective.draw(sde, torch.zeros(8192, 1), generator)
    ratio = sde.noise_ratio(t)
    assert importance.tolist() == [1.0] * 8192
    assert ((ratio > 0.1) & (ratio < 10)).double().mean() > 0.5
    assert (ratio < 1).double().mean() > 0.2


@pytest.mark.parametrize("objective", ["denoising", "denoising-control", "dsm(weighting='unit')"])
@pytest.mark.parametrize("sde", ["edm", "edm(sigma_max=20)", "rectified", "ve"])
def test_the_configuration_says_which(run_to, tmp_path, objective, sde):
    run = run_to(tmp_path, sde=sde, objective=objective, **PLAIN)
    said = f"time_sampler='{times_of(run.model.sde)}'"
    assert said in run.config.objective
    assert said in load_config(tmp_path / "config.yaml").objective
    assert run_to(tmp_path, sde=sde, objective=objective, **{**PLAIN, "steps": 3}).step == 3


@pytest.mark.parametrize("control", [DenoisingScoreMatching, DenoisingControl])
def test_objects_have_the_times_too(run_to, tmp_path, control):
    run = run_to(tmp_path / "object", sde="edm", objective=control(), **PLAIN)
    by_name = "denoising" if control is DenoisingScoreMatching else "denoising-control"
    other = run_to(tmp_path / "text", sde="edm", objective=by_name, **PLAIN)
    assert run.digest == other.digest
    objective, x0 = control(), torch.zeros(4096, 2)
    objective = getattr(objective, "denoising", objective)
    t, _, _ = objective.draw(EDM(), x0, torch.Generator().manual_seed(0))
    assert 0.75 < (t < 1).double().mean() < 0.9  # P(N(-1.2, 1.2) < 0) = 0.84


def test_options_and_whole_models_keep_the_times(run_to, tmp_path):
    class Network(torch.nn.Linear):
        def forward(self, x, t):
            return super().forward(x)

    model = ScoreModel(Network(2, 2), EDM())
    objective = "denoising(time_sampler='auto(stratified=True)')"
    given = {"model": model, "backbone": "auto", **PLAIN}
    run = run_to(tmp_path, objective=objective, **given)
    assert "log_normal(stratified=True)" in run.config.objective
    assert run_to(tmp_path, objective=objective, **{**given, "steps": 3}).step == 3


def test_an_sde_of_ones_own_has_those_of_its_class_or_of_its_line(monkeypatch):
    class Mine(EDM):
        pass

    assert (times_of(Mine()), times_of(VP())) == ("log_normal", "uniform")
    monkeypatch.setitem(TIMES_OF_SDE, Mine, "uniform_log_snr")
    assert times_of(Mine()) == "uniform_log_snr"


@pytest.mark.parametrize(
    "objective",
    [
        "denoising(time_sampler='uniform')",
        DenoisingScoreMatching(time_sampler="uniform"),
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


def test_damaged_times_of_a_run_are_refused_by_the_file(run_to, tmp_path):
    run_to(tmp_path, **PLAIN)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("'uniform'", "'unifor'"))
    with pytest.raises(CheckpointError, match=r"config\.yaml cannot be used: .*'unifor'"):
        run_to(tmp_path, **PLAIN)
