"""Classifiers as energies, against a mixture whose classes and density are known."""

from __future__ import annotations

import pytest
import torch

from sde_score.mcmc import run_chains
from sde_score.models import EnergyClassifier, GaussianMixture, Marginal
from sde_score.sdes import VP

F64 = torch.float64
SDE = VP()
PARTS = [GaussianMixture([[m]], v, SDE) for m, v in ((-1.5, 0.3), (0.5, 0.6), (2.0, 0.2))]
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
MIXTURE = GaussianMixture([[-1.5], [0.5], [2.0]], torch.tensor([0.3, 0.6, 0.2]), SDE, WEIGHTS)
X = torch.linspace(-3, 3, 7, dtype=F64)[:, None]


def logits(x, t):
    """log w_y + log N_y(x, t), off by a constant for all classes."""
    joint = [part.log_prob(x, t) + w.log() for part, w in zip(PARTS, WEIGHTS, strict=True)]
    return torch.stack(joint, 1) + 4.0


MODEL = EnergyClassifier(logits, 3, SDE)


@pytest.mark.parametrize("t", [SDE.t_min, 0.4, torch.linspace(0.1, 0.9, 7)])
def test_the_energy_is_that_of_the_mixture(t):
    torch.testing.assert_close(MODEL.energy(X, t), -MIXTURE.log_prob(X, t) - 4)
    torch.testing.assert_close(MODEL.score(X, t), MIXTURE.score(X, t))
    torch.testing.assert_close(MODEL.denoise(X, t), MIXTURE.denoise(X, t))


def test_a_label_is_a_condition_and_minus_one_is_none():
    labels = torch.tensor([0, 1, 2, -1, 0, -1, 2])
    energy, score = MODEL.energy_and_score(X, 0.3, labels)
    for i, label in enumerate(labels.tolist()):
        part = MIXTURE if label < 0 else PARTS[label]
        weight = 0.0 if label < 0 else float(WEIGHTS[label].log())
        want = -part.log_prob(X[i : i + 1], 0.3)[0] - weight - 4
        torch.testing.assert_close(energy[i], want)
        torch.testing.assert_close(score[i], part.score(X[i : i + 1], 0.3)[0])
    chance = MODEL.logits(X, 0.3).softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    joint = (MODEL.energy(X, 0.3) - energy).exp()  # p(x, y) / p(x)
    torch.testing.assert_close(joint[labels >= 0], chance[labels >= 0])


def test_chains_draw_a_class():
    source = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(2000, 1, generator=source, dtype=F64)

    density = Marginal(MODEL, None, torch.ones(2000, dtype=torch.long))
    x = run_chains(
        density, noise(), "hmc(step_size=0.4, leapfrogs=3)", draws=1, thin=8, noise=noise
    ).state.x
    assert abs(float(x.mean()) - 0.5) < 5 * (0.6 / 2000) ** 0.5
    assert abs(float(x.var()) - 0.6) < 5 * 0.6 * (2 / 2000) ** 0.5


def test_no_label_is_answered_however_it_was_trained():
    model = EnergyClassifier(logits, 3, SDE)
    model.needs_condition = True  # as after training with a label for every example
    model.require_condition(torch.tensor([-1, 2]))
    torch.testing.assert_close(model.energy(X, 0.3), MODEL.energy(X, 0.3))


def test_a_network_is_trained_through_the_score():
    network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.SiLU(), torch.nn.Linear(4, 3))
    model = EnergyClassifier(lambda x, t: network(x), 3)
    assert set(model.parameters()) == set(network.parameters())
    model.score(X.float(), 0.1).square().sum().backward()
    assert bool((network[0].weight.grad != 0).any())
    model.logits(X.float(), 0.1)
    assert model.nfe == 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: EnergyClassifier(logits, 0), r"num_classes=0"),
        (lambda: EnergyClassifier(logits, 4).energy(X, 0.3), r"returned shape \(7, 3\).*\(7, 4\)"),
        (lambda: MODEL.energy(X, 0.3, torch.ones(7)), r"condition is .*integer labels"),
        (
            lambda: MODEL.require_condition(torch.tensor([3])),
            r"labels up to 3; accepted: -1 for none, and 0 ... 2",
        ),
    ],
)
def test_what_is_no_classifier_or_label_is_refused(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()
