"""Time grids against their formulas."""

from __future__ import annotations

import pytest
import torch

from sde_score.samplers import GRIDS, Karras, UniformLogSNR, UniformTime, create
from sde_score.sdes import EDM, VE, VP


def close(got, want, rtol=1e-9):
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-12)


def ratios(sde, times):
    return sde.sigma(times) / sde.alpha(times)


@pytest.mark.parametrize("name", GRIDS.names())
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


def test_uniform_steps_are_equal(sde):
    steps = UniformTime().times(sde, 9).diff()
    close(steps, steps[0].expand(8))
    close(steps.sum(), torch.tensor(sde.sampling_t_min - sde.t_max, dtype=torch.float64))


def test_log_snr_steps_are_equal(sde):
    logs = ratios(sde, UniformLogSNR().times(sde, 9)).log()
    close(logs.diff(), logs.diff()[0].expand(8), rtol=1e-6)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_steps_are_equal_in_the_root(sde, rho):
    roots = ratios(sde, Karras(rho=rho).times(sde, 9)) ** (1 / rho)
    close(roots.diff(), roots.diff()[0].expand(8), rtol=1e-6)


def test_karras_is_the_papers_formula_on_edm():
    sde, n, rho = EDM(0.002, 80.0), 18, 7.0
    low, high = sde.sigma_min ** (1 / rho), sde.sigma_max ** (1 / rho)
    want = [(high + i / (n - 1) * (low - high)) ** rho for i in range(n)]
    close(Karras().times(sde, n), torch.tensor(want, dtype=torch.float64))


def test_native_grids():
    """EDM has Karras's; VE's uniform times are the geometric ladder."""
    assert torch.equal(GRIDS.create("native").times(EDM(), 9), Karras().times(EDM(), 9))
    for sde in (VE(), VP()):
        native = GRIDS.create("native").times(sde, 9)
        assert torch.equal(native, UniformTime().times(sde, 9))
    ladder = VE().sigma(GRIDS.create("native").times(VE(), 9))
    close(ladder[1:] / ladder[:-1], (ladder[1] / ladder[0]).expand(8))


def test_a_sampler_takes_a_grid_by_name_and_as_an_object():
    sde = EDM()
    by_name = create("ddim", steps=6, grid="karras(rho=3.0, end=0.1)").times(sde)
    as_object = create("ddim", steps=6, grid=Karras(end=0.1, rho=3.0)).times(sde)
    assert torch.equal(by_name, as_object)
    assert by_name[-1] == 0.1


def test_the_denoising_is_one_of_the_steps(sde):
    for denoise, count in ((True, 6), (False, 7)):
        assert create("ddim", steps=6, denoise=denoise).times(sde).shape == (count,)


def test_ends_outside_the_times_are_refused(sde):
    for end in (sde.t_max, sde.t_max + 1, sde.t_min - 0.01, float("nan")):
        with pytest.raises(ValueError, match="end="):
            UniformTime(end=end).times(sde, 4)
    assert UniformTime(end=sde.t_min).times(sde, 4)[-1].item() == sde.t_min


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="rho=0"):
        Karras(rho=0)
    with pytest.raises(ValueError, match="count=0"):
        UniformTime().times(VP(), 0)
    with pytest.raises(ValueError, match="unknown grid 'karas'; did you mean 'karras'"):
        create("ddim", grid="karas")
