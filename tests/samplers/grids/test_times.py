"""Times given one by one."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import DDIM, Times, UniformTime
from sde_score.sdes import VE, VP


def test_they_are_taken_as_they_are():
    grid = Times((1.0, 0.7, 0.05))
    times = grid.times(VP(), 3)
    assert times.dtype == torch.float64
    assert times.tolist() == [1.0, 0.7, 0.05]
    assert grid == Times(at=(1.0, 0.7, 0.05))
    assert grid != Times((1.0, 0.7))
    assert eval(repr(grid)) == grid


@pytest.mark.parametrize("denoise", [True, False])
def test_samplers_stop_there(denoise):
    distribution = GaussianMixture([[1.0, 0.0]], 0.3, VP())
    even = UniformTime(end=0.2)
    table = Times(tuple(even.times(VP(), 5).tolist()))
    steps = 5 if denoise else 4
    found, wanted = (
        DDIM(steps=steps, grid=grid, denoise=denoise)(distribution, (3, 2), seed=0, progress=False)
        for grid in (table, even)
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("bad", [(), (0.5, 0.7), (0.5, 0.5)])
def test_times_that_do_not_decrease_are_refused(bad):
    with pytest.raises(ValueError, match="at must be strictly decreasing times"):
        Times(bad)
    with pytest.raises(ValueError, match=r"at\[1\]=nan must be a finite number"):
        Times((0.5, float("nan")))


def test_times_that_do_not_fit_the_sampler_or_the_sde_are_refused():
    with pytest.raises(ValueError, match=r"stops at 4 times and at has 2.*steps=len\(at\)"):
        DDIM(steps=4, grid=Times((1.0, 0.5)))(
            GaussianMixture([[1.0]], 0.3, VP()), (1, 1), progress=False
        )
    with pytest.raises(ValueError, match=r"leaves \[0, 1\]"):
        Times((1.5, 0.5)).times(VE(), 2)
    with pytest.raises(TypeError, match="end"):
        Times(at=(1.0, 0.5), end=0.1)
