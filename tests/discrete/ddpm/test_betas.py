"""Published betas, and levels of integers."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.discrete import HierarchicalVAE, cosine_betas, linear_betas
from sde_score.distributions import Quantization


def test_linear_betas_are_those_of_ddpm():
    betas = linear_betas(1000)
    assert betas.dtype == torch.float64
    for i in (0, 499, 999):
        assert betas[i].item() == pytest.approx(1e-4 + (0.02 - 1e-4) * i / 999, rel=1e-12)
    assert linear_betas(3, first=0.1, last=0.3).tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("offset", [0.008, 0.1])
def test_cosine_betas_are_ratios_of_squared_cosines(offset):
    mpmath = pytest.importorskip("mpmath")

    def f(u):
        s = mpmath.mpf(offset)
        return mpmath.cos(mpmath.pi / 2 * (u + s) / (1 + s)) ** 2

    n = 400
    betas = cosine_betas(n, offset=offset)
    for i in (1, 2, 200, 399):
        truth = 1 - f(mpmath.mpf(i) / n) / f(mpmath.mpf(i - 1) / n)
        assert betas[i - 1].item() == pytest.approx(float(truth), rel=1e-9)
    assert betas[-1].item() == 0.999
    assert cosine_betas(n, largest=0.5).max().item() == 0.5
    vae = HierarchicalVAE.from_betas(betas)
    truth = math.sqrt(f(0.5) / f(0))
    assert vae.encoder.alphas[199].item() == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_betas(1), "layers=1"),
        (lambda: linear_betas(10, first=0), "first=0 must lie in"),
        (lambda: linear_betas(10, last=1.0), r"last=1\.0 must lie in"),
        (lambda: cosine_betas(1), "layers=1"),
        (lambda: cosine_betas(10, offset=0), "offset=0"),
        (lambda: cosine_betas(10, largest=1.0), r"largest=1\.0.*no signal"),
    ],
)
def test_what_are_no_betas_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("count", [2, 256, 65536])
def test_levels_fill_the_model_range_as_the_scaling_does(count):
    from sde_score.data import Scaling

    raw = torch.unique(torch.linspace(0, count - 1, 7).round().long())[None]
    x0 = Scaling.discrete(count).to_model(raw)
    assert x0.dtype == torch.float32
    assert torch.equal(Quantization(count).levels(x0), raw)


@pytest.mark.parametrize("value", [0.7, -0.70, 1.25, -1.25, float("nan")])
def test_values_that_are_no_center_are_refused(value):
    with pytest.raises(ValueError, match=r"centers of 4 levels .* not dequantized"):
        Quantization(4).levels(torch.tensor([[0.25, value]]))
