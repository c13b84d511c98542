"""Layers with every derivative for the objectives that need them, faster ones for the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.training import Trainer, prepare

SMALL = "unet(base=4, multipliers=(1, 2), blocks=1, attention=())"


@pytest.mark.parametrize(
    ("changes", "twice"),
    [
        ({}, False),
        ({"objective": "finite-difference"}, False),
        ({"objective": "hutchinson"}, True),
        ({"model": "energy"}, True),
    ],
)
def test_training_takes_second_derivatives_where_its_loss_does(changes, twice, config, tmp_path):
    settled = replace(config, data="digits", backbone=SMALL, conditional=False, **changes)
    trainer = Trainer(prepare(settled, tmp_path / "run"), progress=False)
    norms = [m for m in trainer.model.modules() if isinstance(m, GroupNorm)]
    assert norms
    assert all(norm.second_derivatives == twice for norm in norms)
