"""NUTS: trees against a recursive construction over all coins, and distributions that one step
keeps."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch

from sde_score.mcmc import KERNELS, NUTS, State, Tuning
from sde_score.mcmc.counter_rng import Uniforms
from sde_score.mcmc.leapfrog import hamiltonian, leapfrog
from sde_score.mcmc.nuts import _Branch, _Tree
from sde_score.random import ExampleStreams

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def walk(kernel, density, x, noise, steps, tuning=None):
    state = kernel.start(density, x, noise)
    for _ in range(steps):
        done = kernel.step(density, state, noise, tuning or kernel.tuning(x))
        state = done.state
    return done


class Orbit:
    """The leapfrog orbit through one point, and NUTS on its whole-number times by recursion.

    A stretch [a, b] of times is a tree if it and all its halves do not turn, nor either half with
    the next point of the other. From time i the tree doubles to the left or right by each coin,
    while the new half is a tree.
    """

    def __init__(self, density, x, p, h, mass, temperature, reach):
        self.mass = mass
        self.turns, self.is_tree = functools.cache(self.turns), functools.cache(self.is_tree)
        energy, score = density.energy_and_score(x[None])
        start = State(x[None], score, energy, p[None])
        points = {0: start}
        for sign in (1, -1):
            state = start
            for time in range(1, reach + 1):
                state = leapfrog(density, state, tensor(sign * h)[0], mass, energy=True)
                points[sign * time] = state
        self.x = {i: s.x[0] for i, s in points.items()}
        self.p = {i: s.momentum[0] for i, s in points.items()}
        self.h = {i: float(hamiltonian(s, mass)) / temperature for i, s in points.items()}

    def weight(self, times):
        return sum(math.exp(self.h[0] - self.h[i]) for i in times)

    def turns(self, a, b):
        m = (a + b) // 2
        return any(self.returns(*ends) for ends in ((a, b), (a, m + 1), (m, b)))

    def returns(self, a, b):
        total = sum(self.p[i] for i in range(a, b + 1)) - (self.p[a] + self.p[b]) / 2
        return any(float((total * self.p[i] / self.mass).sum()) <= 0 for i in (a, b))

    def is_tree(self, a, b):
        if a == b:
            return True
        middle = (a + b) // 2
        return self.is_tree(a, middle) and self.is_tree(middle + 1, b) and not self.turns(a, b)

    def step(self, i, coins):
        """Stretch reached from time i with these coins (True: forwards), the times of a dropped
        half, and the distribution of the chosen time."""
        a = b = i
        distribution, dropped = {i: 1.0}, []
        for forward in coins:
            size = b - a + 1
            new = range(b + 1, b + size + 1) if forward else range(a - size, a)
            if not self.is_tree(new[0], new[-1]):
                dropped = list(new)
                break
            share = min(1.0, self.weight(new) / self.weight(range(a, b + 1)))
            distribution = {j: (1 - share) * q for j, q in distribution.items()}
            for j in new:
                distribution[j] = share * self.weight([j]) / self.weight(new)
            a, b = min(a, new[0]), max(b, new[-1])
            if self.turns(a, b):
                break
        return (a, b), dropped, distribution


def bumpy(x):
    """An energy of two coupled coordinates, nowhere quadratic."""
    return 0.1 * x[:, 0] ** 4 + 0.5 * (x[:, 1] - 0.5 * x[:, 0]) ** 2 + 0.5 * torch.sin(x[:, 1])


MASS = tensor(1.6, 0.5)
DEPTH = 5


@pytest.fixture(params=[(0.25, 2.5), (1.1, 1.0)], ids=["fine", "coarse"])
def orbit(request, exact):
    h, temperature = request.param
    x, z = tensor(0.3, -0.2), tensor(0.5, 0.9)
    p = (temperature * MASS).sqrt() * z
    kernel = NUTS(h, temperature, max_depth=DEPTH)
    density = exact.counted(bumpy)
    orbit = Orbit(density, x, p, h, MASS, temperature, reach=3 * 2**DEPTH)
    return orbit, kernel, density, x, z


def test_the_recursion_itself_is_reversible(orbit):
    """w_i P(i to j) = w_j P(j to i), exactly, over all coins: so what agrees with it is right."""
    orbit = orbit[0]

    @functools.cache
    def row(i):
        distribution = {}
        for coins in itertools.product([False, True], repeat=DEPTH):
            for j, q in orbit.step(i, coins)[2].items():
                distribution[j] = distribution.get(j, 0.0) + q / 2**DEPTH
        return distribution

    pairs = [(i, j) for i in range(-3, 4) for j in row(i) if i != j]
    assert len(pairs) > 20
    for i, j in pairs:
        forth, back = orbit.weight([i]) * row(i)[j], orbit.weight([j]) * row(j).get(i, 0.0)
        assert forth == pytest.approx(back, rel=1e-9, abs=1e-12)


def test_trees_are_those_of_the_recursion(orbit, normals):
    """Same coins, same tree: depth, leapfrogs, acceptance and largest error, chain by chain; and
    over chains the chosen points have the exact distribution."""
    orbit, kernel, density, x, z = orbit
    chains = 4000
    like = x.expand(chains, 2)
    tables = Uniforms.draw(normals(like, seed=1))
    coins = torch.stack([tables.coin(0, d) for d in range(DEPTH)], 1)
    later = normals(like, seed=1)
    draws = itertools.chain([z.expand(chains, 2)], iter(later, None))
    state = kernel.start(density, like, None)
    tuning = Tuning(tensor(kernel.step_size)[0], MASS)
    done = kernel.step(density, state, lambda: next(draws), tuning)
    known, expected, depths = {}, {}, set()
    for i in range(chains):
        key = tuple(coins[i].tolist())
        known[key] = known.get(key) or orbit.step(0, key)
        (a, b), dropped, distribution = known[key]
        new = [t for t in range(a, b + 1) if t != 0]
        assert 1 << int(done.depth[i]) == b - a + 1
        depths.add(int(done.depth[i]))
        if dropped:
            # A half is left as soon as a part of it turns; in which order depends on the way.
            order = dropped if dropped[0] > b else dropped[::-1]
            ends = [n + 1 for n in range(len(order)) if stopped(orbit, order, n)]
            new += order[: ends[0]]
        rises = [orbit.h[t] - orbit.h[0] for t in new]
        assert int(done.leapfrogs[i]) == len(new)
        accepted = sum(min(1.0, math.exp(-r)) for r in rises) / len(new)
        assert float(done.acceptance[i]) == pytest.approx(accepted, abs=1e-10)
        assert float(done.energy_error[i]) == pytest.approx(max(rises), abs=1e-10)
        for j, q in distribution.items():
            expected[j] = expected.get(j, 0.0) + q
    assert len(depths) > 1
    found = {j: int((done.state.x - orbit.x[j]).abs().amax(1).lt(1e-9).sum()) for j in expected}
    assert sum(found.values()) == chains
    frequent = [j for j, q in expected.items() if q > 20]
    chi = sum((found[j] - expected[j]) ** 2 / expected[j] for j in frequent)
    assert chi < len(frequent) + 4.5 * math.sqrt(2 * len(frequent))
    assert not done.diverged.any()


def stopped(orbit, order, n):
    """Whether an aligned stretch of the points in this order that ends at point n turns."""
    size, found = 2, False
    while (n + 1) % size == 0:
        a, b = order[n + 1 - size], order[n]
        found |= orbit.turns(min(a, b), max(a, b))
        size *= 2
    return found


def test_every_aligned_stretch_is_looked_at_when_it_ends():
    """Winding random walks of momenta, 16 points: the answer at each point is that of summing every
    stretch of 2, 4, 8, 16 that ends there, and each half with the next point of the other."""
    chains, points = 3000, 16
    generator = torch.Generator().manual_seed(11)
    angle = torch.randn(points, chains, dtype=F64, generator=generator).cumsum(0) * 0.45
    length = 0.3 + torch.rand(points, chains, 1, dtype=F64, generator=generator)
    p = length * torch.stack([angle.cos(), angle.sin()], -1)

    def returns(a, b):
        way = (p[a : b + 1].sum(0) - (p[a] + p[b]) / 2) / MASS
        return ((way * p[a]).sum(1) <= 0) | ((way * p[b]).sum(1) <= 0)

    def at(momentum):
        return State(momentum, momentum, momentum[:, 0], momentum)

    # The point before the first belongs to the tree and to no stretch of the branch.
    branch = _Branch(at(-p[0]), _Tree(at(-p[0]), p[0, :, 0]))
    seen = torch.zeros(3, dtype=torch.int64)
    for n in range(points):
        expected, size = torch.zeros(chains, dtype=torch.bool), 2
        while (n + 1) % size == 0:
            a, m = n + 1 - size, n - size // 2
            parts = [returns(a, n), returns(a, m + 1), returns(m, n)]
            others = [parts[i - 2] | parts[i - 1] | expected for i in range(3)]
            seen += torch.stack([(q & ~o).sum() for q, o in zip(parts, others, strict=True)])
            expected |= parts[0] | parts[1] | parts[2]
            size *= 2
        assert torch.equal(branch.add(at(p[n]), n, MASS), expected)
    assert torch.equal(branch.first, p[0])
    assert (seen > 5).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_exact_distribution_is_kept_on_the_line(curve, normals, temperature):
    kernel = NUTS(curve.coarse, temperature, max_depth=6)
    x = curve.sample(20_000, torch.Generator().manual_seed(1), temperature)
    done = walk(kernel, curve, x, normals(x, seed=2), 2)
    assert 0.5 < float(done.acceptance.mean()) < 0.99
    assert curve.distance(done.state.x, temperature) < 2.3
    assert float((done.state.x - x).abs().mean()) > 0.2


def test_the_exact_distribution_is_kept_in_more_dimensions(exact, normals):
    """A curved ridge with a mass, and five scales at once: whitened, each coordinate is normal."""

    def whiten(x):
        return torch.stack([x[:, 0], (x[:, 1] - x[:, 0] ** 2) / 0.5], 1)

    ridge = exact.counted(lambda x: 0.5 * (whiten(x) ** 2).sum(1))
    scales = torch.tensor([0.3, 0.6, 1.0, 2.0, 3.0], dtype=F64)
    five = exact.counted(lambda x: 0.5 * ((x / scales) ** 2).sum(1))
    z = torch.randn(8000, 5, dtype=F64, generator=torch.Generator().manual_seed(3))
    on_ridge = torch.stack([z[:, 0], z[:, 0] ** 2 + 0.5 * z[:, 1]], 1)
    for density, x, white, mass, h in (
        (ridge, on_ridge, whiten, tensor(3.0, 0.7), 0.35),
        (five, z * scales, lambda x: x / scales, None, 0.4),
    ):
        kernel = NUTS(max_depth=6)
        done = walk(kernel, density, x, normals(x, seed=4), 1, Tuning(tensor(h)[0], mass))
        out = white(done.state.x)
        for column in (*out.unbind(1), (out**2).sum(1).sqrt()):
            u = torch.special.ndtr(column)
            if column is not out[:, 0] and (column >= 0).all():
                half = out.shape[1] / 2
                u = torch.special.gammainc(tensor(half), column**2 / 2)
            assert exact.kolmogorov(u) < 2.3
        off = torch.corrcoef(out.T) - torch.eye(out.shape[1])
        assert off.abs().max() < 4.5 / math.sqrt(len(x))


def test_moves_are_as_frequent_as_their_reverse(exact, normals):
    """p(x) K(x, y) = p(y) K(y, x): from exact draws the table of cells is symmetric."""
    curve = exact.curve("double well")
    x = curve.sample(40_000, torch.Generator().manual_seed(5))
    kernel = NUTS(0.25, max_depth=5)
    y = walk(kernel, curve, x, normals(x, seed=6), 1).state.x
    edges = tensor(-1.2, -0.9, -0.5, 0.0, 0.5, 0.9, 1.1)
    cell = torch.bucketize(x[:, 0], edges) * 8 + torch.bucketize(y[:, 0], edges)
    table = torch.bincount(cell, minlength=64).reshape(8, 8).double()
    pairs = torch.triu(table + table.T, 1) >= 10
    chi = ((table - table.T) ** 2 / (table + table.T))[pairs].sum()
    count = int(pairs.sum())
    assert count > 20
    assert float(chi) < count + 4.5 * math.sqrt(2 * count)


def test_the_start_ranks_uniformly_in_its_own_chain(exact, normals):
    """An exact start, at a random place of a chain run to both sides of it, has a uniform rank."""
    curve, length = exact.curve("mixture"), 7
    generator = torch.Generator().manual_seed(7)
    x = curve.sample(6000, generator)
    noise, kernel = normals(x, seed=8), NUTS(1.0, max_depth=4)
    sides = []
    for _ in range(2):
        state, side = kernel.start(curve, x, noise), []
        for _ in range(length):
            state = kernel.step(curve, state, noise, kernel.tuning(x)).state
            side.append(state.x[:, 0])
        sides.append(torch.stack(side))
    place = torch.randint(0, length + 1, (len(x),), generator=generator)
    index = torch.arange(length)[:, None]
    below = torch.stack([(side < x[:, 0]) | (side == x[:, 0]) for side in sides])
    # A chain that has not moved ties with its start: ties are broken by fair coins.
    ties = torch.stack([side == x[:, 0] for side in sides])
    below &= ~ties | (torch.rand(below.shape, generator=generator) < 0.5)
    rank = (below[0] & (index < place)).sum(0) + (below[1] & (index < length - place)).sum(0)
    counts = torch.bincount(rank, minlength=length + 1).double()
    expected = len(x) / (length + 1)
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < length + 4.5 * math.sqrt(2 * length)


def test_mass_and_temperature_are_a_change_of_units(exact, normals):
    """With mass m and temperature T on E(x), sqrt(m / T) x moves as on E / T with neither."""
    temperature, h = 2.5, 0.3
    scale = (MASS / temperature).sqrt()
    plain = exact.counted(lambda y: bumpy(y / scale) / temperature)
    x = torch.randn(200, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    tuning = Tuning(tensor(h)[0], MASS)
    heavy = walk(NUTS(h, temperature), exact.counted(bumpy), x, normals(x), 2, tuning)
    light = walk(NUTS(h), plain, x * scale, normals(x), 2)
    assert torch.allclose(heavy.state.x * scale, light.state.x, atol=1e-9)
    assert torch.equal(heavy.depth, light.depth)
    assert torch.allclose(heavy.acceptance, light.acceptance, atol=1e-9)


def test_a_tree_stops_at_the_u_turn_whatever_the_step(exact, normals):
    """On N(0, I) the length of a trajectory is that of half a period: half the step, twice the
    leapfrogs, one more doubling. No tree is longer than a whole period, not even where two halves
    of just less than half a period make just more than one."""
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    x = torch.randn(300, 60, dtype=F64, generator=torch.Generator().manual_seed(9))
    depths = []
    for h in (0.325, 0.1625, 0.08125, 0.1):
        done = walk(NUTS(h), density, x, normals(x), 1)
        assert (done.leapfrogs * h).max() < 4 * math.pi
        assert ((2**done.depth - 1) * h).max() < 2 * math.pi + h
        depths.append(float(done.depth.double().mean()))
    assert depths[1] - depths[0] == pytest.approx(1, abs=0.1)
    assert depths[2] - depths[1] == pytest.approx(1, abs=0.1)
    assert depths[0] == pytest.approx(4, abs=0.1)


def test_depth_has_a_bound_and_cost_is_that_of_the_longest(exact, normals):
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    x = torch.ones(6, 3, dtype=F64)
    for max_depth in (1, 3):
        density.nfe = 0
        done = walk(NUTS(1e-3, max_depth=max_depth), density, x, normals(x), 1)
        assert (done.depth == max_depth).all()
        assert (done.leapfrogs == 2**max_depth - 1).all()
        assert density.nfe == 2**max_depth  # the start's included
    density.nfe, steps = 0, Tuning(tensor(0.05, 0.1, 0.3, 0.5, 0.9, 1.5))
    done = walk(NUTS(), density, x, normals(x), 1, steps)
    assert len(set(done.leapfrogs.tolist())) > 2
    assert density.nfe == 1 + int(done.leapfrogs.max())


def test_no_chain_sees_another_and_any_event_shape_will_do(exact):
    """Bit for bit, beside neighbors whose trees are far deeper; three draws per step for all."""
    density = exact.counted(lambda x: (0.1 * x.reshape(len(x), -1) ** 4).sum(1))
    x = torch.linspace(-2, 2, 30, dtype=F64).reshape(5, 2, 3)
    steps, kernel = tensor(0.05, 0.1, 0.3, 0.6, 1.0), NUTS(max_depth=6)

    def run(x, seeds, steps):
        noise = ExampleStreams(seeds, x)
        calls = []

        def counted():
            calls.append(1)
            return noise()

        done = walk(kernel, density, x, counted, 2, Tuning(steps))
        assert len(calls) == 6
        return done

    whole = run(x, range(5), steps)
    assert len(set(whole.depth.tolist())) > 2
    flat = run(x.flatten(1), range(5), steps)
    assert torch.allclose(flat.state.x.reshape(5, 2, 3), whole.state.x, rtol=0, atol=1e-12)
    for i in range(5):
        alone = run(x[i : i + 1], [i], steps[i : i + 1])
        assert torch.equal(alone.state.x, whole.state.x[i : i + 1])
        assert torch.equal(alone.state.score, whole.state.score[i : i + 1])
        assert torch.equal(alone.acceptance, whole.acceptance[i : i + 1])
    scalar = run(x[:, 0, 0], range(5), steps)
    assert torch.equal(scalar.state.x, run(x[:, :1, 0], range(5), steps).state.x[:, 0])


def test_what_a_state_says_of_its_point_is_so(exact, normals):
    density = exact.counted(bumpy)
    x = torch.randn(50, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    done = walk(NUTS(0.4), density, x, normals(x), 3)
    energy, score = density.energy_and_score(done.state.x)
    assert torch.equal(done.state.energy, energy)
    assert torch.equal(done.state.score, score)
    assert done.state.momentum is None
    assert done.energy_error.abs().max() < 5


def test_divergence_ends_a_tree_and_is_reported(exact, normals):
    """A cliff of 5000 beyond 2, or of nan: no chain falls, all who met it say so."""
    for height in (5000.0, torch.nan):
        cliff = exact.counted(
            lambda x, height=height: (
                0.5 * x[:, 0] ** 2 + torch.where(x[:, 0].abs() < 2, 0.0, height)
            )
        )
        x = torch.full((2000, 1), 1.5, dtype=F64)
        done = walk(NUTS(0.5), cliff, x, normals(x), 1)
        assert 0.1 < done.diverged.double().mean() < 0.8
        assert torch.equal(done.diverged, done.energy_error > 1000)
        assert done.state.x.abs().max() < 2
        assert done.acceptance.isfinite().all()
        assert (done.acceptance[done.diverged] < 1).all()
        patient = walk(NUTS(0.5, divergence=1e308), cliff, x, normals(x), 1)
        assert bool(patient.diverged.any()) == math.isnan(height)
        assert patient.state.x.abs().max() < 2
        strict = walk(NUTS(0.5, divergence=1e-3), cliff, x, normals(x), 1)
        assert strict.diverged.double().mean() > 0.5


def test_a_tree_ends_at_the_first_point_that_diverges(exact, normals):
    """On a flat density nothing turns: only the cliff at 2 ends a tree, and is met once."""
    met = []

    def formula(x):
        met.append(bool((x[:, 0] > 2).any()))
        return torch.where(x[:, 0] > 2, 5000.0, 0.0) + 0.0 * x[:, 0]

    x, kernel = torch.zeros(1, 1, dtype=F64), NUTS(0.5, max_depth=4)
    counts = []
    for seed in range(30):
        met.clear()
        done = walk(kernel, exact.counted(formula), x, normals(x, seed), 1)
        assert sum(met) == int(done.diverged)
        assert int(done.diverged) + int(done.depth == 4) == 1
        counts.append(int(done.diverged))
    assert 5 < sum(counts) < 25


def test_a_chain_that_has_ended_stands_still(exact, normals):
    """Beside a neighbor with a deep tree, an unstable one does not run off to infinity."""
    seen = []

    def formula(x):
        seen.append(x.detach().abs().amax(1))
        return 0.5 * (x**2).sum(1)

    x = torch.ones(2, 1, dtype=F64)
    done = walk(
        NUTS(max_depth=6), exact.counted(formula), x, normals(x), 1, Tuning(tensor(3, 0.01))
    )
    assert done.leapfrogs[0] < 8
    assert done.leapfrogs[1] == 63
    assert torch.stack(seen).max() < 1e5


def test_no_graph_is_kept_and_float32_stays_float32(normals):
    class Graphic:
        def energy_and_score(self, x):
            scale = torch.ones(1, requires_grad=True)
            return (scale * 0.5 * x**2).sum(1), -scale * x

    x = torch.ones(3, 2)
    done = walk(NUTS(0.3), Graphic(), x, normals(x), 1)
    kept = (done.state.x, done.state.score, done.state.energy, done.acceptance, done.energy_error)
    assert not any(t.requires_grad for t in kept)
    assert {t.dtype for t in kept} == {torch.float32}


def test_it_is_known_by_name_and_refuses_what_it_cannot_use():
    kernel = KERNELS.create("nuts(step_size=0.3, max_depth=4)")
    assert kernel == NUTS(0.3, max_depth=4)
    assert kernel.adjusted
    assert kernel.needs_energy
    assert kernel.uses_mass
    for bad in ({"max_depth": 0}, {"max_depth": 21}, {"divergence": 0}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            NUTS(**bad)
