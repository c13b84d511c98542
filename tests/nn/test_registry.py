"""Backbones by name: what a spec says is what is built."""

from __future__ import annotations

import pytest
import torch

from sde_score import nn


def test_every_name_can_be_built_and_called():
    """On the meta device, where the defaults of papers cost no memory."""
    assert nn.available()[:2] == ["mlp", "unet"]
    with torch.device("meta"):
        for name in nn.available():
            shape = (3, 16) if name == "transformer" else (3, 16, 16)
            net = nn.create(name, shape)
            assert net(torch.zeros(1, *shape), torch.zeros(1)).shape == (1, *shape)


def test_options_in_the_spec_reach_the_network():
    net = nn.create(
        "unet(base=4, multipliers=(1, 3), blocks=1, attention=(), dropout=0.25)", (1, 8, 8)
    )
    same = nn.UNet((1, 8, 8), base=4, multipliers=(1, 3), blocks=1, attention=(), dropout=0.25)
    assert str(net) == str(same)
    assert str(nn.create("mlp(width=8, depth=1)", (2,))) == str(nn.MLP((2,), width=8, depth=1))


@pytest.mark.parametrize("spec", ["unet(num_classes=3)", "mlp(event_shape=(2,))"])
def test_what_the_data_decide_is_refused_in_a_spec(spec):
    with pytest.raises(ValueError, match="which the data decide: leave it out of the spec"):
        nn.create(spec, (1, 8, 8))


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown backbone 'unett'; did you mean 'unet'"):
        nn.create("unett", (1, 8, 8))
    with pytest.raises(ValueError, match=r"backbone 'mlp' does not take hidden; accepted: .*width"):
        nn.create("mlp(hidden=3)", (2,))


@pytest.mark.parametrize(
    ("event_shape", "expected"),
    [
        ((2,), "mlp"),
        ((5, 15), "mlp"),
        ((5, 16), "unet(base=64, multipliers=(1, 2))"),
        ((1, 129), "unet(base=64, multipliers=(1, 2, 2, 2))"),
        ((4, 3, 9, 9), "mlp"),
        ((1, 4, 8, 8), "unet(base=32, multipliers=(1, 2))"),
        ((3, 17, 40, 32), "unet(base=32, multipliers=(1, 2, 2))"),
        ((1, 2, 2, 2, 2), "mlp"),
        ((1, 7, 9), "mlp"),
        ((1, 8, 8), "unet(base=32, multipliers=(1, 2))"),
        ((1, 28, 28), "unet(base=32, multipliers=(1, 2, 2))"),
        ((3, 32, 32), "unet(base=64, multipliers=(1, 2, 2))"),
        ((1, 33, 40), "unet(base=64, multipliers=(1, 2, 2, 2))"),
        ((3, 64, 80), "unet(base=64, multipliers=(1, 2, 2, 2))"),
    ],
)
def test_default_suits_the_shape_and_can_be_built(event_shape, expected):
    assert nn.default_for(event_shape) == expected
    nn.create(nn.default_for(event_shape), event_shape)


class Shapeless(torch.nn.Module):
    """A network of one's own that is built without the shape of the data."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((width,), 2.0))

    def forward(self, x, noise_level, condition=None):
        return self.scale.prod() * x


def test_a_network_of_ones_own_is_given_what_its_constructor_takes(register_for_test):
    register_for_test(nn.BACKBONES, "shapeless", Shapeless)
    network = nn.create("shapeless(width=2)", (5,))
    assert torch.equal(network(torch.ones(1, 5), torch.zeros(1)), torch.full((1, 5), 4.0))
    with pytest.raises(ValueError, match="'shapeless' takes no num_classes, so that it cannot be"):
        nn.create("shapeless", (5,), num_classes=3)

    seen = {}

    def shaped(event_shape, num_classes):
        seen.update(event_shape=event_shape, num_classes=num_classes)
        return Shapeless()

    register_for_test(nn.BACKBONES, "shaped", shaped)
    nn.create("shaped", (4, 2), num_classes=7)
    assert seen == {"event_shape": (4, 2), "num_classes": 7}
