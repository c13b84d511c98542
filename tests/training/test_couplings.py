"""Couplings: exact assignments, pairs that keep their condition, and runs."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from sde_score import data
from sde_score.training import COUPLINGS, Batches, TrainConfig, load_run
from sde_score.training.couplings import SemiDiscreteOT


def _cost(x0, noise):
    return float((x0 - noise).square().sum())


def test_ot_finds_the_best_of_all_permutations():
    torch.manual_seed(0)
    x0, noise = torch.randn(6, 3), torch.randn(6, 3)
    found = COUPLINGS.create("ot").arrange(x0, noise, None)
    best = min(_cost(x0, noise[list(order)]) for order in permutations(range(6)))
    assert _cost(x0, found) == pytest.approx(best, rel=1e-6)
    assert sorted(found[:, 0].tolist()) == sorted(noise[:, 0].tolist())


def test_ot_stays_within_a_class():
    """Best of the permutations of each class, and the noise of a class is that of its rows."""
    torch.manual_seed(1)
    x0, noise, labels = torch.randn(7, 2), torch.randn(7, 2), torch.tensor([0, 1, 0, 1, 1, 0, 0])
    found = COUPLINGS.create("ot").arrange(x0, noise, labels)
    for one in (0, 1):
        rows = labels == one
        assert sorted(found[rows, 0].tolist()) == sorted(noise[rows, 0].tolist())
        own = noise[rows]
        best = min(_cost(x0[rows], own[list(o)]) for o in permutations(range(len(own))))
        assert _cost(x0[rows], found[rows]) == pytest.approx(best, rel=1e-6)


def test_semi_discrete_meets_all_examples_alike_and_costs_least():
    """Shares 1 / n, and in one dimension the monotone map: noise quantiles in the order of x."""
    x0 = torch.tensor([[-3.0], [4.0], [0.5], [0.0]])
    coupling = SemiDiscreteOT(iterations=4000)
    coupling.begin(x0, None, seed=0)
    noise = torch.linspace(0.0005, 0.9995, 1000).mul(2).sub(1).erfinv()[:, None] * 2**0.5
    met = coupling.choose(torch.zeros(1000, dtype=torch.long), noise)
    assert met.bincount().tolist() == pytest.approx([250] * 4, abs=12)
    assert met.unique_consecutive().tolist() == [0, 3, 2, 1]


def test_semi_discrete_keeps_class_and_shares_within_each_class():
    torch.manual_seed(0)
    x0 = torch.randn(30, 2) * 2
    labels = torch.arange(30) % 3
    coupling = SemiDiscreteOT(iterations=3000)
    coupling.begin(x0, labels, seed=0)
    asked = torch.arange(30).repeat(300)
    met = coupling.choose(asked, torch.randn(9000, 2))
    assert torch.equal(labels[met], labels[asked])
    shares = met.bincount(minlength=30) / 300
    assert float((shares - 1).abs().max()) < 0.35


@pytest.mark.parametrize("coupling", ["ot", "semi-discrete(iterations=50, batch=32)"])
@pytest.mark.parametrize("conditional", [True, False])
def test_data_and_labels_of_a_batch_stay_together(coupling, conditional):
    """Every example of a batch has, in the data set, the label that it is given; noise in a class
    is standard normal."""
    examples = data.load("gaussians(n=50)")
    config = TrainConfig(batch_size=400, conditional=conditional)
    found = COUPLINGS.create(coupling)
    everything = examples.batch(torch.arange(50))
    found.begin(everything.x0, everything.condition if conditional else None, 0)
    part = next(Batches(examples, config, coupling=found).step(3))
    near = torch.cdist(part.x0, everything.x0).argmin(1)
    assert torch.equal(everything.x0[near], part.x0)
    if conditional:
        assert torch.equal(everything.condition[near], part.condition)
        for one in range(8):
            own = part.draws.noise[part.condition == one]
            assert abs(float(own.mean())) < 0.35
    inner = (part.x0 * part.draws.noise).sum(1).mean()
    assert float(inner) > 0.15  # independent: 0


@pytest.mark.parametrize("coupling", ["ot", "semi-discrete(iterations=20, batch=16)"])
def test_runs_resume_to_the_same_bits(run_to, tensor_bytes, tmp_path, coupling):
    changes = {"coupling": coupling, "sde": "rectified"}
    run_to(tmp_path / "whole", **changes)
    run_to(tmp_path / "cut", **changes, steps=8)
    run_to(tmp_path / "cut", **changes)
    assert tensor_bytes(tmp_path / "cut", 12) == tensor_bytes(tmp_path / "whole", 12)
    plain = run_to(tmp_path / "plain", sde="rectified")
    assert load_run(tmp_path / "cut").digest != plain.digest


def test_objectives_that_draw_their_own_noise_are_refused(run_to, tmp_path):
    with pytest.raises(ValueError, match="choose objective=denoising or coupling=independent"):
        run_to(tmp_path, coupling="ot", objective="hutchinson(time_sampler='uniform')")
