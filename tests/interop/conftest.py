"""Files of other projects, and what every network read from one must do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sde_score import likelihood, samplers

# What ships with the repository, then a larger collection beside a checkout.
FOLDERS = [
    Path(__file__).parents[1] / "reference",
    Path(__file__).resolve().parents[3] / "shared" / "reference",
]


@pytest.fixture(scope="session")
def recorded_file():
    """`name -> path` of a file or folder in the form of its project; skips where it is absent."""

    def find(name):
        for folder in FOLDERS:
            if (folder / name).exists():
                return folder / name
        pytest.skip(f"{name} is not in {' or '.join(map(str, FOLDERS))}")

    return find


@pytest.fixture
def matches():
    """The network of an imported model answers as recorded, in float64 and in float32.

    `answer(model, dtype)` evaluates it; `scale` is the size of the answers.
    """

    def check(imported, answer, want):
        scale = want.abs().max()
        with torch.no_grad():
            exact = answer(imported.model().double(), torch.float64)
            single = answer(imported.model().float(), torch.float32)
        assert (exact - want).abs().max() <= 1e-8 * scale
        assert single.dtype == torch.float32
        assert (single - want).abs().max() <= 1e-3 * scale

    return check


@pytest.fixture
def usable():
    """The model samples, and has a likelihood, through the toolkit."""

    def check(imported, condition=None):
        model = imported.model()
        for name in ("ddim", "ancestral"):
            x = samplers.create(name, steps=2)(
                model, (1, *imported.event_shape), seed=0, condition=condition
            )
            assert x.isfinite().all()
        late = 0.02 * model.sde.t_min + 0.98 * model.sde.t_max
        found = likelihood.log_prob(
            model, x, start=late, divergence="hutchinson", rtol=0.1, atol=0.1, condition=condition
        )
        assert found.log_prob.isfinite().all()

    return check
