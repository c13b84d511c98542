"""Steps taken in parallel are the steps one after another: to rounding, or to the tolerance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import DDIM, METHODS, PREDICTORS, Parallel
from sde_score.sdes import VE, VP

INNER = ["ddim", "ddim(eta=0.6)", "ancestral", "euler-maruyama", "reverse-diffusion(eta=0)", "none"]
EVENT = (1, 2)


def mixture(sde):
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.6]], dtype=torch.float64).reshape(2, *EVENT)
    return GaussianMixture(means, [0.05, 0.1], sde, [0.3, 0.7])


def one_after_another(parallel, model, start=(5, *EVENT), **given):
    inner = parallel.inner
    inner = PREDICTORS.create(inner) if isinstance(inner, str) else inner
    way = {"steps": parallel.steps, "grid": parallel.grid, "denoise": parallel.denoise}
    return replace(inner, **way)(
        model, start, seed=4, progress=False, trajectory=True, **given
    )  # fmt: skip


def at_once(parallel, model, start=(5, *EVENT), **given):
    return parallel(model, start, seed=4, progress=False, trajectory=True, **given)


class Counting:
    """The mixture's protocol with a condition, which shifts it; keeps the size of each call."""

    def __init__(self, sde):
        self.sde, self.nfe, self.distribution, self.calls = sde, 0, mixture(sde), []

    def _shift(self, x, t, condition):
        t = torch.as_tensor(t, dtype=torch.float64)
        self.calls.append((len(x), t.numel()))
        shift = 0.0 if condition is None else condition.reshape(-1, *(1,) * (x.ndim - 1))
        return self.sde.alpha(t).reshape(-1, *(1,) * (x.ndim - 1)) * shift

    def denoise(self, x, t, condition=None):
        self.nfe += 1
        shift = self._shift(x, t, condition)
        alpha = self.sde.alpha(torch.as_tensor(t, dtype=torch.float64))
        return self.distribution.denoise(x - shift, t) + shift / alpha.reshape(
            -1, *(1,) * (x.ndim - 1)
        )

    def score(self, x, t, condition=None):
        self.nfe += 1
        return self.distribution.score(x - self._shift(x, t, condition), t)

    def noise(self, x, t, condition=None):
        self.nfe += 1
        return self.distribution.noise(x - self._shift(x, t, condition), t)

    velocity = None


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    "way",
    [
        {"tolerance": 0.0, "window": 30},
        {"tolerance": 0.0, "window": 4, "denoise": False},
        {"sweeps": 5, "window": 5},
        {"window": 1},
    ],
)
def test_without_tolerance_all_states_are_those_of_the_steps(sde, inner, way):
    """The noise too: the draws of each example fall to the same steps."""
    parallel = Parallel(steps=9, inner=inner, **way)
    want = one_after_another(parallel, mixture(sde))
    got = at_once(parallel, mixture(sde))
    assert torch.equal(got.times, want.times)
    torch.testing.assert_close(got.states, want.states, rtol=1e-9, atol=1e-9)
    assert torch.equal(got.samples, got.states[-1])


@pytest.mark.parametrize(("inner", "most"), [("ddim", 20), ("ddim(eta=1.0)", 30)])
def test_fewer_calls_give_the_samples_to_the_tolerance(inner, most):
    """60 steps; the error falls with the tolerance and the calls grow by little."""
    gaps, calls = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        parallel = Parallel(steps=60, inner=inner, tolerance=tolerance, grid="rectified")
        got = at_once(parallel, mixture(VE(0.02, 20.0)), (24, *EVENT))
        want = one_after_another(parallel, mixture(VE(0.02, 20.0)), (24, *EVENT))
        gaps.append((got.samples - want.samples).square().mean((1, 2)).sqrt().median().item())
        calls.append(got.nfe)
        assert want.nfe == 60
    assert calls[-1] < most
    for gap, tolerance in zip(gaps, (1e-2, 1e-3, 1e-4), strict=True):
        assert gap < 10 * tolerance, gaps
    assert gaps[2] < 0.2 * gaps[1] < 0.04 * gaps[0]


@pytest.mark.parametrize("inner", ["ddim", "ddim(eta=1.0)"])
def test_examples_do_not_feel_their_neighbors(inner):
    """A tolerance at which they need different numbers of sweeps; alone each needs its own."""
    parallel = Parallel(steps=40, inner=inner, window=16, tolerance=3e-3)
    whole = at_once(parallel, mixture(VP()), (9, *EVENT))
    alone = [
        parallel(mixture(VP()), (i, *EVENT), seed=4, progress=False, trajectory=True)
        for i in (1, 3)
    ]
    for run in alone:
        torch.testing.assert_close(
            run.states, whole.states[:, : run.states.shape[1]], rtol=0, atol=1e-10
        )
        assert run.nfe <= whole.nfe
    assert inner != "ddim" or alone[0].nfe < whole.nfe


