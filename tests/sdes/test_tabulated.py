"""A diffusion through a table: exact at its entries, linear in log-SNR between, always an SDE."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from sde_score import sdes
from sde_score.models import GaussianMixture
from sde_score.samplers import create
from sde_score.sdes import VP, Tabulated

BETAS = torch.linspace(0.01, 0.5, 12, dtype=torch.float64)
EXACT = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture
def sde():
    return Tabulated.from_betas(BETAS)


def nodes(sde):
    return torch.arange(1, len(sde.log_snrs) + 1, dtype=torch.float64) / len(sde.log_snrs)


def between(count=50):
    """Times within (1/12, 1), none of them an entry."""
    return torch.linspace(0.0861, 0.9977, count, dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 12, 49, 1000])
def test_marginals_at_the_entries_are_the_products_of_the_chain(count):
    betas = torch.linspace(1e-4, 0.3, count, dtype=torch.float64)
    sde = Tabulated.from_betas(betas.tolist())
    t, products = nodes(sde), (1 - betas).cumprod(0)
    torch.testing.assert_close(sde.alpha(t) ** 2, products, **EXACT)
    torch.testing.assert_close(sde.sigma(t) ** 2, 1 - products, rtol=1e-11, atol=0)
    table = torch.tensor(sde.log_snrs, dtype=torch.float64)
    torch.testing.assert_close(sde.log_snr(t), table, rtol=0, atol=1e-11)
    _, std = sde.transition(t[:-1], t[1:])
    torch.testing.assert_close(std**2, betas[1:], rtol=1e-9, atol=0)
    assert (sde.t_min, sde.t_max, sde.sampling_t_min) == (1 / count, 1.0, 1 / count)


def test_small_first_betas_keep_their_digits():
    sde = Tabulated.from_betas([1e-9, 1e-6])
    assert float(sde.sigma(0.5)) ** 2 == pytest.approx(1e-9, rel=1e-12, abs=0)


def test_log_snr_is_linear_between_the_entries(sde):
    table = sde.log_snrs
    for i in (0, 4, 10):
        for share in (0.25, 0.9):
            truth = (1 - share) * table[i] + share * table[i + 1]
            assert float(sde.log_snr((i + 1 + share) / 12)) == pytest.approx(truth, rel=1e-12)


def test_variance_is_preserved_and_derivatives_are_derivatives(sde):
    t = between().requires_grad_()
    torch.testing.assert_close(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, torch.ones(50).double())
    for scale, derivative in (
        (sde.alpha, sde.alpha_derivative),
        (sde.sigma, sde.sigma_derivative),
    ):
        (slope,) = torch.autograd.grad(scale(t).sum(), t)
        torch.testing.assert_close(derivative(t.detach()), slope, rtol=1e-10, atol=0)
    t = t.detach()
    ratio = 2 * torch.log(sde.alpha(t) / sde.sigma(t))
    torch.testing.assert_close(sde.log_snr(t), ratio, rtol=1e-10, atol=1e-12)
    assert bool((sde.diffusion(t) > 0).all())
    assert bool((sde.log_snr(t).diff() < 0).all())
    # f = -beta / 2 and g^2 = beta: what preserves variance
    torch.testing.assert_close(sde.diffusion(t) ** 2, -2 * sde.drift_rate(t))


@pytest.mark.parametrize("count", [12, 49, 1000])
def test_derivatives_at_an_entry_are_those_on_its_right(count):
    sde = Tabulated.from_betas(torch.linspace(1e-4, 0.3, count, dtype=torch.float64))
    t = nodes(sde)[:-1]
    torch.testing.assert_close(sde.drift_rate(t), sde.drift_rate(t + 1e-8), rtol=1e-4, atol=0)
    assert float(sde.drift_rate(1.0)) == pytest.approx(float(sde.drift_rate(1 - 1e-8)), rel=1e-4)


def test_time_of_log_snr_is_the_inverse(sde):
    for t in (nodes(sde), between()):
        torch.testing.assert_close(sde.time_of_log_snr(sde.log_snr(t)), t, rtol=1e-11, atol=0)
    ends = sde.time_of_log_snr(torch.tensor([99.0, -99.0]))
    torch.testing.assert_close(ends, torch.tensor([1 / 12, 1.0]))


def test_many_fine_betas_tend_to_the_vp_diffusion():
    vp, errors = VP(), []
    for n in (500, 1000):
        sde = Tabulated.from_betas(torch.linspace(0.1 / n, 20 / n, n))
        t = torch.linspace(0.05, 1, 40, dtype=torch.float64)
        errors.append(float((sde.alpha(t) - vp.alpha(t)).abs().max()))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_results_have_the_shape_and_dtype_of_t(sde):
    for method in (sde.alpha, sde.sigma, sde.alpha_derivative, sde.log_snr, sde.diffusion):
        assert method(0.5).dtype == torch.float64
        assert method(torch.full((3,), 0.5)).dtype == torch.float32
        assert method(torch.full((3,), 0.5)).shape == (3,)
        assert method(torch.tensor(0.5)).shape == ()
    assert sde.prior_std == 1.0
    for bad in (0.05, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"leaves .* of Tabulated\(12 log-SNRs from"):
            sde.alpha(bad)


def test_it_is_a_value(sde):
    assert Tabulated(sde.log_snrs) == sde
    assert hash(Tabulated(list(sde.log_snrs))) == hash(sde)
    assert eval(repr(sde), vars(sdes)) == sde
    assert pickle.loads(pickle.dumps(sde)) == copy.deepcopy(sde) == sde
    assert sde != Tabulated.from_betas(BETAS.flip(0))
    assert len(str(sde)) < 80


def test_gradients_flow_after_a_first_use_in_inference_mode():
    with torch.inference_mode():
        sde = Tabulated.from_betas([0.11, 0.22, 0.33])
        sde.alpha(0.5)
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sde.log_snr(t).backward()
    assert t.grad is not None


@pytest.mark.parametrize("name", ["ancestral", "ddim", "euler-maruyama", "heun", "ode"])
def test_samplers_run_on_it(name):
    """Data N(1, 1/4): samples have its mean and spread."""
    sde = Tabulated.from_betas(torch.linspace(1e-4, 0.05, 400, dtype=torch.float64))
    distribution = GaussianMixture([[1.0]], 0.25, sde)
    options = {} if name == "ode" else {"steps": 100}
    x = create(name, **options)(distribution, (1000, 1), seed=0, progress=False)
    assert x.mean().item() == pytest.approx(1, abs=0.07)
    assert x.std().item() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    "bad", [(1.0,), (), (1.0, 1.0), (0.0, 1.0), (math.inf, 0.0), (math.nan, 0.0)]
)
def test_tables_that_do_not_decrease_are_refused(bad):
    with pytest.raises(ValueError, match="log_snrs must be finite and strictly decreasing"):
        Tabulated(bad)


@pytest.mark.parametrize("bad", [[0.1, 1.0], [0.0, 0.1], [0.1, -0.1], [[0.1]], [], [0.1, math.nan]])
def test_betas_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"betas must be numbers in \(0, 1\)|at least 2"):
        Tabulated.from_betas(bad)
