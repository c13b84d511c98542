"""A large set drawn in parts is the set drawn at once."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import create, run, sample
from sde_score.sdes import VP


class Labeled(GaussianMixture):
    """A mixture whose score is moved by a label, and which remembers the labels it saw."""

    def score(self, x, t, condition=None):
        self.seen = condition
        return super().score(x, t) + condition[:, None]

    def denoise(self, x, t, condition=None):
        return super().denoise(x, t) + condition[:, None]


def model(kind=GaussianMixture):
    return kind([[1.0, 0.0], [0.0, -1.0]], 0.1, VP())


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_parts_change_nothing(batch_size):
    sampler = create("ancestral", steps=6)
    whole = sampler(model(), (10, 2), seed=5)
    parts = sample(model(), sampler, (2,), 10, seed=5, batch_size=batch_size)
    assert torch.allclose(parts, whole, atol=1e-12)


def test_each_sample_keeps_its_condition():
    labels = torch.arange(7, dtype=torch.float64)
    sampler, whole = create("ddim", steps=5), model(Labeled)
    expected = sampler(whole, (7, 2), seed=1, condition=labels)
    parts = sample(
        model(Labeled), sampler, (2,), 7, seed=1, condition=labels, batch_size=3, progress=False
    )
    assert torch.allclose(parts, expected, atol=1e-12)


def test_bad_counts_are_refused():
    sampler = create("ddim", steps=5)
    with pytest.raises(ValueError, match="num=0"):
        sample(model(), sampler, (2,), 0)
    with pytest.raises(ValueError, match=r"condition has shape \(3,\) for 4"):
        sample(model(), sampler, (2,), 4, condition=torch.zeros(3))


def test_a_sampler_is_named_or_given_and_may_have_a_budget():
    given = sample(model(), create("heun", steps=4), (2,), 3, progress=False)
    assert torch.equal(sample(model(), "heun(steps=4)", (2,), 3, progress=False), given)
    assert torch.equal(sample(model(), "heun(nfe=8)", (2,), 3, progress=False), given)
    with pytest.raises(TypeError, match="3 is no sampler"):
        sample(model(), 3, (2,), 3)


@pytest.mark.parametrize("batch_size", [2, 5, 9])
def test_the_cost_of_a_sample_is_counted_whatever_the_batches(batch_size):
    network = model()
    network.nfe = 100  # what was spent before does not count
    found = run(network, "heun(steps=4)", (2,), 9, batch_size=batch_size, progress=False)
    assert found.nfe == 7
    assert found.samples.shape == (9, 2)