def test_each_example_keeps_its_own_condition_when_others_leave():
    condition = torch.tensor([0.0, 9.0, -4.0, 2.0], dtype=torch.float64)
    for kind in ("ddim", "ddim(eta=1.0)"):
        parallel = Parallel(steps=20, inner=kind, window=8, tolerance=1e-2)
        whole = at_once(parallel, model := Counting(VP()), (4, *EVENT), condition=condition)
        for i in range(4):
            start = whole.states[0, i : i + 1]
            noise = stored_noise(4, i)
            got = parallel(
                Counting(VP()), start, condition=condition[i : i + 1], noise=noise, progress=False
            )
            torch.testing.assert_close(got, whole.samples[i : i + 1], rtol=0, atol=1e-5)
        assert len({size for size, _ in model.calls}) > 2


def stored_noise(seed, example):
    """The draws of one example after its start."""
    from sde_score.random import ExampleStreams, example_seeds

    stream = ExampleStreams([example_seeds(seed, example + 1)[example]], torch.empty(1, *EVENT))
    stream()
    return stream


@pytest.mark.parametrize(
    ("window", "sweeps", "calls"), [(8, 8, 21), (8, 4, 12), (8, 3, 9), (8, 1, 5), (40, 2, 3)]
)
def test_a_number_of_sweeps_fixes_the_calls(window, sweeps, calls):
    """One for the first state, one per slide, one for the denoised mean: times beyond the end are
    not asked for."""
    model = Counting(VP())
    got = at_once(Parallel(steps=21, window=window, sweeps=sweeps), model, (3, *EVENT))
    assert got.nfe == len(model.calls) == calls
    assert max(size for size, _ in model.calls) <= 3 * min(window, 19)
    assert model.calls[0] == (3, 3)
    assert all(size == times for size, times in model.calls[:-1])


def test_more_sweeps_are_nearer():
    gaps = []
    for inner in ("ddim", "ddim(eta=1.0)"):
        for sweeps in (2, 4, 8):
            parallel = Parallel(steps=40, inner=inner, window=16, sweeps=sweeps)
            got = at_once(parallel, mixture(VP()), (20, *EVENT)).samples
            want = one_after_another(parallel, mixture(VP()), (20, *EVENT)).samples
            gaps.append((got - want).square().mean().sqrt().item())
        assert gaps[-1] < 0.3 * gaps[-2] < 0.15 * gaps[-3], gaps
        assert gaps[-1] < 0.02


def test_nothing_is_read_back_with_a_number_of_sweeps():
    """On the meta device there are no values, so any look at one is an error."""

    class Blind:
        nfe, sde = 0, VP()

        def score(self, x, t, condition=None):
            assert t.device.type == "meta"
            return -0.5 * x

        noise = denoise = velocity = score

    draw = {"noise": lambda: torch.empty(4, 2, device="meta"), "progress": False}
    for inner in ("ddim", "ancestral"):
        got = Parallel(steps=9, inner=inner, window=4, sweeps=2)(
            Blind(), torch.empty(4, 2, device="meta"), **draw
        )
        assert got.shape == (4, 2)


def test_states_keep_their_precision_and_the_start_is_left_alone():
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    distribution = GaussianMixture([[0.2, -0.1]], 0.3, VP())
    kept = start.clone()
    got = Parallel(steps=30, tolerance=0.0)(distribution, start, progress=False)
    assert got.dtype == torch.float32
    assert torch.equal(start, kept)
    want = Parallel(steps=30, tolerance=0.0)(distribution, start.double(), progress=False)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)
    for steps, denoise in ((1, True), (1, False), (2, True)):
        way = {"steps": steps, "denoise": denoise, "grid": "native"}
        torch.testing.assert_close(
            Parallel(**way)(distribution, start.double(), progress=False),
            DDIM(**way)(distribution, start.double(), progress=False),
        )


def test_what_it_says_of_itself():
    assert not Parallel().stochastic
    assert Parallel(inner="ancestral").stochastic
    assert Parallel().convergence_order == 1
    assert Parallel(inner=DDIM(eta=0.5)).stochastic


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": 0}, "window=0"),
        ({"tolerance": -1e-3}, "tolerance=-0.001"),
        ({"sweeps": 0}, "sweeps=0"),
        ({"sweeps": 9, "window": 8}, "sweeps=9 must be at most window=8"),
        ({"inner": "heun"}, "inner='heun' has a memory or more than one evaluation"),
        ({"inner": METHODS["heun"].constructor()}, "inner=runge-kutta"),
        ({"inner": "dpmpp-2m"}, "inner='dpmpp-2m'"),
        ({"inner": "ddimm"}, "did you mean 'ddim'"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        Parallel(**given)
