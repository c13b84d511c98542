"""The likelihoods by name: one interface, four ways to read a model, each against a truth."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from sde_score import likelihood, samplers
from sde_score.data import Scaling
from sde_score.discrete import HierarchicalVAE
from sde_score.distributions import Quantization
from sde_score.likelihood import (
    ContinuousBound,
    Flow,
    GaussianDecoder,
    KernelEntropy,
    LayeredBound,
    LevelDecoder,
    VariationalDequantization,
    bits_per_dim,
    log_prob,
    variational_bound,
)
from sde_score.models import GaussianMixture
from sde_score.random import example_seeds, mix
from sde_score.sdes import VP

SHARP = VP(0.1, 60.0)
DISCRETE = Scaling.discrete(4)
SEEDS = example_seeds(0, 4)
LEVELS = torch.arange(4, dtype=torch.uint8)[:, None]
WEIGHTS = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)


@pytest.fixture
def smooth():
    """A distribution with mass in all of four levels, and curvature within them."""
    return GaussianMixture([[-0.5], [0.4]], torch.tensor([0.02, 0.1]), SHARP, weights=[0.3, 0.7])


@pytest.fixture
def levels():
    """The exact score of data that are levels."""
    centers = (torch.arange(4)[:, None] + 0.5) / 2 - 1
    return GaussianMixture(centers, 0.0, SHARP, weights=WEIGHTS)


def many(spec, model, count, raw=LEVELS, scaling=DISCRETE):
    """Mean nats of each example over `count` copies, and its standard error."""
    rows = raw.repeat_interleave(count, 0)
    by = likelihood.create(spec) if isinstance(spec, str) else spec
    found = by(model, rows, scaling, seeds=example_seeds(0, len(rows)))
    values = found.values.reshape(len(raw), count)
    return values.mean(1), values.std(1) / math.sqrt(count)


def test_each_name_is_made_from_a_spec_and_takes_what_it_forwards():
    assert likelihood.available() == ["flow", "bound", "elbo", "few-steps"]
    made = likelihood.create("flow(rtol=1e-5, dequantization='truncated-normal(truncation=2)')")
    assert made == Flow(rtol=1e-5, dequantization="truncated-normal(truncation=2)")
    assert likelihood.create("bound(times=3)") == ContinuousBound(times=3)
    assert likelihood.create("elbo(layers=7)") == LayeredBound(layers=7)
    options = set(inspect.signature(log_prob).parameters)
    fields = set(inspect.signature(Flow).parameters)
    given = {"model", "x", "start", "seed", "condition", "covariance", "grad", "progress"}
    assert options - given <= fields  # a matrix has no place in a spec


@pytest.mark.parametrize("spec", ["flow(dequantization='truncated-normal')", "bound", "elbo"])
def test_levels_known_to_the_model_cost_their_code_length(levels, spec):
    """Every likelihood gives -log weight for the exact score of discrete data, to 1 %."""
    nats, error = many(spec, levels, 200 if spec != "elbo" else 60)
    assert bool(((nats - WEIGHTS.log()).abs() < 4 * error + 1e-2).all())
    assert float(nats.exp().sum()) < 1.01 + 4 * float(error.max())


def test_all_are_densities_of_raw_data_where_data_are_continuous():
    """N(0.2, 0.3) in model space is N(2.6, 9 x 0.3) in raw terms."""
    model, scaling = GaussianMixture([[0.2, 0.2]], 0.3, SHARP), Scaling(2.0, 3.0)
    raw = torch.tensor([[2.0, 3.5], [1.0, -1.0]])
    distribution = torch.distributions.Normal(2.6, 3 * math.sqrt(0.3))
    truth = distribution.log_prob(raw).sum(1).double()
    flow = Flow(divergence="exact", rtol=1e-6, atol=1e-6)(model, raw, scaling, seeds=[1, 2])
    torch.testing.assert_close(flow.values, truth, rtol=0, atol=1e-4)
    assert bool((flow.standard_error == 0).all())
    for spec in ("bound", "bound(dequantization='uniform')", "elbo(layers=300)"):
        nats, error = many(spec, model, 40, raw, scaling)
        assert bool(((nats - truth).abs() < 4 * error + 2e-2).all()), spec
        assert bool((error < 0.6).all())


def decoding_time():
    """Where half a bin of four levels over [-1, 1] holds three standard deviations."""
    start = float(SHARP.time_of_log_snr(2 * math.log(12)))
    assert float(SHARP.sigma(start) / SHARP.alpha(start)) == pytest.approx(0.25 / 3)
    return start


def test_the_continuous_bound_is_that_of_the_library(smooth):
    """Draw by draw, for levels, and for a density after uniform noise; kernel entropy included."""
    decoded = ContinuousBound(draws=3, times=5, decoder_std=0.1, start=0.02)
    found = decoded(smooth, LEVELS, DISCRETE, seeds=SEEDS)
    x0 = DISCRETE.to_model(LEVELS)
    residual = LevelDecoder(Quantization(4), std=0.1)
    draws = [
        -variational_bound(
            smooth,
            x0,
            residual=residual,
            draws=1,
            times=5,
            start=0.02,
            seed=[mix(s, i) for s in SEEDS],
        ).nats
        for i in range(3)
    ]
    rows = torch.stack(draws)
    torch.testing.assert_close(found.values, rows.mean(0))
    torch.testing.assert_close(found.standard_error, rows.std(0) / math.sqrt(3))
    assert found.nfe == 3 * (5 + 1)
    for name, residual in (("decoder", GaussianDecoder(0.1)), ("kernel-entropy", KernelEntropy())):
        by = ContinuousBound(1, 5, residual=name, decoder_std=0.1, dequantization="uniform")
        got = by(smooth, LEVELS, DISCRETE, seeds=SEEDS)
        numbers = [mix(s, 0) for s in SEEDS]
        points = likelihood.DEQUANTIZATIONS.create("uniform")(LEVELS, DISCRETE, SHARP, numbers)
        bound = variational_bound(
            smooth, points.x, residual=residual, draws=1, times=5, seed=numbers
        )
        torch.testing.assert_close(got.values, -bound.nats - math.log(2))  # 1 unit of raw is 1 / 2
        assert bool(got.standard_error.isnan().all())
    options = {"time_sampling": "uniform", "antithetic": True}
    got = ContinuousBound(1, 5, **options)(smooth, LEVELS, DISCRETE, seeds=SEEDS)
    options |= {"residual": LevelDecoder(4), "start": decoding_time()}
    want = variational_bound(smooth, x0, draws=1, times=5, seed=numbers, **options)
    torch.testing.assert_close(got.values, -want.nats)


def test_the_layered_bound_is_that_of_the_chain(smooth):
    by = LayeredBound(layers=6, grid="uniform", variance="transition", draws=2, decoder_std=0.1)
    found = by(smooth, LEVELS, DISCRETE, seeds=SEEDS)
    grid = samplers.GRIDS.create("uniform", end=decoding_time())
    vae = HierarchicalVAE.from_sde(SHARP, 6, grid=grid, variance="transition", decoder_std=0.1)
    want = vae.elbo(smooth, DISCRETE.to_model(LEVELS).double(), levels=4, draws=2, seed=SEEDS)
    torch.testing.assert_close(found.values, -want.nats)
    torch.testing.assert_close(found.standard_error, want.standard_error)
    assert found.nfe == 2 * 6
    ended = LayeredBound(layers=6, grid="uniform(end=0.01)")(smooth, LEVELS, DISCRETE, seeds=SEEDS)
    vae = HierarchicalVAE.from_sde(SHARP, 6, grid="uniform(end=0.01)")
    want = vae.elbo(smooth, DISCRETE.to_model(LEVELS).double(), levels=4, seed=SEEDS)
    torch.testing.assert_close(ended.values, -want.nats)


def test_the_layered_bound_of_continuous_data_starts_at_t_min():
    model, scaling = GaussianMixture([[0.2, 0.2]], 0.3, SHARP), Scaling(2.0, 3.0)
    raw = torch.tensor([[2.0, 3.5], [1.0, -1.0]])
    found = LayeredBound(layers=5)(model, raw, scaling, seeds=[1, 2])
    vae = HierarchicalVAE.from_sde(SHARP, 5, grid=f"log_snr(end={SHARP.t_min})")
    want = vae.elbo(model, scaling.to_model(raw).double(), seed=[1, 2])
    torch.testing.assert_close(found.values, -want.nats - 2 * math.log(3))


@pytest.mark.parametrize("spec", ["bound", "elbo(layers=400)"])
def test_levels_may_fill_another_range(spec):
    """Four levels over [0, 1]: centers 1/8 ... 7/8, the exact score, the code length."""
    centers = (torch.arange(4)[:, None] + 0.5) / 4
    model = GaussianMixture(centers, 0.0, SHARP, weights=WEIGHTS)
    nats, error = many(spec, model, 60, scaling=Scaling(0.0, 4.0, levels=4))
    assert bool(((nats - WEIGHTS.log()).abs() < 4 * error + 0.1).all())


def test_the_flow_hands_all_options_on(smooth, monkeypatch):
    seen = {}

    def recorded(model, x, **options):
        seen.update(options)
        return log_prob(model, x, **options)

    monkeypatch.setattr("sde_score.likelihood.flow.log_prob", recorded)
    options = {"rtol": 1e-2, "atol": 2e-2, "divergence": "hutchinson", "probes": 2}
    options |= {"probe_distribution": "gaussian", "method": "scipy", "mode": "forward"}
    Flow(**options)(smooth, LEVELS, DISCRETE, seeds=SEEDS)
    assert {name: seen[name] for name in options} == options


def test_more_layers_come_down_to_continuous_time(smooth):
    """n layers cost an excess of order 1/n over the integral: extrapolated to none, it is gone."""
    few, more = (many(f"elbo(layers={n})", smooth, 50) for n in (100, 200))
    limit, error = many("bound(times=64)", smooth, 100)
    noise = (error**2 + few[1] ** 2 + 4 * more[1] ** 2).sqrt()
    assert float(limit.sum()) > float(more[0].sum()) + 0.2
    assert float(more[0].sum()) > float(few[0].sum()) + 0.2
    assert bool(((2 * more[0] - few[0] - limit).abs() < 4 * noise + 0.05).all())


def test_importance_weights_tighten_the_bound_of_dequantization(smooth):
    """mean of logs < log of mean < log P(level), and 16 draws close three quarters of the gap."""
    exact = smooth_mass(smooth).log().repeat_interleave(5)
    rows, seeds = LEVELS.repeat_interleave(5, 0), example_seeds(1, 20)
    by = Flow(divergence="exact", dequantizations=16, importance_weighted=True)
    found = by(smooth, rows, DISCRETE, seeds=seeds)
    distribution, logs = likelihood.DEQUANTIZATIONS.create("uniform"), []
    for draw in range(16):
        points = distribution(rows, DISCRETE, SHARP, [mix(seed, draw) for seed in seeds])
        logs.append(smooth.log_prob(points.x.double(), SHARP.t_min) - points.log_q)
    logs = torch.stack(logs)
    torch.testing.assert_close(found.values, logs.exp().mean(0).log(), rtol=0, atol=2e-2)
    gap, plain = exact - found.values, exact - logs.mean(0)
    assert bool((gap < plain).all())
    assert -0.01 < float(gap.mean()) < 0.25 * float(plain.mean())
    weights = logs.exp()
    error = weights.std(0) / weights.mean(0) / 4
    torch.testing.assert_close(found.standard_error, error, rtol=0.1, atol=1e-2)


def smooth_mass(model):
    """P(level) at t_min by differences of the distribution function."""
    alpha, sigma = (float(f(SHARP.t_min)) for f in (SHARP.alpha, SHARP.sigma))
    edges = torch.linspace(-1, 1, 5, dtype=torch.float64)
    std = (alpha**2 * model.variances.flatten() + sigma**2).sqrt()
    z = (edges[:, None] - alpha * model.means.flatten()) / std
    return (torch.special.ndtr(z) @ model.weights).diff()


def test_draws_share_their_probes_where_they_are_weighed():
    """In correlated data the error of a probe is common to the draws: without noise in the bin,
    sharing makes all of them equal, and weights that pick the luckiest probe would not."""
    covariance = torch.tensor([[[0.3, 0.25], [0.25, 0.3]]])
    model = GaussianMixture(torch.zeros(1, 2), covariance, SHARP)
    center = VariationalDequantization(
        lambda raw, noise: (torch.full_like(noise, 0.5), torch.zeros(len(raw)))
    )
    raw = torch.ones(20, 2, dtype=torch.uint8)
    one, four = (
        Flow(dequantization=center, dequantizations=n, importance_weighted=True)(
            model, raw, DISCRETE, seeds=example_seeds(0, 20)
        ).values
        for n in (1, 4)
    )
    torch.testing.assert_close(one, four)
    plain = Flow(dequantization=center, dequantizations=4)(
        model, raw, DISCRETE, seeds=example_seeds(0, 20)
    )
    assert float(plain.values.std()) < 0.8 * float(one.std())


def test_standard_errors_of_the_flow_are_those_of_its_draws():
    """Continuous data: over probes for one draw, over draws for several; discrete: over draws."""
    covariance = torch.tensor([[[0.3, 0.25], [0.25, 0.3]]])
    model, raw = GaussianMixture(torch.zeros(1, 2), covariance, SHARP), torch.zeros(300, 2)
    seeds = example_seeds(0, 300)
    for by in (
        Flow(probes=4, probe_distribution="gaussian"),
        Flow(dequantizations=4, probe_distribution="gaussian"),
    ):
        found = by(model, raw, Scaling(), seeds=seeds)
        ratio = float(found.standard_error.square().mean() / found.values.var())
        assert 0.75 < ratio < 1.3
    levels = Flow(dequantizations=3)(model, raw.to(torch.uint8), DISCRETE, seeds=seeds)
    ratio = float(levels.standard_error.square().mean() / levels.values.var())
    assert 0.75 < ratio < 1.3
    lone = Flow(probes=4)(model, raw[:3].to(torch.uint8), DISCRETE, seeds=seeds[:3])
    assert bool(lone.standard_error.isnan().all())


@pytest.mark.parametrize("spec", ["flow(dequantizations=2)", "bound(times=3)", "elbo(layers=4)"])
def test_values_do_not_depend_on_the_batch(smooth, spec):
    whole = bits_per_dim(smooth, LEVELS, DISCRETE, spec)
    parts = bits_per_dim(smooth, LEVELS, DISCRETE, spec, batch_size=3)
    torch.testing.assert_close(whole.values, parts.values, rtol=0, atol=1e-9)
    other = bits_per_dim(smooth, LEVELS, DISCRETE, spec, seed=1)
    assert bool((whole.values != other.values).all())


@pytest.mark.parametrize("spec", ["flow", "bound(draws=1, times=2)", "elbo(layers=3)"])
def test_conditions_follow_their_examples(spec):
    seen = []

    class Conditional(GaussianMixture):
        def _predict(self, x, at, condition):
            seen.append(condition.tolist())
            return super()._predict(x, at, None)

    model = Conditional(torch.zeros(1, 1), 0.3, SHARP)
    bits_per_dim(model, LEVELS, DISCRETE, spec, condition=torch.arange(4), batch_size=3)
    assert seen[0] == [0, 1, 2]
    assert seen[-1] == [3]


REFUSED = [
    ("flow(rtol=0)", "rtol=0 must be a finite number greater than 0"),
    ("flow(atol=-1)", "atol=-1 must be"),
    ("flow(divergence='trace')", "accepted: exact, hutchinson"),
    ("flow(probes=0)", "probes=0 must be an integer"),
    ("flow(probe_distribution='cauchy')", "probe_distribution='cauchy' is not known"),
    ("flow(method='euler')", "method='euler' is not known"),
    ("flow(mode='sideways')", "accepted: reverse, forward"),
    ("flow(dequantizations=0)", "dequantizations=0 must be an integer"),
    ("flow(dequantization='gauss')", "unknown dequantization 'gauss'"),
    ("flow(steps=3)", "likelihood 'flow' does not take steps"),
    ("bound(draws=0)", "draws=0 must be"),
    ("bound(times=0)", "times=0 must be"),
    ("bound(time_sampling='t')", "accepted: log-snr, uniform"),
    ("bound(residual='none')", "accepted: decoder, kernel-entropy"),
    ("bound(decoder_std=0)", "decoder_std=0 must be"),
    ("bound(dequantization='gauss')", "unknown dequantization 'gauss'"),
    ("elbo(layers=1)", "layers=1 must be an integer of at least 2"),
    ("elbo(draws=0)", "draws=0 must be"),
    ("elbo(grid='even')", "unknown grid 'even'"),
    ("elbo(variance='big')", "unknown variance 'big'; accepted: posterior"),
    ("elbo(decoder_std=-1)", "decoder_std=-1 must be"),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED)
def test_refusals_before_anything_is_computed(spec, said):
    with pytest.raises(ValueError, match=said):
        likelihood.create(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("bound(residual='kernel-entropy')", "discrete data need dequantization='uniform'"),
        ("bound(dequantization='truncated-normal')", "the bound is for data at t_min"),
        ("flow(dequantization='none')", "for continuous data, these have 4 levels"),
    ],
)
def test_refusals_of_what_is_no_bound(smooth, spec, said):
    with pytest.raises(ValueError, match=said):
        bits_per_dim(smooth, LEVELS, DISCRETE, spec)
    assert smooth.nfe == 0


@pytest.mark.parametrize("spec", ["bound", "elbo(layers=3)"])
def test_levels_of_different_width_are_refused(smooth, spec):
    scaling = Scaling((1.0,), (2.0,), levels=4)
    with pytest.raises(ValueError, match="levels of one width are needed"):
        bits_per_dim(smooth, LEVELS, scaling, spec)
