"""Labels and runs: given to conditional models alone, and to them always."""

from __future__ import annotations

import pytest
import torch

from sde_score import likelihood, samplers
from sde_score.discrete import HierarchicalVAE
from sde_score.guidance import Clipped
from sde_score.models import ScoreFunction, ScoreModel
from sde_score.scaling import Scaling
from sde_score.sdes import VP
from sde_score.training import load_run

EVALUATIONS = {
    "sampler": lambda run, labels: samplers.create("heun(steps=2)")(
        run.model, (4, 2), seed=0, condition=labels, progress=False
    ),
    "sample": lambda run, labels: samplers.sample(
        run.model, "ddim(steps=2)", (2,), 4, condition=labels, progress=False
    ),
    "adaptive": lambda run, labels: samplers.create("ode(rtol=0.1)")(
        run.model, (4, 2), seed=0, condition=labels, progress=False
    ),
    "log_prob": lambda run, labels: likelihood.log_prob(
        run.model, torch.zeros(4, 2), condition=labels, rtol=0.1, atol=0.1
    ),
    "bound": lambda run, labels: likelihood.variational_bound(
        run.model, torch.zeros(4, 2), condition=labels
    ),
    "bits": lambda run, labels: likelihood.bits_per_dim(
        run.model, torch.zeros(4, 2), Scaling(), "bound(times=1)", condition=labels
    ),
    "elbo": lambda run, labels: HierarchicalVAE.from_sde(run.model.sde, 2).elbo(
        run.model, torch.zeros(4, 2), condition=labels
    ),
    "clipped": lambda run, labels: samplers.create("ddim(steps=2)")(
        Clipped(run.model), (4, 2), condition=labels, progress=False
    ),
    "score": lambda run, labels: run.model.score(torch.zeros(4, 2), 0.5, labels),
    "denoise": lambda run, labels: run.model.denoise(torch.zeros(4, 2), 0.5, labels),
}


TRAINED = {}


@pytest.fixture
def opened(run_to, tmp_path_factory):
    """A run of one step, trained once for all that ask for the same."""

    def open_run(**changes):
        key = str(changes)
        if key not in TRAINED:
            TRAINED[key] = tmp_path_factory.mktemp("run")
            run_to(TRAINED[key], steps=1, **changes)
        return load_run(TRAINED[key])

    return open_run


@pytest.mark.parametrize("model", ["score", "energy"])
@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_a_conditional_run_is_not_evaluated_without_labels(opened, model, evaluate):
    run = opened(model=model, condition_dropout=0.0)
    with pytest.raises(ValueError, match="condition is missing: every example had a label"):
        evaluate(run, None)
    evaluate(run, run.labels_in_turn(4))
    run.model.needs_condition = False
    evaluate(run, None)


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_an_unconditional_run_is_not_evaluated_with_labels(opened, evaluate):
    run = opened(conditional=False)
    with pytest.raises(ValueError, match="condition was given"):
        evaluate(run, torch.zeros(4, dtype=torch.int64))
    evaluate(run, None)


@pytest.mark.parametrize("model", ["score", "energy"])
@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_labels_that_training_never_showed_are_refused(opened, model, evaluate):
    """-1 is the embedding of no class, which every training example had left untrained."""
    run = opened(model=model, condition_dropout=0.0)
    labels = run.labels_in_turn(4)
    for wrong, said in (
        (labels.clone().fill_(-1), r"labels from -1 to -1; accepted: labels from 0 up to 7, as"),
        (torch.tensor([0, 1, -1, 2]), "labels from -1 to 2; accepted: labels from 0 up to 7, as"),
        (labels + 6, r"labels from 6 to 9; accepted: 0 \.\.\. 7"),
    ):
        with pytest.raises(ValueError, match=said):
            evaluate(run, wrong)
    evaluate(run, labels.int().numpy())
    run.model.needs_condition = False
    evaluate(run, torch.tensor([0, 1, -1, 2]))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (3, r"try torch.full\(\(4,\), 3\)"),
        ([0, 1, 2, 3], r"try torch.tensor\(condition\)"),
        (torch.tensor(3), r"try condition.expand\(4\)"),
        (torch.eye(8)[:4], r"one-hot: try condition.argmax\(1\)"),
        (torch.arange(4).float(), r"try condition.long\(\)"),
        (torch.arange(4)[:, None], r"try condition\[:, 0\]"),
    ],
    ids=str,
)
def test_the_fix_for_wrong_labels_works(opened, wrong, says):
    run = opened()
    sampler = samplers.create("ddim(steps=2)")
    with pytest.raises(ValueError, match=says) as said:
        sampler(run.model, (4, 2), condition=wrong, progress=False)
    fixed = eval(str(said.value).rpartition("try ")[2], {"torch": torch, "condition": wrong})
    sampler(run.model, (4, 2), condition=fixed, progress=False)


class Own(torch.nn.Module):
    """A network of one's own, with a class for none."""

    def __init__(self):
        super().__init__()
        self.layer, self.classes = torch.nn.Linear(2, 2), torch.nn.Embedding(9, 2)

    def forward(self, x, t, condition=None):
        labels = x.new_full((len(x),), 8).long() if condition is None else condition
        return self.layer(x) + self.classes(labels)


OWN = {
    "network": lambda: {"backbone": Own()},
    "score model": lambda: {"backbone": "auto", "model": ScoreModel(Own(), VP())},
    "function": lambda: {"backbone": "auto", "model": ScoreFunction(Own(), VP())},
}


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("own", OWN)
def test_networks_of_ones_own_are_held_to_what_they_were_trained_with(
    run_to, tmp_path, own, conditional
):
    """Their labels are not known, but whether training gave them is."""
    run = run_to(tmp_path, steps=1, conditional=conditional, **OWN[own]())
    x, labels = torch.zeros(4, 2), torch.arange(4)
    right, wrong = (labels, None) if conditional else (None, labels)
    run.model.score(x, 0.5, right)
    said = "condition is missing" if conditional else "was trained without one: leave it out"
    with pytest.raises(ValueError, match=said):
        run.model.score(x, 0.5, wrong)
