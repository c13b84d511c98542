"""Time grids from a table, a model that records its calls, and noise that was stored."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import Grid


class Table(Grid):
    """Times given one by one."""

    def __init__(self, times) -> None:
        super().__init__()
        object.__setattr__(self, "table", torch.as_tensor(times, dtype=torch.float64))

    def place(self, sde, u, end):
        raise NotImplementedError

    def times(self, sde, count):
        assert count == len(self.table)
        return self.table.clone()


class Gaussian:
    """The exact model of data N(m, S) in few operations."""

    nfe = 0

    def __init__(self, mean, covariance, sde) -> None:
        self.sde, self.mean = sde, mean
        self.variances, self.axes = torch.linalg.eigh(covariance)

    def _at(self, x, t):
        alpha, sigma = (v.reshape(-1, 1) for v in (self.sde.alpha(t), self.sde.sigma(t)))
        whitened = (x - alpha * self.mean) @ self.axes / (alpha**2 * self.variances + sigma**2)
        return -whitened @ self.axes.mT, alpha, sigma

    def score(self, x, t, condition=None):
        return self._at(x, t)[0]

    def denoise(self, x, t, condition=None):
        score, alpha, sigma = self._at(x, t)
        return (x + sigma**2 * score) / alpha

    def noise(self, x, t, condition=None):
        score, _, sigma = self._at(x, t)
        return -sigma * score

    def velocity(self, x, t, condition=None):
        score, alpha, sigma = self._at(x, t)
        rates = (self.sde.alpha_derivative(t), self.sde.sigma_derivative(t))
        on_data, on_noise = (rate.reshape(-1, 1) for rate in rates)
        return on_data * (x + sigma**2 * score) / alpha - on_noise * sigma * score


def affine_map(sampler, model):
    """Output at start 0 and no noise, and the output's columns for each unit of start and noise,
    from one run: each draw of noise is a unit vector in two examples of its own."""
    room = 2 * (3 * sampler.steps + 3) if sampler.stochastic else 2
    drawn = 0

    def units():
        nonlocal drawn
        drawn += 1
        draw = torch.zeros(1 + room, 2, dtype=torch.float64)
        draw[1 + 2 * drawn : 3 + 2 * drawn] = torch.eye(2)
        return draw

    start = torch.zeros(1 + room, 2, dtype=torch.float64)
    start[1:3] = torch.eye(2)
    out = sampler(model, start, noise=units, progress=False)
    columns = (out[1:] - out[0]).mT
    return out[0], columns[:, :2], columns[:, 2 : 2 + 2 * drawn]


class Recorder:
    """A model's protocol, passed on; keeps what each call saw."""

    def __init__(self, model) -> None:
        self.model, self.sde = model, model.sde
        self.states, self.seen_times, self.conditions, self.kinds = [], [], [], []

    @property
    def nfe(self):
        return self.model.nfe

    def _call(self, kind, x, t, condition):
        self.kinds.append(kind)
        self.states.append(x.clone())
        self.seen_times.append(float(t) if t.ndim == 0 else t.tolist())
        self.conditions.append(condition)
        return getattr(self.model, kind)(x, t)

    def score(self, x, t, condition=None):
        return self._call("score", x, t, condition)

    def denoise(self, x, t, condition=None):
        return self._call("denoise", x, t, condition)

    def velocity(self, x, t, condition=None):
        return self._call("velocity", x, t, condition)

    def noise(self, x, t, condition=None):
        return self._call("noise", x, t, condition)


@pytest.fixture(scope="session")
def table():
    """A grid of given times."""
    return Table


@pytest.fixture(scope="session")
def gaussian_model():
    """The exact model of Gaussian data."""
    return Gaussian


@pytest.fixture(scope="session")
def affine():
    """What a sampler makes of each unit of start and of noise on Gaussian data."""
    return affine_map


@pytest.fixture(scope="session")
def recorder():
    """Wrap a model so that it keeps what each call saw."""
    return Recorder


@pytest.fixture(scope="session")
def stored_mixture():
    """The mixture of a reference file on an SDE, with events of a given shape."""

    def build(arrays, sde, event=(4,)):
        means, variances = arrays["gmm.mu"], arrays["gmm.var"]
        shape = (len(means), *event)
        return GaussianMixture(means.reshape(shape), variances.reshape(shape), sde, arrays["gmm.w"])

    return build
