"""Time grids against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sde_score.samplers import (
    GRIDS,
    Angle,
    Karras,
    LogitNormal,
    NoiseGrid,
    NoiseRatios,
    PolyExponential,
    Polynomial,
    RectifiedTime,
    UniformLogSNR,
    UniformTime,
    create,
)
from sde_score.sdes import EDM, VE, VP, Rectified

RULES = [name for name in GRIDS if name != "file"]


def close(got, want, rtol=1e-9):
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-12)


def ratios(sde, times):
    return sde.sigma(times) / sde.alpha(times)


def check_even(values, rtol=1e-6):
    close(values.diff(), values.diff()[0].expand(len(values) - 1), rtol=rtol)


@pytest.mark.parametrize("name", RULES)
def test_ends_are_exact_and_times_decrease(sde, name):
    for count in (2, 3, 50):
        times = GRIDS.create(name).times(sde, count)
        assert times.dtype == torch.float64
        assert times.shape == (count,)
        assert times[0].item() == sde.t_max
        assert times[-1].item() == sde.sampling_t_min
        assert bool((times.diff() < 0).all())
    assert GRIDS.create(name).times(sde, 1).tolist() == [sde.t_max]
    middle = 0.5 * (sde.t_min + sde.t_max)
    assert GRIDS.create(name, end=middle).times(sde, 7)[-1].item() == middle


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("sde", [EDM(1e-9, 1e6), VE(1e-9, 1e6)], ids=["EDM", "VE"])
def test_times_decrease_over_fifteen_orders_of_noise(sde, name):
    times = GRIDS.create(name).times(sde, 500)
    assert bool((times.diff() < 0).all())


def test_uniform_steps_are_equal(sde):
    steps = UniformTime().times(sde, 9).diff()
    close(steps, steps[0].expand(8))
    close(steps.sum(), torch.tensor(sde.sampling_t_min - sde.t_max, dtype=torch.float64))


@pytest.mark.parametrize("power", [0.5, 2.0, 3.0])
def test_polynomial_steps_are_equal_in_the_root_of_time(sde, power):
    check_even(Polynomial(power=power).times(sde, 9) ** (1 / power))


def test_the_quadratic_steps_are_even_in_the_root():
    """t_i = (i / n t_max^(1/2) + (n - i) / n end^(1/2))^2."""
    n, low, high = 10, 1e-3, 1.0
    want = [((i * high**0.5 + (n - i) * low**0.5) / n) ** 2 for i in range(n, -1, -1)]
    got = GRIDS.create("polynomial").times(VP(), n + 1)
    close(got, torch.tensor(want, dtype=torch.float64))
    assert torch.equal(got, Polynomial(power=2).times(VP(), n + 1))


def test_log_snr_steps_are_equal(sde):
    check_even(ratios(sde, UniformLogSNR().times(sde, 9)).log())


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_steps_are_equal_in_the_root(sde, rho):
    check_even(ratios(sde, Karras(rho=rho).times(sde, 9)) ** (1 / rho))


def test_karras_is_the_papers_formula_on_edm():
    sde, n, rho = EDM(0.002, 80.0), 18, 7.0
    low, high = sde.sigma_min ** (1 / rho), sde.sigma_max ** (1 / rho)
    want = [(high + i / (n - 1) * (low - high)) ** rho for i in range(n)]
    close(Karras().times(sde, n), torch.tensor(want, dtype=torch.float64))


def test_rectified_steps_are_equal_in_its_time(sde):
    times = RectifiedTime().times(sde, 9)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    check_even(sigma / (alpha + sigma))


def test_rectified_steps_are_the_uniform_ones_of_rectified_flow():
    close(RectifiedTime().times(Rectified(), 9), UniformTime().times(Rectified(), 9))


def test_a_shift_is_that_of_rectified_flows_for_large_images():
    """Esser et al.: t -> shift t / (1 + (shift - 1) t) of even times, ends aside."""
    shift, sde = 3.0, Rectified()
    got = RectifiedTime(shift=shift).times(sde, 40)
    even = got / (shift - (shift - 1) * got)  # the inverse
    check_even(even)
    assert (got > RectifiedTime().times(sde, 40)).sum() == 38


def test_a_power_spaces_a_power_of_the_noise_ratio(sde):
    s = sde.noise_ratio(RectifiedTime(power=0.5, shift=0.25).times(sde, 9))
    root = (s / 0.25).sqrt()
    check_even(root / (1 + root))


def test_angles_are_equal(sde):
    times = Angle().times(sde, 9)
    check_even(torch.atan2(sde.sigma(times), sde.alpha(times)))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 2.0), (-1.2, 1.2)])
def test_logit_normal_steps_are_equally_likely(sde, mean, std):
    s = ratios(sde, LogitNormal(mean=mean, std=std).times(sde, 9))
    check_even(torch.from_numpy(stats.norm(mean, std).cdf(s.log().numpy())), rtol=1e-5)


def test_polyexponential_grids_are_those_of_k_diffusion(reference):
    want = reference("samplers_k_diffusion")[0]["grid.polyexponential"][:-1]  # without zero noise
    sde = EDM(want[-1].item(), want[0].item())
    close(PolyExponential(rho=1.5).times(sde, len(want)), want)
    close(PolyExponential().times(sde, 9), UniformLogSNR().times(sde, 9))


def test_native_grids():
    """EDM has Karras's; VE's uniform times are the geometric ladder."""
    assert torch.equal(GRIDS.create("native").times(EDM(), 9), Karras().times(EDM(), 9))
    for sde in (VE(), VP()):
        native = GRIDS.create("native").times(sde, 9)
        assert torch.equal(native, UniformTime().times(sde, 9))
    ladder = VE().sigma(GRIDS.create("native").times(VE(), 9))
    close(ladder[1:] / ladder[:-1], (ladder[1] / ladder[0]).expand(8))


@pytest.mark.parametrize("name", ["log_snr", "karras", "rectified", "angle", "logit_normal"])
def test_grids_of_noise_mean_the_same_levels_on_every_sde(sde, name):
    """Between the same ends the noise ratios are the same, whatever the clock."""
    assert issubclass(GRIDS[name], NoiseGrid)
    ours = EDM(0.1, 5.0)
    ends = [sde.time_of_log_snr(-2 * math.log(s)).item() for s in (5.0, 0.1)]
    own = GRIDS.create(name)
    share = torch.linspace(0, 1, 9, dtype=torch.float64)
    want = own.times(ours, 9)
    first, last = (own.clock.at(sde, t) for t in ends)
    got = torch.exp(own.clock.log_ratio(first + share * (last - first)))
    close(got, want, rtol=1e-6)


def test_a_sampler_takes_a_grid_by_name_and_as_an_object():
    sde = EDM()
    by_name = create("ddim", steps=6, grid="karras(rho=3.0, end=0.1)").times(sde)
    as_object = create("ddim", steps=6, grid=Karras(end=0.1, rho=3.0)).times(sde)
    assert torch.equal(by_name, as_object)
    assert by_name[-1] == 0.1


def test_the_denoising_is_one_of_the_steps(sde):
    for denoise, count in ((True, 6), (False, 7)):
        assert create("ddim", steps=6, denoise=denoise).times(sde).shape == (count,)


def test_noise_ratios_are_kept_on_every_sde(sde):
    want = (7.0, 2.0, 0.4, 0.06)
    times = NoiseRatios(ratios=want).times(sde, 4)
    assert times[0].item() == sde.t_max
    close(ratios(sde, times)[1:], torch.tensor(want[1:], dtype=torch.float64), rtol=1e-6)


def test_noise_ratios_belong_to_their_number_and_range():
    grid = NoiseRatios(ratios=(3.0, 2.0, 0.01), made_for="heun(steps=3), 5 NFE")
    with pytest.raises(ValueError, match=r"heun\(steps=3\), 5 NFE: set steps=3, or steps=2 with"):
        create("ddim", steps=4, grid=grid).times(EDM())
    assert create("ddim", steps=2, denoise=False, grid=grid).times(EDM()).shape == (3,)
    with pytest.raises(ValueError, match=r"0\.01 to 3, lie outside 0\.1 to 5"):
        NoiseRatios(ratios=(3.0, 0.05, 0.01)).times(EDM(0.1, 5.0), 3)
    with pytest.raises(ValueError, match="lie outside"):
        NoiseRatios(ratios=(80.0, 60.0, 0.5)).times(EDM(0.1, 5.0), 3)


@pytest.mark.parametrize("bad", [(), (1.0, 1.0), (1.0, 2.0), (1.0, 0.0), (1.0, -1.0)])
def test_ratios_must_fall_and_stay_above_zero(bad):
    with pytest.raises(ValueError, match="strictly decreasing noise ratios"):
        NoiseRatios(ratios=bad)


def test_ends_outside_the_times_are_refused(sde):
    for end in (sde.t_max, sde.t_max + 1, sde.t_min - 0.01, float("nan")):
        with pytest.raises(ValueError, match="end="):
            UniformTime(end=end).times(sde, 4)
    assert UniformTime(end=sde.t_min).times(sde, 4)[-1].item() == sde.t_min


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Karras(rho=0), "rho=0"),
        (lambda: PolyExponential(rho=0), "rho=0"),
        (lambda: Polynomial(power=0), "power=0"),
        (lambda: Polynomial(power=-2.0), "power=-2"),
        (lambda: RectifiedTime(shift=0.0), "shift=0"),
        (lambda: LogitNormal(std=0.0), "std=0"),
        (lambda: LogitNormal(mean=math.inf), "mean=inf"),
        (lambda: NoiseRatios(ratios=(math.inf, 1.0)), r"ratios\[0\]=inf"),
        (lambda: UniformTime().times(VP(), 0), "count=0"),
        (lambda: create("ddim", grid="karas"), "unknown grid 'karas'; did you mean 'karras'"),
    ],
)
def test_bad_arguments_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
