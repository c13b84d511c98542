"""Energies on the command line: trained, sampled and measured by what suits them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sde_score import likelihood, objectives
from sde_score.cli import main
from sde_score.training import load_run

TINY = ["--steps", "6", "--batch-size", "16", "--backbone", "mlp(width=8, depth=1)"]


@pytest.fixture(scope="session")
def energy_path(tmp_path_factory):
    """An energy trained without noise on a known distribution."""
    path = tmp_path_factory.mktemp("runs") / "energy"
    words = ["train", "--out", str(path), "--data", "target(name='gaussian', n=200)", *TINY]
    assert main([*words, "--objective", "hutchinson", "--model", "energy", "--no-progress"]) == 0
    return path


def test_every_objective_is_listed_with_what_it_needs(record):
    listed = record("objectives")["objectives"]
    assert [entry["name"] for entry in listed] == objectives.available()
    by_name = {entry["name"]: entry for entry in listed}
    assert by_name["contrastive-divergence"]["needs"] == "energy"
    assert by_name["hutchinson"]["needs"] == "score"
    assert by_name["explicit"]["arguments"].endswith("target")
    assert all(entry["costs"] and entry["converges to"] for entry in listed)
    assert all("http" in entry["paper"] for entry in listed)


def test_an_energy_without_noise_is_sampled_by_chains(energy_path, tmp_path, record):
    out = tmp_path / "x.npz"
    words = ("sample", str(energy_path), "--num", "4", "--steps", "3", "--out", str(out))
    found = record(*words, "--no-progress")
    assert found["sampler"].startswith("mcmc(kernel='mala'")
    assert found["nfe"] == 1 + 500 + 3  # the start, the warm-up and three steps
    assert np.load(out, allow_pickle=False)["samples"].shape == (4, 2)


def test_a_sampler_that_asks_for_unknown_noise_is_pointed_out(energy_path, tmp_path, capsys):
    words = ["sample", str(energy_path), "--num", "2", "--steps", "2", "--no-progress"]
    assert main([*words, "--sampler", "ddim", "--out", str(tmp_path / "x.npz")]) == 0
    assert "trained this model on data without noise" in capsys.readouterr().err


def test_its_likelihood_is_by_the_partition_function(energy_path, record):
    found = record("likelihood", str(energy_path), "--chains", "64", "--num", "20", "--no-progress")
    run = load_run(energy_path)
    x = run.dataset("train").batch(torch.arange(180)).x0
    reference = likelihood.GaussianReference.fit(x, 1.5)
    partition = likelihood.log_partition(
        run.model, reference, method="smc", chains=64, seed=0, progress=False
    )
    raw = run.dataset("held_out").raw(torch.arange(20))
    bits = likelihood.energy_bits_per_dim(run.model, raw, run.scaling, partition)
    (row,) = found["rows"]
    assert row["by"] == "partition"
    assert row["bits_per_dim"] == pytest.approx(bits.mean, abs=0.2)
    assert row["standard_error"] > 0


def test_a_score_without_noise_has_no_likelihood(tmp_path, refusal, capsys):
    words = ["train", "--out", str(tmp_path / "r"), "--data", "ring(n=100)", *TINY, "--no-progress"]
    assert main([*words, "--objective", "hutchinson"]) == 0
    capsys.readouterr()
    assert "or --model energy" in refusal("likelihood", str(tmp_path / "r"))
    words = ("train", "--out", str(tmp_path / "s"), "--data", "ring(n=100)", *TINY)
    said = refusal(*words, "--objective", "persistent", "--model", "score")
    assert "needs an energy" in said
