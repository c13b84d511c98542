"""Operators: adjoints, closed forms, shapes, refusals."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from sde_score.posterior import (
    Blur,
    Composed,
    Fourier,
    Gray,
    LinearFunction,
    Mask,
    Matrix,
    MeanPool,
    Measurement,
    Radon,
    Resize,
    as_operator,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


KERNEL = torch.tensor([[0.1, 0.2, 0.0], [0.3, 1.0, -0.2], [0.0, 0.1, 0.4]])
OPERATORS = {
    "matrix": Matrix(normal(3, 24), (2, 3, 4)),
    "tall": Matrix(normal(8, 6), (1, 6)),
    "low-rank": Matrix(normal(5, 2) @ normal(2, 6, seed=1), (1, 6)),
    "low-rank-float32": Matrix((normal(5, 2).float() @ normal(2, 6).float()), (1, 6)),
    "mask": Mask(normal(2, 3, 4) > 0.2),
    "blur": Blur((2, 5, 6), KERNEL),
    "blur-1d": Blur((1, 7), torch.tensor([1.0, 2.0, 4.0])),
    "blur-blind": Blur((2, 4, 4), torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])),
    "pool": MeanPool((2, 4, 6), 2),
    "pool-3d": MeanPool((1, 2, 2, 4), 2),
    "gray": Gray((3, 2, 3), (0.3, 0.6, 0.1)),
    "fourier": Fourier((2, 4, 5), normal(4, 5) > 0),
    "fourier-1d": Fourier((1, 6)),
    "resize": Resize((1, 6, 4), (3, 3)),
    "radon": Radon((1, 5, 5), torch.tensor([0.0, 0.4, math.pi / 2])),
    "function": LinearFunction(lambda x: x.flip(2)[:, :, :2].cumsum(2), (1, 4)),
    "composed": MeanPool((2, 4, 6), 2) @ Blur((2, 4, 6), KERNEL),
    "composed-float32": Matrix(normal(4, 2).float() @ normal(2, 4).float(), (1, 4))
    @ MeanPool((1, 8), 2),
    "composed-low-rank": Matrix(normal(4, 2) @ normal(2, 4, seed=2), (1, 4)) @ MeanPool((1, 8), 2),
}


ROUNDED = [OPERATORS["low-rank-float32"], OPERATORS["composed-float32"]]
"""Those whose matrices have a singular value more by rounding."""


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_the_adjoint_is_that_of_the_matrix(operator):
    x, y = normal(3, *operator.event_shape), normal(3, *operator.measured_shape, seed=1)
    matrix = operator.matrix
    torch.testing.assert_close(operator(x).flatten(1), x.flatten(1) @ matrix.T)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y.flatten(1) @ matrix)
    assert operator(x.float()).dtype == torch.float32


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_the_spectrum_is_that_of_the_matrix(operator):
    spectrum, matrix = operator.spectrum, operator.matrix
    singular = torch.linalg.svdvals(matrix)
    rank = int(torch.linalg.matrix_rank(matrix.to(operator.precision)))
    assert spectrum.singular.shape == (rank,)
    close = {"rtol": 1e-6, "atol": 1e-6 if operator in ROUNDED else 1e-9}
    torch.testing.assert_close(
        spectrum.singular.sort(descending=True).values, singular[:rank], **close
    )
    units = torch.eye(rank, dtype=torch.float64)
    v, u = spectrum.to_event(units), spectrum.to_measured(units)
    assert v.shape[1:] == operator.event_shape
    assert u.shape[1:] == operator.measured_shape
    v, u = v.flatten(1).T, u.flatten(1).T
    torch.testing.assert_close(v.T @ v, units, **close)
    torch.testing.assert_close(u.T @ u, units, **close)
    torch.testing.assert_close(u @ torch.diag(spectrum.singular) @ v.T, matrix, **close)
    x, y = normal(3, *operator.event_shape), normal(3, *operator.measured_shape, seed=1)
    torch.testing.assert_close(spectrum.of_event(x), x.flatten(1) @ v, **close)
    torch.testing.assert_close(spectrum.of_measured(y), y.flatten(1) @ u, **close)
    c = normal(3, rank, seed=2)
    replaced = spectrum.replace(x, c)
    torch.testing.assert_close(spectrum.of_event(replaced), c, **close)
    unseen = torch.eye(len(v), dtype=torch.float64) - v @ v.T
    torch.testing.assert_close(replaced.flatten(1) @ unseen, x.flatten(1) @ unseen, **close)
    assert spectrum.of_event(x.float()).dtype == torch.float32


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_the_pseudo_inverse_and_the_gram_system(operator):
    matrix, y = operator.matrix, normal(2, *operator.measured_shape)
    if operator in ROUNDED:
        matrix = (operator.spectrum.to_measured(torch.diag(operator.spectrum.singular))).T @ (
            operator.spectrum.to_event(torch.eye(2).double()).flatten(1)
        )
    inverse = torch.linalg.pinv(matrix, rtol=1e-9)
    found = operator.pinv(y)
    assert found.shape[1:] == operator.event_shape
    torch.testing.assert_close(found.flatten(1), y.flatten(1) @ inverse.T, rtol=1e-6, atol=1e-8)
    x = normal(2, *operator.event_shape)
    seen = operator(x)
    torch.testing.assert_close(operator(operator.pinv(seen)), seen, rtol=1e-6, atol=1e-6)
    noise, signal = torch.tensor([[0.3, 0.5], [1.7, 0.0]], dtype=torch.float64)
    solved = operator.solve_gram(y, noise, signal)
    assert (solved is None) == isinstance(operator, (LinearFunction, Composed))
    for i in range(2):
        gram = noise[i] * torch.eye(len(matrix), dtype=torch.float64)
        gram += signal[i] * matrix @ matrix.T
        expected = torch.linalg.solve(gram, y[i].flatten())
        whole = operator.spectrum.solve_gram(y, float(noise[i]), signal[i])
        torch.testing.assert_close(whole[i].flatten(), expected, rtol=1e-6, atol=1e-7)
        if solved is not None:
            torch.testing.assert_close(solved[i], whole[i])


@pytest.mark.parametrize("name", ["low-rank", "blur", "composed", "mask"])
@pytest.mark.parametrize("kind", ["scalar", "entries", "full"])
def test_coordinates_of_a_measurement_have_its_likelihood(name, kind):
    operator = OPERATORS[name]
    y = normal(*operator.measured_shape)
    size = y.numel()
    root = normal(size, size, seed=3)
    noise = {
        "scalar": {"std": 0.3},
        "entries": {"std": 0.1 + y.abs()},
        "full": {"covariance": root @ root.T + torch.eye(size)},
    }[kind]
    seen = Measurement(operator, y, **noise)
    part = seen.spectral
    kept = kind == "scalar" or (kind, name) == ("entries", "mask")
    assert (part.spectrum is operator.spectrum) == kept  # no matrix for a large mask
    x = normal(3, *operator.event_shape, seed=1)
    logs = -0.5 * (((part.value - part.spectrum.of_event(x)) / part.std) ** 2).sum(1)
    torch.testing.assert_close(logs - logs[0], seen.log_prob(x) - seen.log_prob(x)[0])


def test_what_operators_measure():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert MeanPool((1, 4, 4), 2)(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    kept = torch.zeros(1, 4, 4, dtype=torch.bool)
    kept[0, 1, 2] = kept[0, 3, 3] = True
    assert Mask(kept)(x).tolist() == [[6.0, 15.0]]
    moved = torch.zeros(3, 3)
    moved[0, 1] = 1.0  # takes each pixel from below, as a convolution does
    torch.testing.assert_close(Blur((1, 4, 4), moved)(x), x.roll(-1, 2))
    lines = Radon((1, 4, 4), torch.tensor([0.0, math.pi / 2]))(x)
    torch.testing.assert_close(lines[0, 0, 0], x[0, 0].sum(0))
    torch.testing.assert_close(lines[0, 0, 1].sort().values, x[0, 0].sum(1))
    whole = Fourier((1, 4, 4))(x)
    torch.testing.assert_close(whole.square().sum(), x.square().sum())  # orthonormal
    assert whole[0, 0, 0, 0] == x.sum() / 4


def test_operators_of_others():
    theirs = SimpleNamespace(A=lambda x: 2 * x[:, :, :2])
    ours = as_operator(theirs, (1, 3))
    x = normal(2, 1, 3)
    torch.testing.assert_close(ours(x), 2 * x[:, :, :2])
    assert ours.measured_shape == (1, 2)
    assert as_operator(ours) is ours
    assert as_operator(torch.ones(2, 3)).event_shape == (3,)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mask(torch.ones(3)), "boolean tensor"),
        (lambda: Mask(torch.zeros(3, dtype=torch.bool)), "measures no entry"),
        (lambda: MeanPool((1, 5, 4), 2), r"factor=2 must divide all sides \(5, 4\)"),
        (lambda: Gray((3, 4, 4), (1.0, 2.0)), "3 numbers"),
        (lambda: Blur((1, 4, 4), torch.ones(2, 2)), "odd sides"),
        (lambda: Fourier((1, 4), torch.ones(3, dtype=torch.bool)), "must be boolean"),
        (lambda: LinearFunction(lambda x: x**2, (2,)), "not linear"),
        (lambda: LinearFunction(lambda x: x @ torch.ones(3, 2).double(), (2,)), "does not take"),
        (lambda: Matrix(torch.ones(2, 3), (2, 2)), r"does not fit event_shape=\(2, 2\)"),
        (lambda: MeanPool((1, 4), 2) @ MeanPool((1, 4), 2), "inner measures"),
        (lambda: as_operator(3), "operator=3"),
        (lambda: as_operator(lambda x: x), "event_shape is missing"),
        (lambda: OPERATORS["mask"](torch.ones(2, 3)), "does not fit the operator"),
    ],
)
def test_wrong_operators_are_refused(make, said):
    with pytest.raises((ValueError, TypeError), match=said):
        make()
