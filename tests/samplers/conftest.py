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
