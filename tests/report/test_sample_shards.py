"""Shards of samples: those of one file, whatever was there before and whoever was killed."""

from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from sde_score._core import processes
from sde_score.data import Scaling
from sde_score.report import SampleShards
from sde_score.report.look import Look

LOOK = Look(Scaling(0.0, 1.0))


def _draw(rows):
    """Sample i is i."""
    return torch.arange(rows.start, rows.stop).float()[:, None].expand(-1, 2), 7.0


def _shards(out, num=7, size=3, condition=None, **settings):
    told = torch.arange(num) if condition is None else condition
    return SampleShards(out, num, size, {"sampler": "mine", **settings}, told)


def _whole(shards):
    parts = [np.load(shards.path(i)) for i in range(-(-shards.num // shards.size))]
    assert all(len(part["samples"]) <= shards.size for part in parts)
    return np.concatenate([p["samples"] for p in parts]), np.concatenate(
        [p["labels"] for p in parts]
    )


def test_shards_hold_all_samples_and_are_drawn_once(tmp_path):
    """A kill in the second shard leaves the first; more samples add to what is there."""
    shards, drawn = _shards(tmp_path / "s"), []

    def draw(rows):
        drawn.append((rows.start, rows.stop))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return _draw(rows)

    with pytest.raises(KeyboardInterrupt):
        shards.write(draw, LOOK)
    (tmp_path / "s" / f".{'a' * 16}.tmp").write_text("half a shard")
    assert shards.write(draw, LOOK) == 7.0
    assert drawn == [(0, 3), (3, 6), (3, 6), (6, 7)]
    samples, labels = _whole(shards)
    assert samples[:, 0].tolist() == labels.tolist() == list(range(7))
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "00000.npz", "00001.npz", "00002.npz", "shards.json"
    ]  # fmt: skip
    assert np.isnan(shards.write(draw, LOOK))
    more = _shards(tmp_path / "s", num=11)
    more.write(draw, LOOK)
    assert drawn[4:] == [(6, 9), (9, 11)]
    assert _whole(more)[0][:, 1].tolist() == list(range(11))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"sampler": "other"}, "sampler='mine', and now it is 'other'"),
        ({"size": 2}, "size=3, and now it is 2"),
        ({"num": 6}, "begun for num=7"),
        ({"condition": torch.arange(7) + 1}, "condition="),
    ],
)
def test_samples_of_other_settings_are_not_mixed(tmp_path, changed, why):
    _shards(tmp_path / "s").write(_draw, LOOK)
    before = {p: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    with pytest.raises(ValueError, match=why):
        _shards(tmp_path / "s", **changed).write(_draw, LOOK)
    assert {p: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before


def test_what_is_no_shard_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match=r"thesis\.txt is no shard"):
        _shards(tmp_path / "s").require()
    _shards(tmp_path / "s" / "part.npz").write(_draw, LOOK)
    assert (tmp_path / "s" / "thesis.txt").read_text() == "years"
    record = tmp_path / "s" / "part-shards.json"
    assert json.loads(record.read_text())["num"] == 7
    record.write_text("{")
    with pytest.raises(ValueError, match=r"part-shards\.json is damaged"):
        _shards(tmp_path / "s" / "part.npz").require()


def test_shards_of_tables_and_of_pictures(tmp_path):
    _shards(tmp_path / "part.csv", num=4).write(_draw, LOOK)
    assert (tmp_path / "part-00001.csv").read_text().splitlines() == ["x1,x2,label", "3.0,3.0,3"]

    def pictures(rows):
        return torch.zeros(len(rows), 1, 4, 4), 1.0

    _shards(tmp_path / "p" / "x.png", num=4).write(pictures, LOOK)
    assert [p.name for p in sorted((tmp_path / "p" / "x-00000").iterdir())] == [
        "0.png", "1.png", "2.png"
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_looks_at_the_place_before_any_begins(tmp_path, monkeypatch, rank):
    """Another may have begun by the time that a late one looks, and its files would be strange."""
    monkeypatch.setattr(processes, "place", lambda: (rank, 2))
    monkeypatch.setattr(processes, "everyone", lambda mine: [([None], None), ([], None)])
    (tmp_path / "strange.npz").touch()
    expected = pytest.raises(ValueError, match=r"is no shard") if rank == 0 else nullcontext()
    with expected:
        _shards(tmp_path).require()
