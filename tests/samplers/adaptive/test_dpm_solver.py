"""DPM-Solver with adaptive steps: other people's runs, the exact flow, and what examples share."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import DPMAdaptive, UniformTime
from sde_score.samplers.adaptive.engine import BatchState, StepSizeController
from sde_score.samplers.problem import Problem
from sde_score.sdes import EDM, VE, VP

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)
MIXTURE = ([[-1.0, 0.4], [1.0, 0.2]], 0.05)
PAIRS = [(2, "noise"), (2, "data"), (3, "noise"), (3, "data")]


def gaussian(sde):
    return GaussianMixture(MEAN[None], COVARIANCE[None], sde)


def ending(sde, log_snr=3.0):
    return UniformTime(end=float(sde.time_of_log_snr(log_snr)))


def flow(sde, start, t, s):
    """The exact probability flow of the Gaussian from t to s."""
    values, axes = torch.linalg.eigh(COVARIANCE)
    (a, b), (c, d) = ((sde.alpha(u).item(), sde.sigma(u).item()) for u in (t, s))
    stretch = ((c**2 * values + d**2) / (a**2 * values + b**2)).sqrt()
    return c * MEAN + (start - a * MEAN) @ axes @ torch.diag(stretch) @ axes.mT


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("kind", ["dpmsolver", "dpmsolver++"])
def test_the_authors_code(kind, order, reference, stored_mixture, recorder, close):
    """One error for the batch and their step rule; a rejected step costs us one evaluation less."""
    arrays, description = reference("samplers_dpm_solver")
    case = f"{kind}.adaptive.{order}"
    given = description["params"]["cases"][case]
    sampler = DPMAdaptive(
        order=order,
        prediction="data" if kind.endswith("++") else "noise",
        rtol=given["rtol"],
        atol=given["atol"],
        control_rule="paper",
        norm="batch",
        denoise=False,
        steps=1,
        grid=UniformTime(end=description["params"]["t_end"]),
    )
    model = recorder(stored_mixture(arrays, VP()))
    got = sampler(model, arrays["x_start"], progress=False)
    close(got, arrays[f"{case}.result"], rtol=1e-7, atol=1e-8)
    theirs = arrays[f"{case}.net_t"]
    ours = torch.tensor([times[0] for times in model.seen_times], dtype=torch.float64)
    rejected = len(theirs) - len(ours)
    assert rejected > 0
    # All our times are theirs, and theirs begin again where a step was rejected.
    near = (ours[:, None] - theirs).abs().amin(1)
    assert float(near.max()) < 1e-6
    assert len(theirs) == order * (int((len(ours) - rejected * (order - 1)) / order) + rejected)


@pytest.mark.parametrize("order", [2, 3])
def test_steps_of_k_diffusion(order, reference, stored_mixture, recorder, close):
    """Each stage and accepted step, each step size and verdict of its controller. It measures the
    error of a whole batch, of states of unit signal, which the test scales to."""
    arrays, description = reference("samplers_k_diffusion")
    sigmas, states = (arrays[f"dpm_adaptive_{order}.net_{what}"] for what in ("sigma", "x"))
    given = description["params"]["cases"][f"dpm_adaptive_{order}"]
    sampler = DPMAdaptive(order=order, prediction="noise", control_rule="pid")
    model = recorder(stored_mixture(arrays, EDM(0.01, 30.0)))
    starts, verdicts = range(0, len(sigmas), order), []
    problem = Problem(model, torch.zeros(1), lambda: None, None, lambda: None)
    planned, last = sampler.controller.first, states[0]
    for k in starts:
        x, sigma = states[k], sigmas[k]
        pair = sampler.pair(problem, x)
        level = -sigma.log().expand(5)
        state = x / torch.hypot(torch.ones(()), sigma)
        batch = BatchState.start(state, level, (state,), 0.1)
        batch.known = pair.evaluate(state, level, batch.rows)
        step = order * torch.log(sigma / sigmas[k + 1]).expand(5)
        left = math.log(sigma / given["sigma_min"])
        close(step, torch.full((5,), min(planned, left)).double(), rtol=1e-6)
        model.states.clear()
        tried = pair.attempt(batch, step)
        close(torch.stack(model.states), states[k + 1 : k + order], rtol=1e-8, atol=1e-9)
        end = torch.hypot(torch.ones(()), sigma * torch.exp(-step[0]))
        low = tried.memory[0] * end
        allowed = (given["rtol"] * torch.maximum(low.abs(), last.abs())).clamp(min=given["atol"])
        error = (tried.error * end / allowed).square().mean().sqrt()
        (accepted,), (planned,) = sampler.controller.judge(step[:1], error[None], batch.part([0]))
        verdicts.append(bool(accepted))
        last = low if accepted else last
        if k + order < len(sigmas):
            next_x = tried.state * end if accepted else x
            close(next_x, states[k + order], rtol=1e-8, atol=1e-9)
    assert verdicts.count(True) == int(arrays[f"dpm_adaptive_{order}.info.n_accept"])
    assert verdicts.count(False) == int(arrays[f"dpm_adaptive_{order}.info.n_reject"]) > 0


@pytest.mark.paired("pair", PAIRS, every=3)
def test_meets_the_exact_flow_as_the_tolerance_shrinks(sde, pair):
    """Samples do not depend on the SDE, as another test says: two for each pair are enough."""
    (order, prediction), grid = pair, ending(sde)
    start = sde.sigma(sde.t_max) * torch.tensor([[0.3, -1.2], [2.0, 0.4], [-0.7, 1.9]]).double()
    truth, errors, counts = flow(sde, start, sde.t_max, grid.end), [], []
    for tolerance in (1e-2, 1e-3, 1e-5) if order == 2 else (1e-3, 1e-4, 1e-6):
        model = gaussian(sde)
        sampler = DPMAdaptive(order=order, prediction=prediction, rtol=tolerance,
                              atol=tolerance, grid=grid, denoise=False, steps=2)  # fmt: skip
        got = sampler(model, start, progress=False)
        errors.append(float((got - truth).norm()))
        counts.append(model.nfe)
        assert errors[-1] < 30 * tolerance
    assert errors[2] < 0.1 * errors[1] < 0.08 * errors[0], errors
    # A method of order p needs 100^(1 / p) times the steps for a hundredth of the error per step.
    assert 0.5 < counts[2] / counts[1] / 100 ** (1 / order) < 1.3


@pytest.mark.parametrize(("order", "prediction"), PAIRS)
def test_both_solutions_of_a_step_have_their_orders(order, prediction):
    """One step from the exact flow: the kept solution is of order p, the other of order p - 1."""
    sde, errors = VP(beta_min=0.4, beta_max=9.0), []
    sampler, model = DPMAdaptive(order=order, prediction=prediction), gaussian(sde)
    x = torch.tensor([[0.3, -1.2], [2.0, 0.4]]).double()
    pair = sampler.pair(Problem(model, torch.zeros(1), lambda: None, None, lambda: None), x)
    level = torch.full((2,), -0.2).double()
    t = sde.time_of_log_snr(2 * level[0])
    for size in (0.1, 0.05):
        rows, step = torch.arange(2), torch.full((2,), size).double()
        batch = BatchState.start(x, level, (x,), 0.1)
        batch.known = pair.evaluate(x, level, rows)
        tried = pair.attempt(batch, step)
        torch.testing.assert_close(tried.error, tried.state - tried.memory[0])
        truth = flow(sde, x, t, sde.time_of_log_snr(2 * (level[0] + size)))
        errors.append([float((y - truth).norm()) for y in (tried.memory[0], tried.state)])
    slopes = [math.log2(a / b) for a, b in zip(*errors, strict=True)]
    assert slopes == pytest.approx([order, order + 1], abs=0.25)


def test_evaluations_are_order_times_steps_less_one_for_each_rejected(recorder):
    for order in (2, 3):
        kept = recorder(GaussianMixture(*MIXTURE, VP()))
        sampler = DPMAdaptive(order=order, grid=ending(VP()), denoise=False)
        run = sampler(kept, (1, 2), seed=3, progress=False, trajectory=True)
        assert run.nfe == len(kept.kinds)
        times = [time[0] for time in kept.seen_times]
        rejected = sum(late > early for early, late in pairwise(times))
        assert (len(times) + rejected) % order == 0
        assert len({tuple(state.flatten().tolist()) for state in kept.states}) == len(times)


@pytest.mark.parametrize("control_rule", ["pi", "paper", "pid"])
def test_sample_i_does_not_depend_on_its_neighbors(control_rule):
    distribution = GaussianMixture(*MIXTURE, VP())
    sampler = DPMAdaptive(steps=4, control_rule=control_rule)
    given = {"progress": False, "trajectory": True}
    whole = sampler(distribution, (64, 2), seed=11, **given).states
    for batch in (1, 7):
        part = sampler(distribution, (batch, 2), seed=11, **given).states
        torch.testing.assert_close(part, whole[:, :batch], rtol=0, atol=1e-10)
    shared = DPMAdaptive(norm="batch", control_rule=control_rule)
    alone, among = (shared(distribution, (n, 2), seed=11, progress=False)[0] for n in (1, 64))
    assert float((alone - among).abs().max()) > 1e-8


def test_condition_follows_the_samples_that_are_still_on_their_way():
    class Shifted:
        """Data N(condition, 0.25)."""

        nfe, sde = 0, VE(0.05, 9.0)

        def denoise(self, x, t, condition=None):
            weight = 0.25 / (0.25 + self.sde.sigma(t)[:, None] ** 2)
            return weight * x + (1 - weight) * condition[:, None]

    condition, start = torch.tensor([3.0, -30.0]).double(), torch.tensor([[1.0], [2.0]]).double()
    sampler = DPMAdaptive(grid=ending(Shifted.sde), denoise=False, rtol=1e-9, atol=1e-4)
    whole = sampler(Shifted(), start, condition=condition, progress=False)
    parts = [
        sampler(Shifted(), start[i : i + 1], condition=condition[i : i + 1], progress=False)
        for i in range(2)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-10)


def test_a_state_that_is_changed_on_the_way_goes_on_from_there():
    """Each stop is landed on, and the next stretch begins with the state as it was left."""
    sde, model = VP(), gaussian(VP())
    times = sde.time_of_log_snr(torch.tensor([-6.0, -1.0, 0.0, 3.0], dtype=torch.float64))
    start = torch.tensor([[0.3, -1.2], [2.0, 0.4]]).double()
    problem = Problem(model, times, lambda: None, None, lambda: None)
    sampler = DPMAdaptive(rtol=1e-7, atol=1e-7)
    want, seen = start, []
    for k, (time, state) in enumerate(sampler.iterate(problem, start.clone()), 1):
        want = flow(sde, want, times[k - 1], times[k])
        torch.testing.assert_close(state, want, rtol=0, atol=2e-5)
        state.add_(0.5 * k)
        want = state.clone()
        seen.append(time)
    assert seen == times[1:].tolist()


@pytest.mark.parametrize(("order", "prediction"), PAIRS)
def test_all_sdes_give_the_same_images(order, prediction):
    vp = VP()
    ve = VE(*(float(vp.sigma(t) / vp.alpha(t)) for t in (vp.t_min, vp.t_max)))
    start = ve.sigma_max * torch.tensor([[0.3, -1.2], [2.0, 0.4]]).double()
    images = [
        DPMAdaptive(order=order, prediction=prediction, grid=ending(sde))(
            GaussianMixture(*MIXTURE, sde), start * float(sde.alpha(sde.t_max)), progress=False
        )
        for sde in (ve, vp)
    ]
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-8)


def test_single_precision_is_kept_and_loses_little():
    start = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    single, double = (DPMAdaptive()(gaussian(VP()), x, progress=False)
                      for x in (start, start.double()))  # fmt: skip
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-3)


def test_a_model_that_is_not_finite_is_given_up():
    class Broken:
        nfe, sde = 0, VE(0.05, 9.0)

        def denoise(self, x, t, condition=None):
            return torch.full_like(x, torch.nan)

    for rule in ("pi", "paper", "pid"):
        sampler = DPMAdaptive(control_rule=rule, denoise=False)
        with pytest.raises(RuntimeError, match="a step shrank to nothing"):
            sampler(Broken(), (2, 2), seed=0, progress=False)


def test_step_rules():
    """After errors e and before it e': the paper's 0.9 e^(-1/p), or 0.9 e^(-0.85/p) e'^(0.2/p)."""
    assert DPMAdaptive(order=2, control_rule="paper").controller == StepSizeController(
        safety=0.9, integral=0.5, proportional=0.0, shrink=0.0, grow=math.inf
    )
    sampler = DPMAdaptive(order=3)
    size, before = torch.tensor([0.5, 1e-9, 1e9]).double(), torch.tensor([0.2, 1.0, 1.0]).double()
    got = sampler.controller.plan(torch.ones(3).double(), size, before)
    want = 0.9 * 0.5 ** (-0.85 / 3) * 0.2 ** (0.2 / 3)
    assert got.tolist() == pytest.approx([want, 5, 0.2])
    assert not sampler.stochastic
    assert [DPMAdaptive(order=p).convergence_order for p in (2, 3)] == [2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"order": 4}, "order=4 is not known; accepted: 2, 3"),
        ({"prediction": "score"}, "prediction='score' is not known; accepted: data, noise"),
        ({"control_rule": "p"}, "control_rule='p' is not known; accepted: pi, paper, pid"),
        ({"icoeff": 0.5}, r"icoeff=0.5: coefficients of control_rule='pid', and control_rule='pi'"),
        (
            {"control_rule": "pid", "icoeff": 0.0},
            r"pcoeff \+ icoeff \+ dcoeff=0.0 must be",
        ),
        ({"control_rule": "pid", "accept_safety": 1.0}, r"accept_safety=1.0 must lie in \(0, 1\)"),
        ({"norm": "max"}, "norm='max' is not known; accepted: example, batch"),
        ({"rtol": 0.0}, "rtol=0.0 must be a finite number greater than 0"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        DPMAdaptive(**given)
