"""Labels and runs: given to conditional models alone, and to them always."""

from __future__ import annotations

import pytest
import torch

from sde_score import likelihood, samplers

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
        run.model, torch.zeros(4, 2), condition=labels
    ),
    "bound": lambda run, labels: likelihood.variational_bound(
        run.model, torch.zeros(4, 2), condition=labels
    ),
    "score": lambda run, labels: run.model.score(torch.zeros(4, 2), 0.5, labels),
    "denoise": lambda run, labels: run.model.denoise(torch.zeros(4, 2), 0.5, labels),
}


@pytest.mark.parametrize("model", ["score", "energy"])
@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_a_conditional_run_is_not_evaluated_without_labels(run_to, tmp_path, model, evaluate):
    run = run_to(tmp_path, steps=1, model=model)
    with pytest.raises(ValueError, match="condition is missing: every example had a label"):
        evaluate(run, None)
    evaluate(run, run.labels_in_turn(4))
    run.model.needs_condition = False
    evaluate(run, None)


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_an_unconditional_run_is_not_evaluated_with_labels(run_to, tmp_path, evaluate):
    run = run_to(tmp_path, steps=1, conditional=False)
    with pytest.raises(ValueError, match="condition was given"):
        evaluate(run, torch.zeros(4, dtype=torch.int64))
    evaluate(run, None)
