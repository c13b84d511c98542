"""Restarts keep the distribution: noise put back is the diffusion's own, so that Gaussian data show
each factor; and without restarts nothing changes."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers import METHODS, BrownianPath, Repeat, Restart, Times
from sde_score.sdes import EDM, VP

HEUN = METHODS["heun"].constructor
MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)
STRETCHES = ((0.3, 1.2, 2, 3), (0.25, 0.6, 1, 2))
INNER = ["heun", "ddim", "ancestral", "dpmpp-2m", "flow-ab", "dpmpp-2m-sde"]


def gaussian(sde):
    return GaussianMixture(MEAN[None], COVARIANCE[None], sde)


def ratio(sde, t):
    return torch.exp(-0.5 * sde.log_snr(torch.as_tensor(t, dtype=torch.float64)))


def time(sde, at):
    return sde.time_of_log_snr(-2 * torch.tensor(at, dtype=torch.float64).log())


def marginal(sde, t):
    """Exact mean and covariance of x_t."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("repeats", [(), ((0.1, 0.2, 0, 3),)])
@pytest.mark.parametrize(("steps", "denoise"), [(1, True), (1, False), (5, True)])
def test_without_repeats_it_is_the_inner_sampler(inner, repeats, steps, denoise):
    sde = VP(0.4, 9.0)
    way = {"steps": steps, "denoise": denoise, "grid": "log_snr"}
    given = {"seed": 3, "progress": False, "trajectory": True}
    got = Restart(inner=inner, repeats=repeats, **way)(gaussian(sde), (3, 2), **given)
    want = samplers.create(inner, **way)(gaussian(sde), (3, 2), **given)
    assert torch.equal(got.states, want.states)
    assert torch.equal(got.times, want.times)
    assert got.nfe == want.nfe


def test_the_distribution_of_gaussian_data_is_kept(sde, gaussian_model, affine):
    """With fine steps only the noise put back could change it: a scale or std that is wrong does,
    by far more than the steps."""
    first, last = time(sde, [5.0, 0.2]).tolist()
    logs = torch.linspace(math.log(5.0), math.log(0.2), 61, dtype=torch.float64)
    times = (first, *time(sde, logs[1:-1].exp().tolist()).tolist(), last)
    stretches = ((0.3, 1.2, 3, 20), (0.25, 0.6, 2, 20), (0.2, 5.0, 1, 40))
    sampler = Restart(steps=60, grid=Times(at=times), repeats=stretches, denoise=False)
    offset, of_start, of_noise = affine(sampler, gaussian_model(MEAN, COVARIANCE, sde))
    mean, covariance = marginal(sde, sampler.times(sde)[0])
    mean = offset + of_start @ mean
    covariance = of_start @ covariance @ of_start.mT + of_noise @ of_noise.mT
    want_mean, want_covariance = marginal(sde, torch.tensor(last, dtype=torch.float64))
    assert (mean - want_mean).norm() < 2e-3 * want_mean.norm()
    assert (covariance - want_covariance).norm() < 2e-3 * want_covariance.norm()


