"""The zoo at t = 0: energies, constants and scores, each known another way."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from sde_score.models import (
    TARGETS,
    Density,
    DoubleWell,
    Exponential,
    Funnel,
    Gaussian,
    Mixture,
    Product,
    Quartic,
    Ring,
    Rosenbrock,
)
from sde_score.models import exact as targets

COVARIANCE = ((0.9, -0.4), (-0.4, 0.7))


def rule(low, high, panels=60, nodes=8):
    """Composite Gauss-Legendre nodes and weights."""
    y, w = np.polynomial.legendre.leggauss(nodes)
    edges = np.linspace(low, high, panels + 1)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (y + 1)).ravel(), (half * w).ravel()


def reach(part):
    """Bounds of each entry of x, or of the coordinates z that `unfold` turns into x."""
    if isinstance(part, Product):
        return [ends for inner in part.parts for ends in reach(inner)]
    if isinstance(part, Funnel):
        return [(-8 * part.std, 8 * part.std), *[(-9, 9)] * (part.dim - 1)]
    if isinstance(part, Ring):
        return [(0, part.radius + 9 * part.width), (0, 2 * math.pi)]
    if isinstance(part, Rosenbrock):
        return [(part.a - 6, part.a + 6), (-6 / part.b**0.5, 6 / part.b**0.5)]
    if isinstance(part, Exponential):
        return [(0, 36 / part.rate)] * part.dim
    if isinstance(part, DoubleWell):
        return [(-4, 4)] * part.dim
    if isinstance(part, Quartic):
        return [(-4 * part.scale, 4 * part.scale)] * part.dim
    return [(-14, 14) if part.event_shape == (1,) else (-8, 8)] * part.event_shape[0]


def unfold(part, z):
    """x and log |dx / dz|: polar coordinates of the ring, z that is as wide everywhere as the
    funnel is in its middle, and a banana made straight."""
    if isinstance(part, Ring):
        r, angle = z.unbind(1)
        return torch.stack([r * angle.cos(), r * angle.sin()], 1), r.log()
    if isinstance(part, Funnel):
        others = z[:, 1:] * (0.5 * z[:, :1]).exp()
        return torch.cat([z[:, :1], others], 1), 0.5 * (part.dim - 1) * z[:, 0]
    if isinstance(part, Rosenbrock):
        return torch.stack([z[:, 0], z[:, 1] + z[:, 0] ** 2], 1), 0 * z[:, 0]
    return z, 0 * z[:, 0]


def test_density_integrates_to_one(target):
    """log Z against the integral of exp(-energy) on a grid of Gauss-Legendre panels."""
    dim = target.event_shape[0]
    rules = [rule(*ends, panels={1: 200, 2: 32, 3: 8}[dim]) for ends in reach(target)]
    z = np.stack(np.meshgrid(*(y for y, _ in rules), indexing="ij"), -1).reshape(-1, dim)
    weight = np.ones(1)
    for _, w in rules:
        weight = np.multiply.outer(weight, w)
    x, stretch = unfold(target, torch.from_numpy(z))
    mass = torch.from_numpy(weight.ravel()) @ (stretch - target.energy(x)).exp()
    assert math.log(mass) == pytest.approx(target.log_z, abs=1e-4 if dim == 3 else 1e-9)
    torch.testing.assert_close(target.log_prob(x), -target.energy(x) - target.log_z)


def test_constants_that_have_a_closed_form_are_it():
    assert Funnel(7, 2.0).log_z == pytest.approx(math.log(2 * (2 * math.pi) ** 3.5), rel=1e-14)
    assert Rosenbrock(3.0, 100.0).log_z == pytest.approx(math.log(math.pi / 10), rel=1e-14)
    assert Exponential(4, 0.3).log_z == pytest.approx(-4 * math.log(0.3), rel=1e-14)
    assert Quartic(5, 0.7).log_z == pytest.approx(
        5 * math.log(0.7 * math.gamma(0.25) / 2**0.5), rel=1e-14
    )
    assert Gaussian((0.0, 0.0), COVARIANCE).log_z == pytest.approx(
        0.5 * math.log((2 * math.pi) ** 2 * (0.63 - 0.16)), rel=1e-14
    )
    well = DoubleWell(3, 2.0, 1.3, 0.4)
    one = integrate.quad(lambda x: math.exp(-2 * ((x / 1.3) ** 2 - 1) ** 2 - 0.4 * x), -9, 9)[0]
    assert well.log_z == pytest.approx(3 * math.log(one), rel=1e-12)


def test_energies_are_the_formulas():
    """At two points, by hand; the constants are in `log_z`, not in the energy."""
    x = torch.tensor([[0.7, -1.1], [-0.4, 2.0]], dtype=torch.float64)
    a, b = x.numpy().T
    inverse = np.linalg.inv(np.array(COVARIANCE))
    off = x.numpy() - [1.0, -2.0]
    formulas = {
        Gaussian((1.0, -2.0), COVARIANCE): 0.5 * np.einsum("bi,ij,bj->b", off, inverse, off),
        Ring(1.5, 0.4): (np.hypot(a, b) - 1.5) ** 2 / 0.32,
        Funnel(2, 1.7): a**2 / 5.78 + b**2 * np.exp(-a) / 2 + a / 2,
        Rosenbrock(1.3, 7.0): (1.3 - a) ** 2 + 7 * (b - a**2) ** 2,
        Quartic(2, 0.8): ((a / 0.8) ** 4 + (b / 0.8) ** 4) / 4,
        DoubleWell(2, 3.0, 1.5, 0.2): (
            3 * ((a / 1.5) ** 2 - 1) ** 2 + 3 * ((b / 1.5) ** 2 - 1) ** 2 + 0.2 * (a + b)
        ),
        Exponential(2, 0.6): np.where((a < 0) | (b < 0), np.inf, 0.6 * (a + b)),
        Product((Quartic(1), Gaussian((0.5,), 2.0))): a**4 / 4 + (b - 0.5) ** 2 / 4,
    }
    for target, energy in formulas.items():
        np.testing.assert_allclose(target.energy(x), energy, rtol=1e-13, err_msg=str(target))
    inside = torch.tensor([[0.2, 3.0]], dtype=torch.float64)
    assert Exponential(2, 0.6).energy(inside).item() == pytest.approx(1.92)


def test_mixture_density_is_the_weighted_sum_of_normal_densities():
    default = Mixture()
    assert default.weights == (0.5, 0.3, 0.2)
    x = default.sample(20, torch.Generator().manual_seed(0))
    parts = zip(default.weights, default.means, default.covariances, strict=True)
    density = sum(w * stats.multivariate_normal(m, c).pdf(x.numpy()) for w, m, c in parts)
    np.testing.assert_allclose(default.log_prob(x), np.log(density), rtol=1e-12)
    np.testing.assert_allclose(
        default.energy(x), -np.log(density) - math.log(2 * math.pi), rtol=1e-12
    )
    assert Mixture(((0.0,), (1.0,)), 1.0).weights is None  # equal, and not those of the default


def test_two_modes_have_equal_scores_whatever_their_weights():
    """Fisher divergence between weights .2 and .8 falls to nothing as the modes part."""
    x = torch.linspace(-20, 20, 40001, dtype=torch.float64)[:, None]
    for separation, blind in [(6, 3.6e-2), (8, 1.5e-3), (10, 2.1e-5), (12, 1.0e-7)]:
        p, q = (Mixture.two_modes(separation, weight) for weight in (0.2, 0.8))
        gap = (p.score(x) - q.score(x)).squeeze(1) ** 2
        found = torch.trapezoid(p.log_prob(x).exp() * gap, dx=1e-3).item()
        assert found == pytest.approx(blind, rel=0.05)
    distribution = Mixture.two_modes(4.0, 0.7, dim=3)
    assert distribution.means == ((-2.0, 0.0, 0.0), (2.0, 0.0, 0.0))
    assert distribution.weights == pytest.approx((0.7, 0.3))


def test_score_is_minus_the_gradient_of_the_energy(target):
    """Central differences; alone, with the energy, and with a graph to x."""
    x = target.sample(6, torch.Generator().manual_seed(3))
    score, step = target.score(x), 1e-5
    for i in range(x.shape[1]):
        shift = torch.zeros_like(x)
        shift[:, i] = step
        slope = (target.energy(x + shift) - target.energy(x - shift)) / (2 * step)
        torch.testing.assert_close(score[:, i], -slope, rtol=1e-6, atol=1e-6)
    energy, together = target.energy_and_score(x)
    torch.testing.assert_close(energy, target.energy(x), rtol=0, atol=0)
    torch.testing.assert_close(together, score, rtol=0, atol=0)
    point = x.clone().requires_grad_()
    (second,) = torch.autograd.grad(target.score(point).sum(), point)
    slope = (target.score(x + step) - target.score(x - step)) / (2 * step)
    torch.testing.assert_close(second, slope, rtol=1e-6, atol=1e-5)
    assert isinstance(target, Density)
    with torch.no_grad():
        energy, score = target.energy_and_score(point)
    assert not energy.requires_grad
    assert not score.requires_grad
    assert not x.requires_grad


def test_any_floating_dtype_is_computed_in_float64(target):
    x = target.sample(4, torch.Generator().manual_seed(5))
    short, exact = x.float(), x.float().double()
    assert target.energy(short).dtype == target.score(short).dtype == torch.float32
    for method in ("energy", "score", "log_prob"):
        want = getattr(target, method)(exact).float()
        torch.testing.assert_close(getattr(target, method)(short), want, rtol=1e-6, atol=1e-30)


def test_edges_and_kinks_have_finite_scores():
    outside = torch.tensor([[-1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    distribution = Exponential(2, 1.5)
    assert distribution.energy(outside).tolist() == [math.inf, 4.5]
    assert distribution.log_prob(outside)[0].item() == -math.inf
    assert distribution.score(outside).tolist() == [[0.0, -1.5], [-1.5, -1.5]]
    assert Ring().score(torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]


def test_targets_print_as_they_are_made(target):
    """repr shows every argument, equal arguments make equal and hashable targets."""
    assert eval(repr(target)) == target
    assert hash(eval(repr(target))) == hash(target)


def test_parameters_may_be_tensors_or_arrays():
    means, covariance = torch.tensor([[0.0, 1.0]]).double(), np.array([[[2.0, 0.0], [0.0, 1.0]]])
    distribution = Mixture(means, covariance, torch.tensor([1.0]))
    assert distribution == Mixture(((0.0, 1.0),), (((2.0, 0.0), (0.0, 1.0)),), (1.0,))
    assert Gaussian(means[0], covariance[0]) == Gaussian((0.0, 1.0), ((2.0, 0.0), (0.0, 1.0)))
    one = Gaussian((0.0, 1.0), (2.0, 0.5))
    assert one.log_prob(torch.zeros(1, 2).double()).item() == pytest.approx(
        stats.norm(0, 2**0.5).logpdf(0) + stats.norm(1, 0.5**0.5).logpdf(0)
    )


def test_registry_makes_each_without_arguments_in_the_plane():
    assert targets.available() == TARGETS.names()
    for name in TARGETS:
        assert TARGETS.create(name).event_shape == (2,)
    assert TARGETS.create("double_well(dim=3, tilt=0.1)") == DoubleWell(3, tilt=0.1)
    assert targets.create("ring", radius=1.0) == Ring(1.0)
    with pytest.raises(ValueError, match=r"unknown target 'rign'; did you mean 'ring'"):
        TARGETS.create("rign")
    with pytest.raises(ValueError, match="does not take size"):
        TARGETS.create("ring(size=2)")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ring(radius=0.0), "radius=0.0"),
        (lambda: Ring(width=-1.0), "width=-1.0"),
        (lambda: Funnel(1), "dim=1 must be an integer of at least 2"),
        (lambda: Funnel(std=math.inf), "std=inf"),
        (lambda: Rosenbrock(a=math.nan), "a=nan must be a finite number"),
        (lambda: Rosenbrock(b=0.0), "b=0.0"),
        (lambda: Quartic(0), "dim=0"),
        (lambda: Quartic(scale=0.0), "scale=0.0"),
        (lambda: DoubleWell(0), "dim=0"),
        (lambda: DoubleWell(barrier=-1.0), "barrier=-1.0"),
        (lambda: DoubleWell(barrier=101.0), "barrier=101.0 must be at most 100 nats"),
        (lambda: DoubleWell(position=0.0), "position=0.0"),
        (lambda: DoubleWell(tilt=math.inf), "tilt=inf must be a finite number"),
        (lambda: DoubleWell(tilt=-21.0), r"tilt=-21.0 must be at most .* = 20 in size"),
        (lambda: Exponential(0), "dim=0"),
        (lambda: Exponential(rate=-2.0), "rate=-2.0"),
        (lambda: Product(()), "parts is empty"),
        (lambda: Mixture(((0.0,), (1.0,)), 1.0, (1.0, -1.0)), "weights must be 2 positive"),
        (lambda: Mixture(((0.0,),), 0.0), "covariances must be positive definite"),
        (lambda: Mixture((0.0, 1.0), 1.0), r"means has shape \(2,\)"),
        (lambda: Mixture((((0.0,),),), 1.0), r"means has events of shape \(1, 1\)"),
        (lambda: Mixture.two_modes(separation=0.0), "separation=0.0"),
        (lambda: Mixture.two_modes(weight=1.0), r"weight=1.0 must lie in \(0, 1\)"),
        (lambda: Mixture.two_modes(dim=0), "dim=0"),
        (lambda: Gaussian(0.0, 1.0), "mean=0.0 has no entries"),
        (lambda: Gaussian((0.0, 1.0), ((1.0, 2.0), (2.0, 1.0))), "positive semi-definite"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_events_of_another_shape_are_refused(target):
    dim = target.event_shape[0]
    with pytest.raises(ValueError, match=rf"event shape \({dim + 1},\).*has \({dim},\)"):
        target.energy(torch.zeros(3, dim + 1))
    with pytest.raises(TypeError, match="floating-point"):
        target.score(torch.zeros(3, dim, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"parts\[0\]='ring' must be"):
        Product(("ring",))
