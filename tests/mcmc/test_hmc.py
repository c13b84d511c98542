"""HMC: the leapfrog's conserved quantities, and distributions that one transition keeps exactly."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.mcmc import HMC, KERNELS, State, Tuning
from sde_score.mcmc.leapfrog import draw_momentum, energy_rise, hamiltonian, leapfrog, velocity
from sde_score.random import ExampleStreams

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def at(density, x, p):
    energy, score = density.energy_and_score(x)
    return State(x, score, energy, p)


def swing(density, state, steps, h, mass=None):
    for _ in range(steps):
        state = leapfrog(density, state, torch.as_tensor(h, dtype=F64), mass, energy=True)
    return state


def curved(x):
    """An energy of two coupled coordinates, nowhere quadratic."""
    return 0.25 * x[:, 0] ** 4 + 0.5 * (x[:, 1] - x[:, 0] ** 2) ** 2 + 0.3 * torch.sin(x[:, 1])


def test_leapfrog_conserves_its_own_quadratic_energy(exact):
    """p^2 / m + k (1 - h^2 k / 4m) x^2, to rounding, near the stability bound too."""
    k, m, h = tensor(1.7, 0.3), tensor(1.0, 2.3), 0.9
    density = exact.counted(lambda x: 0.5 * (k * x**2).sum(1))

    def conserved(s):
        return s.momentum**2 / m + k * (1 - h**2 * k / (4 * m)) * s.x**2

    state = at(density, tensor([1.1, -0.4]), tensor([-0.2, 0.9]))
    begin = conserved(state)
    for _ in range(50):
        state = swing(density, state, 1, h, m)
        assert torch.allclose(conserved(state), begin, rtol=0, atol=1e-14 * 5)


def test_leapfrog_steps_back_to_where_it_came_from(exact):
    density = exact.counted(curved)
    start = at(density, tensor([0.7, -0.2], [1.1, 0.4]), tensor([0.3, 1.2], [-0.5, 0.8]))
    mass = tensor(1.3, 0.6)
    end = swing(density, start, 40, 0.15, mass)
    assert (end.x - start.x).abs().min() > 0.05
    back = swing(density, end, 40, -0.15, mass)
    flipped = swing(density, State(end.x, end.score, end.energy, -end.momentum), 40, 0.15, mass)
    assert torch.allclose(back.x, start.x, atol=1e-12)
    assert torch.allclose(back.momentum, start.momentum, atol=1e-12)
    assert torch.allclose(flipped.x, start.x, atol=1e-12)
    assert torch.allclose(flipped.momentum, -start.momentum, atol=1e-12)


def test_leapfrog_preserves_volume():
    """The Jacobian of five steps in (x, p), by autograd, has determinant 1 and is symplectic."""

    class Smooth:
        def energy_and_score(self, x):
            energy = curved(x)
            return energy, -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]

    def flow(z):
        x, p = z[None, :2], z[None, 2:]
        state = at(Smooth(), x, p)
        state = swing(Smooth(), state, 5, 0.3, tensor(1.5, 0.5))
        return torch.cat([state.x, state.momentum], 1)[0]

    jacobian = torch.autograd.functional.jacobian(flow, tensor(0.7, -0.3, 0.4, 1.1))
    form = torch.zeros(4, 4, dtype=F64)
    form[:2, 2:], form[2:, :2] = torch.eye(2), -torch.eye(2)
    assert abs(torch.linalg.det(jacobian) - 1) < 1e-12
    assert torch.allclose(jacobian @ form @ jacobian.T, form, atol=1e-12)


def test_leapfrog_tends_to_the_exact_oscillation_with_order_two(exact):
    """x(t) = x0 cos wt + p0 / (m w) sin wt with w^2 = k / m; errors of x, p and H fall as h^2."""
    k, m, time = 1.7, 2.3, 3.0
    density = exact.counted(lambda x: 0.5 * k * (x**2).sum(1))
    start, w = at(density, tensor([0.8]), tensor([-0.5])), math.sqrt(k / m)
    x = 0.8 * math.cos(w * time) - 0.5 / (m * w) * math.sin(w * time)
    p = -0.5 * math.cos(w * time) - 0.8 * m * w * math.sin(w * time)
    errors = []
    for steps in (40, 80):
        end = swing(density, start, steps, time / steps, tensor(m))
        rise = hamiltonian(end, tensor(m)) - hamiltonian(start, tensor(m))
        errors.append(tensor(float(end.x) - x, float(end.momentum) - p, float(rise)).abs())
    assert torch.allclose(errors[0] / errors[1], tensor(4.0), rtol=0.02)
    assert errors[1].max() < 5e-3


@pytest.mark.parametrize("leapfrogs", [1, 2, 5, 13])
@pytest.mark.parametrize(("k", "m", "temperature"), [(1.0, 1.0, 1.0), (1.7, 0.6, 2.5)])
def test_unadjusted_variance_is_the_closed_form_for_any_length(exact, leapfrogs, k, m, temperature):
    """x' = A x + B z; A and B by moving basis states; the fixed point of v = A^2 v + B^2."""
    h = 0.8
    density = exact.counted(lambda x: 0.5 * k * (x**2).sum(1))
    basis, mass = tensor([1.0], [0.0]), tensor(m)
    momenta = draw_momentum(tensor([0.0], [1.0]), mass, temperature)
    a, b = swing(density, at(density, basis, momenta), leapfrogs, h, mass).x[:, 0]
    variance = temperature / (k * (1 - h**2 * k / (4 * m)))
    assert float(b**2 / (1 - a**2)) == pytest.approx(variance, rel=1e-12)


