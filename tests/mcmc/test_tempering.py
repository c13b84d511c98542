"""Parallel tempering: swaps in exact balance, replicas at their temperatures, true proportions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from sde_score.mcmc import (
    HMC,
    KERNELS,
    MALA,
    NUTS,
    State,
    TemperedState,
    Tempering,
    Tuning,
    tempering,
)
from sde_score.mcmc.tempering import swap_neighbors
from sde_score.models import GaussianMixture, Marginal
from sde_score.random import ExampleStreams
from sde_score.sdes import VP

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def exact_start(kernel, density, rows):
    """A state whose replicas are at the given positions, `(replicas * chains, *event)`."""
    energy, score = density.energy_and_score(rows)
    chains = len(rows) // kernel.replicas
    return TemperedState(
        rows[:chains],
        score[:chains],
        energy[:chains],
        replicas=State(rows, score, energy),
        swap_acceptance=torch.zeros(kernel.replicas - 1, chains, dtype=F64),
    )


@pytest.mark.parametrize("low", [[0], [0, 2], [1]])
def test_swaps_are_in_detailed_balance(low):
    """Four replicas on three points: pi(s) P(s, s') over all 81 states, by enumeration."""
    energies, inverse = tensor(0.0, 0.7, 2.1), tensor(1.0, 0.6, 0.35, 0.1)
    states = torch.tensor(list(itertools.product(range(3), repeat=4))).T  # (replicas, states)
    distribution = (-(inverse[:, None] * energies[states]).sum(0)).exp()
    index = {tuple(s): i for i, s in enumerate(states.T.tolist())}
    low = torch.tensor(low)
    probability = swap_neighbors(
        energies[states], inverse, low, torch.zeros(len(low), 81, dtype=F64)
    )[1]
    matrix = torch.zeros(81, 81, dtype=F64)
    for choice in itertools.product([False, True], repeat=len(low)):
        # The order is asked of the code with u just below or above the probability.
        swap = torch.tensor(choice)[:, None]
        log_u = probability.log() + torch.where(swap, -1e-9, 1e-9)
        order, _ = swap_neighbors(energies[states], inverse, low, log_u)
        after = states.gather(0, order)
        share = torch.where(swap, probability, 1 - probability).prod(0)
        for i, s in enumerate(after.T.tolist()):
            matrix[i, index[tuple(s)]] += share[i]
    flow = distribution[:, None] * matrix
    assert torch.allclose(matrix.sum(1), tensor(1.0), atol=1e-12)
    assert torch.allclose(flow, flow.T, rtol=0, atol=1e-14)
    assert (flow - flow.diag().diag()).count_nonzero() > 30
    # A colder replica that lies higher always comes down.
    assert (probability[energies[states[low]] > energies[states[low + 1]]] == 1).all()


def test_swaps_of_unknown_energies_do_not_happen():
    energy = tensor([torch.nan, torch.inf], [1.0, torch.inf])
    order, probability = swap_neighbors(
        energy, tensor(1.0, 0.5), torch.tensor([0]), tensor([-50.0, -50.0])
    )
    assert order.tolist() == [[0, 0], [1, 1]]
    assert probability.tolist() == [[0.0, 0.0]]


def test_the_ladder_is_geometric():
    kernel = Tempering(replicas=4, hottest=27.0)
    assert torch.allclose(kernel.ladder(), tensor(1.0, 3.0, 9.0, 27.0), rtol=1e-12)
    assert kernel.ladder()[0] == 1


@pytest.mark.parametrize("inner", [HMC(leapfrogs=3), NUTS(max_depth=3), MALA()])
def test_each_replica_moves_as_the_inner_kernel_at_its_temperature(
    exact, normals, monkeypatch, inner
):
    """Without swaps: in the density's own units, with the chain's step size and mass, and the
    replica's part of the draws."""
    monkeypatch.setattr(
        tempering,
        "swap_neighbors",
        lambda e, b, low, u: (
            torch.arange(len(e))[:, None].repeat(1, e.shape[1]),
            torch.zeros(len(low), e.shape[1], dtype=F64),
        ),
    )
    density = exact.counted(lambda x: (0.3 * x**4 + 0.5 * x**2).sum(1))
    chains, replicas, temperature = 4, 3, 1.5
    kernel = Tempering(0.1, temperature, inner=inner, replicas=replicas, hottest=9.0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(chains * replicas, 2, dtype=F64, generator=generator)
    steps = tensor(0.1, 0.2, 0.3, 0.4)
    mass = torch.rand(chains, 2, dtype=F64, generator=generator) + 0.5
    mass = None if isinstance(inner, MALA) else mass
    state = exact_start(kernel, density, x)
    done = kernel.step(density, state, normals(x[:chains]), Tuning(steps, mass))
    accepted = []
    for r in range(replicas):
        alone = replace(inner, temperature=temperature * 3.0**r)
        block = x[r * chains : (r + 1) * chains]
        noise = normals(block)

        def part(noise=noise, r=r):
            return [noise() for _ in range(replicas)][r]

        start = alone.start(density, block, None)
        same = alone.step(density, start, part, Tuning(steps, mass))
        rows = slice(r * chains, (r + 1) * chains)
        assert torch.allclose(done.state.replicas.x[rows], same.state.x, atol=1e-12)
        assert torch.allclose(done.state.replicas.score[rows], same.state.score, atol=1e-11)
        assert torch.allclose(done.state.replicas.energy[rows], same.state.energy, atol=1e-11)
        accepted.append(same.acceptance)
        if r == 0:  # a batch of another size is rounded in another way
            assert torch.equal(done.state.x, done.state.replicas.x[rows])
            assert torch.equal(done.state.energy, done.state.replicas.energy[rows])
            assert torch.allclose(done.energy_error, same.energy_error, atol=1e-11)
    assert torch.allclose(done.acceptance, torch.stack(accepted).mean(0), atol=1e-12)


@pytest.mark.parametrize(("replicas", "temperature"), [(2, 1.0), (4, 1.0), (3, 2.5)])
def test_the_joint_distribution_is_kept(curve, normals, replicas, temperature):
    """Exact draws at every temperature, four steps, and every replica still has its
    distribution."""
    kernel = Tempering(
        curve.coarse, temperature, inner="hmc(leapfrogs=2)", replicas=replicas, hottest=6.0
    )
    generator, n = torch.Generator().manual_seed(2), 8000
    levels = (temperature * kernel.ladder()).tolist()
    x = torch.cat([curve.sample(n, generator, t) for t in levels])
    state, noise = exact_start(kernel, curve, x), normals(x[:n], seed=3)
    for _ in range(4):
        state = kernel.step(curve, state, noise, kernel.tuning(x)).state
    for rows, t in zip(state.replicas.x.chunk(replicas), levels, strict=True):
        assert curve.distance(rows, t) < 2.3
    assert torch.equal(state.x, state.replicas.x[:n])
    assert (state.swap_acceptance.mean(1) > 0.2).all()
    energy, score = curve.energy_and_score(state.replicas.x)
    assert torch.allclose(state.replicas.energy, energy, atol=1e-10)
    assert torch.allclose(state.replicas.score, score, atol=1e-10)


def test_swap_acceptance_is_the_closed_form(exact, normals):
    """On N(0, I_2) energies are exponential, and neighbors with T ratio c swap with probability
    2 / (1 + c), by integration; every pair is tried on its turn, and the mean is over its tries."""
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    kernel, n = Tempering(0.5, inner="mala", replicas=4, hottest=27.0), 6000
    z = torch.randn(4, n, 2, dtype=F64, generator=torch.Generator().manual_seed(4))
    x = (kernel.ladder().sqrt()[:, None, None] * z).reshape(-1, 2)
    state, noise = exact_start(kernel, density, x), normals(x[:n], seed=5)
    total, tries = torch.zeros(3, n, dtype=F64), torch.zeros(3, 1)
    for step in range(5):
        before = state.swap_acceptance
        state = kernel.step(density, state, noise, kernel.tuning(x)).state
        turn = torch.arange(3) % 2 == step % 2
        assert torch.equal(state.swap_acceptance[~turn], before[~turn])
        assert state.steps == step + 1
        tries += turn[:, None]
        total[turn] += (state.swap_acceptance * tries - before * (tries - 1))[turn]
    error = total.std(1) / tries[:, 0] / math.sqrt(n)
    assert torch.allclose(state.swap_acceptance, total / tries, atol=1e-12)
    assert (state.swap_acceptance >= 0).all()
    assert state.swap_acceptance.max() <= 1 + 1e-12
    assert ((state.swap_acceptance.mean(1) - 2 / (1 + 3.0)).abs() < 4.5 * error).all()


def test_two_replicas_try_their_swap_at_every_step(exact, normals):
    density = exact.counted(lambda x: 0.0 * x.sum(1))
    x = torch.zeros(3, 1, dtype=F64)
    kernel = Tempering(inner="hmc(leapfrogs=1)", replicas=2)
    state, noise = kernel.start(density, x, normals(x)), normals(x)
    for _ in range(3):
        before = state.replicas.x
        state = kernel.step(density, state, noise, kernel.tuning(x)).state
        assert (state.swap_acceptance == 1).all()
        assert not torch.equal(before, state.replicas.x)


def test_it_finds_modes_ten_sigma_apart_in_proportion(normals):
    """Weights 0.2 and 0.8, all chains started in the lighter mode; the inner kernel alone hardly
    ever leaves it."""
    model = GaussianMixture([[-5.0, 0.0], [5.0, 0.0]], 1.0, VP(), [0.2, 0.8])
    density, n = Marginal(model), 300
    x = tensor([-5.0, 0.0]) + normals(torch.zeros(n, 2, dtype=F64), seed=6)()
    kernel = Tempering(0.5, inner="hmc(leapfrogs=3)", replicas=6, hottest=25.0)
    ends = {}
    for name, each in (("tempering", kernel), ("inner", kernel.kernel)):
        noise, tuning = normals(x, seed=7), each.tuning(x)
        state = each.start(density, x, noise)
        for _ in range(100):
            state = each.step(density, state, noise, tuning).state
        ends[name] = state.x
    assert (ends["inner"][:, 0] > 0).double().mean() < 0.02
    heavy = ends["tempering"][:, 0] > 0
    assert float(heavy.double().mean()) == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / n))
    for side, sign in ((heavy, 5.0), (~heavy, -5.0)):
        within = ends["tempering"][side] - tensor(sign * math.sqrt(1 - 1e-5), 0.0)
        assert (within.mean(0).abs() < 4.5 / math.sqrt(len(within))).all()
        assert ((within.var(0) - 1).abs() < 4.5 * math.sqrt(2 / len(within))).all()


