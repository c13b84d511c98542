"""What a training chose is said on one line each, and the data are read once for all of it."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

from sde_score.cli import main
from sde_score.data import FORMATS, from_tensor, load
from sde_score.nn import default_for
from sde_score.training import TrainConfig, train
from sde_score.training.choices import data_words, network_words

SHORT = {"steps": 1, "batch_size": 4, "device": "cpu"}


@pytest.mark.parametrize(
    ("shape", "data", "network"),
    [
        ((13,), "2 rows of 13 columns (float, each column scaled", "mlp"),
        (
            (3, 32, 32),
            "2 images of 3 channels x 32 x 32 pixels (float, scaled by (x - 6) / 0.5774)",
            "in 2 dim",
        ),
        (
            (1, 128),
            "2 series of 1 channel x 128 steps",
            "unet(base=64, multipliers=(1, 2, 2)) in",
        ),
        ((90, 15), "2 series of 90 channels x 15 steps", "on 1350 numbers: no U-Net fits"),
        ((20, 16), "2 series of 20 channels", "in 1 dimension; give channels='last' for examples"),
        ((1, 8, 8, 8), "2 volumes of 1 channel x 8 x 8 x 8 voxels", "in 3 dimensions"),
        ((2, 3, 9, 9), "2 volumes of 2 channels x 3 x 9 x 9", "on 486 numbers"),
        ((1, 3, 5), "2 examples of shape (1, 3, 5)", "on 15 numbers"),
    ],
)
def test_the_line_names_data_and_network(shape, data, network):
    x = 5 + torch.arange(2.0 * prod(shape)).reshape(2, *shape) / prod(shape)
    said = data_words(from_tensor(x, channels="first")), network_words(default_for(shape), shape)
    assert data in said[0]
    assert network in said[1]
    assert ("channels='last'" in said[1]) == (len(shape) == 2 and shape[0] > shape[1])
    assert ("neighbors" in said[1]) == (len(shape) > 1 and "mlp" in said[1])


def test_the_line_names_levels_and_what_is_not_scaled():
    assert data_words(load("digits")) == "1797 images of 1 channel x 8 x 8 pixels (17 levels)"
    assert data_words(load("moons(n=9)")) == "9 rows of 2 columns (float, as they are)"


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
    assert ("data: 40 rows of 3 columns" in said) == progress
    assert (", 4 held out -> mlp(" in said) == (progress and backbone == "auto")


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
