"""The adaptive solver by itself: its tableau, its counts, and what examples share."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import RK45

from sde_score.samplers.adaptive import dormand_prince as module
from sde_score.samplers.adaptive.ode_solvers import SOLVERS, asked_of

RATES = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
STOPS = torch.tensor([-1.0, 0.5, 0.75, 3.0], dtype=torch.float64)


class Decay:
    """y' = -rate (y - sin t) + cos t, whose solution is sin t + c exp(-rate t)."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, time, state, rows):
        self.calls.append((time.clone(), rows.clone()))
        return -RATES[rows, None] * (state - time.sin()[:, None]) + time.cos()[:, None]

    def truth(self, start):
        fall = (-RATES * (STOPS[:, None] - STOPS[0])).exp()[..., None]
        return STOPS.sin()[:, None, None] + fall * (start - STOPS[0].sin())


@pytest.fixture
def start():
    return torch.tensor([[2.0, -1.0], [0.5, 3.0], [1.0, 0.0]], dtype=torch.float64)


def test_the_tableau_is_that_of_scipy():
    """Nodes, stages, and the difference of the two solutions, typed in by others."""
    *stages, error = torch.tensor(module.WEIGHTS, dtype=torch.float64)
    for ours, theirs in zip(stages[:5], RK45.A[1:], strict=True):
        assert ours.tolist() == pytest.approx([*theirs, 0, 0], rel=1e-14)
    assert stages[5].tolist() == pytest.approx([*RK45.B, 0], rel=1e-14)
    assert error.tolist() == pytest.approx((-RK45.E).tolist(), rel=1e-14)
    assert list(module.NODES) == pytest.approx([*RK45.C[1:], 1.0], rel=1e-14)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_stop_is_reached_to_the_tolerance(solver, start):
    decay, errors = Decay(), []
    for tolerance in (1e-4, 1e-7, 1e-10):
        found = SOLVERS[solver](decay, start, STOPS, rtol=tolerance, atol=tolerance)
        assert found.path.shape == (4, 3, 2)
        assert torch.equal(found.path[0], start)
        errors.append(float((found.path - decay.truth(start)).abs().max()))
        assert errors[-1] < 20 * tolerance
    assert errors[2] < 1e-5 * errors[0]


def test_counts_are_those_of_the_calls(start):
    """One evaluation to start and six per attempt; who has arrived is asked for no more."""
    decay = Decay()
    found = module.dormand_prince(decay, start, STOPS, rtol=1e-6, atol=1e-6)
    seen = torch.cat([rows for _, rows in decay.calls]).bincount()
    assert torch.equal(seen, found.evaluations)
    assert seen.unique().numel() == 3
    assert len(decay.calls) == int(seen.max())
    assert torch.equal((seen - 1) % 6, torch.zeros(3))
    assert bool((6 * found.steps <= seen - 1).all())
    assert all(bool((rows.diff() > 0).all()) for _, rows in decay.calls)


def test_steps_land_on_the_stops_and_none_passes_them(start):
    """The last two stages of the step that arrives, and the first of none after it: FSAL."""
    decay = Decay()
    module.dormand_prince(decay, start[:1], STOPS, rtol=1e-6, atol=1e-6)
    times = torch.cat([time for time, _ in decay.calls])
    for stop in STOPS[1:].tolist():
        assert int(((times - stop).abs() < 1e-12).sum()) == 2
    assert float(times.max()) <= 3.0 + 1e-12
    assert float(times.min()) == -1.0


def test_a_stop_on_the_way_does_not_shorten_the_steps_after_it(start):
    """A stop just after another costs about one attempt, not a new climb to long steps."""
    decay = Decay()
    plain = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)
    crowded = torch.tensor([-1.0, 0.5, 0.5 + 1e-9, 3.0], dtype=torch.float64)
    few, more = (
        module.dormand_prince(decay, start[:1], stops, rtol=1e-6, atol=1e-6)
        for stops in (plain, crowded)
    )
    assert int(more.evaluations[0] - few.evaluations[0]) <= 12
    torch.testing.assert_close(more.path[-1], few.path[-1], rtol=0, atol=1e-5)


def test_a_rejected_step_is_tried_again_from_where_it_began():
    """A jump in the derivative: y = |t| has a kink that no step may cross unnoticed."""

    def kink(time, state, rows):
        return torch.where(time < 0, -1.0, 1.0)[:, None].expand_as(state) + 0 * state

    ends = torch.tensor([-1.0, math.pi], dtype=torch.float64)
    found = module.dormand_prince(
        kink, torch.ones(1, 1, dtype=torch.float64), ends, rtol=1e-9, atol=1e-9
    )
    assert float(found.path[-1]) == pytest.approx(math.pi, abs=1e-7)
    assert int(found.evaluations) > 1 + 6 * int(found.steps)  # some attempts were rejected


def test_a_step_that_reaches_the_end_with_too_large_an_error_has_not_arrived():
    """The whole way is shorter than the first step, and much too long for one."""

    def fast(time, state, rows):
        return 200 * torch.cos(200 * time)[:, None]

    ends = torch.tensor([0.0, 0.08], dtype=torch.float64)
    found = module.dormand_prince(
        fast, torch.zeros(1, 1, dtype=torch.float64), ends, rtol=1e-8, atol=1e-8
    )
    assert float(found.path[-1]) == pytest.approx(math.sin(16), abs=1e-6)


def test_an_example_is_the_same_alone_and_among_others(start):
    decay = Decay()
    whole = module.dormand_prince(decay, start, STOPS, rtol=1e-5, atol=1e-5)
    for i in range(3):

        def alone(time, state, rows, i=i):
            return decay(time, state, rows + i)

        one = module.dormand_prince(alone, start[i : i + 1], STOPS, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.path[:, 0], whole.path[:, i], rtol=0, atol=1e-13)
        assert one.evaluations[0] == whole.evaluations[i]
        assert one.steps[0] == whole.steps[i]


def test_the_norm_decides_what_counts(start):
    """A norm that sees the first number alone lets the second go wrong."""
    ends = torch.tensor([0.0, 3.0], dtype=torch.float64)

    def uneven(time, state, rows):
        return torch.stack([0 * time, torch.cos(20 * time)], 1)

    blind, seeing = (
        module.dormand_prince(uneven, torch.zeros(1, 2).double(), ends, rtol=1e-6, atol=1e-6, **how)
        for how in ({"norm": lambda error: error[:, 0].abs()}, {})
    )
    truth = math.sin(60) / 20
    assert abs(float(seeing.path[-1, 0, 1]) - truth) < 1e-5
    assert abs(float(blind.path[-1, 0, 1]) - truth) > 1e-3


def test_evaluations_are_near_those_of_scipy(start):
    """The same pair and tolerances: proportional-integral control is no worse than scipy's."""
    decay = Decay()
    ends = STOPS[[0, -1]]
    ours, theirs = (
        solve(lambda t, y, rows: decay(t, y, rows + 1), start[1:2], ends, rtol=1e-7, atol=1e-7)
        for solve in (SOLVERS["dopri5"], SOLVERS["scipy"])
    )
    assert int(ours.evaluations[0]) <= 1.1 * int(theirs.evaluations[0])


def test_conditions_are_those_of_the_rows_asked_for():
    condition = torch.tensor([5, 6, 7])
    assert asked_of(None, torch.arange(3)) is None
    assert asked_of(condition, torch.arange(3)) is condition
    assert asked_of(condition, torch.tensor([0, 2])).tolist() == [5, 7]
