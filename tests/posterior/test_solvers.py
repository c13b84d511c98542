"""Conjugate gradients: the solution, and each example by itself."""

from __future__ import annotations

import torch

from sde_score.posterior.solvers import conjugate_gradients


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
