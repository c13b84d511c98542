"""Lower variance, same expected value: dropped constant, antithetic noise, control variates.

A linear score makes the loss a quadratic form in data and noise, whose matrix is read off by
evaluating it on basis vectors; its mean and variance on standard normal draws are then exact.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sde_score.models import GaussianMixture, ScoreFunction, ScoreModel
from sde_score.objectives import DenoisingControl, DenoisingScoreMatching, TimeSampler, create
from sde_score.objectives.score_matching.denoising import VARIANCE_REDUCTIONS
from sde_score.random import BatchSlice
from sde_score.sdes import VE, VP

D = 8
WIDE = VE(sigma_min=0.001, sigma_max=9.0)


class At(TimeSampler):
    """One time for all."""

    def __init__(self, t) -> None:
        object.__setattr__(self, "t", float(t))

    def quantile(self, sde, u):
        return torch.full_like(u, self.t)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=9, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def mixture(sde, event=(1,)):
    means = torch.stack([torch.full(event, 1.0), torch.full(event, -1.5)]).double()
    return GaussianMixture(means, torch.tensor([0.3, 0.1]), sde, [0.7, 0.3])


def quadratic_moments(function, n):
    """Exact mean and variance of a quadratic form of n standard normal numbers."""
    eye = torch.eye(n).double()
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    points = [torch.zeros(1, n).double(), eye, -eye]
    points.append(torch.stack([eye[i] + eye[j] for i, j in pairs]))
    values = function(torch.cat(points))
    zero, plus, minus, both = values.split([1, n, n, len(pairs)])
    matrix = torch.diag((plus + minus) / 2 - zero)
    for (i, j), value in zip(pairs, both, strict=True):
        matrix[i, j] = matrix[j, i] = (value - plus[i] - plus[j] + zero[0]) / 2
    linear = (plus - minus) / 2
    return zero[0] + matrix.trace(), (linear**2).sum() + 2 * (matrix**2).sum()


def time_of(sde, sigma):
    return sde.time_of_log_snr(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))


def deviations(model, sigma):
    """Exact standard deviation of each form of the summed loss on the score error, by name."""
    t, scale = time_of(WIDE, sigma), D / 2 / sigma**2
    trained = DenoisingControl(time_sampler=At(t))
    trained(model, normal(20_000, D), generator=seeded())
    trained.finish_step()

    def form(name, z):
        x0, noise, times = z[:, :D], z[:, D:], t.expand(len(z))
        if name == "control":
            parts = trained.parts(model, x0, times, noise)
            return scale * parts.combine(*trained.coefficients(WIDE, times))
        return scale * DenoisingScoreMatching(variance_reduction=name).at(model, x0, times, noise)

    names = [*VARIANCE_REDUCTIONS, "control"]
    exact = {n: quadratic_moments(lambda z, n=n: form(n, z), 2 * D) for n in names}
    means = torch.stack([mean for mean, _ in exact.values()])
    torch.testing.assert_close(means, means[:1].expand(4), rtol=1e-11, atol=0)
    return {name: variance.sqrt().item() for name, (_, variance) in exact.items()}


@pytest.mark.parametrize("form", [*VARIANCE_REDUCTIONS, (0.0, 0.0), (1.0, 0.0), (-0.7, 2.3)])
def test_every_form_has_the_expected_value_and_gradient_of_the_plain_square(sde, form):
    """Nonlinear model, symmetric quadrature over the noise, every coefficient."""
    at, weight = np.polynomial.hermite_e.hermegauss(9)
    grid = torch.tensor([[a, b] for a in at for b in at]).double()
    weights = torch.tensor([a * b for a in weight for b in weight]).double() / (2 * math.pi)
    t = sde.time_of_log_snr(torch.tensor(1.0).double()).expand(len(grid))
    angle = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    base = mixture(sde, (2,))
    model = ScoreFunction(lambda x, t: base.score(x, t) + torch.sin(angle * x + t[:, None]), sde)

    def moments(form):
        x0 = torch.tensor([0.4, -0.9]).double().expand(len(grid), 2)
        if isinstance(form, str):
            loss = DenoisingScoreMatching(variance_reduction=form).at(model, x0, t, grid)
        else:
            loss = DenoisingControl().parts(model, x0, t, grid).combine(*form)
        value = (weights * loss).sum()
        return value, torch.autograd.grad(value, angle)[0]

    for got, want in zip(moments(form), moments("none"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_standard_deviations_on_the_exact_model_are_those_of_the_table():
    """N(0, I) in 8 dimensions: the docstring's table, to its digits."""
    table = {
        0.01: (2.0e4, 283, 4.5, 2.0),
        0.1: (198, 28, 4.4, 2.0),
        0.5: (6.4, 4.8, 3.2, 1.3),
        1.0: (1.0, 1.73, 1.58, 0.50),
        3.0: (0.022, 0.22, 0.22, 0.020),
    }
    model = GaussianMixture(torch.zeros(1, D), 1.0, WIDE)
    for sigma, want in table.items():
        assert list(deviations(model, sigma).values()) == pytest.approx(want, rel=0.03)


