"""Augmentations of a data set of torch: new in every epoch, the same after a resume and on two
processes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from sde_score.data import from_torch
from sde_score.training.batches import Batches

QUICK = {"conditional": False, "backbone": "mlp(width=8, depth=1)", "batch_size": 4}


class Turned(torch.utils.data.Dataset):
    """Pictures of 8 bits, of which half are flipped, the brightest pixel telling the number."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        x = (torch.arange(12).reshape(1, 3, 4) * 4).byte()
        x[0, 0, 0] = 200 + index
        return x.flip(-1) if random.random() < 0.5 else x


def numbers(x0):
    """Which items these are, and which of them are flipped."""
    raw = ((x0 + 1) * 128).floor().flatten(1)
    return (raw.max(1).values - 200).tolist(), (raw.argmax(1) != 0).tolist()


def test_a_resumed_run_on_random_items_has_the_bits_of_one_uncut(run_to, tensor_bytes, tmp_path):
    run_to(tmp_path / "whole", data=Turned(), steps=6, checkpoint_every=3, **QUICK)
    run_to(tmp_path / "cut", data=Turned(), steps=3, **QUICK)
    random.seed(99)
    run = run_to(tmp_path / "cut", data=Turned(), steps=6, **QUICK)
    assert tensor_bytes(tmp_path / "cut", 6) == tensor_bytes(tmp_path / "whole", 6)
    held_out = run.dataset("held_out")
    assert torch.equal(held_out.raw(), held_out.raw())


@pytest.mark.parametrize("dequantize", [False, True])
def test_items_are_drawn_by_seed_and_epoch_whatever_the_processes(config, dequantize):
    data = from_torch(Turned())
    config = replace(config, **{**QUICK, "batch_size": 8, "dequantize": dequantize})
    pairs = [Batches(data, replace(config, batch_size=4), rank, 2) for rank in (0, 1)]
    seen = set()
    whole = Batches(data, config)
    for step in range(30):
        x0 = torch.cat([part.x0 for part in whole.step(step)])
        two = torch.cat([part.x0 for each in pairs for part in each.step(step)])
        assert torch.equal(x0, two)
        epochs = [(8 * step + place) // 10 for place in range(8)]
        seen |= set(zip(epochs, *numbers(x0), strict=True))
    assert len(seen) == 240  # every item once in every epoch
    assert all({flip for _, i, flip in seen if i == item} == {True, False} for item in range(10))
    first = {(i, flip) for epoch, i, flip in seen if epoch == 0}
    assert sum((i, flip) in first for epoch, i, flip in seen if epoch == 1) in range(1, 10)
    other = Batches(data, replace(config, seed=1))
    assert not torch.equal(next(other.step(0)).x0, next(whole.step(0)).x0)
