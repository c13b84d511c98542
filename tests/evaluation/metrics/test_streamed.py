"""Distances of samples that come in pieces agree with those of all at once."""

from __future__ import annotations

import pytest
import torch

from sde_score.data import Scaling, from_tensor
from sde_score.evaluation import DistanceEstimator
from sde_score.evaluation.metrics.streamed import StreamedEstimator, held_at_once


def _set(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + shift


TRAIN, REFERENCE, SAMPLES = _set(480, 0), _set(700, 1), _set(640, 2, 0.1)
SPECS = ["energy", "frechet", "kernel"]


def _streamed(held=100):
    parts = (from_tensor(x, scaling=Scaling()) for x in (TRAIN, REFERENCE))
    return StreamedEstimator(*parts, 640, SPECS, held)


def test_frechet_distances_are_of_all_and_others_of_the_first():
    """Half of the smaller set at a time in both, with other subsets: equal within their spread."""
    found = _streamed()(torch.split(SAMPLES, 77))
    whole = DistanceEstimator(TRAIN, REFERENCE, 640, ["frechet"])
    exact = whole(SAMPLES)[0]
    assert _streamed().size == whole.size == 240
    assert found[1].value == pytest.approx(exact.value, abs=exact.standard_error)
    assert found[1].standard_error == pytest.approx(exact.standard_error, rel=0.35)
    floor, real = _streamed().floors[1], whole.floors[0]
    assert floor.value == pytest.approx(real.value, abs=2 * real.standard_error)
    assert floor.standard_error == pytest.approx(real.standard_error, rel=0.35)
    first = DistanceEstimator(TRAIN, REFERENCE, 100, ["energy", "kernel"])
    assert (found[0], found[2]) == first(SAMPLES[:100])
    assert _streamed().names == (
        "energy (first 100)",
        "frechet[pixels]",
        "kernel[pixels] (first 100)",
    )


def test_pieces_change_nothing_and_no_sample_is_counted_twice():
    one = _streamed()([SAMPLES])
    for size in (13, 240, 639):
        other = _streamed()(torch.split(SAMPLES, size))
        assert other[1].value == pytest.approx(one[1].value, rel=1e-9)
        assert other[0] == one[0]


def test_intervals_cover_the_spread_of_new_samples():
    """The distance of new sets of samples scatters as the standard error says."""
    values, errors, parts = [], [], (_streamed().train, _streamed().reference)
    estimator = StreamedEstimator(*parts, 480, ["frechet"], 100)
    assert estimator.size == 240  # half of the samples, so that what they share counts
    for seed in range(40):
        found = estimator([_set(480, 100 + seed, 0.3)])[0]
        values.append(found.value)
        errors.append(found.standard_error)
    spread = float(torch.tensor(values).std())
    assert spread == pytest.approx(float(torch.tensor(errors).mean()), rel=0.2)


def test_what_is_held_is_bounded():
    assert held_at_once(500, (1, 8, 8)) == 500
    assert held_at_once(50_000, (1, 8, 8)) == 10_000
    assert held_at_once(50_000, (3, 256, 256)) == (1 << 29) // (4 * 3 * 256 * 256)


def test_too_few_examples_for_a_floor_are_refused():
    few = from_tensor(TRAIN[:20], scaling=Scaling())
    with pytest.raises(ValueError, match=r"20 real examples give no floor.*32 are needed"):
        StreamedEstimator(few, few, 640, ["frechet"], 100)


def test_evaluate_draws_large_sets_in_pieces(tmp_path, monkeypatch):
    """The same samples as in one piece; their Frechet distance is of all of them."""
    from sde_score.evaluation import evaluate
    from sde_score.training import TrainConfig, train

    config = TrainConfig(
        data="moons(n=200)", steps=1, batch_size=8, backbone="mlp(width=4)", conditional=True,
        held_out=0.3,
    )  # fmt: skip
    run = train(config, tmp_path, progress=False)
    given = {"count": 90, "batch_size": 16, "distances": ["energy", "frechet"], "progress": False}
    whole = evaluate(run, ["ddim(steps=2)"], **given)
    monkeypatch.setattr("sde_score.evaluation.metrics.streamed._MOST", 40)
    found = evaluate(run, ["ddim(steps=2)"], **given)
    kept, all_at_once = found.rows[0].samples, whole.rows[0].samples
    torch.testing.assert_close(kept, all_at_once[:40])
    assert torch.equal(found.rows[0].labels, whole.rows[0].labels[:40])
    assert (found.rows[0].nfe, found.names) == (2, ("energy (first 40)", "frechet[pixels]"))
    exact = whole.rows[0].distances[1]
    assert abs(found.rows[0].distances[1].value - exact.value) < 3 * exact.standard_error