def test_a_step_is_the_power_of_the_leapfrog_matrix(exact, stored):
    """One leapfrog of a Gaussian is a 2x2 matrix; the decision is u < exp(-energy error)."""
    k, m, h, temperature, length = 1.7, 0.6, 0.55, 2.5, 4
    density = exact.counted(lambda x: 0.5 * k * (x**2).sum(1))
    kernel = HMC(h, temperature, leapfrogs=length, jitter=0.0)
    x, z = tensor([1.3], [1.3]), tensor([0.7], [0.7])
    cosine = 1 - h**2 * k / (2 * m)
    matrix = tensor([cosine, h / m], [-h * k * (1 - h**2 * k / (4 * m)), cosine])
    y, q = torch.linalg.matrix_power(matrix, length) @ tensor(1.3, math.sqrt(temperature * m) * 0.7)
    before = 0.5 * k * 1.3**2 + 0.5 * temperature * 0.7**2
    error = float((0.5 * k * y**2 + 0.5 * q**2 / m - before) / temperature)
    assert error > 0.05  # so that both decisions are possible
    edge = torch.special.ndtri(tensor(math.exp(-error)))
    u = torch.stack([edge - 1e-6, edge + 1e-6]).reshape(2, 1)
    state = kernel.start(density, x, None)
    done = kernel.step(density, state, stored([z, u]), Tuning(tensor(h)[0], tensor(m)))
    assert torch.allclose(done.state.x[:, 0], torch.stack([y, tensor(1.3)[0]]), atol=1e-12)
    assert torch.allclose(done.energy_error, tensor(error), atol=1e-12)
    assert torch.allclose(done.acceptance, tensor(math.exp(-error)), atol=1e-12)
    assert torch.allclose(done.state.score, -k * done.state.x, atol=1e-12)
    assert torch.allclose(done.state.energy, 0.5 * k * done.state.x[:, 0] ** 2, atol=1e-12)
    assert done.state.momentum is None


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_exact_distribution_is_kept(curve, normals, temperature):
    """From exact draws; steps so coarse that an unadjusted chain, or a wrong ratio, would show."""
    kernel = HMC(curve.coarse, temperature, leapfrogs=3)
    x = curve.sample(20_000, torch.Generator().manual_seed(1), temperature)
    noise = normals(x, seed=2)
    state = kernel.start(curve, x, noise)
    for _ in range(3):
        done = kernel.step(curve, state, noise, kernel.tuning(x))
        # The mean of exp(-energy error) over exact states is 1.
        ratio = (-done.energy_error).exp()
        assert abs(float(ratio.mean() - 1)) < 4 * float(ratio.std()) / math.sqrt(len(x))
        state = done.state
    assert 0.5 < float(done.acceptance.mean()) < 0.995
    assert curve.distance(state.x, temperature) < 2.3
    assert float((state.x - x).abs().mean()) > 0.2


