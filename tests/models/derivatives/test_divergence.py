"""Divergence and asymmetry are those of the Jacobian; estimates have the moments claimed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.autograd import functional

from sde_score.models import (
    DERIVATIVE_MODES,
    DIVERGENCE_METHODS,
    asymmetry,
    divergence,
    quadratic_forms,
    require_forward_mode,
    value_and_divergence,
)
from sde_score.models.derivatives import divergence as traces
from sde_score.random import PROBE_DISTRIBUTIONS, probes

COPIES = 20_000


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def field(generator):
    """Nonlinear, not symmetric, on five dimensions."""
    layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5)).double()
    for parameter in layers.parameters():
        parameter.data.normal_(generator=generator)
    return layers


@pytest.fixture
def x(generator):
    return torch.randn(3, 5, generator=generator, dtype=torch.float64)


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def matrices(field, x):
    size = x[:1].numel()
    rows = [functional.jacobian(field, x[i : i + 1]).reshape(size, size) for i in range(len(x))]
    return torch.stack(rows)


def trace(matrix):
    return matrix.diagonal(dim1=1, dim2=2).sum(1)


def signs(x):
    """All 2^D Rademacher vectors for every example, (2^D, *x.shape)."""
    rows = list(itertools.product((-1.0, 1.0), repeat=x[0].numel()))
    return torch.tensor(rows, dtype=x.dtype).reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)


def linear(matrix):
    return lambda x: x @ matrix.mT


@pytest.mark.parametrize("event", [(), (3,), (2, 3, 2)])
def test_exact_divergence_is_the_trace_for_events_of_any_shape(event, generator):
    x, c = normal(4, *event, generator=generator), normal(*event, generator=generator)

    def bent(x):
        return c * x**3 + x.reshape(4, -1).sum(1).sin().reshape(4, *(1,) * len(event))

    torch.testing.assert_close(divergence(bent, x), trace(matrices(lambda y: bent_alone(y, c), x)))


def bent_alone(y, c):
    return c * y**3 + y.sum().sin()


def test_exact_divergence_of_columns_and_its_graph(field, generator):
    """x need not be contiguous, is left alone, and the divergence trains."""
    x = normal(5, 3, generator=generator).mT
    got = divergence(field, x)
    torch.testing.assert_close(got, trace(matrices(field, x)))
    assert not x.requires_grad
    weight = field[0].weight
    (slope,) = torch.autograd.grad(got.sum(), weight)
    # tr J = sum_h (W2 W1)_hh sech^2(W1 x + b), so its derivative is known in full.
    hidden = torch.tanh(field[0](x))
    loop = (field[2].weight.mT * weight).sum(1)
    sech = 1 - hidden**2
    want = sech.sum(0)[:, None] * field[2].weight.mT
    want = want + torch.einsum("bh,h,bi->hi", -2 * hidden * sech, loop, x)
    torch.testing.assert_close(slope, want)
    with torch.no_grad():
        assert not divergence(field, x).requires_grad


def test_hutchinson_is_unbiased_value_and_derivative(field, x):
    """The mean over all 2^D Rademacher vectors is the trace, not about but exactly."""
    point = x.clone().requires_grad_()
    forms = quadratic_forms(field(point), point, signs(x), create_graph=True).mean(0)
    exact = divergence(field, x)
    torch.testing.assert_close(forms, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(forms.sum(), field[0].weight),
        torch.autograd.grad(exact.sum(), field[0].weight),
        rtol=1e-12,
        atol=1e-12,
    )


def icosahedron():
    """Twelve directions over which polynomials up to degree 5 average as over the sphere."""
    golden = (1 + 5**0.5) / 2
    rows = [(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = torch.tensor([r[i:] + r[:i] for r in rows for i in range(3)], dtype=torch.float64)
    return 3**0.5 * corners / corners.norm(dim=1, keepdim=True)


def hermite():
    """The 3-point Gauss rule in each of three dimensions: nodes and weights."""
    points, weights = [-(3**0.5), 0.0, 3**0.5], [1 / 6, 2 / 3, 1 / 6]
    nodes = torch.tensor(list(itertools.product(points, repeat=3)), dtype=torch.float64)
    mass = torch.tensor(list(itertools.product(weights, repeat=3)), dtype=torch.float64).prod(1)
    return nodes, mass


def test_variances_of_one_probe_by_exact_moments(generator):
    """2 |A|^2 (gaussian), 2 (|A|^2 - sum A_ii^2) (rademacher), 2 D / (D + 2) (|A|^2 - tr^2 / D)
    (sphere), A the symmetric part: cubature of degree 4, no random numbers."""
    matrix = normal(3, 3, generator=generator)
    symmetric = 0.5 * (matrix + matrix.mT)
    square, diagonal = symmetric.square().sum(), symmetric.diag()
    want = {
        "gaussian": 2 * square,
        "rademacher": 2 * (square - diagonal.square().sum()),
        "sphere": 6 / 5 * (square - diagonal.sum() ** 2 / 3),
    }
    corners, design = signs(torch.zeros(1, 3).double())[:, 0], icosahedron()
    nodes, mass = hermite()
    distributions = {
        "gaussian": (nodes, mass),
        "rademacher": (corners, torch.full((8,), 1 / 8)),
        "sphere": (design, torch.full((12,), 1 / 12)),
    }
    assert set(distributions) == set(PROBE_DISTRIBUTIONS)
    for distribution, (vectors, weight) in distributions.items():
        point = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        forms = quadratic_forms(linear(matrix)(point), point, vectors[:, None])[:, 0]
        mean = (weight.double() * forms).sum()
        torch.testing.assert_close(mean, matrix.trace())
        torch.testing.assert_close(
            (weight.double() * (forms - mean) ** 2).sum(), want[distribution]
        )


@pytest.mark.parametrize("distribution", PROBE_DISTRIBUTIONS)
def test_hutchinson_averages_probes_of_that_distribution(distribution, generator):
    """Four probes: the mean is the trace and the variance a quarter of the formula's, within 4.5
    standard errors."""
    matrix = normal(4, 4, generator=generator)
    symmetric = 0.5 * (matrix + matrix.mT)
    square, diagonal = symmetric.square().sum(), symmetric.diag()
    variance = {
        "gaussian": 2 * square,
        "rademacher": 2 * (square - diagonal.square().sum()),
        "sphere": 2 * 4 / 6 * (square - diagonal.sum() ** 2 / 4),
    }[distribution] / 4
    x = torch.zeros(COPIES, 4, dtype=torch.float64)
    with torch.no_grad():
        got = divergence(linear(matrix), x, "hutchinson", 4, distribution, generator)
    off = got - matrix.trace()
    assert abs(off.mean()) < 4.5 * (variance / COPIES) ** 0.5
    fourth = (off**2).var() / COPIES
    assert abs((off**2).mean() - variance) < 4.5 * fourth**0.5


def low_rank(size, rank, generator):
    return normal(size, rank, generator=generator) @ normal(rank, size, generator=generator)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_hutch_plus_plus_is_exact_once_a_third_of_its_probes_spans_the_range(rank, generator):
    """Any seed, any probes, and a rank below it serves as well; one probe less is not enough."""
    matrix, x = low_rank(12, rank, generator), torch.zeros(5, 12, dtype=torch.float64)
    for distribution in PROBE_DISTRIBUTIONS:
        for count in (3 * rank, 3 * rank + 1):
            got = divergence(linear(matrix), x, "hutch++", count, distribution, generator)
            torch.testing.assert_close(got, matrix.trace().expand(5), rtol=1e-9, atol=1e-9)
    if rank > 1:
        short = divergence(linear(matrix), x, "hutch++", 3 * rank - 1, "gaussian", generator)
        assert bool(((short - matrix.trace()).abs() > 1e-3).all())


def test_hutch_plus_plus_is_unbiased_value_and_derivative(field, x, generator):
    """Whatever the sketch: the mean over all 2^D vectors of the rest is the trace."""
    sketch, rest = normal(2, *x.shape, generator=generator), signs(x)
    point = x.clone().requires_grad_()
    got = traces.hutch_plus_plus(field(point), point, sketch, rest, create_graph=True)
    exact = divergence(field, x)
    torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12)
    for parameter in (field[0].weight, field[0].bias, field[2].weight):
        torch.testing.assert_close(
            torch.autograd.grad(got.sum(), parameter, retain_graph=True),
            torch.autograd.grad(exact.sum(), parameter, retain_graph=True),
            rtol=1e-11,
            atol=1e-11,
        )


def test_hutch_plus_plus_leaves_the_variance_of_what_its_sketch_does_not_reach(field, x, generator):
    """Given S it is Hutchinson on P J P, P the projection across the range of J^T S."""
    sketch = normal(2, *x.shape, generator=generator)
    forms = []
    for vector in signs(x):
        point = x.clone().requires_grad_()
        forms.append(traces.hutch_plus_plus(field(point), point, sketch, vector[None]))
    matrix = matrices(field, x)
    image = matrix.mT @ sketch.movedim(0, 2)
    across = torch.eye(5).double() - image @ torch.linalg.pinv(image)
    inner = across @ (0.5 * (matrix + matrix.mT)) @ across
    diagonal = inner.diagonal(dim1=1, dim2=2).square().sum(1)
    want = 2 * (inner.square().sum((1, 2)) - diagonal)
    torch.testing.assert_close(torch.stack(forms).var(0, correction=0), want)


def test_hutch_plus_plus_beats_hutchinson_where_the_spectrum_decays(generator):
    """Eigenvalues 2^-i on 24 dimensions and 12 probes: a tenth of the variance at most; with all
    eigenvalues of size 1 there is nothing to find, and it is worse."""
    axes, _ = torch.linalg.qr(normal(24, 24, generator=generator))
    x = torch.zeros(500, 24, dtype=torch.float64)
    ratio = {}
    for name, spectrum in {
        "decaying": 0.5 ** torch.arange(24, dtype=torch.float64),
        "flat": torch.tensor([1.0, -1.0] * 12, dtype=torch.float64),
    }.items():
        matrix = (axes * spectrum) @ axes.mT
        hutchinson = 2 * (matrix.square().sum() - matrix.diag().square().sum()) / 12
        with torch.no_grad():
            got = divergence(linear(matrix), x, "hutch++", 12, generator=generator)
        error = got - matrix.trace()
        assert abs(error.mean()) < 4.5 * (error.var() / len(x)) ** 0.5
        ratio[name] = float((error**2).mean() / hutchinson)
    assert ratio["decaying"] < 0.1
    assert 1 < ratio["flat"] < 3


@pytest.mark.parametrize("count", [5, 6, 100])
def test_hutch_plus_plus_is_the_exact_trace_from_as_many_probes_as_dimensions(count, field, x):
    got = divergence(field, x, "hutch++", count)
    torch.testing.assert_close(got, trace(matrices(field, x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "count", "passes"),
    [("exact", 1, 12), ("hutchinson", 5, 5), ("hutch++", 3, 3), ("hutch++", 8, 8)],
)
def test_cost_is_one_call_and_the_passes_that_are_promised(method, count, passes, generator):
    calls, back = [], []

    def counted(x):
        calls.append(1)
        hidden = x.sin()
        hidden.register_hook(lambda gradient: back.append(1))
        return hidden * hidden

    divergence(counted, normal(2, 2, 3, 2, generator=generator), method, count)
    assert (len(calls), len(back)) == (1, passes)


@pytest.mark.parametrize("method", DIVERGENCE_METHODS)
def test_value_and_divergence_come_with_their_graphs(method, field, x):
    def seeded():
        return torch.Generator().manual_seed(3)

    got = divergence(field, x, method, 4, "gaussian", seeded())
    assert got.requires_grad
    if method == "exact":
        value, exact = value_and_divergence(field, x)
        torch.testing.assert_close(exact, trace(matrices(field, x))[None])
        torch.testing.assert_close(value, field(x))
        assert value.requires_grad
    if method == "hutchinson":
        vectors = probes(4, x, "gaussian", seeded())
        want = torch.einsum("nbi,bij,nbj->nb", vectors, matrices(field, x), vectors)
        torch.testing.assert_close(got, want.mean(0))
        torch.testing.assert_close(value_and_divergence(field, x, vectors)[1], want)
    if method == "hutch++":
        assert bool(((got - trace(matrices(field, x))).abs() > 1e-6).all())


@pytest.mark.parametrize("count", [None, 1, 3])
def test_forward_mode_has_the_numbers_and_the_gradients_of_reverse_mode(count, field, x, generator):
    vectors = None if count is None else normal(count, *x.shape, generator=generator)
    found = {}
    for mode in DERIVATIVE_MODES:
        value, forms = value_and_divergence(field, x, vectors, mode)
        weights = torch.linspace(1, 2, forms.numel(), dtype=x.dtype).reshape(forms.shape)
        loss = (weights * forms).sum() + (value**2).sum()
        found[mode] = (value, forms, *torch.autograd.grad(loss, list(field.parameters())))
    for forward, reverse in zip(found["forward"], found["reverse"], strict=True):
        torch.testing.assert_close(forward, reverse)
    with torch.no_grad():
        for mode in DERIVATIVE_MODES:
            assert not any(part.requires_grad for part in value_and_divergence(field, x, mode=mode))
    torch.testing.assert_close(
        divergence(field, x, "hutchinson", 5, generator=torch.Generator().manual_seed(1)),
        divergence(
            field, x, "hutchinson", 5, generator=torch.Generator().manual_seed(1), mode="forward"
        ),
    )


class Cut(torch.autograd.Function):
    """x^2, whose forward rule forgets the tangent."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 0 * tangent


