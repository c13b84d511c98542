"""Conjugate gradients: the solution, and each example by itself."""

from __future__ import annotations

import torch

from sde_score.posterior.solvers import conjugate_gradients, solve_with_covariance


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


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_is_no_covariance_counts_by_its_symmetric_positive_part():
    """By eigenvectors in the norm of R: u is 0 along those of negative value."""
    root = torch.eye(6, dtype=torch.float64) + 0.2 * draws(6, 6).tril()
    r, c, b = root @ root.T, draws(6, 6, seed=1), draws(3, 6, seed=2)
    white = torch.linalg.inv(root) @ (0.5 * (c + c.T)) @ torch.linalg.inv(root).T
    values, vectors = torch.linalg.eigh(white)
    assert (values < 0).any()
    along = b @ torch.linalg.inv(root).T @ vectors
    u = torch.where(values > 0, along / (1 + values), 0.0) @ vectors.T @ torch.linalg.inv(root)

    def solved(rhs, tolerance=1e-12, most=6):
        return solve_with_covariance(
            lambda v: v @ r, lambda v: v @ torch.linalg.inv(r), lambda v: v @ c.T, rhs, tolerance,
            most,
        )  # fmt: skip

    torch.testing.assert_close(solved(b), u)
    torch.testing.assert_close(solved(b * torch.tensor([[1.0], [1e6], [0.0]]))[:1], u[:1])
    assert (solved(0 * b) == 0).all()


def test_of_a_covariance_the_iterates_are_those_of_conjugate_gradients():
    root = draws(8, 8)
    c, b = root @ root.T, draws(2, 8, seed=1).requires_grad_()

    def solved(tolerance, most):
        return solve_with_covariance(
            lambda v: 0.3 * v, lambda v: v / 0.3, lambda v: v @ c, b, tolerance, most
        )

    m = 0.3 * torch.eye(8, dtype=torch.float64) + c
    for most in (1, 3, 8):
        torch.testing.assert_close(
            solved(1e-14, most), conjugate_gradients(lambda v: v @ m, b, 1e-14, most)
        )
    u = solved(1e-12, 20)
    torch.testing.assert_close(u @ m, b)
    loose = solved(0.1, 20)
    assert 1e-3 < (((loose @ m - b).norm(dim=1)) / b.norm(dim=1)).max() < 0.1 + 1e-9
    (gradient,) = torch.autograd.grad(u.sum(), b)  # as of a likelihood through the posterior
    torch.testing.assert_close(gradient, torch.linalg.inv(m).sum(0).expand(2, 8))
