"""Weighted particles, against the distribution of their own chain and products in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from linear_gaussian import Linear, divergence, normal, problems

from sde_score import guidance, samplers
from sde_score.models import GaussianMixture, ScoreFunction
from sde_score.posterior import LogLikelihood, Mask, Matrix, Measurement
from sde_score.posterior.smc import SMC, Corrected, NoisedObservation, Particles, Twisted
from sde_score.posterior.smc.driver import systematic
from sde_score.posterior.smc.reference_chain import ReferenceChain
from sde_score.posterior.smc.twisted import _by_iteration, _by_matrix
from sde_score.sdes import EDM, VP, Rectified

TARGETS = {
    "twisted": Twisted,
    "reward": lambda prior, seen: Twisted(prior, LogLikelihood(seen.log_prob), (8,)),
    "mean": NoisedObservation,
    "drawn": lambda prior, seen: NoisedObservation(prior, seen, "drawn"),
}


def chain_of(problem: Linear, steps: int, grid: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of what the model's chain of these steps ends in, by its recursion."""
    sde, prior = problem.prior.sde, problem.prior
    times = samplers.GRIDS.resolve(grid).times(sde, steps)
    zeros, d = torch.zeros(1, 8, dtype=torch.float64), 8
    units = torch.eye(d, dtype=torch.float64)
    chain, root, before = ReferenceChain.of(sde, times), sde.prior_std * units, None
    total = d * steps
    x = torch.zeros(total, d, dtype=torch.float64)
    x[:d] = root
    for k in range(steps):
        x0 = prior.denoise(x, times[k]) - prior.denoise(zeros, times[k])
        before = x0 if before is None else before
        if k == steps - 1:
            return prior.denoise(zeros, times[k])[0], x0.T @ x0
        x = chain.mean(x, x0, before, k)
        x[d * (k + 1) : d * (k + 2)] += chain.std[k] * units
        before = x0
    raise ValueError(steps)


@pytest.mark.parametrize("sde", [VP(), EDM(), Rectified()], ids=str)
def test_the_reference_chain_is_the_stochastic_multistep_method(sde):
    sampler = samplers.create("dpmpp-2m-sde", steps=7, grid="karras(end=0.02)", denoise=False)
    model = GaussianMixture([[1.0, 2.0], [0.0, -1.0]], 0.2, sde)
    start, draws = normal(3, 2), normal(7, 3, 2, seed=1)
    given = iter(draws)
    expected = sampler(model, start, noise=lambda: next(given), progress=False)
    times = sampler.times(sde)
    chain, x, before = ReferenceChain.of(sde, times), start, None
    for k in range(7):
        x0 = model.denoise(x, times[k])
        x = chain.mean(x, x0, x0 if before is None else before, k) + chain.std[k] * draws[k]
        before = x0
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TARGETS)
def test_particles_weigh_to_the_posterior_under_their_own_chain(name):
    """Of few large steps, whose own error would hide a wrong weight: the likelihood is integrated
    over what the chain ends in. The walk of FPS meets y between two steps, and is of many."""
    std, steps, grid = 0.5, (40 if name == "drawn" else 12), "karras(rho=3)"
    problem = next(iter(problems(std, EDM(0.05, 5.0))))
    mean, covariance = chain_of(problem, steps, grid)
    a, y = problem.seen.operator.matrix, problem.seen.y.double()
    spread = a @ covariance @ a.T + std**2 * torch.eye(2, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(a @ mean, spread).log_prob(y)
    gain = covariance @ a.T @ torch.linalg.inv(spread)
    driver = SMC(steps=steps, grid=grid, particles=300, islands=24)
    found = driver(TARGETS[name](problem.prior, problem.seen), seed=0, progress=False)
    assert found.nfe == steps
    assert 0 < found.standard_error < 0.06
    assert abs(found.log_evidence - exact) < 3.5 * found.standard_error
    off = divergence(
        found.mean(), found.covariance(), mean + gain @ (y - a @ mean),
        covariance - gain @ a @ covariance,
    )  # fmt: skip
    assert off < 5 * 44 / (2 * found.ess)  # 44 moments, each off by its error; some are copies


@pytest.mark.parametrize("sde", [VP(), EDM(0.05, 5.0)], ids=str)
def test_particles_start_where_every_sampler_does(sde):
    """Nothing is known there of what is not measured; a product gets there by its weights."""
    prior, z = GaussianMixture([[0.0, 0.0]], 0.5, sde), normal(6, 2)
    times = samplers.GRIDS.resolve("karras").times(sde, 4)
    seen = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1), 0.5)
    for path in ("mean", "drawn"):
        x = TARGETS[path](prior, seen).stages(times, [0], 6).start(z)[0]
        torch.testing.assert_close(x[:, 1], sde.prior_std * z[:, 1])
    for target in (Twisted(prior, seen), Corrected(guidance.Tempered(prior, 2.0), (2,))):
        torch.testing.assert_close(target.stages(times, [0], 6).start(z)[0], sde.prior_std * z)


