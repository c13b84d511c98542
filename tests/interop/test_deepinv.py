"""Our models as denoisers of deepinv: units, diffusions, one sigma for each image."""

from __future__ import annotations

import pytest
import torch

from sde_score.interop import DeepinvDenoiser
from sde_score.models import GaussianMixture
from sde_score.sdes import EDM, VE, VP, Rectified

SHAPE = (1, 2, 2)


@pytest.mark.parametrize("sde", [VP(), VE(0.01, 20.0), EDM(), Rectified()], ids=str)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_a_model_denoises_images_in_their_units(sde, bounds):
    """Of N(m, v) in their units with noise sigma the denoised mean is known."""
    width, center = (bounds[1] - bounds[0]) / 2, sum(bounds) / 2
    prior = GaussianMixture(torch.full((1, *SHAPE), 0.4, dtype=torch.float64), 0.3, sde)
    denoiser = DeepinvDenoiser(prior, bounds)
    x = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance = center + width * 0.4, width**2 * 0.3
    for sigma in (0.3, torch.tensor([0.1, 0.5, 2.0]), torch.tensor([0.1, 0.5, 2.0])[:, None]):
        noise = torch.as_tensor(sigma).double().flatten()[:, None, None, None] ** 2
        expected = mean + variance / (variance + noise) * (x - mean)
        torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-5, atol=1e-5)
    assert denoiser(x.float(), 0.3, physics=None).dtype == torch.float32
    torch.testing.assert_close(denoiser(x, 0.0), x, rtol=0, atol=2e-3)  # as at the least noise


def test_noise_beyond_the_diffusion_is_refused():
    prior = GaussianMixture(torch.zeros(1, *SHAPE), 0.3, VE(0.01, 20.0))
    with pytest.raises(ValueError, match=r"sigma=11 is above 10, the largest noise of VE"):
        DeepinvDenoiser(prior)(torch.zeros(1, *SHAPE), 11.0)
    with pytest.raises(ValueError, match="bounds"):
        DeepinvDenoiser(prior, (1.0, 0.0))
    with pytest.raises(TypeError, match="model"):
        DeepinvDenoiser(torch.nn.Identity())
