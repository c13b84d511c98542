"""torchdiffeq as a solver: beside our own on an equation of known solution, and as a sampler."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers.adaptive.ode_solvers import SOLVERS
from sde_score.sdes import VP

RATES = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
STOPS = torch.tensor([-1.0, 0.5, 0.75, 3.0], dtype=torch.float64)
START = torch.tensor([[2.0, -1.0], [0.5, 3.0], [1.0, 0.0]], dtype=torch.float64)


class Decay:
    """y' = -rate (y - sin t) + cos t, whose solution is sin t + c exp(-rate t)."""

    def __init__(self):
        self.times, self.rows = [], []

    def __call__(self, time, state, rows):
        assert time.shape == (3,)
        self.times.append(float(time[0]))
        self.rows.append(rows.tolist())
        return -RATES[rows, None] * (state - time.sin()[:, None]) + time.cos()[:, None]


def truth():
    fall = (-RATES * (STOPS[:, None] - STOPS[0])).exp()[..., None]
    return STOPS.sin()[:, None, None] + fall * (START - STOPS[0].sin())


def test_every_stop_is_reached_to_the_tolerance():
    errors = []
    for tolerance in (1e-4, 1e-7, 1e-10):
        found = SOLVERS["torchdiffeq"](Decay(), START, STOPS, rtol=tolerance, atol=tolerance)
        assert torch.equal(found.path[0], START)
        errors.append(float((found.path - truth()).abs().max()))
        assert errors[-1] < 20 * tolerance
    assert errors[2] < 1e-5 * errors[0]


def test_counts_are_those_of_the_calls_and_shared_by_the_batch():
    decay = Decay()
    found = SOLVERS["torchdiffeq"](decay, START, STOPS, rtol=1e-7, atol=1e-7)
    assert found.evaluations.tolist() == [len(decay.times)] * 3
    assert decay.rows == [[0, 1, 2]] * len(decay.times)
    steps = found.steps[0].item()
    assert found.steps.tolist() == [steps] * 3
    assert 0 < 6 * steps < len(decay.times) - 1  # six evaluations an attempt, some rejected


def test_steps_land_on_the_stops_and_none_passes_the_last():
    decay = Decay()
    SOLVERS["torchdiffeq"](decay, START, STOPS, rtol=1e-6, atol=1e-6)
    assert max(decay.times) <= 3.0
    for stop in STOPS[1:].tolist():
        assert sum(abs(time - stop) < 1e-9 for time in decay.times) >= 2


def test_it_is_the_same_pair_as_ours():
    """Evaluations for one example are near those of our own steps."""

    def one(time, state, rows):
        return -(state - time.sin()[:, None]) + time.cos()[:, None]

    ends = STOPS[[0, -1]]
    ours, theirs = (
        SOLVERS[name](one, START[:1], ends, rtol=1e-8, atol=1e-8)
        for name in ("dopri5", "torchdiffeq")
    )
    assert int(theirs.evaluations[0]) == pytest.approx(int(ours.evaluations[0]), rel=0.25)


def test_a_derivative_that_is_not_finite_is_given_up():
    def broken(time, state, rows):
        return torch.where(time > 0.2, torch.nan, 1.0)[:, None].expand_as(state)

    with pytest.raises(RuntimeError, match="the solver gave up"):
        SOLVERS["torchdiffeq"](broken, START, STOPS, rtol=1e-6, atol=1e-6)


def test_samples_are_on_the_exact_flow(sde):
    """Data N(m, v): x_s = alpha_s m + (std_s / std_t) (x_t - alpha_t m)."""
    distribution, variance = GaussianMixture([[0.7, -0.4]], 0.3, sde), 0.3
    mean = torch.tensor([0.7, -0.4]).double()
    start = sde.sigma(sde.t_max) * torch.tensor([[0.3, -1.2], [2.0, 0.4]]).double()
    sampler = samplers.create(
        "ode", solver="torchdiffeq", rtol=1e-9, atol=1e-9, denoise=False, steps=3
    )
    run = sampler(distribution, start, progress=False, trajectory=True)
    alpha, sigma = sde.alpha(run.times), sde.sigma(run.times)
    spread = (variance * alpha**2 + sigma**2).sqrt()
    center = alpha[:, None, None] * mean
    want = center + (spread / spread[0])[:, None, None] * (start - center[0])
    torch.testing.assert_close(run.states, want, rtol=1e-6, atol=1e-6)


def test_its_name_is_accepted_and_others_are_refused():
    assert list(SOLVERS) == ["dopri5", "torchdiffeq", "scipy"]
    got = samplers.create("ode(solver='torchdiffeq')")(
        GaussianMixture([[0.0]], 1.0, VP()), (2, 1), seed=0, progress=False
    )
    assert got.shape == (2, 1)
    with pytest.raises(ValueError, match="solver='rk4' is not known; accepted: dopri5, torchdiff"):
        samplers.create("ode(solver='rk4')")