def test_particles_of_fps_are_free_as_far_as_y_leaves_them():
    """Above the noise of y they are the walk's, on passing it they leave y, then the chain's."""
    sde = EDM(0.1, 5.0)
    times = sde.time_of_noise_ratio(torch.tensor([5.0, 2.0, 0.5, 0.1], dtype=torch.float64))
    prior = GaussianMixture([[0.0]], 1.0, sde)
    seen = Measurement(Matrix(torch.ones(1, 1)), torch.tensor([0.7]), 1.0)
    stages = TARGETS["drawn"](prior, seen).stages(times, [0], 1)
    x, ones = torch.full((1, 1), 0.3, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    spread = [stages.step(x, (x, x), k, ones)[0] - stages.step(x, (x, x), k, 0 * ones)[0]
              for k in range(3)]  # fmt: skip
    free = 0.1 * math.sqrt(1 - (0.1 / 0.5) ** 2)
    expected = torch.tensor([0.0, 0.5 * math.sqrt(1 - 0.5**2), free], dtype=torch.float64)
    torch.testing.assert_close(torch.cat(spread)[:, 0], expected, rtol=1e-6, atol=1e-9)


def test_islands_are_those_of_their_seeds_however_many_move_together():
    problem = next(iter(problems(0.3)))
    target = NoisedObservation(problem.prior, problem.seen, "drawn")
    driver = SMC(steps=8, particles=16, islands=3)
    together = driver(target, seed=5, progress=False)
    apart = driver(target, seed=5, batch_size=16, progress=False)
    fewer = SMC(steps=8, particles=16, islands=2)(target, seed=5, progress=False)
    torch.testing.assert_close(apart.samples, together.samples)
    torch.testing.assert_close(apart.log_weights, together.log_weights)
    torch.testing.assert_close(fewer.log_evidences, together.log_evidences[:2])
    assert together.samples.shape == (3, 16, 8)
    torch.testing.assert_close(together.weights.sum(), torch.ones(()).double())


def test_resampling_leaves_as_many_children_as_the_weights_say():
    weights = normal(5, 40).exp()
    weights = weights / weights.sum(1, keepdim=True)
    offsets = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    mean = torch.zeros(5, 40, dtype=torch.float64)
    for offset in offsets:
        parents = systematic(weights, offset.expand(5))
        children = torch.stack([row.bincount(minlength=40) for row in parents])
        assert ((children - 40 * weights).abs() < 1 + 1e-9).all()
        mean += children / len(offsets)
    torch.testing.assert_close(mean, 40 * weights, rtol=0, atol=2e-3)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_standard_error_is_the_spread_of_log_z(threshold):
    """Thirty runs: their own spread against the errors they state, whether particles are always
    drawn anew or never."""
    prior = GaussianMixture([[0.0]], 1.0, EDM(0.05, 5.0))
    seen = Measurement(Matrix(torch.ones(1, 1)), torch.tensor([1.3]), 0.7)
    driver = SMC(steps=10, particles=40, islands=30 * 8, threshold=threshold)
    every = driver(TARGETS["mean"](prior, seen), seed=2, progress=False)
    logs = every.log_evidences.reshape(30, 8)
    values = logs.logsumexp(1) - math.log(8)
    errors = (logs - values[:, None]).exp().std(1) / math.sqrt(8)
    assert values.std() / errors.mean() == pytest.approx(1, abs=0.4)
    assert every.standard_error * math.sqrt(30) == pytest.approx(float(errors.mean()), rel=0.2)
    assert (every.survivors == 40) == (threshold == 0)


def test_directions_without_spread_are_not_moved_along():
    """Of an operator that is no covariance, the matrix and the iterations take the same part."""
    a, v = normal(3, 6), normal(6, 6, seed=1)
    seen = Measurement(Matrix(a), normal(3, seed=2), 0.5)
    residual = normal(4, 3, seed=3)
    assert torch.linalg.eigvalsh(a @ (v + v.T) @ a.T).min() < 0
    by_matrix, by_steps = (
        solve(seen, residual, lambda u: u @ v)[0] for solve in (_by_matrix, _by_iteration)
    )
    torch.testing.assert_close(by_matrix, by_steps)


def test_islands_count_by_their_estimates_of_z():
    logs = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64).log()
    z = torch.tensor([3.0, 1.0], dtype=torch.float64)
    x = torch.tensor([[[0.0], [1.0]], [[2.0], [4.0]]], dtype=torch.float64)
    found = Particles(x, logs, z.log(), torch.ones(2, 2), torch.zeros(2, 2).long(), 1.0)
    weights = torch.tensor([[0.15, 0.6], [0.125, 0.125]], dtype=torch.float64)
    torch.testing.assert_close(found.weights, weights)
    assert found.mean().item() == pytest.approx(0.6 + 0.25 + 0.5)
    assert found.log_evidence == pytest.approx(math.log(2))
    assert found.standard_error == pytest.approx(0.5)


