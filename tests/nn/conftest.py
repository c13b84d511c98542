"""Small backbones of every kind, with weights that are nowhere zero, and calls for them."""

from __future__ import annotations

import inspect

import pytest
import torch

from sde_score import nn
from sde_score._core.registry import format_spec


@pytest.fixture
def randomize():
    """Draw every parameter anew, so that zero-initialized layers take part."""

    def draw(module, seed=0, scale=0.2):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(scale * noise)
        return module

    return draw


# Event shape and options of the small networks; one that is added is tested with its defaults.
SMALL = {
    "mlp": ((3, 2), {"width": 16, "depth": 2}),
    "dit": ((2, 7, 5), {"width": 8, "depth": 2, "heads": 2, "features": 8}),
    "transformer": ((5, 3), {"width": 8, "depth": 2, "heads": 2}),
    "edm2": ((2, 7, 5), {"widths": (4, 8), "blocks": 1, "attention": (3,), "head_channels": 4}),
    "uvit": ((2, 7, 5), {"width": 24, "depth": 2, "heads": 2, "last_convolution": False}),
    "unet": ((2, 9, 11), {"base": 4, "multipliers": (1, 2), "blocks": 1, "attention": (5,)}),
    "hdit": (
        (2, 9, 7),
        {
            "widths": (8, 16, 8),
            "depths": (2, 1, 1),
            "attention": ("window", "neighborhood", "global"),
            "sizes": (2, 3, 1),
            "head_channels": 8,
            "patch": 1,
            "embedding_width": 8,
        },
    ),
    "kdiff-unet": (
        (2, 7, 9),
        {"widths": (4, 8), "depths": (1, 2), "attention": (False, True), "embedding_width": 8},
    ),
    "lucidrains-unet": (
        (2, 7, 9),
        {"base": 4, "multipliers": (1, 2), "heads": (1, 2), "head_channels": (4, 3), "memory": 2},
    ),
    "ncsnpp": ((2, 5, 7), {"base": 8, "multipliers": (1, 2), "blocks": 1, "attention": (3,)}),
    "ddpmpp": ((2, 6), {"base": 8, "multipliers": (1, 2), "blocks": 1, "attention": (3,)}),
    "ddpm": ((2, 4, 3), {"base": 64, "multipliers": (1,), "blocks": 1, "attention": (3,)}),
    "adm": (
        (2, 6, 5),
        {"base": 8, "multipliers": (1, 2), "blocks": 1, "attention": (5, 3), "head_channels": 4},
    ),
    "residual-unet": (
        (2, 7, 6),
        {
            "widths": (8, 4),
            "blocks": 1,
            "attention": (False, True),
            "up_attention": "last",
            "down": "filter",
            "up": "conv",
            "channels_per_group": 2,
            "fir": True,
            "input_branch": "skip",
            "output_branch": "skip",
            "concatenate": True,
        },
    ),
}


def takes_classes(name):
    """Whether a network knows classes and noise levels; others have their own tests."""
    return "num_classes" in inspect.signature(nn.BACKBONES[name]).parameters


@pytest.fixture(params=filter(takes_classes, nn.available()))
def build(request, randomize):
    """A float64 backbone of each kind with attention and random weights, in evaluation mode."""
    event_shape, options = SMALL.get(request.param, ((2, 8, 8), {}))
    constructor = nn.BACKBONES[request.param]

    def make(num_classes=0, dropout=0.0, random_weights=True, told=None):
        if told is not None:
            kinds = told(event_shape)
            net = nn.create(format_spec(request.param, options), event_shape, 0, kinds)
            return randomize(net.double().eval())
        given = dict(options, event_shape=event_shape, num_classes=num_classes)
        if "dropout" in inspect.signature(constructor).parameters:
            given["dropout"] = dropout
        elif dropout:
            pytest.skip("has no dropout")
        net = constructor(**given).double().eval()
        return randomize(net) if random_weights else net

    return make


@pytest.fixture
def call_for():
    """Arguments (x, noise_level, labels) that fit a backbone."""

    def make(net, batch=3, seed=1, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, *net.event_shape, generator=generator, dtype=dtype)
        noise_level = torch.linspace(-1.5, 1.5, batch, dtype=dtype)
        return x, noise_level, torch.arange(batch) % max(1, net.embedding.num_classes)

    return make
