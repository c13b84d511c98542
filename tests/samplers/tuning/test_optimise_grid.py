"""Found grids: better than stock ones on fresh noise, by true gradients, and reproducible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import nn

from sde_score.models import GaussianMixture, ScoreModel
from sde_score.samplers import (
    GRIDS,
    ProbabilityFlowODE,
    Sampler,
    create,
    optimise_grid,
    read_grid_file,
)
from sde_score.samplers.tuning.search import EndErrors, Parts, Search, ratios_of, theta_of, times_of
from sde_score.sdes import EDM, VE, VP

MIXTURE = GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], 0.04, EDM(0.002, 40.0), weights=[0.4, 0.6])
GAUSSIAN_STD = 0.5


@dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method in s = sigma / alpha, written without overwriting anything."""

    stochastic = False

    def iterate(self, problem, x):
        s, alpha = problem.sde.noise_ratio(problem.times), problem.sde.alpha(problem.times)
        for k, t in enumerate(problem.times[:-1]):
            mean = problem.denoise(x, t)
            y = x / alpha[k] + (s[k + 1] - s[k]) * (x / alpha[k] - mean) / s[k]
            x = alpha[k + 1] * y
            yield problem.times[k + 1].item(), x


@dataclass(frozen=True)
class Deaf(Euler):
    """The same, deaf to gradients in the times: they reach the model alone."""

    def iterate(self, problem, x):
        s, alpha = problem.sde.noise_ratio(problem.times), problem.sde.alpha(problem.times)
        s, alpha = s.tolist(), alpha.tolist()
        for k, t in enumerate(problem.times[:-1]):
            mean = problem.denoise(x, t)
            y = x / alpha[k] + (s[k + 1] - s[k]) * (x / alpha[k] - mean) / s[k]
            x = alpha[k + 1] * y
            yield problem.times[k + 1].item(), x


COARSE = ProbabilityFlowODE(rtol=1e-3, atol=1e-3)
"""A fine solution for tests that do not ask how good the found grid is."""


def find(sampler, nfe, model=MIXTURE, **arguments):
    settings = {"num": 32, "fresh": 64, "iterations": 30, "progress": False, **arguments}
    return optimise_grid(model, sampler, nfe, **settings)


def gaussian(sde):
    return GaussianMixture([[0.0]], GAUSSIAN_STD**2, sde)


def search_of(sampler, model=MIXTURE, num=3):
    parts = Parts(model, COARSE, model.event_shape, 0, None, 5, False)
    return Search(model, sampler, *parts.take(num, num), False)


@pytest.mark.parametrize("spec", ["flow-ab(final_order=3)", "heun"])
def test_found_grids_beat_every_stock_grid_on_fresh_noise(spec):
    """The stock grids are tried on the very same fresh starts."""
    found = find(spec, 7)
    after = found.errors["fresh", "after"]
    starts, ends = fresh_starts(64)
    for name in ("native", "uniform", "karras", "log_snr", "rectified", "angle"):
        sampler = create(spec, steps=found.sampler.steps, grid=name)
        stock = EndErrors.of(errors_of(sampler, starts, ends))
        assert after.mean_log < stock.mean_log - 0.1, name
    again = EndErrors.of(errors_of(found.sampler, starts, ends))
    assert again.mean_log == pytest.approx(after.mean_log, abs=1e-3)


@cache
def fresh_starts(count, model=MIXTURE):
    """Those that `find` reports on, made anew: the seeds after the 32 + 16 it has used."""
    from sde_score.random import ExampleStreams, example_seeds

    like = torch.empty(count, 2, dtype=torch.float64)
    starts = ExampleStreams(example_seeds(0, count, 48), like)() * model.sde.prior_std
    reference = ProbabilityFlowODE(rtol=1e-9, atol=1e-9)
    return starts, reference(model, starts, progress=False)


def errors_of(sampler, starts, ends):
    return (sampler(MIXTURE, starts, progress=False) - ends).square().mean(1).sqrt()