def test_a_field_that_detaches_x_is_refused_in_forward_mode(field, x):
    require_forward_mode(field, x[:1])
    with pytest.raises(ValueError, match="different divergences: something in it detaches x"):
        require_forward_mode(Cut.apply, x[:1])


def test_half_precision_survives_the_factorization(generator):
    matrix = low_rank(12, 1, generator).bfloat16()
    x = torch.zeros(2, 12, dtype=torch.bfloat16)
    got = divergence(linear(matrix), x, "hutch++", 3, generator=generator)
    assert got.dtype == torch.bfloat16
    want = matrix.float().trace().expand(2)
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)


def test_asymmetry_of_gradients_rotations_and_what_lies_between(field, x, generator):
    """0, 2, and |J - J^T| / |J| of each example's matrix."""
    matrix = matrices(field, x)
    want = (matrix - matrix.mT).norm(dim=(1, 2)) / matrix.norm(dim=(1, 2))
    torch.testing.assert_close(asymmetry(field, x), want)
    square = normal(5, 5, generator=generator)
    for count in (None, 1, 3):
        gradient = asymmetry(linear(square + square.mT), x, count, generator=generator)
        assert float(gradient.max()) < 1e-12
        rotation = asymmetry(linear(square - square.mT), x, count, generator=generator)
        torch.testing.assert_close(rotation, torch.full((3,), 2.0).double())
        still = asymmetry(lambda x: 0 * x, x, count, generator=generator)
        assert torch.equal(still, torch.zeros(3).double())
        assert bool((asymmetry(linear(square), x, count, generator=generator) < 2).all())
    assert not asymmetry(field, x).requires_grad
    assert not asymmetry(field, x, 2).requires_grad


