"""Presets: what they name exists, what they say is printed, and flags override them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sde_score import data, nn
from sde_score.cli.parsing import parse
from sde_score.training import OPTIMIZERS, TrainConfig, load_run, resolve, train
from sde_score.training.presets import names, preset

SHAPES = {"tables": (5,), "series": (2, 16), "digits": (1, 8, 8), "mnist-fast": (1, 28, 28)}


def test_the_published_and_our_own_are_there():
    assert {"song-ve", "song-vp", "song-subvp", "ddpm", "edm"} <= set(names())
    assert {"digits", "mnist-fast", "tables", "series"} <= set(names())
    with pytest.raises(ValueError, match=r"unknown preset 'adm'; accepted: ddpm, digits, edm"):
        preset("adm")


@pytest.mark.parametrize("name", names())
def test_a_preset_trains_on_data_of_its_kind(name, tmp_path):
    """Resolved on examples of its shape; two steps of a small network in its place."""
    found, shape = preset(name), SHAPES.get(name, (3, 32, 32))
    raw = torch.rand(12, *shape, generator=torch.Generator().manual_seed(0))
    examples = data.from_tensor(raw, torch.arange(12) % 3, name="made")
    whole = resolve(found.config(), examples)
    assert whole.schedule != "cosine"  # its length is settled
    assert all(f"{field}: " in str(found) for field in found.fields)
    assert found.about in str(found)
    image = len(shape) == 3
    tiny = "ddpmpp(base=8, multipliers=(1,), blocks=1, attention=(), num_augment=9)"
    changes = {"backbone": tiny if image else "mlp(width=8, depth=1)", "steps": 2, "batch_size": 2}
    run = train(found.config(**changes), tmp_path, data=examples, progress=False)
    assert run.config.objective == whole.objective
    x = torch.zeros(2, *shape)
    assert torch.isfinite(run.model.score(x, 0.5, run.labels_in_turn(2))).all()
    assert load_run(tmp_path).config == run.config


@pytest.mark.parametrize(
    ("name", "millions"),
    [("song-ve", 62.8), ("song-vp", 61.8), ("song-subvp", 61.8), ("ddpm", 35.7), ("edm", 55.7)],
)
def test_published_networks_have_the_published_sizes(name, millions):
    with torch.device("meta"):
        network = nn.create(preset(name).fields["backbone"], (3, 32, 32))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


def test_ve_clips_where_the_published_loss_is_clipped():
    """Half the sum over entries, clipped at 1, is ours, their mean, clipped at 2 / 3072."""
    config = preset("song-ve").config()
    assert config.clip == pytest.approx(2 / 3072, rel=2e-3)
    assert OPTIMIZERS.resolve(config.optimizer).eps == pytest.approx(2e-8 / 3072, rel=2e-3)


def test_flags_override_a_preset_wherever_it_stands():
    edm = preset("edm").config()
    for words in (
        ["--preset", "edm", "--steps", "7", "--out", "a"],
        ["--steps", "7", "--out", "a", "--preset=edm"],
    ):
        command = parse(["train", *words])
        assert command.config == dataclasses.replace(edm, steps=7)
        assert str(command.out) == "a"
    assert parse(["train", "--out", "a"]).config == TrainConfig()
    with pytest.raises(ValueError, match="unknown preset 'nothing'"):
        parse(["train", "--preset", "nothing", "--out", "a"])
    with pytest.raises(SystemExit):
        parse(["train", "--preset", "edm"])  # no --out
