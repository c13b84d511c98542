"""Restoration: measurements in the data's own terms, and measures against a truth."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.evaluation.restoration import measured, measurement_of_raw, observe
from sde_score.models import GaussianMixture
from sde_score.posterior import Blur, Matrix, Measurement, PosteriorSamples
from sde_score.scaling import Scaling


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("scaling", "operator", "raw"),
    [
        (
            Scaling.discrete(17),
            Blur((1, 4, 4), torch.ones(3, 3)),
            torch.arange(16).reshape(1, 4, 4),
        ),
        (Scaling(3.0, 2.0), Matrix(normal(2, 3)), normal(3, seed=1)),
        (Scaling((3.0, 1.0), (2.0, 5.0)), Matrix(normal(2, 2)), normal(2, seed=1)),
    ],
)
def test_what_was_measured_of_raw_data_is_measured_of_what_the_model_sees(scaling, operator, raw):
    """The likelihood of examples in model range is that of the same examples in their own terms, up
    to the unit of y."""
    y = observe(operator, raw, 0.3, seed=2)
    clean = operator(raw[None].double())[0]
    assert 0 < (y - clean).abs().max() < 1.5
    seen = measurement_of_raw(operator, y, 0.3, scaling)
    other = raw if scaling.levels else raw + 1.0
    x = torch.stack([scaling.to_model(each[None])[0].double() for each in (raw, other)])
    truth = Measurement(operator, y, 0.3)
    off = (truth.log_prob(torch.stack([raw, other]).double()) - seen.log_prob(x)).tolist()
    assert off[0] == pytest.approx(off[1], abs=1e-4)
    unit = 1.0 if isinstance(scaling.width, tuple) else scaling.width
    assert off[0] == pytest.approx(-y.numel() * math.log(unit), abs=1e-4)


def test_measures_of_draws_that_are_right_and_of_draws_too_sure():
    """Truth and draws of one distribution: intervals hold their share, errors are expected."""
    seen = Measurement(Matrix(torch.ones(1, 4000)), torch.zeros(1), 1.0)
    truth, x = normal(4000), normal(19, 4000, seed=1)
    for width, covered, spread in ((1.0, None, 1.0), (0.5, (0.27, 0.63), 1.96)):
        drawn = PosteriorSamples(width * x, 1.0, "m", "exact")
        found = measured(drawn, seen, truth, seconds=0.1, peak=2.0)
        for k, interval in enumerate(found.coverage):
            assert interval.interval == pytest.approx((0.5, 0.9)[k])
            expected = interval.interval if covered is None else covered[k]
            assert interval.share == pytest.approx(expected, abs=0.03)
        assert found.spread == pytest.approx(spread, rel=0.05)
    right = measured(PosteriorSamples(x, 1.0, "m", "exact"), seen, truth, 0.1, 2.0)
    assert right.psnr == pytest.approx(10 * math.log10(4 / (1 + 1 / 19)), abs=0.1)
    assert right.psnr_each == pytest.approx(10 * math.log10(4 / 2), abs=0.1)
    assert right.log_evidence is None
    unknown = measured(PosteriorSamples(x, 1.0, "m", "exact"), seen, None, 0.1, 2.0)
    assert unknown.psnr is None
    assert unknown.coverage == ()
    exact = Measurement(Matrix(torch.eye(3)), torch.zeros(3), 0.1)
    posterior = GaussianMixture([[0.0, 0, 0]], 0.01, "vp").sample(4000)
    fit = measured(PosteriorSamples(posterior, 1.0, "m", "exact"), exact, None, 0.1, 2.0)
    assert fit.misfit == pytest.approx(1, abs=0.05)
