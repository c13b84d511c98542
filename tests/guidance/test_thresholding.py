"""Models within bounds: what they say, what it costs, and every sampler on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sde_score import samplers
from sde_score.guidance import Clipped, Thresholded
from sde_score.models import GaussianMixture, Model, ScoreFunction, WrappedDenoiser
from sde_score.sdes import VE, VP

KINDS = ("denoise", "noise", "score", "velocity")
FLOWS = [name for name in samplers.available() if name != "mcmc"]


def wide(sde):
    """Two modes, one of them outside [-1, 1]."""
    return GaussianMixture([[-0.5, 0.4], [1.5, -1.2]], [0.05, 0.1], sde, [0.4, 0.6])


def states(sde, batch=6, t=0.3):
    """States around data of all sizes, the same noise on each SDE."""
    generator = torch.Generator().manual_seed(3)
    x0, noise = 2 * torch.randn(2, batch, 2, generator=generator, dtype=torch.float64)
    time = sde.t_min + t * (sde.t_max - sde.t_min)
    return sde.perturb(x0, time, noise / 2), time


class Half(WrappedDenoiser):
    """Halves the denoised mean: no clipping, so that all formulas show."""

    def _predict(self, x, at, condition):
        return 0.5 * self.model.denoise(x, at.t, condition)


@pytest.mark.parametrize("per_example", [False, True])
def test_the_four_answers_are_views_of_one(sde, per_example):
    """x = alpha x0 + sigma noise, score = -noise / sigma, velocity = alpha' x0 + sigma' noise."""
    inner = wide(sde)
    x, t = states(sde)
    if per_example:
        t = torch.linspace(t, sde.t_max, len(x), dtype=torch.float64)
    scales = (sde.alpha, sde.sigma, sde.alpha_derivative, sde.sigma_derivative)
    alpha, sigma, alpha_rate, sigma_rate = (scale(t).reshape(-1, 1) for scale in scales)
    got = {kind: getattr(Half(inner), kind)(x, t) for kind in KINDS}
    x0, close = 0.5 * inner.denoise(x, t), torch.testing.assert_close
    noise = (x - alpha * x0) / sigma
    close(got["denoise"], x0)
    close(got["noise"], noise)
    close(got["score"], -noise / sigma)
    close(got["velocity"], alpha_rate * x0 + sigma_rate * noise)


@pytest.mark.parametrize("limit", [lambda m: Clipped(m, -50, 50), lambda m: Thresholded(m, 1, 50)])
def test_wide_bounds_change_nothing(sde, limit):
    x, t = states(sde)
    for kind in KINDS:
        torch.testing.assert_close(
            getattr(limit(wide(sde)), kind)(x, t), getattr(wide(sde), kind)(x, t)
        )


@pytest.mark.parametrize("make", [Clipped, Thresholded, Half])
def test_each_answer_is_one_evaluation_of_both(make):
    inner = wide(VP())
    model = make(inner)
    assert isinstance(model, Model)
    assert model.sde is inner.sde
    x, t = states(VP())
    for count, kind in enumerate(KINDS, 1):
        getattr(model, kind)(x, t)
        assert (model.nfe, inner.nfe) == (count, count)


def test_clipping_keeps_what_is_inside_and_stops_the_rest():
    x, t = states(VP(), batch=200)
    x0 = wide(VP()).denoise(x, t)
    got = Clipped(wide(VP()), -0.6, 0.9).denoise(x, t)
    assert (got.min(), got.max()) == (-0.6, 0.9)
    inside = (x0 > -0.6) & (x0 < 0.9)
    assert 20 < inside.sum() < 380
    assert torch.equal(got[inside], x0[inside])
    assert torch.equal(got == 0.9, x0 >= 0.9)


@pytest.mark.parametrize(("quantile", "bound"), [(0.995, 1.0), (0.8, 1.0), (0.5, 2.5), (1.0, 0.3)])
def test_thresholding_is_by_each_examples_own_quantile(quantile, bound):
    """Against the formula with numpy's quantile, one example at a time."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([0.01, 0.7, 1.0, 3.0, 40.0], dtype=torch.float64)
    x0 = size[:, None, None] * torch.randn(5, 7, 3, generator=generator, dtype=torch.float64)
    model = Thresholded(wide(VP()), quantile, bound)
    got = model.limit(x0)
    for one, limited in zip(x0, got, strict=True):
        s = max(bound, torch.quantile(one.abs().flatten(), quantile).item())
        torch.testing.assert_close(limited, one.clamp(-s, s) / s * bound)
    assert got.abs().max() <= bound
    torch.testing.assert_close(got[0], x0[0])
    for i in range(5):  # alone or beside others
        assert torch.equal(model.limit(x0[i : i + 1])[0], got[i])


