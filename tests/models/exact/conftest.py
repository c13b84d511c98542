"""The zoo of exact distributions, by their defaults and with other parameters."""

import pytest

from sde_score.models import (
    TARGETS,
    DoubleWell,
    Exponential,
    Funnel,
    Gaussian,
    Mixture,
    Product,
    Quartic,
    Ring,
    Rosenbrock,
    Target,
)

TARGETS_HERE = [
    *(TARGETS.create(name) for name in TARGETS),
    Gaussian((1.0, -2.0), ((0.9, -0.4), (-0.4, 0.7))),
    Gaussian((0.3,), 4.0),
    Mixture.two_modes(5.0, 0.7),
    Mixture(((0.0, 1.0), (2.0, 0.0)), ((0.2, 1.0), (0.5, 0.3)), (1.0, 3.0)),
    Ring(1.0, 0.8),
    Funnel(3, 1.2),
    Rosenbrock(-0.5, 2.0),
    Quartic(1, 0.4),
    DoubleWell(1, 6.0, 0.8, -2.0),
    Exponential(1, 2.5),
    Product((Quartic(1), Mixture.two_modes(), Exponential(1, 0.5))),
]


@pytest.fixture(params=TARGETS_HERE, ids=lambda distribution: type(distribution).__name__)
def target(request) -> Target:
    return request.param