def test_one_step_of_a_gaussian_is_set_where_theory_says():
    r"""From s_0, Euler to s and the denoised mean: the factor on y is

    (v / (v + s^2)) (1 + (s - s_0) s_0 / (v + s_0^2)), and the flow's sqrt(v / (v + s_0^2)).
    """
    sde, v = EDM(0.002, 3.0), GAUSSIAN_STD**2
    found = find(Euler(), 2, gaussian(sde), iterations=120, learning_rate=0.1, num=8, fresh=8)
    s = torch.linspace(0.002, 2.99, 200_001, dtype=torch.float64)
    factor = v / (v + s**2) * (1 + (s - 3.0) * 3.0 / (v + 9.0))
    best = s[(factor - math.sqrt(v / (v + 9.0))).abs().argmin()].item()
    assert found.grid.ratios[-1] == pytest.approx(best, rel=0.02)
    off = (factor - math.sqrt(v / (v + 9.0))).abs()
    share = found.errors["fresh", "after"].rms / found.errors["fresh", "before"].rms
    assert share == pytest.approx((off.min() / off[0]).item(), rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "sde"),
    [
        ("flow-ab(final_order=3)", EDM(0.05, 20.0)),
        ("unipc", VP()),
        ("sigma-ab", VE(0.05, 20.0)),
        ("angular-ab", VP()),
    ],
)
def test_gradients_in_the_times_are_those_of_differences(sde, spec):
    model = GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], 0.04, sde)
    check_gradient(search_of(create(spec, steps=5), model))


def test_gradients_of_a_sampler_that_does_not_land(sde):
    check_gradient(search_of(Euler(steps=4), GaussianMixture([[-1.0], [1.0]], 0.04, sde)))