def test_small_noise_costs_naive_its_steadiness_and_control_nothing():
    """A score that is far from optimal, with |score|^2 near 156 as in the notes: the square is
    dominated by |noise|^2, then by the cross term 2 |score| / sigma, then by neither."""
    root = normal(D, D, seed=3) / D**0.5
    matrix = -(root @ root.mT) - torch.diag(torch.linspace(1.0, 6.0, D).double())
    model = ScoreFunction(lambda x, t: x @ matrix.mT, WIDE)
    size = (matrix**2).sum().sqrt()
    small, middle = deviations(model, 0.01), deviations(model, 0.1)
    assert small["none"] == pytest.approx(2e4, rel=0.01)
    assert small["constant"] == pytest.approx(size.item() / 0.01, rel=0.02)
    assert small["control"] < small["antithetic"] < size.item() ** 2
    assert middle["control"] < 0.4 * middle["none"]
    for sigma in (0.01, 0.1, 0.5, 1.0, 3.0):
        names = deviations(model, sigma)
        assert names["antithetic"] <= names["constant"]
        assert names["control"] <= 1.001 * min(names["none"], names["constant"])
        if sigma <= 0.1:
            assert names["control"] ** 2 < names["none"] ** 2 / 3


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 5.0])
def test_fitted_coefficients_tend_to_the_closed_form(sigma):
    """Score g + sigma A noise with g = A x0 + shift: c = 1 + sigma^2 E[g.Ag] / E|g|^2 and
    b = -(sigma^4 tr A^T A + 2 sigma^2 tr A) / D."""
    matrix = torch.tensor([[-0.8, 0.3], [0.1, -0.4]]).double()
    shift = torch.tensor([0.5, -0.2]).double()
    model, t = ScoreFunction(lambda x, t: x @ matrix.mT + shift, WIDE), time_of(WIDE, sigma)
    second = matrix @ matrix.mT + torch.outer(shift, shift)
    c = 1 + sigma**2 * (matrix * second).sum() / second.trace()
    b = -(sigma**4 * (matrix**2).sum() + 2 * sigma**2 * matrix.trace()) / 2
    n, objective = 40_000, DenoisingControl(time_sampler=At(t), bins=7)
    for step in range(4):
        objective(model, normal(n // 4, 2, seed=20 + step), generator=seeded(step))
    objective.finish_step()
    got = torch.stack(objective.coefficients(WIDE, t))
    parts = objective.parts(model, normal(n, 2), t.expand(n), normal(n, 2, seed=8))
    spread = parts.combine(c, b).std() / torch.stack([2 * parts.control, parts.square]).std(1)
    assert bool(((got - torch.stack([c, b])).abs() < 6 * spread / n**0.5).all())


def test_the_exact_model_of_standard_normal_data_goes_from_one_to_zero():
    model = GaussianMixture(torch.zeros(1, D), 1.0, WIDE)
    for sigma in (0.01, 0.1, 0.5, 1.0, 3.0):
        objective = DenoisingControl(time_sampler=At(time_of(WIDE, sigma)))
        objective(model, normal(20_000, D), generator=seeded())
        objective.finish_step()
        c, b = objective.coefficients(WIDE, time_of(WIDE, sigma))
        assert c.item() == pytest.approx(1 / (1 + sigma**2), abs=0.02)
        assert b.item() == pytest.approx(1 - (1 + sigma**2) ** -2, abs=0.02)


def test_the_gradient_is_steadied_too():
    """The control variate differentiates with the model: at sigma = 0.02 the gradient's variance
    falls by orders of magnitude, where dropping the constant leaves it alone."""
    base, t = GaussianMixture(torch.zeros(1, 2), 1.0, WIDE), time_of(WIDE, 0.02)
    x0, noise = normal(500, 2), normal(500, 2, seed=4)
    variances = {}
    for name in ("none", "constant", "antithetic", "control"):
        scale = torch.ones(500, 1, dtype=torch.float64, requires_grad=True)
        model = ScoreFunction(lambda x, t, s=scale: s * base.score(x, t), WIDE)
        if name == "control":
            loss = DenoisingControl().parts(model, x0, t.expand(500), noise).combine(1.0, 0.0)
        else:
            denoising = DenoisingScoreMatching(variance_reduction=name)
            loss = denoising.at(model, x0, t.expand(500), noise)
        variances[name] = torch.autograd.grad(loss.sum(), scale)[0].var().item()
    assert variances["constant"] == pytest.approx(variances["none"], rel=1e-9)
    assert variances["antithetic"] < 0.01 * variances["none"]
    assert variances["control"] < 0.01 * variances["none"]


@pytest.mark.parametrize("weighting", ["variance", "unit"])
@pytest.mark.parametrize("event", [(), (5,), (3, 2), (2, 3, 4)])
def test_any_event_any_weighting_is_the_formula_entry_by_entry(sde, event, weighting):
    """Against loops over plain numbers, for a linear score, c and b given."""
    model = ScoreFunction(lambda x, t: -0.7 * x + 0.2, sde)
    x0, noise = normal(4, *event), normal(4, *event, seed=5)
    t = sde.time_of_log_snr(torch.tensor([-1.0, 0.0, 1.0, 2.0]).double())
    parts = DenoisingControl().parts(model, x0, t, noise)
    antithetic = DenoisingScoreMatching(weighting, variance_reduction="antithetic")
    constant = DenoisingScoreMatching(weighting, variance_reduction="constant")
    pairs = zip(sde.alpha(t).tolist(), sde.sigma(t).tolist(), strict=True)
    for row, (alpha, sigma) in enumerate(pairs):
        w = 1.0 if weighting == "variance" else sigma**-2
        sums = {"c": 0.0, "b": 0.0, "-": 0.0, "plus": 0.0}
        entries = list(zip(x0[row].flatten().tolist(), noise[row].flatten().tolist(), strict=True))
        for x, e in entries:
            predict = [-sigma * (0.2 - 0.7 * (alpha * x + k * sigma * e)) for k in (1, 0, -1)]
            sums["plus"] += (predict[0] - e) ** 2 - e**2 + 1
            sums["-"] += (predict[2] + e) ** 2 - e**2 + 1
            sums["c"] += 2 * predict[1] * e
            sums["b"] += e**2 - 1
        mean = {key: value / len(entries) for key, value in sums.items()}
        got = parts.combine(0.3, 0.4)[row].item()
        assert got == pytest.approx(mean["plus"] + 0.3 * mean["c"] + 0.4 * mean["b"], rel=1e-6)
        both = (mean["plus"] + mean["-"]) / 2
        assert antithetic.at(model, x0, t, noise)[row].item() == pytest.approx(w * both, rel=1e-6)
        once = constant.at(model, x0, t, noise)[row].item()
        assert once == pytest.approx(w * mean["plus"], rel=1e-6)


def test_coefficients_come_from_finished_steps_alone():
    """The first step is the plain square; its statistics count from the second on, each bin with
    its own, and a step does not see itself."""
    sde, x0 = VP(), normal(600, 3)
    model, plain = mixture(sde, (3,)), create("denoising", time_sampler="uniform_log_snr")
    objective = create("denoising-control", time_sampler="uniform_log_snr", bins=2)
    first = objective(model, x0, generator=seeded(1))
    torch.testing.assert_close(first, plain(model, x0, generator=seeded(1)), rtol=1e-9, atol=1e-10)
    assert torch.equal(objective(model, x0, generator=seeded(1)), first)
    objective.finish_step()
    low, high = sde.log_snr_range
    quarters = torch.tensor([0.25, 0.75]).double()
    c, b = objective.coefficients(sde, sde.time_of_log_snr(low + quarters * (high - low)))
    t, _, noise = objective.denoising.draw(sde, x0, seeded(1))
    parts = objective.parts(model, x0, t, noise)
    noisy = sde.log_snr(t) < (low + high) / 2
    for which, side in enumerate((noisy, ~noisy)):
        columns = torch.stack([torch.ones(600).double(), 2 * parts.control, parts.square], 1)
        fit = torch.linalg.lstsq(columns[side], -parts.error[side]).solution
        torch.testing.assert_close(torch.stack([c[which], b[which]]), fit[1:])
    second = objective(model, x0, generator=seeded(1))
    cs, bs = objective.coefficients(sde, t)
    torch.testing.assert_close(second, parts.combine(cs, bs))
    assert not torch.equal(second, first)
    ends = torch.tensor([sde.t_min, sde.t_max]).double()
    torch.testing.assert_close(objective.coefficients(sde, ends)[0], c.flip(0))


def test_weight_and_importance_multiply_the_loss():
    model, x0 = mixture(VP(), (3,)), normal(6, 3)
    objective = DenoisingControl("likelihood", "importance").eval()
    got = objective(model, x0, generator=seeded())
    want = DenoisingScoreMatching("likelihood", "importance")(model, x0, generator=seeded())
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_a_bin_with_few_examples_keeps_the_plain_square():
    model = mixture(VP())
    objective = DenoisingControl(bins=1)
    for batch, fitted in ((31, False), (1, True)):
        objective(model, normal(batch, 1), generator=seeded())
        objective.finish_step()
        c, b = objective.coefficients(VP(), torch.tensor(0.5).double())
        # The second step takes a 1000th from the count of the first: still too few.
        assert (c.item(), b.item()) == (0.0, 1.0) or fitted
    objective(model, normal(1, 1), generator=seeded())
    objective.finish_step()
    assert objective.coefficients(VP(), torch.tensor(0.5).double())[0].item() != 0


def test_parts_of_a_batch_add_up_to_the_batch():
    """Halves of a global batch, on one process one after the other: the same losses, the same
    statistics."""
    model, x0 = mixture(VP(), (3, 2)), normal(64, 3, 2)
    whole, parts = DenoisingControl(bins=2), DenoisingControl(bins=2)
    for step in range(3):
        want = whole(model, x0, generator=seeded(step))
        got = [
            parts(model, x0[i : i + 32], generator=BatchSlice(seeded(step), i, 64)) for i in (0, 32)
        ]
        torch.testing.assert_close(torch.cat(got), want, rtol=1e-11, atol=1e-12)
        whole.finish_step()
        parts.finish_step()
    torch.testing.assert_close(parts.moments, whole.moments, rtol=1e-12, atol=0)
    assert whole.moments[0].sum().item() == pytest.approx(64 * (1 + 0.999 + 0.999**2))


def test_a_resumed_objective_is_the_same_bit_for_bit():
    model, x0 = mixture(VP(), (3,)), normal(64, 3)
    first, second = DenoisingControl(bins=4, memory=3), DenoisingControl(bins=4, memory=3)
    for step in range(2):
        first(model, x0, generator=seeded(step))
        first.finish_step()
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        losses = [o(model, x0, generator=seeded(step)) for o in (first, second)]
        assert torch.equal(*losses)
        first.finish_step()
        second.finish_step()
    assert torch.equal(first.moments, second.moments)


def test_old_steps_fade_and_processes_add_up(monkeypatch):
    model, x0 = mixture(VP()), normal(40, 1)
    objective = DenoisingControl(bins=1, memory=4)
    for step, (world, count) in enumerate(((1, 40.0), (3, 30.0 + 120.0))):
        distributed = "sde_score.objectives.score_matching.denoising_control.distributed"
        monkeypatch.setattr(f"{distributed}.is_initialized", lambda world=world: world > 1)
        monkeypatch.setattr(f"{distributed}.all_reduce", lambda sums: sums.mul_(3))
        objective(model, x0, generator=seeded(step))
        objective.finish_step()
        assert objective.moments[0].item() == pytest.approx(count)
        assert not objective.pending.any()


def test_evaluation_learns_nothing_and_overflow_spoils_nothing():
    model, x0 = mixture(VP()), normal(40, 1)
    objective = DenoisingControl(bins=1).eval()
    objective(model, x0, generator=seeded())
    assert not objective.pending.any()
    objective.train()
    x0[7] = 1e300  # whose square is infinite
    objective(model, x0, generator=seeded())
    assert objective.pending[0].item() == 39
    assert bool(objective.pending.isfinite().all())


@pytest.mark.parametrize(
    ("spec", "evaluations", "cost"),
    [
        ("denoising", 1, "F + B"),
        ("denoising(variance_reduction='constant')", 1, "F + B"),
        ("denoising(variance_reduction='antithetic')", 2, "2 F + 2 B"),
        ("denoising-control", 2, "2 F + 2 B"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_costs_are_counted_and_precision_is_that_of_the_data(spec, evaluations, cost, dtype):
    layer, backward = torch.nn.Linear(3, 3).to(dtype), []
    layer.weight.register_hook(backward.append)
    model = ScoreModel(lambda x, level, condition: layer(x), VP())
    objective, x0 = create(spec), normal(50, 3, dtype=dtype)
    before = x0.clone()
    for step in range(2):
        model.nfe = 0
        loss = objective(model, x0, condition=None, generator=seeded(step))
        if isinstance(objective, DenoisingControl):
            objective.finish_step()
        assert loss.dtype == dtype
        assert loss.shape == (50,)
        assert model.nfe == evaluations
    assert objective.cost == cost
    loss.sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert torch.equal(x0, before)
    assert not x0.requires_grad


def test_the_condition_goes_with_every_evaluation():
    seen = []

    def score(x, t, condition):
        seen.append(condition)
        return -x

    model, condition = ScoreFunction(score, VP()), torch.arange(4)
    for spec in ("denoising(variance_reduction='antithetic')", "denoising-control"):
        create(spec)(model, normal(4, 3), condition=condition, generator=seeded())
    assert len(seen) == 4
    assert all(c is condition for c in seen)


def test_unknown_forms_and_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="variance_reduction='control' is not known; accepted"):
        DenoisingScoreMatching(variance_reduction="control")
    for argument in ("bins", "memory"):
        with pytest.raises(ValueError, match=f"{argument}=0 must be an integer"):
            create(f"denoising-control({argument}=0)")
    with pytest.raises(ValueError, match="unknown weighting 'varianc'"):
        DenoisingControl(weighting="varianc")
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        DenoisingControl()(mixture(VP()), torch.ones(2, 1, dtype=torch.long))
