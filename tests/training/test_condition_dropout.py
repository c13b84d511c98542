"""Condition dropout: which examples lose their label, and what a run may then be asked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sde_score import data, likelihood, samplers
from sde_score.evaluation import likelihood as likelihood_of_run
from sde_score.models import ScoreModel
from sde_score.nn import MLP
from sde_score.sdes import VP
from sde_score.training import TrainConfig, load_run, resolve, train
from sde_score.training.batches import Batches

OLD = Path(__file__).parent / "old_run"
BLOBS = data.load("gaussians(n=50)")


def drops(config, steps, rank=0, processes=1):
    """Whether each example of each step has lost its label, `(steps, batch)`."""
    batches = Batches(BLOBS, config, rank, processes)
    rows = [torch.cat([p.condition for p in batches.step(k)]) for k in range(steps)]
    return torch.stack(rows) == -1


def test_the_share_is_kept_and_examples_are_dropped_one_by_one(config):
    """Over 400 steps of 32: the share, no copy between positions or steps, else their own."""
    config = resolve(replace(config, condition_dropout=0.3, batch_size=32), BLOBS)
    lost = drops(config, 400).double()
    assert float(lost.mean()) == pytest.approx(0.3, abs=4 * (0.21 / lost.numel()) ** 0.5)
    centred = (lost - 0.3) / 0.21**0.5
    along = centred.T @ centred / 400  # between positions of a batch: standard error 1/20
    assert float((along - torch.eye(32)).abs().max()) < 0.25
    next_step = (centred[1:] * centred[:-1]).mean()
    assert abs(float(next_step)) < 4 / lost.numel() ** 0.5
    kept = next(Batches(BLOBS, config).step(7)).condition
    own = next(Batches(BLOBS, replace(config, condition_dropout=0.0)).step(7)).condition
    assert torch.equal(kept[kept >= 0], own[kept >= 0])
    assert bool((own >= 0).all())


def test_dropping_follows_from_the_seed_and_the_step_however_a_batch_is_cut(config):
    config = resolve(replace(config, condition_dropout=0.5, batch_size=8), BLOBS)
    whole = drops(config, 6)
    cut = replace(config, batch_size=4, accumulate=2)
    assert torch.equal(torch.cat([drops(cut, 6, rank, 2) for rank in (0, 1)], 1), whole)
    assert torch.equal(drops(config, 6), whole)
    assert not torch.equal(drops(replace(config, seed=1), 6), whole)
    (shown,) = Batches(BLOBS, config).step(3)
    (plain,) = Batches(BLOBS, replace(config, condition_dropout=0.0)).step(3)
    assert torch.equal(shown.x0, plain.x0)
    assert shown.draws.generator.initial_seed() == plain.draws.generator.initial_seed()


def test_a_resumed_run_drops_the_same_labels(run_to, tensor_bytes, tmp_path):
    changes = {"condition_dropout": 0.5, "checkpoint_every": 4}
    run_to(tmp_path / "whole", steps=8, **changes)
    run_to(tmp_path / "cut", steps=4, **changes)
    run_to(tmp_path / "cut", steps=8, **changes)
    assert tensor_bytes(tmp_path / "cut", 8) == tensor_bytes(tmp_path / "whole", 8)
    run_to(tmp_path / "none", steps=8, **{**changes, "condition_dropout": 0.0})
    assert tensor_bytes(tmp_path / "none", 8) != tensor_bytes(tmp_path / "whole", 8)


def test_a_run_with_dropout_is_asked_without_labels_everywhere(run_to, tmp_path):
    run = run_to(tmp_path / "run", steps=3)
    assert run.config.condition_dropout == 0.1
    run = load_run(tmp_path / "run")
    x = torch.zeros(4, 2)
    sampler = samplers.create("heun(steps=2)")
    for labels in (None, torch.full((4,), -1), torch.tensor([0, -1, 3, -1])):
        drawn = sampler(run.model, (4, 2), seed=0, condition=labels, progress=False)
        assert torch.isfinite(drawn).all()
        assert torch.isfinite(likelihood.log_prob(run.model, x, condition=labels).log_prob).all()
    assert torch.equal(run.model.score(x, 0.5, torch.full((4,), -1)), run.model.score(x, 0.5, None))
    with pytest.raises(ValueError, match=r"labels from 8 to 8; accepted: 0 \.\.\. 7"):
        sampler(run.model, (4, 2), condition=torch.full((4,), 8), progress=False)
    by = "bound(draws=1, times=2)"
    own, none = (
        likelihood_of_run(run, [by], num=4, labelled=labelled, progress=False).by[by].mean
        for labelled in (True, False)
    )
    assert np.isfinite([own, none]).all()
    assert own != none


def test_what_is_left_open_is_a_tenth_for_our_networks_and_none_for_others():
    def settled(**changes):
        config = TrainConfig(data="gaussians(n=50)", conditional=True, device="cpu", **changes)
        return resolve(config, BLOBS).condition_dropout

    class Own(nn.Linear):
        def forward(self, x, t, condition=None):
            return super().forward(x)

    ours = MLP((2,), width=4, depth=1, num_classes=8)
    assert settled() == settled(backbone="mlp") == settled(backbone=ours) == 0.1
    assert settled(model=ScoreModel(ours, VP())) == 0.1
    assert settled(backbone=Own(2, 2)) == settled(model=ScoreModel(Own(2, 2), VP())) == 0
    assert settled(condition_dropout=0.0) == 0
    assert settled(backbone=Own(2, 2), condition_dropout=0.2) == 0.2
    plain = TrainConfig(data="gaussians(n=50)")
    assert resolve(plain, BLOBS).condition_dropout == 0
    with pytest.warns(UserWarning, match=r"condition_dropout=0\.2 has no effect: conditional=Fal"):
        assert resolve(replace(plain, condition_dropout=0.2), BLOBS).condition_dropout == 0


class Table(nn.Module):
    """A network that looks labels up, and has no row for -1."""

    def __init__(self):
        super().__init__()
        self.layer, self.classes = nn.Linear(2, 2), nn.Embedding(8, 2)

    def forward(self, x, t, condition):
        return self.layer(x) + self.classes(condition)


def test_a_network_that_has_no_answer_without_a_label_is_not_trained_so(run_to, tmp_path):
    with pytest.raises(
        ValueError, match=r"label -1, for none, which the network does not take.*dropout 0"
    ):
        run_to(tmp_path / "run", backbone=Table(), condition_dropout=0.1)
    assert not (tmp_path / "run").exists()
    run = run_to(tmp_path / "run", backbone=Table(), steps=1)
    with pytest.raises(ValueError, match="condition is missing: every example had a label"):
        run.model.score(torch.zeros(4, 2), 0.5)


def test_runs_of_earlier_versions_dropped_nothing_and_go_on_so(old, config):
    run = load_run(old)
    assert run.config.condition_dropout == 0
    with pytest.raises(ValueError, match="or train with condition_dropout"):
        run.model.score(torch.zeros(3, 2), 0.5)
    open_config = replace(run.config, condition_dropout=None, steps=7)
    later = train(open_config, old, progress=False)
    assert (later.step, later.config.condition_dropout) == (7, 0)
    with pytest.raises(ValueError, match=r"condition_dropout is 0\.1, was 0\.0"):
        train(replace(open_config, condition_dropout=0.1), old, progress=False)


@pytest.fixture
def old(tmp_path):
    """A copy of a run of version 0.1.0, conditional."""
    return Path(shutil.copytree(OLD, tmp_path / "run"))


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 2.0])
def test_a_share_outside_its_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"condition_dropout=.* must lie in \[0, 1\)"):
        TrainConfig(condition_dropout=wrong)


def test_a_model_that_saw_little_without_a_condition_says_so(tmp_path):
    from sde_score import samplers
    from sde_score.training import TrainConfig, train

    config = TrainConfig(
        data="gaussians(n=50)", backbone="mlp(width=8, depth=1)", steps=20, batch_size=50,
        conditional=True, condition_dropout=0.2, device="cpu",
    )  # fmt: skip
    run = train(config, tmp_path / "run", progress=False)
    with pytest.warns(UserWarning, match="showed 200 examples without a condition, too few"):
        samplers.create("ddim", steps=2)(run.model, (2, 2), seed=0)
