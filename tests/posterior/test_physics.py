"""Operators by the names of deepinv's methods, with stand-ins that have its documented ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sde_score.posterior import SAMPLERS, Matrix, Measurement, Physics, as_operator

SHAPE = (1, 4, 4)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Pooling:
    """`LinearPhysics`: A, A_adjoint and A_dagger."""

    def __init__(self, scale=1.0):
        self.noise_model = SimpleNamespace(sigma=torch.tensor([0.2]))
        self.scale = scale

    def A(self, x, **kwargs):
        return nn.functional.avg_pool2d(x, 2)

    def A_adjoint(self, y, **kwargs):
        return self.scale * y.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4

    def A_dagger(self, y, **kwargs):
        self.asked = True
        return 4 * self.A_adjoint(y)


class Decomposed(nn.Module):
    """`DecomposablePhysics`: A = U mask V^T, here with V a permutation, in float32."""

    img_size = SHAPE

    def __init__(self, stretch=1.0):
        super().__init__()
        self.register_buffer("mask", (normal(1, *SHAPE) * (normal(1, *SHAPE) > 0)).abs().float())
        self.stretch = stretch

    def V_adjoint(self, x):
        return self.stretch * x.flip(2)

    def V(self, x, **kwargs):
        return x.flip(2)

    def U(self, x):
        return x.flip(3)

    def U_adjoint(self, x, **kwargs):
        return x.flip(3)

    def A(self, x, mask=None, **kwargs):
        return self.U(self.mask * self.V_adjoint(x))

    def A_adjoint(self, y, mask=None, **kwargs):
        return self.stretch * self.V(self.mask * self.U_adjoint(y))


@pytest.mark.parametrize(
    ("physics", "closed"),
    [(Pooling(), False), (Decomposed(), True), (Decomposed(stretch=2.0), False)],
    ids=["pooling", "decomposed", "not orthonormal"],
)
def test_physics_are_operators(physics, closed):
    """With the decomposition that they have, where it is one; else that of the matrix."""
    operator = as_operator(physics, SHAPE)
    assert isinstance(operator, Physics)
    x, y = normal(2, *SHAPE), normal(2, *operator.measured_shape, seed=1)
    matrix = operator.matrix
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(operator(x), physics.A(x.float()).double(), **close)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y.flatten(1) @ matrix, **close)
    assert (operator.solve_gram(y, 1.0, 1.0) is not None) == closed
    own, exact = operator.spectrum, Matrix(matrix.float(), SHAPE).spectrum
    torch.testing.assert_close(own.singular.sort().values, exact.singular.sort().values, **close)
    c = own.singular * own.of_event(x)
    torch.testing.assert_close(own.to_measured(c), operator(x), **close)
    expected = exact.pinv(y.flatten(1))
    torch.testing.assert_close(operator.pinv(y), expected, rtol=1e-4, atol=1e-4)
    assert getattr(physics, "asked", False) == isinstance(physics, Pooling)


def test_an_adjoint_of_its_own_is_used_and_checked():
    """Autograd through A would not notice."""
    with pytest.raises(ValueError, match=r"A_adjoint that is not the adjoint of its A"):
        as_operator(Pooling(scale=2.0), SHAPE)
    saturating = SimpleNamespace(A=torch.tanh, A_adjoint=torch.tanh)
    with pytest.raises(ValueError, match="not linear"):
        as_operator(saturating, SHAPE)
    with pytest.raises(ValueError, match="event_shape is missing"):
        as_operator(Pooling())


def test_the_noise_of_physics_is_that_of_the_measurement():
    operator = as_operator(Pooling(), SHAPE)
    y = normal(*operator.measured_shape)
    assert float(Measurement(operator, y).scalar_variance) == pytest.approx(0.04)
    assert float(Measurement(operator, y, 0.5).scalar_variance) == 0.25
    with pytest.raises(ValueError, match="one of std and covariance"):
        Measurement(Decomposed(), normal(*SHAPE))
    assert SAMPLERS.create("ddrm", observation=Measurement(operator, y)).limit