def test_each_repeat_is_the_transition_and_the_inner_steps(sde):
    """By hand: Heun to the stop at `low`, up with the exact kernel, Karras's steps down, and on."""
    sampler = Restart(steps=4, inner="heun", grid="karras", repeats=((0.3, 1.2, 2, 3),))
    run = sampler(gaussian(sde), (5, 2), seed=1, progress=False, trajectory=True)
    low = time(sde, 0.3).item()
    down = [(1.2 ** (1 / 7) + k / 3 * (0.3 ** (1 / 7) - 1.2 ** (1 / 7))) ** 7 for k in range(4)]
    grid = sampler.times(sde).tolist()
    stops = sorted([*grid, low], reverse=True)
    place = stops.index(low)
    again = time(sde, down).tolist()
    want = [*stops[: place + 1], *again, *again, *stops[place + 1 :], 0.0]
    assert run.times.tolist() == pytest.approx(want, rel=1e-9)
    rises = [place + 1, place + 5]
    draws = []
    for k in range(1, len(want) - 1):
        before, t, s = run.states[k - 1], want[k - 1], want[k]
        if k in rises:
            scale, std = sde.transition(t, s)
            draws.append((run.states[k] - scale * before) / std)
        else:
            one = HEUN(steps=1, grid=Times(at=(t, s)), denoise=False)
            torch.testing.assert_close(one(gaussian(sde), before, progress=False), run.states[k])
    streams = BASE_STREAMS(1, run.states[0])
    streams()  # the start
    for draw in draws:
        torch.testing.assert_close(draw, streams(), rtol=1e-6, atol=1e-6)
    end = torch.tensor(grid[-1], dtype=torch.float64)
    torch.testing.assert_close(run.samples, gaussian(sde).denoise(run.states[-2], end))


def BASE_STREAMS(seed, like):
    from sde_score.random import ExampleStreams, example_seeds

    return ExampleStreams(example_seeds(seed, len(like)), like)


@pytest.mark.parametrize(
    ("inner", "steps", "repeats", "nfe", "draws"),
    [
        ("ddim", 10, STRETCHES, 10 + 2 + 2 * 3 + 2, 3),
        ("heun", 10, STRETCHES, 2 * (9 + 2 + 2 * 3 + 2) + 1, 3),
        ("ancestral", 10, STRETCHES, 10 + 2 + 2 * 3 + 2, 3 + 9 + 2 + 8),
        ("ddim", 10, ((0.3, 1.2, 2, 3), (0.3, 0.6, 1, 2)), 10 + 1 + 2 * 3 + 2, 3),
    ],
)
def test_evaluations_states_and_draws_are_counted(inner, steps, repeats, nfe, draws):
    """One more step for each new stop, the steps of each repeat, one draw for each rise."""
    model, drawn = gaussian(EDM(0.05, 9.0)), []
    noise = torch.zeros(2, 2).double()
    sampler = Restart(steps=steps, inner=inner, repeats=repeats)
    run = sampler(
        model, noise, noise=lambda: drawn.append(1) or noise, progress=False, trajectory=True
    )
    assert run.nfe == nfe
    assert len(drawn) == draws
    rises = (run.times.diff() > 0).sum().item()
    assert rises == sum(r for _, _, r, _ in repeats)
    if len({low for low, _, _, _ in repeats}) == len(repeats):
        assert len(run.times) == 1 + sampler.total


@pytest.mark.parametrize("inner", INNER)
def test_samples_depend_on_their_seed_alone(inner):
    sampler = Restart(steps=8, inner=inner, repeats=STRETCHES)
    whole = sampler(gaussian(VP()), (9, 2), seed=5, progress=False)
    for batch in (1, 4):
        part = sampler(gaussian(VP()), (batch, 2), seed=5, progress=False)
        torch.testing.assert_close(part, whole[:batch], rtol=1e-10, atol=1e-10)
    other = sampler(gaussian(VP()), (9, 2), seed=6, progress=False)
    assert not torch.allclose(other, whole)
    assert sampler.stochastic


def test_a_path_of_noise_is_not_walked_twice():
    """Ancestral steps over one stretch thrice, on a path: each time with noise of their own."""
    sde = EDM(0.05, 9.0)
    sampler = Restart(steps=6, inner="ddim(eta=1.0)", repeats=((0.3, 1.2, 2, 3),))
    path = BrownianPath(sde, (4, 2), seed=0, dtype=torch.float64)
    asked = []
    between, call = path.between, BrownianPath.__call__

    class Watched:
        def between(self, a, b):
            asked.append((a, b))
            return between(a, b)

        def __call__(self):
            asked.append("apart")
            return call(path)

    sampler(gaussian(sde), torch.zeros(4, 2).double(), noise=Watched(), progress=False)
    stretches = [pair for pair in asked if pair != "apart"]
    assert len(stretches) == len(set(stretches)) == 6
    assert asked.count("apart") == 2 * (1 + 3)


