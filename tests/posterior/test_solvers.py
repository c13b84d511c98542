"""Conjugate gradients: the solution, and each example by itself."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import BaseModel, parametrization
from sde_score.posterior import Matrix, Measurement, Posterior, methods
from sde_score.posterior.solvers import conjugate_gradients
from sde_score.sdes import VP


def test_every_example_meets_its_own_tolerance():
    """Beside a right-hand side a million times as large, a small one is solved as if alone."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(12, dtype=torch.float64)
    sizes = torch.tensor([1.0, 1e6, 0.0], dtype=torch.float64)[:, None]
    b = sizes * torch.randn(3, 12, generator=generator, dtype=torch.float64)
    for tolerance in (1e-2, 1e-8):
        u = conjugate_gradients(lambda v: v @ matrix, b, tolerance)
        error = (u @ matrix - b).norm(dim=1)
        assert (error <= 1.01 * tolerance * b.norm(dim=1)).all()
        alone = torch.cat(
            [conjugate_gradients(lambda v: v @ matrix, r[None], tolerance) for r in b]
        )
        torch.testing.assert_close(u, alone, rtol=1e-9, atol=1e-12)
    assert (u[2] == 0).all()
    one = conjugate_gradients(lambda v: v @ matrix, b[:1], 1e-8, most=1)
    step = (b[0] @ b[0]) / (b[0] @ matrix @ b[0])
    torch.testing.assert_close(one[0], step * b[0])


class Turned(BaseModel):
    """A denoised mean W x, with W far from symmetric and a positive definite symmetric part."""

    _sde = VP()
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = 0.2 * (root @ root.T) + 0.3 * torch.eye(6) + 1.5 * (root - root.T)

    def _predict(self, x, at, condition):
        return x @ self.matrix.T

    def _coefficients(self, at):
        return parametrization.data(at)


@pytest.mark.parametrize("symmetrise", [False, True])
def test_conjugate_gradients_meet_a_symmetric_matrix_where_the_jacobian_is_not(
    monkeypatch, symmetrise
):
    """The matrix that they are given, and the denoised mean that follows, by matrices; left as it
    is, J is not symmetric and conjugate gradients do not converge."""
    model, sde, t = Turned(), VP(), 0.4
    a = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y, x = torch.tensor([0.3, -1.0, 0.5, 2.0]).double(), torch.ones(2, 6).double()
    x[1] = torch.arange(6)
    given = {}

    def solve(apply, b, *options):
        given["matrix"] = torch.cat([apply(row.expand(2, 4))[:1] for row in torch.eye(4).double()])
        return conjugate_gradients(apply, b, *options)

    monkeypatch.setattr(methods, "conjugate_gradients", solve)
    method = f"mmps(tolerance=1e-10, symmetrise={symmetrise})"
    found = Posterior(model, Measurement(Matrix(a), y, 0.3), method).denoise(x, t)
    time = torch.tensor(t, dtype=torch.float64)
    ratio, jacobian = sde.sigma(time) ** 2 / sde.alpha(time), model.matrix
    spread = (jacobian + jacobian.T) / 2 if symmetrise else jacobian.T
    exact = 0.09 * torch.eye(4) + ratio * a @ spread @ a.T
    torch.testing.assert_close(given["matrix"].T, exact)
    assert torch.allclose(exact, exact.T) == symmetrise
    x0 = x @ jacobian.T
    u = torch.linalg.solve(exact, (y - x0 @ a.T).T).T
    expected = x0 + ratio * u @ a @ jacobian
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-7) == symmetrise
