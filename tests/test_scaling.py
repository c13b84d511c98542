from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats

from sde_score.data import DataError, Scaling
from sde_score.random import BatchSlice, generator_from


def brute_log_abs_det(scaling: Scaling, raw: torch.Tensor) -> float:
    """log |det d model / d raw| by automatic differentiation of `to_model`."""
    jacobian = torch.autograd.functional.jacobian(
        lambda r: scaling.to_model(r).to(torch.float64), raw.to(torch.float64)
    )
    return torch.linalg.slogdet(jacobian.reshape(raw.numel(), raw.numel())).logabsdet.item()


@pytest.mark.parametrize("levels", [2, 17, 256, 1000, 65536])
def test_every_level_survives_the_round_trip_and_lies_at_its_bin_middle(levels):
    raw = torch.arange(levels).reshape(-1, 1)
    scaling = Scaling.discrete(levels)
    model = scaling.to_model(raw)
    expected = [2 * (k + 0.5) / levels - 1 for k in range(levels)]
    torch.testing.assert_close(model.flatten(), torch.tensor(expected), rtol=0, atol=1.2e-7)
    back = scaling.from_model(model)
    assert torch.equal(back.long(), raw)
    assert back.dtype == (torch.uint8 if levels <= 256 else torch.int32)
    assert torch.equal(scaling.from_model(model.double()).long(), raw)


def test_a_level_owns_exactly_the_bin_of_width_two_over_levels():
    """Points just inside both ends of bin k give k: nothing is rounded up or shifted."""
    scaling = Scaling.discrete(17)
    for k in range(17):
        ends = torch.tensor([[2 * (k + 1e-6) / 17 - 1], [2 * (k + 1 - 1e-6) / 17 - 1]]).double()
        assert scaling.from_model(ends).flatten().tolist() == [k, k]


def test_samples_beyond_the_range_are_clipped_to_the_outer_levels():
    x = torch.tensor([[-1.5], [-1.0], [1.0], [7.0]])
    assert Scaling.discrete(17).from_model(x).flatten().tolist() == [0, 0, 16, 16]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_level_is_made_up_for_values_that_are_not_finite(bad):
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        Scaling.discrete(17).from_model(torch.tensor([[bad]]))


def test_dequantization_is_uniform_over_the_bin_of_each_level():
    scaling = Scaling.discrete(17)
    for level in (0, 3, 16):
        raw = torch.full((4000, 1, 2), level, dtype=torch.uint8)
        x = scaling.dequantize(raw, generator_from(level)).double()
        low = 2 * level / 17 - 1
        distribution = stats.uniform(loc=low, scale=2 / 17)
        assert stats.kstest(x.flatten().numpy(), distribution.cdf).pvalue > 0.01
        assert x.min() >= low - 1e-7
        assert x.max() <= low + 2 / 17 + 1e-7
        correlation = torch.corrcoef(x.flatten(1).T)[0, 1].item()
        assert abs(correlation) < 4 / math.sqrt(4000)


def test_dequantized_levels_are_recovered():
    raw = torch.arange(256, dtype=torch.uint8).repeat(8).reshape(-1, 1)
    scaling = Scaling.discrete(256)
    x = scaling.dequantize(raw, generator_from(5))
    assert torch.equal(scaling.from_model(x), raw)


def test_a_process_with_part_of_the_batch_draws_its_part_of_the_noise():
    raw = torch.randint(17, (6, 1, 2, 3), generator=generator_from(1))
    scaling = Scaling.discrete(17)
    whole = scaling.dequantize(raw, BatchSlice(generator_from(7), 0, 6))
    assert torch.equal(whole, scaling.dequantize(raw, generator_from(7)))
    for start, stop in ((0, 2), (2, 6)):
        draws = BatchSlice(generator_from(7), start, 6)
        assert torch.equal(scaling.dequantize(raw[start:stop], draws), whole[start:stop])


def test_continuous_data_are_not_spread():
    raw = torch.randn(5, 3, generator=generator_from(0))
    scaling = Scaling(center=0.5, width=2.0)
    assert torch.equal(scaling.dequantize(raw, generator_from(0)), (raw - 0.5) / 2)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_uniform_density_costs_log2_levels_bits(levels):
    """The density 2^-D on [-1, 1]^D makes the L levels equally likely: each costs log2(L) bits."""
    event = (3, 4, 2)
    log_prob = torch.full((5,), -24 * math.log(2.0), dtype=torch.float64)
    bits = Scaling.discrete(levels).bits_per_dim(log_prob, event)
    torch.testing.assert_close(bits, torch.full((5,), math.log2(levels)).double())


@pytest.mark.parametrize(
    ("scaling", "offset"),
    [(Scaling.discrete(256), 7.0), (Scaling(center=0.0, width=256.0, levels=256), 8.0)],
)
def test_eight_bit_offsets_are_seven_bits_in_minus_one_to_one_and_eight_in_zero_to_one(
    scaling, offset
):
    log_prob = torch.tensor([-100.0, 0.0, 250.0], dtype=torch.float64)
    bits = scaling.bits_per_dim(log_prob, (1, 4, 5))
    torch.testing.assert_close(bits, -log_prob / (20 * math.log(2)) + offset, rtol=0, atol=1e-12)