def test_iterations_solve_what_the_matrix_does():
    a, root = normal(3, 6), normal(6, 6, seed=1)
    v = root @ root.T
    seen = Measurement(Matrix(a), normal(3, seed=2), covariance=torch.eye(3) + 0.5)
    residual = normal(4, 3, seed=3)
    change, twist = _by_matrix(seen, residual, lambda u: u @ v)
    spread = a @ v @ a.T + torch.eye(3, dtype=torch.float64) + 0.5
    exact = torch.distributions.MultivariateNormal(torch.zeros(3).double(), spread)
    torch.testing.assert_close(twist, exact.log_prob(residual))
    torch.testing.assert_close(change, torch.linalg.solve(spread, residual.T).T @ a @ v)
    by_steps, power = _by_iteration(seen, residual, lambda u: u @ v)
    torch.testing.assert_close(by_steps, change, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(power - twist, (power - twist)[:1].expand(4), rtol=1e-3, atol=1e-3)


def test_networks_whose_jacobian_is_no_covariance_are_weighed_all_the_same():
    sde, turn = VP(), normal(4, 4)

    def score(x, t):
        return -x + 0.5 * sde.alpha(t) ** 2 * x @ (turn - turn.T).to(x)

    model = ScoreFunction(score, sde)
    seen = Measurement(Mask(torch.tensor([True, True, False, False])), torch.zeros(2), 0.5)
    driver = SMC(steps=20, grid="log_snr(end=0.02)", particles=100, islands=12)
    by_matrix, by_steps, plain = (
        driver(target, seed=1, progress=False)
        for target in (
            Twisted(model, seen), Twisted(model, seen, dense=1), NoisedObservation(model, seen)
        )
    )  # fmt: skip
    for other in (by_steps, plain):
        error = math.hypot(by_matrix.standard_error, other.standard_error)
        assert abs(by_matrix.log_evidence - other.log_evidence) < 3.5 * error


PRODUCTS = {
    "guidance": ([(1.0, 0.25), (0.0, 1.0)], [3.0, -2.0]),
    "product": ([(1.0, 0.25), (-1.0, 1.0)], [1.0, 1.0]),
    "negation": ([(1.0, 0.25), (0.0, 1.0)], [1.0, -0.5]),
    "tempering": ([(1.0, 0.25)], [2.0]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_unequal_variances_are_exact(name):
    sde = VP() if name in ("guidance", "tempering") else EDM()
    parts, weights = PRODUCTS[name]
    precision = sum(w / v for (_, v), w in zip(parts, weights, strict=True))
    mean = sum(w * m / v for (m, v), w in zip(parts, weights, strict=True)) / precision
    logs = sum(
        w * (-0.5 * math.log(2 * math.pi * v) - 0.5 * m**2 / v)
        for (m, v), w in zip(parts, weights, strict=True)
    )
    log_z = logs + 0.5 * math.log(2 * math.pi / precision) + 0.5 * precision * mean**2
    model = guidance.Product([GaussianMixture([[m]], v, sde) for m, v in parts], weights)
    driver = SMC(steps=60, grid="karras", particles=150, islands=20)
    found = driver(Corrected(model, (1,)), seed=0, progress=False)
    sd = precision**-0.5
    assert found.mean().item() == pytest.approx(mean, abs=0.08 * sd)
    assert found.covariance().item() ** 0.5 == pytest.approx(sd, rel=0.06)
    assert found.log_evidence == pytest.approx(log_z, abs=3.5 * found.standard_error + 0.01)
    plain = samplers.sample(model, "dpmpp-2m(steps=40)", (1,), 400, progress=False)
    assert abs(plain.mean() - mean) > 0.12 * sd or abs(plain.std() - sd) > 0.12 * sd


def test_the_part_that_keeps_the_sum_at_one_leaves_at_the_end():
    """At one time alone, what is left in the weights is the density of the start."""
    sde = EDM(0.05, 5.0)
    model = guidance.Tempered(GaussianMixture([[0.3]], 0.5, sde), 2.0)
    stages = Corrected(model, (1,)).stages(torch.tensor([sde.t_max], dtype=torch.float64), [0], 6)
    x, seen, first = stages.start(normal(6, 1))
    left = first + stages.finish(x, seen)[1]
    torch.testing.assert_close(left, torch.distributions.Normal(0.0, 5.0).log_prob(x[:, 0]))


def test_guidance_is_the_product_that_its_rule_says():
    sde = VP()
    good, worse = (GaussianMixture([[m]], v, sde) for m, v in ((1.0, 0.25), (0.0, 1.0)))
    guided = guidance.Guided(good, "cfg(3)", against=worse)
    product = guidance.Product([good, worse], [3, -2])
    driver = SMC(steps=20, particles=50, islands=2)
    a, b = (driver(Corrected(m, (1,)), seed=0, progress=False) for m in (guided, product))
    torch.testing.assert_close(a.log_evidences, b.log_evidences)
    assert a.nfe == b.nfe == 40


def test_conditions_reach_every_particle():
    told = []

    def score(x, t, condition=None):
        told.append(condition)
        return -x - condition

    model = ScoreFunction(score, VP())
    seen = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1), 0.5)
    condition = torch.tensor([[0.3, -0.3]], dtype=torch.float64)
    driver = SMC(steps=3, particles=4, islands=2)
    for target in (Twisted(model, seen, condition=condition), NoisedObservation(
        model, seen, condition=condition
    )):  # fmt: skip
        told.clear()
        driver(target, progress=False)
        assert all(torch.equal(each, condition.expand(8, 2).to(each)) for each in told)


def test_draws_have_the_weights_of_the_particles():
    problem = next(iter(problems(0.3)))
    found = SMC(steps=10, particles=50, islands=4)(
        Twisted(problem.prior, problem.seen), seed=0, progress=False
    )
    drawn = found.resampled(4000, seed=1)
    torch.testing.assert_close(drawn.double().mean(0), found.mean(), rtol=0, atol=2e-3)
    assert "log Z = " in str(found)
    assert math.isnan(SMC(steps=3, islands=1)(Twisted(problem.prior, problem.seen)).standard_error)


def test_what_no_particles_can_do_is_refused():
    prior = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    uneven = Measurement(Matrix(torch.eye(2)), torch.zeros(2), torch.tensor([0.1, 0.2]))
    reward = LogLikelihood(lambda x: x.sum(1))
    for make, said in [
        (lambda: NoisedObservation(prior, uneven), "differs from entry to entry"),
        (lambda: NoisedObservation(prior, reward), "needs a Measurement"),
        (lambda: NoisedObservation(prior, uneven, "straight"), "path='straight'"),
        (lambda: Twisted(prior, reward), "event_shape is missing"),
        (lambda: Twisted(prior, 3.0), "accepted: a Measurement"),
        (lambda: Corrected(prior, (2,)), "has no weights and scores"),
        (lambda: SMC(threshold=1.5), "threshold=1.5"),
        (lambda: SMC(particles=0), "particles=0"),
        (lambda: SMC(grid="nothing"), "unknown grid 'nothing'"),
    ]:
        with pytest.raises((ValueError, TypeError), match=said):
            make()
    for target in (Twisted(prior, uneven), Corrected(guidance.Tempered(prior, 2.0), (2,))):
        assert "exact in the limit of many particles" in str(target)
