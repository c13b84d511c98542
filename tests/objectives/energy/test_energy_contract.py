"""What every objective for energies promises around its formula."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import EnergyFunction, GaussianMixture, ScoreFunction
from sde_score.objectives import create
from sde_score.random import BatchSlice
from sde_score.sdes import VP

SDE = VP(beta_min=0.4, beta_max=9.0)
SPECS = [
    "contrastive-divergence(k=3)",
    "contrastive-divergence(k=2, kernel='ula(step_size=0.05)', start_noise=0.2, "
    "energy_penalty=0.3, time_sampler='uniform')",
    "persistent(buffer_size=9, restart=0.3, k=2)",
    "recovery(k=2)",
    "recovery(k=2, noise=0.4, time_sampler=None, kernel='ula')",
    "noise-contrastive(ratio=2)",
    "joint-energy(density='noise-contrastive', weight=0.5)",
    "energy-discrepancy(samples=3)",
    "energy-discrepancy(samples=2, stabilizer=0.0, time_sampler='importance')",
    "stein-discrepancy",
    "stein-discrepancy(kernel='rbf', bandwidth=1.5)",
]
NOISY = [s for s in SPECS if "time_sampler='" in s or s == "recovery(k=2)"]
PER_EXAMPLE = [spec for spec in SPECS if "stein" not in spec]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(9), dtype=torch.float64).to(dtype)


def made(spec, examples):
    """The objective, set up on examples if it has a state."""
    objective = create(spec)
    if hasattr(objective, "setup"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            objective.setup(examples)
    return objective


def normalized(x, t):
    """A well whose width depends on t, and a wave, whatever the shape of the event."""
    flat = x.reshape(len(x), -1)
    return (0.5 + t) * (flat**2).sum(1) + torch.sin(flat.sum(1))


@pytest.mark.parametrize("event", [(), (5,), (3, 2), (2, 3, 4)])
@pytest.mark.parametrize("spec", SPECS)
def test_any_event_has_the_losses_of_the_flattened_one(spec, event):
    x0, model = data(6, *event), EnergyFunction(normalized, SDE)
    flat = x0.reshape(6, -1)
    got = made(spec, x0)(model, x0, generator=seeded())
    want = made(spec, flat)(model, flat, generator=seeded())
    assert got.shape == (6,)
    assert bool(want.isfinite().all())
    assert want.std() > 0
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_strided_data_give_the_same_and_are_left_alone(spec):
    x0 = data(6, 5, 3).transpose(1, 2)
    before, model = x0.clone(), EnergyFunction(normalized, SDE)
    got = made(spec, x0)(model, x0, generator=seeded())
    want = made(spec, before.contiguous())(model, before.contiguous(), generator=seeded())
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(x0, before)
    assert not x0.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS)
def test_losses_have_the_precision_of_the_data(spec, dtype, nonlinear):
    marginal, parameters = nonlinear((3,), energy=True, dtype=dtype, sde=SDE)
    x0 = data(6, 3, dtype=dtype)
    losses = made(spec, x0)(marginal.model, x0, generator=seeded())
    assert losses.dtype == dtype
    gradients = torch.autograd.grad(losses.sum(), parameters)
    assert all(g.dtype == dtype and bool(g.isfinite().all()) for g in gradients)
    assert any(bool((g != 0).any()) for g in gradients)


@pytest.mark.parametrize("spec", PER_EXAMPLE)
def test_two_processes_see_the_numbers_of_one(spec):
    x0, model = data(8, 3, 2), EnergyFunction(normalized, SDE)
    whole = made(spec, x0)(model, x0, generator=seeded(4))
    halves = [
        made(spec, x0)(model, x0[i : i + 4], generator=BatchSlice(seeded(4), i, 8)) for i in (0, 4)
    ]
    assert torch.equal(torch.cat(halves), whole)


@pytest.mark.parametrize("spec", PER_EXAMPLE)
def test_the_generator_decides_everything(spec):
    x0, model = data(6, 3), EnergyFunction(normalized, SDE)
    first, again, other = (made(spec, x0)(model, x0, generator=seeded(i)) for i in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    made(spec, x0)(model, x0, generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), before)


# Labels beside a joint energy go to its cross-entropy.
@pytest.mark.parametrize("spec", [spec for spec in SPECS if "joint" not in spec])
def test_the_condition_reaches_the_model(spec):
    def energy(x, t, condition):
        seen.append(condition)
        return normalized(x, t) * (1 + condition)

    seen, x0, condition = [], data(6, 2), torch.arange(6.0).double()
    losses = made(spec, x0)(EnergyFunction(energy, SDE), x0, condition, seeded())
    assert losses.shape == (6,)
    assert seen
    assert all(c is condition for c in seen)


class Passes(torch.autograd.Function):
    """Counts forward and backward passes."""

    counts = (0, 0)

    @staticmethod
    def forward(ctx, x):
        Passes.counts = (Passes.counts[0] + 1, Passes.counts[1])
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Passes.counts = (Passes.counts[0], Passes.counts[1] + 1)
        return gradient


@pytest.mark.parametrize(
    ("spec", "passes"),
    [
        ("contrastive-divergence(k=4)", 7),
        ("contrastive-divergence(k=2, kernel='ula')", 5),
        ("contrastive-divergence(k=2, time_sampler='uniform')", 5),
        ("persistent(buffer_size=9, k=3)", 6),
        ("recovery(k=5)", 8),
        ("noise-contrastive(ratio=3)", 4),
        ("energy-discrepancy(samples=5)", 6),
    ],
)
def test_cost_is_what_is_said(spec, passes):
    """(k + 3) F + (k + 3) B for chains, (1 + n) F + (1 + n) B for draws around or beside."""
    width = torch.ones((), dtype=torch.float64, requires_grad=True)
    model = EnergyFunction(lambda x, t: Passes.apply(normalized(x * width, t)), SDE)
    x0 = data(6, 2)
    objective = made(spec, x0)
    Passes.counts = (0, 0)
    losses = objective(model, x0, generator=seeded())
    assert model.nfe == passes
    losses.sum().backward()
    assert Passes.counts == (passes, passes)
    symbols = {"k": passes - 3, "n": passes - 1}
    parts = objective.cost.replace("F", "* 1").replace("B", "* 1")
    assert eval(parts, symbols) == 2 * passes


def test_the_stein_discrepancy_costs_one_score():
    gain = torch.ones((), dtype=torch.float64, requires_grad=True)
    model = ScoreFunction(lambda x, t: Passes.apply(-gain * x), SDE)
    Passes.counts = (0, 0)
    create("stein-discrepancy")(model, data(6, 2)).sum().backward()
    assert Passes.counts == (1, 1)
    assert create("stein-discrepancy").cost == "F + B"


@pytest.mark.parametrize("spec", SPECS)
def test_an_energy_that_is_not_a_number_is_not_hidden(spec):
    def energy(x, t):
        flat = x.reshape(len(x), -1)
        return (0.5 * flat**2).sum(1) * torch.where(flat[:, 0] == bad, torch.nan, 1.0)

    x0 = data(6, 2)
    bad = x0[2, 0].item()
    objective = made(spec, x0)
    if objective.all_noise_levels:
        broken = EnergyFunction(lambda x, t: torch.nan * x.sum(1), SDE)
        assert bool(objective(broken, x0, generator=seeded()).isnan().all())
    else:
        assert bool(objective(EnergyFunction(energy, SDE), x0, generator=seeded())[2].isnan())


@pytest.mark.parametrize("spec", PER_EXAMPLE)
def test_a_model_without_an_energy_is_refused(spec):
    model, x0 = ScoreFunction(lambda x, t: -x, SDE), data(6, 2)
    objective = made(spec, x0)
    assert objective.needs == "energy"
    with pytest.raises(TypeError, match="no energy"):
        objective(model, x0, generator=seeded())


@pytest.mark.parametrize("spec", SPECS)
def test_what_the_table_says(spec):
    objective = made(spec, data(6, 2))
    assert objective.second_derivatives is False
    assert objective.all_noise_levels is (spec in NOISY)
    chains = "k=" in spec
    assert (objective.divergence_limit < float("inf")) is chains
    assert "https://" in objective.reference
    assert objective.converges_to
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        objective(EnergyFunction(normalized, SDE), torch.ones(6, 2, dtype=torch.long))


@pytest.mark.parametrize("spec", NOISY)
def test_weightings_mean_what_they_mean_in_denoising(spec):
    x0, model = data(6, 2), EnergyFunction(normalized, SDE)
    plain, weighted = create(spec), create(spec, weighting="likelihood")
    _, t, _ = plain.points(SDE, x0, seeded(3))
    assert len(t.unique()) == 6
    want = (SDE.diffusion(t) / SDE.sigma(t)) ** 2 * plain(model, x0, generator=seeded(3))
    torch.testing.assert_close(weighted(model, x0, generator=seeded(3)), want)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in NOISY])
def test_data_without_noise_are_met_at_t_min(spec):
    def energy(x, t):
        times.append(t)
        return normalized(x, t)

    times, x0 = [], data(6, 2)
    made(spec, x0)(EnergyFunction(energy, SDE), x0, generator=seeded())
    assert all(bool((t == SDE.t_min).all()) for t in times)


def test_exact_models_are_accepted():
    model, x0 = GaussianMixture(torch.zeros(1, 2), 1.0, SDE), data(6, 2)
    for spec in SPECS:
        assert bool(made(spec, x0)(model, x0, generator=seeded()).isfinite().all())
