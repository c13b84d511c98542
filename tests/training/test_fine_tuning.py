"""Fine-tuning: first weights from elsewhere, everything else anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sde_score.models import ScoreModel
from sde_score.nn import create
from sde_score.sdes import VP
from sde_score.training import CheckpointError, Metrics, Trainer, load_run, prepare

OTHER = {"data": "moons(n=80)", "conditional": False, "learning_rate": 1e-3, "steps": 4}


@pytest.fixture
def earlier(run_to, tmp_path):
    """A run that was trained before, without labels."""
    return run_to(tmp_path / "earlier", conditional=False, steps=8)


def _first(config, out, **given):
    job = prepare(replace(config, **given), out)
    return Trainer(job, progress=False).model.state_dict()


def _equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


SOURCES = {
    "run": lambda run, folder: run,
    "directory": lambda run, folder: run.path,
    "text": lambda run, folder: str(run.path),
    "checkpoint": lambda run, folder: run.path / "checkpoints" / "step-8",
    "file": lambda run, folder: run.path / "checkpoints" / "step-8" / "ema.safetensors",
    "model": lambda run, folder: run.model,
    "network": lambda run, folder: run.model.backbone,
    "foreign file": lambda run, folder: _saved(run.model.backbone, folder / "net.safetensors"),
}


def _saved(network, path):
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", SOURCES)
def test_training_starts_from_the_weights_that_are_named(earlier, config, tmp_path, name):
    source = SOURCES[name](earlier, tmp_path)
    given = {**OTHER, "sigma_data": earlier.config.sigma_data}
    first = _first(config, tmp_path / "fine", **given, init_from=source)
    assert _equal(first, earlier.model.state_dict())
    raw = load_run(earlier.path, "raw").model.state_dict()
    assert not _equal(first, raw)


def test_what_is_left_open_is_that_of_the_run(earlier, config, tmp_path):
    config = replace(config, backbone="auto", **OTHER)
    job = prepare(replace(config, init_from=earlier), tmp_path / "fine")
    assert job.config.backbone == earlier.config.backbone
    assert job.config.sigma_data == earlier.config.sigma_data
    assert job.config.init_from == str(earlier.path)
    assert job.config.learning_rate == 1e-3


def test_a_fine_tuned_run_goes_on_without_its_source(
    earlier, run_to, tensor_bytes, measured, tmp_path
):
    given = {**OTHER, "init_from": str(earlier.path), "checkpoint_every": 2}
    whole = run_to(tmp_path / "whole", **given)
    run_to(tmp_path / "cut", **{**given, "steps": 2})
    Path(earlier.path).rename(tmp_path / "gone")
    for left_out in (None, str(earlier.path)):
        run_to(tmp_path / "cut", **{**given, "init_from": left_out})
    assert tensor_bytes(tmp_path / "cut", 4) == tensor_bytes(tmp_path / "whole", 4)
    assert whole.config.init_from == str(earlier.path)
    notes = Metrics(tmp_path / "cut" / "metrics.jsonl").notes()
    assert notes == [{"step": 0, "init_from": str(earlier.path)}]
    with pytest.raises(ValueError, match="init_from is '/elsewhere'"):
        run_to(tmp_path / "cut", **{**given, "init_from": "/elsewhere"})


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    earlier, config, run_to, tensor_bytes, tmp_path
):
    given = {**OTHER, "init_from": str(earlier.path)}
    _first(config, tmp_path / "fine", **given)
    run_to(tmp_path / "fine", **{**given, "init_from": None})
    run_to(tmp_path / "whole", **given)
    assert tensor_bytes(tmp_path / "fine", 4) == tensor_bytes(tmp_path / "whole", 4)
    assert len(Metrics(tmp_path / "fine" / "metrics.jsonl").notes()) == 1


def test_another_diffusion_is_allowed_and_told(earlier, config, tmp_path):
    with pytest.warns(UserWarning, match=r"trained with sde=vp.*this run has sde=ve"):
        first = _first(config, tmp_path / "a", **OTHER, sde="ve", init_from=earlier)
    assert _equal(first, earlier.model.state_dict())


@pytest.mark.parametrize(
    ("source", "error", "why"),
    [
        ("nowhere", CheckpointError, "init_from='nowhere' holds no weights"),
        (3, TypeError, "init_from=3 must be a run"),
        ("<ScoreModel>", ValueError, r"starts from <ScoreModel>.*init_from="),
        (
            ScoreModel(create("mlp(width=12, depth=1)", (2,)), VP()),
            CheckpointError,
            "the model needs",
        ),
        (torch.nn.Linear(2, 2), CheckpointError, "do not fit the model"),
    ],
)
def test_weights_that_are_not_there_or_do_not_fit_are_refused(config, tmp_path, source, error, why):
    with pytest.raises(error, match=why):
        _first(config, tmp_path / "fine", **OTHER, init_from=source)
    assert not (tmp_path / "fine").exists()


def test_damaged_weights_are_refused(earlier, config, tmp_path):
    path = earlier.path / "checkpoints" / "step-8" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"ema\.safetensors cannot be used: it is damaged"):
        _first(config, tmp_path / "fine", **OTHER, init_from=earlier.path)