def test_a_consumer_may_change_each_state_before_the_march_goes_on():
    sampler = Restart(steps=5, inner="ddim", repeats=((0.3, 1.2, 1, 2),), denoise=False)
    from sde_score.samplers.problem import Problem

    def run(change):
        model, zero = gaussian(EDM(0.05, 9.0)), torch.zeros(1, 2).double()
        times = sampler.times(model.sde)
        problem = Problem(model, times, lambda: zero, None, lambda: None)
        found = []
        for k, (_, x) in enumerate(sampler.iterate(problem, zero.clone())):
            if k == change:
                x.add_(1.0)
            found.append(x.clone())
        return torch.stack(found)

    plain = run(None)
    for change in range(len(plain)):
        moved = run(change)
        assert torch.equal(moved[:change], plain[:change])
        assert bool(((moved - plain)[change:] > 1e-4).all())


def test_stretches_mean_the_same_noise_on_every_sde(sde):
    sampler = Restart(steps=6, repeats=(Repeat(0.3, 1.2),))
    times = sampler(gaussian(sde), (1, 2), progress=False, trajectory=True).times[:-1]
    rise = times.diff().argmax() + 1
    assert ratio(sde, times[rise]).item() == pytest.approx(1.2, rel=1e-9)
    assert ratio(sde, times[rise - 1]).item() == pytest.approx(0.3, rel=1e-9)


def test_a_stretch_may_reach_both_ends_of_the_grid(sde):
    ends = ratio(sde, sde.t_max).item(), ratio(sde, HEUN().times(sde)[-1]).item()
    sampler = Restart(steps=6, repeats=((ends[1], ends[0], 1, 5),))
    run = sampler(gaussian(sde), (2, 2), seed=0, progress=False, trajectory=True)
    assert len(run.times) == 6 + 6 + 1
    assert bool(run.samples.isfinite().all())


def test_what_it_says_of_itself():
    assert Restart().convergence_order == 2
    assert Restart(inner="ddim").convergence_order == 1
    assert not Restart(repeats=()).stochastic
    assert Restart(inner="ancestral", repeats=()).stochastic
    spec = "ddim(eta=0.5)"
    assert Restart(inner=spec, repeats=[[0.1, 0.5, 2, 4]]).stochastic


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repeats": ((0.5, 0.5, 1, 1),)}, r"repeats\[0\].high=0.5 must exceed"),
        ({"repeats": (STRETCHES[0], (0.0, 0.5, 1, 1))}, r"repeats\[1\].low=0.0"),
        ({"repeats": ((0.1, 0.5, -1, 1),)}, r"repeats\[0\].repeats=-1"),
        ({"repeats": ((0.1, 0.5, 1, 0),)}, r"repeats\[0\].steps=0"),
        ({"repeats": ((0.1,),)}, r"the entry \(0.1,\)"),
        ({"repeats": (0.1, 0.5)}, r"repeats\[0\]=0.1 must be"),
        ({"inner": "mcmc"}, "inner='mcmc' does not go from noise to data"),
        ({"inner": Restart()}, "inner=restart"),
        ({"inner": 3}, "inner=3 must be text or an object"),
        ({"inner": "huen"}, "did you mean 'heun'"),
    ],
)
def test_refusals(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Restart(**given)


@pytest.mark.parametrize("stretch", [(0.01, 0.5, 1, 2), (0.1, 20.0, 1, 2)])
def test_a_stretch_beyond_the_grid_is_refused(stretch):
    with pytest.raises(ValueError, match=r"within the 0\.05 to 9 of the grid"):
        Restart(repeats=(stretch,))(gaussian(EDM(0.05, 9.0)), (1, 2), progress=False)