@pytest.mark.parametrize("make", [Clipped, Thresholded])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_type_of_the_state_is_kept(make, dtype):
    model = make(wide(VP()))
    x, t = states(VP())
    for kind in KINDS:
        assert getattr(model, kind)(x.to(dtype), t).dtype == dtype
    events = torch.full((2,), 3.0, dtype=dtype)  # events of one number
    assert model.limit(events).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("make", [Clipped, lambda model: Thresholded(model, 0.9)])
def test_gradients_pass_to_the_state_and_the_parameters(make):
    class Affine(torch.nn.Linear):
        def forward(self, x, t):
            return super().forward(x)

    weight = Affine(2, 2).double()
    model = make(ScoreFunction(weight, VE(0.05, 9.0)))
    assert set(model.parameters()) == set(weight.parameters())
    x = torch.tensor([[0.2, -0.3], [5.0, 7.0]], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        weight.weight.mul_(0.01)
    model.score(x, 0.4).square().sum().backward()
    assert bool((x.grad != 0).all())
    assert weight.weight.grad is not None
    still = x.detach().requires_grad_()
    model.denoise(still, 0.4).sum().backward()
    moves = still.grad.abs().sum(1)
    assert moves[0] > 0.5
    if make is Clipped:
        assert moves[1] == 0


def test_the_condition_travels():
    seen = []

    def score(x, t, condition=None):
        seen.append(condition)
        return -x

    condition = torch.tensor([1.0, 2.0])
    model = Clipped(ScoreFunction(score, VP()))
    for kind in KINDS:
        getattr(model, kind)(torch.ones(2, 3), 0.5, condition)
    assert len(seen) == 4
    assert all(c is condition for c in seen)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("make", [Clipped, lambda model: Thresholded(model, 0.9)])
def test_every_sampler_ends_within_the_bounds(name, make):
    """The last step is a denoised mean, which no noise is added to; without limits they leave."""
    sampler = samplers.suited(samplers.create(name, steps=8), wide(VE(0.05, 9.0)))
    if isinstance(sampler, samplers.Multistep):  # a polynomial on the last step may overshoot
        sampler = replace(sampler, final_order=1)
    model = make(wide(VE(0.05, 9.0)))
    got = sampler(model, (40, 2), seed=0, progress=False)
    assert bool(got.isfinite().all())
    assert got.abs().max() <= 1 + 1e-9
    assert got.abs().max() > 0.9
    free = sampler(wide(VE(0.05, 9.0)), (40, 2), seed=0, progress=False)
    assert free.abs().max() > 1.2
    assert model.nfe == model.model.nfe > 0


def test_a_drawn_start_has_the_precision_of_the_inner_model():
    sampler = samplers.create("ddim", steps=2)
    assert sampler(Clipped(wide(VP())), (2, 2), progress=False).dtype == torch.float64
    assert sampler(Clipped(wide(VP()).float()), (2, 2), progress=False).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Clipped(m, 1.0, 1.0), "high=1.0 must exceed low=1.0"),
        (lambda m: Clipped(m, float("nan")), "low=nan"),
        (lambda m: Clipped(m, high=float("inf")), "high=inf"),
        (lambda m: Thresholded(m, 0.0), "quantile=0.0"),
        (lambda m: Thresholded(m, 1.01), r"quantile=1.01 must lie in \(0, 1\]"),
        (lambda m: Thresholded(m, bound=-1.0), "bound=-1.0"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make(wide(VP()))


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model is a Linear; accepted: a ScoreModel"):
        Clipped(torch.nn.Linear(2, 2))
