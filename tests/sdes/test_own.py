"""An SDE of a user's own: two formulas, and everything else from the base class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sde_score import sdes
from sde_score.models import GaussianMixture
from sde_score.samplers import create
from sde_score.sdes import SDE, VE, VP, of_time


@dataclass(frozen=True)
class OwnVP(SDE):
    """VP by its two scales alone."""

    rate: float = 19.9

    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.05 * t - 0.25 * self.rate * t**2)

    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-0.1 * t - 0.5 * self.rate * t**2)).sqrt()


@dataclass(frozen=True)
class OwnVE(SDE):
    """VE by its two scales alone."""

    t_min = 0.0

    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return 0.01 * 5000.0**t


PAIRS = [(OwnVP(), VP()), (OwnVE(), VE())]


@pytest.fixture(params=PAIRS, ids=["vp", "ve"])
def pair(request):
    return request.param


@pytest.mark.parametrize("name", ["alpha_derivative", "sigma_derivative", "diffusion"])
def test_derivatives_take_a_time_that_is_expanded_over_the_batch(pair, name):
    own, _ = pair
    t = torch.tensor(0.4, dtype=torch.float64)
    got = getattr(own, name)(t.expand(5))
    assert torch.equal(got, getattr(own, name)(t).expand(5))


@pytest.mark.parametrize(
    "name", ["alpha_derivative", "sigma_derivative", "drift_rate", "diffusion"]
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_derivatives_come_from_autograd_in_every_mode(pair, name, mode):
    own, ours = pair
    t = torch.linspace(own.t_min, own.t_max, 9, dtype=torch.float64)
    with mode():
        for at in (t, t[4], t[4].item(), t.float()):
            got = getattr(own, name)(at)
            want = getattr(ours, name)(at)
            assert got.dtype == want.dtype
            torch.testing.assert_close(
                got, want, rtol=1e-9 if got.dtype == t.dtype else 1e-6, atol=0
            )


def test_derivatives_can_be_differentiated_again(pair):
    own, ours = pair
    slopes = []
    for sde in (own, ours):
        t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64).requires_grad_()
        slopes.append(torch.autograd.grad(sde.sigma_derivative(t).sum(), t)[0])
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=0)


def test_times_of_log_snr_come_from_bisection(pair):
    own, ours = pair
    low, high = ours.log_snr_range
    wanted = torch.linspace(low - 3, high + 3, 24, dtype=torch.float64).reshape(4, 6)
    got, want = own.time_of_log_snr(wanted), ours.time_of_log_snr(wanted)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-15)
    assert got.shape == (4, 6)
    assert own.time_of_log_snr(wanted.float()).dtype == torch.float32
    assert own.time_of_log_snr(0.0).item() == pytest.approx(ours.time_of_log_snr(0.0).item())


def test_gradients_pass_through_the_bisection(pair):
    slopes = []
    for sde in pair:
        ratio = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64).requires_grad_()
        slopes.append(torch.autograd.grad(sde.time_of_noise_ratio(ratio).sum(), ratio)[0])
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=0)


def test_defaults_of_the_range_and_the_prior():
    sde = OwnVP()
    assert (sde.t_min, sde.t_max, sde.sampling_t_min) == (1e-5, 1.0, 1e-5)
    assert sde.native_grid == "uniform"
    assert sde.prior_std == sde.sigma(1.0).item()
    assert repr(sde) == "OwnVP(rate=19.9)"
    with pytest.raises(ValueError, match=r"t=0 leaves \[1e-05, 1\], the times of OwnVP"):
        sde.alpha(0.0)


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "deis", "heun", "adaptive-sde", "ode"])
def test_samplers_run_on_it_as_on_ours(pair, sampler):
    samples = []
    for sde in pair:
        centers = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
        model = GaussianMixture(centers, 0.1, sde)
        start = torch.ones(3, 2, dtype=torch.float64)
        grid = {} if sampler in ("ode", "adaptive-sde") else {"steps": 8}
        make = create(sampler, grid="log_snr(end=0.01)", **grid)
        samples.append(make(model, start, seed=0, progress=False))
    torch.testing.assert_close(*samples, rtol=1e-5, atol=1e-6)


def test_noise_ratios_and_their_times(pair):
    for sde in pair:
        t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        ratio = sde.noise_ratio(t)
        torch.testing.assert_close(ratio, sde.sigma(t) / sde.alpha(t), rtol=1e-12, atol=0)
        torch.testing.assert_close(sde.time_of_noise_ratio(ratio), t, rtol=1e-9, atol=0)
        assert sde.time_of_noise_ratio(1e9).item() == sde.t_max
        assert sde.time_of_noise_ratio(1.0).dtype == torch.float64


@pytest.mark.parametrize("wrong", [1e3, 1e-9])
def test_noise_ratios_outside_the_range_are_refused_where_asked(wrong):
    ratios = torch.tensor([0.5, wrong], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"noise levels from .* leave those of .*: choose levels"):
        VP().time_of_noise_ratio(ratios, strict=True)
    VP().time_of_noise_ratio(ratios)
    ends = VP().noise_ratio(torch.tensor([VP().t_min, VP().t_max], dtype=torch.float64))
    VP().time_of_noise_ratio(ends, strict=True)


def test_discrete_times_are_those_of_the_published_chains():
    assert VP().discrete_times(4).tolist() == [0.25, 0.5, 0.75, 1.0]
    ladder = VE().sigma(VE().discrete_times(3))
    torch.testing.assert_close(ladder, torch.tensor([0.01, math.sqrt(0.5), 50.0]).double())
    assert OwnVE().discrete_times(4).tolist() == [0.25, 0.5, 0.75, 1.0]
    for bad in (0, -3, 2.0, True):
        for sde in (VP(), VE(), OwnVP()):
            with pytest.raises(ValueError, match="n="):
                sde.discrete_times(bad)
    with pytest.raises(ValueError, match="n=1 must be"):
        VE().discrete_times(1)


def test_one_line_makes_it_a_name():
    sdes.register("own-vp", OwnVP)
    try:
        assert sdes.create("own_vp(rate=3.0)") == OwnVP(3.0)
        assert "own-vp" in sdes.available()
    finally:
        del sdes.SDES._entries["own-vp"]
        del sdes.SDES._listed["ownvp"]
