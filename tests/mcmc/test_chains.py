"""Running chains: what is kept of which steps, seeds, precision, refusals."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from sde_score.mcmc import MALA, ULA, Chains, State, Tuning, run_chains
from sde_score.models import GaussianMixture, Marginal, ScoreFunction
from sde_score.random import ExampleStreams, example_seeds
from sde_score.sdes import VE


class Round:
    """N(0, 1) in every entry."""

    def energy(self, x):
        return 0.5 * (x**2).flatten(1).sum(1)

    def score(self, x):
        return -x

    def energy_and_score(self, x):
        return self.energy(x), self.score(x)


class ScoreAlone:
    def score(self, x):
        return -x


START = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()


def run(kernel="mala(step_size=0.9)", density=None, start=START, **given):
    given = {"draws": 6, "seed": 2, "progress": False, **given}
    return run_chains(density or Round(), start, kernel, **given)


def by_hand(kernel, steps):
    """The transitions of a loop over the kernel's own step."""
    noise = ExampleStreams(example_seeds(2, 5), START)
    state, taken = kernel.start(Round(), START, noise), []
    for _ in range(steps):
        taken.append(kernel.step(Round(), state, noise, kernel.tuning(START)))
        state = taken[-1].state
    return taken


def test_draws_are_the_kernels_steps_after_the_warm_up_thinned():
    taken = by_hand(MALA(0.9), 4 + 3 * 6)
    chains = run(warmup=4, thin=3, adapt=False)
    kept = taken[4 + 2 :: 3]
    assert torch.equal(chains.samples, torch.stack([t.state.x for t in kept]))
    assert torch.equal(chains.energy_error, torch.stack([t.energy_error for t in kept]))
    accepted = torch.stack([t.acceptance for t in taken[4:]]).reshape(6, 3, 5).mean(1)
    torch.testing.assert_close(chains.acceptance, accepted, rtol=1e-12, atol=0)
    assert torch.equal(chains.state.x, taken[-1].state.x)
    assert torch.equal(chains.state.energy, taken[-1].state.energy)
    assert chains.tuning.step_size.item() == 0.9
    assert len({row.item() for row in accepted.flatten()}) > 10


def test_tuning_is_that_of_the_draws():
    """After a warm-up of one step: the average of dual averaging, used for every draw."""
    chains = run(warmup=1, draws=3)
    noise = ExampleStreams(example_seeds(2, 5), START)
    kernel = MALA(0.9)
    state = kernel.start(Round(), START, noise)
    first = kernel.step(Round(), state, noise, kernel.tuning(START))
    tuned = (torch.log(torch.tensor(9.0)) - (0.574 - first.acceptance) / 11 / 0.05).exp()
    torch.testing.assert_close(chains.tuning.step_size, tuned, rtol=1e-6, atol=0)
    state = first.state
    for draw in chains.samples:
        state = kernel.step(Round(), state, noise, Tuning(chains.tuning.step_size)).state
        assert torch.equal(draw, state.x)


def test_unadjusted_kernels_keep_their_step():
    assert run("ula(step_size=0.3)", warmup=10).tuning.step_size.item() == pytest.approx(0.3)


def test_seeds_name_families_and_chains():
    whole = run()
    seeds = example_seeds(2, 5)
    some = run(start=START[[3, 1]], seed=[seeds[3], seeds[1]])
    assert torch.equal(some.samples, whole.samples[:, [3, 1]])
    assert not torch.equal(run(seed=3).samples, whole.samples)
    assert not torch.equal(run(seed=None).samples, run(seed=None).samples)


def test_given_noise_replaces_the_seeds():
    source = ExampleStreams(example_seeds(2, 5), START)
    assert torch.equal(run(noise=source, seed=99).samples, run().samples)


def test_a_run_goes_on_from_its_state():
    source = ExampleStreams(example_seeds(2, 5), START)
    first = run(noise=source, draws=2)
    second = run(noise=source, draws=4, start=first.state.x)
    assert torch.equal(torch.cat([first.samples, second.samples]), run().samples)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2],
)
def test_chains_have_at_least_single_precision(given, kept):
    chains = run(start=START.to(given), warmup=3)
    for value in (chains.samples, chains.acceptance, chains.energy_error, chains.state.x):
        assert value.dtype == kept
    assert chains.tuning.step_size.dtype == kept


def test_starts_are_left_as_they_are_and_may_be_strided():
    start = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double().mT
    before = start.clone()
    got = run(start=start)
    assert torch.equal(start, before)
    assert torch.equal(got.samples, run(start=start.contiguous()).samples)
    assert not run(start=START.clone().requires_grad_()).samples.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kernel", ["ula", "mala", "mala-score", "baoab", "obabo"])
def test_nothing_is_read_back_from_the_device(kernel):
    """On the meta device there are no values, so any look at one is an error."""
    start = torch.empty(4, 2, device="meta")
    chains = run_chains(
        Round(), start, kernel, draws=3, warmup=25, progress=False,
        adapt_mass=kernel in ("baoab", "obabo"), noise=lambda: torch.empty(4, 2, device="meta"),
    )  # fmt: skip
    assert chains.samples.device.type == "meta"
    assert chains.samples.shape == (3, 4, 2)