def test_all_replicas_move_in_the_same_evaluations(exact, normals):
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    sizes = []
    density.formula = lambda x: sizes.append(len(x)) or 0.5 * (x**2).sum(1)
    x = torch.ones(5, 2, dtype=F64)
    kernel = Tempering(inner="hmc(leapfrogs=3)", replicas=4)
    state = kernel.start(density, x, normals(x))
    assert torch.allclose(state.replicas.x, torch.ones(20, 2, dtype=F64), rtol=1e-15)
    kernel.step(density, state, normals(x), kernel.tuning(x))
    assert sizes == [20] * 4


def test_conditions_and_times_of_a_chain_reach_its_replicas(normals):
    """A model whose distribution is about the condition, at a scale that t sets."""
    seen = []

    class Labeled(GaussianMixture):
        def energy_and_score(self, x, t, condition=None):
            seen.append((t, condition))
            return 0.5 * ((x - condition) ** 2).sum(1) / t, (condition - x) / t[:, None]

    condition, t = tensor([-3.0], [0.0], [3.0]), tensor(0.1, 0.2, 0.3)
    density = Marginal(Labeled([[0.0]], 1.0, VP()), t, condition)
    x = torch.zeros(3, 1, dtype=F64)
    kernel = Tempering(0.1, inner="mala", replicas=2)
    state = kernel.start(density, x, normals(x))
    kernel.step(density, state, normals(x), kernel.tuning(x))
    for times, conditions in seen:
        assert torch.equal(times, torch.cat([t, t]))
        assert torch.equal(conditions, torch.cat([condition, condition]))
    assert torch.allclose(state.energy, 0.5 * condition[:, 0] ** 2 / t)