def test_asymmetry_by_probes_is_the_exact_one_over_all_rademacher_vectors(field, x, monkeypatch):
    asked = []

    def every(count, like, distribution, generator):
        asked.append((count, distribution, generator))
        return signs(like)

    monkeypatch.setattr(traces, "draw_probes", every)
    torch.testing.assert_close(asymmetry(field, x, 7, "sphere"), asymmetry(field, x))
    assert asked == [(7, "sphere", None)]


def test_asymmetry_takes_the_norm_from_both_products(generator):
    """J = e_1 e_2^T: |J v - J^T v|^2 = v_1^2 + v_2^2 = |J v|^2 + |J^T v|^2, so that any probe gives
    sqrt 2."""
    x = torch.zeros(50, 2, dtype=torch.float64)
    shear = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    got = asymmetry(linear(shear), x, 1, "gaussian", generator)
    torch.testing.assert_close(got, torch.full((50,), 2.0).double().sqrt())


def test_asymmetry_of_images_and_columns(generator):
    """What is measured does not depend on the shape of the event or the layout of x."""
    matrix = normal(6, 6, generator=generator)
    want = (matrix - matrix.mT).norm() / matrix.norm()
    images = normal(3, 2, 6, generator=generator).movedim(2, 0).reshape(6, 3, 2).movedim(0, 2)
    x = images[:, :, :].permute(2, 0, 1)

    def field(x):
        return (x.reshape(len(x), -1) @ matrix.mT).reshape(x.shape)

    torch.testing.assert_close(asymmetry(field, x), want.expand(6))
    close = asymmetry(field, x, 400, generator=generator)
    torch.testing.assert_close(close, want.expand(6), rtol=0.1, atol=0)


def test_wrong_arguments_are_refused_by_name(x):
    with pytest.raises(ValueError, match="method='skilling' is not known; accepted: exact, hutch"):
        divergence(torch.sin, x, "skilling")
    with pytest.raises(
        ValueError, match="probe_distribution='cauchy' is not known; accepted: rademacher"
    ):
        divergence(torch.sin, x, "exact", 1, "cauchy")
    with pytest.raises(ValueError, match="probes=2 must be an integer of at least 3"):
        divergence(torch.sin, x, "hutch++", 2)
    with pytest.raises(ValueError, match="probes=0 must be an integer of at least 1"):
        divergence(torch.sin, x, "hutchinson", 0)
    with pytest.raises(ValueError, match="probes=0 must be an integer of at least 1"):
        asymmetry(torch.sin, x, 0)
    with pytest.raises(ValueError, match="mode='both' is not known; accepted: reverse, forward"):
        value_and_divergence(torch.sin, x, mode="both")
    with pytest.raises(ValueError, match=r"mode of hutch\+\+='forward' is not known"):
        divergence(torch.sin, x, "hutch++", 3, mode="forward")
    with pytest.raises(ValueError, match="the value has no graph"):
        divergence(lambda x: torch.ones_like(x), x)
