"""Filters, resampling and time features, against recorded numbers and their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sde_score.nn.blocks.attention import Attention
from sde_score.nn.blocks.resampling import (
    BOX,
    FIR,
    ConvDownsample,
    ConvUpsample,
    Downsample,
    Upsample,
)
from sde_score.nn.blocks.time_embedding import TimeFeatures

FILTERS = {"k0": FIR, "k1": BOX, "k2": (1.0, 4.0, 2.0, 1.0)}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_those_of_ncsnpp(reference, close, name):
    """The third filter has no symmetry, so a flipped one is seen."""
    arrays, _ = reference("layers_resample_embed")
    x, taps = arrays["x"], FILTERS[name]
    close(Downsample(2, taps)(x), arrays[f"{name}.downsample_2d"])
    close(Upsample(2, taps)(x), arrays[f"{name}.upsample_2d"])
    conv = ConvDownsample(3, 5, 2, taps).double()
    conv.load_state_dict({"conv.weight": arrays["w"], "conv.bias": torch.zeros(5)})
    close(conv(x), arrays[f"{name}.conv_downsample_2d"])


@pytest.mark.parametrize("name", ["filter0", "filter1"])
def test_filters_are_those_of_edm(reference, close, name):
    """Resampling, then the convolution."""
    arrays, _ = reference("edm_blocks")
    taps = {"filter0": BOX, "filter1": FIR}[name]
    x, weight, bias = arrays["xs"], arrays["conv.weight"], arrays["conv.bias"]
    for way, layer in (("up", Upsample(2, taps)), ("down", Downsample(2, taps))):
        got = F.conv2d(layer(x), weight, bias, padding=1)
        close(got, arrays[f"conv_{way}.{name}.out"])


@pytest.mark.parametrize("taps", [BOX, FIR])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_filters_of_any_rank_are_products_along_the_sides(dims, taps):
    shape = (2, 3, 4, 6, 8)[: 2 + dims]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    down, up = x, x
    for side in range(2, 2 + dims):
        down = along(down, side, Downsample(1, taps))
        up = along(up, side, Upsample(1, taps))
    torch.testing.assert_close(Downsample(dims, taps)(x), down)
    torch.testing.assert_close(Upsample(dims, taps)(x), up)


def along(x, side, layer):
    moved = x.movedim(side, -1)
    lines = layer(moved.reshape(-1, 1, moved.shape[-1]))
    return lines.reshape(*moved.shape[:-1], -1).movedim(-1, side)


@pytest.mark.parametrize("size", [(5, 7), (4, 7), (1, 2)])
def test_odd_sides_are_padded_by_a_zero_and_cut_again(size):
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = tuple(-(-side // 2) for side in size)
    padded = F.pad(x, (0, size[1] % 2, 0, size[0] % 2))
    for layer in (Downsample(2, BOX), Downsample(2, FIR), ConvDownsample(2, 2).double()):
        got = layer(x)
        assert got.shape[2:] == half
        torch.testing.assert_close(got, layer(padded))
    for layer in (Upsample(2, BOX), Upsample(2, FIR), ConvUpsample(2, 2).double()):
        assert layer(Downsample()(x), size).shape == x.shape


def test_a_filter_needs_pairs_of_taps():
    with pytest.raises(ValueError, match="even number"):
        Downsample(2, (1.0, 2.0, 1.0))


def test_weights_hold_no_taps():
    assert set(ConvDownsample(2, 2, 2, FIR).state_dict()) == {"conv.weight", "conv.bias"}


@pytest.mark.parametrize("channels", [16, 32, 9])
def test_positional_features_are_those_of_score_sde(reference, close, channels):
    arrays, _ = reference("layers_resample_embed")
    got = TimeFeatures(channels).of(arrays["timesteps"])
    close(got, arrays[f"embed_{channels}"])


def test_positional_features_of_adm_begin_with_cosines_and_stop_before_the_end():
    label = torch.tensor([0.0, 3.0, 999.0], dtype=torch.float64)
    got = TimeFeatures(8, sine_first=False, shift=0.0).of(label)
    angles = label[:, None] * 10000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    torch.testing.assert_close(got, torch.cat([angles.cos(), angles.sin()], 1))


def test_random_features_are_those_of_score_sde(reference, close):
    arrays, _ = reference("layers_resample_embed")
    got = TimeFeatures(12, "fourier").of(arrays["log_sigma"], arrays["fourier.W"])
    close(got, arrays["fourier.out"])


@pytest.mark.parametrize("scale", [1.0, 0.5**0.5])
def test_attention_is_that_of_ncsnpp(reference, close, scale):
    arrays, _ = reference("layers_resample_embed")
    state = {key[11:]: value for key, value in arrays.items() if key.startswith("attn.state.")}
    attention = Attention(8, 1, 2, 1e-6, scale).double()
    attention.load_state_dict(
        {
            "norm.weight": state["GroupNorm_0.weight"],
            "norm.bias": state["GroupNorm_0.bias"],
            "qkv.weight": torch.cat([state[f"NIN_{j}.W"].mT for j in range(3)]),
            "qkv.bias": torch.cat([state[f"NIN_{j}.b"] for j in range(3)]),
            "out.weight": state["NIN_3.W"].mT,
            "out.bias": state["NIN_3.b"],
        }
    )
    name = "attn.out" if scale == 1 else "attn.out_skip_rescale"
    close(attention(arrays["attn.x"]), arrays[name])