@pytest.mark.parametrize("inner", ["hmc(leapfrogs=2)", "nuts(max_depth=4)"])
def test_no_chain_sees_another_and_any_event_shape_will_do(exact, inner):
    """Bit for bit; with streams whose draws are views that the next draws overwrite."""
    density = exact.counted(lambda x: (0.1 * x.reshape(len(x), -1) ** 4).sum(1))
    x = torch.linspace(-2, 2, 30, dtype=F64).reshape(5, 2, 3)
    kernel, steps = Tempering(inner=inner, replicas=3), tensor(0.1, 0.2, 0.3, 0.5, 0.6)

    def walk(x, seeds, steps):
        noise = ExampleStreams(seeds, x)
        state = kernel.start(density, x, noise)
        for _ in range(4):
            state = kernel.step(density, state, noise, Tuning(steps)).state
        return state.x

    whole = walk(x, range(5), steps)
    assert torch.allclose(walk(x.flatten(1), range(5), steps).reshape(5, 2, 3), whole, atol=1e-12)
    for i in range(5):
        assert torch.equal(walk(x[i : i + 1], [i], steps[i : i + 1]), whole[i : i + 1])
    scalar = walk(x[:, 0, 0], range(5), steps)
    assert torch.equal(scalar, walk(x[:, :1, 0], range(5), steps)[:, 0])


