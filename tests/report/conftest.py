"""The page of a tiny run, for all that test it."""

from __future__ import annotations

import pytest

from sde_score.report.demo import demo
from sde_score.training import TrainConfig


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The path of the page, the evaluation on it and the likelihood."""
    config = TrainConfig(
        data="digits", backbone="mlp(width=32, depth=1)", steps=20, batch_size=16, log_every=5
    )
    out = tmp_path_factory.mktemp("demo") / "run"
    specs = ("ddim(steps=5)", "heun(steps=4)", "annealed-langevin(steps=3)")
    return demo(out, config=config, specs=specs, count=24, progress=False)
