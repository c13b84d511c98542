"""Products with Jacobians and Hessians are those of the matrices, built one example at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import functional

from sde_score.models import (
    hessian_vector,
    jacobian,
    jacobian_vector,
    quadratic_forms,
    vector_jacobian,
)

BATCH = 4


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def fill(network, generator):
    for parameter in network.double().parameters():
        parameter.data.normal_(generator=generator).mul_(0.7)
    return network


def vector_field(generator):
    return fill(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)), generator)


def image_field(generator):
    layers = nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 2, 3, padding=1)
    return fill(nn.Sequential(*layers), generator)


def scalar_field(generator):
    return fill(
        nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3), nn.Tanh(), Last()), generator
    )


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, hidden):
        return hidden @ self.weight


CASES = {
    "vectors": (vector_field, lambda x: x, (BATCH, 3)),
    "columns of a matrix": (vector_field, lambda x: x.mT, (3, BATCH)),
    "images": (image_field, lambda x: x, (BATCH, 2, 2, 3)),
    "channels last": (image_field, lambda x: x.permute(0, 3, 1, 2), (BATCH, 2, 3, 2)),
    "one image seen often": (image_field, lambda x: x.expand(BATCH, 2, 2, 3), (1, 2, 2, 3)),
    "numbers": (scalar_field, lambda x: x, (BATCH,)),
}


@pytest.fixture(params=CASES)
def case(request, generator):
    """A field with parameters, where, and a vector per example; not every x is contiguous."""
    make, view, shape = CASES[request.param]
    x = view(torch.randn(shape, generator=generator, dtype=torch.float64))
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return make(generator), x, v


def energy_of(field):
    """An energy with a Hessian that depends on x, from a field."""
    return lambda x: (field(x) ** 2 + x * field(x)).reshape(len(x), -1).sum(1)


def matrices(field, x):
    """The Jacobian of each example alone, (batch, D, D)."""
    size = x[:1].numel()
    rows = [functional.jacobian(field, x[i : i + 1]).reshape(size, size) for i in range(len(x))]
    return torch.stack(rows)


def hessians(energy, x):
    size = x[:1].numel()
    one = [functional.hessian(lambda y: energy(y).sum(), x[i : i + 1]) for i in range(len(x))]
    return torch.stack([h.reshape(size, size) for h in one])


def apply(matrix, v):
    return torch.einsum("bij,bj->bi", matrix, v.reshape(len(v), -1)).reshape(v.shape)


def products(field, x, v):
    """Everything that the operators say of a field at x, by name."""
    value, right = jacobian_vector(field, x, v)
    also, left = vector_jacobian(field, x, v)
    energy, gradient, hessian = hessian_vector(energy_of(field), x, v)
    return {
        "value": value,
        "value again": also,
        "J v": right,
        "J^T v": left,
        "J": jacobian(field, x),
        "E": energy,
        "grad E": gradient,
        "H v": hessian,
    }


def test_products_are_those_of_each_examples_matrix(case):
    field, x, v = case
    matrix, energy = matrices(field, x), energy_of(field)
    want = {
        "value": field(x),
        "value again": field(x),
        "J v": apply(matrix, v),
        "J^T v": apply(matrix.mT, v),
        "J": matrix,
        "E": energy(x),
        "grad E": functional.jacobian(lambda y: energy(y).sum(), x),
        "H v": apply(hessians(energy, x), v),
    }
    for name, got in products(field, x, v).items():
        torch.testing.assert_close(got, want[name], rtol=1e-12, atol=1e-12, msg=name)


def test_quadratic_forms_are_those_of_each_examples_matrix(case, generator):
    field, x, _ = case
    vectors = torch.randn(3, *x.shape, generator=generator, dtype=torch.float64)
    point = x.detach().requires_grad_()
    forms = quadratic_forms(field(point), point, vectors)
    flat = vectors.reshape(3, len(x), -1)
    want = torch.einsum("nbi,bij,nbj->nb", flat, matrices(field, x), flat)
    torch.testing.assert_close(forms, want, rtol=1e-12, atol=1e-12)


def test_the_callers_tensors_are_left_as_they_are(case):
    field, x, v = case
    before, version = x.clone(), x._version
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            products(field, x, v)
    assert torch.equal(x, before)
    assert x._version == version
    assert not x.requires_grad
    assert not v.requires_grad
    assert all(p.grad is None for p in field.parameters())


def test_without_gradients_the_numbers_are_the_same_and_have_no_graph(case):
    field, x, v = case
    want = products(field, x, v)
    with torch.no_grad():
        got = products(field, x, v)
    for name, tensor in got.items():
        assert not tensor.requires_grad, name
        assert want[name].requires_grad, name
        torch.testing.assert_close(tensor, want[name].detach(), rtol=1e-13, atol=1e-13)


def direction_like(tensors, generator):
    return [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]


def test_objectives_train_through_every_product(case, generator):
    """The derivative of each along a random direction of the parameters is its central
    difference."""
    field, x, v = case
    parameters = list(field.parameters())
    along = direction_like(parameters, generator)

    def moved(step):
        for parameter, change in zip(parameters, along, strict=True):
            parameter.data.add_(step * change)
        return {name: p.detach() for name, p in products(field, x, v).items()}

    step = 1e-5
    up, down = moved(step), moved(-2 * step)
    moved(step)
    for name, got in products(field, x, v).items():
        weights = torch.randn(got.shape, generator=generator, dtype=torch.float64)
        # The graph is kept: value and products share it.
        grads = torch.autograd.grad(
            (got * weights).sum(), parameters, retain_graph=True, materialize_grads=True
        )
        slope = sum((g * a).sum() for g, a in zip(grads, along, strict=True))
        want = ((up[name] - down[name]) * weights).sum() / (2 * step)
        torch.testing.assert_close(slope, want, rtol=1e-6, atol=1e-7, msg=name)


def test_quadratic_forms_train_and_leave_the_value_its_graph(generator):
    """With `create_graph` a loss of value and forms is one backward pass away; without, the graph
    is released."""
    field = vector_field(generator)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    vectors = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)

    def loss(weight):
        value = nn.functional.linear(torch.tanh(x @ weight.mT), weight)
        return (value**2).sum() + quadratic_forms(value, x, vectors, create_graph=True).sum()

    weight = field[2].weight.detach()[:, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, weight)
    value = field(x)
    assert not quadratic_forms(value, x, vectors).requires_grad
    with pytest.raises(RuntimeError, match="second time"):
        quadratic_forms(value, x, vectors)


def test_where_x_requires_a_gradient_it_gets_one(generator):
    field = vector_field(generator)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    v = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: tuple(products(field, x, v).values()), x)


@pytest.mark.parametrize("operator", [jacobian_vector, vector_jacobian, jacobian, hessian_vector])
def test_the_value_is_free(operator, generator):
    """One call of the field, however many products come of it."""
    calls = []
    field = vector_field(generator)

    def counted(x):
        calls.append(1)
        return energy_of(field)(x) if operator is hessian_vector else field(x)

    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    operator(counted, x, *([] if operator is jacobian else [x]))
    assert len(calls) == 1


def test_what_does_not_depend_on_x_has_zero_derivatives():
    x, v = torch.randn(2, 3), torch.randn(2, 3)
    weight = torch.ones(3, requires_grad=True)
    for operator in (jacobian_vector, vector_jacobian):
        assert torch.equal(operator(lambda x: weight.expand(2, 3), x, v)[1], torch.zeros(2, 3))
    assert torch.equal(jacobian(lambda x: weight.expand(2, 3), x), torch.zeros(2, 3, 3))
    slope = torch.tensor([1.0, 2.0, 3.0])
    _, gradient, product = hessian_vector(lambda x: x @ slope, x, v)
    assert torch.equal(gradient, slope.expand(2, 3))
    assert torch.equal(product, torch.zeros(2, 3))


def test_wrong_arguments_are_refused_by_name():
    x, v = torch.zeros(2, 3), torch.zeros(2, 3)
    for operator in (jacobian_vector, vector_jacobian, hessian_vector):
        with pytest.raises(ValueError, match=r"v has shape \(3,\); accepted: \(2, 3\)"):
            operator(lambda x: x, x, v[0])
    for operator in (jacobian_vector, vector_jacobian):
        with pytest.raises(ValueError, match=r"the field's value has shape \(2,\); accepted"):
            operator(lambda x: x.sum(1), x, v)
        with pytest.raises(ValueError, match="the value has no graph: it was computed under"):
            operator(lambda x: x.detach(), x, v)
    with pytest.raises(ValueError, match=r"the field's value has shape \(1, 3\)"):
        jacobian(lambda x: x[:1], x)
    with pytest.raises(ValueError, match=r"the energy has shape \(2, 3\); accepted: \(2,\)"):
        hessian_vector(lambda x: x, x, v)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        jacobian(lambda x: x, x.long())
