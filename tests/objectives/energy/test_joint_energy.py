"""Joint energy: cross-entropy beside an energy objective."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from sde_score.models import EnergyClassifier, EnergyFunction
from sde_score.objectives import JointEnergy, NoiseContrastive, create
from sde_score.sdes import VP
from sde_score.training import TrainConfig, train

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([0, 2, -1, 1, -1, 0])


def seeded():
    return torch.Generator().manual_seed(1)


def classifier():
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 3))
    return EnergyClassifier(lambda x, t: network(x), 3, VP()).double()


def ready(spec="jem(density='noise-contrastive(ratio=2)', weight=0.5)"):
    loss = create(spec)
    loss.setup(X)
    return loss


def test_the_loss_is_cross_entropy_and_the_density_objective():
    model, loss = classifier(), ready()
    inner = NoiseContrastive(2)
    inner.setup(X)
    density = inner(model, X, generator=seeded())
    known = LABELS >= 0
    logits = model.logits(X, model.sde.t_min)
    named = torch.zeros(6).double()
    named[known] = cross_entropy(logits[known], LABELS[known], reduction="none")
    got = loss(model, X, LABELS, seeded())
    torch.testing.assert_close(got, 0.5 * density + named)
    torch.testing.assert_close(loss(model, X, generator=seeded()), 0.5 * density)
    energy = EnergyFunction(lambda x, t: (x**2).sum(1), VP())
    torch.testing.assert_close(
        loss(energy, X, generator=seeded()), 0.5 * inner(energy, X, generator=seeded())
    )


def test_the_density_objective_keeps_its_state_and_facts():
    loss = ready("joint-energy(density='persistent(buffer_size=8, k=2)')")
    before = loss.density.buffer.ages.clone()
    loss(classifier(), X, LABELS, seeded())
    loss.finish_step()
    assert int((loss.density.buffer.ages - before).max()) == 2
    assert loss.divergence_limit == loss.density.divergence_limit
    assert loss.state_dict().keys() == {
        f"density.buffer.{name}" for name in ("states", "ages", "mean", "std")
    }
    assert "log_z" in dict(ready().density.named_parameters())
    assert create("jem(density='sliced')").second_derivatives
    assert not loss.second_derivatives


def test_classes_apart_are_learned():
    x = torch.cat([X[:3] - 3, X[3:] + 3])
    labels, model, loss = torch.tensor([0, 0, 0, 1, 1, 1]), classifier(), ready()
    adam = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(40):
        adam.zero_grad()
        loss(model, x, labels, seeded()).mean().backward()
        adam.step()
    assert torch.equal(model.logits(x, 0.1).argmax(1), labels)


def test_the_trainer_takes_a_classifier(tmp_path):
    network = torch.nn.Linear(2, 8)
    config = TrainConfig(
        data="gaussians", conditional=True, steps=2, batch_size=16,
        objective="jem(density='persistent(k=1, buffer_size=32)')",
    )  # fmt: skip
    model = EnergyClassifier(network, 8)
    run = train(config, tmp_path / "run", model=model, progress=False)
    assert run.model.logits(X.float(), 0.1).shape == (6, 8)
    assert run.model.energy(X.float(), 0.1).shape == (6,)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: JointEnergy("denoising"), r"density='denoising' learns at all noise levels"),
        (lambda: JointEnergy(weight=0.0), r"weight=0.0"),
        (
            lambda: ready()(EnergyFunction(lambda x, t: x.sum(1), VP()), X, LABELS),
            r"model is a EnergyFunction, and condition holds labels",
        ),
        (lambda: ready()(classifier(), X, X), r"condition must be integer labels"),
    ],
)
def test_what_has_no_labels_or_logits_is_refused(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()