def test_gaussian_density_gives_its_differential_entropy_in_raw_units():
    """Raw N(m, s^2) standardized is N(0, I); the code length must be that of the raw data."""
    mean, std = torch.tensor([3.0, -1.0]).double(), torch.tensor([0.2, 50.0]).double()
    raw = mean + std * torch.randn(7, 2, dtype=torch.float64, generator=generator_from(3))
    scaling = Scaling(center=tuple(mean.tolist()), width=tuple(std.tolist()))
    model = (raw - mean) / std
    log_model = torch.distributions.Normal(0.0, 1.0).log_prob(model).sum(1)
    log_raw = torch.distributions.Normal(mean, std).log_prob(raw).sum(1)
    expected = -log_raw / (2 * math.log(2))
    torch.testing.assert_close(scaling.bits_per_dim(log_model, (2,)), expected)


@pytest.mark.parametrize(
    ("scaling", "event"),
    [
        (Scaling(), (2, 3)),
        (Scaling.discrete(17), (1, 2, 3)),
        (Scaling(center=-3.0, width=0.25), (4,)),
        (Scaling(center=(1.0, 2.0, 3.0), width=(0.5, 4.0, 10.0)), (3,)),
    ],
)
def test_log_abs_det_is_that_of_the_map(scaling, event):
    raw = torch.zeros(1, *event)
    expected = brute_log_abs_det(scaling, raw)
    assert scaling.log_abs_det(event) == pytest.approx(expected, abs=1e-6)


def test_standardized_data_have_mean_zero_and_deviation_one():
    raw = 1e4 + 3 * torch.randn(4000, 2, 3, dtype=torch.float64, generator=generator_from(2))
    raw[:, 0] += 5
    scaling = Scaling.standardize(raw)
    assert scaling.center == pytest.approx(raw.mean().item(), abs=1e-9)
    assert scaling.width == pytest.approx(raw.std(correction=0).item(), rel=1e-9)
    torch.testing.assert_close(scaling.from_model((raw - scaling.center) / scaling.width), raw)


def test_each_feature_of_a_table_is_standardized_on_its_own():
    draw = torch.randn(500, 3, dtype=torch.float64, generator=generator_from(2))
    raw = draw * torch.tensor([0.01, 1.0, 1e5]) + torch.tensor([0.0, -7.0, 1e6])
    scaling = Scaling.standardize(raw, per_feature=True)
    model = scaling.to_model(raw).double()
    torch.testing.assert_close(model.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.std(0, correction=0), torch.ones(3).double())
    back = scaling.from_model(model)
    torch.testing.assert_close(back, raw, rtol=1e-6, atol=1e-6)


def test_data_that_never_change_are_refused():
    with pytest.raises(DataError, match="nothing to learn"):
        Scaling.standardize(torch.full((5, 2), 3.0))
    with pytest.raises(DataError, match="feature 1 is constant"):
        Scaling.standardize(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), per_feature=True)
    with pytest.raises(ValueError, match="takes \\(count, features\\)"):
        Scaling.standardize(torch.randn(4, 2, 2), per_feature=True)


@pytest.mark.parametrize(
    "scaling", [Scaling.discrete(17), Scaling(0.1, 3.7), Scaling((0.1, 2.0), (3.0, 1 / 3))]
)
def test_a_scaling_survives_json(scaling):
    stored = json.loads(json.dumps(scaling.record()))
    assert Scaling.from_record(stored) == scaling
    assert hash(Scaling.from_record(stored)) == hash(scaling)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"width": 0.0}, ValueError, "width=0.0"),
        ({"width": -1.0}, ValueError, "width=-1.0"),
        ({"center": math.nan}, ValueError, "center=nan"),
        ({"center": (1.0,), "width": 2.0}, ValueError, "both be one number"),
        ({"center": (1.0,), "width": (2.0, 3.0)}, ValueError, "both be one number"),
        ({"width": "wide"}, TypeError, "width='wide'"),
        ({"levels": 1}, ValueError, "levels=1"),
    ],
)
def test_impossible_scalings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Scaling(**arguments)
    with pytest.raises(error, match=message):
        Scaling.from_record(arguments)


def test_a_scaling_of_features_refuses_other_events():
    scaling = Scaling((0.0, 0.0), (1.0, 2.0))
    for call in (
        lambda: scaling.to_model(torch.zeros(4, 3)),
        lambda: scaling.from_model(torch.zeros(4, 5, 2)),
        lambda: scaling.log_abs_det((3,)),
    ):
        with pytest.raises(ValueError, match=r"does not fit a scaling of 2 features"):
            call()
    with pytest.raises(ValueError, match="does not take size"):
        Scaling.from_record({"size": 2})
