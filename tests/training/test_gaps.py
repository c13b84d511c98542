"""Tables with missing cells: what is not there is neither seen nor counted."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from sde_score import nn, samplers
from sde_score.data import DataError, from_table
from sde_score.models import ScoreModel
from sde_score.models.observed import ObservedEntries
from sde_score.objectives import DenoisingScoreMatching
from sde_score.random import BatchSlice, generator_from
from sde_score.training import Batches, TrainConfig, load_run, train
from sde_score.training.gaps import SHARE, gaps_words, hide
from sde_score.training.loss import LossModule

QUICK = {"backbone": "mlp(width=8, depth=1)", "steps": 2, "batch_size": 8, "device": "cpu"}


def gappy(count=60, share=0.4, seed=0, correlation=0.8):
    """A correlated pair and a category with gaps at random; in some rows nothing is missing."""
    rng = np.random.default_rng(seed)
    a, noise = rng.normal(size=(2, count))
    b = correlation * a + math.sqrt(1 - correlation**2) * noise
    jobs = np.array(["x", "y", "z"], dtype=object)[rng.integers(0, 3, count)]
    gone = rng.random((3, count)) < share
    gone[:, :3] = False
    return {
        "a": np.where(gone[0], np.nan, a),
        "b": np.where(gone[1], np.nan, b),
        "job": np.where(gone[2], None, jobs),
    }


def random_network(event_shape=(5,)):
    network = nn.create("masked(network='mlp(width=16, depth=1)')", event_shape).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def test_a_masked_network_sees_what_is_there():
    network = random_network()
    x, level = torch.randn(4, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    observed = torch.rand(4, 5) < 0.6
    told = {"observed": observed}
    other = torch.where(observed, x, torch.nan)
    assert torch.equal(network(x, level, told), network(other, level, told))
    assert not torch.allclose(network(x, level, told), network(x, level))
    assert torch.equal(network(x, level), network(x, level, {"observed": torch.ones(4, 5)}))
    with pytest.raises(ValueError, match="unknown backbone"):
        nn.create("masked(network='nothing')", (5,))


def test_missing_entries_have_the_score_of_zeros():
    """All four predictions are those of data that are 0, and those of the model elsewhere."""
    model = ScoreModel(random_network(), "vp", "edm")
    x, t = torch.randn(4, 5, dtype=torch.float64), torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    observed = torch.rand(4, 5) < 0.6
    seen, sigma = ObservedEntries(model, observed), model.sde.sigma(t)[:, None]
    slope = model.sde.sigma_derivative(t)[:, None]
    expected = {
        "score": -x / sigma**2,
        "denoise": torch.zeros_like(x),
        "noise": x / sigma,
        "velocity": slope * x / sigma,
    }
    for name, value in expected.items():
        before = seen.nfe
        found, whole = getattr(seen, name)(x, t), getattr(model, name)(x, t)
        torch.testing.assert_close(found[~observed], value[~observed], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found[observed], whole[observed], rtol=1e-12, atol=1e-12)
        assert seen.nfe == before + 1


def test_the_loss_counts_what_is_there():
    model = ScoreModel(random_network(), "vp")
    objective = DenoisingScoreMatching(time_sampler="uniform")
    x0 = torch.randn(6, 5, dtype=torch.float64)
    gone = torch.rand(6, 5) < 0.5
    x0[gone] = torch.nan
    loss = LossModule(model, objective, None)(x0, None, BatchSlice(generator_from(3), 0, 6))
    filled = torch.where(gone, 0.0, x0)
    t, importance, noise = objective.draw(model.sde, filled, BatchSlice(generator_from(3), 0, 6))
    xt = model.sde.perturb(filled, t, noise)
    model.beside = {"observed": ~gone}
    error = (model.noise(xt, t) - noise).square()
    weights = importance * objective.weight(model.sde, t)
    by_hand = (torch.where(gone, 0.0, error).sum(1) / 5 * weights).mean()
    torch.testing.assert_close(loss, by_hand)
    assert loss.item() > 0


def test_columns_are_hidden_whole_and_by_example(tmp_path):
    found = from_table(gappy(4000, share=0.0))
    found = dataclasses.replace(
        found, coding=from_table(gappy()).coding, scaling=from_table(gappy()).scaling
    )
    x0 = found.scaling.to_model(found.raw())
    hidden = hide(x0, found, BatchSlice(generator_from(0), 0, 4000)).isnan()
    assert torch.equal(hidden[:, 2], hidden[:, 3])
    assert torch.equal(hidden[:, 2], hidden[:, 4])
    columns = hidden[:, :3]
    assert columns.double().mean(0).tolist() == pytest.approx([SHARE / 2] * 3, abs=0.015)
    assert float(columns.any(1).double().mean()) == pytest.approx(SHARE * 7 / 8, abs=0.02)
    part = hide(x0[5:9], found, BatchSlice(generator_from(0), 5, 4000)).isnan()
    assert torch.equal(part, hidden[5:9])


def test_a_run_on_gaps_is_a_run(tmp_path, capfd):
    """Recorded, opened without the data, continued to the same bits, sampled as any other."""
    found = from_table(gappy())
    text = gaps_words(found)
    assert text.endswith("of 60 rows complete: learned by masks")
    config = TrainConfig(**QUICK, checkpoint_every=1)
    run = train(config, tmp_path / "a", data=found)
    assert f"% of the cells missing{text}" in capfd.readouterr().err
    assert run.config.backbone.startswith("masked(network='mlp(width=8, depth=1")
    train(dataclasses.replace(config, steps=1), tmp_path / "b", data=found, progress=False)
    again = train(config, tmp_path / "b", data=found, progress=False)
    assert again.digest == run.digest
    opened = load_run(tmp_path / "a")
    assert samplers.sample(opened.model, "heun(steps=2)", (5,), 3).isfinite().all()
    assert "NaN" not in (tmp_path / "a" / "data.json").read_text()
    assert json.loads((tmp_path / "a" / "data.json").read_text())["fingerprint"]["size"] > 0
    info, whole = found.info(), found.complete()
    assert all(math.isfinite(v) for v in (info.raw_min, info.raw_max, info.sigma_max))
    assert info.sigma_data == pytest.approx(1, abs=1e-6)
    assert not whole.raw().isnan().any()
    assert 3 <= len(whole) < 60
    parts = [part.raw() for part in run.with_data(found).measured_parts()[:2]]
    assert not any(part.isnan().any() for part in parts)
    batch = next(Batches(found, run.config).step(0)).x0
    assert batch.isnan().any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"coupling": "ot"}, "has missing cells, and coupling='ot' compares whole examples"),
        ({"excess": True}, "excess=True compares whole"),
        ({"objective": "mean-flow"}, "needs flow map, not a score"),
        (
            {"backbone": nn.create("mlp(width=4, depth=1)", (5,))},
            r"give sde_score.nn.Masked\(network, \(5,\)\)",
        ),
    ],
)
def test_what_cannot_leave_out_missing_cells_is_refused(tmp_path, change, says):
    config = TrainConfig(**{**QUICK, **change})
    with pytest.raises(ValueError, match=says):
        train(config, tmp_path, data=from_table(gappy()), progress=False)


def test_rows_that_are_never_complete_are_said_and_not_compared_with():
    found = from_table({"a": [1.0, np.nan, 2.0, np.nan], "b": [np.nan, 1.0, np.nan, 3.0]})
    assert "0 of 4 rows complete, so that rows are learned from their parts" in gaps_words(found)
    with pytest.raises(DataError, match="no row of table is complete"):
        found.complete()
    assert found.scaling.center == (1.5, 2.0)
    assert found.value_range() == ((1.0, 1.0), (2.0, 3.0))


def test_samples_have_the_covariance_that_gaps_leave(tmp_path):
    """Half of the cells are missing at random: filled by their mean they would be a quarter as
    correlated."""
    cells = {n: v for n, v in gappy(4000, 0.5).items() if n != "job"}
    found = from_table(cells)
    config = TrainConfig(
        backbone="mlp(width=32, depth=2)", steps=400, batch_size=256, learning_rate=4e-3, ema=0.98,
        schedule="cosine", device="cpu", checkpoint_every=400, log_every=400,
    )  # fmt: skip
    run = train(config, tmp_path, data=found, progress=False)
    drawn = samplers.sample(run.model, "auto(steps=12)", (2,), 4000, progress=False)
    raw = run.scaling.from_model(drawn.double())
    covariance = raw.T.cov()
    assert raw.mean(0).tolist() == pytest.approx([0, 0], abs=0.1)
    assert covariance.diagonal().tolist() == pytest.approx([1, 1], abs=0.15)
    assert float(covariance[0, 1]) == pytest.approx(0.8, abs=0.12)
    filled = torch.nan_to_num(found.raw() - found.raw().nanmean(0))
    assert float(filled.T.cov()[0, 1]) < 0.25
