"""Grids on disk: what is written is read, and nothing else is."""

from __future__ import annotations

import json

import pytest
import torch

from sde_score.samplers import GRIDS, GridFile, NoiseRatios, create, read_grid_file, write_grid_file
from sde_score.samplers.grids.files import FORMAT
from sde_score.sdes import EDM, VP

CONTENT = GridFile(
    ratios=(80.0, 2.5, 1 / 3, 0.017),
    sampler="flow-ab(order=4, steps=4)",
    nfe=4,
    target="runs/digits",
    errors={"fresh_rms_before": 0.3, "fresh_rms_after": 0.1},
)


@pytest.fixture
def path(tmp_path):
    write_grid_file(tmp_path / "deep" / "grid.json", CONTENT)
    return tmp_path / "deep" / "grid.json"


def test_a_file_gives_back_what_it_was_given(path):
    assert read_grid_file(path) == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["grid.json"]


def test_a_file_is_a_grid_of_any_sde(path):
    for sde in (EDM(), VP()):
        sampler = create("ddim", steps=4, grid=f"file(path={str(path)!r})")
        want = NoiseRatios(ratios=CONTENT.ratios).times(sde, 4)
        assert torch.equal(sampler.times(sde), want)
    assert torch.equal(GRIDS.create("file", path=path).times(VP(), 4), want)


def test_another_number_of_steps_is_told_what_the_grid_was_made_for(path):
    sampler = create("ddim", steps=5, grid=f"file(path={str(path)!r})")
    with pytest.raises(ValueError, match=r"flow-ab\(order=4, steps=4\), 4 NFE: set steps=4"):
        sampler.times(EDM())


def damaged(text: str, **changes: object) -> str:
    return json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[: len(text) // 2], "Expecting|Unterminated|delimiter"),
        (lambda text: "", "Expecting value"),
        (lambda text: "[" * 100_000, "recursion|Expecting"),
        (lambda text: "[1, 2]", "format"),
        (lambda text: damaged(text, format="other"), "format"),
        (lambda text: damaged(text, ratios=[1.0, 2.0]), "strictly decreasing"),
        (lambda text: damaged(text, ratios=[2.0, 0.0]), "positive"),
        (lambda text: damaged(text, ratios=[2.0, -1.0]), "positive"),
        (lambda text: damaged(text, ratios=[]), "at least one"),
        (lambda text: damaged(text, ratios="abc"), "ratios='abc'"),
        (lambda text: damaged(text, ratios=[True, 0.5]), r"ratios\[0\]=True"),
        (lambda text: damaged(text, ratios=["2", "1"]), r"ratios\[0\]='2'"),
        (lambda text: text.replace("80.0", "NaN"), r"ratios\[0\]=nan"),
        (lambda text: text.replace("80.0", "Infinity"), r"ratios\[0\]=inf"),
        (lambda text: damaged(text, sampler=3), "must be text"),
        (lambda text: damaged(text, target=None), "must be text"),
        (lambda text: damaged(text, nfe=-1), "nfe=-1"),
        (lambda text: damaged(text, nfe="10"), "nfe='10'"),
        (lambda text: damaged(text, errors=[1]), "errors"),
        (lambda text: damaged(text, errors={"a": "b"}), "errors"),
        (lambda text: damaged(text, surprise=1), "does not take surprise"),
        (lambda text: text + " " * (1 << 22), "bytes"),
    ],
)
def test_a_damaged_file_is_refused_by_name(spoil, says, path):
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ValueError, match=says) as refused:
        read_grid_file(path)
    assert str(path) in str(refused.value)


def test_bytes_that_are_no_text_are_refused(path):
    path.write_bytes(b"\xff\xfe\x00\xd8{}")
    with pytest.raises(ValueError, match="no grid file"):
        read_grid_file(path)


def test_a_missing_file_is_an_error_of_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        GRIDS.create("file", path=str(tmp_path / "none.json"))


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(path, monkeypatch):
    def broken(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="no space"):
        write_grid_file(path, GridFile(ratios=(1.0,)))
    monkeypatch.undo()
    assert read_grid_file(path) == CONTENT


def test_only_json_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"must end with \.json"):
        write_grid_file(tmp_path / "grid.yaml", CONTENT)
    assert not list(tmp_path.iterdir())
    assert FORMAT == "sde_score.grid/1"
