"""Averages whose length is chosen afterwards: recorded numbers, and averages that were kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sde_score.training.posthoc_ema import (
    LONGEST,
    Snapshot,
    inner_products,
    power_of,
    reconstruct,
    reconstruction_weights,
    sigma_rel_of,
    update_factor,
)

STORED = (0.05, 0.1)


def kept(path, sigma_rels, step=1.0):
    """Averages of a path of weights after every step, shape (steps, lengths, *weights)."""
    gammas = [power_of(one) for one in sigma_rels]
    average = torch.zeros(len(gammas), *path.shape[1:], dtype=path.dtype)
    rows = []
    for i, weights in enumerate(path, start=1):
        for average_of, gamma in zip(average, gammas, strict=True):
            average_of.lerp_(weights, 1 - update_factor(gamma, i * step, step))
        rows.append(average.clone())
    return torch.stack(rows)


def test_powers_and_lengths_are_the_recorded_ones(reference, close):
    arrays, _ = reference("edm2_posthoc_ema")
    stds, powers = arrays["table_std_f64"], arrays["table_exp_f64"]
    found = torch.tensor([power_of(one) for one in stds.tolist()], dtype=torch.float64)
    close(found, powers, rtol=1e-8)
    back = torch.tensor([sigma_rel_of(one) for one in found.tolist()], dtype=torch.float64)
    close(back, arrays["table_std_back_f64"], rtol=1e-8)


def test_a_length_is_the_deviation_of_its_weight_function():
    for sigma_rel in (0.03, 0.1, 0.28):
        gamma = power_of(sigma_rel)
        s = (np.arange(200_000) + 0.5) / 200_000
        p = (gamma + 1) * s**gamma / len(s)
        mean = (p * s).sum()
        assert math.sqrt((p * (s - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-6)


def test_factors_and_inner_products_are_the_recorded_ones(reference, close):
    arrays, description = reference("edm2_posthoc_ema")
    params = description["params"]
    lengths = [*params["stds"], *params["targets"]]
    batch, steps = params["batch_size"], params["steps"]
    counts = [1, 2, 7, steps]
    found = [[update_factor(power_of(one), batch * n, batch) for n in counts] for one in lengths]
    close(torch.tensor(found, dtype=torch.float64), arrays["beta_f64"], rtol=1e-8)
    t = batch * torch.tensor(counts, dtype=torch.float64)
    a, b = (t.new_tensor(power_of(one)) for one in (params["stds"][0], params["targets"][-1]))
    close(inner_products(a, t[:, None], b, t), arrays["correlation_f64"], rtol=1e-8)


def test_inner_products_are_integrals():
    s = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 * 3
    one = torch.tensor([2.5, 0.7, 2.0, 3.0], dtype=torch.float64)

    def function(gamma, t):
        return torch.where(s <= t, (gamma + 1) / t * (s / t) ** gamma, 0)

    for first, second in ((one[:2], one[2:]), (one[2:], one[:2]), (one[:2], one[:2])):
        product = (function(*first) * function(*second)).sum() * 3 / len(s)
        found = inner_products(first[0], first[1], second[0], second[1])
        assert found.item() == pytest.approx(product.item(), rel=1e-4)


def test_averages_are_the_recorded_ones(reference, close):
    """Kept in training, stored every 16 steps, and put together afterwards."""
    arrays, description = reference("edm2_posthoc_ema")
    params = description["params"]
    path, every, batch = arrays["trajectory"], params["snapshot_every"], params["batch_size"]
    averages = kept(path, params["stds"], batch)
    close(averages[every - 1 :: every], arrays["snapshots_f64"], rtol=1e-8, atol=1e-9)
    direct = kept(path, params["targets"], batch)
    times = arrays["snapshot_nimg_f64"].tolist()
    snapshots = [
        Snapshot(t, length, {"w": averages[int(t / batch) - 1, j]})
        for t in times
        for j, length in enumerate(params["stds"])
    ]
    for i, end in enumerate(params["out_steps"]):
        close(direct[end - 1], arrays["direct_f64"][i], rtol=1e-8, atol=1e-9)
        stored = [one for one in snapshots if one.time <= end * batch]
        for j, target in enumerate(params["targets"]):
            weights = reconstruction_weights(
                [one.time for one in stored],
                [one.sigma_rel for one in stored],
                end * batch,
                target,
            )
            recorded = arrays["coefficients_f64"][i, j].flatten()[: len(stored)]
            close(weights, recorded, rtol=0, atol=1e-6)
            found = reconstruct(snapshots, target, end * batch)["w"]
            close(found, arrays["reconstructed_f64"][i, j], rtol=1e-6, atol=1e-7)


def paths(steps):
    """Constant, linear and decaying weights, and a random walk."""
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    walk = torch.randn(steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([torch.full_like(t, 1.7), t, (-5 * t).exp(), walk.cumsum(0)], dim=1)


@pytest.mark.parametrize(("target", "bound"), [(0.15, 2e-3), (0.07, 2e-3), (0.2, 2e-2)])
def test_reconstruction_is_near_the_average_that_was_kept(target, bound):
    """32 snapshots; the constant is exact, and a single length does far worse."""
    steps, every = 2048, 64
    path = paths(steps)
    averages, direct = kept(path, STORED), kept(path, [target])[-1, 0]
    snapshots = [
        Snapshot(i, length, {"w": averages[i - 1, j]})
        for i in range(every, steps + 1, every)
        for j, length in enumerate(STORED)
    ]
    scale = path.abs().amax(0)
    error = (reconstruct(snapshots, target)["w"] - direct).abs() / scale
    assert error[0] < 1e-12
    assert error.max() < bound
    alone = (averages[-1, 0] - direct).abs() / scale
    assert alone.max() > 3 * error.max()


def test_a_stored_length_comes_back():
    averages = kept(paths(256), STORED)
    snapshots = [
        Snapshot(i, length, {"w": averages[i - 1, j]})
        for i in (64, 128, 256)
        for j, length in enumerate(STORED)
    ]
    found = reconstruct(snapshots, 0.1)["w"]
    torch.testing.assert_close(found, averages[-1, 1], rtol=1e-6, atol=1e-6)
    found = reconstruct(snapshots, 0.05, time=128)["w"]
    torch.testing.assert_close(found, averages[127, 0], rtol=1e-6, atol=1e-6)


def test_dtypes_stay_and_counters_are_the_last():
    snapshots = [
        Snapshot(t, length, {"w": torch.full((2,), t, dtype=torch.float16), "n": torch.tensor(t)})
        for t in (1, 2)
        for length in STORED
    ]
    found = reconstruct(snapshots, 0.08)
    assert found["w"].dtype == torch.float16
    assert found["n"].item() == 2
    assert found["w"].isfinite().all()


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, LONGEST, 0.3, float("nan")])
def test_lengths_out_of_range_are_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"sigma_rel=.* must lie between 0 and 0.2887"):
        power_of(sigma_rel)


def test_what_does_not_fit_is_refused():
    one = Snapshot(2.0, 0.1, {"w": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"no snapshot at or before time=1"):
        reconstruct([one], 0.1, time=1)
    with pytest.raises(ValueError, match="no snapshot"):
        reconstruct([], 0.1)
    with pytest.raises(ValueError, match="same time and sigma_rel"):
        reconstruct([one, one], 0.1)
    with pytest.raises(ValueError, match="different names"):
        reconstruct([one, Snapshot(1.0, 0.1, {"v": torch.zeros(1)})], 0.1)
    with pytest.raises(ValueError, match="got 1 times and 2 lengths"):
        reconstruction_weights([1.0], [0.1, 0.2], 1.0, 0.1)
    with pytest.raises(ValueError, match="smallest_time=0"):
        reconstruction_weights([0.0], [0.1], 1.0, 0.1)
    with pytest.raises(ValueError, match=r"step=2 must lie in \(0, time=1\]"):
        update_factor(1.0, 1, 2)
