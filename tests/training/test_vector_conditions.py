"""Vectors as conditions: from the data set through training to samples of p(x | y)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sde_score import data, nn, samplers
from sde_score._core.errors import DataError
from sde_score.cli import main
from sde_score.evaluation import likelihood
from sde_score.training import load_run
from sde_score.training.batches import Batches
from sde_score.training.build import resolve

SLOPE = torch.tensor([[0.5, 1.0], [-0.3, 0.8]], dtype=torch.float64)
NETWORK = "mlp(width=64, depth=1)"


def pairs(count=2000):
    """x = SLOPE y + 0.3 noise, with y away from 0 and of unequal scales."""
    generator = torch.Generator().manual_seed(0)
    y, noise = torch.randn(2, count, 2, generator=generator, dtype=torch.float64)
    y = y * torch.tensor([2.0, 0.5]) + torch.tensor([3.0, -1.0])
    return y @ SLOPE.T + 0.3 * noise, y


@pytest.fixture(scope="module")
def points():
    x, y = pairs()
    return data.from_tensor(x, condition=y)


def test_conditions_are_standardized_and_go_with_their_examples(points):
    _, y = pairs()
    chosen = torch.tensor([5, 3, 1999])
    batch = points.batch(chosen)
    expected = (y - y.mean(0)) / y.std(0, correction=0)
    torch.testing.assert_close(batch.condition, expected[chosen].float(), rtol=1e-3, atol=1e-3)
    train, held_out = points.split(0.1)
    raw = train.condition_scaling.from_model(train.batch([7]).condition.double())
    gap = train.raw([7]) - raw @ SLOPE.T
    assert float(gap.abs().max()) < 1.5  # five deviations: the condition is that of the example
    assert (held_out.condition_shape, points.condition_shape) == ((2,), (2,))


def test_files_and_torch_data_sets_hold_conditions(points, tmp_path):
    x, y = pairs()
    np.savez(tmp_path / "p.npz", x=x.numpy(), condition=y.numpy())
    items = [(x[i], y[i]) for i in range(50)]
    for found, count in ((data.load(tmp_path / "p.npz"), 2000), (data.from_torch(items), 50)):
        assert torch.equal(found.conditions, y[:count])
        assert len(found) == count
    first = data.Fingerprint.of(points)
    moved = replace(points, conditions=points.conditions.roll(1, 0))
    assert data.Fingerprint.of(moved).labels != first.labels
    with pytest.raises(DataError, match=r"a vector of torch\.float64 and shape"):
        data.from_torch([(x[0], 1), (x[1], y[1])])


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (torch.zeros(5, 2), r"shape \(5, 2\) for 4 examples, accepted: \(4, n\)"),
        (torch.zeros(4), r"accepted: \(4, n\), or \(4, channels"),
        (torch.zeros(4, 2, dtype=torch.int64), "must be floating-point vectors"),
        (torch.arange(4), "give them as labels"),
        ({"label": torch.arange(4), "y": torch.zeros(3, 2)}, r"\['y'\] has shape \(3, 2\) for 4"),
        ({"label": torch.arange(4) - 1}, r"\['label'\] run from -1 to 2"),
        ({"y": torch.zeros(4, 2)}, r"condition\['y'\]: all examples are the same"),
        ({"two words": torch.randn(4, 2)}, "cannot name a condition"),
        (torch.full((4, 2), torch.nan), "holds NaN"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(condition, says):
    with pytest.raises((DataError, TypeError, ValueError), match=says):
        data.from_tensor(torch.randn(4, 3), condition=condition)
    with pytest.raises(DataError, match="give one of them"):
        data.from_tensor(torch.randn(4, 3), [0, 1, 0, 1], condition=torch.randn(4, 2))


@pytest.mark.parametrize("spec", ["mlp(width=8, depth=1)", "unet(base=4, multipliers=(1, 2))"])
def test_networks_answer_vectors_and_their_absence(spec):
    net = nn.create(spec, (1, 8, 8), condition_shape=(3,))
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x, level, y = torch.randn(4, 1, 8, 8), torch.zeros(4), torch.randn(4, 3)
    lost = y.clone()
    lost[1] = torch.nan
    answer, some, none = net(x, level, y), net(x, level, lost), net(x, level)
    assert torch.isfinite(some).all()
    torch.testing.assert_close(some[1], none[1])
    torch.testing.assert_close(some[[0, 2, 3]], answer[[0, 2, 3]])
    assert not torch.allclose(answer[1], none[1])
    net(x, level, lost).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    assert float(net.embedding.vectors.null.grad.abs().max()) > 0
    assert net.condition_shape == (3,)
    with pytest.raises(ValueError, match="one vector per example"):
        net(x, level, y[:, :2])
    with pytest.raises(TypeError, match="floating-point tensor of vectors"):
        net(x, level, torch.zeros(4, dtype=torch.int64))


def test_a_gaussian_is_learned_given_its_condition(run_to, points, tmp_path):
    """Mean of p(x | y) to 0.15 and deviation to 30 %; without y the mean and spread of all x."""
    changes = {"backbone": NETWORK, "steps": 700, "batch_size": 128, "checkpoint_every": 700}
    run_to(tmp_path, data=points, ema=0.98, learning_rate=4e-3, **changes)
    run = load_run(tmp_path, data=points)
    assert (run.condition_shape, run.num_classes) == ((2,), 0)
    heun = samplers.create("heun(steps=12)")
    for y in torch.tensor([[5.0, -1.5], [1.0, -0.5]], dtype=torch.float64):
        told = run.condition_of(y.expand(500, 2))
        x = heun(run.model, (500, 2), seed=0, condition=told, progress=False)
        raw = run.scaling.from_model(x).double()
        assert float((raw.mean(0) - SLOPE @ y).abs().max()) < 0.15
        assert raw.std(0).tolist() == pytest.approx([0.3, 0.3], rel=0.3)
    raw = run.scaling.from_model(heun(run.model, (500, 2), seed=0, progress=False)).double()
    assert raw.mean(0).tolist() == pytest.approx(points.raw().mean(0).tolist(), abs=0.3)
    assert raw.std(0).tolist() == pytest.approx(points.raw().std(0).tolist(), rel=0.3)
    record = json.loads((tmp_path / "data.json").read_text())
    assert record["condition_shape"] == [2]
    assert record["condition_scaling"]["center"] == pytest.approx([3, -1], abs=0.2)
    by = "bound(draws=1, times=4)"
    own, none = (
        likelihood(run, [by], num=40, labelled=given, progress=False).by[by].mean
        for given in (True, False)
    )
    assert own < none - 0.3  # knowing y saves bits


def test_the_verbs_take_vectors_from_the_data(tmp_path):
    x, y = pairs(200)
    source, out, samples = (str(tmp_path / name) for name in ("p.npz", "run", "s.npz"))
    np.savez(source, x=x.numpy(), condition=y.numpy())
    words = ["train", "--data", source, "--out", out, "--conditional", "--backbone", NETWORK]
    assert main([*words, "--steps", "3", "--batch-size", "8", "--no-progress"]) == 0
    words = ["sample", out, "--num", "5", "--steps", "2", "--out", samples]
    assert main(words) == 0
    found = data.load(samples)
    assert found.condition_shape == (2,)
    gaps = (found.conditions[:, None] - y[None]).abs().amax(2).amin(1)
    assert float(gaps.max()) < 1e-5  # those of examples
    assert main([*words, "--label", "none"]) == 0
    assert data.load(samples).conditions is None
    assert main(["likelihood", out, "--num", "3", "--by", "bound(times=1)"]) == 0


def test_vectors_are_dropped_and_the_bits_resume(run_to, points, tensor_bytes, tmp_path, config):
    changes = {"data": points, "backbone": NETWORK, "condition_dropout": 0.5}
    run_to(tmp_path / "whole", steps=8, **changes)
    run_to(tmp_path / "cut", steps=4, **changes)
    run_to(tmp_path / "cut", steps=8, **changes)
    assert tensor_bytes(tmp_path / "cut", 8) == tensor_bytes(tmp_path / "whole", 8)
    settled = resolve(replace(config, backbone=NETWORK, condition_dropout=0.5), points)
    (part,) = Batches(points, settled).step(0)
    lost = part.condition.isnan()
    assert torch.equal(lost.all(1), lost.any(1))
    assert 0 < int(lost.all(1).sum()) < 8


def test_without_dropout_a_vector_is_needed(run_to, points, tmp_path):
    run = run_to(tmp_path, data=points, backbone=NETWORK, steps=1, condition_dropout=0.0)
    x, told = torch.zeros(3, 2), run.draw_labels(3)
    run.model.score(x, 0.5, told)
    with pytest.raises(ValueError, match="condition is missing"):
        run.model.score(x, 0.5)
    with pytest.raises(ValueError, match="condition has NaN, for none"):
        run.model.score(x, 0.5, told.clone().fill_(torch.nan))
    with pytest.raises(ValueError, match=r"must have one vector per example, shape \(3, 2\)"):
        run.condition_of(torch.zeros(3, 5))
