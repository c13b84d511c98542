"""log Z of discrete targets by annealing, against sums over all states."""

from __future__ import annotations

import pytest
import torch

from sde_score.likelihood import GaussianReference, log_partition
from sde_score.models import (
    IndependentSites,
    Ising,
    Potts,
    RestrictedBoltzmann,
    Sites,
    targets,
)


def machine(marginal=False):
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 5), (8,), (5,)]
    numbers = [torch.randn(shape, generator=generator).double() for shape in shapes]
    return RestrictedBoltzmann(*numbers, marginal=marginal)


@pytest.mark.parametrize(
    ("target", "kernel", "method"),
    [
        (machine(), "gibbs", "bridge"),
        (machine(marginal=True), "gibbs-gradients", "ais"),
        (Ising(4, 4, 0.44), "gibbs", "ais"),
        (Ising(4, 4, 0.3, 0.1), "gibbs", "smc"),
        (Ising(3, 3, 0.5), "gibbs-gradients", "reverse-ais"),
        (Potts(3, 3), "gibbs", "thermodynamic"),
    ],
)
def test_log_z_is_within_three_standard_errors(target, kernel, method):
    found = log_partition(
        target, target.event_shape, kernel=kernel, method=method, steps=15, chains=128,
        moves=1 if kernel == "gibbs" else 3, seed=1, progress=False,
    )  # fmt: skip
    assert 0 < found.standard_error < 0.1
    assert set(found.step_sizes) == {1.0}  # there is none to tune
    assert abs(found.value - target.log_z) < 3 * found.standard_error


def test_a_start_that_fits_the_data_is_nearer():
    """Base rates in the place of coin tosses: less to bridge, a smaller error."""
    target = Ising(3, 3, 0.1, 0.9)
    data = target.sample(500, torch.Generator().manual_seed(1))
    starts = (target.event_shape, IndependentSites.fit(target.sites, data))
    uniform, fitted = (
        log_partition(target, start, kernel="gibbs", steps=3, chains=192, progress=False)
        for start in starts
    )
    assert fitted.standard_error < 0.7 * uniform.standard_error
    assert abs(fitted.value - target.log_z) < 3 * fitted.standard_error


@pytest.mark.parametrize(
    ("density", "start", "kernel", "says"),
    [
        (Ising(), (4, 4), "mala", r"kernel=MALA.* is not for discrete states.*gibbs"),
        (targets.Gaussian(), (2,), "gibbs", r"is not for a continuous space.*mala"),
        (Ising(), (4, 5), "gibbs", r"start has event shape \(4, 5\), the density \(4, 4\)"),
        (
            Ising(),
            GaussianReference(torch.zeros(4, 4)),
            "gibbs",
            r"start is a GaussianReference, on continuous space, and the density has discrete",
        ),
        (targets.Gaussian(), IndependentSites(Sites((2,))), "mala", r"on discrete states"),
        (Ising(), IndependentSites(Sites((4, 4))), "gibbs", r"start has the values \(0.0, 1.0\)"),
    ],
)
def test_a_start_or_kernel_of_the_other_kind_is_refused(density, start, kernel, says):
    with pytest.raises(ValueError, match=says):
        log_partition(density, start, kernel=kernel)