def test_mass_and_temperature_are_a_change_of_units(exact, normals):
    """With mass m and temperature T on E(x), sqrt(m / T) x moves as on E / T with neither; exactly,
    decisions included."""
    mass, temperature, h = tensor(4.0, 0.3), 2.5, 0.35
    scale = (mass / temperature).sqrt()
    plain = exact.counted(lambda y: curved(y / scale) / temperature)
    x = torch.randn(300, 2, dtype=F64, generator=torch.Generator().manual_seed(3))
    heavy, light = HMC(h, temperature, leapfrogs=4), HMC(h, leapfrogs=4)
    one, other = normals(x), normals(x)
    a = heavy.start(exact.counted(curved), x, one)
    b = light.start(plain, x * scale, other)
    rejected = 0
    for _ in range(4):
        before = a.x
        done = heavy.step(exact.counted(curved), a, one, Tuning(tensor(h)[0], mass))
        same = light.step(plain, b, other, light.tuning(x))
        a, b = done.state, same.state
        assert torch.allclose(a.x * scale, b.x, atol=1e-9)
        assert torch.allclose(done.energy_error, same.energy_error, atol=1e-9)
        rejected += int((a.x == before).all(1).sum())
    assert rejected > 20


def test_a_mass_for_each_chain_is_that_chain_s(exact, normals):
    density = exact.counted(curved)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 2, dtype=F64, generator=generator)
    mass = torch.rand(3, 2, dtype=F64, generator=generator) + 0.5
    kernel, h = HMC(leapfrogs=3), tensor(0.1, 0.2, 0.3)
    whole = kernel.step(density, kernel.start(density, x, None), normals(x), Tuning(h, mass))
    for i in range(3):
        noise = normals(x)
        alone = kernel.step(
            density,
            kernel.start(density, x[i : i + 1], None),
            lambda noise=noise, i=i: noise()[i : i + 1],
            Tuning(h[i], mass[i]),
        )
        assert torch.allclose(alone.state.x, whole.state.x[i : i + 1], rtol=0, atol=1e-12)


def test_jitter_ends_the_resonance(exact, normals):
    """h = 1.2, L = 5 on N(0, 1): five steps are nearly a period, cos(5 acos(0.28)) = 0.988, so the
    variance 8 of the start is still above 3 after 40 moves, nearly all accepted."""
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    x = math.sqrt(8) * torch.randn(8000, 1, dtype=F64, generator=torch.Generator().manual_seed(5))
    variances = {}
    for jitter in (0.0, HMC().jitter):
        kernel, noise = HMC(1.2, leapfrogs=5, jitter=jitter), normals(x, seed=6)
        state = kernel.start(density, x, noise)
        for _ in range(40):
            done = kernel.step(density, state, noise, kernel.tuning(x))
            state = done.state
        assert done.acceptance.mean() > 0.85
        variances[jitter] = float(state.x.var())
    assert variances.pop(0.0) > 3
    assert variances.popitem()[1] == pytest.approx(1, abs=4 * math.sqrt(2 / 8000))


def test_jitter_is_uniform_and_each_chain_s_own(exact, normals):
    """On a flat density with L = 1 the move over the momentum is the step size."""
    flat = exact.counted(lambda x: 0.0 * x.sum(1))
    x = torch.zeros(5000, 2, dtype=F64)
    kernel = HMC(0.5, leapfrogs=1, jitter=0.3)
    step_size = torch.linspace(0.5, 2.0, 5000, dtype=F64)
    done = kernel.step(flat, kernel.start(flat, x, None), normals(x), Tuning(step_size))
    steps = done.state.x / normals(x)()
    assert torch.allclose(steps[:, 0], steps[:, 1])
    spread = (steps[:, 0] / step_size - 0.7) / 0.6
    assert spread.min() > -1e-9
    assert spread.max() < 1 + 1e-9
    assert exact.kolmogorov(spread) < 2.3


