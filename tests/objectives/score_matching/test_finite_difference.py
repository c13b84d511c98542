"""Finite differences: exact for quadratic energies, of second order in the step elsewhere."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sde_score.models import Marginal
from sde_score.objectives import (
    FiniteDifferenceScoreMatching,
    HutchinsonScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
)
from sde_score.random import probes
from sde_score.sdes import VP

F64 = torch.float64
MATRIX = torch.tensor([[-1.3, 0.7, -0.2], [-0.4, -0.9, 0.5], [0.9, 0.3, -2.1]], dtype=F64)
SHIFT = torch.tensor([0.4, -1.2, 0.8], dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("step", [0.3, 1.0, 2.0])
def test_differences_of_a_quadratic_energy_are_its_derivatives(gaussian, fields, step):
    """At any step and along any direction: the sliced loss, which is the implicit one on
    average."""
    data = gaussian(3)
    marginal = fields.quadratic(MATRIX @ MATRIX.mT, SHIFT)
    for distribution in ("rademacher", "gaussian", "sphere"):
        v = probes(2, data.x, distribution, seeded(1))
        got = FiniteDifferenceScoreMatching(step=step).at(marginal, data.x, v)
        want = SlicedScoreMatching().at(marginal, data.x, v)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_over_all_signs_the_energy_form_is_the_closed_form(gaussian, fields, signs):
    """E |b - P x|^2 / 2 - tr P."""
    data, precision = gaussian(3), MATRIX @ MATRIX.mT
    square = (precision @ data.covariance @ precision).trace()
    square = square + ((SHIFT - precision @ data.mean) ** 2).sum()
    objective = FiniteDifferenceScoreMatching(step=0.7)
    got = objective.at(fields.quadratic(precision, SHIFT), data.x, signs(data.x)).mean()
    want = 0.5 * square - precision.trace()
    assert got.item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize("step", [0.3, 1.0, 2.0])
def test_differences_of_a_linear_score_are_its_derivatives(gaussian, fields, step):
    """The slope is v.Av at any step, and the mean of the two ends is the score between them."""
    data, marginal = gaussian(3), fields.linear(MATRIX, SHIFT)
    v = probes(2, data.x, "gaussian", seeded(1))
    got = FiniteDifferenceScoreMatching(step=step).at(marginal, data.x, v)
    want = HutchinsonScoreMatching().at(marginal, data.x, v)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("energy", [False, True], ids=["score", "energy"])
def test_value_and_gradient_are_of_second_order_in_the_step(nonlinear, signs, energy):
    """Over all signs, so that the limit is the implicit loss itself."""
    marginal, parameters = nonlinear((3,), energy)
    x = torch.randn(3, 3, generator=seeded(1), dtype=F64)
    exact = ImplicitScoreMatching().losses(marginal, x).sum()
    gradient = torch.autograd.grad(exact, parameters)
    errors = []
    for step in (0.04, 0.02):
        loss = FiniteDifferenceScoreMatching(step=step).at(marginal, x, signs(x)).sum()
        slopes = torch.autograd.grad(loss, parameters)
        off = [(a - b).norm().item() for a, b in zip(slopes, gradient, strict=True)]
        errors.append([abs((loss - exact).item()), *off])
    for coarse, fine in zip(*errors, strict=True):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.1)
        assert fine < 0.02


@pytest.mark.parametrize("energy", [False, True], ids=["score", "energy"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 5e-3), (torch.float64, 1e-6)])
def test_the_default_step_is_near_the_best(nonlinear, energy, dtype, within, monkeypatch):
    """Far smaller steps drown in rounding, where they are not refused; larger ones in curvature."""
    monkeypatch.setattr(FiniteDifferenceScoreMatching, "require_precision", lambda *_: None)
    marginal, _ = nonlinear((8,), energy, dtype)
    x = torch.randn(64, 8, generator=seeded(1), dtype=dtype)
    v = probes(1, x, "sphere", seeded(2))
    reference, _ = nonlinear((8,), energy)
    form = SlicedScoreMatching() if energy else HutchinsonScoreMatching()
    exact = form.at(reference, x.double(), v.double())

    def error(step):
        got = FiniteDifferenceScoreMatching(step=step).at(marginal, x, v)
        assert got.dtype == dtype
        return (got.double() - exact).abs().mean().item()

    chosen = FiniteDifferenceScoreMatching().step_length(marginal, x).item()
    assert error(None) == error(chosen)
    assert error(chosen) < within
    assert error(chosen / 100) > 4 * error(chosen)
    assert error(chosen * 100) > 4 * error(chosen)


def test_the_step_has_the_unit_of_the_data(nonlinear):
    """In units of sigma_data without noise, of sigma(t) with it; 2^-13 and 2^-52 are the spacings
    after 1."""
    score, energy = nonlinear((2,))[0], nonlinear((2,), energy=True)[0]
    for dtype, bits in ((torch.float32, 23), (torch.float64, 52)):
        x = torch.zeros(2, 2, dtype=dtype)
        plain = FiniteDifferenceScoreMatching(sigma_data=5.0)
        assert plain.step_length(energy, x).item() == pytest.approx(5 * 2 ** (-bits / 4))
        assert plain.step_length(score, x).item() == pytest.approx(5 * 2 ** (-bits / 3))
    t = torch.tensor([0.1, 0.9], dtype=F64)
    noisy = FiniteDifferenceScoreMatching(time_sampler="uniform", step=0.2, sigma_data=5.0)
    length = noisy.step_length(Marginal(nonlinear((2,), sde=VP())[0].model, t), x)
    torch.testing.assert_close(length, 0.2 * VP().sigma(t))


def test_scaling_the_data_scales_the_loss(nonlinear):
    """x -> 5 x with the step in proportion: s -> s / 5, so the loss becomes a 25th."""
    marginal, _ = nonlinear((3,), energy=True)
    x = torch.randn(4, 3, generator=seeded(1), dtype=F64)
    v = probes(1, x, "sphere", seeded(2))

    class Stretched(Marginal):
        def energy(self, y):
            return marginal.energy(y / 5)

    stretched = Stretched(marginal.model)
    got = FiniteDifferenceScoreMatching(sigma_data=5.0, step=0.01).at(stretched, 5 * x, v)
    want = FiniteDifferenceScoreMatching(step=0.01).at(marginal, x, v) / 25
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


@pytest.mark.parametrize("energy", [False, True], ids=["score", "energy"])
def test_no_derivative_is_taken_before_the_parameters_are(nonlinear, energy, monkeypatch):
    """An energy is asked for its value alone, so that training takes first derivatives alone."""
    marginal, parameters = nonlinear((3,), energy)
    x = torch.randn(4, 3, generator=seeded(1), dtype=F64)

    def refuse(*args, **kwargs):
        raise AssertionError("a derivative was taken")

    with monkeypatch.context() as patched:
        patched.setattr(torch.autograd, "grad", refuse)
        loss = FiniteDifferenceScoreMatching(probes=3).losses(marginal, x, seeded(1))
    gradients = torch.autograd.grad(loss.sum(), parameters)
    assert all(bool(g.abs().sum() > 0) for g in gradients)
    assert marginal.model.nfe == (7 if energy else 6)


def test_directions_are_averaged_and_drawn_from_the_generator(fields):
    x = torch.randn(5, 3, generator=seeded(4), dtype=F64)
    for marginal in (fields.linear(MATRIX, SHIFT), fields.quadratic(MATRIX @ MATRIX.mT, SHIFT)):
        for distribution, count in itertools.product(("sphere", "rademacher"), (1, 4)):
            objective = FiniteDifferenceScoreMatching(probes=count, probe_distribution=distribution)
            vectors = probes(count, x, distribution, seeded(6))
            single = [objective.at(marginal, x, v[None]) for v in vectors]
            got = objective.losses(marginal, x, seeded(6))
            torch.testing.assert_close(got, torch.stack(single).mean(0), rtol=1e-13, atol=0)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="step=0 must be a finite number greater than 0"):
        FiniteDifferenceScoreMatching(step=0)
    with pytest.raises(ValueError, match=r"sigma_data=-1\.0 must be a finite number"):
        FiniteDifferenceScoreMatching(sigma_data=-1.0)
    with pytest.raises(ValueError, match="probes=0 must be an integer of at least 1"):
        FiniteDifferenceScoreMatching(probes=0)
    with pytest.raises(ValueError, match="probe_distribution='normal' is not known"):
        FiniteDifferenceScoreMatching(probe_distribution="normal")