def check_gradient(search):
    sde = search.sde
    theta = theta_of(sde, GRIDS.create("rectified").times(sde, search.sampler.steps))
    theta = (theta + torch.linspace(-0.3, 0.3, len(theta))).requires_grad_()

    def loss(theta):
        squares = torch.cat([*search.squares(times_of(sde, theta), search.fit)])
        return squares.log().mean()

    (gradient,) = torch.autograd.grad(loss(theta), theta)
    h, differences = 1e-5, []
    with torch.no_grad():
        for step in h * torch.eye(len(theta), dtype=torch.float64):
            differences.append((loss(theta + step) - loss(theta - step)) / (2 * h))
    torch.testing.assert_close(gradient, torch.stack(differences), rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 1e-3


def test_increments_and_times_are_two_views_of_one_grid(sde):
    """Any theta is a decreasing grid from t_max; a grid's own theta gives the grid back."""
    theta = torch.tensor([2.0, -6.0, 0.0, 1.0, -3.0], dtype=torch.float64)
    times = times_of(sde, theta)
    assert times[0].item() == sde.t_max
    assert times[-1].item() > sde.sampling_t_min
    assert bool((times.diff() < 0).all())
    torch.testing.assert_close(theta_of(sde, times).softmax(0), theta.softmax(0))
    ratios = ratios_of(sde, theta)
    torch.testing.assert_close(ratios, sde.noise_ratio(times), rtol=1e-6, atol=0)
    u = ratios / (1 + ratios)
    least = torch.sigmoid(-0.5 * sde.log_snr(torch.tensor(sde.sampling_t_min).double()))
    falls = -torch.cat([u, least.reshape(1)]).diff()
    torch.testing.assert_close(falls / falls.sum(), theta.softmax(0), rtol=1e-6, atol=1e-12)


def test_errors_are_root_mean_square_median_and_mean_log():
    errors = EndErrors.of(torch.tensor([1.0, 2.0, 4.0]))
    assert errors.rms == pytest.approx(math.sqrt(7))
    assert errors.median == 2.0
    assert errors.mean_log == pytest.approx(math.log(2))


def test_the_same_seed_finds_the_same_grid_and_another_another():
    first, again, other = (
        find("flow-ab", 5, iterations=5, seed=seed, reference=COARSE) for seed in (1, 1, 2)
    )
    assert first.grid == again.grid
    assert first.errors == again.errors
    assert first.grid != other.grid


def test_batches_change_nothing_but_rounding():
    whole, parts = (
        find("flow-ab", 5, iterations=5, reference=COARSE, batch_size=size) for size in (512, 25)
    )
    assert whole.grid.ratios == pytest.approx(parts.grid.ratios, rel=1e-6)
    assert whole.errors["fresh", "after"].rms == pytest.approx(
        parts.errors["fresh", "after"].rms, rel=1e-5
    )


def test_a_sampler_deaf_to_gradients_is_searched_without():
    assert find(Euler(), 5, iterations=1, reference=COARSE).method == "gradient"
    found = find(Deaf(), 4, reference=COARSE, num=16)
    assert found.method == "search"
    assert found.errors["fresh", "after"].mean_log < found.errors["fresh", "before"].mean_log - 0.3
    with pytest.raises(ValueError, match="try 'search'"):
        find(Deaf(), 5, method="gradient", reference=COARSE)


def test_search_comes_near_the_gradient():
    given = {"reference": COARSE, "num": 16, "fresh": 32}
    by_gradient, by_search = (
        find("flow-ab", 6, method=method, **given) for method in ("gradient", "search")
    )
    assert by_search.method == "search"
    best, near = (f.errors["fresh", "after"].mean_log for f in (by_gradient, by_search))
    assert near < best + 0.15


def test_steps_are_what_the_budget_allows():
    """Heun takes 2 n - 1 evaluations, the multistep methods one each."""
    for spec, nfe, steps, spent in (("heun", 8, 4, 7), ("heun", 9, 5, 9), ("ddim", 6, 6, 6)):
        found = find(spec, nfe, iterations=1, num=4, fresh=4, reference=COARSE)
        assert (found.sampler.steps, found.nfe) == (steps, spent)
        before = MIXTURE.nfe
        found.sampler(MIXTURE, (2, 2), seed=0, progress=False)
        assert MIXTURE.nfe - before == spent


def test_a_found_grid_travels_by_file(tmp_path):
    found = find("flow-ab(order=2)", 5, iterations=3, reference=COARSE, target="two modes")
    found.save(tmp_path / "grid.json")
    content = read_grid_file(tmp_path / "grid.json")
    assert content.sampler == "flow-ab(steps=5, order=2)"
    assert (content.nfe, content.target) == (5, "two modes")
    assert content.errors["fresh_rms_after"] == found.errors["fresh", "after"].rms
    assert content.errors["fitted_median_before"] == found.errors["fitted", "before"].median
    again = create(content.sampler, grid=f"file(path={str(tmp_path / 'grid.json')!r})")
    start = torch.randn(3, 2, dtype=torch.float64) * 40
    want = found.sampler(MIXTURE, start, progress=False)
    assert torch.equal(again(MIXTURE, start, progress=False), want)


class Net(nn.Module):
    """A network that says what noise to expect, with a layer that training would change."""

    def __init__(self):
        super().__init__()
        self.inner, self.drop = nn.Linear(3, 16), nn.Dropout(0.5)
        self.outer = nn.Linear(16, 2)

    def forward(self, x, level, condition):
        return self.outer(self.drop(torch.tanh(self.inner(torch.cat([x, level[:, None]], 1)))))


def test_a_network_is_frozen_meanwhile_and_left_as_it_was():
    torch.manual_seed(0)
    model = ScoreModel(Net(), VP())
    model.backbone.outer.bias.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    found = find("flow-ab", 4, model, event_shape=(2,), num=32, fresh=32, reference=COARSE)
    assert found.method == "gradient"
    assert found.errors["fresh", "after"].mean_log < found.errors["fresh", "before"].mean_log
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())
    wanted = [True, True, True, False]
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(m.training for m in model.modules())


def test_a_condition_has_an_entry_for_each_start():
    model = ScoreModel(Net(), VP())
    with pytest.raises(ValueError, match=r"3 entries for 8 \+ 4 \+ 2 starts"):
        find("ddim", 2, model, event_shape=(2,), num=8, fresh=2, condition=torch.zeros(3))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: find("ancestral", 5), "draws noise"),
        (lambda: find("ddim(eta=0.5)", 5), "draws noise"),
        (lambda: find("ode", 5), "chooses its own steps"),
        (lambda: find("ddim(denoise=False)", 5), "denoise=False"),
        (lambda: find("ddim", 0), "nfe=0"),
        (lambda: find("ddim", 5, num=0), "num=0"),
        (lambda: find("ddim", 5, iterations=0), "iterations=0"),
        (lambda: find("ddim", 5, learning_rate=0.0), "learning_rate=0"),
        (lambda: find("ddim", 5, method="magic"), "method='magic'"),
        (lambda: find("dim", 5), "did you mean 'ddim'"),
        (lambda: find("ddim", 5, ScoreModel(Net(), VP())), "event_shape=None"),
    ],
)
def test_bad_arguments_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