def test_draws_are_copied_before_the_next(exact, normals):
    """A source that hands out the same tensor again and again, refilled."""
    density, x = exact.counted(lambda x: 0.5 * (x**2).sum(1)), torch.ones(3, 2, dtype=F64)
    kernel = Tempering(0.3, inner="hmc(leapfrogs=2)", replicas=3)
    room, fresh, other = torch.empty_like(x), normals(x), normals(x)
    ends = []
    for noise in (lambda: room.copy_(fresh()), other):
        state = kernel.start(density, x, noise)
        ends.append(kernel.step(density, state, noise, kernel.tuning(x)).state.replicas.x)
    assert torch.equal(*ends)


def test_it_is_known_by_name_and_takes_after_its_inner_kernel():
    kernel = KERNELS.create("tempering(step_size=0.3, inner='mala', replicas=3)")
    assert kernel.kernel == MALA(0.3)
    assert kernel.target_acceptance == MALA.target_acceptance
    assert not kernel.uses_mass
    assert Tempering(0.2, 1.5, inner=NUTS()).kernel == NUTS(0.2, 1.5)
    assert Tempering(0.2, inner=HMC(0.2, leapfrogs=3)).uses_mass
    faster = replace(kernel, step_size=0.7)
    assert float(faster.tuning(torch.zeros(1, 1, dtype=F64)).step_size) == 0.7
    assert faster.kernel == MALA(0.7)


def test_it_refuses_what_it_cannot_use(exact, normals):
    for bad in ({"replicas": 1}, {"hottest": 1.0}, {"hottest": math.inf}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Tempering(**bad)
    for inner in ("ula", "mala-score", "tempering", Tempering()):
        with pytest.raises(ValueError, match="accepted: mala, hmc, nuts"):
            Tempering(inner=inner)
    for inner in ("hmc(step_size=0.7)", HMC(temperature=3.0)):
        with pytest.raises(ValueError, match="give it to tempering alone"):
            Tempering(0.3, inner=inner)
    density, x = exact.counted(lambda x: x.sum(1)), torch.zeros(1, 1)
    with pytest.raises(TypeError, match=r"begin with start"):
        Tempering().step(density, State(x, x), normals(x), Tempering().tuning(x))
