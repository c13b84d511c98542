"""Every SDE, with default and other parameters, and its two scales written a second time."""

from __future__ import annotations

import pytest
import torch

from sde_score import sdes
from sde_score.sdes import EDM, SDE, VE, VP, Cosine, Rectified, SubVP

# Beside the defaults.
OTHERS = {
    "vp": {"beta_min": 0.4, "beta_max": 9.0},
    "subvp": {"beta_min": 0.4, "beta_max": 9.0},
    "cosine": {"offset": 0.1},
    "ve": {"sigma_min": 0.2, "sigma_max": 7.0},
    "edm": {"sigma_min": 0.03, "sigma_max": 9.0},
}
SDES = [
    sdes.create(name, **chosen)
    for name in sdes.SDES
    if name != "chain"
    for chosen in ({}, *filter(None, [OTHERS.get(name)]))
]


@pytest.fixture(params=SDES, ids=repr)
def sde(request) -> SDE:
    return request.param


@pytest.fixture
def times(sde):
    """Thirteen times that reach both ends, dense near the data."""
    fraction = torch.linspace(0, 1, 13, dtype=torch.float64) ** 3
    return (sde.t_min + (sde.t_max - sde.t_min) * fraction).clamp(sde.t_min, sde.t_max)


@pytest.fixture
def exact_scales():
    """`(sde, t) -> (alpha, sigma)` in 40 digits, straight from the definitions."""
    mp = pytest.importorskip("mpmath").mp.clone()
    mp.dps = 40

    def beta_integral(sde, t):
        low, high = mp.mpf(sde.beta_min), mp.mpf(sde.beta_max)
        return low * t + (high - low) * t**2 / 2

    def cosine(sde, t):
        offset = mp.mpf(sde.offset)

        def signal(u):
            return mp.cos(mp.pi / 2 * (u + offset) / (1 + offset))

        alpha = signal(t) / signal(mp.mpf(0))
        return alpha, mp.sqrt(1 - alpha**2)

    def vp(sde, t):
        alpha = mp.exp(-beta_integral(sde, t) / 2)
        return alpha, mp.sqrt(1 - alpha**2)

    def subvp(sde, t):
        alpha = mp.exp(-beta_integral(sde, t) / 2)
        return alpha, 1 - alpha**2

    def ve(sde, t):
        low, high = mp.mpf(sde.sigma_min), mp.mpf(sde.sigma_max)
        return mp.mpf(1), low * (high / low) ** t

    formulas = {
        VP: vp,
        SubVP: subvp,
        Cosine: cosine,
        VE: ve,
        EDM: lambda sde, t: (mp.mpf(1), t),
        Rectified: lambda sde, t: (1 - t, t),
    }

    def scales(sde, t):
        if type(sde) not in formulas:
            pytest.skip("its formulas are not written a second time here")
        return formulas[type(sde)](sde, mp.mpf(float(t)))

    return scales
