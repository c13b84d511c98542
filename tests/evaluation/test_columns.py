"""Likelihood of tables in their own units: against densities and probabilities known exactly."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, QuantileTransformer, StandardScaler

from sde_score.data import DataError, from_table
from sde_score.evaluation import likelihood
from sde_score.evaluation.columns import in_columns, spread_rows
from sde_score.likelihood import BitsPerDim
from sde_score.models import GaussianMixture
from sde_score.scaling import nats_to_bits
from sde_score.training import TrainConfig, train

RNG = np.random.default_rng(0)
QUICK = {"backbone": "mlp(width=4, depth=1)", "steps": 1, "batch_size": 8, "device": "cpu"}


def gaussian_bits(found, model_range):
    """Bits of each encoded row under a standard normal density in model range."""
    x = found.scaling.to_model(model_range).double()
    log_prob = -0.5 * (x.square() + math.log(2 * math.pi)).sum(1)
    return BitsPerDim(found.scaling.bits_per_dim(log_prob, found.event_shape), 0)


def test_a_run_has_the_density_of_its_columns(tmp_path):
    """A model that is Gaussian in log and logit has log-normal and logit-normal columns."""
    cells = {"a": RNG.lognormal(1, 0.5, 40), "b": RNG.uniform(2, 5, 40), "c": ["kg"] * 40}
    found = from_table(cells, "a:positive,b:bounded(2, 5)")
    run = train(TrainConfig(**QUICK), tmp_path, data=found, progress=False)
    exact = GaussianMixture([[0.0, 0.0]], 1.0, "vp")
    exact.parameters = lambda: iter([torch.zeros(1)])  # on the CPU
    measured = likelihood(dataclasses.replace(run, model=exact), ["flow(rtol=1e-7)"], part="all")
    (mean_a, mean_b), (width_a, width_b) = found.scaling.center, found.scaling.width
    u = (cells["b"] - 2) / 3
    log_prob = stats.lognorm(width_a, scale=math.exp(mean_a)).logpdf(cells["a"])
    log_prob += stats.norm(mean_b, width_b).logpdf(np.log(u / (1 - u))) - np.log(3 * u * (1 - u))
    bits = next(iter(measured.by.values())).values
    assert np.allclose(bits.numpy(), -log_prob / (2 * math.log(2)), atol=2e-5)


def test_integers_and_categories_have_a_bound_on_their_probability():
    """The mean over draws is at most the probability of the cell, and that of a flat density."""
    cells = {"n": RNG.integers(-3, 4, 60), "job": RNG.choice(["x", "y", "z"], 60).astype(object)}
    found = from_table(cells)
    assert found.coding.discrete == (True,) * 4
    raw = found.raw()[:1]
    draws = torch.cat([spread_rows(raw, found.coding, [seed]) for seed in range(4000)])
    assert (draws - raw).abs().max() <= 0.5
    assert {*found.coding.decode(draws)["n"].tolist()} == {int(cells["n"][0])}
    bits = in_columns(gaussian_bits(found, draws), draws, found.coding)
    mean = -float(bits.values.mean()) * 2 * math.log(2)
    center, width = np.array(found.scaling.center), np.array(found.scaling.width)
    ends = [stats.norm(center, width).cdf(raw.numpy()[0] + side) for side in (0.5, -0.5)]
    log_probability = np.log(ends[0] - ends[1]).sum()
    # The mean of u^2 / (2 width^2) is 1 / (24 width^2).
    exact = (stats.norm(center, width).logpdf(raw.numpy()[0]) - 1 / (24 * width**2)).sum()
    assert mean == pytest.approx(exact, abs=0.05)
    assert mean < log_probability
    again = spread_rows(found.raw(), found.coding, range(60))
    assert torch.equal(again[5:6], spread_rows(found.raw()[5:6], found.coding, [5]))


def test_continuous_columns_are_not_spread():
    found = from_table({"a": RNG.normal(size=9), "b": RNG.normal(size=9)})
    assert spread_rows(found.raw(), found.coding, range(9)) is found.raw() or torch.equal(
        spread_rows(found.raw(), found.coding, range(9)), found.raw()
    )
    bits = gaussian_bits(found, found.raw())
    assert torch.equal(in_columns(bits, found.raw(), found.coding).values, bits.values)
    assert in_columns(bits, found.raw(), None) is bits


def yeo_johnson_log_det(transformer, x):
    lambdas, spread = transformer.lambdas_, transformer._scaler.scale_
    powers = np.where(x >= 0, lambdas - 1, 1 - lambdas)
    return (powers * np.log1p(np.abs(x)) - np.log(spread)).sum(1)


@pytest.mark.parametrize("kind", ["standard", "power", "quantile", "pca", "pipeline", "own"])
def test_transformers_bring_their_log_determinant(kind):
    x = RNG.gamma(2, size=(400, 3)) @ np.array([[1.0, 0.4, 0], [0, 2, 0.3], [0, 0, 0.5]])
    made = {
        "standard": StandardScaler(),
        "power": PowerTransformer(),
        "quantile": QuantileTransformer(n_quantiles=20, output_distribution="normal"),
        "pca": PCA(whiten=True),
        "pipeline": make_pipeline(StandardScaler(), PCA(whiten=True)),
        "own": Doubling(),
    }[kind]
    table = dict(zip("abc", x.T, strict=True))
    if kind == "quantile":  # its ends are clipped, and flat
        fitted = made.fit(x)
        inside = ((x > np.quantile(x, 0.02, 0)) & (x < np.quantile(x, 0.98, 0))).all(1)
        inside &= (np.abs(x[:, None] - fitted.quantiles_).min(1) > 1e-3).all(1)  # no kink is near
        table = dict(zip("abc", x[inside].T, strict=True))
    rows = np.stack(list(table.values()), 1)
    found = from_table(table, transformer=made)
    assert hasattr(made, "n_features_in_") == (kind == "quantile")  # a copy was fitted
    back = found.coding.decode(found.raw())
    assert np.allclose(np.stack([back[name] for name in "abc"], 1), rows, rtol=1e-9)
    live, log_det = found.coding.live, found.coding.log_abs_det(found.raw()).numpy()
    if kind == "standard":
        exact = np.full(len(x), -np.log(x.std(0)).sum())
    elif kind == "power":
        exact = yeo_johnson_log_det(live, rows)
    elif kind == "quantile":
        exact = np.zeros(len(rows))
        for j, knots in enumerate(fitted.quantiles_.T):
            at = np.searchsorted(knots, rows[:, j], side="right") - 1
            slopes = np.diff(fitted.references_) / np.diff(knots)
            share = np.interp(rows[:, j], knots, fitted.references_)
            exact += np.log(slopes[at]) - stats.norm.logpdf(stats.norm.ppf(share))
    elif kind == "own":
        exact = np.full(len(x), 3 * math.log(2))
    else:
        exact = np.full(len(x), -0.5 * np.linalg.slogdet(np.cov(x.T))[1])
    assert np.allclose(log_det, exact, atol=1e-7)


class Doubling:
    """A transformer that is no estimator, with a log-determinant of its own."""

    def transform(self, x):
        return 2 * x

    def inverse_transform(self, z):
        return z / 2

    def log_abs_det(self, x):
        return np.full(len(x), x.shape[1] * math.log(2))


def test_transformers_that_do_not_serve_are_refused(tmp_path):
    table = {"a": RNG.normal(size=30), "b": RNG.normal(size=30)}
    few = from_table(table, transformer=PCA(1))
    assert few.event_shape == (1,)
    with pytest.raises(DataError, match="makes 1 of 2 columns: rows have no density"):
        few.coding.log_abs_det(few.raw())
    with pytest.raises(DataError, match="takes columns of numbers without gaps"):
        from_table({**table, "c": ["x", "y"] * 15}, transformer=StandardScaler())
    with pytest.raises(TypeError, match="accepted: an object with transform and inverse_transform"):
        from_table(table, transformer=StandardScaler)
    doubled = Doubling()
    doubled.inverse_transform = lambda z: z
    with pytest.raises(DataError, match=r"does not lead back: .* off by .* in column a"):
        from_table(table, transformer=doubled)
    found = from_table(table, transformer=StandardScaler())
    run = train(TrainConfig(**QUICK), tmp_path, data=found, progress=False)
    assert run.record.coding.transformer == "StandardScaler"
    with pytest.raises(DataError, match=r"changed by a StandardScaler, .* load_run\(path, data="):
        run.record.coding.decode(found.raw())


def test_nats_of_a_table_are_those_of_its_columns():
    found = from_table({"a": RNG.lognormal(size=30), "job": ["x", "y", "z"] * 10}, "a:positive")
    bits = gaussian_bits(found, found.raw())
    changed = in_columns(bits, found.raw(), found.coding)
    nats = bits.values * 4 * math.log(2)
    log_det = -found.raw()[:, 0]
    assert torch.allclose(changed.values, nats_to_bits(log_det - nats, (2,)))
