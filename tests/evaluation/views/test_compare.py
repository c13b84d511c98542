"""The comparison of a run's views: measured against its data, kept, and never measured twice."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from sde_score import evaluation, samplers
from sde_score.evaluation import DistanceEstimator
from sde_score.training import TrainConfig, load_run, train

TINY = TrainConfig(
    data="digits",
    backbone="mlp(width=32, depth=1)",
    steps=20,
    batch_size=16,
    log_every=5,
    dequantize=True,
)
SMALL = {"count": 16, "bits_examples": 3, "extractor": "pixels"}
VIEWED = ("reverse-sde", "ancestral", "ddim", "heun")


def compare(run, views=VIEWED, nfes=(3, 5), **changed):
    settings = {**SMALL, **changed}
    return evaluation.compare(run, views=views, nfes=nfes, progress=False, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train(TINY, path, progress=False)
    return load_run(path)


@pytest.fixture(scope="module")
def found(run):
    return compare(run)


def test_rows_and_bits_are_those_of_the_run(run, found):
    assert found.names == ("sliced-wasserstein2", "frechet[pixels]")
    assert found.count == 16
    assert found.held_out == len(run.dataset("held_out"))
    assert {row.nfe for row in found.rows} == {3, 5}
    assert {bits.examples for bits in found.bits.values()} == {3}
    # trained on gray levels spread over their bins, and measured on such
    assert all("dequantization='uniform'" in likelihood for likelihood in found.bits)


def test_samples_are_measured_in_the_terms_of_the_data(run, found):
    """Rounded to the gray levels that a user would save, as the data are."""
    train_part, held_out = (run.dataset(part).tensor() for part in ("train", "held_out"))
    distances = ["sliced-wasserstein2(projections=128)", "frechet"]
    estimator = DistanceEstimator(train_part, held_out, 16, distances)
    row = found.rows[0]
    drawn = samplers.sample(run.model, row.sampler, run.event_shape, 16, progress=False)
    levels = run.scaling.from_model(drawn.float())
    assert levels.dtype == torch.uint8
    assert estimator(run.scaling.to_model(levels)) == row.distances
    assert estimator.floors == found.floors


def test_evaluate_and_compare_measure_one_sampler_alike(run, found):
    row = found.rows[0]
    measured = evaluation.evaluate(run, [row.sampler], count=16, progress=False)
    assert measured.names[0] == found.names[0] == "sliced-wasserstein2"
    assert measured.rows[0].distances[0] == row.distances[0]
    assert measured.floors[0] == found.floors[0]
    assert measured.rows[0].nfe == row.nfe


def test_only_what_is_missing_is_measured(run, found):
    before = run.model.nfe
    assert compare(run) == found
    assert run.model.nfe == before
    more = compare(run, nfes=(3, 4, 5), views=("ddim",))
    new = likelihoods = 4  # one row of 4 evaluations, and the ELBO of as many layers
    assert run.model.nfe - before == new + likelihoods
    assert len(more.rows) == len(found.rows) + 1
    assert [row for row in more.rows if row.nfe != 4] == list(found.rows)


@pytest.mark.parametrize(
    "changed",
    [{"count": 18}, {"seed": 1}, {"bits_examples": 2}, {"extractor": "random-convolution"}],
)
def test_other_settings_start_anew(run, changed):
    first = compare(run, views=("ddim",), nfes=(3,))
    other = compare(run, views=("ddim",), nfes=(2,), **changed)
    assert [row.nfe for row in other.rows] == [2]
    assert first.rows[0] not in other.rows


def test_other_weights_start_anew(run):
    compare(run, views=("ddim",), nfes=(3,))
    raw = load_run(run.path, "raw")
    assert [row.nfe for row in compare(raw, views=("ddim",), nfes=(2,)).rows] == [2]


def test_a_kill_keeps_the_rows_that_were_done(run, monkeypatch):
    path = run.path / "comparison.jsonl"
    path.unlink(missing_ok=True)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sde_score.evaluation.likelihoods.bits_per_dim", stop)
        with pytest.raises(KeyboardInterrupt):
            compare(run)
    keys = [json.loads(line)[0] for line in path.read_text().splitlines()]
    assert len(keys) == 8
    assert all("| view |" in key for key in keys)
    before = run.model.nfe
    assert len(compare(run, views=VIEWED[:1]).bits) == 1
    assert run.model.nfe > before


def test_a_file_that_is_no_journal_is_refused_before_anything_is_measured(run):
    path = run.path / "comparison.jsonl"
    path.write_text("hello\n")
    before = run.model.nfe
    with pytest.raises(ValueError, match=r"comparison\.jsonl is not a journal"):
        compare(run)
    assert run.model.nfe == before
    path.unlink()


def test_conditional_runs_are_sampled_with_the_labels_of_the_data(tmp_path):
    train(replace(TINY, conditional=True, steps=5), tmp_path / "r", progress=False)
    run, seen = load_run(tmp_path / "r"), []
    for name in ("denoise", "velocity"):  # by Heun, and by the flow's density
        ask = getattr(run.model, name)
        setattr(run.model, name, _listening(ask, seen))
    found = compare(run, views=("heun",), nfes=(3,))
    assert len(found.bits) == 1
    assert all(condition is not None for condition in seen)
    assert len(set(seen[0].tolist())) > 3
    held_out = run.dataset("held_out")
    assert seen[-1].tolist() == held_out.labels[held_out.rows[:3]].tolist()


def _listening(ask, seen):
    def answer(x, t, condition=None):
        seen.append(condition)
        return ask(x, t, condition)

    return answer


def test_runs_without_noise_or_held_out_data_are_refused(tmp_path):
    train(replace(TINY, objective="hutchinson", steps=2), tmp_path / "score", progress=False)
    with pytest.raises(ValueError, match="data without noise"):
        compare(load_run(tmp_path / "score"))
    train(replace(TINY, held_out=0.0, steps=2), tmp_path / "all", progress=False)
    with pytest.raises(ValueError, match="held_out=0"):
        compare(load_run(tmp_path / "all"))


@pytest.mark.parametrize("changed", [{"count": 3}, {"bits_examples": 1}, {"bits_examples": -1}])
def test_settings_out_of_range_are_refused(run, changed):
    with pytest.raises(ValueError, match=next(iter(changed))):
        compare(run, **changed)
