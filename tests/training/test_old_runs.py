"""Run directories of version 0.1.0: opened, continued, and told apart where they forgot their data.

`old_run` was written by that version: eight blobs in the plane, six steps.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sde_score.data import DataError, from_tensor, load
from sde_score.training import load_config, load_run, train

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def old(tmp_path):
    """A copy of the run."""
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_an_old_run_opens_with_the_names_of_today(old):
    run = load_run(old)
    assert (run.step, run.event_shape, run.num_classes) == (6, (2,), 8)
    assert run.config.prediction == "scaled_score"
    assert "probe_distribution='rademacher'" in run.config.objective
    assert run.all_noise_levels
    assert run.record is None
    x = torch.zeros(3, 2)
    assert torch.isfinite(run.model.score(x, 0.5, torch.tensor([0, 3, 7]))).all()


def test_an_old_run_knows_the_shape_of_its_data_alone(old):
    with pytest.warns(UserWarning, match=r"version 0\.1\.0, which kept no fingerprint"):
        held_out = load_run(old).dataset("held_out")
    expected = load("gaussians(n=50)").split(0.1, seed=0)[1]
    assert torch.equal(held_out.raw(), expected.raw())
    other = from_tensor(torch.randn(60, 2), torch.arange(60) % 8, name="gaussians")
    with pytest.raises(DataError, match=r"trained on 45 examples .* at hand are 54 examples"):
        _ = load_run(old, data=other).recognized


def test_an_old_run_of_data_in_memory_is_not_measured_against_others(old):
    """It says `data: digits`, the default, whatever it was trained on."""
    text = (old / "config.yaml").read_text()
    (old / "config.yaml").write_text(text.replace("data: gaussians(n=50)", "data: digits"))
    with pytest.raises(
        DataError, match=r"trained on 45 examples .*'gaussians'.*load_run\(path, da"
    ):
        load_run(old).dataset("held_out")
    with pytest.warns(UserWarning, match="not checked"):
        assert len(load_run(old, data="gaussians(n=50)").dataset()) == 50


def test_an_old_run_goes_on_and_knows_its_data_from_then_on(old):
    config = replace(load_config(old / "config.yaml"), steps=8)
    run = train(config, old, progress=False)
    assert run.step == 8
    assert json.loads((old / "data.json").read_text())["count"] == 50
    with pytest.raises(DataError, match="has changed"):
        _ = load_run(old, data=torch.zeros(50, 2) + torch.arange(50.0)[:, None]).recognized
    with pytest.raises(ValueError, match=r"data is 'gaussians\(n=60\)'"):
        train(replace(config, data="gaussians(n=60)"), old, progress=False)


def test_an_old_run_is_not_continued_on_other_data(old):
    config = replace(load_config(old / "config.yaml"), steps=8)
    with pytest.raises(ValueError, match=r"data is 'gaussians\(n=60\)', was 'gaussians\(n=50\)'"):
        train(replace(config, data="gaussians(n=60)"), old, progress=False)
    other = from_tensor(torch.randn(60, 2), torch.arange(60) % 8, name="gaussians")
    with pytest.raises(ValueError, match="data have changed since"):
        train(config, old, data=other, progress=False)
