"""Augmentation: exact where it can be, told to the network, and a function of seed and step."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.random import BatchSlice, generator_from
from sde_score.training import AUGMENTATIONS
from sde_score.training.augmentation import EDMAugmentation

IMAGES = {"data": "digits", "steps": 3, "batch_size": 4, "checkpoint_every": 2}
TINY = "ddpmpp(base=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0, num_augment=9)"


def _batch(count=64, size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 2, size, size, generator=generator)


def test_flip_turns_half_of_the_images_left_to_right():
    x0 = _batch()
    changed, labels = AUGMENTATIONS.create("flip")(x0, generator_from(3))
    same = (changed == x0).flatten(1).all(1)
    turned = (changed == x0.flip(-1)).flatten(1).all(1)
    assert labels is None
    assert (same ^ turned).all()
    assert 16 < int(turned.sum()) < 48


def test_edm_leaves_what_its_labels_call_unchanged_to_the_bit():
    """And turns what they call turned alone, likewise."""
    x0 = _batch(400)
    changed, labels = AUGMENTATIONS.create("edm")(x0, generator_from(3))
    still = (labels[:, 2:] == 0).all(1)
    for first, second, expected in (
        (0, 0, x0),
        (1, 0, x0.flip(-1)),
        (0, 1, x0.flip(-2)),
        (1, 1, x0.flip(-1).flip(-2)),
    ):
        rows = still & (labels[:, 0] == first) & (labels[:, 1] == second)
        assert rows.any()
        assert torch.equal(changed[rows], expected[rows])
    share = (labels != 0).double().mean(0)
    expected = [0.5, 0.06, 0.12, 0.12, 0.12, 0.12, 0.06, 0.12, 0.12]
    assert share.tolist() == pytest.approx(expected, abs=0.06)


def test_edm_moves_a_smooth_image_as_its_labels_say():
    """A Gaussian bump, turned, stretched and shifted, is the bump at the places before."""
    size = 32
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")

    def bump(x, y):
        return torch.exp(-((x - 3) ** 2) / 40 - (y + 2) ** 2 / 20)

    images = bump(x, y).expand(50, 1, size, size)
    edm = AUGMENTATIONS.create("edm(probability=1.0, shift=0.05)")
    changed, labels = edm(images, generator_from(1))
    inverse, again = edm.draw(images, generator_from(1))
    assert torch.equal(labels, again)
    places = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    for index in range(50):
        before = (inverse[index] @ places).reshape(3, size, size)
        expected = bump(before[0], before[1])
        inside = before[:2].abs().amax(0) < size / 2 - 2
        assert float((changed[index, 0] - expected)[inside].abs().max()) < 0.02
    turn = inverse[:, :2, :2].det()
    scale = torch.exp2(-2 * 0.2 * again[:, 2]) * (1 - 2 * again[:, 0]) * (1 - 2 * again[:, 1])
    torch.testing.assert_close(turn, scale)
    torch.testing.assert_close((again[:, 3] + 1) ** 2 + again[:, 4] ** 2, torch.ones(50).double())


def test_a_rotation_turns_by_the_angle_of_its_labels():
    """The inverse of rotation alone is R(angle), after the flip: [[cos, -sin], [sin, cos]]."""
    turn = EDMAugmentation(1.0, flip=False, scale=0.0, stretch=0.0, shift=0.0)
    inverse, labels = turn.draw(_batch(20), generator_from(2))
    cos, sin, ones = labels[:, 3] + 1, labels[:, 4], torch.ones(20, dtype=torch.float64)
    down = 1 - 2 * labels[:, 1]
    expected = torch.stack([cos, -sin, down * sin, down * cos], 1).reshape(20, 2, 2)
    torch.testing.assert_close(inverse[:, :2, :2], expected)
    assert sin.abs().max() > 0.5
    torch.testing.assert_close(cos**2 + sin**2, ones)


def test_a_share_of_a_batch_is_changed_as_the_whole_is():
    x0, edm = _batch(12), AUGMENTATIONS.create("edm(probability=0.5)")
    whole, labels = edm(x0, BatchSlice(generator_from(5), 0, 12))
    part, own = edm(x0[4:8], BatchSlice(generator_from(5), 4, 12))
    assert torch.equal(own, labels[4:8])
    torch.testing.assert_close(part, whole[4:8])


@pytest.mark.parametrize("conditional", [False, True])
def test_a_run_tells_the_network_and_resumes_to_the_same_bits(
    run_to, tensor_bytes, tmp_path, conditional
):
    changes = {**IMAGES, "backbone": TINY, "augmentation": "edm(probability=0.5)"}
    changes["conditional"] = conditional
    run = run_to(tmp_path / "whole", **changes)
    run_to(tmp_path / "cut", **{**changes, "steps": 2})
    run_to(tmp_path / "cut", **changes)
    assert tensor_bytes(tmp_path / "cut", 3) == tensor_bytes(tmp_path / "whole", 3)
    augment = next(v for n, v in run.model.named_parameters() if n.endswith("augment.weight"))
    run_to(tmp_path / "other", **{**changes, "augmentation": "none"})
    assert augment.abs().sum() > 0
    other = tensor_bytes(tmp_path / "other", 3)
    assert other["model.safetensors"] != tensor_bytes(tmp_path / "whole", 3)["model.safetensors"]
    x = torch.zeros(2, *run.event_shape)
    assert torch.isfinite(run.model.score(x, 0.5, run.labels_in_turn(2))).all()


def test_a_network_that_is_not_told_is_refused(run_to, tmp_path):
    with pytest.raises(ValueError, match=r"choose a network with num_augment=9"):
        run_to(tmp_path, **IMAGES, backbone="unet(base=4)", augmentation="edm")
    assert not (tmp_path / "config.yaml").exists()


def test_columns_are_no_images(run_to, tmp_path):
    with pytest.raises(ValueError, match=r"examples here have shape \(2,\)"):
        run_to(tmp_path, augmentation="flip")
    with pytest.raises(ValueError, match=r"probability=1.5 must lie in \[0, 1\]"):
        AUGMENTATIONS.create("edm(probability=1.5)")
    assert math.isclose(AUGMENTATIONS.create("edm").shift, 1 / 8)
