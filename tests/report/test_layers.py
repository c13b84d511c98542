"""The areas in the picture of the layers are the terms of the bound."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.data import Scaling
from sde_score.discrete import HierarchicalVAE
from sde_score.models import GaussianMixture
from sde_score.report import layer_bits, layers_figure
from sde_score.sdes import VP


@pytest.fixture
def elbo():
    model = GaussianMixture([[0.2, -0.4]], 0.3, VP())
    x0 = torch.tensor([[0.1, 0.3], [-0.5, 0.2], [0.4, -0.4]], dtype=torch.float64)
    return HierarchicalVAE.from_sde(VP(), 12).elbo(model, x0, seed=0)


def test_each_step_has_the_area_of_its_layer(elbo):
    """Layer i stands between the log-SNRs of layers i - 1 and i, noise on the left."""
    edges, heights = layer_bits(elbo)
    assert bool((edges.diff() > 0).all())
    for i in range(2, 13):
        width = elbo.log_snrs[i - 2] - elbo.log_snrs[i - 1]
        step = len(heights) - (i - 1)
        assert edges[step].item() == elbo.log_snrs[i - 1].item()
        bits = elbo.layers[i - 2].mean() / (2 * math.log(2))
        torch.testing.assert_close(heights[step] * width, bits)


def test_figure_says_total_and_parts(elbo):
    scaling = Scaling(1.0, 4.0)
    axes = layers_figure(elbo, scaling).axes[0]
    total = scaling.bits_per_dim(-elbo.nats, (2,)).mean()
    assert f"{float(total):.3f} bits" in axes.get_title(loc="left")
    words = axes.texts[0].get_text().replace("+", "").split()
    parts = [float(word) for word in words[1::2]]
    assert words[::2] == ["prior", "layers", "decoder"]
    assert sum(parts) == pytest.approx(float(total), abs=2e-3)
    assert parts[1] == pytest.approx(float(elbo.layers.sum(0).mean()) / (2 * math.log(2)), abs=1e-3)


def test_a_density_needs_its_scaling(elbo):
    with pytest.raises(ValueError, match="scaling"):
        layers_figure(elbo)
