"""What a training chose is said on one line each, and the data are read once for all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sde_score.cli import main
from sde_score.data import FORMATS
from sde_score.nn import default_for
from sde_score.training import TrainConfig, train
from sde_score.training.choices import network_line

SHORT = {"steps": 1, "batch_size": 4, "device": "cpu"}


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((13,), "for 13 columns"),
        ((1,), "for 1 column"),
        ((3, 32, 32), "unet(base=64, multipliers=(1, 2, 2)) for images of shape (3, 32, 32)"),
        ((1, 128), "unet(base=64, multipliers=(1, 2, 2)) for series of 1 channel, 128 steps"),
        ((90, 15), "flattened to 1350 numbers: their neighborhood is not used; transpose"),
        ((20, 16), "for series of 20 channels, 16 steps; transpose examples that are (steps, c"),
        ((1, 8, 8, 8), "unet(base=32, multipliers=(1, 2)) for volumes of shape (1, 8, 8, 8)"),
        ((2, 3, 9, 9), "for volumes of shape (2, 3, 9, 9), flattened to 486 numbers"),
        ((1, 5, 5), "for images of shape (1, 5, 5), flattened to 25 numbers"),
    ],
)
def test_the_line_names_network_and_data(shape, said):
    line = network_line(default_for(shape), shape)
    assert said in line
    assert ("flattened" in line) == (len(shape) > 1 and "mlp" in line)
    assert "\n" not in line


@pytest.mark.parametrize("backbone", ["auto", "mlp(width=4, depth=1)"])
@pytest.mark.parametrize("progress", [True, False])
def test_only_a_choice_is_said(tmp_path, capfd, backbone, progress):
    train(
        TrainConfig(backbone=backbone, **SHORT),
        tmp_path,
        data=torch.arange(120.0).reshape(40, 3).sin(),
        progress=progress,
    )
    said = capfd.readouterr().err
    assert ("network: mlp(" in said) == (progress and backbone == "auto")
    assert "for 3 columns" in said or "network" not in said


@pytest.mark.parametrize("sde", ["ve", "edm", "vp"])
def test_the_data_are_read_once(tmp_path, monkeypatch, capfd, sde):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    read, reader = [], FORMATS["array"]
    monkeypatch.setitem(FORMATS._entries, "array", lambda path: read.append(1) or reader(path))
    words = ["train", "--data", str(tmp_path / "x.npy"), "--sde", sde, "--steps", "1"]
    for _ in range(2):
        read.clear()
        assert main([*words, "--out", str(tmp_path / "run")]) == 0
        assert read == [1]
    assert capfd.readouterr().err.count("hint: for these data, --sde") == (sde != "vp")
