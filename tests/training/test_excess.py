"""Excess loss: nothing for the best model, the known error for another, and no trace in a run."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import EmpiricalDistribution
from sde_score.training import load_run, prepare
from sde_score.training.excess import ExcessLoss
from sde_score.training.recipe import batches_of


def _measure(job):
    return ExcessLoss(job, batches_of(job, 0, 1, torch.device("cpu")))


def test_it_is_zero_for_the_data_themselves_and_the_squared_distance_to_them(config, tmp_path):
    """Without labels; E |net - noise|^2 = E |net - best|^2 + E |best - noise|^2."""
    from dataclasses import replace

    job = prepare(replace(config, conditional=False, batch_size=4000), tmp_path)
    excess = _measure(job)
    x0 = job.examples.batch(torch.arange(len(job.examples))).x0
    best = EmpiricalDistribution(x0, job.model.sde)
    part = next(excess._batches.step(3))
    t, _, noise = job.objective.draw(job.model.sde, part.x0, part.draws)
    x = job.model.sde.perturb(part.x0, t, noise)
    with torch.no_grad():
        apart = (job.model.eval().noise(x, t) - best.noise(x, t)).square().mean(1)
    found = excess.measure(3)
    assert found == pytest.approx(float(apart.mean()), rel=0.15)
    object.__setattr__(job, "model", best)
    assert excess.measure(3) == pytest.approx(0, abs=1e-4)


def test_a_run_has_the_column_and_the_same_bits_without_it(run_to, tensor_bytes, tmp_path):
    run = run_to(tmp_path / "with", excess=True)
    run_to(tmp_path / "without")
    assert tensor_bytes(tmp_path / "with", 12) == tensor_bytes(tmp_path / "without", 12)
    assert all(line["excess_loss"] > 0 for line in run.metrics)
    assert "excess_loss" not in load_run(tmp_path / "without").metrics[0]


def test_a_run_whose_best_model_is_not_known_is_refused(run_to, tmp_path):
    with pytest.raises(ValueError, match="leave out coupling"):
        run_to(tmp_path, excess=True, coupling="ot")