def test_a_move_costs_one_evaluation_per_leapfrog_and_one_energy(exact, normals):
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    x = torch.ones(4, 2, dtype=F64)
    kernel = HMC(0.1, leapfrogs=7)
    state = kernel.start(density, x, None)
    assert (density.nfe, density.energies) == (1, 1)
    kernel.step(density, state, normals(x), kernel.tuning(x))
    assert (density.nfe, density.energies) == (8, 2)


def test_no_chain_sees_another_and_any_event_shape_will_do(exact):
    """Bit for bit; (2, 3) as 6 numbers, and scalars as one."""
    density = exact.counted(lambda x: (0.1 * x.reshape(len(x), -1) ** 4).sum(1))
    x = torch.linspace(-2, 2, 30, dtype=F64).reshape(5, 2, 3)
    kernel = HMC(0.6, leapfrogs=3)

    def walk(x, seeds):
        noise = ExampleStreams(seeds, x)
        state = kernel.start(density, x, noise)
        for _ in range(4):
            state = kernel.step(density, state, noise, kernel.tuning(x)).state
        return state.x

    whole = walk(x, range(5))
    assert torch.equal(walk(x.flatten(1), range(5)).reshape(5, 2, 3), whole)
    for i in range(5):
        assert torch.equal(walk(x[i : i + 1], [i]), whole[i : i + 1])
    assert torch.equal(walk(x[:, 0, 0], range(5)), walk(x[:, :1, 0], range(5))[:, 0])


def test_overflow_and_not_a_number_are_never_accepted(exact, normals):
    """A wall of nan beyond 2: the chain stays where it was and goes on."""
    walled = exact.counted(lambda x: torch.where(x[:, 0].abs() < 2, 0.5 * x[:, 0] ** 2, torch.nan))
    x = torch.full((2000, 1), 1.5, dtype=F64)
    kernel, noise = HMC(0.7, leapfrogs=3), normals(x)
    state = kernel.start(walled, x, noise)
    done = kernel.step(walled, state, noise, kernel.tuning(x))
    lost = done.energy_error == torch.inf
    assert 0.1 < lost.double().mean() < 0.8
    assert torch.equal(done.state.x[lost], x[lost])
    assert (done.acceptance[lost] == 0).all()
    assert done.state.x.abs().max() < 2
    assert done.state.score.isfinite().all()
    nan, inf = tensor(torch.nan, torch.inf, 1.0), tensor(0.0, 1.0, torch.inf)
    assert energy_rise(inf, nan, 2.0).tolist() == [torch.inf, torch.inf, -torch.inf]


def test_float32_stays_float32(exact, normals):
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    x = torch.ones(3, 2)
    kernel = HMC(0.2)
    done = kernel.step(density, kernel.start(density, x, None), normals(x), kernel.tuning(x))
    kept = (done.state.x, done.state.score, done.state.energy, done.acceptance, done.energy_error)
    assert {t.dtype for t in kept} == {torch.float32}


def test_it_is_known_by_name_and_refuses_what_it_cannot_use(exact):
    kernel = KERNELS.create("hmc(step_size=0.3, leapfrogs=4, jitter=0)")
    assert kernel == HMC(0.3, leapfrogs=4, jitter=0)
    assert kernel.adjusted
    assert kernel.needs_energy
    assert kernel.uses_mass
    for bad in ({"leapfrogs": 0}, {"jitter": 1.0}, {"jitter": -0.1}, {"step_size": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            HMC(**bad)
    bare = State(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(TypeError, match="momentum"):
        leapfrog(exact.counted(curved), bare, torch.tensor(0.1), None, energy=False)
    with pytest.raises(TypeError, match="energy and a momentum"):
        hamiltonian(bare, None)
    assert velocity(torch.ones(2), None).tolist() == [1, 1]