def test_scores_alone_are_enough_where_no_energy_is_needed():
    assert torch.equal(run("ula", ScoreAlone()).samples, run("ula").samples)
    with pytest.raises(TypeError, match=r"MALA needs an energy and ScoreAlone.*mala-score, ula"):
        run("mala", ScoreAlone())


def test_models_are_sampled_through_a_marginal():
    distribution = GaussianMixture([[0.3, -0.2, 1.0]], 0.5, VE(0.05, 9.0))
    run("mala", Marginal(distribution, 0.5))
    with pytest.raises(TypeError, match=r"GaussianMixture is a model.*Marginal\(model, t\)"):
        run("mala", distribution)
    score = ScoreFunction(lambda x, t: -x, VE(0.05, 9.0))
    run("mala-score", Marginal(score, 0.5))
    with pytest.raises(TypeError, match=r"MALA needs an energy and ScoreFunction.*mala-score"):
        run("mala", Marginal(score, 0.5))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"draws": 0}, ValueError, "draws=0"),
        ({"thin": 0}, ValueError, "thin=0"),
        ({"warmup": -1}, ValueError, "warmup=-1"),
        ({"kernel": "malla"}, ValueError, "unknown kernel 'malla'"),
        ({"adapt_mass": True}, ValueError, "adapt_mass=True, but MALA has no mass"),
        ({"start": torch.ones(3, 2, dtype=torch.long)}, TypeError, "start must be a floating"),
        ({"start": torch.tensor(1.0)}, ValueError, "start must have shape"),
        ({"seed": [1, 2]}, ValueError, "seed has 2 entries for 5 examples"),
    ],
)
def test_wrong_arguments_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        run(**given)


def made(samples, errors=None):
    """A run of two chains by hand."""
    acceptance = torch.tensor([[0.2, 0.6]]).expand(len(samples), 2)
    errors = torch.zeros(len(samples), 2) if errors is None else errors
    tuning = Tuning(torch.tensor([0.125, 0.5]))
    return Chains(samples, acceptance, errors, tuning, State(samples[-1], samples[-1]))


def test_summary_says_what_matters():
    samples = torch.randn(400, 2, 3, generator=torch.Generator().manual_seed(0))
    errors = torch.zeros(400, 2)
    errors[3, 1], errors[7, 0] = 2000.0, torch.inf
    chains = made(samples, errors)
    text = str(chains)
    assert text == chains.summary()
    assert "2 chains of 400 draws, event shape (3,)" in text
    assert "acceptance 0.400 (chains: 0.200 to 0.600), step size 0.125 to 0.5" in text
    assert f"effective draws at least {chains.ess().min():.0f}" in text
    assert f"split R-hat at most {chains.split_r_hat().max():.4f}" in text
    assert "largest 2e+03, 2 divergent" in text
    assert torch.equal(chains.flat(), samples.reshape(800, 3))
    assert "effective" not in str(made(samples[:3]))
    ranked = chains.split_r_hat(rank_normalized=True)
    assert ranked.shape == (3,)
    assert not torch.equal(ranked, chains.split_r_hat())


def test_the_bar_counts_all_steps_and_waits_two_seconds(bars):
    run(ULA(), draws=4, thin=3, warmup=5, progress=True)
    assert bars[0].given["delay"] == 2
    assert bars[0].given["disable"] is False
    assert bars[0].given["desc"] == "ULA"
    assert bars[0].count == bars[0].given["total"] == 17
    run(ULA(), progress=False)
    assert bars[1].given["disable"] is True


@pytest.fixture
def two_chains():
    return run_chains(Round(), START[:2].float(), draws=5, seed=1, progress=False)


def test_arrays_have_chains_before_draws(two_chains):
    groups = two_chains.to_arrays()
    assert set(groups) == {"posterior", "sample_stats"}
    x = groups["posterior"]["x"]
    assert x.shape == (2, 5, 3)
    np.testing.assert_array_equal(x[1, 3], two_chains.samples[3, 1].numpy())
    stats = groups["sample_stats"]
    assert set(stats) == {"acceptance_rate", "energy_error"}
    np.testing.assert_array_equal(stats["acceptance_rate"], two_chains.acceptance.T.numpy())


def fake_package(monkeypatch, name, from_dict):
    for other in ("arviz", "arviz_base"):
        monkeypatch.setitem(sys.modules, other, None)
    package = types.ModuleType(name)
    package.from_dict = from_dict
    monkeypatch.setitem(sys.modules, name, package)


def test_arviz_takes_the_arrays_in_its_new_form_and_its_old(two_chains, monkeypatch):
    fake_package(monkeypatch, "arviz_base", lambda data, *, name=None: data)
    new = two_chains.to_arviz()
    fake_package(monkeypatch, "arviz", lambda posterior=None, *, sample_stats=None: locals())
    old = two_chains.to_arviz()
    for found in (new, old):
        np.testing.assert_array_equal(found["posterior"]["x"], two_chains.samples.transpose(0, 1))
        assert set(found["sample_stats"]) == {"acceptance_rate", "energy_error"}


def test_without_arviz_it_is_named(two_chains, monkeypatch):
    for name in ("arviz", "arviz_base"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="needs the package arviz: pip install arviz"):
        two_chains.to_arviz()
